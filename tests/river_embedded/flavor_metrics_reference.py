"""What a River server's own code makes of predictions: its metrics of every flavor, for flavor_metrics_spec.lua.

    python flavor_metrics_reference.py < {"model": hex of a pickle, "flavor", "samples", "count", "every"} per line

Predictions and metrics are the server's functions, on a storage that is a dictionary.
"""

import atexit
import json
import os
import pickle
import shutil
import sys
import tempfile

from django.conf import settings

STATE = tempfile.mkdtemp()
atexit.register(shutil.rmtree, STATE, True)
settings.configure(SECRET_KEY="test-only",
                   CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}},
                   DJANGO_RIVER_ML={"APP_DIR": STATE, "CACHE_DIR": os.path.join(STATE, "cache"),
                                    "SHELVE_SECRET_KEY": "x", "JWT_SERVER_SECRET": "x",
                                    "SHELVE_PATH": os.path.join(STATE, "shelve.db")})

import reference  # noqa: E402  (the data sets)
from django_river_ml import client, flavors  # noqa: E402


class Server(client.DjangoClient):
    """The server's own functions on a dictionary."""

    def __init__(self, model, flavor):
        self.db = {"models/m": model, "flavor/m": flavor, "metrics/m": flavor.default_metrics()}


def run(case):
    server = Server(pickle.loads(bytes.fromhex(case["model"])), flavors.allowed_flavors()[case["flavor"]])
    found = []
    for i, (x, y) in enumerate(reference.samples(case["samples"], case["count"])):
        ok, text = server.learn("m", ground_truth=y, features=x)
        assert ok, text
        if i % case["every"] == 0:
            found.append(server.metrics("m"))
    return found


for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
