"""The specification's loop with the official client against `riverlua serve training`: prints its rewards.

Between the two lines it is the specification's, but for the endpoint, the model and where its data set comes from:
the rows of embedded/digits, which have GSM8K's form, from a file. Arguments: READY-LINE ROWS STEPS.
"""

import json
import os
import re
import sys

os.environ["OFFICIAL_MODEL"] = "embedded/rambler-134k"
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "training_standin"))

import official                                                         # noqa: E402
from official import river, say                                         # noqa: E402
from transformers import AutoTokenizer                                  # noqa: E402


class Rows:
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, name):
        return [row[name] for row in self.rows]

    def select(self, places):
        return Rows([self.rows[place] for place in places])


def load_dataset(*_, **__):
    with open(sys.argv[2]) as file:
        return Rows(json.load(file)[:int(sys.argv[3]) * BATCH])


def extract_boxed(text):
    found = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return found[-1] if found else None


def extract_gsm8k_answer(answer):
    return answer.split("####")[-1].strip()


def make_prompt(question):
    return question


curve, metrics = [], []
client = official.client(api_key=os.environ["RIVER_API_KEY"])

# --------------------------------------------------------------------------------------------------------------

MODEL      = "embedded/rambler-134k"                                    # noqa: E221
BATCH      = 256          # prompts per step                              noqa: E221
GROUP      = 4            # samples per prompt                            noqa: E221
MAX_TOKENS = 128
LORA_RANK  = 16                                                         # noqa: E221
LR         = 4e-5         # learning rate                                 noqa: E221

tok = AutoTokenizer.from_pretrained(MODEL, trust_remote_code=True)
gsm8k = load_dataset("openai/gsm8k", "main", split="train")   # math word problems


def reward(text, answer):
    # 1.0 if the \boxed{...} answer matches the GSM8K ground truth, else 0.0
    return float(extract_boxed(text) == extract_gsm8k_answer(answer))


with client.session() as session:
    model = session.create_model(
        base_model=MODEL,
        lora=river.LoraConfig(
            rank=LORA_RANK,
            train_attn=True,     # attention projections
            train_mlp=True,      # MLP / MoE experts
            train_unembed=True,  # unembedding (lm_head)
        ),
    )

    for step in range(len(gsm8k) // BATCH):
        rows = gsm8k.select(range(step * BATCH, (step + 1) * BATCH))
        prompts = [make_prompt(q) for q in rows["question"]]

        # 1. Sample a group of candidate answers per prompt
        groups = model.sample(
            prompts=prompts, num_samples=GROUP, max_tokens=MAX_TOKENS, stop=["<|im_end|>"],
        )

        # 2. Score, then center rewards into GRPO advantages (no std division)
        train_data = []
        for prompt, samples, answer in zip(prompts, groups, rows["answer"]):
            rewards = [reward(s.text, answer) for s in samples]
            curve.append(sum(rewards) / len(rewards))
            baseline = sum(rewards) / len(rewards)
            if all(r == baseline for r in rewards):
                continue  # no signal — skip this group

            ptoks = tok.encode(prompt, add_special_tokens=False)
            for s, r in zip(samples, rewards):
                adv = r - baseline
                full_ids = ptoks + s.tokens
                train_data.append({
                    "input_ids": full_ids,
                    "attention_mask": [1] * len(full_ids),
                    "old_logprobs": [0.0] * (len(ptoks) - 1) + s.logprobs + [0.0],
                    "advantages": [0.0] * (len(ptoks) - 1) + [adv] * len(s.tokens) + [0.0],
                })

        # 3. One policy-gradient update
        if train_data:
            result = model.forward_backward(data=train_data, loss_fn="importance_sampling")
            metrics.append(dict(result.metrics))
            model.optim_step(lr=LR)

    model.save_weights("final")

# --------------------------------------------------------------------------------------------------------------

say("loop", curve=[round(sum(curve[i:i + BATCH]) / BATCH, 4) for i in range(0, len(curve), BATCH)],
    metrics=metrics[0])
