"""What was called and counted, and the faults that were ordered.

One lock and one condition serve the whole stand-in.
"""

import collections
import math
import threading
import time

from training import schema

KEPT_BYTES = 256 << 20      # requests of more than this in all are not kept for the log
WAIT_SECONDS = 10


class Call:
    """One call as it arrived; `status` is set when it ends."""

    def __init__(self, number, method, raw, context, peer, started):
        self.number, self.method, self.raw, self.size, self.peer = number, method, raw, len(raw), peer
        self.time = time.monotonic() - started
        self.metadata = [[key, value if isinstance(value, str) else value.hex()]
                         for key, value in context.invocation_metadata()]
        remaining = context.time_remaining()
        self.deadline = None if remaining is None or not math.isfinite(remaining) or remaining > 1e8 else remaining
        self.status = None
        self.notes = {}

    def shown(self, full=True):
        line = {"n": self.number, "method": self.method, "peer": self.peer, "time": self.time, "bytes": self.size,
                "metadata": self.metadata, "deadline": self.deadline, "status": self.status, **self.notes}
        if full and self.raw is not None:
            try:
                line["request"] = schema.shown(schema.METHODS[self.method][0].FromString(self.raw))
            except Exception:                                               # noqa: BLE001 (a log shows what it can)
                line["raw"] = self.raw[:4096].hex()
        return line


class Ledger:
    def __init__(self):
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.started = time.monotonic()
        self.generation = 0
        self.forget()

    def forget(self):
        """Log, counters and faults are gone; who is held goes on."""
        with self.changed:
            self.calls, self.kept = [], 0
            self.count = collections.Counter()          # calls that arrived, by method
            self.finished = collections.Counter()
            self.statuses = collections.Counter()       # "Method STATUS"
            self.counters = collections.Counter()
            self.violations, self.remarks = [], []
            self.faults = []
            self.held = collections.Counter()
            self.released = collections.Counter()
            self.generation += 1
            self.changed.notify_all()

    def arrive(self, method, raw, context, peer):
        with self.changed:
            call = Call(len(self.calls) + 1, method, raw, context, peer, self.started)
            self.calls.append(call)
            self.kept += len(raw)
            if self.kept > KEPT_BYTES:
                self.kept -= len(raw)
                call.raw = None
            self.count[method] += 1
            self.changed.notify_all()
            return call

    def finish(self, call, status):
        with self.changed:
            call.status = status
            self.finished[call.method] += 1
            self.statuses[f"{call.method} {status}"] += 1
            self.changed.notify_all()

    def gone(self, call):
        """The call is over; when nothing was answered yet, its client gave it up or its connection is lost."""
        with self.changed:
            if call.status is None:
                call.notes["cancelled"] = True
                self.counters["cancelled"] += 1
                self.changed.notify_all()

    def violation(self, text):
        with self.lock:
            self.counters["violations"] += 1
            self.violations.append(text)

    def remark(self, text):
        """Something odd that was let pass."""
        with self.lock:
            self.counters["remarks"] += 1
            if len(self.remarks) < 1000:
                self.remarks.append(text)

    def bump(self, name, by=1):
        with self.changed:
            self.counters[name] += by
            self.changed.notify_all()

    def wait_for(self, holds, seconds=WAIT_SECONDS):
        with self.changed:
            return self.changed.wait_for(holds, seconds)

    def hold(self, key):
        """Waits until the key is released (once for each who waits), or everything is forgotten."""
        with self.changed:
            generation, self.held[key] = self.generation, self.held[key] + 1
            self.changed.notify_all()

            def free():
                return self.generation != generation or self.released[key] > 0
            if self.changed.wait_for(free, 600) and self.generation == generation:
                self.released[key] -= 1
                self.held[key] -= 1

    def release(self, key, count=None):
        with self.changed:
            self.released[key] += self.held[key] - self.released[key] if count is None else count
            self.changed.notify_all()

    def pause(self, seconds):
        """A delay that a reset ends."""
        with self.changed:
            generation = self.generation
            self.changed.wait_for(lambda: self.generation != generation, seconds)

    # Faults

    def order(self, fault):
        with self.lock:
            fault = dict(fault)
            fault.setdefault("method", "*")
            fault["left"] = fault.pop("times", 1)
            fault["skip"] = fault.pop("after", 0)
            fault["hits"] = 0
            self.faults.append(fault)

    def take(self, method, shown):
        """The fault for a call, or an empty one; counts it as used. `shown()` is the request as JSON."""
        with self.lock:
            for fault in self.faults:
                if fault["method"] not in ("*", method) or fault["left"] == 0:
                    continue
                if "match" in fault and not _matches(shown(), fault["match"]):
                    continue
                if fault["skip"] > 0:
                    fault["skip"] -= 1
                    continue
                fault["left"] -= 1 if fault["left"] > 0 else 0
                fault["hits"] += 1
                return fault
        return {}

    def snapshot(self):
        with self.lock:
            return {"calls": dict(self.count), "finished": dict(self.finished), "statuses": dict(self.statuses),
                    "counters": dict(self.counters), "violations": list(self.violations),
                    "remarks": list(self.remarks), "held": {key: n for key, n in self.held.items() if n}}


def _matches(value, wanted):
    """Whether everything in `wanted` is in `value` too; lists are compared from their beginning."""
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(key in value and _matches(value[key], item)
                                               for key, item in wanted.items())
    if isinstance(wanted, list):
        return isinstance(value, list) and len(value) >= len(wanted) and all(map(_matches, value, wanted))
    return value == wanted
