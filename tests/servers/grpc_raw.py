"""A server of HTTP/2 frames written by hand, for what a gRPC server does not do, or not when asked.

Each scenario below has a port of its own and is told every connection that comes. Prints one line of JSON when it is
ready: {"control": port, "ca_file": path, "ports": {scenario: port}}; ends with its standard input.

Control: GET /stats?name=goaway gives the counts of a scenario; with connections=, requests=, resets=, pings= or closed=
it waits until there are so many (at most ten seconds); GET /release?name= lets a scenario go on that waits.
"""

import http.server
import json
import os
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from stub_server import make_certificate                                # noqa: E402

DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GRPC = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]

scenarios = {}
states = {}
changed = threading.Condition()


def scenario(fn):
    scenarios[fn.__name__] = fn
    return fn


class State:
    def __init__(self):
        self.connections = self.requests = self.pings = self.closed = self.open = self.most_open = self.data = 0
        self.resets = []
        self.released = False

    def tell(self):
        return {"connections": self.connections, "requests": self.requests, "pings": self.pings,
                "closed": self.closed, "most_open": self.most_open, "resets": self.resets, "data": self.data}


class Ended(Exception):
    pass


def field(name, value):
    """A header that no table remembers, without Huffman."""
    name, value = name.encode(), value if isinstance(value, bytes) else value.encode()
    return b"\0" + number(len(name)) + name + number(len(value)) + value


def number(n):
    if n < 127:
        return bytes([n])
    n -= 127
    out = b"\x7f"
    while n >= 128:
        out += bytes([n % 128 + 128])
        n //= 128
    return out + bytes([n])


def message(data, flag=0):
    return struct.pack(">BI", flag, len(data)) + data


class Connection:
    def __init__(self, sock, state, count):
        self.sock, self.state, self.count = sock, state, count   # count: which connection it is, from 1
        self.answers_pings = self.acknowledges = True
        self.waiting = []
        self.ended = set()

    def read(self, size):
        data = b""
        while len(data) < size:
            try:
                piece = self.sock.recv(size - len(data))
            except OSError:
                piece = b""
            if not piece:
                raise Ended
            data += piece
        return data

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError:
            raise Ended

    def frame(self, kind, flags=0, stream=0, payload=b""):
        self.send(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload)

    def greet(self, settings=()):
        if self.read(len(PREFACE)) != PREFACE:
            raise Ended
        self.settings(settings)

    def settings(self, settings=()):
        self.frame(SETTINGS, payload=b"".join(struct.pack(">HI", k, v) for k, v in settings))

    def step(self):
        """Takes one frame; the id of a stream that a request has begun on, or None."""
        head = self.read(9)
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big")
        payload = self.read(size)
        with changed:
            if kind == SETTINGS and not flags & ACK:
                if self.acknowledges:
                    self.frame(SETTINGS, ACK)
            elif kind == PING and not flags & ACK:
                self.state.pings += 1
                if self.answers_pings:
                    self.frame(PING, ACK, 0, payload)
            elif kind == RST:
                self.state.resets.append(int.from_bytes(payload, "big"))
                self.state.open -= 1
            elif kind == HEADERS:
                self.state.requests += 1
                self.state.open += 1
                self.state.most_open = max(self.state.most_open, self.state.open)
            elif kind == DATA:
                self.state.data += size
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                self.ended.add(stream)
            changed.notify_all()
        return stream if kind == HEADERS else None

    def request(self, whole=True):
        """The stream of the next request, when all of it has come."""
        while True:
            stream = self.step()
            if stream:
                self.waiting.append(stream)
            for one in self.waiting:
                if not whole or one in self.ended:
                    self.waiting.remove(one)
                    return one

    def headers(self, stream, fields, flags=0, split=0):
        block = b"".join(field(*f) for f in fields)
        if not split:
            self.frame(HEADERS, flags | END_HEADERS, stream, block)
            return
        pieces = [block[i:i + split] for i in range(0, len(block), split)]
        self.frame(HEADERS, flags, stream, pieces[0])
        for i, piece in enumerate(pieces[1:]):
            self.frame(CONTINUATION, END_HEADERS if i == len(pieces) - 2 else 0, stream, piece)

    def end(self, stream, fields=OK):
        self.gone()
        self.headers(stream, fields, END_STREAM)

    def gone(self):
        with changed:
            self.state.open -= 1

    def answer(self, stream, data=b"hello", fields=OK):
        self.headers(stream, GRPC)
        self.frame(DATA, 0, stream, message(data))
        self.end(stream, fields)

    def trailers_only(self, stream, fields):
        self.gone()
        self.headers(stream, fields, END_STREAM)

    def reset(self, stream, code):
        self.gone()
        self.frame(RST, 0, stream, struct.pack(">I", code))

    def goaway(self, last, code=0, text=b""):
        self.frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text)

    def answer_all(self):
        while True:
            self.answer(self.request())

    def drain(self):
        while True:
            self.step()

    def wait_released(self):
        with changed:
            changed.wait_for(lambda: self.state.released, 10)


