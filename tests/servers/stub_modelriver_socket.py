"""WebSockets and Phoenix channels of the ModelRiver stand-in, framed by hand so that every byte can be misshaped."""

import asyncio
import base64
import hashlib
import json
import re
import struct

from stub_modelriver_core import ClientGone

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_MESSAGE = 1 << 20
MAX_LOGGED = 20000
IDLE_MS = 60000                 # a socket without data from the client ends after this
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

WORDS = {
    "upgrade", "join_only", "refuse", "mute_join", "crash", "close", "close_early", "before_reply", "own_ref",
    "foreign_ref", "stray", "unknown_events", "binary", "ping", "fragment", "ws_split", "frame", "mute_heartbeat",
    "topic_heartbeat", "idle",
}


class Dropped(Exception):
    """The socket ends here."""


def frame(opcode, data, final=True, rsv=0, mask=None, length=None):
    """One frame; `length` says another length than the data's."""
    size = len(data) if length is None else length
    head = bytes([(0x80 if final else 0) | rsv << 4 | opcode])
    masked = 0x80 if mask else 0
    if size < 126:
        head += bytes([masked | size])
    elif size < 1 << 16:
        head += bytes([masked | 126]) + struct.pack(">H", size)
    else:
        head += bytes([masked | 127]) + struct.pack(">Q", size)
    if mask:
        return head + mask + unmask(data, mask)
    return head + data


def unmask(data, mask):
    repeated = mask * (len(data) // 4 + 1)
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated[:len(data)], "big")).to_bytes(len(data), "big")


def broken_frames(how, text):
    """What the peer must not accept; the good text is sent after those that are only to be ignored."""
    data = text.encode()
    return {
        "masked": frame(TEXT, data, mask=b"mask"),
        "rsv": frame(TEXT, data, rsv=4),
        "opcode": frame(3, data),
        "bad_utf8": frame(TEXT, b'[null,null,"\xff\xfe","response",{}]'),
        "cut_utf8": frame(TEXT, b'["\xc3', final=False) + frame(CONTINUATION, b'"]'),
        "big_ping": frame(PING, b"p" * 126),
        "split_ping": frame(PING, b"p", final=False) + frame(CONTINUATION, b"p"),
        "orphan": frame(CONTINUATION, data),
        "interrupted": frame(TEXT, data[:5], final=False) + frame(TEXT, data),
        "huge": frame(TEXT, data, length=1 << 62),
        "negative": frame(TEXT, data, length=(1 << 64) - 1),
        "close_short": frame(CLOSE, b"\x03"),
        "close_code": frame(CLOSE, struct.pack(">H", 1005)),
        "close_utf8": frame(CLOSE, struct.pack(">H", 1000) + b"\xff"),
        "cut": frame(TEXT, data, length=len(data) + 100),
        # these are good frames, the text in them is not
        "notjson": frame(TEXT, b"{not json"),
        "not_array": frame(TEXT, b'{"topic":"x"}'),
        "short_array": frame(TEXT, b'[null,null,"t"]'),
        "payload": frame(TEXT, b'[null,null,"t","response","not an object"]'),
        "empty": frame(TEXT, b""),
    }[how]


