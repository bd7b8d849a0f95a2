"""What goes over the wire to and from riverlua.grpc_server: frames written by hand, and grpcio.

    python server_wire.py CHECK PORT [PID]

Runs one check against a running echo_server.lua; an assertion that fails says what was seen.
"""

import ctypes
import gzip
import json
import os
import signal
import socket
import struct
import sys
import zlib

PORT = PID = 0
PATIENCE = 30
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL = 0, 1, 7, 8
WIDE = 1 << 30


def number(n):
    if n < 127:
        return bytes([n])
    n -= 127
    out = b"\x7f"
    while n >= 128:
        out += bytes([n % 128 + 128])
        n //= 128
    return out + bytes([n])


def field(name, value):
    """A header that no table remembers, without Huffman."""
    name, value = name.encode(), value.encode("latin-1")
    return b"\0" + number(len(name)) + name + number(len(value)) + value


def message(data, flag=0):
    return struct.pack(">BI", flag, len(data)) + data


class Name(ctypes.Structure):
    _fields_ = [("name", ctypes.POINTER(ctypes.c_char)), ("value", ctypes.POINTER(ctypes.c_char)),
                ("name_length", ctypes.c_size_t), ("value_length", ctypes.c_size_t), ("flags", ctypes.c_uint8)]


class Inflater:
    """HPACK, by nghttp2."""

    def __init__(self):
        self.library = ctypes.CDLL("libnghttp2.so.14")
        self.library.nghttp2_hd_inflate_hd2.restype = ctypes.c_ssize_t
        self.inflater = ctypes.c_void_p()
        assert self.library.nghttp2_hd_inflate_new(ctypes.byref(self.inflater)) == 0

    def __call__(self, block):
        out, at, flags, pair = {}, 0, ctypes.c_int(), Name()
        buffer = ctypes.create_string_buffer(block, len(block))
        while True:
            used = self.library.nghttp2_hd_inflate_hd2(
                self.inflater, ctypes.byref(pair), ctypes.byref(flags), ctypes.byref(buffer, at),
                ctypes.c_size_t(len(block) - at), 1)
            assert used >= 0, "bad HPACK: %d" % used
            at += used
            if flags.value & 2:
                out[pair.name[:pair.name_length].decode()] = pair.value[:pair.value_length].decode("latin-1")
            if flags.value & 1:
                self.library.nghttp2_hd_inflate_end_headers(self.inflater)
                return out


class Stream:
    def __init__(self):
        self.headers = self.trailers = self.reset = None
        self.data, self.ended, self.sent = b"", False, 0

    def fields(self):
        return self.trailers or self.headers or {}


class Closed(Exception):
    pass


