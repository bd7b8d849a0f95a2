"""The heartbeat of the training service alone: a real gRPC server that answers as it is told, and counts.

Prints one JSON line and ends when its standard input closes. The line: `port` (plain), `tls` (signed by `ca_file`), `full`
(its backlog is full: connecting hangs), `refused` (nobody listens there), `control`. Calls over `port` and `tls` are
counted together; everything else on `port` is stopped and started with /down and /up.

What is done with the next calls is queued, what is done when the queue is empty is the default (ok):
  ok           success, with the observations of /capacity        reject      success=false
  hold         no answer until /release, or the client gives up   garbage     bytes that are no message
  empty        an empty message (so success=false)                huge        a reply of 3 MiB
  raw:HEX      these bytes as the message                         CODE        fails with that status; CODE:text in details
  crowd        success, and 20000 observations without anything in them
  echo         fails with UNAUTHENTICATED, the caller's x-api-key in its details
  close        closes all connections in the middle of the call

Control paths: /plan?do=a,b,c&default=d, /capacity (query: JSON of a list), /release, /down, /up, /reset, /stats, /log and
/wait?calls=N | open=N (in flight, exactly) | peers=N | gone=N, which answers when it holds (or "timeout": true after
20 seconds). Numbers count since /reset.
"""

import concurrent.futures
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import grpc
from grpc_tools import protoc

HERE = os.path.dirname(os.path.abspath(__file__))
METHOD = "/river.api.v1.RiverService/SessionHeartbeat"
WAIT_SECONDS = 20


def load_messages(folder):
    source = os.path.join(HERE, "..", "..", "src")
    code = protoc.main(["protoc", "-I" + source, "--python_out=" + folder, os.path.join(source, "training.proto")])
    if code != 0:
        raise SystemExit("protoc failed")
    sys.path.insert(0, folder)
    import training_pb2                                                 # noqa: E402
    return training_pb2


class Ledger:
    def __init__(self):
        self.changed = threading.Condition()
        self.reset()

    def reset(self):
        with self.changed:
            self.queue, self.default, self.capacity = [], "ok", []
            self.calls, self.open, self.gone, self.log, self.peers = 0, 0, 0, [], []
            self.most_open, self.released = 0, threading.Event()
            self.changed.notify_all()

    def snapshot(self):
        sessions = {}
        for entry in self.log:
            sessions[entry["session_id"]] = sessions.get(entry["session_id"], 0) + 1
        return {"calls": self.calls, "open": self.open, "gone": self.gone, "peers": self.peers,
                "most_open": self.most_open, "sessions": sessions}

    def begin(self, session_id, context):
        """Counts a call and says what to do with it."""
        peer = context.peer()
        with self.changed:
            action = self.queue.pop(0) if self.queue else self.default
            self.calls += 1
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            if peer not in self.peers:
                self.peers.append(peer)
            self.log.append({"session_id": session_id, "peer": peer, "action": action, "time": time.monotonic(),
                             "deadline": context.time_remaining(),
                             "metadata": {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}})
            self.changed.notify_all()
            return action, self.released

    def end(self, gone):
        with self.changed:
            self.open -= 1
            self.gone += gone
            self.changed.notify_all()


class Service(grpc.GenericRpcHandler):
    def __init__(self, ledger, messages):
        self.ledger, self.messages, self.hang_up = ledger, messages, None

    def service(self, details):
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self.beat)

    def beat(self, request, context):
        session_id = self.messages.SessionHeartbeatRequest.FromString(request).session_id
        action, released = self.ledger.begin(session_id, context)
        gone = threading.Event()
        context.add_callback(gone.set)
        try:
            if action == "hold":
                while not released.is_set() and not gone.wait(0.01):
                    pass
                action = "ok"
            if action == "close":
                self.hang_up()
                gone.wait(WAIT_SECONDS)
                return b""
            return self.answer(action, context)
        finally:
            self.ledger.end(gone.is_set() and context.code() is None)

    def answer(self, action, context):
        reply = self.messages.SessionHeartbeatResponse(success=action == "ok")
        if action == "ok":
            for one in self.ledger.capacity:
                one = dict(one)
                status = reply.capacity_status.add()
                if "age" in one:
                    nanos = time.time_ns() - int(one.pop("age") * 1e9)
                    status.observed_at.seconds, status.observed_at.nanos = divmod(nanos, 10**9)
                for name, value in one.items():
                    setattr(status, name, value)
        elif action == "garbage":
            return b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
        elif action == "empty":
            return b""
        elif action == "huge":
            return b"\x08\x01" + b"\x7a\x80\x80\xc0\x01" + b"x" * (3 << 20)     # an unknown field of 3 MiB
        elif action == "crowd":
            return b"\x08\x01" + b"\x12\x00" * 20000
        elif action.startswith("raw:"):
            return bytes.fromhex(action[4:])
        elif action == "echo":
            key = dict(context.invocation_metadata()).get("x-api-key", "")
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the key %s is not known" % key)
        elif action != "reject":
            code, _, details = action.partition(":")
            context.abort(grpc.StatusCode[code], details)
        return reply.SerializeToString()


