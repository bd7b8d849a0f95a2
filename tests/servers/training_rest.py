"""A stand-in for what the training client asks over HTTP: the deployments of a service, and a hub of data sets.

Prints one JSON line with its ports ("http", and "control", which is not counted) and ends when its standard input
closes. Standard library only.

Deployments: /api/v1/deployments… (key "test-key"). Every GET of one takes it to the next phase of its plan. A POST with
an idempotency key that was seen gives what it gave. <base_url>/chat/completions answers like OpenAI.

Data sets: /splits?dataset=, /rows?dataset=&config=&split=&offset=&length=. "openai/gsm8k" (configs main, socratic; main
has train, 250 rows, and test, 5), "some/single" (one config, one split, odd values), "private/rows" (needs the token
"hub-token"), "some/partial" (says that it is partial), "some/cut" (cells cut short), "some/empty".

Control, all by GET: /plan?phases=a,b,c (of deployments made later), /set?id=&phase=&ready=, /break?field=&value= (JSON,
in deployments that are answered from now on; no value: the field is missing), /fault?path=&kind=…&times=N&after=N: for
requests whose path begins so, after so many: kind "status" (&status=, &retry_after=, &body=), "close" (the connection),
"garbage", "list" (JSON, but no object), "short" (a row is missing), "offset" (rows of another place), "revision"
(another revision); /log, /reset, /stats.
"""

import http.server
import json
import sys
import threading
import urllib.parse

LOCK = threading.RLock()
MIN_PAGE, MAX_PAGE = 1, 100


def gsm8k_row(i):
    return {"question": f"Ada has {i} apples and buys {i + 1} more. How many? é\u2028",
            "answer": f"She has {i} + {i + 1} = <<{i}+{i + 1}={2 * i + 1}>>{2 * i + 1}\n#### {2 * i + 1:,}"}


ODD = [{"id": 9007199254740993, "score": 0.1, "tags": [], "nested": {"a": None, "b": [1, None]}, "gone": None},
       {"id": -1, "score": 1e300, "tags": ["x", "é"], "nested": {"a": 1, "b": []}, "gone": "here"}]
SETS = {
    ("openai/gsm8k", "main", "train"): [gsm8k_row(i) for i in range(250)],
    ("openai/gsm8k", "main", "test"): [gsm8k_row(1000 + i) for i in range(5)],
    ("openai/gsm8k", "socratic", "train"): [gsm8k_row(5000 + i) for i in range(3)],
    ("some/single", "default", "validation"): ODD,
    ("private/rows", "default", "train"): [{"secret": i} for i in range(3)],
    ("some/partial", "default", "train"): [{"x": i} for i in range(7)],
    ("some/cut", "default", "train"): [{"x": i} for i in range(7)],
    ("some/empty", "default", "train"): [],
}


class State:
    def __init__(self):
        self.reset()

    def reset(self):
        self.deployments, self.keys, self.log, self.faults, self.broken = {}, {}, [], [], {}
        self.plan, self.made = ["accepted"], 0

    def fault_for(self, path):
        for fault in self.faults:
            if path.startswith(fault["path"]):
                if fault["after"] > 0:
                    fault["after"] -= 1
                elif fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
        return None


STATE = State()


class Problem(Exception):
    def __init__(self, status, body):
        super().__init__(status)
        self.status, self.body = status, body


def counts(desired, ready):
    return {"desired": desired, "allocated": desired, "ready": ready, "pending": max(0, desired - ready)}


def shown(deployment, address):
    phase = deployment["phase"]
    running = phase in ("ready", "degraded")
    out = {k: deployment[k] for k in ("id", "checkpoint", "base_model", "topology", "created_at", "updated_at", "phase")}
    out["model"] = deployment["id"]
    out["base_url"] = f"http://{address}/api/v1/deployments/{deployment['id']}{deployment['suffix']}"
    out["replicas"] = {role: counts(n, (deployment.get("ready") if deployment.get("ready") is not None else n)
                                    if running else 0) for role, n in deployment["roles"].items()}
    out["operation_id"] = "op-1"
    out["phase_reason"] = "no room for it" if phase == "failed" else None
    out["deleted_at"] = "2026-01-02T00:00:00Z" if phase == "deleted" else None
    for field, value in STATE.broken.items():
        place = out
        *way, last = field.split(".")
        for name in way:
            place = place[name]
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value[0]
    return out


