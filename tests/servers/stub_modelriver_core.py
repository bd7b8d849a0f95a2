"""What all parts of the ModelRiver stand-in share: connections, requests, the ledger, switches in workflow names."""

import asyncio
import json
import socket
import struct
import traceback
import urllib.parse

LOGGED_BODY = 1 << 16           # bytes of a request's body kept in the log
LOGGED_REQUESTS = 20000         # requests kept in the log


class ClientGone(Exception):
    """The client closed or reset its side, or broke the rules of HTTP."""


class Switches:
    """A workflow's name taken apart: `base[:argument…][+switch[:argument…]]…`."""

    def __init__(self, name):
        self.name = name
        self.words = {}
        for part in name.split("+"):
            word, _, rest = part.partition(":")
            self.words.setdefault(word, rest)
        self.base = name.split("+")[0].partition(":")[0]

    def __contains__(self, word):
        return word in self.words

    def text(self, word, default=None):
        """All that follows the word's colon; the default when the word is not there or alone."""
        return self.words.get(word) or default

    def arguments(self, word):
        rest = self.words.get(word)
        return rest.split(":") if rest else []

    def argument(self, word, index=0, default=None):
        """One of the word's arguments; an integer when the default is one."""
        given = self.arguments(word)
        if index >= len(given) or given[index] == "":
            return default
        return int(given[index]) if isinstance(default, int) else given[index]