class Wire:
    """A connection and what came over it."""

    def __init__(self, settings=((INITIAL_WINDOW_SIZE, WIDE),), preface=PREFACE):
        self.socket = socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.next, self.streams, self.inflate = 1, {}, Inflater()
        self.settings, self.goaways, self.pongs, self.sent = None, [], 0, 0
        self.windows = {}
        if preface:
            self.send(preface)
            self.frame(SETTINGS, payload=b"".join(struct.pack(">HI", k, v) for k, v in settings))
            self.frame(WINDOW, payload=struct.pack(">I", WIDE))

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError as problem:
            raise Closed() from problem

    def pack(self, kind, flags=0, stream=0, payload=b""):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def frame(self, *parts, **named):
        self.send(self.pack(*parts, **named))

    def read(self, size):
        data = b""
        while len(data) < size:
            try:
                piece = self.socket.recv(size - len(data))
            except ConnectionError:
                piece = b""
            if not piece:
                raise Closed()
            data += piece
        return data

    def step(self):
        """Takes one frame; its kind."""
        head = self.read(9)
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        payload = self.read(int.from_bytes(head[:3], "big"))
        own = self.streams.get(stream)
        if kind == SETTINGS and not flags & ACK:
            self.settings = dict(struct.iter_unpack(">HI", payload))
            self.frame(SETTINGS, ACK)
        elif kind == HEADERS:
            fields = self.inflate(payload)
            if own.headers is None:
                own.headers = fields
            else:
                own.trailers = fields
            own.ended = bool(flags & END_STREAM)
        elif kind == DATA:
            own.data += payload
            own.ended = bool(flags & END_STREAM)
        elif kind == RST:
            own.reset = int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self.goaways.append(struct.unpack(">II", payload[:8]) + (payload[8:],))
        elif kind == PING:
            if flags & ACK:
                self.pongs += 1
            else:
                self.frame(PING, ACK, payload=payload)
        elif kind == WINDOW:
            self.windows[stream] = self.windows.get(stream, 0) + int.from_bytes(payload, "big")
        return kind

    def block(self, path="/t.T/Echo", fields=(), method="POST", kind="application/grpc"):
        wanted = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x"),
                  ("te", "trailers")]
        if kind:
            wanted.append(("content-type", kind))
        return b"".join(field(*one) for one in wanted + list(fields))

    def begin(self, path="/t.T/Echo", flags=0, **more):
        stream, self.next = self.next, self.next + 2
        self.streams[stream] = Stream()
        self.frame(HEADERS, END_HEADERS | flags, stream, self.block(path, **more))
        return stream

    def call(self, path="/t.T/Echo", body=None, **more):
        stream = self.begin(path, **more)
        body = message(b"hello") if body is None else body
        if len(body) > 16384:
            self.pour(stream, body)
        else:
            self.sent += len(body)
            self.frame(DATA, END_STREAM, stream, body)
        return stream

    def pour(self, stream, data, flags=END_STREAM):
        """Sends data as the windows allow."""
        own, sent = self.streams[stream], 0
        while sent < len(data) and not own.ended and own.reset is None:
            before = own.sent
            room = min(65535 + self.windows.get(0, 0) - self.sent, 65535 + self.windows.get(stream, 0) - before,
                       16384)
            if room <= 0:
                self.step()
                continue
            piece = data[sent:sent + room]
            sent += len(piece)
            own.sent += len(piece)
            self.sent += len(piece)
            self.frame(DATA, flags if sent == len(data) else 0, stream, piece)

    def end(self, stream):
        own = self.streams[stream]
        while not own.ended and own.reset is None:
            self.step()
        return own

    def ask(self, *parts, **named):
        return self.end(self.call(*parts, **named))

    def closed(self):
        """Waits for the end of the connection."""
        try:
            while True:
                self.step()
        except Closed:
            return True

    def round_trip(self):
        count = self.pongs
        self.frame(PING, payload=bytes(8))
        while self.pongs == count:
            self.step()


def expect(what, wanted, got):
    assert wanted == got, "%s: wanted %r, got %r" % (what, wanted, got)


def status(own):
    return int(own.fields()["grpc-status"])


def stats(path="/t.T/Stats", body=b""):
    return json.loads(Wire().ask(path, message(body)).data[5:])


def wait(name, value):
    told = stats("/t.T/Wait", b"%s %d" % (name.encode(), value))
    expect(name, value, told[name])
    return told


# ---- checks --------------------------------------------------------------------------------------------------

def calls():
    wire = Wire()
    own = wire.ask()
    expect("headers", {":status": "200", "content-type": "application/grpc"}, own.headers)
    expect("data", message(b"hello"), own.data)
    expect("trailers", {"grpc-status": "0"}, own.trailers)
    own = wire.ask("/t.T/Many", message(b"3 4"))
    expect("messages", message(b"xxxx") * 3, own.data)
    expect("empty stream", (b"", "0"), (wire.ask("/t.T/Many", message(b"0 0")).data, own.trailers["grpc-status"]))
    for kind in "application/grpc+proto", "application/grpc;charset=utf-8":
        expect(kind, 0, status(wire.ask(kind=kind)))
    # byte by byte, and the end of a frame of its own
    stream = wire.begin()
    for byte in message(b"hello"):
        wire.frame(DATA, 0, stream, bytes([byte]))
    wire.frame(DATA, END_STREAM, stream)
    expect("data", message(b"hello"), wire.end(stream).data)
    # trailers of the client's end its request, too
    stream = wire.begin()
    wire.frame(DATA, 0, stream, message(b"hello"))
    wire.frame(HEADERS, END_HEADERS | END_STREAM, stream, field("x-late", "1"))
    expect("data", message(b"hello"), wire.end(stream).data)


