"""Clients of riverlua's WebSocket server: the library `websockets`, and raw sockets that break rules.

    python callers.py CHECK PORT

Runs one check against a running echo_server.lua; an assertion that fails says what was seen.
"""

import asyncio
import http.client
import json
import os
import socket
import struct
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

PORT = 0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x37\xfa\x21\x3d"


def url(path):
    return "ws://127.0.0.1:%d%s" % (PORT, path)


def state(closes=0):
    conn = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
    conn.request("GET", "/state?%d" % closes)
    found = json.loads(conn.getresponse().read())
    conn.close()
    return found


async def messages():
    async with connect(url("/echo"), max_size=1 << 26) as ws:
        for message in ["", "hello", "κόσμε 🌊", b"", b"\0\xff", "x" * 125, "x" * 126, "x" * 65535, "x" * 65536,
                        b"y" * (4 << 20)]:
            await ws.send(message)
            assert await ws.recv() == message, len(message)

        async def pieces():
            for i in range(50):
                await ws.ping()
                yield "piece %d " % i
        await ws.send(pieces())
        assert await ws.recv() == "".join("piece %d " % i for i in range(50))
        await (await ws.ping("are you there"))
        await ws.close(4000, "enough")
    assert ws.close_code == 4000, ws.close_code
    assert state(1)["closes"] == [{"code": 4000, "reason": "enough"}]


async def many_at_once():
    async def one(number):
        async with connect(url("/echo"), open_timeout=30) as ws:
            for i in range(20):
                text = "%d of %d" % (i, number)
                await ws.send(text)
                assert await ws.recv() == text
    await asyncio.gather(*(one(number) for number in range(100)))
    assert len(state(100)["closes"]) == 100


async def closes():
    for code in (1000, 1001, 1011, 3000, 4999):
        async with connect(url("/code?%d" % code)) as ws:
            try:
                await ws.recv()
                raise AssertionError("a message")
            except ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (code, "as you like"), closed
    async with connect(url("/boom")) as ws:
        try:
            await ws.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 1011, closed
    assert state()["failures"] == 1
    async with connect(url("/pings")) as ws:
        assert await ws.recv() == "answered"
    async with connect(url("/large")) as ws:
        assert len(await ws.recv()) == 1 << 20


async def handshakes():
    async with connect(url("/echo"), subprotocols=["alpha", "gamma", "beta"]) as ws:
        assert ws.subprotocol == "beta", ws.subprotocol
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
    async with connect(url("/echo")) as ws:
        assert ws.subprotocol is None
    async with connect(url("/headers"), additional_headers={"X-Mine": "mine"}) as ws:
        assert ws.response.headers["X-Own"] == "1"
        assert await ws.recv() == "mine"
    for path, status in (("/nothing", 404), ("/wrong", 500)):
        try:
            await connect(url(path))
            raise AssertionError("accepted")
        except InvalidStatus as refused:
            assert refused.response.status_code == status, refused


async def streams_leave_room():
    """The server has room for two streams."""
    async with connect(url("/echo")), connect(url("/echo")):
        try:
            await connect(url("/echo"))
            raise AssertionError("a third one")
        except InvalidStatus as refused:
            assert refused.response.status_code == 503, refused
    async with connect(url("/echo")) as ws:
        await ws.send("x")
        assert await ws.recv() == "x"


# ---- raw sockets

class Wire:
    def __init__(self, path="/echo"):
        self.sock = socket.create_connection(("127.0.0.1", PORT), 20)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.path = path

    def ask(self, method="GET", version="1.1", **headers):
        wanted = {"Host": "x", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": KEY,
                  "Sec-WebSocket-Version": "13"}
        wanted.update((name.replace("_", "-"), value) for name, value in headers.items())
        lines = ["%s: %s" % pair for pair in wanted.items() if pair[1] is not None]
        self.sock.sendall(("%s %s HTTP/%s\r\n%s\r\n\r\n" % (method, self.path, version, "\r\n".join(lines))).encode())
        return self

    def head(self):
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            assert data, "no answer: %r" % self.buffer
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head.decode().lower()

    def open(self):
        head = self.ask().head()
        assert head.startswith("http/1.1 101"), head
        assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head, head
        return self

    def send(self, data):
        self.sock.sendall(data)
        return self

    def take(self, n):
        while len(self.buffer) < n:
            data = self.sock.recv(65536)
            assert data, "the end came early: %r" % self.buffer
            self.buffer += data
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def frame(self):
        first, second = self.take(2)
        assert second < 128, "a server that masks"
        length = second
        if length == 126:
            length, = struct.unpack("!H", self.take(2))
        elif length == 127:
            length, = struct.unpack("!Q", self.take(8))
        return first, self.take(length)

    def closed(self):
        """The code of the close frame that comes next, and then the end."""
        first, data = self.frame()
        assert first == 0x88, hex(first)
        assert self.sock.recv(65536) == b""
        self.sock.close()
        return struct.unpack("!H", data[:2])[0]


def frame(opcode, payload=b"", fin=True, mask=MASK, rsv=0, length=None):
    length = len(payload) if length is None else length
    head = bytes([(128 if fin else 0) | rsv << 4 | opcode])
    bit = 128 if mask else 0
    if length < 126:
        head += bytes([bit | length])
    elif length < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", length)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", length)
    if mask:
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return head + (mask or b"") + payload