# one socket --------------------------------------------------------------------------------------------------
class Socket:
    """A WebSocket after its handshake."""

    def __init__(self, hub, conn, token):
        self.hub, self.conn, self.job, self.ledger = hub, conn, token.job, hub.ledger
        self.switches = token.job.switches
        self.idle = self.switches.argument("idle", 0, IDLE_MS) / 1000
        self.number = hub.next_number("socket")
        self.lock = asyncio.Lock()
        self.channels = {}                  # by topic
        self.close_received = self.close_sent = None
        self.open = True

    def note(self, way, opcode, data):
        if len(data) <= 4096:
            line = {"socket": self.number, "way": way, "opcode": opcode}
            if opcode == CLOSE and len(data) >= 2:
                line["code"], line["text"] = struct.unpack(">H", data[:2])[0], data[2:].decode("utf-8", "replace")
            else:
                line["text"] = data.decode("utf-8", "replace")
            self.hub.frames.append(line)
            del self.hub.frames[:-MAX_LOGGED]

    async def send_bytes(self, data):
        async with self.lock:
            if "ws_split" in self.switches:
                await self.conn.send_split(data, self.switches.argument("ws_split", 0, 1))
            else:
                await self.conn.send(data)

    async def send_frame(self, opcode, data):
        self.note("out", opcode, data)
        await self.send_bytes(frame(opcode, data))

    async def send_message(self, join_ref, ref, topic, event, payload, fragment=None):
        text = json.dumps([join_ref, ref, topic, event, payload], ensure_ascii=False, separators=(",", ":"))
        if not fragment:
            return await self.send_frame(TEXT, text.encode())
        data = text.encode()
        self.note("out", TEXT, data)
        parts = [data[at:at + fragment] for at in range(0, len(data), fragment)]
        # control frames may come between the fragments
        frames = [frame(CONTINUATION if at else TEXT, part, at == len(parts) - 1) for at, part in enumerate(parts)]
        frames.insert(1, frame(PING, b"between"))
        await self.send_bytes(b"".join(frames))

    async def reply(self, message, status="ok", response=None, join_ref=False):
        own_ref, ref, topic = message[:3]
        await self.send_message(own_ref if join_ref is False else join_ref, ref, topic, "phx_reply",
                                {"status": status, "response": response or {}})

    # reading -------------------------------------------------------------------------------------------------
    async def read_frame(self):
        first, second = await self.conn.read_exact(2)
        size = second & 0x7F
        if size == 126:
            size, = struct.unpack(">H", await self.conn.read_exact(2))
        elif size == 127:
            size, = struct.unpack(">Q", await self.conn.read_exact(8))
        if not second & 0x80 or first & 0x70:
            await self.close(1002, "not masked" if not second & 0x80 else "reserved bits")
        if size > MAX_MESSAGE:
            await self.close(1009, "too big")
        mask = await self.conn.read_exact(4)
        data = unmask(await self.conn.read_exact(size), mask)
        return first & 0x80, first & 0x0F, data

    async def read_message(self):
        """The next text or binary message; answers control frames on the way."""
        kind, parts = None, []
        while True:
            try:
                final, opcode, data = await asyncio.wait_for(self.read_frame(), self.idle)
            except asyncio.TimeoutError:
                self.ledger.count("idle")
                await self.close(1000)
            if opcode >= 8:
                self.note("in", opcode, data)
                await self.control(opcode, data)
                continue
            if (opcode == CONTINUATION) != (kind is not None):
                await self.close(1002, "unexpected continuation")
            kind = kind or opcode
            parts.append(data)
            if final:
                self.note("in", kind, b"".join(parts))
                return kind, b"".join(parts)

    async def control(self, opcode, data):
        if opcode == PING:
            await self.send_frame(PONG, data)
        elif opcode == PONG:
            self.ledger.count("pong")
        elif opcode == CLOSE:
            code = struct.unpack(">H", data[:2])[0] if len(data) >= 2 else 1005
            self.close_received = code
            self.ledger.count("close:%d" % code)
            if self.close_sent is None:
                self.close_sent = code
                await self.send_frame(CLOSE, data[:2])
            raise Dropped

    # ends ----------------------------------------------------------------------------------------------------
    async def close(self, code, reason=""):
        """A number sends a close frame and waits for its echo; `fin` and 1006 (`rst`) end without one."""
        if code in ("fin", "rst", 1006):
            if code != "fin":
                self.conn.abort()
            raise Dropped
        if self.close_sent is not None:
            raise Dropped
        self.close_sent = code
        await self.send_frame(CLOSE, b"" if code == 1005 else struct.pack(">H", code) + reason.encode())
        try:
            await asyncio.wait_for(self.await_close(), 1)
        except (asyncio.TimeoutError, ClientGone):
            pass
        raise Dropped

    async def await_close(self):
        while self.close_received is None:
            _, opcode, data = await self.read_frame()
            if opcode == CLOSE:
                self.note("in", opcode, data)
                self.close_received = struct.unpack(">H", data[:2])[0] if len(data) >= 2 else 1005
                self.ledger.count("close:%d" % self.close_received)

    def kill(self, code):
        """Ends the socket from outside of its own task."""
        if code in ("fin", "rst", 1006):
            self.conn.abort() if code != "fin" else self.conn.writer.close()
            return
        self.close_sent = code
        data = struct.pack(">H", code) + b"told to"
        self.note("out", CLOSE, data)
        self.conn.writer.write(frame(CLOSE, data))

    def described(self):
        return {"number": self.number, "open": self.open, "close_received": self.close_received,
                "close_sent": self.close_sent, "topics": list(self.channels),
                "channel_id": self.job.channel_id}