def refusals():
    wire = Wire()

    def refused(code, text, body=None, **more):
        own = wire.ask(body=body, **more)
        assert own.trailers is None and own.data == b"", "no trailers-only answer"
        expect("HTTP", "200", own.headers[":status"])
        expect(text, code, status(own))
        assert text in own.headers["grpc-message"], own.headers
        return own

    own = wire.ask(method="GET")
    expect("GET", ("405", "POST"), (own.headers[":status"], own.headers["allow"]))
    for kind in None, "text/plain", "application/grpcx", "application/json":
        expect(kind, "415", wire.ask(kind=kind).headers[":status"])
    for value in "", "1", "S", "-1S", "123456789S", "1x", "1 S", "٣S".encode().decode("latin-1"):
        refused(13, "grpc-timeout", fields=[("grpc-timeout", value)])
    refused(12, "there is no method /t.T/Nothing", path="/t.T/Nothing")
    own = refused(12, "compressed", message(b"x", 1), fields=[("grpc-encoding", "snappy")])
    expect("known", "identity,deflate,gzip", own.headers["grpc-accept-encoding"])
    refused(13, "compressed", message(b"x", 1))
    refused(13, "compressed", message(b"x", 1), fields=[("grpc-encoding", "identity")])
    refused(13, "no gRPC message", message(b"x", 2))
    refused(13, "several", message(b"x") * 2)
    refused(13, "several", message(b"x") + b"\0")
    refused(13, "without a message", b"")
    refused(13, "middle", message(b"hello")[:-1])
    refused(13, "middle", b"\0\0")
    for body in gzip.compress(b"hello")[:-3], b"", b"hello", gzip.compress(b"hello") + b"x":
        refused(13, "decompressed", message(body, 1), fields=[("grpc-encoding", "gzip")])
    expect("uncompressed", 0, status(wire.ask(fields=[("grpc-encoding", "snappy")])))
    # the rest of a request that is refused is not wanted
    stream = wire.begin("/t.T/Nothing")
    own = wire.end(stream)
    while own.reset is None:
        wire.step()
    expect("reset", NO_ERROR, own.reset)
    wire.frame(DATA, END_STREAM, stream, message(b"late"))
    expect("later", 0, status(wire.ask()))


def compressed():
    wire = Wire()
    for name, data in ("gzip", gzip.compress(b"hello" * 1000)), ("deflate", zlib.compress(b"hello" * 1000)):
        own = wire.ask(body=message(data, 1), fields=[("grpc-encoding", name)])
        expect(name, message(b"hello" * 1000), own.data)
    expect("empty", message(b""), wire.ask(body=message(gzip.compress(b""), 1),
                                           fields=[("grpc-encoding", "gzip")]).data)
    size = 100000   # max_message
    for more in 0, 1:
        own = wire.ask(body=message(gzip.compress(bytes(size + more)), 1), fields=[("grpc-encoding", "gzip")])
        expect("%d too many" % more, 8 if more else 0, status(own))
    before = stats()["resident"]
    bomb = gzip.compress(bytes(64 << 20))
    assert len(bomb) < size
    expect("bomb", 8, status(wire.ask(body=message(bomb, 1), fields=[("grpc-encoding", "gzip")])))
    assert stats()["resident"] < before + (8 << 20)


def too_large():
    wire = Wire()
    expect("the largest", 0, status(wire.ask(body=message(bytes(100000)))))
    stream = wire.begin()
    wire.frame(DATA, 0, stream, message(bytes(100001))[:1000])   # at once, not when it is there
    expect("too large", 8, status(wire.end(stream)))
    expect("later", 0, status(wire.ask()))
    own = wire.ask(fields=[("x-large", "y" * 3000)])
    expect("headers", 8, status(own))
    expect("later", 0, status(wire.ask(fields=[("x-large", "y" * 1500)])))


