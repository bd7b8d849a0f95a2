"""The trainer's work in PyTorch on the CPU, eager: trainer_torch.py [threads]

Reads commands from standard input, a line each, and answers each with a line of JSON:

    train WIDTH LAYERS VOCABULARY TOKENS BATCH STEPS    forward, backward and AdamW
    sample WIDTH LAYERS VOCABULARY PROMPT NEW BATCH COUNT   with a KV cache, `COUNT` times

Every line is done with the fastest of the ways that eager PyTorch has: see the comments.
"""

import json
import os
import sys
import time

import torch
from torch.nn import functional

sys.dont_write_bytecode = True   # beside the sources
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "trainer", "reference"))
from model import Config, Transformer  # noqa: E402


class Trained:
    def __init__(self, width, layers, vocabulary, context):
        torch.manual_seed(1)
        self.config = Config(vocabulary, width, layers, 4, 4 * width, context, "learned")
        self.model = Transformer(self.config)
        for name, weight in self.model.named_parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.02)
        # one kernel for all tensors, up to a tenth faster than the default
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0,
                                           fused=True)

    def train(self, tokens, batch, steps):
        ids = torch.randint(self.config.vocabulary, (batch, tokens + 1))
        inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].reshape(-1)
        for _ in range(steps):
            self.optimizer.zero_grad()
            logits = self.model(inputs)
            loss = functional.cross_entropy(logits.view(-1, self.config.vocabulary), targets, reduction="sum")
            loss.backward()
            self.optimizer.step()
        return steps * batch * tokens

    @torch.inference_mode()
    def sample(self, prompt, new, batch):
        """A static cache, of which a step sees the part that is filled; one token's logprob is kept beside it."""
        config, model = self.config, self.model
        heads, dh = config.heads, config.width // config.heads
        cache = torch.empty(config.layers, 2, batch, heads, prompt + new, dh)
        ids = torch.randint(config.vocabulary, (batch, prompt))
        out, logprobs = torch.empty(batch, new, dtype=torch.int64), torch.empty(batch, new)
        at = 0
        for step in range(new):
            length = ids.shape[1]
            x = model.token(ids) + model.position.weight[at:at + length]
            for number, layer in enumerate(model.layers):
                q, k, v = layer.attn.qkv(layer.norm1(x)).view(batch, length, 3, heads, dh).permute(2, 0, 3, 1, 4)
                keys, values = cache[number, 0], cache[number, 1]
                keys[:, :, at:at + length], values[:, :, at:at + length] = k, v
                y = functional.scaled_dot_product_attention(q, keys[:, :, :at + length], values[:, :, :at + length],
                                                            is_causal=length > 1)
                x = x + layer.attn.out(y.transpose(1, 2).reshape(batch, length, config.width))
                x = x + layer.mlp(layer.norm2(x))
            chances = model.head(model.norm(x[:, -1])).log_softmax(-1)
            # as torch.multinomial does it, without its checks
            ids = (chances.exp() / torch.empty_like(chances).exponential_()).argmax(-1, keepdim=True)
            out[:, step:step + 1], logprobs[:, step:step + 1] = ids, chances.gather(1, ids)
            at += length
        return batch * new


def main():
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    models = {}

    def model(width, layers, vocabulary, context):
        key = (width, layers, vocabulary, context)
        if key not in models:
            models[key] = Trained(*key)
        return models[key]

    for line in sys.stdin:
        what, *words = line.split()
        width, layers, vocabulary, *words = map(int, words)
        if what == "train":
            tokens, batch, steps = words
            subject = model(width, layers, vocabulary, tokens)
            begun, cpu = time.perf_counter(), time.process_time()
            count = subject.train(tokens, batch, steps)
        else:
            prompt, new, batch, count = words
            subject = model(width, layers, vocabulary, prompt + new)
            begun, cpu = time.perf_counter(), time.process_time()
            count = sum(subject.sample(prompt, new, batch) for _ in range(count))
        took, used = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps({"tokens": count, "seconds": took, "cpu": used}), flush=True)


main()