# channels ----------------------------------------------------------------------------------------------------
class Channel:
    """One joined topic of one socket."""

    def __init__(self, sock, topic, join_ref, job):
        self.sock, self.topic, self.join_ref, self.job = sock, topic, join_ref, job
        self.told = 0                       # how many of the job's messages
        self.lock = asyncio.Lock()

    async def catch_up(self):
        """Delivers what the job has published and this channel has not been told, in order."""
        async with self.lock:
            while self.told < len(self.job.published):
                self.told += 1
                await self.deliver(*self.job.published[self.told - 1])

    async def push(self, event, payload, join_ref=None, fragment=None):
        await self.sock.send_message(join_ref, None, self.topic, event, payload, fragment)

    async def deliver(self, event, payload):
        """A result, with the company that the job's switches give it."""
        switches = self.job.switches
        try:
            await self.noise(switches)
            fragment = switches.argument("fragment", 0, 16) if "fragment" in switches else None
            await self.push(event, payload, self.join_ref if "own_ref" in switches else None, fragment)
        except ClientGone:
            self.leave()

    async def noise(self, switches):
        """What comes before a result and must not disturb it."""
        wrong = {"status": "error", "error": {"message": "not for you"}}
        if "frame" in switches:
            await self.sock.send_bytes(broken_frames(switches.text("frame", "rsv"), "[]"))
            if switches.text("frame") == "cut":
                self.sock.kill("fin")
                raise ClientGone
        if "binary" in switches:
            await self.sock.send_frame(BINARY, b"\x00\x01\x02\xff")
        if "ping" in switches:
            await self.sock.send_frame(PING, b"are you there")
        if "foreign_ref" in switches:
            await self.push("response", wrong, "foreign-" + str(self.join_ref))
        if "stray" in switches:
            await self.sock.send_message(None, None, "ai_response:somebody-else", "response", wrong)
            await self.sock.send_message(None, "9999", self.topic, "phx_reply", {"status": "error", "response": {}})
        for number in range(switches.argument("unknown_events", 0, 1) if "unknown_events" in switches else 0):
            await self.push("progress", {"percent": number})

    def leave(self):
        self.job.channels.discard(self)
        if self.sock.channels.get(self.topic) is self:
            del self.sock.channels[self.topic]


def topic_job(hub, topic):
    """(job, None) of a topic, or (None, the reason of its refusal)."""
    name, *ids = topic.split(":")
    if name != "ai_response":
        return None, "unmatched topic"
    if len(ids) not in (1, 2):
        return None, "invalid_channel_format"
    if not UUID.fullmatch(ids[-1]):
        return None, "invalid_channel_uuid"
    if len(ids) == 2 and not UUID.fullmatch(ids[0]):
        return None, "invalid_project_uuid"
    if len(ids) == 2 and ids[0] != hub.project_id:
        return None, "unauthorized_project_access"
    job = hub.jobs.get(ids[-1])
    return (job, None) if job else (None, "invalid_channel_uuid")


def refusal_of(job, parts):
    """The reason for which a job's switches refuse this join; False for none, None for one without a reason."""
    switches = job.switches
    if "join_only" in switches and parts != switches.argument("join_only", 0, 3):
        return "invalid_channel_format"
    if "refuse" in switches:
        given = switches.arguments("refuse")
        if len(given) < 2 or job.joins <= int(given[1]):
            return given[0] or None if given else None
    return False


async def join(sock, message):
    join_ref, _, topic = message[:3]
    job, reason = topic_job(sock.hub, topic)
    if job is None:
        await refuse(sock, message, reason)
        return
    job.joins += 1
    switches = job.switches
    if job.joins <= switches.argument("mute_join", 0, 1) and "mute_join" in switches:
        return
    if "close_early" in switches and job.joins <= switches.argument("close_early", 1, 1):
        await sock.close(close_code(switches.argument("close_early")))
    reason = refusal_of(job, topic.count(":") + 1)
    if reason is not False:
        await refuse(sock, message, reason)
        return
    known = sock.channels.pop(topic, None)
    if known:
        known.leave()
        await sock.send_message(known.join_ref, known.join_ref, topic, "phx_close", {})
    await welcome(sock, message, Channel(sock, topic, join_ref, job))


async def refuse(sock, message, reason):
    """Phoenix's own `unmatched topic` has no join_ref."""
    sock.ledger.count("refused")
    await sock.reply(message, "error", {} if reason is None else {"reason": reason},
                     None if reason == "unmatched topic" else False)


