"""The same as training_latency.lua with the official client: training_latency.py PORT CONTROL alone|batch SECONDS …"""

import asyncio
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "training_standin"))
PORT, CONTROL, HOW = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
WORKS = [float(word) for word in sys.argv[4:]]
del sys.argv[1:]

import official                                                         # noqa: E402
from official import river                                              # noqa: E402

official.INFO.update(port=PORT, control=CONTROL)


def told(begun, work):
    print("%.3f" % (1e3 * (time.monotonic() - begun - work)), flush=True)


async def batch(model):
    official.control("fault", {"method": "SubmitSamplingBatch",
                               "handles": {str(i): {"work": work} for i, work in enumerate(WORKS)}})
    begun = time.monotonic()
    pending = model.submit_sampling_batch(["What is 7 + 5?"] * len(WORKS), max_tokens=16)
    left = len(WORKS)
    async for completion in pending.as_completed():
        assert completion.error is None, completion.error
        told(begun, WORKS[completion.prompt_index])
        left -= 1
        if left == 0:
            os._exit(0)   # the client's own end of the iteration hangs at times


with official.client().session() as session:
    model = session.create_model(official.MODEL, lora=river.LoraConfig(rank=8))
    if HOW == "batch":
        asyncio.run(batch(model))
    else:
        for work in WORKS:
            official.control("fault", {"method": "SampleFromTraining", "work": work})
            begun = time.monotonic()
            assert len(model.sample(["What is 7 + 5?"], max_tokens=16)[0]) == 1
            told(begun, work)
