"""The same as training_idle.lua with the official client: training_idle.py PORT"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "training_standin"))
PORT = int(sys.argv.pop())

import official                                                         # noqa: E402
from official import river                                              # noqa: E402

official.INFO["port"] = PORT
with official.client().session() as session:
    model = session.create_model(official.MODEL, lora=river.LoraConfig(rank=8))
    sample = model.sample(["What is 7 + 5?"])[0][0]
    prompt, count = list(b"What is 7 + 5?"), len(sample.tokens)
    before = [0.0] * (len(prompt) - 1)
    model.forward_backward([{"input_ids": prompt + list(sample.tokens), "attention_mask": [1] * (len(prompt) + count),
                             "old_logprobs": before + list(sample.logprobs) + [0.0],
                             "advantages": before + [0.5] * count + [0.0]}], loss_fn="importance_sampling")
    print("idle", flush=True)
    sys.stdin.read()
