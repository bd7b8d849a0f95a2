"""Records what PyTorch says of the trainer's models, losses and optimizer.

    record.py [--check | --random SEED]

Without options vectors.json and checkpoint.safetensors are written anew. --check tells whether they still are what
PyTorch says (exit status 1 when not). --random prints the same about models that no one has seen before, made from
the seed.
"""

import argparse
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file

sys.dont_write_bytecode = True   # beside the sources
import cases  # noqa: E402
from stream import Stream  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
FILE = os.path.join(HERE, "vectors.json")
CHECKPOINT = os.path.join(HERE, "checkpoint.safetensors")   # the weights of the first model
TOLERANCE = 1e-7               # of numbers that are kept with eight digits


def shortened(value):
    """Numbers as they are written: eight digits."""
    if isinstance(value, float):
        short = float("%.8g" % value)
        return int(short) if short == int(short) and abs(short) < 1e9 else short
    if isinstance(value, dict):
        return {key: shortened(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [shortened(each) for each in value]
    return value


def fixed():
    return {"torch": torch.__version__.split("+", 1)[0], "models": [
        cases.record(name, config, adapters, 1 + number, steps=100 if name in ("learned_tied", "rotary") else 0)
        for number, (name, (config, adapters)) in enumerate(cases.MODELS.items())]}


def first_weights():
    (config, _), *_ = cases.MODELS.values()
    return {name: value.float() for name, value in cases.build(config, 1).state_dict().items()}


def chance(seed):
    stream = Stream(seed)
    models = []
    for number in range(3):
        config, adapters = cases.random_config(stream)
        chosen = [cases.LOSSES[stream.below(len(cases.LOSSES))] for _ in range(6)]
        models.append(cases.record("random_%d" % number, config, adapters, stream.below(1 << 30), chosen, 10, 10))
    return {"torch": torch.__version__.split("+", 1)[0], "models": models}


def differences(where, old, new):
    """Where two recordings differ by more than rounding."""
    if isinstance(old, dict) and isinstance(new, dict):
        if list(old) != list(new):
            yield where
            return
        for key in old:
            yield from differences("%s.%s" % (where, key), old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield where
            return
        numbers = [each for each in old + new if isinstance(each, (int, float))]
        size = max(map(abs, numbers), default=0)
        for at, (a, b) in enumerate(zip(old, new)):
            if isinstance(a, (int, float)) and isinstance(b, (int, float)):
                if abs(a - b) > TOLERANCE * max(abs(a), size, 1e-9):
                    yield "%s[%d]: %r, %r" % (where, at, a, b)
            else:
                yield from differences("%s[%d]" % (where, at), a, b)
    elif isinstance(old, (int, float)) and isinstance(new, (int, float)):
        if abs(old - new) > TOLERANCE * max(abs(old), 1e-9):
            yield "%s: %r, %r" % (where, old, new)
    elif old != new:
        yield "%s: %r, %r" % (where, old, new)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--random", type=int, metavar="SEED")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.random is not None:
        json.dump(shortened(chance(options.random)), sys.stdout, separators=(",", ":"))
        return
    recording = shortened(fixed())
    if options.check:
        with open(FILE) as file:
            kept = json.load(file)
        kept["torch"] = recording["torch"]
        found = list(differences("vectors", kept, recording))
        weights, old = first_weights(), load_file(CHECKPOINT)
        if set(weights) != set(old) or any(not torch.equal(weights[name], old[name]) for name in weights):
            found.append("checkpoint.safetensors")
        print("\n".join(found[:20]) or "fresh")
        sys.exit(1 if found else 0)
    save_file(first_weights(), CHECKPOINT)
    os.chmod(CHECKPOINT, 0o644)
    with open(FILE, "w") as file:
        # a line for each model's part, so that what changes can be seen
        text = json.dumps(recording, separators=(",", ":"))
        file.write(text.replace('{"loss":', '\n{"loss":').replace('{"name":', '\n{"name":') + "\n")


main()
