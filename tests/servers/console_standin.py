"""A stand-in for the console's metrics API that judges what it gets, and fails on order.

Prints one JSON line with its ports ("http", "other" on 127.0.0.2, "tls" with "ca_file", "refused", "control") and ends
when its standard input closes. Standard library only. The control listener is that of stub_server.py; the log's lines
also have `body`, `status` and `problems`.

POST /api/metrics/runs/<run>/observations takes observations as the service does: 204, or 400 with what is wrong, or
401 for another key than "console-key". POST /_order {"answers": […]} says what the next posts get instead, one after the
other; an answer has `status`, may have `headers`, `hold` (waits for /release?key=…; what came is not taken), `cut`
(closes without an answer) and `take` (the observations are taken all the same). POST /_reset forgets orders and runs.
GET /_runs tells what was taken: {run: {"definitions": {version: metrics}, "observations": […], "repeated": n}}.
In headers {http}, {other} and {tls} stand for the addresses.
"""

import json
import os
import re
import shutil
import socket
import sys
import tempfile
import urllib.parse
import uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import stub_routes                                                      # noqa: E402
from stub_http import Ledger                                            # noqa: E402
from stub_server import Listener, make_certificate, serve_control       # noqa: E402

KEY = "console-key"
PATH = re.compile(r"^/api/metrics/runs/([^/?]+)/observations$")
MOMENT = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
BUILT_IN = ("_river/timestamp", "_river/runtime")
ADDRESSES = {}
ORDERS = []
RUNS = {}


