"""Reads pickles, one in hexadecimal per line of a file, and prints what both unpicklers made of each."""

import io
import json
import pickle
import sys
import types


def plain(value):
    if isinstance(value, tuple):
        return {"tuple": [plain(item) for item in value]}
    if isinstance(value, set):
        return {"set": sorted(value)}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, types.SimpleNamespace):
        fields = vars(value)
        same = len(fields) == 2 and len({id(item) for item in fields.values()}) == 1
        return {"object": {key: plain(fields[key]) for key in sorted(fields)}, "same": same}
    if isinstance(value, type) or callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "_get_params"):
        return describe(value)
    return value


def describe(value):
    if isinstance(value, tuple) and isinstance(value[0], type):
        return f"{value[0].__name__}({ {key: Raw(item) for key, item in value[1].items()} })"
    return f"{type(value).__name__}({ {key: Raw(item) for key, item in value._get_params().items()} })"


class Raw:
    def __init__(self, value):
        self.value = value

    def __repr__(self):
        described = isinstance(self.value, tuple) or hasattr(self.value, "_get_params")
        return describe(self.value) if described else repr(self.value)


def text(value):
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))


for line in open(sys.argv[1]):
    data = bytes.fromhex(line)
    print(json.dumps({"c": text(pickle.loads(data)), "python": text(pickle._Unpickler(io.BytesIO(data)).load())}))
