"""Runs the HTTP, River, ModelRiver, gRPC, training and start-up benchmarks and prints one table.

    build/venv/bin/python bench/run.py [--quick] [--only NAME[,NAME…]] [--riverlua build/riverlua]

Each ratio is the median of interleaved runs in one go, so that a busy machine slows both sides. The Python that runs
this must have riverapi, river, openai and river-client (tests/requirements*.txt); wrk and lua5.4 are needed for two of
the rows. Exit status 1 when a target is missed. Benchmarks: json, sequential, django, many, inflight, flat, startup,
once, embedded, sse, sse_flat, jobs, delta, grpc, backward, first_call, idle, latency, train, sample, peak, demo.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True   # beside the sources
import trainer  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion"]


class Server:
    """A server that prints one JSON line and ends when its standard input closes."""

    def __init__(self, *words, **environment):
        self.child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                      env=dict(os.environ, **environment))
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit("cannot start " + " ".join(words))
        self.told = json.loads(line)
        self.base = "http://127.0.0.1:%d" % self.told.get("port", self.told.get("http"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def timed(*words):
    """Wall seconds between the lines "start" and "end CPU" of a child, and that CPU time."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        begun = wall = cpu = None
        for line in child.stdout:
            if line.startswith("start"):
                begun = time.perf_counter()
            elif line.startswith("end"):
                wall, cpu = time.perf_counter() - begun, float(line.split()[1])
    if child.returncode != 0 or wall is None:
        raise SystemExit("failed: " + " ".join(words))
    return wall, cpu


