"""What the stub server does on order: one function per path. A route returns whether the connection may live on."""

import base64
import email.utils
import gzip
import hashlib
import json
import select
import time
import zlib

ROUTES = {}
READS_ITS_OWN_BODY = set()


def route(path, own_body=False):
    def register(function):
        ROUTES[path] = function
        if own_body:
            READS_ITS_OWN_BODY.add(path)
        return function
    return register


def find_route(path):
    """The exact path, or the longest registered prefix ending in a slash."""
    if path in ROUTES:
        return path
    prefixes = [known for known in ROUTES if known.endswith("/") and known != "/" and path.startswith(known)]
    return max(prefixes, key=len) if prefixes else None


# plain answers -----------------------------------------------------------------------------------------------
@route("/")
def root(conn, request):
    return conn.answer(request, 200, "ok\n")


@route("/echo")
def echo(conn, request):
    """The request back as JSON."""
    return conn.answer_json(request, {
        "method": request.method, "target": request.target, "path": request.path, "query": request.query,
        "headers": dict(request.lower_headers), "header_list": request.headers,
        "body": request.body.decode("latin-1"), "length": len(request.body),
        "sha256": hashlib.sha256(request.body).hexdigest(), "listener": conn.listener,
        "connection": conn.number, "number": request.number, "version": request.version})


@route("/status/")
def status(conn, request):
    """/status/418?body=text&header=Name:value&header=…"""
    headers = [tuple(value.split(":", 1)) for name, value in request.all_query if name == "header"]
    code = int(request.path.rsplit("/", 1)[1])
    return conn.answer(request, code, request.query.get("body", ""), headers, request.query.get("kind", "text/plain"))


@route("/big")
def big(conn, request):
    """`bytes` bytes with a length, in pieces."""
    left = request.number_of("bytes", 1 << 20)
    conn.send(conn.head(200, [("Content-Type", "application/octet-stream"), ("Content-Length", left)]))
    if request.method == "HEAD":
        return True
    block = bytes(range(256)) * 256
    while left:
        conn.send(block[:left])
        left -= min(left, len(block))
    return True


@route("/chunked")
def chunked(conn, request):
    """`n` chunks, then trailers when asked."""
    headers = [("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")]
    if "trailers" in request.query:
        headers.append(("Trailer", "X-Sum"))
    conn.send(conn.head(200, headers))
    for number in range(request.number_of("n", 3)):
        conn.chunk(b"chunk %d\n" % number)
    conn.send(b"0\r\n" + (b"X-Sum: 42\r\n" if "trailers" in request.query else b"") + b"\r\n")
    return True


@route("/interim")
def interim(conn, request):
    """Informational answers before the real one."""
    conn.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    return conn.answer(request, 200, "after interim")


@route("/http10")
def http10(conn, request):
    conn.send(conn.head(200, [("Content-Type", "text/plain")], "HTTP/1.0") + b"until the end")
    return False


@route("/until_close")
def until_close(conn, request):
    conn.send(conn.head(200, [("Connection", "close")]) + b"until the end")
    return False


@route("/huge_headers")
def huge_headers(conn, request):
    """`count` header fields of `bytes` bytes each."""
    value = "h" * request.number_of("bytes", 1000)
    headers = [("X-Huge-%d" % number, value) for number in range(request.number_of("count", 1))]
    return conn.answer(request, 200, "ok", headers)


# time --------------------------------------------------------------------------------------------------------
@route("/delay")
def delay(conn, request):
    conn.pause(request.number_of("seconds", 0.2))
    return conn.answer(request, 200, "late")


@route("/silence")
def silence(conn, request):
    conn.pause()
    return False


@route("/slow_body")
def slow_body(conn, request):
    """`n` bytes, one every `delay` seconds."""
    count = request.number_of("n", 10)
    conn.send(conn.head(200, [("Content-Length", count)]))
    for number in range(count):
        conn.send(b"%d" % (number % 10))
        conn.pause(request.number_of("delay", 0.02))
    return True