def roles_of(body):
    roles = {name[:-len("_replicas")]: body[name] for name in
             ("unified_replicas", "prefill_replicas", "decode_replicas") if name in body}
    for count in roles.values():
        if type(count) is not int or count < 0:
            raise Problem(422, {"error": {"code": "bad_count", "message": "counts are whole numbers"}})
    return roles


def create(body, address):
    if ("checkpoint" in body) == ("base_model" in body) or not set(body) <= {
            "checkpoint", "base_model", "unified_replicas", "prefill_replicas", "decode_replicas"}:
        raise Problem(400, {"error": {"code": "bad_request", "message": "exactly one source, and counts"}})
    roles = roles_of(body)
    if set(roles) not in ({"unified"}, {"prefill", "decode"}):
        raise Problem(400, {"message": "one group of counts"})
    STATE.made += 1
    deployment = {"id": f"dep-{STATE.made:06d}", "checkpoint": body.get("checkpoint", "river://base"),
                  "base_model": body.get("base_model", "Qwen3.6-35B-A3B-FP8"), "roles": roles,
                  "topology": "unified" if "unified" in roles else "prefill_decode",
                  "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:01Z",
                  "plan": list(STATE.plan[1:]), "phase": STATE.plan[0], "suffix": "/v1" if STATE.made % 2 else ""}
    STATE.deployments[deployment["id"]] = deployment
    return shown(deployment, address)


def find(name):
    deployment = STATE.deployments.get(name)
    if deployment is None:
        raise Problem(404, {"error": {"code": "not_found", "message": f"there is no deployment {name}"}})
    return deployment


