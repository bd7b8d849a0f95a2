"""The control listener: plain HTTP, JSON both ways. What there is, is told at the top of training_standin.py."""

import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from training.schema import METHODS, shown


class Control:
    def __init__(self, service, servers):
        self.service, self.ledger, self.servers = service, service.ledger, servers

    # Questions

    def log(self, query):
        with self.ledger.lock:
            calls = [call for call in self.ledger.calls if query.get("method") in (None, call.method)]
        calls = [call for call in calls if call.number > int(query.get("since", 0))]
        return [call.shown(query.get("full", "1") != "0") for call in calls]

    def counters(self, query):
        return self.ledger.snapshot()

    def state(self, query):
        service = self.service
        with self.ledger.lock:
            return dict(
                self.ledger.snapshot(), open=service.relay.open(),
                sessions={key: self._session(session) for key, session in service.sessions.items()},
                models={key: self._model(model) for key, model in service.models.items()},
                checkpoints={key: dict(found, policy=shown(found["policy"]), adam=found["adam"] is not None)
                             for key, found in service.checkpoints.items()},
                uploads={key: {"model": up["model"], "size": up["size"], "count": up["count"], "used": up["used"],
                               "peers": sorted(map(str, up["peers"])), "chunks": sorted(up["chunks"])}
                         for key, up in service.uploads.items()},
                images={key: {"released": image["released"], "expired": image["expired"]}
                        for key, image in service.images.items()},
                futures={key: {"method": future.method, "model_id": future.model_id, "polls": future.polls,
                               "never": future.never, "left": future.left}
                         for key, future in service.futures.items()})

    def _session(self, session):
        self.service.expires(session)
        return {"tags": session.tags, "sdk_version": session.sdk_version, "peer": session.peer,
                "expired": session.expired, "beats": session.beats, "silence": time.monotonic() - session.last,
                "models": [model.id for model in session.models]}

    def _model(self, model):
        return {"theta": model.theta, "base_model": model.base_model, "run_id": model.run_id,
                "full_weight": model.full_weight, "rank": model.rank, "policy": shown(model.policy),
                "step": model.policy.step, "seq": model.last_seq, "gradient": model.gradient,
                "backwards": model.backwards, "forwards": model.forwards, "samples": model.samples,
                "optimizer_steps": model.optimizer_steps, "unloaded": model.unloaded,
                "snapshot": model.snapshot and model.snapshot.id, "session": model.session.id}

    def connections(self, query):
        return self.service.relay.shown()

    def wait(self, query):
        """Until calls that arrived (or `finished`, `held`, `counted`) are at least `count`; `open`: exactly so many
        connections."""
        ledger, count = self.ledger, int(query.get("count", 1))

        def holds():
            if "open" in query:
                return self.service.relay.open() == int(query["open"])
            if "held" in query:
                return ledger.held[query["held"]] >= count
            if "counter" in query:
                return ledger.counters[query["counter"]] >= count
            if "finished" in query:
                return ledger.finished[query["finished"]] >= count
            return ledger.count[query["method"]] >= count
        return {"reached": ledger.wait_for(holds, float(query.get("seconds", 10)))}

    # Orders

    def fault(self, order):
        for fault in order if isinstance(order, list) else [order]:
            if fault.get("method", "*") not in METHODS and fault.get("method", "*") != "*":
                raise ValueError(f"no method {fault['method']}")
            self.ledger.order(fault)
        return {}

    def faults(self, query):
        with self.ledger.lock:
            return self.ledger.faults

    def clear(self, order):
        with self.ledger.lock:
            self.ledger.faults.clear()
        return {}

    def configure(self, order):
        with self.ledger.lock:
            for key, value in order.items():
                if key not in self.service.config:
                    raise ValueError(f"no setting {key}")
                self.service.config[key] = value
            return self.service.config

    def reset(self, order):
        self.service.forget()
        return {}

    def forget(self, order):
        self.ledger.forget()
        return {}

    def release(self, order):
        self.ledger.release(order["key"], order.get("count"))
        return {}

    def expire(self, order):
        """Sessions, images, routing captures, checkpoints, attestations, models: by id, or "all"."""
        with self.ledger.lock:
            for kind, name in order.items():
                table = {"session": self.service.sessions, "image": self.service.images,
                         "routing": self.service.routing, "checkpoint": self.service.checkpoints,
                         "attestation": self.service.attestations, "future": self.service.futures}[kind]
                for key in list(table) if name == "all" else [name]:
                    if kind == "session":
                        table[key].expired = True
                    elif kind == "image":
                        table[key]["expired"] = True
                    else:
                        table.pop(key)
        return {}

    def finish(self, order):
        """Futures and samples that were to be pending for good are done: those of `ids`, or the first `count`."""
        with self.ledger.changed:
            chosen = [key for key, future in self.service.futures.items()
                      if (future.never or future.left) and order.get("method") in (None, future.method)]
            if "ids" in order:
                chosen = order["ids"]
            for key in chosen[:order.get("count", len(chosen))]:
                self.service.futures[key].never, self.service.futures[key].left = False, 0
            self.ledger.changed.notify_all()
        return {"finished": chosen[:order.get("count", len(chosen))]}

    def model(self, order):
        """Sets θ of a model."""
        with self.ledger.lock:
            self.service.models[order["id"]].theta = order["theta"]
        return {}

    def relay(self, order):
        relay = self.service.relay
        if "mode" in order:
            relay.set_mode(order["mode"], bytes.fromhex(order.get("hex", "")) or order.get("text", "").encode())
        done = {}
        if "cut" in order:
            done["cut"] = relay.cut(None if order["cut"] == "all" else order["cut"])
        if "stall" in order:
            done["stalled"] = relay.stall(True, None if order["stall"] == "all" else order["stall"])
        if "resume" in order:
            done["resumed"] = relay.stall(False, None if order["resume"] == "all" else order["resume"])
        return done

    def goaway(self, order):
        """Another gRPC server takes over at the same address; the old one says GOAWAY, and ends its calls after
        `grace` seconds. `lose`: sessions, models and all else are forgotten."""
        if order.get("lose"):
            self.service.lose()
        self.servers.replace(order.get("grace", 10))
        return {}

    def decode(self, order):
        """What a request says, and the bytes that it has when written anew."""
        message = METHODS[order["method"]][0].FromString(bytes.fromhex(order["hex"]))
        return {"request": shown(message), "hex": message.SerializeToString(deterministic=True).hex()}


GET = ("log", "counters", "state", "connections", "wait", "faults")
POST = ("fault", "clear", "configure", "reset", "forget", "release", "expire", "finish", "model", "relay", "goaway",
        "decode")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    control = None

    def log_message(self, *_):
        pass

    def _answer(self, names, given):
        name = urllib.parse.urlsplit(self.path).path.strip("/")
        status = 200
        try:
            if name not in names:
                status, answer = 404, {"error": f"no {self.command} {name}"}
            else:
                answer = getattr(self.control, name)(given)
        except (KeyError, ValueError, TypeError, AttributeError) as problem:
            status, answer = 400, {"error": repr(problem)}
        body = json.dumps(answer).encode()
        head = (f"HTTP/1.1 {status} {'OK' if status == 200 else 'No'}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\n\r\n")
        self.wfile.write(head.encode() + body)

    def do_GET(self):
        self._answer(GET, dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query)))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            given = json.loads(body or b"{}")
        except ValueError as problem:
            given = {}
            self.log_error("%r", problem)
        self._answer(POST, given)


def listen(control):
    """Serves on a thread; the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"control": control}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]