# ---- scenarios -----------------------------------------------------------------------------------------------

@scenario
def good(c):
    c.greet()
    c.answer_all()


@scenario
def late_settings(c):
    if c.read(len(PREFACE)) != PREFACE:
        raise Ended
    c.acknowledges = False
    stream = c.request()
    c.settings()
    c.frame(SETTINGS, ACK)
    c.answer(stream)
    c.answer_all()


@scenario
def goaway(c):
    """The first connection takes three requests, answers the first and has not looked at the others."""
    c.greet()
    if c.count > 1:
        c.answer_all()
    first = [c.request() for _ in range(3)][0]
    c.goaway(first)
    c.answer(first, b"old")
    c.drain()


@scenario
def goaway_always(c):
    """Has no time for anything."""
    c.greet()
    c.request()
    c.goaway(0)


@scenario
def goaway_politely(c):
    """As servers do that shut down: first a warning, then the last stream; what was begun is answered."""
    c.greet()
    if c.count > 1:
        c.answer_all()
    stream = c.request()
    c.goaway(0x7fffffff)
    c.headers(stream, GRPC)
    c.wait_released()
    c.goaway(stream)
    c.frame(DATA, 0, stream, message(b"old"))
    c.end(stream)
    c.drain()


@scenario
def goaway_idle(c):
    """Goes away after each answer, and closes."""
    c.greet()
    stream = c.request()
    c.answer(stream)
    c.goaway(stream)


@scenario
def close_idle(c):
    """Closes after each answer without a word."""
    c.greet()
    c.answer(c.request())


@scenario
def too_many_pings(c):
    c.greet()
    if c.count > 1:
        c.answer_all()
    c.answer(c.request())
    while c.state.pings < 1:
        c.step()
    c.goaway(0x7fffffff, 11, b"too_many_pings")


@scenario
def refuse_once(c):
    c.greet()
    c.reset(c.request(), 7)
    c.answer_all()


@scenario
def refuse(c):
    c.greet()
    while True:
        c.reset(c.request(), 7)


@scenario
def resets(c):
    """The requests are reset with the codes 0, 1, 2 …"""
    c.greet()
    code = 0
    while True:
        c.reset(c.request(), code)
        code += 1


@scenario
def close_at_once(c):
    pass


@scenario
def close_on_request(c):
    c.greet()
    c.request()


@scenario
def close_after_headers(c):
    c.greet()
    c.headers(c.request(), GRPC)


@scenario
def close_in_message(c):
    c.greet()
    stream = c.request()
    c.headers(stream, GRPC)
    c.frame(DATA, 0, stream, message(b"hello")[:7])


@scenario
def close_after_message(c):
    c.greet()
    stream = c.request()
    c.headers(stream, GRPC)
    c.frame(DATA, 0, stream, message(b"hello"))


