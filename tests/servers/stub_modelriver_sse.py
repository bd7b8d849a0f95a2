"""Server-sent events of the ModelRiver stand-in: an Answer as OpenAI chunks, in every good and bad form."""

import json
import re

WORDS = {
    "stream", "split", "crlf", "cr", "bom", "multiline", "comments", "fields", "nospace", "chars", "usage", "midfail",
    "stall", "cut", "nodone", "unterminated", "linger", "plain", "badevent", "after_done", "eof", "many", "null_role",
    "finish_with_content",
}

MANY_BLOCK = 1024               # events of `many` in one write


def pieces_of(text, switches):
    """The content cut into words that keep their spaces, or every `chars:<n>` characters."""
    if "chars" in switches:
        step = switches.argument("chars", 0, 1)
        return [text[start:start + step] for start in range(0, len(text), step)]
    return re.findall(r"\S*\s*", text)[:-1]


def chunk_of(answer, delta, finish_reason=None, **extra):
    return dict({"id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": 1677652288,
                 "model": answer.model,
                 "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}, **extra)


def tool_deltas(calls):
    """Fragments of all calls, interleaved; the name and id come with the first of each."""
    queues = []
    for index, call in enumerate(calls):
        text = call["function"]["arguments"]
        queue = [{"index": index, "id": call["id"], "type": "function",
                  "function": {"name": call["function"]["name"], "arguments": ""}}]
        queue += [{"index": index, "function": {"arguments": text[at:at + 5]}} for at in range(0, len(text), 5)]
        queues.append(queue)
    while any(queues):
        for queue in queues:
            if queue:
                yield {"tool_calls": [queue.pop(0)]}


def deltas_of(answer, switches):
    if answer.tool_calls:
        yield from tool_deltas(answer.tool_calls)
    if answer.refusal is not None:
        for piece in pieces_of(answer.refusal, switches):
            yield {"refusal": piece}
    if answer.content:
        for piece in pieces_of(answer.content, switches):
            yield {"content": piece}


class Framer:
    """Writes events in the form that the switches ask for."""

    def __init__(self, switches):
        self.newline = "\r\n" if "crlf" in switches else "\r" if "cr" in switches else "\n"
        self.space = "" if "nospace" in switches else " "
        self.multiline, self.fields = "multiline" in switches, "fields" in switches

    def comment(self, text="heartbeat"):
        return (": " + text + self.newline * 2).encode()

    def event(self, value, name=None):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False,
                                                               indent=1 if self.multiline else None)
        lines = ["data:" + self.space + line for line in text.split("\n")]
        if self.fields:
            lines[:0] = ["id: 7", "retry: 1000", "unknown: field", "nothing"]
        if name:
            lines.insert(0, "event: " + name)
        return (self.newline.join(lines) + self.newline * 2).encode()


def failure_events(framer, answer, how):
    """An error in the middle, in one of three shapes."""
    error = {"message": "The provider went away", "type": "upstream_error", "code": "upstream_error", "param": None}
    if how == "event":
        return [framer.event({"error": error}, "error")]
    if how == "choice":
        return [framer.event(chunk_of(answer, {"content": ""}, "error", error=error)), framer.event("[DONE]")]
    return [framer.event({"error": error})]


def usage_events(framer, answer, body, switches):
    if "usage" not in switches and not (body.get("stream_options") or {}).get("include_usage"):
        return []
    if switches.text("usage") == "finish":
        return []
    chunk = chunk_of(answer, {}, usage=answer.usage)
    chunk["choices"] = []
    return [framer.event(chunk)]


def script_of(answer, body, switches):
    """What is sent, in order: bytes, ("hold", key) to wait for a release, and at the end ("end", how)."""
    framer = Framer(switches)
    if "bom" in switches:
        yield b"\xef\xbb\xbf"
    role = {"role": "assistant", "content": None} if "null_role" in switches else {"role": "assistant"}
    yield framer.event(chunk_of(answer, role))
    deltas = list(deltas_of(answer, switches))
    last = None
    if "finish_with_content" in switches:
        last = deltas.pop()
    stops = {word: switches.argument(word, index, default) for word, index, default in
             (("midfail", 1, 1), ("stall", 0, 1), ("cut", 0, 1), ("badevent", 0, 1)) if word in switches}
    for number in range(len(deltas) + 1):
        if stops.get("badevent") == number:
            yield framer.event('{"choices": [{"index": 0, "delta"')
        if stops.get("stall") == number:
            yield ("hold", switches.argument("stall", 1, "stall"))
        if stops.get("midfail") == number:
            yield from failure_events(framer, answer, switches.argument("midfail", 0, "data"))
            yield ("end", "clean")
            return
        if stops.get("cut") == number:
            yield ("end", switches.argument("cut", 1, "clean"))
            return
        if number < len(deltas):
            if "comments" in switches:
                for _ in range(switches.argument("comments", 0, 1)):
                    yield framer.comment()
            yield framer.event(chunk_of(answer, deltas[number]))
    extra = {"usage": answer.usage} if switches.text("usage") == "finish" else {}
    yield framer.event(chunk_of(answer, last or {}, answer.finish_reason, **extra))
    yield from ending_of(framer, answer, body, switches)


def ending_of(framer, answer, body, switches):
    yield from usage_events(framer, answer, body, switches)
    if "nodone" in switches:
        yield ("end", switches.argument("nodone", 0, "clean"))
        return
    done = framer.event("[DONE]")
    yield done[:-2 * len(framer.newline)] if "unterminated" in switches else done
    if "after_done" in switches:
        yield framer.event(chunk_of(answer, {"content": "NEVER SHOW THIS"}))
    if "linger" in switches:
        yield ("hold", switches.text("linger", "linger"))
    yield ("end", "clean")


class Body:
    """The body of a streamed answer: chunked, or until the end with `eof`; in writes of `split:<n>` bytes."""

    def __init__(self, conn, switches):
        self.conn, self.chunked = conn, "eof" not in switches
        self.step = switches.argument("split", 0, 1) if "split" in switches else None

    async def start(self, headers):
        how = ("Transfer-Encoding", "chunked") if self.chunked else ("Connection", "close")
        await self.conn.send(self.conn.head(200, [("Content-Type", "text/event-stream; charset=utf-8"),
                                                  ("Cache-Control", "no-cache"), how, *headers]))

    async def write(self, data):
        if self.step:
            for start in range(0, len(data), self.step):
                await self.conn.send_split(self.framed(data[start:start + self.step]), self.step)
        else:
            await self.conn.send(self.framed(data))

    def framed(self, data):
        return b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data

    async def end(self, how):
        """Whether the connection may live on."""
        if how == "rst":
            return self.conn.abort()
        if how == "clean" and self.chunked:
            await self.conn.send(b"0\r\n\r\n")
            return True
        return False


async def stream_many(output, answer, switches):
    """`many:<n>[:<piece>]`: n equal pieces as fast as they are taken, rendered once and written in blocks."""
    framer = Framer(switches)
    count, piece = switches.argument("many", 0, 1000), switches.argument("many", 1, "tok ")
    await output.write(framer.event(chunk_of(answer, {"role": "assistant"})))
    event = framer.event(chunk_of(answer, {"content": piece}))
    block = event * MANY_BLOCK
    for _ in range(count // MANY_BLOCK):
        await output.write(block)
    if count % MANY_BLOCK:
        await output.write(event * (count % MANY_BLOCK))
    await output.write(framer.event(chunk_of(answer, {}, "stop")) + framer.event("[DONE]"))
    return await output.end("clean")


async def stream(conn, answer, body, switches, headers):
    """Streams an answer; whether the connection may live on."""
    output, ledger = Body(conn, switches), conn.ledger
    await output.start(headers)
    if "many" in switches:
        return await stream_many(output, answer, switches)
    key = "stream:" + switches.name
    for act in script_of(answer, body, switches):
        if isinstance(act, bytes):
            await output.write(act)
        elif act[0] == "hold":
            await conn.pause(ledger.hold(act[1]))
        else:
            ledger.count(key)
            return await output.end(act[1])
    return True