def foreigners():
    wire = Wire(preface=None)
    wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    data = b""
    while True:
        piece = wire.socket.recv(65536)
        if not piece:
            break
        data += piece
    assert data.startswith(b"HTTP/1.1 505 ") and data.endswith(b"HTTP/2 without TLS\n"), data
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head, data
    for junk in b"\x16\x03\x01\x02\x00\x01" + bytes(60), b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"\n" * 100:
        wire = Wire(preface=None)
        wire.send(junk)
        assert wire.socket.recv(65536)[:8] in (b"", b"HTTP/1.1")
    wire = Wire()
    wire.frame(HEADERS, END_HEADERS, 2, wire.block())     # an even stream
    assert wire.closed() and wire.goaways[-1][1] == PROTOCOL_ERROR
    wire = Wire()
    wire.frame(DATA, 0, 0, b"x")
    assert wire.closed() and wire.goaways[-1][1] == PROTOCOL_ERROR
    wire = Wire()
    stream = wire.begin(fields=[("Upper", "case")])
    expect("malformed", PROTOCOL_ERROR, wire.end(stream).reset)
    expect("later", 0, status(wire.ask()))


def pings():
    wire = Wire()
    for _ in range(100):
        wire.round_trip()
    expect("call", 0, status(wire.ask()))


def floods():
    """Frames that cost the client nothing end its connection, and leave nothing behind."""
    def flood(make, count=60000):
        wire = Wire()
        for i in range(0, count, 500):
            try:
                wire.send(b"".join(make(wire, i + j) for j in range(500)))
            except Closed:
                return
        wire.closed()

    def rapid_reset(wire, i):
        return (wire.pack(HEADERS, END_HEADERS, 2 * i + 1, wire.block("/t.T/Hold"))
                + wire.pack(RST, 0, 2 * i + 1, struct.pack(">I", CANCEL)))

    flood(rapid_reset)
    flood(lambda wire, i: wire.pack(PING, 0, 0, bytes(8)))
    flood(lambda wire, i: wire.pack(SETTINGS))
    flood(lambda wire, i: wire.pack(PRIORITY, 0, 2 * i + 1, bytes(5)))
    flood(lambda wire, i: wire.pack(WINDOW, 0, 0, struct.pack(">I", 1)))
    flood(lambda wire, i: wire.pack(0xfe, 0, 0, b""))
    flood(lambda wire, i: wire.pack(HEADERS, END_HEADERS, 1, wire.block()) if i == 0 else wire.pack(DATA, 0, 1))
    for more, count in (b"", 20000), (field("x", "y" * 8000), 2000):
        flood(lambda wire, i: wire.pack(CONTINUATION if i else HEADERS, 0, 1, more if i else wire.block()), count)
    told = wait("open", 1)
    expect("calls", 1, told["in_flight"])
    expect("held", 0, told["held"])
    expect("bytes of requests", 5 + len("open 1"), told["bytes"])


def honest():
    """A client that cancels often, and one that reads in small pieces, are no flood."""
    wire = Wire()
    for _ in range(10):
        streams = [wire.begin("/t.T/Hold") for _ in range(50)]
        for stream in streams:
            wire.frame(RST, 0, stream, struct.pack(">I", CANCEL))
        wire.round_trip()
    expect("after 500 resets", 0, status(wire.ask()))
    wire = Wire(settings=((INITIAL_WINDOW_SIZE, 100),))
    stream = wire.call("/t.T/Large", message(b"400000"))
    own = wire.streams[stream]
    while not own.ended:
        had = len(own.data)
        wire.step()
        if len(own.data) > had:
            wire.frame(WINDOW, 0, stream, struct.pack(">I", len(own.data) - had))
            wire.frame(WINDOW, 0, 0, struct.pack(">I", 1))
    expect("in small pieces", message(b"x" * 400000), own.data)