class Listeners:
    """The gRPC server, which goes down and comes back on the same ports."""
    def __init__(self, service, credentials):
        self.service, self.credentials = service, credentials
        self.plain = self.tls = 0
        self.server = None
        service.hang_up = lambda: threading.Thread(target=self.restart, daemon=True).start()
        self.up()

    def up(self):
        if self.server:
            return
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=64),
                             options=[("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 10)])
        server.add_generic_rpc_handlers((self.service,))
        self.plain = server.add_insecure_port("127.0.0.1:%d" % self.plain)
        self.tls = server.add_secure_port("127.0.0.1:%d" % self.tls, self.credentials)
        server.start()
        self.server = server

    def down(self):
        if self.server:
            self.server.stop(0).wait()
            self.server = None

    def restart(self):
        self.down()
        self.up()


def make_certificate(folder):
    key, pem = os.path.join(folder, "key.pem"), os.path.join(folder, "ca.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", pem, "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                   check=True, stderr=subprocess.DEVNULL)
    with open(key, "rb") as file:
        private = file.read()
    with open(pem, "rb") as file:
        return grpc.ssl_server_credentials([(private, file.read())]), pem


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


def make_control(ledger, listeners):
    def wait(query):
        def holds():
            counts = ledger.snapshot()
            return all((counts["calls"] >= int(query["calls"]) if "calls" in query else True,
                        counts["open"] == int(query["open"]) if "open" in query else True,
                        counts["gone"] >= int(query["gone"]) if "gone" in query else True,
                        len(counts["peers"]) >= int(query["peers"]) if "peers" in query else True))
        with ledger.changed:
            reached = ledger.changed.wait_for(holds, WAIT_SECONDS)
            return dict(ledger.snapshot(), timeout=not reached)

    def plan(query):
        with ledger.changed:
            ledger.queue = [action for action in query.get("do", "").split(",") if action]
            ledger.default = query.get("default", "ok")

    def capacity(query):
        with ledger.changed:
            ledger.capacity = json.loads(query["list"])

    paths = {"/wait": wait, "/plan": plan, "/capacity": capacity, "/log": lambda query: ledger.log,
             "/release": lambda query: ledger.released.set(), "/down": lambda query: listeners.down(),
             "/up": lambda query: listeners.up(), "/reset": lambda query: ledger.reset()}

    class Control(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            where = urllib.parse.urlsplit(self.path)
            act = paths.get(where.path, lambda query: None)
            answer = act(dict(urllib.parse.parse_qsl(where.query)))
            if answer is None:
                with ledger.changed:
                    answer = ledger.snapshot()
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Control)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def main():
    folder = tempfile.mkdtemp(prefix="heartbeat-server-")
    try:
        ledger = Ledger()
        credentials, ca_file = make_certificate(folder)
        listeners = Listeners(Service(ledger, load_messages(folder)), credentials)
        refused, full, fillers = unreachable_ports()
        control = make_control(ledger, listeners)
        print(json.dumps({"port": listeners.plain, "tls": listeners.tls, "ca_file": ca_file, "control": control,
                          "full": full.getsockname()[1], "refused": refused.getsockname()[1], "pid": os.getpid()}),
              flush=True)
        while sys.stdin.buffer.read(4096):
            pass
        del fillers
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)                 # calls may be held on purpose


if __name__ == "__main__":
    main()