BROKEN = [
    (frame(1, b"x", mask=None), 1002), (frame(1, b"x", rsv=4), 1002), (frame(3, b"x"), 1002), (frame(11), 1002),
    (frame(0, b"x"), 1002), (frame(1, b"x", fin=False) + frame(1, b"y"), 1002), (frame(9, b"x", fin=False), 1002),
    (frame(9, b"x" * 126), 1002), (frame(8, b"\3"), 1002), (frame(8, struct.pack("!H", 1005)), 1002),
    (frame(8, b"\3\xe8\xff"), 1007), (frame(1, b"\xff"), 1007), (frame(1, b"\xe2", fin=False) + frame(0, b"x"), 1007),
    (frame(2, length=(1 << 63) - 1), 1009), (frame(2, length=1 << 63), 1002), (frame(2, length=17 << 20), 1009),
]


def broken_rules():
    for data, code in BROKEN:
        wire = Wire().open().send(frame(1, b"fine"))
        assert wire.frame() == (0x81, b"fine")
        seen = wire.send(data).closed()
        assert seen == code, (data[:20], seen)
    found = state(len(BROKEN))
    assert [one["code"] for one in found["closes"]] == [code for _, code in BROKEN], found
    assert found["failures"] == 0, found
    assert Wire("/limit").open().send(frame(2, b"x" * 101)).closed() == 1009
    wire = Wire("/limit").open().send(frame(2, b"x" * 60, fin=False))
    assert wire.send(frame(0, b"x" * 41)).closed() == 1009


def bad_handshakes():
    cases = [({"Upgrade": None}, 426), ({"Connection": None}, 426), ({"Upgrade": "h2c"}, 426),
             ({"Connection": "close"}, 426),
             ({"Sec_WebSocket_Version": None}, 426), ({"Sec_WebSocket_Version": "8"}, 426),
             ({"Sec_WebSocket_Key": None}, 400), ({"Sec_WebSocket_Key": "short"}, 400),
             ({"Sec_WebSocket_Key": "!" * 24}, 400), ({"method": "POST", "Content_Length": "0"}, 400)]
    for changes, status in cases:
        head = Wire().ask(**changes).head()
        assert head.startswith("http/1.1 %d" % status), (changes, head)
        assert (status != 426) or "sec-websocket-version: 13" in head, head
    head = Wire().ask(Upgrade="foo, WebSocket", Connection="keep-alive, upgrade").head()
    assert head.startswith("http/1.1 101"), head


def cuts():
    stream = (frame(1, b"hello") + frame(2, b"b" * 130) + frame(1, "κό".encode(), fin=False) + frame(9, b"ping") +
              frame(0, "σμε".encode()))
    for cut in list(range(1, len(stream), 3)) + [None]:
        wire = Wire().open()
        if cut is None:
            for i in range(len(stream)):
                wire.send(stream[i:i + 1])
        else:
            wire.send(stream[:cut]).send(stream[cut:])
        got = [wire.frame() for _ in range(4)]
        got.remove((0x8a, b"ping"))             # a pong may overtake messages
        assert got == [(0x81, b"hello"), (0x82, b"b" * 130), (0x81, "κόσμε".encode())], got
        assert wire.send(frame(8, b"\3\xe8bye")).closed() == 1000


def early():
    """A client that does not wait for the answer."""
    wire = Wire().ask().send(frame(1, b"in a hurry"))
    assert wire.head().startswith("http/1.1 101")
    assert wire.frame() == (0x81, b"in a hurry")
    assert wire.send(frame(8)).frame() == (0x88, b"")


def leaving():
    Wire().open().send(frame(1, b"x"))
    wire = Wire().open()
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.sock.close()
    wire = Wire().open().send(frame(1, b"half a message", fin=False))
    wire.sock.shutdown(socket.SHUT_WR)
    found = state(3)
    assert [(one["code"], one["kind"]) for one in found["closes"]] == [(1006, "websocket")] * 3, found
    assert found["failures"] == 0, found


def not_reading():
    """A client that sends for ever and reads nothing does not fill the memory."""
    wire = Wire().open()
    wire.sock.settimeout(0.5)
    try:
        for _ in range(2000):
            wire.send(frame(2, b"x" * 60000))
        raise AssertionError("120 MB are in memory")
    except TimeoutError:
        pass
    wire.sock.close()


def resources():
    before = state()["files"]
    for _ in range(30):
        Wire().open().send(frame(1, b"x"))
    found = state(30)
    while found["open"] > 1:
        found = state(30)
    assert found["files"] == before, found
    assert found["streams"] == 0, found


def stopping():
    """The server stops while WebSockets are open: they hear 1001."""
    wires = [Wire().open() for _ in range(3)]
    for wire in wires:
        wire.send(frame(1, b"x"))
        assert wire.frame() == (0x81, b"x")
    print("stop", flush=True)
    for wire in wires:
        assert wire.frame() == (0x88, struct.pack("!H", 1001))


def main():
    global PORT
    PORT = int(sys.argv[2])
    check = globals()[sys.argv[1]]
    if asyncio.iscoroutinefunction(check):
        asyncio.run(check())
    else:
        check()
    os._exit(0)


if __name__ == "__main__":
    main()