def lateness():
    """handshake_timeout, head_timeout, request_timeout, idle_timeout and write_timeout are a second."""
    silent = Wire(preface=None)
    half = Wire(preface=None)
    half.send(PREFACE[:10])
    assert silent.closed() and half.closed()
    wire = Wire()
    wire.frame(HEADERS, 0, 1, wire.block())
    assert wire.closed()
    wire = Wire()
    block = wire.block()
    wire.streams[1] = Stream()
    wire.send(wire.pack(HEADERS, END_HEADERS, 1, block)[:-3])
    assert wire.closed()
    wire = Wire()
    stream = wire.begin()
    wire.frame(DATA, 0, stream, message(b"hello")[:-1])
    own = wire.end(stream)
    expect("half a request", 4, status(own))
    # without calls for a while, it is asked to go, with nothing lost
    wire.begin(fields=[("Upper", "case")])   # a block that is over, though nobody takes it
    assert wire.closed()
    expect("goodbyes", [(2 ** 31 - 1, 0, b""), (3, 0, b"")], wire.goaways)
    # an answer that nobody takes
    wire = Wire(settings=((INITIAL_WINDOW_SIZE, 10),))
    own = wire.ask("/t.T/Large", message(b"100000"))
    expect("an answer that stops", (10, CANCEL), (len(own.data), own.reset))
    # a client that does not read at all
    wire = Wire()
    wire.call("/t.T/Large", message(b"50000000"))
    while True:
        try:
            wait("open", 1)
            break
        except Closed:      # on a busy machine we were late ourselves
            pass
    assert wire.closed()


def too_many():
    """max_streams is 5, max_calls 12."""
    wire = Wire()
    streams = [wire.begin("/t.T/Stubborn") for _ in range(6)]
    expect("one too many", REFUSED_STREAM, wire.end(streams[5]).reset)
    expect("announced", 5, wire.settings[MAX_CONCURRENT_STREAMS])
    for stream in streams[:5]:
        wire.frame(DATA, END_STREAM, stream, message(b""))
    wait("stubborn", 5)
    # handlers go on that nobody waits for: they count
    for stream in streams[:5]:
        wire.frame(RST, 0, stream, struct.pack(">I", CANCEL))
    for _ in range(5):
        wire.call("/t.T/Stubborn", message(b""))
    wait("stubborn", 10)
    for stream in list(wire.streams)[6:]:
        wire.frame(RST, 0, stream, struct.pack(">I", CANCEL))
    expect("twice as many", REFUSED_STREAM, wire.end(wire.call()).reset)
    other = Wire()
    expect("somebody else", 0, status(other.ask()))
    streams = [other.call("/t.T/Hold", message(b"")) for _ in range(3)]
    expect("in all", REFUSED_STREAM, other.end(streams[2]).reset)
    other.frame(RST, 0, streams[0], struct.pack(">I", CANCEL))
    other.round_trip()
    expect("release", 0, status(other.ask("/t.T/Release")))
    wait("stubborn", 0)
    expect("as before", 0, status(wire.ask()))


def strangers():
    """`me` is wanted: others cannot send more than a little."""
    wire = Wire()
    stream = wire.begin()
    own = wire.end(stream)
    expect("who", 16, status(own))
    wire.frame(DATA, 0, stream, bytes(10))
    expect("me", message(b"hello"), wire.ask(fields=[("who", "me")]).data)
    stream = wire.begin(fields=[("who", "me")])
    body = message(bytes(1000000))
    wire.pour(stream, body[:16000], 0)
    while wire.windows.get(stream, 0) < 1000000:   # a large one from a friend is let in at once
        wire.step()
    wire.pour(stream, body[16000:])
    expect("large", body, wire.end(stream).data)


def shared_room():
    """max_message is 3,000,000, max_requests 4,000,000."""
    most = message(bytes(2900000))[:2800000]
    first, second = Wire(), Wire()
    held = first.begin()
    first.pour(held, most, 0)
    first.round_trip()
    assert stats()["bytes"] >= 2800000
    stream = second.begin()
    second.pour(stream, most, 0)
    expect("no room", 8, status(second.end(stream)))
    first.socket.close()
    wait("bytes", 5 + len("bytes 12"))   # what remains is the question itself
    expect("room again", 0, status(Wire().ask(body=message(bytes(2000000)))))