@contextlib.contextmanager
def on_processor(number):
    """What is started meanwhile runs on this processor only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def one_processor():
    """Client and server, which take turns, on one processor: across two, most of the time would go into waking an
    idle one (ten times the work itself on a virtual machine), and how much differs from run to run."""
    return on_processor(max(os.sched_getaffinity(0)))


class Bench:
    def __init__(self, options):
        self.options = options
        self.runs = 3 if options.quick else 5
        self.scale = 0.2 if options.quick else 1
        self.riverlua = os.path.abspath(options.riverlua)
        self.folder = tempfile.mkdtemp(prefix="bench-")
        self.rows = []
        self.fast_stub = self.compile("servers/fast_stub.c", "fast_stub")
        self.bare_curl = self.compile("bare_curl.c", "bare_curl", "-lcurl")
        self.measure_tool = self.compile("measure.c", "measure")
        self.sse_stub = self.compile("servers/sse_stub.c", "sse_stub", "-pthread")
        self.grpc_stub = self.compile("servers/grpc_stub.c", "grpc_stub", "-pthread", "-lnghttp2")

    def compile(self, source, name, *libraries):
        target = os.path.join(self.folder, name)
        subprocess.run([os.environ.get("CC", "cc"), *FLAGS, os.path.join(HERE, source), "-o", target, *libraries],
                       check=True)
        return target

    def row(self, name, value, target, better, detail=""):
        """`better`: "up" when the value must be at least the target, "down" when at most."""
        good = value >= target if better == "up" else value <= target
        self.rows.append((name, value, ("≥ " if better == "up" else "≤ ") + "%g" % target, good, detail))
        print("%-4s %-52s %10.2f   target %-8s %s" % ("ok" if good else "MISS", name, value, self.rows[-1][2], detail),
              flush=True)

    def measure(self, *words):
        done = subprocess.run([self.measure_tool, *words], stderr=subprocess.PIPE, text=True, check=True)
        result = json.loads(done.stderr.strip().splitlines()[-1])
        if result["code"] != 0:
            raise SystemExit("failed: %s\n%s" % (" ".join(words), done.stderr))
        return result

    def script(self, name):
        return os.path.join(HERE, name)

    def sequential(self):
        """Learn and predict in turn: riverlua, riverapi and a bare libcurl loop on the fast stub."""
        pairs = {"lua": int(8000 * self.scale), "python": int(500 * self.scale), "bare": int(8000 * self.scale)}
        wall, cpu = {name: [] for name in pairs}, {name: [] for name in pairs}
        with one_processor(), Server(self.fast_stub) as server:
            commands = {"lua": [self.riverlua, self.script("river_sequential.lua")],
                        "python": [sys.executable, self.script("river_sequential.py")], "bare": [self.bare_curl]}
            for _ in range(self.runs):
                for name, words in commands.items():
                    took, used = timed(*words, server.base, str(pairs[name]))
                    wall[name].append(took / pairs[name])
                    cpu[name].append(used / pairs[name])
        detail = "µs a pair: " + ", ".join("%s %.0f (cpu %.0f)" % (
            name, 1e6 * statistics.median(wall[name]), 1e6 * statistics.median(cpu[name])) for name in pairs)
        self.row("sequential: times faster than riverapi", self.ratio(wall["python"], wall["lua"]), 25, "up", detail)
        self.row("sequential: CPU relative to a bare libcurl loop", self.ratio(cpu["lua"], cpu["bare"]), 2, "down")
        self.row("sequential: bare loop against riverapi (for scale)", self.ratio(wall["python"], wall["bare"]), 0,
                 "up")

    def django(self):
        """The same on Django's own server, where delayed acknowledgements cost 40 ms."""
        serve = os.path.join(TOP, "tests", "servers", "river_server", "serve.py")
        pairs, wall = 200, {"lua": [], "python": []}
        commands = {"lua": [self.riverlua, self.script("river_sequential.lua")],
                    "python": [sys.executable, self.script("river_sequential.py")]}
        with contextlib.ExitStack() as stack:
            # one each: a server slows down with every prediction that a client makes it keep
            servers = {}
            for name in commands:
                state = stack.enter_context(tempfile.TemporaryDirectory())
                servers[name] = stack.enter_context(Server(sys.executable, serve, "--state", state))
                timed(*commands["lua"], servers[name].base, str(pairs), "upload")   # its first calls import much
            for _ in range(self.runs):
                for name, words in commands.items():
                    wall[name].append(timed(*words, servers[name].base, str(pairs), "upload")[0] / pairs)
        self.row("django: times faster than riverapi", self.ratio(wall["python"], wall["lua"]), 2.5, "up",
                 "ms a pair: " + ", ".join("%s %.2f" % (k, 1e3 * statistics.median(v)) for k, v in wall.items()))

    def many(self):
        """learn_many against a loop of learn on Django's own server: beside it, and behind a network of 2 ms."""
        serve = os.path.join(TOP, "tests", "servers", "river_server", "serve.py")
        relay, script = self.script("servers/delay_relay.py"), self.script("river_many.lua")
        count, wall = int(400 * self.scale), {}
        with contextlib.ExitStack() as stack:
            state = stack.enter_context(tempfile.TemporaryDirectory())
            server = stack.enter_context(Server(sys.executable, serve, "--state", state))
            far = stack.enter_context(Server(sys.executable, relay, server.base.rsplit(":", 1)[1], "1"))
            timed(self.riverlua, script, server.base, "20", "many", "upload")   # its first calls import much
            for _ in range(self.runs):
                for where, base in (("near", server.base), ("far", far.base)):
                    for how in ("loop", "many"):
                        took = timed(self.riverlua, script, base, str(count), how)[0]
                        wall.setdefault(where + " " + how, []).append(took / count)
                took = timed(sys.executable, self.script("river_many.py"), server.base, str(count))[0]
                wall.setdefault("riverapi", []).append(took / count)
        detail = "ms a learn: " + ", ".join("%s %.2f" % (k, 1e3 * statistics.median(v)) for k, v in wall.items())
        self.row("many: learn_many, network of 2 ms, against a loop", self.ratio(wall["far loop"], wall["far many"]), 1.5,
                 "up", detail)
        self.row("many: learn_many against riverapi's loop", self.ratio(wall["riverapi"], wall["near many"]), 1.5, "up")
        # the server's own work is nearly all of it there (see README.md)
        self.row("many: learn_many beside the server, against a loop", self.ratio(wall["near loop"], wall["near many"]),
                 0.9, "up")

    def embedded(self):
        """Predict and learn in turn on `embedded:`, through the client, against the Python library in process."""
        for kind, count, target in (("linear", 60000, 8), ("tree", 20000, 3)):
            commands = {"lua": [self.riverlua, self.script("embedded_pairs.lua")],
                        "python": [sys.executable, self.script("embedded_pairs.py")]}
            count, cpu, sums = int(count * self.scale), {name: [] for name in commands}, set()
            for _ in range(max(5, self.runs)):
                for name, words in commands.items():
                    out = subprocess.run([*words, kind, str(count)], cwd=TOP, stdout=subprocess.PIPE, text=True,
                                         check=True).stdout
                    _, used, total = out.splitlines()[-1].split()
                    cpu[name].append(float(used) / count)
                    sums.add(total)
            if len(sums) > 1:
                raise SystemExit("embedded: the predictions differ: %s" % sums)
            self.row("embedded: %s, times faster than river in Python" % kind, self.ratio(cpu["python"], cpu["lua"]),
                     target, "up", "µs of CPU a pair: " + ", ".join(
                         "%s %.2f" % (name, 1e6 * statistics.median(values)) for name, values in cpu.items()))

    def inflight(self):
        """32 requests in flight on one thread, against wrk on one thread."""
        if not shutil.which("wrk"):
            print("skip inflight: wrk is not installed")
            return
        count, rates = int(60000 * self.scale), {"lua": [], "wrk": []}
        with Server(self.fast_stub) as server:
            address = server.base + "/api/models/"
            for _ in range(self.runs):
                out = subprocess.run(["wrk", "-t1", "-c32", "-d%ds" % (1 if self.options.quick else 2), address],
                                     stdout=subprocess.PIPE, text=True, check=True).stdout
                rates["wrk"].append(float(out.split("Requests/sec:")[1].split()[0]))
                rates["lua"].append(count / timed(self.riverlua, self.script("http_inflight.lua"), address, str(count),
                                                  "32")[0])
        self.row("inflight: requests per second relative to wrk", self.ratio(rates["lua"], rates["wrk"]), 0.5, "up",
                 ", ".join("%s %.0f/s" % (k, statistics.median(v)) for k, v in rates.items()))

    def flat(self):
        """Memory over many requests in one process."""
        count = int(100000 * self.scale)
        with Server(self.fast_stub) as server:
            out = subprocess.run([self.riverlua, self.script("http_flat.lua"), server.base, str(count)],
                                 stdout=subprocess.PIPE, text=True, check=True).stdout
        sizes = [int(word) for word in out.split()]
        self.row("flat: kB grown from 10 %% to 100 %% of %d requests" % count, sizes[-1] - sizes[0], 512, "down",
                 "kB: " + " ".join(map(str, sizes)))

    def sse(self):
        """Events of a streamed answer, as OpenAI's chunks and as client:stream's events, against openai's client."""
        events = {"chunks": int(200000 * self.scale), "events": int(200000 * self.scale),
                  "python": int(10000 * self.scale)}
        wall, cpu = {name: [] for name in events}, {name: [] for name in events}
        with Server(self.sse_stub) as server:
            for _ in range(max(5, self.runs)):
                for name, count in events.items():
                    words = [sys.executable, self.script("sse_openai.py")] if name == "python" else [
                        self.riverlua, self.script("sse_stream.lua")]
                    took, used = timed(*words, server.base, str(count), name)
                    wall[name].append(took / count)
                    cpu[name].append(used / count)
        chunks, others = self.ratio(wall["python"], wall["chunks"]), self.ratio(wall["python"], wall["events"])
        self.row("sse: times the events per second of openai's client", min(chunks, others), 3, "up",
                 "chat.completions:create %.1f, client:stream %.1f; events/s: " % (chunks, others) + ", ".join(
                     "%s %.0f (cpu %.1f µs)" % (name, 1 / statistics.median(wall[name]),
                                                1e6 * statistics.median(cpu[name])) for name in events))

    def sse_flat(self):
        """Memory over many events in one process. One stream keeps a MiB of its text, and is warm when it is full."""
        count = int(1000000 * self.scale)
        with Server(self.sse_stub) as server:
            for streams, warm, named in ((10, 0, "ten streams"), (1, 4, "one stream")):
                runs = []
                for _ in range(self.runs):
                    out = subprocess.run([self.riverlua, self.script("sse_flat.lua"), server.base, str(count),
                                          str(streams)], stdout=subprocess.PIPE, text=True, check=True).stdout
                    runs.append([int(word) for word in out.split()])
                grown = [sizes[-1] - sizes[warm] for sizes in runs]
                self.row("sse_flat: kB grown, %d to 100 %% of %d, %s" % (10 * (warm + 1), count, named),
                         statistics.median(grown), 512, "down", "kB: %s; each run: %s" % (
                             " ".join(map(str, runs[-1])), " ".join(map(str, grown))))

    def jobs(self):
        """Jobs waited for at once in one process, against the stand-in of the whole API."""
        count = int(500 * self.scale)
        stub = os.path.join(TOP, "tests", "servers", "stub_modelriver.py")
        each, made, results = [], [], []
        for _ in range(self.runs):
            with Server(sys.executable, stub) as server:   # a new one: it keeps all jobs
                told = server.told
                out = subprocess.run([self.riverlua, self.script("jobs_waiting.lua"), str(told["http"]),
                                      str(told["control"]), told["keys"]["good"], str(count)],
                                     stdout=subprocess.PIPE, text=True, check=True).stdout
            before, peak, *seconds = map(float, out.split())
            each.append((peak - before) / count)
            made.append(seconds[0])
            results.append(seconds[1])
        self.row("jobs: kB for each of %d jobs waited for at once" % count, statistics.median(each), 40, "down",
                 "%.0f ms until all wait, %.0f ms for the results (mostly the stand-in's, in Python)" % (
                     1e3 * statistics.median(made), 1e3 * statistics.median(results)))

    def delays(self, client, server):
        """Microseconds that deltas take to our client and to openai's, by name: (median, 99 %), the middle ones of the
        runs. `client` and `server` are the processors that these run on."""
        commands = {"lua": [self.riverlua, self.script("sse_delta.lua")],
                    "python": [sys.executable, self.script("sse_delta.py")]}
        runs = {name: [] for name in commands}
        with contextlib.ExitStack() as stack:
            with on_processor(server):
                stub = stack.enter_context(Server(self.sse_stub, "2000"))
            stack.enter_context(on_processor(client))
            for _ in range(self.runs):
                for name, words in commands.items():
                    out = subprocess.run([*words, stub.base, str(int(1000 * self.scale))], stdout=subprocess.PIPE,
                                         text=True, check=True).stdout
                    took = sorted(1e6 * float(word) for word in out.split())
                    runs[name].append((statistics.median(took), took[int(0.99 * len(took))]))
        return {name: tuple(map(statistics.median, zip(*pairs))) for name, pairs in runs.items()}

    def delta(self):
        """From the bytes of a delta to the script, one every 2 ms. On one processor, as `sequential`; for comparison
        also on two, where the time that an idle one takes to wake up is in it."""
        processors = sorted(os.sched_getaffinity(0))
        one = self.delays(processors[-1], processors[-1])
        two = self.delays(processors[0], processors[-1]) if len(processors) > 1 else {}
        detail = ["%s %.0f (99 %%: %.0f)" % (name, *times) for name, times in one.items()]
        detail += ["%s on two processors %.0f (%.0f)" % (name, *times) for name, times in two.items()]
        self.row("delta: µs from a delta's bytes to the script", one["lua"][0], 200, "down", ", ".join(detail))

    def grpc(self):
        """Small unary calls on one channel against grpcio: with threads, with futures and with asyncio, the best of the
        three in each run. One call in flight shares one processor with its server, as `sequential`."""
        counts = {"lua": int(20000 * self.scale), "sync": int(3000 * self.scale), "futures": int(3000 * self.scale),
                  "asyncio": int(3000 * self.scale)}
        for width in (1, 8, 64):
            rate, cpu = {name: [] for name in counts}, {name: [] for name in counts}
            with one_processor() if width == 1 else contextlib.nullcontext(), Server(
                    self.grpc_stub, "SessionHeartbeat=0801") as server:
                target = "127.0.0.1:%d" % server.told["port"]
                for _ in range(max(5, self.runs)):
                    for name, count in counts.items():
                        words = [self.riverlua, self.script("grpc_calls.lua")] if name == "lua" else [
                            sys.executable, self.script("grpc_calls.py")]
                        count -= count % width
                        took, used = timed(*words, target, str(count), str(width), name)
                        rate[name].append(count / took)
                        cpu[name].append(used / count)
            peers = [name for name in counts if name != "lua"]
            best = [max(each) for each in zip(*(rate[name] for name in peers))]
            least = [min(each) for each in zip(*(cpu[name] for name in peers))]
            self.row("grpc: %d in flight, times grpcio's calls per second" % width,
                     self.ratio(rate["lua"], best), 2, "up", "calls/s: " + ", ".join(
                         "%s %.0f (cpu %.1f µs)" % (name, statistics.median(rate[name]),
                                                    1e6 * statistics.median(cpu[name])) for name in counts))
            self.row("grpc: %d in flight, CPU a call relative to grpcio" % width, self.ratio(cpu["lua"], least),
                     0.33, "down")

    def training_stub(self):
        """A server that answers a training client without thinking."""
        replies = subprocess.run([self.riverlua, self.script("training_replies.lua")], stdout=subprocess.PIPE, text=True,
                                 check=True).stdout
        return Server(self.grpc_stub, *replies.split())

    def backward(self):
        """forward_backward of 64 datums of 4,096 tokens and 4 columns: to the bytes of the request, and the whole call
        against the stub."""
        calls = 5 if self.options.quick else 9
        ways = {"tables": ["tables"], "arrays": ["arrays"], "lists": ["lists"], "numpy": ["arrays"],
                "tables sent": ["tables"], "arrays sent": ["arrays"], "lists sent": ["stub-lists"]}
        wall, cpu, sizes = {name: [] for name in ways}, {name: [] for name in ways}, set()
        with self.training_stub() as server:
            port = str(server.told["port"])
            for _ in range(max(5, self.runs)):
                for name, (how,) in ways.items():
                    if name.startswith(("lists", "numpy")):
                        words = [sys.executable, self.script("training_backward.py"), how, str(calls), port]
                    else:
                        words = [self.riverlua, self.script("training_backward.lua"), how, str(calls)]
                        words += [port] if name.endswith("sent") else []
                    size, *lines = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                                  check=True).stdout.splitlines()
                    sizes.add(int(size))
                    each = [tuple(map(float, line.split())) for line in lines]
                    wall[name].append(statistics.median(took for took, _ in each))
                    cpu[name].append(statistics.median(used for _, used in each))
        if len(sizes - {0}) != 1:
            raise SystemExit("backward: the requests differ in size: %s" % sizes)
        def times(python, lua):   # by the clock or by CPU time, whichever says less
            return min(self.ratio(each[python], each[lua]) for each in (wall, cpu))
        detail = "ms: " + ", ".join("%s %.1f (cpu %.1f)" % (
            name, statistics.median(wall[name]), statistics.median(cpu[name])) for name in ways)
        self.row("backward: from tables, times the official client", times("lists", "tables"), 5, "up", detail)
        self.row("backward: from arrays, times the official client", times("lists", "arrays"), 25, "up",
                 "%.1f times the official client with numpy arrays" % times("numpy", "arrays"))
        self.row("backward: from tables, sent and answered, times official", times("lists sent", "tables sent"), 4, "up")
        self.row("backward: from arrays, sent and answered, times official", times("lists sent", "arrays sent"), 15, "up")

    def first_call(self):
        """From the start of the process to the answer of a health check, and its end."""
        results = {"lua": [], "python": []}
        with self.training_stub() as server:
            port = str(server.told["port"])
            for _ in range(max(5, self.runs)):
                results["python"].append(self.measure(sys.executable, self.script("training_first.py"), port))
                for _ in range(4):
                    results["lua"].append(self.measure(self.riverlua, self.script("training_first.lua"), port))
        wall = {name: statistics.median(run["wall"] for run in runs) for name, runs in results.items()}
        self.row("first_call: ms to the first answer", 1e3 * wall["lua"], 30, "down", "python %.0f ms, %.0f times" % (
            1e3 * wall["python"], wall["python"] / wall["lua"]))

    def idle(self):
        """Resident size of a session that waits, after a sample, a pass and a heartbeat."""
        sizes = {"lua": [], "python": []}
        with self.training_stub() as server:
            for _ in range(max(5, self.runs)):
                for name, words in (("lua", [self.riverlua, self.script("training_idle.lua")]),
                                    ("python", [sys.executable, self.script("training_idle.py")])):
                    with subprocess.Popen([*words, str(server.told["port"])], stdin=subprocess.PIPE, text=True,
                                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
                        if child.stdout.readline() != "idle\n":
                            raise SystemExit("failed: " + " ".join(words))
                        time.sleep(2.5)   # there is a heartbeat every two seconds
                        with open("/proc/%d/status" % child.pid) as status:
                            told = dict(line.split(":", 1) for line in status)
                        sizes[name].append(int(told["VmRSS"].split()[0]))
                        child.stdin.close()
        self.row("idle: resident MB of a session that waits", statistics.median(sizes["lua"]) / 1024, 14, "down",
                 "python %.0f MB" % (statistics.median(sizes["python"]) / 1024))

    def latency(self):
        """How long samples are at the service before the script has them: alone, and as they complete in a batch."""
        serve = os.path.join(TOP, "tests", "servers", "training_standin.py")
        works = ["0.21", "0.53", "0.86", "1.19", "1.5"] if self.options.quick else [
            "0.21", "0.37", "0.53", "0.68", "0.86", "1.02", "1.19", "1.34", "1.5"]
        with Server(sys.executable, serve) as server:
            where = [str(server.told["port"]), str(server.told["control"])]
            for how, named in (("alone", "sample's"), ("batch", "sample_as_completed's")):
                means, worst = {"lua": [], "python": []}, {"lua": 0, "python": 0}
                for _ in range(max(5, self.runs)):
                    for name, words in (("lua", [self.riverlua, self.script("training_latency.lua")]),
                                        ("python", [sys.executable, self.script("training_latency.py")])):
                        out = subprocess.run([*words, *where, how, *works], stdout=subprocess.PIPE, text=True,
                                             stderr=subprocess.DEVNULL, check=True).stdout
                        each = list(map(float, out.split()))
                        means[name].append(statistics.mean(each))
                        worst[name] = max(worst[name], *each)
                self.row("latency: ms of %s mean wait over the service's" % named, statistics.median(means["lua"]), 30,
                         "down", "longest %.0f ms; python %.0f ms, longest %.0f ms" % (
                             worst["lua"], statistics.median(means["python"]), worst["python"]))

    def json(self):
        """riverlua.json against lua-cjson on ten documents, both ways (json.lua has the whole table)."""
        out = subprocess.run([self.riverlua, self.script("json.lua")], stdout=subprocess.PIPE, text=True, check=True).stdout
        worst = float(out.split("worst ")[1].split(",")[0])
        self.row("json: slowest document relative to lua-cjson", worst, 1, "up", out.splitlines()[-1])

    def startup(self):
        """A script that does nothing."""
        if not shutil.which("lua5.4"):
            print("skip startup: lua5.4 is not installed")
            return
        empty = os.path.join(self.folder, "empty.lua")
        open(empty, "w").close()
        results = {"riverlua": [], "lua5.4": []}
        for _ in range(15 if self.options.quick else 41):
            for name, command in (("riverlua", self.riverlua), ("lua5.4", "lua5.4")):
                results[name].append(self.measure(command, empty))
        wall = {name: [run["wall"] for run in runs] for name, runs in results.items()}
        self.row("startup: empty script relative to lua5.4", self.ratio(wall["riverlua"], wall["lua5.4"]), 1.3, "down",
                 ", ".join("%s %.2f ms" % (k, 1e3 * statistics.median(v)) for k, v in wall.items()))
        self.row("startup: peak MB of an empty script",
                 statistics.median(run["peak_kb"] for run in results["riverlua"]) / 1024, 6, "down",
                 "lua5.4 %.2f MB" % (statistics.median(run["peak_kb"] for run in results["lua5.4"]) / 1024))

    def once(self):
        """Upload, learn and predict once, process included."""
        results = {"lua": [], "python": []}
        with Server(self.fast_stub) as server:
            for _ in range(self.runs):
                results["python"].append(self.measure(sys.executable, self.script("river_once.py"), server.base))
                for _ in range(4):
                    results["lua"].append(self.measure(self.riverlua, self.script("river_once.lua"), server.base))

        def middle(name, key):
            return statistics.median(run[key] for run in results[name])
        self.row("once: ms for upload, learn, predict", 1e3 * middle("lua", "wall"), 30, "down",
                 "python %.0f ms" % (1e3 * middle("python", "wall")))
        self.row("once: peak MB", middle("lua", "peak_kb") / 1024, 14, "down",
                 "python %.0f MB" % (middle("python", "peak_kb") / 1024))

    def peer(self):
        python = trainer.torch_python()
        if not python:
            print("     trainer: PyTorch is not there, so these are our figures alone; `make torch` gets it")
        return python

    def train(self):
        """Forward, backward and AdamW of the embedded trainer beside PyTorch."""
        trainer.train(self, self.peer())

    def sample(self):
        """Sampling with a cache of keys and values beside PyTorch."""
        trainer.sample(self, self.peer())

    def peak(self):
        """Memory of the same work."""
        trainer.peak(self, self.peer())

    def demo(self):
        trainer.demo(self)

    @staticmethod
    def ratio(above, below):
        """The median of the ratios of runs that stood next to each other."""
        return statistics.median(a / b for a, b in zip(above, below))


BENCHMARKS = ("json", "startup", "once", "sequential", "inflight", "flat", "django", "many", "embedded", "sse",
              "sse_flat", "jobs", "delta", "grpc", "backward", "first_call", "idle", "latency", "train", "sample",
              "peak", "demo")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="comma-separated names")
    parser.add_argument("--riverlua", default=os.path.join(TOP, "build", "riverlua"))
    options = parser.parse_args()
    bench = Bench(options)
    try:
        for name in options.only.split(","):
            if name not in BENCHMARKS:
                parser.error("no benchmark '%s'; known: %s" % (name, ", ".join(BENCHMARKS)))
            getattr(bench, name)()
    finally:
        shutil.rmtree(bench.folder, ignore_errors=True)
    missed = [row for row in bench.rows if not row[3]]
    print("%d rows, %d missed" % (len(bench.rows), len(missed)))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
