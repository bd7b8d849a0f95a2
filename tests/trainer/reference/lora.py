"""LoRA as PEFT computes it: beside a linear map, y = W x + scale · B (A x)."""

import torch
from torch import nn


class Adapted(nn.Linear):
    def __init__(self, linear, rank, scale):
        out, into = linear.weight.shape
        super().__init__(into, out, bias=False, dtype=linear.weight.dtype)
        self.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
        self.lora_A = nn.Linear(into, rank, bias=False, dtype=linear.weight.dtype)
        self.lora_B = nn.Linear(rank, out, bias=False, dtype=linear.weight.dtype)
        self.scale = scale

    def forward(self, x):
        return super().forward(x) + self.scale * self.lora_B(self.lora_A(x))

    def merged(self):
        return self.weight + self.scale * self.lora_B.weight @ self.lora_A.weight


def adapt(model, rank, scale, attn=True, mlp=True, unembed=True):
    """Freezes a Transformer and gives it adapters; a tied head gets a matrix of its own first."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in model.layers:
        for part, names, wanted in ((layer.attn, ("qkv", "out"), attn), (layer.mlp, ("up", "down"), mlp)):
            for name in names if wanted else ():
                setattr(part, name, Adapted(getattr(part, name), rank, scale))
    if unembed:
        head = model.head
        if head is None:
            head = nn.Linear(model.config.width, model.config.vocabulary, bias=False, dtype=model.token.weight.dtype)
            with torch.no_grad():
                head.weight.copy_(model.token.weight)
        model.head = Adapted(head, rank, scale)
    return model


def adapters(model):
    """(name, parameter) in the order of the trainer: by layer, then by part, A before B."""
    found = [(name, parameter) for name, parameter in model.named_parameters() if ".lora_" in name]
    parts = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")

    def place(pair):
        words = pair[0].split(".")
        if words[0] == "head":
            return (1, 0, 0, words[-2])
        return (0, int(words[1]), parts.index(".".join(words[2:4])), words[-2])
    return sorted(found, key=place)