class Ledger:
    """What happened, for tests to ask. One thread only: everything runs in the event loop."""

    def __init__(self):
        self.accepted, self.open = {}, {}
        self.waiting, self.released, self.counters = {}, {}, {}
        self.requests = []
        self.total = 0
        self.waiters = []

    def changed(self):
        for waiter in list(self.waiters):
            holds, future = waiter
            if not future.done() and holds():
                future.set_result(True)

    async def wait_for(self, holds, seconds=None):
        """Whether the condition came true in time (for ever without `seconds`)."""
        if holds():
            return True
        waiter = (holds, asyncio.get_running_loop().create_future())
        self.waiters.append(waiter)
        try:
            return await asyncio.wait_for(waiter[1], seconds)
        except asyncio.TimeoutError:
            return False
        finally:
            self.waiters.remove(waiter)

    def opened(self, listener):
        self.accepted[listener] = self.accepted.get(listener, 0) + 1
        self.open[listener] = self.open.get(listener, 0) + 1
        self.changed()
        return self.accepted[listener]

    def closed(self, listener):
        self.open[listener] = self.open.get(listener, 1) - 1
        self.changed()

    def record(self, request):
        self.total += 1
        body = request.body[:LOGGED_BODY]
        line = {"listener": request.connection.listener, "connection": request.connection.number,
                "number": request.number, "method": request.method, "target": request.target, "path": request.path,
                "headers": dict(request.headers), "body": body.decode("utf-8", "replace"), "length": len(request.body)}
        self.requests.append(line)
        if len(self.requests) > LOGGED_REQUESTS:
            del self.requests[:LOGGED_REQUESTS // 2]
        self.changed()

    def count(self, key):
        """How often `key` was counted, this time included."""
        self.counters[key] = self.counters.get(key, 0) + 1
        self.changed()
        return self.counters[key]

    def release(self, key):
        self.released[key] = True
        self.changed()

    async def hold(self, key):
        """Waits until `key` is released; those who wait are counted."""
        self.waiting[key] = self.waiting.get(key, 0) + 1
        self.changed()
        try:
            await self.wait_for(lambda: self.released.get(key))
        finally:
            self.waiting[key] = self.waiting.get(key, 1) - 1
            self.changed()

    def reset(self):
        for table in (self.accepted, self.counters, self.waiting, self.released):
            table.clear()
        self.requests.clear()
        self.total = 0

    def snapshot(self):
        return {"accepted": dict(self.accepted), "open": dict(self.open), "requests": self.total,
                "waiting": dict(self.waiting), "counters": dict(self.counters)}


class Request:
    """One HTTP request; header names in lower case."""

    def __init__(self, connection, method, target, headers, number):
        self.connection, self.method, self.target = connection, method, target
        self.headers, self.number = headers, number
        path, _, query = target.partition("?")
        self.path = urllib.parse.unquote(path)
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.body = b""

    def header(self, name):
        for known, value in self.headers:
            if known == name:
                return value
        return None

    def origin(self, scheme):
        """The address under which the client knows this server, for `http` or `ws`, with TLS where it came by it."""
        secure = "s" if self.connection.listener == "tls" else ""
        host = self.header("host") or "127.0.0.1:%d" % self.connection.port
        return "%s%s://%s" % (scheme, secure, host)


class Connection:
    """One accepted socket over asyncio streams; what was read but not used waits in `buffer`."""

    def __init__(self, reader, writer, listener, number, ledger):
        self.reader, self.writer, self.listener, self.number, self.ledger = reader, writer, listener, number, ledger
        self.buffer = b""
        self.served = 0
        self.aborted = False
        sock = writer.get_extra_info("socket")
        self.port = sock.getsockname()[1]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # reading -------------------------------------------------------------------------------------------------
    async def receive(self):
        try:
            data = await self.reader.read(65536)
        except (OSError, asyncio.IncompleteReadError) as problem:
            raise ClientGone from problem
        if not data:
            raise ClientGone
        return data

    async def read_until(self, mark, limit=1 << 20):
        while mark not in self.buffer:
            if len(self.buffer) > limit:
                raise ClientGone
            self.buffer += await self.receive()
        head, _, self.buffer = self.buffer.partition(mark)
        return head

    async def read_exact(self, size):
        parts, have = [self.buffer], len(self.buffer)
        while have < size:
            parts.append(await self.receive())
            have += len(parts[-1])
        data = b"".join(parts)
        self.buffer = data[size:]
        return data[:size]

    async def read_request(self):
        head = (await self.read_until(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = []
        for line in lines:
            name, _, value = line.partition(":")
            headers.append((name.lower(), value.strip()))
        self.served += 1
        request = Request(self, method, target, headers, self.served)
        if (request.header("expect") or "").lower() == "100-continue":
            await self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.body = await self.read_body(request)
        return request

    async def read_body(self, request):
        if not request.header("transfer-encoding"):
            return await self.read_exact(int(request.header("content-length") or 0))
        pieces = []
        while True:
            size = int((await self.read_until(b"\r\n")).split(b";")[0], 16)
            if size == 0:
                while await self.read_until(b"\r\n"):
                    pass
                return b"".join(pieces)
            pieces.append(await self.read_exact(size))
            await self.read_exact(2)

    # writing -------------------------------------------------------------------------------------------------
    async def send(self, data):
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (OSError, RuntimeError) as problem:
            raise ClientGone from problem

    async def send_split(self, data, step):
        """Writes of `step` bytes, each handed to the kernel before the next."""
        for start in range(0, len(data), step):
            await self.send(data[start:start + step])
            await asyncio.sleep(0)

    @staticmethod
    def head(status, headers, reason="Stub"):
        lines = ["HTTP/1.1 %d %s" % (status, reason)] + ["%s: %s" % pair for pair in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")

    async def answer(self, status, body=b"", headers=(), kind="application/json; charset=utf-8"):
        """A whole, correct answer in one write."""
        if isinstance(body, str):
            body = body.encode()
        headers = [*headers, ("Content-Type", kind), ("Content-Length", len(body))]
        await self.send(self.head(status, headers) + body)
        return True

    async def answer_json(self, value, status=200, headers=()):
        return await self.answer(status, json.dumps(value, ensure_ascii=False, separators=(",", ":")), headers)

    # ends ----------------------------------------------------------------------------------------------------
    def abort(self):
        """Closes with a reset instead of a FIN."""
        self.aborted = True
        sock = self.writer.get_extra_info("socket")
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.writer.transport.abort()
        return False

    async def finish(self):
        """FIN first, so that bytes the client still sends do not turn the last answer into a reset."""
        try:
            if not self.aborted and self.writer.can_write_eof():
                self.writer.write_eof()
                await asyncio.wait_for(self.swallow(), 0.2)
        except (OSError, RuntimeError, ClientGone, asyncio.TimeoutError):
            pass
        self.writer.close()

    async def swallow(self):
        while True:
            await self.receive()

    async def pause(self, awaitable):
        """Awaits something; raises ClientGone as soon as the client goes."""
        task = asyncio.ensure_future(awaitable)
        try:
            while not task.done():
                reading = asyncio.ensure_future(self.receive())
                await asyncio.wait({task, reading}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    self.buffer += reading.result()
                else:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
            return task.result()
        finally:
            task.cancel()


class Hub:
    """The whole state of the stand-in."""

    def __init__(self):
        self.ledger = Ledger()
        self.project_id = "3f0c8a52-6a57-4c58-9b0d-0a4c3f2b7d11"
        self.keys = {"good": "mr_live_good_0123456789abcdef", "forbidden": "mr_live_other_project_0123456789",
                     "revoked": "mr_live_revoked_0123456789abcdef"}
        self.webhook_secret = "whsec_stub_0123456789abcdef"
        self.numbers, self.tasks = {}, set()
        self.forget()

    def forget(self):
        """Back to the beginning; what still runs is ended."""
        for task in list(self.tasks):
            task.cancel()
        self.jobs, self.tokens, self.idempotent = {}, {}, {}
        self.frames, self.deliveries, self.sockets = [], [], []
        self.aliases = {"marketing-summary": "structured", "batch-processor": "echo"}
        self.ledger.reset()

    def next_number(self, what):
        self.numbers[what] = self.numbers.get(what, 0) + 1
        return self.numbers[what]

    def spawn(self, coroutine):
        """Runs something beside the requests; a fault in it is told on standard error."""
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.ended)

    def ended(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and task.exception():
            traceback.print_exception(task.exception())