@route("/slow_head")
def slow_head(conn, request):
    """A correct answer, one byte every `delay` seconds."""
    for byte in conn.head(200, [("Content-Length", 2)]) + b"ok":
        conn.send(bytes([byte]))
        conn.pause(request.number_of("delay", 0.002))
    return True


@route("/stall")
def stall(conn, request):
    """Headers and `sent` bytes of `length`, then nothing."""
    conn.send(conn.head(200, [("Content-Length", request.number_of("length", 100))]))
    conn.send(b"x" * request.number_of("sent", 10))
    conn.pause()
    return False


@route("/endless")
def endless(conn, request):
    """A chunked body that never ends: `size` bytes a chunk, `delay` seconds apart."""
    conn.send(conn.head(200, [("Transfer-Encoding", "chunked")]))
    block = b"e" * request.number_of("size", 4096)
    wait = request.number_of("delay", 0)
    while True:
        conn.chunk(block)
        if wait:
            conn.pause(wait)


@route("/hold")
def hold(conn, request):
    """Answers when the control listener releases `key`."""
    key, ledger = request.query.get("key", "hold"), conn.ledger
    wait_with(conn, ledger, key, lambda: ledger.released.get(key))
    return conn.answer(request, 200, "released")


@route("/barrier")
def barrier(conn, request):
    """Answers when `n` requests with the same `key` wait together."""
    key, ledger, wanted = request.query.get("key", "barrier"), conn.ledger, request.number_of("n", 2)

    def complete():
        if ledger.waiting.get(key, 0) >= wanted:
            ledger.released[key] = True
        return ledger.released.get(key)
    wait_with(conn, ledger, key, complete)
    return conn.answer(request, 200, "together")


def wait_with(conn, ledger, key, until):
    with ledger.changed:
        ledger.waiting[key] = ledger.waiting.get(key, 0) + 1
        ledger.changed.notify_all()
    try:
        conn.pause(until=until)
    finally:
        with ledger.changed:
            ledger.waiting[key] = ledger.waiting.get(key, 1) - 1
            ledger.changed.notify_all()


# broken answers ----------------------------------------------------------------------------------------------
@route("/cut")
def cut(conn, request):
    """Promises `length` bytes, sends `sent`, then FIN (or a reset with rst=1)."""
    conn.send(conn.head(200, [("Content-Length", request.number_of("length", 100))]))
    conn.send(b"c" * request.number_of("sent", 50))
    return conn.abort() if "rst" in request.query else False


@route("/cut_chunked")
def cut_chunked(conn, request):
    """Chunks without the last one; half=1 stops inside a chunk."""
    conn.send(conn.head(200, [("Transfer-Encoding", "chunked")]))
    conn.chunk(b"whole")
    if "half" in request.query:
        conn.send(b"ff\r\nhalf")
    return False


@route("/bad_chunk")
def bad_chunk(conn, request):
    conn.send(conn.head(200, [("Transfer-Encoding", "chunked")]) + b"zz\r\nnot a size\r\n0\r\n\r\n")
    return False


@route("/cut_head")
def cut_head(conn, request):
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    return False


@route("/too_much")
def too_much(conn, request):
    """More bytes than promised, on a connection that claims to live on."""
    conn.send(conn.head(200, [("Content-Length", 4)]) + b"goodHTTP/1.1 200 Smuggled\r\nContent-Length: 4\r\n\r\nevil")
    return True


@route("/bad_length")
def bad_length(conn, request):
    conn.send(conn.head(200, [("Content-Length", request.query.get("value", "many"))]) + b"body")
    return False


@route("/two_lengths")
def two_lengths(conn, request):
    conn.send(conn.head(200, [("Content-Length", 4), ("Content-Length", 8)]) + b"bodybody")
    return False


@route("/rst")
def rst(conn, request):
    return conn.abort()


@route("/close")
def close(conn, request):
    """Closes without an answer."""
    return False


@route("/garbage")
def garbage(conn, request):
    conn.send(b"\x16\x03\x01 this is not HTTP at all\r\n\r\n")
    return False


@route("/close_after")
def close_after(conn, request):
    """A good keep-alive answer, then the connection goes away."""
    conn.answer(request, 200, "bye")
    return False


