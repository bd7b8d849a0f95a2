"""Rows of the embedded trainer beside PyTorch on the CPU: see README.md. Used by run.py."""

import json
import os
import statistics
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
THREADS = 2

# (width, layers, vocabulary, tokens, batch), steps of a round, target
TRAINED = (((128, 4, 64, 64, 32), 8, 1.3), ((128, 4, 256, 128, 128), 1, 1.3),
           ((64, 2, 64, 64, 128), 10, 1.5), ((64, 2, 256, 24, 256), 12, 1.5))
# (width, layers, vocabulary, prompt, new), (batch, times in a round, target)
SAMPLED = (((128, 4, 256, 16, 48), ((1, 10, 5), (32, 6, 2), (128, 2, 2))),
           ((64, 2, 256, 16, 48), ((1, 20, 5), (32, 10, 2), (128, 6, 2))))
# the same work in a process of its own
PEAK = (("d128", ("train 128 4 256 128 128 2", "sample 128 4 256 16 48 128 2")),
        ("d64", ("train 64 2 256 24 256 4", "sample 64 2 256 16 48 256 4")))


def torch_python():
    """A Python with PyTorch, or None."""
    path = os.environ.get("RIVERLUA_TORCH_PYTHON") or os.path.join(TOP, "build", "torch", "bin", "python")
    try:
        done = subprocess.run([path, "-c", "import torch, numpy"], stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return None
    return path if done.returncode == 0 else None


class Worker:
    """A process that does what a line says and answers with a line of JSON."""

    def __init__(self, words):
        self.words = words
        # what spins while it waits would be paid for by the other side
        self.child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TOP,
                                      env=dict(os.environ, OMP_NUM_THREADS=str(THREADS)))

    def ask(self, what, *numbers):
        self.child.stdin.write(" ".join(map(str, (what, *numbers))) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit("failed: " + " ".join(self.words))
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.wait()


def work_of(shape):
    """Floating-point operations of a token, forward and backward: the matrices, and half of the attention."""
    width, layers, vocabulary, tokens, _ = shape
    return 6 * (12 * width * width * layers + width * vocabulary) + 6 * tokens * width * layers


def commands(bench, python, threads=THREADS):
    found = {"riverlua": [bench.riverlua, os.path.join(HERE, "trainer_embedded.lua"), str(threads)]}
    if python:
        found["torch"] = [python, os.path.join(HERE, "trainer_torch.py"), str(threads)]
    return found


def interleaved(bench, workers, key, what, *numbers):
    """Tokens per second (`key`: "seconds" by the clock, "cpu" by that of the processors) in rounds that stand next to
    each other, who is first changing from one to the next."""
    rates = {name: [] for name in workers}
    for worker in workers.values():   # memory, caches
        worker.ask(what, *numbers)
    for number in range(max(5, bench.runs)):
        for name in sorted(workers, reverse=number % 2 == 1):
            told = workers[name].ask(what, *numbers)
            rates[name].append(told["tokens"] / told[key])
    return rates


class Speed:
    """Both sides with two threads, by the clock; with one, by its CPU time, which a busy machine hardly changes."""

    def __init__(self, bench, python):
        self.bench = bench
        self.sgemm = bench.compile("sgemm.c", "sgemm", "-I" + os.path.join(TOP, "src"),
                                   os.path.join(TOP, "src", "trainer", "blas.c"), "-ldl", "-pthread")
        self.two = {name: Worker(words) for name, words in commands(bench, python).items()}
        self.one = {name: Worker(words) for name, words in commands(bench, python, 1).items()} if python else {}
        info = self.two["riverlua"].ask("info")
        print("     trainer: %s with its kernels for %s, ours for %s" % (info["blas"], info["core"], info["kernels"]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in (*self.two.values(), *self.one.values()):
            worker.__exit__()

    def machine(self):
        """GFLOPS of sgemm, on both threads."""
        out = subprocess.run([self.sgemm, str(THREADS)], stdout=subprocess.PIPE, text=True, check=True).stdout
        return json.loads(out)["all"]

    def row(self, name, target, work, *command):
        """`work`: operations of a token, to be told as a share of the machine's, or None."""
        before = self.machine() if work else 0
        rates = interleaved(self.bench, self.two, "seconds", *command)
        ours, detail = statistics.median(rates["riverlua"]), ""
        if work:
            most = (before + self.machine()) / 2
            detail = ", %.0f GFLOPS of sgemm's %.0f (%.0f %%)" % (ours * work / 1e9, most, ours * work / 1e7 / most)
        if not self.one:
            print("     %-52s %10.0f tokens/s%s" % (name.rsplit(",", 1)[0], ours, detail), flush=True)
            return
        alone = interleaved(self.bench, self.one, "cpu", *command)
        clock, cpu = (self.bench.ratio(each["riverlua"], each["torch"]) for each in (rates, alone))
        busy = os.getloadavg()[0] > THREADS + 1.5   # others work here: PyTorch's threads lose most of their time
        self.bench.row(name, min(clock, cpu) if busy else clock, target, "up",
                       "%s%.2f by the clock, %.2f by one thread's CPU time; tokens/s: riverlua %.0f, PyTorch %.0f%s" % (
                           "busy machine, the smaller of " if busy else "", clock, cpu, ours,
                           statistics.median(rates["torch"]), detail))


def train(bench, python):
    with Speed(bench, python) as speed:
        for shape, steps, target in TRAINED:
            speed.row("trainer: training d%d L%d V%d T%d B%d, times PyTorch" % shape, target, work_of(shape),
                      "train", *shape, max(1, int(steps * bench.scale)))


def sample(bench, python):
    with Speed(bench, python) as speed:
        for shape, batches in SAMPLED:
            for batch, times, target in batches:
                speed.row("trainer: sampling d%d L%d V%d B%d, times PyTorch" % (*shape[:3], batch), target, None,
                          "sample", *shape, batch, max(1, int(times * bench.scale)))


def peak(bench, python):
    """The largest size of a process, from its start to its end."""
    for name, lines in PEAK:
        sizes = {}
        for which, words in commands(bench, python).items():
            done = subprocess.run([bench.measure_tool, *words], input="\n".join(lines) + "\n", stderr=subprocess.PIPE,
                                  text=True, cwd=TOP, check=True)
            result = json.loads(done.stderr.strip().splitlines()[-1])
            if result["code"] != 0:
                raise SystemExit("failed: %s\n%s" % (" ".join(words), done.stderr))
            sizes[which] = result["peak_kb"] / 1024
        if "torch" not in sizes:
            print("     trainer: peak MB, training and sampling %-17s %10.0f" % (name, sizes["riverlua"]))
            continue
        alone = bench.measure(python, "-c", "import torch")["peak_kb"] / 1024
        bench.row("trainer: peak of training and sampling %s, of PyTorch's" % name, sizes["riverlua"] / sizes["torch"],
                  1 / 3, "down", "MB: riverlua %.0f, PyTorch %.0f (imported, %.0f)" % (
                      sizes["riverlua"], sizes["torch"], alone))


def demo(bench):
    """The whole loop of `make demo` at the specification's numbers, with the start of the process and, as this has a
    cache of its own, the making of the base model."""
    script = os.path.join(TOP, "examples", "grpo_gsm8k.lua")
    unset = {name: value for name, value in os.environ.items() if not name.startswith("RIVER_")}
    took = []
    for seed in range(1, 2 if bench.options.quick else 4):
        folder = os.path.join(bench.folder, "demo-%d" % seed)
        os.mkdir(folder)
        begun = time.perf_counter()
        subprocess.run([bench.riverlua, script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       stdin=subprocess.DEVNULL, cwd=folder, check=True,
                       env=dict(unset, SEED=str(seed), XDG_CACHE_HOME=folder))
        took.append(time.perf_counter() - begun)
    bench.row("trainer: seconds of the whole GRPO loop", statistics.median(took), 30, "down")
