"""A server that does, on order, what a real one will not: see stub_routes.py for the paths.

Prints one JSON line with all its addresses and ends when its standard input closes. Standard library only.

Listeners (the line's keys; each value is a port on 127.0.0.1 unless said otherwise):
  http, other (on 127.0.0.2), tls, tls_wrong_name     the paths of stub_routes.py; `ca_file` signs the TLS ones
  proxy, proxy_auth (wants user:secret)               forward and CONNECT proxies
  silent     accepts and never says a word            garbage   talks before it is asked, and not HTTP
  reset      resets every connection after accept     refused   nobody listens there
  full       its backlog is full: connecting hangs    control   questions about all of the above, not counted itself

Control paths: /stats, /log, /reset, /release?key=…, and /wait?listener=…&open=N | accepted=N, /wait?key=…&waiting=N,
/wait?key=…&counted=N, which answer when the condition holds (or with "timeout": true after ten seconds).
"""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import stub_routes                                                      # noqa: E402
from stub_http import ClientGone, Connection, Ledger                    # noqa: E402
from stub_proxy import serve_proxy                                      # noqa: E402

WAIT_SECONDS = 10


def serve_http(conn):
    while True:
        request = conn.read_request()
        conn.ledger.record(request)
        if conn.close_at_next:
            if conn.close_at_next == "rst":
                conn.abort()
            return
        known = stub_routes.find_route(request.path)
        if known not in stub_routes.READS_ITS_OWN_BODY:
            if (request.header("expect") or "").lower() == "100-continue":
                conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            conn.read_body(request)
        if known is None:
            conn.answer(request, 404, "no such path")
        elif not stub_routes.ROUTES[known](conn, request):
            return
        if (request.header("connection") or "").lower() == "close":
            return


def serve_silent(conn):
    conn.pause()


def serve_garbage(conn):
    conn.send(b"220 mail.example ESMTP ready\r\n500 what\r\n")
    conn.pause(1)


def serve_reset(conn):
    conn.abort()


def control_wait(ledger, query):
    """Holds until the named count is reached; the numbers are compared exactly, except `accepted` (at least)."""
    def holds():
        listener = query.get("listener", "http")
        checks = []
        if "open" in query:
            checks.append(ledger.open.get(listener, 0) == int(query["open"]))
        if "accepted" in query:
            checks.append(ledger.accepted.get(listener, 0) >= int(query["accepted"]))
        if "requests" in query:
            checks.append(len(ledger.requests) >= int(query["requests"]))
        if "waiting" in query:
            checks.append(ledger.waiting.get(query.get("key", "hold"), 0) == int(query["waiting"]))
        if "counted" in query:
            checks.append(ledger.counters.get(query.get("key"), 0) >= int(query["counted"]))
        return all(checks)
    with ledger.changed:
        return ledger.changed.wait_for(holds, WAIT_SECONDS)


def serve_control(conn):
    ledger = conn.ledger
    while True:
        request = conn.read_request()
        conn.read_body(request)
        if request.path == "/wait":
            reached = control_wait(ledger, request.query)
            conn.answer_json(request, dict(ledger.snapshot(), timeout=not reached))
        elif request.path == "/log":
            with ledger.changed:
                lines = [line for line in ledger.requests if request.query.get("path") in (None, line["path"])]
            conn.answer_json(request, lines)
        elif request.path == "/reset":
            ledger.reset()
            conn.answer_json(request, ledger.snapshot())
        elif request.path == "/release":
            with ledger.changed:
                ledger.released[request.query.get("key", "hold")] = True
                ledger.changed.notify_all()
            conn.answer_json(request, ledger.snapshot())
        else:
            conn.answer_json(request, ledger.snapshot())


class Listener:
    def __init__(self, name, serve, ledger, host="127.0.0.1", tls=None):
        self.name, self.serve, self.ledger, self.tls = name, serve, ledger, tls
        self.counted = name != "control"
        self.sock = socket.create_server((host, 0), backlog=1024)
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.accept_all, daemon=True).start()

    def accept_all(self):
        while True:
            sock, _ = self.sock.accept()
            number = self.ledger.opened(self.name) if self.counted else 0
            threading.Thread(target=self.one, args=(sock, number), daemon=True).start()

    def one(self, sock, number):
        conn = None
        try:
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
            conn = Connection(sock, self.name, number, self.ledger)
            self.serve(conn)
        except (ClientGone, OSError, ValueError):
            pass
        finally:
            self.finish(sock, conn)
            if self.counted:
                self.ledger.closed(self.name)

    @staticmethod
    def finish(sock, conn):
        """FIN first, so that bytes the client still sends do not turn the last answer into a reset."""
        try:
            if conn is None or not conn.aborted:
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(0.2)
                while sock.recv(65536):
                    pass
        except (OSError, ValueError):
            pass
        sock.close()


def make_certificate(folder, stem, names):
    """A certificate that signs itself: its own CA file."""
    key, cert = os.path.join(folder, stem + ".key"), os.path.join(folder, stem + ".pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=stub", "-addext", "subjectAltName=" + names,
                    "-keyout", key, "-out", cert], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert


def unreachable_ports():
    """A port bound but not listened to, and one whose backlog is full; the sockets are kept to keep them so."""
    refused = socket.socket()
    refused.bind(("127.0.0.1", 0))
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
        fillers.append(filler)
    time.sleep(0.02)            # lets the kernel finish the handshakes that fit
    return refused, full, fillers


def main():
    ledger = Ledger()
    folder = tempfile.mkdtemp(prefix="stub-server-")
    try:
        good, ca_file = make_certificate(folder, "good", "DNS:localhost,IP:127.0.0.1")
        wrong, wrong_ca = make_certificate(folder, "wrong", "DNS:elsewhere.example")
        listeners = [
            Listener("http", serve_http, ledger),
            Listener("other", serve_http, ledger, host="127.0.0.2"),
            Listener("tls", serve_http, ledger, tls=good),
            Listener("tls_wrong_name", serve_http, ledger, tls=wrong),
            Listener("proxy", serve_proxy, ledger),
            Listener("proxy_auth", lambda conn: serve_proxy(conn, "user:secret"), ledger),
            Listener("silent", serve_silent, ledger),
            Listener("garbage", serve_garbage, ledger),
            Listener("reset", serve_reset, ledger),
            Listener("control", serve_control, ledger),
        ]
        refused, full, fillers = unreachable_ports()
        line = {listener.name: listener.port for listener in listeners}
        line.update(refused=refused.getsockname()[1], full=full.getsockname()[1], ca_file=ca_file,
                    wrong_ca_file=wrong_ca, pid=os.getpid())
        print(json.dumps(line), flush=True)
        while sys.stdin.buffer.read(4096):
            pass
        del fillers
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)                 # the threads may be stuck on purpose


if __name__ == "__main__":
    main()
