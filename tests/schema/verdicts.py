"""Random schemas and values with the verdicts of Python's jsonschema.

    verdicts.py SEED SCHEMAS VALUES   prints SCHEMAS JSON lines {"schema": …, "values": [[value, verdict], …]}

What the two are known to see differently is left out: multiples of fractions (Python divides floats), and values that a
float cannot hold exactly.
"""

import json
import random
import sys

from jsonschema import Draft202012Validator

NAMES = ["a", "b", "ab", "c1", "", "ä/~"]
TEXTS = ["", "a", "ab", "abc", "a1", "12", "é", "😀x", "b a", "A"]
PATTERNS = ["^a", "b$", "^[a-c]*$", "\\d", "^.{2}$", "é|x", "^(a|b)+1?$"]
TYPES = ["array", "boolean", "integer", "null", "number", "object", "string"]


def scalar(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.randrange(-3, 6)
    if kind == 2:
        return rng.choice([0.5, 1.0, -2.5, 3.0, 2.25, 1e20])
    return rng.choice(TEXTS)


def value(rng, depth):
    kind = rng.randrange(10)
    if depth == 0 or kind < 4:
        return scalar(rng)
    if kind < 7:
        return [value(rng, depth - 1) for _ in range(rng.randrange(5))]
    return {rng.choice(NAMES): value(rng, depth - 1) for _ in range(rng.randrange(5))}


def schemas(rng, depth, low=1, high=3):
    return [schema(rng, depth - 1) for _ in range(rng.randint(low, high))]


def members(rng, depth, names):
    return {rng.choice(names): schema(rng, depth - 1) for _ in range(rng.randint(0, 3))}


def names(rng):
    return rng.sample(NAMES, rng.randint(0, 3))


KEYWORDS = {
    "type": lambda rng, d: rng.choice([rng.choice(TYPES), rng.sample(TYPES, rng.randint(1, 3))]),
    "enum": lambda rng, d: [value(rng, 1) for _ in range(rng.randint(1, 4))],
    "const": lambda rng, d: value(rng, 1),
    "minimum": lambda rng, d: rng.choice([0, 1.5, -2]),
    "maximum": lambda rng, d: rng.choice([3, 2.5, 0]),
    "exclusiveMinimum": lambda rng, d: rng.choice([0, 1.0]),
    "exclusiveMaximum": lambda rng, d: rng.choice([3, 2.25]),
    "multipleOf": lambda rng, d: rng.choice([1, 2, 3]),
    "minLength": lambda rng, d: rng.randrange(4),
    "maxLength": lambda rng, d: rng.randrange(4),
    "pattern": lambda rng, d: rng.choice(PATTERNS),
    "minItems": lambda rng, d: rng.randrange(4),
    "maxItems": lambda rng, d: rng.randrange(4),
    "uniqueItems": lambda rng, d: rng.choice([True, True, False]),
    "prefixItems": lambda rng, d: schemas(rng, d),
    "items": lambda rng, d: schema(rng, d - 1),
    "contains": lambda rng, d: schema(rng, d - 1),
    "minContains": lambda rng, d: rng.randrange(3),
    "maxContains": lambda rng, d: rng.randrange(4),
    "minProperties": lambda rng, d: rng.randrange(3),
    "maxProperties": lambda rng, d: rng.randrange(4),
    "required": lambda rng, d: names(rng),
    "properties": lambda rng, d: members(rng, d, NAMES),
    "patternProperties": lambda rng, d: members(rng, d, PATTERNS),
    "additionalProperties": lambda rng, d: schema(rng, d - 1),
    "propertyNames": lambda rng, d: schema(rng, d - 1),
    "dependentRequired": lambda rng, d: {rng.choice(NAMES): names(rng) for _ in range(2)},
    "dependentSchemas": lambda rng, d: members(rng, d, NAMES),
    "allOf": lambda rng, d: schemas(rng, d),
    "anyOf": lambda rng, d: schemas(rng, d),
    "oneOf": lambda rng, d: schemas(rng, d, 2, 3),
    "not": lambda rng, d: schema(rng, d - 1),
    "if": lambda rng, d: schema(rng, d - 1),
    "then": lambda rng, d: schema(rng, d - 1),
    "else": lambda rng, d: schema(rng, d - 1),
    "unevaluatedItems": lambda rng, d: schema(rng, d - 1),
    "unevaluatedProperties": lambda rng, d: schema(rng, d - 1),
    "$ref": lambda rng, d: rng.choice(["#/$defs/one", "#/$defs/two", "#three", "four.json"]),
}


def schema(rng, depth):
    if depth <= 0:
        return rng.choice([True, False, {}, {"type": rng.choice(TYPES)}, {"const": scalar(rng)}])
    if rng.random() < 0.06:
        return rng.random() < 0.6
    made = {}
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice(list(KEYWORDS))
        made[name] = KEYWORDS[name](rng, depth)
    return made


def plain(rng):
    """A schema without references, so that those to it end."""
    while True:
        made = schema(rng, 2)
        if '"$ref"' not in json.dumps(made):
            return made


def document(rng):
    made = schema(rng, 3)
    while not isinstance(made, dict):
        made = schema(rng, 3)
    three, four = {"$anchor": "three", "allOf": [plain(rng)]}, {"$id": "four.json", "anyOf": [plain(rng), plain(rng)]}
    return {**made, "$id": "https://example.com/root.json",
            "$defs": {"one": plain(rng), "two": plain(rng), "three": three, "four": four}}


def main():
    rng = random.Random(int(sys.argv[1]))
    for _ in range(int(sys.argv[2])):
        made = document(rng)
        validator = Draft202012Validator(made)
        values = [value(rng, rng.randint(0, 3)) for _ in range(int(sys.argv[3]))]
        print(json.dumps({"schema": made, "values": [[v, validator.is_valid(v)] for v in values]}))


main()
