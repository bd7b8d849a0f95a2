"""The TCP relay in front of the gRPC server: it numbers connections, and can cut, stall and refuse them."""

import asyncio
import os
import socket
import struct
import threading

LIMIT = 1 << 20


class _Side(asyncio.Protocol):
    """One end of a relayed connection; what it reads goes to `other`."""

    def __init__(self, line):
        self.line, self.other, self.transport = line, None, None
        self.waiting = []
        self.ended = False

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(LIMIT)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.line.ready(self)

    def data_received(self, data):
        self.line.count(self, len(data))
        if self.other is None or self.other.transport is None:
            self.waiting.append(data)
        else:
            self.other.transport.write(data)

    def eof_received(self):
        self.ended = True
        if self.other is not None and self.other.transport is not None and self.other.transport.can_write_eof():
            self.other.transport.write_eof()
        if self.other is not None and self.other.ended:
            self.line.lost()                    # both are done
        return True

    def connection_lost(self, problem):
        self.line.lost()

    def pause_writing(self):
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self):
        if self.other is not None and self.other.transport is not None and not self.line.stalled:
            self.other.transport.resume_reading()


class _Line:
    """One relayed connection."""

    def __init__(self, relay):
        self.relay = relay
        self.client, self.server = _Side(self), None
        self.number = None
        self.open, self.stalled = True, False
        self.received = self.sent = 0
        self.peer = None

    def ready(self, side):
        if side is self.client:
            self.relay.accepted(self)
            return
        self.peer = side.transport.get_extra_info("sockname")[1]
        self.relay.by_peer[self.peer] = self
        self.client.other, side.other = side, self.client
        for data in self.client.waiting:
            side.transport.write(data)
        self.client.waiting.clear()
        if self.client.ended:
            side.transport.write_eof()

    async def connect(self):
        self.server = _Side(self)
        try:
            await self.relay.loop.create_connection(lambda: self.server, "127.0.0.1", self.relay.target)
        except OSError:
            self.cut()

    def count(self, side, size):
        if side is self.client:
            self.received += size
        else:
            self.sent += size

    def lost(self):
        if self.open:
            self.open = False
            for side in (self.client, self.server):
                if side is not None and side.transport is not None:
                    side.transport.close()
            self.relay.changed()

    def cut(self, flush=False):
        """Both ends are reset; `flush`: the client gets what the server has written, and then an orderly end."""
        if not self.open:
            return False
        self.open = False
        if flush:
            self.drain()
            self.client.transport.close()
            self.server.transport.abort()
            self.relay.changed()
            return True
        for side in (self.client, self.server):
            if side is None or side.transport is None:
                continue
            sock = side.transport.get_extra_info("socket")
            if side is self.client and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.transport.abort()
        self.relay.changed()
        return True

    def drain(self):
        """Passes on what the server's socket holds: asyncio reads at its next turn only."""
        with socket.socket(fileno=os.dup(self.server.transport.get_extra_info("socket").fileno())) as sock:
            try:
                while data := sock.recv(LIMIT):
                    self.client.transport.write(data)
            except OSError:
                pass                            # there is no more

    def stall(self, stalled):
        self.stalled = stalled
        for side in (self.client, self.server):
            if side is not None and side.transport is not None and not side.transport.is_closing():
                (side.transport.pause_reading if stalled else side.transport.resume_reading)()

    def shown(self):
        return {"number": self.number, "open": self.open, "received": self.received, "sent": self.sent,
                "stalled": self.stalled}


class Relay:
    """Runs on a thread of its own; the methods below may be called from any other."""

    def __init__(self, target, changed):
        self.target = target
        self.loop = asyncio.new_event_loop()
        # on another thread: who waits for the lock there must not stop the traffic here
        self.changed = lambda: self.loop.run_in_executor(None, changed)
        self.lines, self.by_peer = [], {}
        self.mode = "pass"                      # or "refuse", "stall", or bytes to answer with
        self.answer = b""
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def _do(self, action):
        """The result of `action`, run on the relay's thread."""
        async def run():
            return action()
        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def listen(self):
        listener = asyncio.run_coroutine_threadsafe(
            self.loop.create_server(lambda: _Line(self).client, "127.0.0.1", 0, backlog=256), self.loop).result(10)
        return listener.sockets[0].getsockname()[1]

    def listen_unix(self, path):
        asyncio.run_coroutine_threadsafe(
            self.loop.create_unix_server(lambda: _Line(self).client, path), self.loop).result(10)

    def accepted(self, line):
        line.number = len(self.lines) + 1
        self.lines.append(line)
        if self.mode == "refuse":
            line.cut()
            return
        if self.mode == "answer":
            line.client.transport.write(self.answer)
            line.client.transport.close()
            return
        if self.mode == "stall":
            line.stall(True)
        else:
            self.loop.create_task(line.connect())
        self.changed()

    def number_of(self, peer):
        """The number of the connection that the gRPC server sees as this peer; nil if it came past the relay."""
        line = self.by_peer.get(peer)
        return line and line.number

    def cut(self, number=None, flush=False):
        """Resets a connection, or all; the number of those that were open."""
        return self._do(lambda: sum(line.cut(flush) for line in self.lines if number in (None, line.number)))

    def sent(self, number):
        """How many bytes the server has sent on a connection."""
        return self.lines[number - 1].sent

    def passed(self, number, count):
        """Waits until that many have been sent and no more come: the gRPC server writes when it likes, and what it
        wrote before may come late."""
        async def wait():
            line, before = self.lines[number - 1], -1
            while line.open and (line.sent < count or line.sent != before):
                before = line.sent
                await asyncio.sleep(0.02)
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(wait(), 5), self.loop).result(10)

    def stall(self, stalled, number=None):
        def act():
            chosen = [line for line in self.lines if line.open and number in (None, line.number)]
            for line in chosen:
                if not stalled and line.server is None:
                    self.loop.create_task(line.connect())
                line.stall(stalled)
            return len(chosen)
        return self._do(act)

    def set_mode(self, mode, answer=b""):
        def act():
            self.mode, self.answer = mode, answer
        self._do(act)

    def shown(self):
        return self._do(lambda: [line.shown() for line in self.lines])

    def open(self):
        return sum(line.open for line in self.lines)
