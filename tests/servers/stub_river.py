"""A River server that does as it is told, for what the real one does not do: odd realms, refusals, broken streams.

Prints one JSON line with its ports ("http", "other" on 127.0.0.2, "tls" with "ca_file", "refused", "control") and ends
when its standard input closes. Standard library only. The control listener is that of stub_server.py.

POST /_order {"path": …, "answers": […], "bearer": [tokens], "refusal": {…}} says what a path answers: one of `answers`
after the other, the last one for ever. With `bearer`, requests without one of these tokens get `refusal` instead. An
answer has `status`, `headers` (object), `body` (text, or a value that becomes JSON), and may have `hold` (waits for
/release?key=…; a count that waiters can see; a stream: after its events), `pieces` (an event stream of these texts,
chunked), `late` (a stream waits before its first byte) and `end` of a stream: "done", "cut" (in the middle of a
chunk), "rst" or "hang"; `early` "cut": closes before any answer.
In texts {http}, {other}, {tls} and {refused} stand for the addresses.
"""

import json
import os
import shutil
import socket
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import stub_routes                                                      # noqa: E402
from stub_http import Ledger                                            # noqa: E402
from stub_server import Listener, make_certificate, serve_control       # noqa: E402

ORDERS = {}
ADDRESSES = {}


def fill(text):
    for name, address in ADDRESSES.items():
        text = text.replace("{%s}" % name, address)
    return text


def record(conn, request):
    """Notes the request with its body; returns the note."""
    with conn.ledger.changed:
        conn.ledger.record(request)
        note = conn.ledger.requests[-1]
        note["body"] = request.body.decode("latin-1")
        return note


def choose(conn, request, note):
    """What the path is to answer now, or None."""
    with conn.ledger.changed:
        order = ORDERS.get(request.path)
        if order is None:
            return None
        if "bearer" in order:
            word, _, token = (request.header("authorization") or "").partition(" ")
            if word != "Bearer" or token not in order["bearer"]:
                note["refused"] = True
                return order["refusal"]
        answers = order["answers"]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def stream(conn, answer):
    if "late" in answer:
        wait(conn, answer["late"])
    headers = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]
    conn.send(conn.head(200, headers))
    for piece in answer["pieces"]:
        conn.chunk(fill(piece).encode())
    end = answer.get("end", "done")
    if "hold" in answer:
        wait(conn, answer["hold"])
    if end == "hang":
        conn.pause()
    if end == "rst":
        return conn.abort()
    conn.send(b"0\r\n\r\n" if end == "done" else b"ff\r\nevent: learn\ndata: {\"mod")
    return end == "done"


def wait(conn, key):
    ledger = conn.ledger
    stub_routes.wait_with(conn, ledger, key, lambda: ledger.released.get(key))


def perform(conn, request, answer):
    if answer.get("early") == "cut":
        return False
    if "pieces" in answer:
        return stream(conn, answer)
    if "hold" in answer:
        wait(conn, answer["hold"])
    body = answer.get("body", "")
    headers = [(name, fill(value)) for name, value in answer.get("headers", {}).items()]
    status = answer.get("status", 200)
    if isinstance(body, str):
        return conn.answer(request, status, fill(body), headers, answer.get("kind", "text/plain"))
    return conn.answer_json(request, body, status, headers)


def serve(conn):
    while True:
        request = conn.read_request()
        if request.path == "/_order":
            order = json.loads(conn.read_body(request))
            with conn.ledger.changed:
                ORDERS[order["path"]] = order
            conn.answer(request, 204)
            continue
        conn.read_body(request)
        answer = choose(conn, request, record(conn, request))
        if answer is None:
            conn.answer(request, 404, "<html><title>Not Found</title></html>", kind="text/html")
        elif not perform(conn, request, answer):
            return


def main():
    ledger = Ledger()
    folder = tempfile.mkdtemp(prefix="stub-river-")
    try:
        context, ca_file = make_certificate(folder, "good", "DNS:localhost,IP:127.0.0.1")
        listeners = [
            Listener("http", serve, ledger),
            Listener("other", serve, ledger, host="127.0.0.2"),
            Listener("tls", serve, ledger, tls=context),
            Listener("control", serve_control, ledger),
        ]
        refused = socket.socket()
        refused.bind(("127.0.0.1", 0))
        ports = {listener.name: listener.port for listener in listeners}
        ports["refused"] = refused.getsockname()[1]
        for name, form in (("http", "http://127.0.0.1:%d"), ("other", "http://127.0.0.2:%d"),
                           ("tls", "https://127.0.0.1:%d"), ("refused", "http://127.0.0.1:%d")):
            ADDRESSES[name] = form % ports[name]
        print(json.dumps(dict(ports, ca_file=ca_file)), flush=True)
        while sys.stdin.buffer.read(4096):
            pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)                 # the threads may be stuck on purpose


if __name__ == "__main__":
    main()
