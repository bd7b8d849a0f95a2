"""Hashes and orders of sets in CPython 3.11, for hash_order_spec.lua (run with PYTHONHASHSEED=0)."""

import json
import random

generator = random.Random(5)
VALUES = [0, 1, -1, -2, 5, 2**31, -(2**31), 2**61 - 1, 2**61, -(2**61), 2**63 - 1, -(2**63), 0.5, -0.5, 1.5, 0.1, -3.75,
          1e10, 1e300, 1e-300, 123456.789, 2.0**53, 5e-324, True, False, "", "a", "abc", "12345678", "123456789",
          "a longer name with spaces in it", "größe", "naïve", "Ω", "日本語", "😀 smile", "ÿ"]
WORDS = ["".join(generator.choice("abcdefghijklmnopqrstuvwxyz_") for _ in range(generator.randrange(1, 15)))
         for _ in range(300)]


def operations(pool, count, removals):
    """A history of additions and removals, and the order after some of them."""
    members, history = set(), []
    for i in range(count):
        if members and generator.random() < removals:
            value = generator.choice(sorted(members))
            members.discard(value)
            history.append([-1, value])
        else:
            value = generator.choice(pool)
            members.add(value)
            history.append([1, value])
        if i % 20 == 19 or count < 30:
            history.append([0, list(members)])
    return history


def combinations(pool):
    a = {generator.choice(pool) for _ in range(generator.randrange(1, 40))}
    first = [generator.choice(pool) for _ in range(generator.randrange(1, 40))]
    second = [generator.choice(pool) for _ in range(generator.randrange(1, 40))]
    a, b = set(first), set(second)
    da, db = dict.fromkeys(first), dict.fromkeys(second)
    return {"a": first, "b": second, "union": list(a | b), "both": list(a & b), "keys": list(da.keys() | db.keys()),
            "joined": list({*da.keys(), *db.keys()})}


print(json.dumps({
    "hashes": [[value, str(hash(value))] for value in VALUES],
    "histories": [operations(pool, count, removals)
                  for pool in (range(40), range(1000), range(-500, 100000, 37), WORDS)
                  for count in (12, 25, 400) for removals in (0.0, 0.3, 0.48)],
    "combinations": [combinations(pool) for pool in (list(range(30)), list(range(1000)), WORDS) for _ in range(40)],
}))
