"""What goes over the wire to and from riverlua.server: raw sockets, and Python's own clients.

    python wire.py CHECK PORT [PID]

Runs one check against a running echo_server.lua; an assertion that fails says what was seen.
"""

import http.client
import json
import os
import signal
import socket
import struct
import sys

HOST = b"Host: test\r\n"
PORT = 0
PID = 0
PATIENCE = 30


class Wire:
    """A connection and what came over it."""

    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, data):
        self.socket.sendall(data)
        return self

    def get(self, path, headers=b"", version=b"1.1"):
        return self.send(b"GET " + path + b" HTTP/" + version + b"\r\n" + HOST + headers + b"\r\n")

    def more(self):
        data = self.socket.recv(65536)
        self.buffer += data
        return data

    def until(self, mark):
        while mark not in self.buffer:
            assert self.more(), "the end came before %r: %r" % (mark, self.buffer[-200:])
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def take(self, count):
        pieces, missing = [self.buffer], count - len(self.buffer)
        while missing > 0:
            data = self.socket.recv(1 << 20)
            assert data, "the end came too early: %r" % pieces[-1][-200:]
            pieces.append(data)
            missing -= len(data)
        self.buffer = b"".join(pieces)
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def head(self):
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1", lines[0]
        return int(status), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}

    def answer(self, head_only=False):
        status, headers = self.head()
        body = b""
        if head_only or status in (204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            body = b"".join(self.chunks())
        elif "content-length" in headers:
            body = self.take(int(headers["content-length"]))
        else:
            body = self.rest()
        return status, headers, body

    def chunk(self):
        size = int(self.until(b"\r\n"), 16)
        data = self.take(size)
        assert self.take(2) == b"\r\n"
        return data

    def chunks(self):
        while True:
            data = self.chunk()
            if not data:
                return
            yield data

    def rest(self):
        try:
            while self.more():
                pass
        except ConnectionResetError:
            pass
        found, self.buffer = self.buffer, b""
        return found

    def is_closed(self):
        assert self.rest() == b"", "more came than expected"

    def close(self):
        self.socket.close()

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def state():
    status, _, body = Wire().get(b"/state").answer()
    assert status == 200
    return json.loads(body)


def expect(status, request):
    """What is sent gets this status, and then the connection ends."""
    before = state()["requests"]
    wire = Wire().send(request)
    answer = wire.answer()
    assert answer[0] == status, (request[:100], answer)
    assert answer[1]["connection"] == "close"
    wire.is_closed()
    assert state()["requests"] == before + 1, "what followed was taken for a request: %r" % request[:100]


# ---- requests and answers


def echo():
    client = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
    client.request("PATCH", "/echo?a=%20b", body=b"x\x00y", headers={"x-any-case": "v", "X-Twice": "1"})
    response = client.getresponse()
    seen = json.loads(response.read())
    assert response.status == 200 and response.reason == "OK"
    assert (seen["method"], seen["path"], seen["body"]) == ("PATCH", "/echo?a=%20b", "x\x00y"), seen
    assert seen["any_case"] == "v" and seen["headers"]["x-twice"] == "1" and seen["version"] == "1.1"
    assert seen["address"] == "127.0.0.1"
    assert response.getheader("Content-Type") == "application/json" and response.getheader("Date")
    wire = Wire().get(b"/echo", b"A: 1\r\nB:\r\na:\t2 \r\n")
    assert json.loads(wire.answer()[2])["headers"] == {"host": "test", "a": "1, 2", "b": ""}
    for value in [b" " * 50000 + b"x", b"x" + b" " * 50000, b"x" + b"\t" * 50000 + b"x"]:
        seen = json.loads(wire.get(b"/echo", b"A: " + value + b"\r\n").answer()[2])
        assert seen["headers"]["a"] == value.decode().strip()
    wire.send(b"GET http://test/echo?x HTTP/1.1\r\n" + HOST + b"\r\n")
    assert json.loads(wire.answer()[2])["path"] == "/echo?x"
    assert Wire().send(b"GET http://test HTTP/1.1\r\n" + HOST + b"\r\n").answer()[0] == 404
    assert wire.get(b"/cookies").send(b"").until(b"two").count(b"\r\nSet-Cookie: ") == 2


def many_on_one():
    wire = Wire()
    for batch in range(100):
        wire.send(b"".join(b"GET /echo?%d HTTP/1.1\r\n" % (batch * 100 + i) + HOST + b"\r\n" for i in range(100)))
        for i in range(100):
            status, _, body = wire.answer()
            assert status == 200 and json.loads(body)["path"] == "/echo?%d" % (batch * 100 + i)
    assert state()["accepted"] == 2


def pipelined():
    requests = b""
    for i in range(60):
        body = b"%d" % i * (i % 7)
        requests += b"POST /echo?%d HTTP/1.1\r\n" % i + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    wire = Wire().send(requests + b"GET /close HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET /echo HTTP/1.1\r\n")
    for i in range(60):
        seen = json.loads(wire.answer()[2])
        assert seen["path"] == "/echo?%d" % i and seen["body"] == str(i) * (i % 7), seen
    assert wire.answer()[2] == b"bye"
    wire.is_closed()
    # an answer does not wait for that to the next request
    paths = [b"echo", b"hold", b"nothing"]
    wire = Wire().send(b"".join(b"GET /%s HTTP/1.1\r\n" % path + HOST + b"\r\n" for path in paths))
    assert wire.answer()[0] == 200
    assert Wire().get(b"/release").answer()[0] == 200
    assert wire.answer()[2] == b"released" and wire.answer()[0] == 204


def byte_by_byte():
    wire = Wire()
    request = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    for i in range(len(request)):
        wire.send(request[i:i + 1])
    assert json.loads(wire.answer()[2])["body"] == "abcde"


def head():
    wire = Wire().send(b"HEAD /large/1000 HTTP/1.1\r\n" + HOST + b"\r\n")
    status, headers, _ = wire.answer(head_only=True)
    assert status == 200 and headers["content-length"] == "1000"
    assert wire.get(b"/echo").answer()[0] == 200
    wire.send(b"HEAD /stream/3 HTTP/1.1\r\n" + HOST + b"\r\n")
    assert wire.answer(head_only=True)[1]["transfer-encoding"] == "chunked"
    status, headers, body = wire.get(b"/nothing").answer()
    assert status == 204 and "content-length" not in headers and body == b""
    assert wire.get(b"/wait_closed/1").answer()[2] == b"true"


def old_version():
    wire = Wire().send(b"GET /echo HTTP/1.0\r\n\r\n")
    status, headers, body = wire.answer()
    assert status == 200 and headers["connection"] == "close" and json.loads(body)["version"] == "1.0"
    wire.is_closed()
    wire = Wire()
    for _ in range(3):
        status, headers, _ = wire.send(b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer()
        assert status == 200 and headers["connection"] == "keep-alive"
    status, headers, body = wire.send(b"GET /stream/3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer()
    assert "transfer-encoding" not in headers and headers["connection"] == "close"
    assert body == b"piece 1\npiece 2\npiece 3\n"


def expectation():
    start = b"POST /echo HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: "
    wire = Wire().send(start + b"3\r\n\r\n")
    assert wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
    assert json.loads(wire.send(b"abc").answer()[2])["body"] == "abc"
    # who does not wait needs no leave
    assert wire.send(start + b"3\r\n\r\nabc").answer()[0] == 200
    expect(413, start + b"99999999999\r\n\r\n")
    expect(417, b"POST /echo HTTP/1.1\r\n" + HOST + b"Expect: miracles\r\nContent-Length: 3\r\n\r\n")


def streams():
    wire = Wire().get(b"/stream/3")
    status, headers = wire.head()
    assert status == 200 and headers["transfer-encoding"] == "chunked" and "content-length" not in headers
    assert list(wire.chunks()) == [b"piece 1\n", b"piece 2\n", b"piece 3\n"]
    assert wire.get(b"/stream/0").answer()[2] == b""
    assert wire.get(b"/wait_closed/2").answer()[2] == b"true"
    # an answer that breaks in the middle must not look whole
    wire.get(b"/broken").head()
    wire.is_closed()
    assert state()["failures"] == 1


def leaving():
    """A client that goes away while the stream waits is noticed at once."""
    wires = [Wire().get(b"/held") for _ in range(4)]
    for wire in wires:
        wire.head()
        assert wire.chunk() == b"piece 1\n"
    wires[0].close()
    wires[1].reset()
    wires[2].socket.shutdown(socket.SHUT_WR)
    assert Wire().get(b"/wait_closed/3").answer()[2] == b"true"
    assert state()["closed"] == 3
    assert wires[3].send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n")  # the next request waits for its turn
    wires[3].close()
    assert Wire().get(b"/wait_closed/4").answer()[2] == b"true"
    # and one that does not read, too
    wire = Wire().get(b"/flood")
    wire.head()
    wire.reset()
    assert Wire().get(b"/wait_closed/5").answer()[2] == b"true"


def half_closed():
    wire = Wire().send(b"GET /large/300000 HTTP/1.1\r\n" + HOST + b"\r\nGET /echo HTTP/1.1\r\n" + HOST + b"\r\n")
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.answer()[2] == b"x" * 300000
    assert wire.answer()[0] == 200
    wire.is_closed()
    # half a request is none
    wire = Wire().send(b"GET /echo HTTP/1.1\r\n")
    wire.socket.shutdown(socket.SHUT_WR)
    wire.is_closed()


def slow_reader():
    wire = Wire().get(b"/large/30000000")
    for _ in range(20):   # the others do not wait for it
        assert Wire().get(b"/echo").answer()[0] == 200
    assert json.loads(Wire().get(b"/state").answer()[2])["requests"] == 22
    assert wire.answer()[2] == b"x" * 30000000


# ---- misuse


def refusals():
    for status, request in [
        (400, b"nonsense\r\n\r\n"),
        (400, b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: x\n\n"),
        (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n"),
        (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (501, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n"),
    ]:
        expect(status, request)
    wire = Wire().send(b"GET x HTTP/1.1\r\n" + HOST + b"\r\n")
    assert wire.answer()[0] == 400
    wire.is_closed()


def smuggling():
    hidden = b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n"
    post = b"POST /echo HTTP/1.1\r\n" + HOST
    for headers, body in [
        (b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % (5 + len(hidden)), b"0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
        (b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(hidden), b""),
        (b"Content-Length: 0, %d\r\n" % len(hidden), b""),
        (b"Content-Length: +0\r\n", b""),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
        (b"X: y\rTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        (b"X:\r\n Content-Length: 0\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n", b"0x0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"0\n\n"),
        (b"Transfer-Encoding: chunked\r\n", b"1\r\nab\r\n0\r\n\r\n"),
    ]:
        expect(400, post + headers + b"\r\n" + body + hidden)
    expect(501, post + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + hidden)


def too_much():
    """Run with max_target=100, max_head=2000, max_headers=20, max_body=1000."""
    expect(414, b"GET /" + b"x" * 101 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    expect(414, b"GET /" + b"x" * 100000)
    expect(431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 2000)
    expect(431, b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 20)
    expect(413, b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1001\r\n\r\n")
    expect(413, b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n")
    # one that does not stop sending still gets to know why
    wire = Wire().send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000\r\n\r\n")
    try:
        wire.send(b"x" * 3000000)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert wire.answer()[0] == 413


def handler_faults():
    wire = Wire()
    for path in [b"/boom", b"/injection", b"/no_answer"]:
        status, headers, body = wire.get(path).answer()
        assert status == 500 and b"secret" not in body and "x-evil" not in headers, (path, status, body)
    assert state()["failures"] == 3
    assert wire.get(b"/echo").answer()[0] == 200


def lateness():
    """Run with short timeouts."""
    Wire().is_closed()   # idle
    wire = Wire().get(b"/echo")
    wire.answer()
    wire.is_closed()
    for part in [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: y",
                 b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc"]:
        wire = Wire().send(part)
        assert wire.answer()[0] == 408, part
        wire.is_closed()
    # one that does not take its answer
    wire = Wire()
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.get(b"/large/20000000")
    assert Wire().get(b"/wait_open/1").answer()[2] == b"1"


# ---- many


def crowd():
    wires = [Wire() for _ in range(200)]
    for i, wire in enumerate(wires):
        wire.send(b"GET /echo?%d HTTP/1.1\r\n" % i)
    for wire in reversed(wires):
        wire.send(HOST + b"\r\n")
    for i, wire in enumerate(wires):
        status, _, body = wire.answer()
        assert status == 200 and json.loads(body)["path"] == "/echo?%d" % i
    for wire in wires:
        wire.get(b"/hold")
    Wire().get(b"/release").answer()
    # those whose request had not been read at that time
    while True:
        pending = [wire for wire in wires if not wire.buffer]
        if not pending:
            break
        for wire in pending:
            wire.socket.settimeout(0.05)
            try:
                wire.more()
            except TimeoutError:
                pass
        Wire().get(b"/release").answer()
    for wire in wires:
        assert wire.answer()[2] == b"released"


def no_more_than_three():
    """Run with max_connections=3."""
    first, second, third = Wire(), Wire(), Wire()
    for wire in (first, second, third):
        assert wire.get(b"/echo").answer()[0] == 200
    for _ in range(3):   # those that were turned away take nobody's place
        fourth = Wire().get(b"/echo?4")
        status, headers, _ = fourth.answer()
        assert status == 503 and headers["retry-after"] == "1" and headers["connection"] == "close"
        fourth.is_closed()
    seen = json.loads(first.get(b"/state").answer()[2])
    assert seen["requests"] == 4, seen
    second.close()
    first.get(b"/wait_served/2").answer()
    assert json.loads(Wire().get(b"/echo?5").answer()[2])["path"] == "/echo?5"
    assert third.get(b"/echo").answer()[0] == 200


def streams_leave_room():
    """Run with max_streams=3."""
    streams = [Wire().get(b"/held") for _ in range(3)]
    for stream in streams:
        assert stream.head()[0] == 200 and stream.chunk() == b"piece 1\n"
    fourth = Wire().get(b"/held")
    status, headers, _ = fourth.answer()
    assert status == 503 and headers["retry-after"] == "1" and headers["connection"] == "close", (status, headers)
    fourth.is_closed()
    fourth = Wire().get(b"/wait_closed/1")
    assert fourth.answer()[2] == b"true", "the stream that was refused has been closed"
    streams[0].close()
    assert fourth.get(b"/wait_closed/2").answer()[2] == b"true"
    assert fourth.get(b"/stream/2").answer()[0] == 200
    fourth.get(b"/held")
    assert fourth.head()[0] == 200 and fourth.chunk() == b"piece 1\n"


# ---- large bodies

MEGABYTE = b"x" * 1000000


def post(length, headers=b""):
    return b"POST /echo HTTP/1.1\r\n" + HOST + headers + b"Content-Length: %d\r\n\r\n" % length


def bodies_are_freed():
    """Run with max_body=100000000, max_bodies=300000000."""
    before = state()["resident"]
    for _ in range(6):
        wires = [Wire().send(post(60000000)) for _ in range(2)]
        for wire in wires:
            for _ in range(50):
                wire.send(MEGABYTE)
        for wire in wires:
            wire.close()
        assert Wire().get(b"/wait_open/1").answer()[2] == b"1"
    after = state()["resident"]
    assert after - before < 350, (before, after)   # sanitizers keep 256 MB of what was freed


def bodies_share_their_room():
    """Run with max_body=3000000, max_bodies=4000000."""
    first = Wire().send(post(3000000) + MEGABYTE + MEGABYTE)
    second = Wire().send(post(2500000) + MEGABYTE)
    for _ in range(100):   # in steps: the server has read one before the next comes
        assert Wire().send(post(1000) + b"x" * 1000).answer()[0] == 200, "small ones are always welcome"
        second.send(b"x" * 15000)
    status, headers, body = second.answer()
    assert status == 503 and headers["retry-after"] == "1" and headers["connection"] == "close", (status, headers)
    assert first.send(MEGABYTE).answer()[0] == 200
    first.get(b"/echo").answer()   # now its body is forgotten
    assert Wire().send(post(3000000) + MEGABYTE * 3).answer()[0] == 200
    chunked = Wire().send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    assert chunked.send(b"f4240\r\n" + MEGABYTE + b"\r\n0\r\n\r\n").answer()[0] == 200


def strangers_send_in_vain():
    """Run with me="me", max_body=100000000."""
    before = state()["resident"]
    wires = [Wire().send(post(60000000)) for _ in range(3)]
    for wire in wires:
        status, headers, body = wire.answer()
        assert status == 401 and headers["connection"] == "close" and body == b"who are you?"
        for _ in range(50):   # thrown away
            wire.send(MEGABYTE)
    assert state()["resident"] - before < 50
    # large in chunks: as soon as that is seen
    wire = Wire().send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(4):
        wire.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
    assert wire.send(b"1\r\n").answer()[0] == 401
    # nobody is told to go on who is refused
    wire = Wire().send(post(100000, b"Expect: 100-continue\r\n"))
    assert wire.answer()[0] == 401
    wire = Wire().send(post(100000, b"Authorization: me\r\nExpect: 100-continue\r\n"))
    assert wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
    assert wire.send(b"x" * 100000).answer()[0] == 200
    # small ones are the handler's business, and one who is known may go on for long
    assert wire.send(post(65536) + b"x" * 65536).answer()[0] == 200
    for _ in range(3):
        assert wire.send(post(3000000, b"Authorization: me\r\n") + MEGABYTE * 3).answer()[0] == 200


def nothing_leaks():
    before = state()["files"]
    for i in range(300):
        wire = Wire().get(b"/echo")
        if i % 3 == 0:
            wire.answer()
        if i % 3 == 1:
            wire.reset()
        wire.close()
    wire = Wire().get(b"/wait_open/1")
    assert wire.answer()[2] == b"1"
    assert json.loads(wire.get(b"/state").answer()[2])["files"] <= before


# ---- the end


def ends_in_order(end):
    idle, held, stream, half = Wire(), Wire().get(b"/hold"), Wire().get(b"/held"), Wire()
    idle.get(b"/echo").answer()
    stream.head()
    assert stream.chunk() == b"piece 1\n"
    half.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\n")
    control = Wire().get(b"/echo")
    control.answer()
    end(control)
    idle.is_closed()
    assert list(stream.chunks()) == [], "the stream has an end"
    status, headers, body = half.send(b"abc").answer()
    assert status == 200 and json.loads(body)["body"] == "abc" and headers["connection"] == "close"
    return held


def stop_by_handler():
    def end(control):
        status, headers, body = control.get(b"/stop").answer()
        assert body == b"stopping" and headers["connection"] == "close"

    held = ends_in_order(end)
    assert held.answer()[2] == b"released"
    try:
        Wire()
        raise AssertionError("it still listens")
    except ConnectionRefusedError:
        pass


def interrupt():
    held = ends_in_order(lambda _: os.kill(PID, signal.SIGINT))
    held.is_closed()   # nobody releases it within its time of grace


def terminate():
    ends_in_order(lambda _: os.kill(PID, signal.SIGTERM)).close()


def second_interrupt():
    held = Wire().get(b"/hold")
    idle = Wire().get(b"/echo")
    idle.answer()
    os.kill(PID, signal.SIGINT)
    idle.is_closed()   # the first one has been heard
    os.kill(PID, signal.SIGINT)
    held.is_closed()


# ---- other clients


def with_requests():
    import requests

    base = "http://127.0.0.1:%d" % PORT
    session = requests.Session()
    seen = session.post(base + "/echo?q=1", json={"a": [1, 2]}).json()
    assert json.loads(seen["body"]) == {"a": [1, 2]}
    seen = session.put(base + "/echo", data=(piece for piece in [b"a", b"bc"])).json()
    assert seen["body"] == "abc" and seen["headers"]["transfer-encoding"] == "chunked"
    assert session.get(base + "/echo", data="body of a GET").json()["body"] == "body of a GET"
    with session.get(base + "/held", stream=True) as response:
        assert next(response.iter_lines()) == b"piece 1"
    assert session.get(base + "/wait_closed/1").text == "true"


if __name__ == "__main__":
    PORT = int(sys.argv[2])
    PID = int(sys.argv[3])
    globals()[sys.argv[1]]()