@route("/close_next")
def close_next(conn, request):
    """A good keep-alive answer; the next request on this connection meets a close (how=rst: a reset)."""
    conn.close_at_next = request.query.get("how", "fin")
    return conn.answer(request, 200, "one more?")


@route("/flaky")
def flaky(conn, request):
    """Fails the first `times` requests with the same `key` as `how` says, then answers 200."""
    count = conn.ledger.count(request.query.get("key", "flaky"))
    if count > request.number_of("times", 1):
        return conn.answer_json(request, {"attempts": count, "body": request.body.decode("latin-1")})
    how = request.query.get("how", "503")
    if how.isdigit():
        headers, wait = [], request.query.get("retry_after")
        if wait is not None:
            if "date" in request.query:
                wait = email.utils.formatdate(time.time() + float(wait), usegmt=True)
            headers.append(("Retry-After", wait))
        return conn.answer(request, int(how), "try again", headers)
    return ROUTES["/" + how](conn, request)


@route("/raw")
def raw(conn, request):
    """Sends the bytes of the body (or of `base64`) as they are, `step` at a time, then `late` after a word from
    /release?key=…; counts `key` when they are sent. end: keep (as if nothing had happened), fin, rst or hang."""
    data = base64.b64decode(request.query["base64"]) if "base64" in request.query else request.body
    key, step = request.query.get("key", "raw"), request.number_of("step", len(data) or 1)
    for start in range(0, len(data), step):
        conn.send(data[start:start + step])
    if "late" in request.query:
        wait_with(conn, conn.ledger, key, lambda: conn.ledger.released.get(key))
        conn.send(request.query["late"].encode("latin-1"))
    conn.ledger.count(key)
    end = request.query.get("end", "keep")
    if end == "hang":
        conn.pause()
    return conn.abort() if end == "rst" else end == "keep"


# redirects ---------------------------------------------------------------------------------------------------
@route("/redirect")
def redirect(conn, request):
    """To `to` with `code`; `n` counts down over this same path first."""
    left = request.number_of("n", 0)
    to = request.query.get("to", "/echo")
    if left > 0:
        to = "/redirect?n=%d&to=%s" % (left - 1, to)
    return conn.answer(request, int(request.query.get("code", "302")), "moved", [("Location", to)])


@route("/redirect_loop")
def redirect_loop(conn, request):
    return conn.answer(request, 302, "", [("Location", "/redirect_loop")])


@route("/redirect_nowhere")
def redirect_nowhere(conn, request):
    return conn.answer(request, 302, "no location")


# compression -------------------------------------------------------------------------------------------------
def _compress(data, how):
    if how == "gzip":
        return gzip.compress(data)
    squeeze = zlib.compressobj(6, zlib.DEFLATED, -15 if how == "raw" else 15)
    return squeeze.compress(data) + squeeze.flush()


