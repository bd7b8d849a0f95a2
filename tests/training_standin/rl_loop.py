"""The specification's loop with the official client: prints the rewards of its steps, straight and with mistakes."""

import random
import re
import sys

import official
from official import control, say

BATCH, GROUP, LR = 256, 4, 4e-5


def run(name, steps=12, batch=BATCH, shift=0, sign=1.0, keep=True):
    control("forget", {})
    rng = random.Random(7)
    curve, metrics = [], None
    with official.client().session(run=name) as session:
        model = session.create_model(
            base_model=official.MODEL,
            lora=official.river.LoraConfig(rank=16, train_attn=True, train_mlp=True, train_unembed=True))
        for _ in range(steps):
            rows = [(rng.randint(1, 50), rng.randint(1, 50)) for _ in range(batch)]
            prompts = [f"What is {a} + {b}? Put the answer inside \\boxed{{}}.\n" for a, b in rows]
            groups = model.sample(prompts=prompts, num_samples=GROUP, max_tokens=128, stop=["<|im_end|>"],
                                  poll_interval=0.02)
            data, total = [], 0.0
            for prompt, samples, (a, b) in zip(prompts, groups, rows):
                found = [re.search(r"\\boxed\{(\d+)\}", sample.text) for sample in samples]
                rewards = [float(bool(match) and int(match.group(1)) == a + b) for match in found]
                total += sum(rewards)
                baseline = sum(rewards) / len(rewards)
                if all(reward == baseline for reward in rewards):
                    continue
                tokens = list(prompt.encode())
                for sample, reward in zip(samples, rewards):
                    ids, advantage = tokens + sample.tokens, sign * (reward - baseline)
                    count, before = len(sample.tokens), len(tokens) - 1 + shift
                    advantages = ([0.0] * before + [advantage] * count + [0.0])[:len(ids)]
                    old = [0.0] * (len(tokens) - 1) + sample.logprobs + [0.0]
                    data.append({"input_ids": ids, "attention_mask": [1] * len(ids),
                                 "old_logprobs": old if keep else [0.0] * len(ids),
                                 "advantages": advantages + [0.0] * (len(ids) - len(advantages))})
            curve.append(round(total / (batch * GROUP), 4))
            if data:
                result = model.forward_backward(data=data, loss_fn="importance_sampling")
                metrics = metrics or {key: result.metrics[key] for key in ("kl", "mean_ratio", "num_response")}
                model.optim_step(lr=LR)
        model.save_weights("final")
    state = control("counters")
    say(name, curve=curve, metrics=metrics, counters=state["counters"], violations=state["violations"],
        calls=state["calls"])


run("straight", steps=1 if "short" in sys.argv else 13)
if "short" not in sys.argv:
    control("reset", {})
    run("straight again", steps=3)
    run("shifted", shift=1, batch=128)
    run("flipped", sign=-1.0, batch=128)
    run("forgotten", keep=False, steps=1)
    run("shifted back", shift=-1, batch=64, steps=1)
