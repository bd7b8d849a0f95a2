"""The public gRPC interop test service on grpcio, for tests/grpc/interop_spec.lua.

Prints one JSON line when ready and ends when standard input closes. Ports, control paths and `x-test-hold` are those
of the Go server of the same service: see grpc_interop/main.go. Messages: tests/grpc/interop.proto, compiled at start.
"""

import concurrent.futures
import contextlib
import http.server
import importlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.parse

import grpc

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, FOLDER)

from stub_server import make_certificate                                # noqa: E402

WAIT_SECONDS = 10
CODES = {code.value[0]: code for code in grpc.StatusCode}
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"


def compile_messages(folder):
    """The modules of interop.proto, compiled into `folder`."""
    import grpc_tools
    from grpc_tools import protoc
    proto = os.path.join(FOLDER, "..", "grpc", "interop.proto")
    includes = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    if protoc.main(["protoc", "-I" + os.path.dirname(proto), "-I" + includes, "--python_out=" + folder,
                    "--grpc_python_out=" + folder, proto]) != 0:
        sys.exit("interop.proto cannot be compiled")
    sys.path.insert(0, folder)
    return importlib.import_module("interop_pb2"), importlib.import_module("interop_pb2_grpc")


class Ledger:
    def __init__(self):
        self.changed = threading.Condition()
        self.calls = []

    @contextlib.contextmanager
    def call(self, method, context):
        seconds = context.time_remaining()
        metadata = {}
        for key, value in context.invocation_metadata():
            metadata.setdefault(key, []).append(value if isinstance(value, str) else value.hex())
        entry = {"method": "/grpc.testing.TestService/" + method, "peer": context.peer(), "metadata": metadata,
                 "seconds": seconds, "code": "", "given_up": ""}
        over = threading.Event()
        deadline = seconds and time.monotonic() + seconds

        def left():
            if not over.is_set():
                with self.changed:
                    entry["given_up"] = "expired" if deadline and time.monotonic() >= deadline else "cancelled"
                    self.changed.notify_all()

        with self.changed:
            self.calls.append(entry)
            self.changed.notify_all()
        gone = threading.Event()
        context.add_callback(lambda: (left(), gone.set()))
        try:
            if "x-test-hold" in metadata:
                gone.wait()
                context.abort(grpc.StatusCode.CANCELLED, "the client gave up")
            yield
            entry["code"] = "OK"
        except Exception:
            code = context.code()
            entry["code"] = code.name if code else "UNKNOWN"
            raise
        finally:
            if not context.is_active():     # the handler may be the first to know
                left()
            over.set()
            with self.changed:
                self.changed.notify_all()

    def stats(self):
        given_up = [entry["given_up"] for entry in self.calls]
        return {"calls": len(self.calls), "connections": len({entry["peer"] for entry in self.calls}),
                "running": sum(not entry["code"] and not entry["given_up"] for entry in self.calls),
                "cancelled": given_up.count("cancelled"), "given_up": len(given_up) - given_up.count("")}

    def wait(self, query):
        def holds():
            stats = self.stats()
            return all(stats[name] == int(value) if name == "running" else stats[name] >= int(value)
                       for name, value in query.items())
        with self.changed:
            reached = self.changed.wait_for(holds, WAIT_SECONDS)
            return self.stats() if reached else dict(self.stats(), timeout=True)

    def answer(self, path, query):
        if path == "/wait":
            return self.wait(query)
        with self.changed:
            if path == "/reset":
                self.calls = []
            return list(map(dict, self.calls)) if path == "/log" else self.stats()


def control(ledger):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            url = urllib.parse.urlsplit(self.path)
            body = json.dumps(ledger.answer(url.path, dict(urllib.parse.parse_qsl(url.query)))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def make_service(messages, services, ledger):
    def payload(request, size):
        if size < 0 or request.response_type != messages.COMPRESSABLE:
            raise ValueError("no such payload")
        return messages.Payload(body=bytes(size))

    def echo_metadata(context):
        for key, value in context.invocation_metadata():
            if key == INITIAL:
                context.send_initial_metadata(((key, value),))
            elif key == TRAILING:
                context.set_trailing_metadata(((key, value),))

    def echo_status(request, context):
        wanted = request.response_status
        if wanted.code:
            context.abort(CODES[wanted.code], wanted.message)

    def responses(request):
        for parameters in request.response_parameters:
            time.sleep(parameters.interval_us / 1e6)
            yield messages.StreamingOutputCallResponse(payload=payload(request, parameters.size))

    class Service(services.TestServiceServicer):
        def EmptyCall(self, request, context):
            with ledger.call("EmptyCall", context):
                return messages.Empty()

        def UnaryCall(self, request, context):
            with ledger.call("UnaryCall", context):
                echo_metadata(context)
                echo_status(request, context)
                return messages.SimpleResponse(payload=payload(request, request.response_size))

        def StreamingOutputCall(self, request, context):
            with ledger.call("StreamingOutputCall", context):
                yield from responses(request)

        def FullDuplexCall(self, requests, context):
            with ledger.call("FullDuplexCall", context):
                echo_metadata(context)
                for request in requests:
                    echo_status(request, context)
                    yield from responses(request)

    return Service()


def main():
    folder = tempfile.mkdtemp(prefix="grpc-interop-")
    ledger = Ledger()
    servers = []

    def listen(bind, *options):
        # a large block of metadata is fine, as it is with Go
        options += (("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 21))
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(32), options=options)
        services.add_TestServiceServicer_to_server(service, server)
        port = bind(server)
        server.start()
        servers.append(server)
        return port

    def plain(server):
        return server.add_insecure_port("127.0.0.1:0")

    def secure(server):
        with open(os.path.join(folder, "good.key"), "rb") as key, open(ca_file, "rb") as chain:
            return server.add_secure_port("127.0.0.1:0",
                                          grpc.ssl_server_credentials([(key.read(), chain.read())]))

    try:
        messages, services = compile_messages(folder)
        service = make_service(messages, services, ledger)
        _, ca_file = make_certificate(folder, "good", "DNS:localhost,IP:127.0.0.1")
        ready = {"http": listen(plain), "tls": listen(secure),
                 "aging": listen(plain, ("grpc.max_connection_age_ms", 50)),
                 "narrow": listen(plain, ("grpc.max_concurrent_streams", 2)),
                 "control": control(ledger), "ca_file": ca_file,
                 "made_of": "grpcio %s, Python %d.%d" % (grpc.__version__, *sys.version_info[:2])}
        print(json.dumps(ready), flush=True)
        while sys.stdin.buffer.read(4096):
            pass
    finally:
        for server in servers:
            server.stop(None)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
