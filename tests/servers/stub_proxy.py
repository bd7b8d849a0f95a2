"""A minimal forward and CONNECT proxy for the stub server."""

import base64
import select
import socket
import urllib.parse


def _tunnel(conn, upstream):
    upstream.sendall(conn.buffer)
    conn.buffer = b""
    pair = [conn.sock, upstream]
    while True:
        readable, _, _ = select.select(pair, [], [])
        for end in readable:
            data = end.recv(65536)
            if not data:
                return
            (upstream if end is conn.sock else conn.sock).sendall(data)


def _split(authority, default):
    host, _, port = authority.rpartition(":")
    return (host.strip("[]"), int(port)) if host else (authority, default)


def serve_proxy(conn, credentials=None):
    """One client connection: CONNECT tunnels, absolute targets are fetched one after the other."""
    while True:
        request = conn.read_request()
        conn.ledger.record(request)
        wanted = credentials and "Basic " + base64.b64encode(credentials.encode()).decode()
        if wanted and request.header("proxy-authorization") != wanted:
            conn.read_body(request)
            conn.answer(request, 407, "who are you", [("Proxy-Authenticate", 'Basic realm="stub"')])
            continue
        if request.method == "CONNECT":
            host, port = _split(request.target, 443)
            try:
                upstream = socket.create_connection((host, port), 5)
            except OSError:
                conn.answer(request, 502, "no way there")
                continue
            conn.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with upstream:
                _tunnel(conn, upstream)
            return
        if not _forward(conn, request):
            return


def _forward(conn, request):
    target = urllib.parse.urlsplit(request.target)
    conn.read_body(request)
    if not target.netloc:
        return conn.answer(request, 400, "a proxy wants an absolute target")
    path = target.path or "/"
    if target.query:
        path += "?" + target.query
    lines = ["%s %s HTTP/1.1" % (request.method, path), "Via: 1.1 stub", "Connection: close"]
    for name, value in request.headers:
        if not name.lower().startswith("proxy-") and name.lower() not in ("connection", "transfer-encoding",
                                                                          "content-length"):
            lines.append("%s: %s" % (name, value))
    if request.body or request.header("content-length"):
        lines.append("Content-Length: %d" % len(request.body))
    try:
        upstream = socket.create_connection(_split(target.netloc.rpartition("@")[2], 80), 5)
    except OSError:
        return conn.answer(request, 502, "no way there")
    with upstream:
        upstream.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + request.body)
        while True:
            data = upstream.recv(65536)
            if not data:
                return False
            conn.send(data)
