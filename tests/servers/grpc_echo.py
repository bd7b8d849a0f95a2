"""A gRPC server for the tests of riverlua.grpc: real grpcio, messages are raw bytes.

Prints the port it listens on, and then one line of JSON per event that tests wait for. Arguments: --tls CERT KEY,
--unix PATH, --max-streams N.

Methods of /test.Echo: what a call asks for stands in its metadata.
"""

import argparse
import json
import sys
import threading
import time
from concurrent import futures

import grpc

lock = threading.Lock()
counters = {"calls": 0, "cancelled": 0, "attempts": {}, "sent": 0}
peers = set()


def meta(context):
    return {k: v for k, v in context.invocation_metadata()}


def note(context):
    with lock:
        counters["calls"] += 1
        peers.add(context.peer())


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
    if "sleep" in m:
        deadline = time.time() + float(m["sleep"])
        while time.time() < deadline and context.is_active():
            time.sleep(0.01)
        if not context.is_active():
            with lock:
                counters["cancelled"] += 1
            return b""
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
    count, size = int(m.get("count", "3")), int(m.get("size", "0"))
    for i in range(count):
        if not context.is_active():
            break
        with lock:
            counters["sent"] += 1
        yield b"%d:" % i + b"y" * size
    if "fail" in m:
        context.abort(grpc.StatusCode.DATA_LOSS, "lost after %d" % count)
    if "hang" in m:
        while context.is_active():
            time.sleep(0.01)
    if not context.is_active():
        with lock:
            counters["cancelled"] += 1


def stats(request, context):
    with lock:
        return json.dumps(dict(counters, connections=len(peers))).encode()


def length(request, context):
    note(context)
    return str(len(request)).encode()


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        unaries = {"Unary": unary, "Metadata": metadata, "Stats": stats, "Length": length}
        name = details.method.rpartition("/")[2]
        if name in unaries:
            return grpc.unary_unary_rpc_method_handler(unaries[name])
        if name == "Stream":
            return grpc.unary_stream_rpc_method_handler(stream)
        return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", nargs=2)
    parser.add_argument("--unix")
    parser.add_argument("--max-streams", type=int)
    args = parser.parse_args()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    if args.max_streams:
        options.append(("grpc.max_concurrent_streams", args.max_streams))
    server = grpc.server(futures.ThreadPoolExecutor(256), options=options)
    server.add_generic_rpc_handlers((Handler(),))
    if args.tls:
        with open(args.tls[0], "rb") as cert, open(args.tls[1], "rb") as key:
            credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    elif args.unix:
        port = server.add_insecure_port("unix:" + args.unix)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("listening on http://127.0.0.1:%d" % port, flush=True)
    sys.stdin.read()
    server.stop(0)


main()