async def welcome(sock, message, channel):
    """Answers a join and does what the job's switches have in store for it."""
    job, switches = channel.job, channel.job.switches
    if "before_reply" in switches:
        await channel.catch_up()
    await sock.reply(message)
    sock.ledger.count("joined")
    if "crash" in switches and job.joins <= switches.argument("crash", 0, 1):
        payload = {"reason": "channel_crash"} if switches.argument("crash", 1) == "new" else {}
        await sock.send_message(channel.join_ref, channel.join_ref, channel.topic, "phx_error", payload)
        return
    if "close" in switches and job.joins <= switches.argument("close", 1, 1):
        await sock.close(close_code(switches.argument("close")))
    sock.channels[channel.topic] = channel
    job.channels.add(channel)
    await channel.catch_up()


def close_code(text):
    return int(text) if text and text.isdigit() else text or "fin"


async def heartbeat(sock, message):
    """On the topic `phoenix`, or on a joined one."""
    how = sock.switches.text("topic_heartbeat") if message[2] != "phoenix" else None
    if "mute_heartbeat" in sock.switches or how == "none":
        return
    if how == "crash":
        channel = sock.channels.get(message[2])
        channel.leave()
        await sock.send_message(channel.join_ref, channel.join_ref, channel.topic, "phx_error", {})
        return
    await sock.reply(message)


async def leave(sock, message):
    channel = sock.channels.get(message[2])
    if channel and channel.join_ref != message[0]:
        return
    await sock.reply(message)
    if channel:
        channel.leave()
        await sock.send_message(channel.join_ref, channel.join_ref, channel.topic, "phx_close", {})


async def handle(sock, data):
    """One message of the client."""
    try:
        message = json.loads(data)
        join_ref, ref, topic, event, payload = message
        valid = isinstance(topic, str) and isinstance(event, str) and isinstance(payload, dict) \
            and all(isinstance(one, (str, type(None))) for one in (join_ref, ref))
    except (ValueError, TypeError):
        valid = False
    if not valid:
        sock.ledger.count("invalid message")
        await sock.close(1011)                  # the real one crashes
    sock.ledger.count("frame:" + event)
    if event == "phx_join":
        await join(sock, message)
    elif event == "phx_leave":
        await leave(sock, message)
    elif topic == "phoenix" or topic in sock.channels:
        if event == "heartbeat":
            await heartbeat(sock, message)
    else:
        await sock.reply(message, "error", {"reason": "unmatched topic"}, None)


# the upgrade -------------------------------------------------------------------------------------------------
def accept_of(key):
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()


async def refuse_upgrade(hub, conn, request, token):
    """What was answered instead of an upgrade, or None."""
    upgrade = (request.header("upgrade") or "").lower()
    key = request.header("sec-websocket-key")
    if request.method != "GET" or upgrade != "websocket" or request.header("sec-websocket-version") != "13" or not key:
        return await conn.answer(400, "", kind="text/plain")
    if token is None or not token.good or request.query.get("vsn") != "2.0.0":
        hub.ledger.count("upgrade:403")
        return await conn.send(conn.head(403, [("Content-Length", 0)])) or True
    switches = token.job.switches
    how = switches.argument("upgrade")
    if how is None or hub.ledger.count("upgrade:" + token.job.channel_id) > switches.argument("upgrade", 1, 1 << 30):
        return None
    if how.isdigit():
        return await conn.answer(int(how), "no upgrade today", kind="text/plain")
    if how == "hang":
        await conn.pause(hub.ledger.hold("upgrade"))
        return False
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_of(key))]
    if how == "bad_accept":
        headers[2] = ("Sec-WebSocket-Accept", accept_of("another" + key))
    elif how == "no_accept":
        del headers[2]
    elif how == "no_upgrade":
        del headers[0]
    elif how == "protocol":
        headers.append(("Sec-WebSocket-Protocol", "unasked"))
    elif how == "extension":
        headers.append(("Sec-WebSocket-Extensions", "permessage-deflate"))
    await conn.send(conn.head(101, headers))
    await conn.pause(hub.ledger.hold("upgrade"))
    return False


async def serve(hub, conn, request):
    """The socket's path; whether the connection may live on as HTTP."""
    token = hub.tokens.get(request.query.get("token"))
    refused = await refuse_upgrade(hub, conn, request, token)
    if refused is not None:
        return refused
    token.spent = True
    await conn.send(conn.head(101, [("Upgrade", "websocket"), ("Connection", "Upgrade"),
                                    ("Sec-WebSocket-Accept", accept_of(request.header("sec-websocket-key")))]))
    sock = Socket(hub, conn, token)
    hub.sockets.append(sock)
    hub.ledger.opened("websocket")
    try:
        while True:
            _, data = await sock.read_message()
            await handle(sock, data)
    except Dropped:
        pass
    finally:
        sock.open = False
        for channel in list(sock.channels.values()):
            channel.leave()
        hub.ledger.closed("websocket")
    return False


