"""Pickles as hex, one JSON line each: {"name", "protocol", "hex", "value" | "model"}.

Plain values in protocols 2 to 5 come with what they are, as tagged JSON; models, trained by the library, with what
their parameters are.
"""

import collections
import datetime
import json
import pickle

import dill
from river import (cluster, compose, datasets, forest, linear_model, naive_bayes, neighbors, optim, preprocessing,
                   tree)

SHARED = [1, 2]
VALUES = {
    "scalars": [None, True, False, 0, 1, 255, 256, 65535, 65536, -1, -2**31, 2**31, 2**63 - 1, -2**63, 0.1, -0.0, 1e300,
                5e-324],
    "big integers": [2**63, -2**63 - 1, 2**64 - 1, 2**70, -2**70, 2**2100],
    "texts": ["", "é", "x" * 300, "\U0001f30a\n", "tab\t"],
    "bytes": [b"", b"abc", b"\x00" * 300],
    "bytearrays": [bytearray(b"xyz"), bytearray()],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "nested": {"a": [1, {"b": (2, [3, {}])}], 2: None, (1, 2): "key", None: 1, 1.5: 2},
    "sets": [{1}, frozenset([2]), set(), frozenset()],
    "long": list(range(3000)),
    "long dict": {"k%d" % i: i for i in range(2500)},
    "shared": [SHARED, SHARED, {"again": SHARED}],
    "containers": [collections.OrderedDict(a=1), collections.Counter("aab"), collections.deque([1, 2], 5),
                   collections.defaultdict(list, {"x": [1]})],
    "objects": [datetime.date(2024, 3, 1), complex(1, 2), range(3)],
}

# The protocol from which on there are operations for these.
NATIVE = {"bytes": 3, "bytearrays": 5, "sets": 4, "objects": 3}


def tagged(value):
    """The value as JSON with the kinds that the reader tells apart."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -2**63 <= value < 2**63 else {"integer": hex(value)}
    if kind is float:
        return {"float": value.hex()}
    if kind in (bytes, bytearray):
        return {"bytes": value.hex()}
    if kind is list:
        return {"list": [tagged(item) for item in value]}
    if kind is tuple:
        return {"tuple": [tagged(item) for item in value]}
    if kind in (set, frozenset):
        return {kind.__name__: [tagged(item) for item in value]}
    if kind is dict:
        return {"dict": [[tagged(key), tagged(item)] for key, item in value.items()]}
    return {"object": f"{kind.__module__}.{kind.__qualname__}"}


MODELS = {
    "linear": preprocessing.StandardScaler() | linear_model.LinearRegression(l1=0.1),
    "window": preprocessing.StandardScaler(window_size=5) | linear_model.LinearRegression(optimizer=optim.Adam(0.1)),
    "forest": forest.ARFRegressor(seed=1, n_models=2),
    "tree": tree.HoeffdingTreeRegressor(grace_period=20),
    "neighbors": neighbors.KNNRegressor(),
    "union": (compose.Select("gallup", "ipsos") + compose.Discard("gallup")) | preprocessing.MinMaxScaler()
    | linear_model.LinearRegression(),
    "clusters": cluster.KMeans(seed=1),
    "bayes": naive_bayes.GaussianNB(),
}


def line(name, protocol, data, **more):
    print(json.dumps({"name": name, "protocol": protocol, "hex": data.hex(), **more}))


for name, value in VALUES.items():
    for protocol in (2, 3, 4, 5):
        if protocol < NATIVE.get(name, 2):
            continue    # these are calls of functions there, or have other names
        line(name, protocol, pickle.dumps(value, protocol), value=tagged(value))

loop = [1]
loop.append(loop)
line("cycle", 4, pickle.dumps(loop, 4))

for name, model in MODELS.items():
    count = 4 if name == "window" else 60
    for x, y in datasets.TrumpApproval().take(count):
        if name == "clusters":
            model.learn_one(x)
        else:
            model.learn_one(x, y if name != "bayes" else y > 43)
    for protocol in (2, 4):
        line(name, protocol, dill.dumps(model, protocol=protocol), model=type(model).__name__)