def whole(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def number(value):
    return isinstance(value, float) and value - value == 0


def name_is_good(name):
    return isinstance(name, str) and 1 <= len(name.encode()) <= 512


def check_keys(what, value, keys, problems):
    if not isinstance(value, dict) or set(value) != set(keys):
        problems.append("%s has not the keys %s" % (what, ", ".join(keys)))
        return False
    return True


def check_definition(definition, problems):
    if not check_keys("a definition", definition, ("version", "metrics"), problems):
        return
    if not whole(definition["version"]) or definition["version"] < 1:
        problems.append("a definition's version is no number from 1")
    if len(definition["metrics"]) > 1000:
        problems.append("a definition has more than 1000 metrics")
    for metric in definition["metrics"]:
        if not check_keys("a metric", metric, ("name", "step_metric", "hidden"), problems):
            continue
        name, step = metric["name"], metric["step_metric"]
        if not name_is_good(name) or name.startswith("_river/") or "*" in name[:-1]:
            problems.append("the name of a definition is wrong: %r" % name[:80])
        if step is not None and (not name_is_good(step) or "*" in step
                                 or step.startswith("_river/") and step not in BUILT_IN):
            problems.append("a step metric is wrong: %r" % step)
        if not isinstance(metric["hidden"], bool):
            problems.append("hidden is no boolean")


def check_observation(one, versions, problems):
    keys = ("seq", "logged_at", "elapsed_s", "definition_version", "values")
    if not check_keys("an observation", one, keys, problems):
        return
    if not whole(one["seq"]):
        problems.append("seq is no whole number")
    if not MOMENT.match(one["logged_at"]):
        problems.append("logged_at is no moment: %r" % one["logged_at"])
    if not number(one["elapsed_s"]) or one["elapsed_s"] < 0:
        problems.append("elapsed_s is no number of seconds")
    if one["definition_version"] is not None and one["definition_version"] not in versions:
        problems.append("definition version %r is unknown" % one["definition_version"])
    if not 1 <= len(one["values"]) <= 1000:
        problems.append("an observation has %d values" % len(one["values"]))
    for name, value in one["values"].items():
        if not name_is_good(name) or name.startswith("_river/"):
            problems.append("the name of a metric is wrong: %r" % name[:80])
        if not number(value):
            problems.append("the value of %r is no finite float: %r" % (name[:80], value))


def judge(run, body):
    """(problems, batch)"""
    if len(body) > 1 << 20:
        return ["the batch has %d bytes" % len(body)], None
    try:
        batch = json.loads(body.decode("utf-8"))
    except ValueError as problem:
        return ["no JSON: %s" % problem], None
    problems = []
    if not check_keys("the batch", batch, ("version", "producer", "definitions", "observations"), problems):
        return problems, None
    if batch["version"] != 1:
        problems.append("the version is not 1")
    producer = batch["producer"]
    if check_keys("the producer", producer, ("producer_id", "started_at"), problems):
        if str(uuid.UUID(producer["producer_id"])) != producer["producer_id"]:
            problems.append("the producer has no UUID")
        if not MOMENT.match(producer["started_at"]):
            problems.append("started_at is no moment")
    for definition in batch["definitions"]:
        check_definition(definition, problems)
    versions = set(RUNS.get(run, {}).get("definitions", {})) | {d["version"] for d in batch["definitions"]}
    for one in batch["observations"]:
        check_observation(one, versions, problems)
    if sum(len(one["values"]) for one in batch["observations"]) > 1000:
        problems.append("the batch has more than 1000 values")
    if not batch["definitions"] and not batch["observations"]:
        problems.append("the batch is empty")
    return problems, batch


def take(run, batch):
    place = RUNS.setdefault(run, {"definitions": {}, "observations": [], "repeated": 0, "seen": set()})
    for definition in batch["definitions"]:
        place["definitions"][definition["version"]] = definition["metrics"]
    for one in batch["observations"]:
        mark = (batch["producer"]["producer_id"], one["seq"])
        if mark in place["seen"]:
            place["repeated"] += 1
        else:
            place["seen"].add(mark)
            place["observations"].append(one)


def note(conn, request, status, problems):
    conn.ledger.record(request)
    entry = conn.ledger.requests[-1]
    entry.update(body=request.body.decode("latin-1"), status=status, problems=problems)
    return entry


def ordered(conn, request, run, batch, answer):
    """Does as it was told; False ends the connection."""
    ledger = conn.ledger
    with ledger.changed:
        note(conn, request, answer.get("status"), [])
        if answer.get("take"):
            take(run, batch)
    if "hold" in answer:
        stub_routes.wait_with(conn, ledger, answer["hold"], lambda: ledger.released.get(answer["hold"]))
    if answer.get("cut"):
        return False
    headers = []
    for name, value in answer.get("headers", {}).items():
        for place, address in ADDRESSES.items():
            value = value.replace("{%s}" % place, address)
        headers.append((name, value))
    return conn.answer(request, answer["status"], "", headers)


def observations(conn, request, run):
    problems, batch = judge(run, request.body)
    with conn.ledger.changed:
        answer = ORDERS.pop(0) if ORDERS else None
    if answer is not None:
        return ordered(conn, request, run, batch, answer)
    status = 204
    if request.header("authorization") != "Bearer " + KEY:
        status, problems = 401, ["the key is wrong"]
    elif (request.header("content-type") or "").split(";")[0] != "application/json":
        status, problems = 415, ["the content is not called JSON"]
    elif problems:
        status = 400
    with conn.ledger.changed:
        note(conn, request, status, problems)
        if status == 204:
            take(run, batch)
        conn.ledger.changed.notify_all()
    return conn.answer(request, status, "\n".join(problems))


def serve(conn):
    while True:
        request = conn.read_request()
        conn.read_body(request)
        match = PATH.match(request.target)
        if request.method == "POST" and match:
            if not observations(conn, request, urllib.parse.unquote(match.group(1))):
                return
        elif request.path == "/_order":
            with conn.ledger.changed:
                ORDERS.extend(json.loads(request.body)["answers"])
            conn.answer(request, 204)
        elif request.path == "/_reset":
            with conn.ledger.changed:
                ORDERS.clear()
                RUNS.clear()
            conn.answer(request, 204)
        elif request.path == "/_runs":
            with conn.ledger.changed:
                runs = {run: {key: place[key] for key in place if key != "seen"} for run, place in RUNS.items()}
            conn.answer_json(request, runs)
        else:
            with conn.ledger.changed:
                note(conn, request, 404, ["no such path"])
            conn.answer(request, 404)


def main():
    ledger = Ledger()
    folder = tempfile.mkdtemp(prefix="console-")
    try:
        context, ca_file = make_certificate(folder, "good", "DNS:localhost,IP:127.0.0.1")
        listeners = [Listener("http", serve, ledger), Listener("other", serve, ledger, host="127.0.0.2"),
                     Listener("tls", serve, ledger, tls=context), Listener("control", serve_control, ledger)]
        refused = socket.socket()
        refused.bind(("127.0.0.1", 0))
        ports = {listener.name: listener.port for listener in listeners}
        for name, form in (("http", "http://127.0.0.1:%d"), ("other", "http://127.0.0.2:%d"),
                           ("tls", "https://127.0.0.1:%d")):
            ADDRESSES[name] = form % ports[name]
        print(json.dumps(dict(ports, refused=refused.getsockname()[1], ca_file=ca_file)), flush=True)
        while sys.stdin.buffer.read(4096):
            pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)                 # the threads may be stuck on purpose


if __name__ == "__main__":
    main()
