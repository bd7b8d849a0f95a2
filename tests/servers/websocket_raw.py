"""A WebSocket server that breaks rules on order. Prints one JSON line with its port; ends when its input closes.

The client's path says what happens: /name?… with
  answer=       how the handshake is answered (see ANSWERS); default: as it should be
  send=         hexadecimal bytes that follow the answer at once
  cut=N         all of that (answer and bytes) goes out in two writes, the first of N bytes, with Nagle's algorithm off
  drip=1        … or byte by byte
  then=         read until the client's close frame, then close (default); linger (read on after that); close (FIN at
                once), reset (RST at once), hold (do not read, until /release), flood (send `repeat` for ever)
  repeat=       hexadecimal bytes to send for ever
  body=N        size of the body of an answer that refuses

GET /log on the control port: one entry per connection that is over: path, headers of the request, what the client sent
after it (its frames: opcode, text in latin-1), how it ended. /log?wait=N waits for N entries; /open?wait=N for N
connections; /release lets those go that hold; /reset forgets. Standard library only.
"""

import base64
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
import urllib.parse

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
WAIT = 10

changed = threading.Condition()
entries = []
count = {"open": 0, "round": 0}


def accept_of(key):
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def switching(request, **changes):
    """The answer that agrees, with headers changed (None: left out)."""
    headers = {"Upgrade": "websocket", "Connection": "Upgrade",
               "Sec-WebSocket-Accept": accept_of(request.get("sec-websocket-key", ""))}
    for name, value in changes.items():
        headers[name.replace("_", "-")] = value
    lines = ["%s: %s" % pair for pair in headers.items() if pair[1] is not None]
    return ("HTTP/1.1 101 Switching Protocols\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def refusal(status, *lines):
    def answer(request, query):
        body = b"x" * int(query.get("body", 5))
        head = ["HTTP/1.1 %d Nope" % status, "Content-Length: %d" % len(body), *lines]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body
    return answer


ANSWERS = {
    "good": lambda request, query: switching(request),
    "lower_case": lambda request, query: switching(request, Upgrade="WebSocket", Connection="keep-alive, upgrade"),
    "interim": lambda request, query: b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + switching(request),
    "no_upgrade": lambda request, query: switching(request, Upgrade=None),
    "wrong_upgrade": lambda request, query: switching(request, Upgrade="h2c"),
    "no_connection": lambda request, query: switching(request, Connection=None),
    "no_accept": lambda request, query: switching(request, Sec_WebSocket_Accept=None),
    "wrong_accept": lambda request, query: switching(request, Sec_WebSocket_Accept=accept_of("another")),
    "extension": lambda request, query: switching(request, Sec_WebSocket_Extensions="permessage-deflate"),
    "subprotocol": lambda request, query: switching(request, Sec_WebSocket_Protocol="never-heard-of"),
    "two_subprotocols": lambda request, query: switching(request, Sec_WebSocket_Protocol="a, b"),
    "first_subprotocol": lambda request, query: switching(
        request, Sec_WebSocket_Protocol=request.get("sec-websocket-protocol", "").split(",")[0]),
    "200": refusal(200), "301": refusal(301, "Location: ws://elsewhere.example/"), "401": refusal(401),
    "403": refusal(403), "404": refusal(404), "503": refusal(503),
    "426": refusal(426, "Upgrade: websocket", "Sec-WebSocket-Version: 99"),
    "chunked": lambda request, query: (b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n" +
                                       (b"64\r\n" + b"y" * 100 + b"\r\n") * 200 + b"0\r\n\r\n"),
    "endless_body": lambda request, query: b"HTTP/1.1 500 Oh\r\n\r\n" + b"z" * 100000,
    "cut_body": lambda request, query: b"HTTP/1.1 500 Oh\r\nContent-Length: 100\r\n\r\nhalf",
    "garbage": lambda request, query: b"220 mail.example ESMTP ready\r\n",
    "binary": lambda request, query: bytes(range(256)),
    "old": lambda request, query: b"HTTP/0.9 101 x\r\n\r\n",
    "long_head": lambda request, query: b"HTTP/1.1 101 x\r\n" + b"X: y\r\n" * 100000,
    "long_line": lambda request, query: b"HTTP/1.1 101 x\r\nX: " + b"y" * 600000,
    "no_colon": lambda request, query: b"HTTP/1.1 101 x\r\nwhat is this\r\n\r\n",
    "nothing": lambda request, query: b"",
    "half": lambda request, query: switching(request)[:60],
}


class Gone(Exception):
    pass


class Peer:
    def __init__(self, sock):
        self.sock, self.buffer, self.frames, self.end = sock, b"", [], None

    def more(self):
        try:
            data = self.sock.recv(65536)
        except OSError:
            self.end = "reset"
            raise Gone from None
        if not data:
            self.end = "closed"
            raise Gone
        self.buffer += data

    def take(self, n):
        while len(self.buffer) < n:
            self.more()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def head(self):
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head.decode("latin-1")

    def frame(self):
        first, second = self.take(2)
        length = second & 127
        if length == 126:
            length, = struct.unpack("!H", self.take(2))
        elif length == 127:
            length, = struct.unpack("!Q", self.take(8))
        mask = self.take(4) if second & 128 else None
        data = self.take(length)[:200]
        if mask:
            data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        frame = {"opcode": first & 15, "fin": bool(first & 128), "masked": bool(mask), "length": length,
                 "text": data.decode("latin-1")}
        if first & 15 == 8 and length >= 2:
            frame["code"] = struct.unpack("!H", data[:2])[0]
        self.frames.append(frame)
        return first & 15

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError:
            self.end = "reset"
            raise Gone from None


def send_as_told(peer, data, query):
    if "drip" in query:
        for i in range(len(data)):
            peer.send(data[i:i + 1])
    elif "cut" in query:
        peer.send(data[:int(query["cut"])])
        time.sleep(0.001)           # so that the two are read apart
        peer.send(data[int(query["cut"]):])
    else:
        peer.send(data)


def go_on(peer, query):
    then = query.get("then", "read")
    if then == "close":
        peer.sock.shutdown(socket.SHUT_WR)
    elif then == "reset":
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.end = "our reset"
        raise Gone
    elif then == "hold":
        with changed:
            wanted = count["round"]
            changed.wait_for(lambda: count["round"] != wanted, WAIT)
    elif then == "flood":
        threading.Thread(target=flood, args=(peer, bytes.fromhex(query["repeat"]) * 1000), daemon=True).start()
    while peer.frame() != 8 or then == "linger":
        pass
    peer.end = "close frame"


def flood(peer, data):
    try:
        while True:
            peer.sock.sendall(data)
    except OSError:
        pass


def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer, entry = Peer(sock), {}
    with changed:
        count["open"] += 1
        changed.notify_all()
    try:
        lines = peer.head().split("\r\n")
        request = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            request[name.lower()] = value.strip()
        path = lines[0].split(" ")[1]
        entry.update(path=path, line=lines[0], headers=request)
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))
        answer = ANSWERS[query.get("answer", "good")](request, query)
        send_as_told(peer, answer + bytes.fromhex(query.get("send", "")), query)
        go_on(peer, query)
    except Gone:
        pass
    sock.close()
    with changed:
        count["open"] -= 1
        entries.append(dict(entry, frames=peer.frames, end=peer.end))
        changed.notify_all()


def control(sock):
    peer = Peer(sock)
    try:
        while True:
            target = urllib.parse.urlsplit(peer.head().split(" ")[1])
            wait = int(dict(urllib.parse.parse_qsl(target.query)).get("wait", 0))
            with changed:
                if target.path == "/reset":
                    entries.clear()
                elif target.path == "/release":
                    count["round"] += 1
                    changed.notify_all()
                elif target.path == "/open":
                    changed.wait_for(lambda: count["open"] == wait, WAIT)
                else:
                    changed.wait_for(lambda: len(entries) >= wait, WAIT)
                body = json.dumps(entries if target.path == "/log" else count).encode()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    except Gone:
        pass
    sock.close()


def listen(handle):
    sock = socket.create_server(("127.0.0.1", 0), backlog=512)

    def accept_all():
        while True:
            threading.Thread(target=handle, args=(sock.accept()[0],), daemon=True).start()
    threading.Thread(target=accept_all, daemon=True).start()
    return sock.getsockname()[1]


if __name__ == "__main__":
    print(json.dumps({"ws": listen(serve), "control": listen(control)}), flush=True)
    sys.stdin.read()
    os._exit(0)
