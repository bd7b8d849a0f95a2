"""NEST through NumPy: make FILE writes random payloads of the official codec; check FILE reads Lua's.

A line is the payload in hex and, after a blank, what JSON says of the value: {"array": elements, "dtype", "shape"},
{"str"}, {"list"} or {"dict": [[key, value], …]}.
"""
import importlib.util
import json
import math
import random
import sys

import numpy as np

spec = importlib.util.find_spec("river_client")
path = spec.submodule_search_locations[0] + "/_nested_codec.py"
spec = importlib.util.spec_from_file_location("nested_codec", path)
codec = importlib.util.module_from_spec(spec)
spec.loader.exec_module(codec)

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def random_array(rng):
    shape = tuple(rng.choice([0, 1, 2, 3, 7, 33]) for _ in range(rng.randrange(1, 4)))
    kind = rng.randrange(4)
    size = math.prod(shape)
    if kind == 0:
        dtype = rng.choice(INTEGERS)
        info = np.iinfo(dtype)
        values = [rng.choice([info.min, info.max, rng.randrange(info.min, info.max)]) for _ in range(size)]
        return np.array(values, dtype=dtype).reshape(shape)
    if kind == 1:
        return np.array([rng.random() < 0.5 for _ in range(size)], dtype=bool).reshape(shape)
    values = [rng.choice([0.0, -0.0, math.inf, -math.inf, rng.gauss(0, 1), 1e-45, 3.4e38]) for _ in range(size)]
    return np.array(values, dtype="float32" if kind == 2 else "float64").reshape(shape)


def random_value(rng, depth):
    kind = rng.randrange(5 if depth > 0 else 3)
    if kind <= 1:
        return random_array(rng)
    if kind == 2:
        return "".join(rng.choice("aé€😀\n ") for _ in range(rng.randrange(40)))
    if kind == 3:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(5))]
    return {f"k{rng.randrange(1000)}": random_value(rng, depth - 1) for _ in range(rng.randrange(5))}


def number(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flatten(array):
    return [number(value) for value in array.reshape(-1).tolist()]


def describe(value):
    if isinstance(value, str):
        return {"str": value}
    if isinstance(value, list):
        return {"list": [describe(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[key, describe(item)] for key, item in value.items()]}
    return {"array": flatten(value), "dtype": str(value.dtype), "shape": list(value.shape)}


def make(name):
    rng = random.Random(20240917)
    with open(name, "w", encoding="utf-8") as out:
        for _ in range(400):
            value = random_value(rng, 3)
            print(codec.to_bytes(value).hex(), json.dumps(describe(value)), file=out)


def check(name):
    count = 0
    for line in open(name, encoding="utf-8"):
        payload, described = line.split(" ", 1)
        value = codec.from_bytes(bytes.fromhex(payload))
        assert codec.to_bytes(value).hex() == payload, payload
        assert describe(value) == json.loads(described), line
        count += 1
    assert count > 100, count


{"make": make, "check": check}[sys.argv[1]](sys.argv[2])