@route("/compressed")
def compressed(conn, request):
    """`bytes` bytes as gzip, deflate or raw deflate; cut=1 drops the end, corrupt=1 spoils it."""
    how = request.query.get("how", "gzip")
    plain = b"all work and no play " * (request.number_of("bytes", 2100) // 21)
    body = _compress(plain, how)
    if "cut" in request.query:
        body = body[:len(body) // 2]
    if "corrupt" in request.query:
        body = body[:12] + b"\xff\xff\xff\xff" + body[16:]
    headers = [("Content-Encoding", "gzip" if how == "gzip" else "deflate"), ("X-Plain-Length", len(plain))]
    return conn.answer(request, 200, body, headers)


@route("/bomb")
def bomb(conn, request):
    """`bytes` zeros in a thousandth of that."""
    squeeze, left, block = zlib.compressobj(9, zlib.DEFLATED, 31), request.number_of("bytes", 1 << 28), bytes(1 << 20)
    conn.send(conn.head(200, [("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")]))
    while left > 0:
        piece = squeeze.compress(block[:left])
        left -= len(block)
        if piece:
            conn.chunk(piece)
    conn.chunk(squeeze.flush())
    conn.send(b"0\r\n\r\n")
    return True


# event streams -----------------------------------------------------------------------------------------------
SAMPLE_EVENTS = (b"\xef\xbb\xbf: welcome\r\n\r\n"
                 b"event: greeting\r\nid: 1\r\ndata: {\"text\": \"gr\xc3\xbc\xc3\x9fe\"}\r\n\r\n"
                 b"data: first\ndata:second\n\nid: 2\rdata: only CR\r\rretry: 1500\nevent: nothing\n\n"
                 b"event: last\ndata\n\ndata: never finished")


@route("/sse")
def sse(conn, request):
    """Events in pieces. GET: a tricky sample in steps of `step` bytes. POST: {"pieces": […] (or "base64": […]),
    "delay": seconds, "end": "done" | "cut" | "rst" | "hang"}."""
    order = json.loads(request.body) if request.body else {}
    if "base64" in order:
        pieces = [base64.b64decode(piece) for piece in order["base64"]]
    elif "pieces" in order:
        pieces = [piece.encode() for piece in order["pieces"]]
    else:
        step = request.number_of("step", 1)
        pieces = [SAMPLE_EVENTS[i:i + step] for i in range(0, len(SAMPLE_EVENTS), step)]
    end, wait = order.get("end", request.query.get("end", "done")), order.get("delay", request.number_of("delay", 0))
    conn.send(conn.head(200, [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"),
                              ("Transfer-Encoding", "chunked")]))
    for piece in pieces:
        if piece:
            conn.chunk(piece)
        if wait:
            conn.pause(wait)
    if end == "hang":
        conn.pause()
    if end == "rst":
        return conn.abort()
    if end == "done":
        conn.send(b"0\r\n\r\n")
    return end == "done"


@route("/sse_endless")
def sse_endless(conn, request):
    """Events for ever, `delay` seconds apart; comments=1 sends only comments after the first event."""
    wait = request.number_of("delay", 0)
    conn.send(conn.head(200, [("Content-Type", "text/event-stream"), ("Connection", "close")]))
    number = 0
    while True:
        number += 1
        only_comments = "comments" in request.query and number > 1
        conn.send(b": alive\n\n" if only_comments else b"id: %d\ndata: %d\n\n" % (number, number))
        if wait:
            conn.pause(wait)


# uploads -----------------------------------------------------------------------------------------------------
@route("/upload", own_body=True)
def upload(conn, request):
    """Reads `step` bytes every `delay` seconds; answers with length and digest."""
    digest, total = hashlib.sha256(), 0
    for piece in conn.body_pieces(request, request.number_of("step", 65536)):
        digest.update(piece)
        total += len(piece)
        if "delay" in request.query:
            conn.pause(request.number_of("delay", 0.01))
    return conn.answer_json(request, {"length": total, "sha256": digest.hexdigest(),
                                      "chunked": request.header("transfer-encoding") == "chunked",
                                      "expect": request.header("expect")})


@route("/upload_refused", own_body=True)
def upload_refused(conn, request):
    """Answers 413 without reading the body."""
    conn.answer(request, 413, "too large", [("Connection", "close")])
    conn.pause(2)
    return False


@route("/upload_early", own_body=True)
def upload_early(conn, request):
    """Answers before it reads the body, which it then reads and would go on: once /release?key=… came, where there is
    a key. end=rst: resets instead."""
    key, ledger = request.query.get("key"), conn.ledger
    conn.answer(request, 200, "enough")
    if request.query.get("end") == "rst":
        return conn.abort()
    with ledger.changed:
        ledger.changed.wait_for(lambda: key is None or ledger.released.get(key), 10)
    for _ in conn.body_pieces(request):
        pass
    return True


@route("/upload_rst", own_body=True)
def upload_rst(conn, request):
    """Resets after the first `after` bytes of the body."""
    conn.read_exact(min(request.number_of("after", 1000), int(request.header("content-length") or 1000)))
    return conn.abort()


@route("/upload_stuck", own_body=True)
def upload_stuck(conn, request):
    """Never reads the body. Lasts a second: the FIN of a client that gave up is stuck behind the unread bytes."""
    poller = select.poll()
    poller.register(conn.sock, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    poller.poll(1000)
    return conn.abort()
