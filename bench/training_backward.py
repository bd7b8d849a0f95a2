"""The same as training_backward.lua with the official client: training_backward.py lists|arrays|stub-lists|stub-arrays
CALLS PORT

The stub of ForwardBackward is replaced by one that only serializes, but for stub-…. Prints as training_backward.lua."""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "training_standin"))
HOW, CALLS, PORT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
del sys.argv[1:]

import numpy                                                            # noqa: E402
import official                                                         # noqa: E402
from official import river                                              # noqa: E402
from river_client._proto import river_pb2                               # noqa: E402

DATUMS, TOKENS = 64, 4096


def columns_of(number):
    return {"input_ids": [(i * 7919 + number * 104729) % 150000 for i in range(1, TOKENS + 1)],
            "attention_mask": [1] * TOKENS,
            "old_logprobs": [-(i % 1000) / 400 for i in range(1, TOKENS + 1)],
            "advantages": [number % 9 / 4 - 1.0] * TOKENS}


def packed(columns):
    return {name: numpy.array(column, "float32" if isinstance(column[0], float) else "int64")
            for name, column in columns.items()}


arrived = size = cpu = 0


def serialize(request, **_):
    global arrived, cpu, size
    size = len(request.SerializeToString())
    arrived, cpu = time.perf_counter(), time.process_time()
    return river_pb2.AsyncResponse(request_id="bench-forward_backward")


official.INFO["port"] = PORT
data = [columns_of(number) for number in range(1, DATUMS + 1)]
if HOW.endswith("arrays"):
    data = [packed(datum) for datum in data]
client = official.client()
lines = []
with client.session() as session:
    model = session.create_model(official.MODEL, lora=river.LoraConfig(rank=8))
    if not HOW.startswith("stub"):
        client._get_stub().ForwardBackward = serialize
    for _ in range(CALLS + 1):
        begun, begun_cpu = time.perf_counter(), time.process_time()
        model.forward_backward(data, loss_fn="importance_sampling")
        if HOW.startswith("stub"):
            arrived, cpu = time.perf_counter(), time.process_time()
        lines.append("%.4f %.4f" % (1e3 * (arrived - begun), 1e3 * (cpu - begun_cpu)))
print(size)
print("\n".join(lines[1:]))