def leaving():
    """Clients that cancel or vanish cancel the handlers."""
    wire = Wire()
    streams = [wire.call("/t.T/Hold", message(b"")) for _ in range(3)]
    wait("held", 3)
    wire.frame(RST, 0, streams[0], struct.pack(">I", CANCEL))
    wait("held", 2)
    stream = wire.call("/t.T/Hold", message(b""), fields=[("grpc-timeout", "50m")])
    expect("deadline", 4, status(wire.end(stream)))
    wait("cancelled", 2)
    wire.socket.close()
    told = wait("held", 0)
    expect("cancelled", 4, told["cancelled"])
    # before its request is there, too
    wire = Wire()
    stream = wire.begin(fields=[("grpc-timeout", "50m")])
    expect("no request", 4, status(wire.end(stream)))
    expect("a deadline that has passed", 4, status(wire.ask("/t.T/Hold", fields=[("grpc-timeout", "0n")])))
    # in the middle of an answer
    wire = Wire(settings=((INITIAL_WINDOW_SIZE, 10),))
    stream = wire.call("/t.T/Large", message(b"100000"), fields=[("grpc-timeout", "50m")])
    expect("in the middle", CANCEL, wire.end(stream).reset)
    stream = wire.call("/t.T/Many", message(b"100 100000"))
    while len(wire.streams[stream].data) < 10:
        wire.step()
    wire.frame(RST, 0, stream, struct.pack(">I", CANCEL))
    wire.round_trip()
    wire.socket.close()
    expect("under way", 1, wait("open", 1)["in_flight"])


def windows():
    """An answer waits for its window; others do not wait for it."""
    wire = Wire(settings=((INITIAL_WINDOW_SIZE, 10),))
    slow = wire.call("/t.T/Large", message(b"100000"))
    while len(wire.streams[slow].data) < 10:
        wire.step()
    expect("another", message(b"hello"), wire.ask().data)
    wire.frame(WINDOW, 0, slow, struct.pack(">I", 200000))
    expect("at last", message(b"x" * 100000), wire.end(slow).data)


def faults():
    wire = Wire()
    own = wire.ask("/t.T/Bug")
    expect("a fault", (13, "internal error"), (status(own), own.fields()["grpc-message"]))


def farewell():
    """SIGTERM: calls under way end, new ones do not begin, and the connection closes."""
    wire, idle = Wire(), Wire()
    stream = wire.call("/t.T/Hold")
    wait("held", 1)
    os.kill(PID, signal.SIGTERM)
    while len(wire.goaways) < 2:
        wire.step()
    expect("goodbyes", [(2 ** 31 - 1, 0, b""), (stream, 0, b"")], wire.goaways)
    assert idle.closed()
    late = wire.call()
    try:
        Wire()
        raise AssertionError("a connection after the end")
    except ConnectionError:
        pass
    wire.round_trip()
    assert wire.streams[late].headers is None
    wire.frame(RST, 0, stream, struct.pack(">I", CANCEL))
    assert wire.closed()


def last_answer():
    """SIGTERM: the answer that was being made is sent."""
    wire = Wire(settings=((INITIAL_WINDOW_SIZE, 10),))
    stream = wire.call("/t.T/Large", message(b"100000"))
    while len(wire.streams[stream].data) < 10:
        wire.step()
    os.kill(PID, signal.SIGTERM)
    while len(wire.goaways) < 2:
        wire.step()
    wire.frame(WINDOW, 0, stream, struct.pack(">I", 200000))
    own = wire.end(stream)
    expect("whole", (message(b"x" * 100000), 0), (own.data, status(own)))
    assert wire.closed()


def large():
    """grpcio sends and gets 200 MB, and many at once."""
    import grpc
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    with grpc.insecure_channel("127.0.0.1:%d" % PORT, options) as channel:
        echo = channel.unary_unary("/t.T/Echo")
        data = os.urandom(1 << 20) * 200
        assert echo(data) == data
        futures = [echo.future(data[:1000000 + i]) for i in range(100)]
        for i, future in enumerate(futures):
            assert future.result() == data[:1000000 + i]
        assert sum(len(one) for one in channel.unary_stream("/t.T/Many")(b"1000 100000")) == 100000000


if __name__ == "__main__":
    PORT = int(sys.argv[2])
    PID = int(sys.argv[3])
    globals()[sys.argv[1]]()
