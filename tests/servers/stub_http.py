"""Plain HTTP/1.1 plumbing of the stub server: connections, requests, answers. Standard library only."""

import json
import select
import socket
import struct
import threading
import urllib.parse


class ClientGone(Exception):
    """The client closed or reset its side."""


class Ledger:
    """What happened, for tests to ask: accepts and open connections per listener, and every request."""

    def __init__(self):
        self.changed = threading.Condition()
        self.accepted = {}
        self.open = {}
        self.requests = []
        self.waiting = {}
        self.released = {}
        self.counters = {}

    def opened(self, listener):
        with self.changed:
            self.accepted[listener] = self.accepted.get(listener, 0) + 1
            self.open[listener] = self.open.get(listener, 0) + 1
            self.changed.notify_all()
            return self.accepted[listener]

    def closed(self, listener):
        with self.changed:
            self.open[listener] -= 1
            self.changed.notify_all()

    def record(self, request):
        with self.changed:
            self.requests.append({
                "listener": request.connection.listener, "connection": request.connection.number,
                "number": request.number, "method": request.method, "target": request.target,
                "path": request.path, "headers": dict(request.lower_headers)})
            self.changed.notify_all()

    def count(self, key):
        """How often `key` was counted, this time included."""
        with self.changed:
            self.counters[key] = self.counters.get(key, 0) + 1
            self.changed.notify_all()
            return self.counters[key]

    def reset(self):
        with self.changed:
            for table in (self.accepted, self.counters, self.waiting):
                table.clear()
            self.requests.clear()

    def snapshot(self):
        with self.changed:
            return {"accepted": dict(self.accepted), "open": dict(self.open), "requests": len(self.requests),
                    "waiting": dict(self.waiting), "counters": dict(self.counters)}


class Request:
    def __init__(self, connection, method, target, version, headers, number):
        self.connection, self.method, self.target, self.version = connection, method, target, version
        self.headers, self.number = headers, number
        self.lower_headers = [(name.lower(), value) for name, value in headers]
        path, _, query = target.partition("?")
        self.path = urllib.parse.unquote(path)
        self.query = {name: values[0] for name, values in
                      urllib.parse.parse_qs(query, keep_blank_values=True).items()}
        self.all_query = urllib.parse.parse_qsl(query, keep_blank_values=True)
        self.body = b""

    def header(self, name):
        for known, value in self.lower_headers:
            if known == name:
                return value
        return None

    def number_of(self, name, default):
        value = self.query.get(name)
        return default if value is None else float(value) if "." in value else int(value)


class Connection:
    """One accepted socket; everything is blocking, one thread each."""

    def __init__(self, sock, listener, number, ledger):
        self.sock, self.listener, self.number, self.ledger = sock, listener, number, ledger
        self.buffer = b""
        self.served = 0
        self.aborted = False
        self.close_at_next = None       # "fin" or "rst": what the next request on this connection meets
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # reading -------------------------------------------------------------------------------------------------
    def receive(self, size=65536):
        try:
            data = self.sock.recv(size)
        except OSError as problem:
            raise ClientGone from problem
        if not data:
            raise ClientGone
        return data

    def read_until(self, mark, limit=1 << 22):
        while mark not in self.buffer:
            if len(self.buffer) > limit:
                raise ClientGone
            self.buffer += self.receive()
        head, _, self.buffer = self.buffer.partition(mark)
        return head

    def read_exact(self, size):
        parts, have = [self.buffer], len(self.buffer)
        while have < size:
            parts.append(self.receive())
            have += len(parts[-1])
        data = b"".join(parts)
        self.buffer = data[size:]
        return data[:size]

    def read_request(self):
        head = self.read_until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head.split("\r\n")
        method, target, version = first.split(" ", 2)
        headers = []
        for line in lines:
            name, _, value = line.partition(":")
            headers.append((name, value.strip()))
        self.served += 1
        return Request(self, method, target, version, headers, self.served)

    def body_pieces(self, request, step=65536):
        """The request's body as it comes."""
        if request.header("transfer-encoding"):
            while True:
                size = int(self.read_until(b"\r\n").split(b";")[0], 16)
                if size:
                    yield self.read_exact(size)
                    self.read_exact(2)
                else:
                    while self.read_until(b"\r\n"):
                        pass
                    return
        else:
            left = int(request.header("content-length") or 0)
            while left:
                piece = self.read_exact(min(step, left))
                left -= len(piece)
                yield piece

    def read_body(self, request):
        request.body = b"".join(self.body_pieces(request))
        return request.body

    # writing -------------------------------------------------------------------------------------------------
    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError as problem:
            raise ClientGone from problem

    def head(self, status, headers, version="HTTP/1.1", reason="Stub"):
        lines = ["%s %d %s" % (version, status, reason)] + ["%s: %s" % pair for pair in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def answer(self, request, status=200, body=b"", headers=(), kind="text/plain"):
        """A whole, correct answer in one segment."""
        headers = list(headers)
        if isinstance(body, str):
            body = body.encode()
        if status >= 200 and status not in (204, 304):
            headers += [("Content-Type", kind), ("Content-Length", len(body))]
        else:
            body = b""
        head = self.head(status, headers)
        self.send(head if request.method == "HEAD" else head + body)
        return True

    def answer_json(self, request, value, status=200, headers=()):
        return self.answer(request, status, json.dumps(value), headers, "application/json")

    def chunk(self, data):
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    # ends ----------------------------------------------------------------------------------------------------
    def abort(self):
        """Closes with a reset instead of a FIN."""
        self.aborted = True
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.close()
        return False

    def close(self):
        try:
            self.sock.close()
        except OSError:
            pass

    def pause(self, seconds=None, until=None):
        """Waits for a time, for a condition, or (with neither) for ever; ends early when the client goes."""
        waited = 0.0
        while (seconds is None or waited < seconds) and not (until and until()):
            step = 0.01 if seconds is None else min(0.01, seconds - waited)
            try:
                readable, _, _ = select.select([self.sock], [], [], step)
            except (OSError, ValueError) as problem:
                raise ClientGone from problem
            if readable:
                self.buffer += self.receive()
            waited += step