@scenario
def end_without_trailers(c):
    c.greet()
    while True:
        stream = c.request()
        c.headers(stream, GRPC)
        c.gone()
        c.frame(DATA, END_STREAM, stream, message(b"hello"))


@scenario
def end_without_status(c):
    c.greet()
    while True:
        c.answer(c.request(), fields=[("x-y", "z")])


@scenario
def bad_status(c):
    c.greet()
    while True:
        c.answer(c.request(), fields=[("grpc-status", "zero")])


@scenario
def ok_without_message(c):
    c.greet()
    while True:
        c.trailers_only(c.request(), GRPC + OK)


@scenario
def two_messages(c):
    c.greet()
    while True:
        stream = c.request()
        c.headers(stream, GRPC)
        c.frame(DATA, 0, stream, message(b"one") + message(b"two"))
        c.end(stream)


@scenario
def half_a_message(c):
    c.greet()
    while True:
        stream = c.request()
        c.headers(stream, GRPC)
        c.frame(DATA, 0, stream, message(b"hello")[:8])
        c.end(stream)


@scenario
def compressed(c):
    c.greet()
    while True:
        stream = c.request()
        c.headers(stream, GRPC + [("grpc-encoding", "gzip")])
        c.frame(DATA, 0, stream, message(b"hello", 1))
        c.end(stream)


@scenario
def endless_message(c):
    """Says that four gigabytes follow, and waits."""
    c.greet()
    while True:
        stream = c.request()
        c.headers(stream, GRPC)
        c.frame(DATA, 0, stream, b"\0\xff\xff\xff\xff" + b"x" * 100)


@scenario
def http_status(c):
    """Answers with the HTTP statuses that a proxy may answer with."""
    c.greet()
    for status in ("400", "401", "403", "404", "429", "500", "502", "503", "504"):
        stream = c.request()
        c.headers(stream, [(":status", status), ("content-type", "text/html")])
        c.frame(DATA, 0, stream, b"<html>")
        c.gone()
        c.frame(DATA, END_STREAM, stream, b"</html>")
    c.drain()


@scenario
def html(c):
    c.greet()
    while True:
        stream = c.request()
        c.headers(stream, [(":status", "200"), ("content-type", "text/html")])
        c.gone()
        c.frame(DATA, END_STREAM, stream, b"<html>")


@scenario
def status_beats_http(c):
    c.greet()
    while True:
        c.trailers_only(c.request(), [(":status", "503"), ("content-type", "application/grpc"), ("grpc-status", "8"),
                                      ("grpc-message", "%E4%BD%A0%zz%2 %f0%9F%98%80%")])


@scenario
def huge_headers(c):
    c.greet()
    while True:
        stream = c.request()
        c.headers(stream, GRPC + [("x-%d" % i, "y" * 10000) for i in range(30)], split=100000)


@scenario
def endless_headers(c):
    c.greet()
    stream = c.request()
    c.frame(HEADERS, 0, stream, b"".join(field(*f) for f in GRPC))
    while True:
        c.frame(CONTINUATION, 0, stream, field("a", "b" * 16000))


@scenario
def odd_frames(c):
    """One byte a frame, padding, priorities, frames that nobody knows, headers in pieces, an interim answer."""
    c.greet()
    while True:
        stream = c.request()
        c.headers(stream, [(":status", "103"), ("link", "x")])
        c.frame(PRIORITY, 0, stream, b"\0\0\0\0\x10")
        c.headers(stream, GRPC + [("content-length", "3"), ("UPPER", "ignored")], split=30)
        c.frame(0xfe, 0xff, stream, b"???")
        for byte in message(b"hello"):
            c.frame(DATA, PADDED, stream, b"\3" + bytes([byte]) + b"\0\0\0")
            c.frame(DATA, 0, stream, b"")
        c.frame(WINDOW, 0, 0, struct.pack(">I", 1000))
        c.gone()
        c.headers(stream, OK + [("late", "1"), ("late", "2")], END_STREAM, split=9)