def deployments(handler, method, parts, query, body):
    if handler.headers.get("Authorization") != "Bearer test-key":
        sent = handler.headers.get("Authorization")
        raise Problem(401, {"error": {"code": "unauthorized", "message": f"the key {sent} is not known"}})
    address = handler.headers["Host"]
    if len(parts) > 1 and parts[-2:] == ["chat", "completions"]:
        return {"id": "c", "object": "chat.completion", "model": parts[0], "choices": [
            {"index": 0, "message": {"role": "assistant", "content": body["messages"][-1]["content"].upper()},
             "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
    key = handler.headers.get("Idempotency-Key")
    if method != "GET":
        if not key:
            raise Problem(400, {"error": {"message": "no idempotency key"}})
        if key in STATE.keys:
            return STATE.keys[key]
    if method == "POST" and not parts:
        answer = create(body, address)
    elif method == "GET" and not parts:
        answer = {"data": [shown(d, address) for d in STATE.deployments.values()
                           if d["phase"] != "deleted" or query.get("include_deleted") == "true"]}
    elif method == "GET" and len(parts) == 1:
        deployment = find(parts[0])
        if deployment["plan"]:
            deployment["phase"] = deployment["plan"].pop(0)
        answer = shown(deployment, address)
    elif method == "POST" and parts[1:] == ["scale"]:
        deployment = find(parts[0])
        roles = roles_of(body)
        if not roles or not set(roles) <= set(deployment["roles"]):
            raise Problem(409, {"error": {"code": "wrong_topology", "message": "it has other roles"}})
        deployment["roles"].update(roles)
        answer = shown(deployment, address)
    elif method == "DELETE" and len(parts) == 1:
        deployment = find(parts[0])
        if deployment["phase"] != "deleted":
            deployment["phase"], deployment["plan"] = "deleting", ["deleting", "deleted"]
        answer = shown(deployment, address)
    elif method == "GET" and parts[1:] == ["usage"]:
        answer = {"replica_hours": {role: 1.5 for role in find(parts[0])["roles"]}, "operations": []}
    else:
        raise Problem(404, {"detail": "no such path"})
    if method != "GET":
        STATE.keys[key] = answer
    return answer


def check_access(handler, name):
    if not any(key[0] == name for key in SETS) or (
            name.startswith("private/") and handler.headers.get("Authorization") != "Bearer hub-token"):
        raise Problem(404 if name.startswith("private/") else 401, {
            "error": "The dataset does not exist, or is not accessible without authentication (private or gated)."})


def splits(handler, query):
    check_access(handler, query["dataset"])
    return {"splits": [{"dataset": d, "config": c, "split": s} for d, c, s in SETS if d == query["dataset"]],
            "pending": [], "failed": []}


def rows(handler, query, fault):
    name = query["dataset"]
    check_access(handler, name)
    all_rows = SETS.get((name, query.get("config"), query.get("split")))
    if all_rows is None:
        raise Problem(404, {"error": "The split does not exist."})
    offset, length = int(query.get("offset", 0)), int(query.get("length", 100))
    if not MIN_PAGE <= length <= MAX_PAGE or offset < 0:
        raise Problem(422, {"error": "Parameter 'length' must not be greater than 100"})
    if fault == "offset":
        offset += 1
    page = [{"row_idx": offset + i, "row": row, "truncated_cells": ["x"] if name == "some/cut" and i == 1 else []}
            for i, row in enumerate(all_rows[offset:offset + length])]
    if fault == "short":
        page = page[:-1]
    columns = list(all_rows[0]) if all_rows else ["x"]
    return {"features": [{"feature_idx": i, "name": c, "type": {"dtype": "string", "_type": "Value"}}
                         for i, c in enumerate(columns)],
            "rows": page, "num_rows_total": len(all_rows), "num_rows_per_page": 100, "partial": name == "some/partial"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, value, headers=None):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def answer(self):
        parsed = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parsed.query))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with LOCK:
            STATE.log.append({"method": self.command, "path": self.path, "body": raw.decode(),
                              "headers": [[k, v] for k, v in self.headers.items()]})
            fault = STATE.fault_for(parsed.path)
            kind = fault["kind"] if fault else None
            headers = {"X-Revision": "rev-2" if kind == "revision" else "rev-1"}
            if kind == "close":
                self.close_connection = True
                return
            if kind == "status":
                if fault["retry_after"]:
                    headers["Retry-After"] = fault["retry_after"]
                self.reply(fault["status"], fault["body"].encode(), headers)
                return
            if kind in ("garbage", "list"):
                self.reply(200, b"<html>hello" if kind == "garbage" else b"[1,2]")
                return
            try:
                if parsed.path.startswith("/api/v1/deployments"):
                    parts = [urllib.parse.unquote(p) for p in parsed.path.split("/")[4:] if p != "v1"]
                    value = deployments(self, self.command, parts, query, json.loads(raw) if raw else None)
                elif parsed.path == "/splits":
                    value = splits(self, query)
                elif parsed.path == "/rows":
                    value = rows(self, query, kind)
                else:
                    raise Problem(404, {"error": "no such path"})
            except Problem as problem:
                self.reply(problem.status, problem.body, headers)
                return
        self.reply(200, value, headers)

    do_GET = do_POST = do_DELETE = answer


class Control(Handler):
    def do_GET(self):
        parsed = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parsed.query, keep_blank_values=True))
        value = {}
        with LOCK:
            if parsed.path == "/plan":
                STATE.plan = query["phases"].split(",")
            elif parsed.path == "/set":
                deployment = STATE.deployments[query["id"]]
                deployment["phase"] = query.get("phase", deployment["phase"])
                deployment["ready"] = int(query["ready"]) if "ready" in query else None
            elif parsed.path == "/break":
                STATE.broken = {query["field"]: [json.loads(query["value"])] if "value" in query else None}
            elif parsed.path == "/fault":
                STATE.faults.append({"path": query["path"], "kind": query["kind"], "times": int(query.get("times", 1)),
                                     "after": int(query.get("after", 0)), "status": int(query.get("status", 500)),
                                     "retry_after": query.get("retry_after"), "body": query.get("body", "{}")})
            elif parsed.path == "/log":
                value = [line for line in STATE.log if line["path"].startswith(query.get("path", "/"))]
            elif parsed.path == "/reset":
                STATE.reset()
            elif parsed.path == "/stats":
                value = {"requests": len(STATE.log)}
        self.reply(200, value)

    do_POST = do_DELETE = do_GET


def listen(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


if __name__ == "__main__":
    print(json.dumps({"http": listen(Handler), "control": listen(Control)}), flush=True)
    sys.stdin.read()
