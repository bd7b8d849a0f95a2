"""Python's side of json_python_spec.lua.

    agreement.py make SEED COUNT TEXTS EXPECTED   writes random documents, one a line, as anyone might write them, and
                                                  the same documents in Python's compact sorted form
    agreement.py canonical                        reads documents from standard input, one a line, and prints that form
"""
import json
import random
import struct
import sys


def canonical(value):
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def random_float(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return rng.uniform(-1000, 1000)
    if kind == 1:
        return round(rng.uniform(-1000, 1000), rng.randrange(6))
    if kind == 2:
        return float(rng.randrange(-(2**60), 2**60) >> rng.randrange(60))
    while True:
        value = struct.unpack("<d", rng.randbytes(8))[0]
        if value - value == 0:
            return value


def random_text(rng):
    alphabets = ("abcxyz 019_", '"\\/\b\f\n\r\t\x00\x1f\x7f', "éüßЯк川は", "\u2028\uffff\U0001f642\U0010ffff")
    return "".join(rng.choice(rng.choice(alphabets)) for _ in range(rng.randrange(12) ** 2 // 4))


def random_value(rng, depth):
    kind = rng.randrange(6 if depth == 0 else 9)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.randrange(-(2**63), 2**63) >> rng.randrange(64)
    if kind in (2, 3):
        return random_float(rng)
    if kind in (4, 5):
        return random_text(rng)
    if kind == 6:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(6))]
    if kind == 7:
        return [random_float(rng) for _ in range(rng.randrange(300))] if depth == 1 else []
    return {random_text(rng): random_value(rng, depth - 1) for _ in range(rng.randrange(40 if depth == 1 else 7))}


def make(seed, count, texts, expected):
    rng = random.Random(seed)
    plain = {"mode": "w", "encoding": "utf-8", "newline": "\n"}
    with open(texts, **plain) as out, open(expected, **plain) as want:
        for _ in range(count):
            value = random_value(rng, 3)
            separators = rng.choice(((",", ":"), (", ", ": "), (" ,\t", "\r: ")))
            print(json.dumps(value, ensure_ascii=rng.random() < 0.5, separators=separators), file=out)
            print(canonical(value), file=want)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
    else:
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        for line in sys.stdin.buffer:
            print(canonical(json.loads(line)))
