"""gRPC servers for the tests of riverlua.grpc: real grpcio, messages are raw bytes.

One process, several places: "plain" and "limited" (at most 2 streams at once) without TLS, "tls", "wrong" (a
certificate for another host), "unix" (a path). Prints one line of JSON that says where they are when it is ready, and
ends with its standard input. Methods of /test.Echo; what a call asks for stands in its metadata.
"""

import json
import os
import sys
import tempfile
import threading
from concurrent import futures

import grpc

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from stub_server import make_certificate                                # noqa: E402

lock = threading.Condition()
counters = {"calls": 0, "cancelled": 0, "attempts": {}, "sent": 0, "now": 0, "most": 0}
peers = set()
servers = []


def meta(context):
    return {k: v for k, v in context.invocation_metadata()}


def note(context):
    """Counts a call, and those that run at the same time."""
    with lock:
        counters["calls"] += 1
        counters["now"] += 1
        counters["most"] = max(counters["most"], counters["now"])
        peers.add(context.peer())
        lock.notify_all()
    context.add_callback(over)


def over():
    with lock:
        counters["now"] -= 1


def note_cancelled():
    with lock:
        counters["cancelled"] += 1
        lock.notify_all()


def hang(context):
    """Until the client has given up."""
    gone = threading.Event()
    if context.add_callback(gone.set):
        gone.wait(30)


def watch(context):
    """Counts the call as cancelled when it ends before the function that is returned was called."""
    finished = threading.Event()
    context.add_callback(lambda: finished.is_set() or note_cancelled())
    return finished.set


def unary(request, context):
    note(context)
    m = meta(context)
    answer = []
    for key, value in context.invocation_metadata():
        if key.startswith("echo-"):
            answer.append((key, value))
    if answer:
        context.send_initial_metadata(answer)
        context.set_trailing_metadata([(k.replace("echo-", "trail-"), v) for k, v in answer])
    if "fail-first" in m:
        key = m.get("fail-key", "")
        with lock:
            counters["attempts"][key] = counters["attempts"].get(key, 0) + 1
            seen = counters["attempts"][key]
        if seen <= int(m["fail-first"]):
            trailing = [("grpc-retry-pushback-ms", m["pushback"])] if "pushback" in m else []
            trailing.append(("previous", m.get("grpc-previous-rpc-attempts", "none")))
            context.set_trailing_metadata(trailing)
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
    if "hang" in m:
        watch(context)
        hang(context)
        return b""
    if "meet" in m:   # waits until so many calls are here
        with lock:
            lock.wait_for(lambda: counters["now"] >= int(m["meet"]) or counters["most"] >= int(m["meet"]), 10)
    if "code" in m:
        code = next(c for c in grpc.StatusCode if c.value[0] == int(m["code"]))
        context.set_trailing_metadata([("river-error-code", "E42"), ("info-bin", b"\x00\xff\x01")])
        context.abort(code, m.get("text-bin", b"").decode() or m.get("text", ""))
    if "size" in m:
        return b"x" * int(m["size"])
    return request


def metadata(request, context):
    note(context)
    pairs = [[k, v if isinstance(v, str) else {"hex": v.hex()}] for k, v in context.invocation_metadata()]
    remaining = context.time_remaining()
    return json.dumps({"metadata": pairs, "remaining": remaining, "peer": context.peer()}).encode()


def stream(request, context):
    note(context)
    m = meta(context)
    finish = watch(context)
    count, size = int(m.get("count", "3")), int(m.get("size", "0"))
    for i in range(count):
        with lock:
            counters["sent"] += 1
            lock.notify_all()
        yield b"%d:" % i + b"y" * size
    if "fail" in m:
        finish()
        context.abort(grpc.StatusCode.DATA_LOSS, "lost after %d" % count)
    if "hang" in m:
        hang(context)
    elif context.is_active():
        finish()


def wait(request, context):
    m = meta(context)
    with lock:
        lock.wait_for(lambda: counters[m["name"]] >= int(m["count"]), 10)
    return stats(request, context)


def stats(request, context):
    with lock:
        return json.dumps(dict(counters, connections=len(peers))).encode()


def length(request, context):
    note(context)
    return str(len(request)).encode()


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        unaries = {"Unary": unary, "Metadata": metadata, "Stats": stats, "Wait": wait, "Length": length}
        name = details.method.rpartition("/")[2]
        if name in unaries:
            return grpc.unary_unary_rpc_method_handler(unaries[name])
        if name == "Stream":
            return grpc.unary_stream_rpc_method_handler(stream)
        return None


def start(add_port, *more):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(256), options=options + list(more))
    server.add_generic_rpc_handlers((Handler(),))
    port = add_port(server)
    server.start()
    servers.append(server)
    return port


def start_tls(folder, stem, names):
    _, ca_file = make_certificate(folder, stem, names)
    with open(ca_file, "rb") as cert, open(os.path.join(folder, stem + ".key"), "rb") as key:
        credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
    return start(lambda server: server.add_secure_port("127.0.0.1:0", credentials)), ca_file


def main():
    with tempfile.TemporaryDirectory() as folder:
        tls, ca_file = start_tls(folder, "good", "DNS:localhost,IP:127.0.0.1")
        wrong, wrong_ca_file = start_tls(folder, "wrong", "DNS:elsewhere.example")
        path = os.path.join(folder, "socket")
        start(lambda server: server.add_insecure_port("unix:" + path))
        print(json.dumps({
            "plain": start(lambda server: server.add_insecure_port("127.0.0.1:0")),
            "limited": start(lambda server: server.add_insecure_port("127.0.0.1:0"),
                             ("grpc.max_concurrent_streams", 2)),
            "tls": tls, "ca_file": ca_file, "wrong": wrong, "wrong_ca_file": wrong_ca_file, "unix": path,
        }), flush=True)
        sys.stdin.read()
        for server in servers:
            server.stop(0)


main()