@scenario
def early_answer(c):
    """Says no before the body is there, which it never reads."""
    c.greet([(4, 10)])
    while True:
        stream = c.request(whole=False)
        c.trailers_only(stream, GRPC + [("grpc-status", "7"), ("grpc-message", "not you"), ("why", "because")])


@scenario
def early_reset(c):
    """The same, and resets the stream as HTTP/2 wants it."""
    c.greet([(4, 10)])
    while True:
        stream = c.request(whole=False)
        c.headers(stream, GRPC + [("grpc-status", "7"), ("grpc-message", "not you")], END_STREAM)
        c.reset(stream, 0)


@scenario
def one_at_a_time(c):
    c.greet([(3, 1)])
    c.answer_all()


@scenario
def silent(c):
    """Never answers anything."""
    c.greet()
    c.answers_pings = False
    c.drain()


@scenario
def deaf_to_pings(c):
    """Answers calls, not PINGs."""
    c.greet()
    c.answers_pings = False
    c.answer_all()


@scenario
def wait_then_answer(c):
    c.greet()
    stream = c.request()
    c.wait_released()
    c.answer(stream)
    c.answer_all()


@scenario
def http1(c):
    c.read(24)
    c.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


@scenario
def garbage(c):
    c.read(24)
    c.send(bytes(range(256)) * 10)


@scenario
def ping_flood(c):
    c.greet()
    c.request()
    while True:
        c.send((b"\0\0\x08\x06\0\0\0\0\0" + b"12345678") * 1000)


@scenario
def tls_without_alpn(c):
    c.greet()
    c.answer_all()


@scenario
def client_hello(c):
    """Counts as data the beginnings of TLS that offer h2 alone, and hangs up."""
    hello = c.read(int.from_bytes(c.read(5)[3:], "big"))
    with changed:
        c.state.data += b"\0\x10\0\5\0\3\2h2" in hello
        c.state.requests += 1
        changed.notify_all()


# ---- running -------------------------------------------------------------------------------------------------

def serve_connection(sock, fn, state, count, context):
    try:
        if context:
            sock = context.wrap_socket(sock, server_side=True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fn(Connection(sock, state, count))
    except (Ended, OSError):
        pass
    # not a reset: what was sent shall arrive
    try:
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(10)
        while sock.recv(65536):
            pass
    except OSError:
        pass
    sock.close()
    with changed:
        state.closed += 1
        changed.notify_all()


def serve(listener, name, context):
    state = states[name]
    while True:
        sock, _ = listener.accept()
        with changed:
            state.connections += 1
            count = state.connections
            changed.notify_all()
        threading.Thread(target=serve_connection, args=(sock, scenarios[name], state, count, context),
                         daemon=True).start()


class Control(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        state = states[query.pop("name")]
        with changed:
            if url.path == "/release":
                state.released = True
                changed.notify_all()

            def there():
                told = state.tell()
                return all((len(told[k]) if isinstance(told[k], list) else told[k]) >= int(v) for k, v in query.items())
            changed.wait_for(there, 10)
            body = json.dumps(dict(state.tell(), time=time.monotonic())).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    with tempfile.TemporaryDirectory() as folder:
        context, ca_file = make_certificate(folder, "good", "DNS:localhost,IP:127.0.0.1")
        ports = {}
        for name in scenarios:
            states[name] = State()
            listener = socket.create_server(("127.0.0.1", 0), backlog=100)
            ports[name] = listener.getsockname()[1]
            threading.Thread(target=serve, args=(listener, name, context if name.startswith("tls") else None),
                             daemon=True).start()
        control = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Control)
        threading.Thread(target=control.serve_forever, daemon=True).start()
        print(json.dumps({"control": control.server_address[1], "ca_file": ca_file, "ports": ports}), flush=True)
        sys.stdin.read()


main()
