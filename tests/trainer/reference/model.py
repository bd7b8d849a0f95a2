"""The transformer of src/trainer/model.h in PyTorch: the same names of tensors, the same numbers.

Pre-norm: x += out(attention(norm1(x))); x += down(gelu(up(norm2(x)))); logits = head(norm(x)). LayerNorms with weight
and bias, linear maps without, gelu in its tanh form, rotary positions as GPT-NeoX has them over the whole of a head,
or learned ones.
"""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass
class Config:
    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    context: int
    positions: str = "rotary"
    tied: bool = False
    rotary_base: float = 10000.0
    norm_epsilon: float = 1e-5


def rotated(x, config, start=0):
    """Rotary positions of x [..., T, dh], whose first row is position `start`."""
    half = x.shape[-1] // 2
    at = torch.arange(start, start + x.shape[-2], dtype=torch.float64)
    angle = at[:, None] * config.rotary_base ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x, hidden):
        """`hidden` [B, 1, T, T] or None: what a position may not look at, beside what comes after it."""
        batch, length, width = x.shape
        q, k, v = (part.view(batch, length, self.config.heads, -1).transpose(1, 2)
                   for part in self.qkv(x).split(width, 2))
        if self.config.positions == "rotary":
            q, k = rotated(q, self.config), rotated(k, self.config)
        if hidden is None:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            y = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Perceptron(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x):
        return self.down(functional.gelu(self.up(x), approximate="tanh"))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.mlp = Perceptron(config)

    def forward(self, x, hidden):
        x = x + self.attn(self.norm1(x), hidden)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.head = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)

    def forward(self, ids, mask=None):
        """Logits [B, T, V] of ids [B, T]; `mask` [B, T]: 0 is a position that no other looks at."""
        x = self.token(ids)
        if self.position is not None:
            x = x + self.position(torch.arange(ids.shape[1]))
        hidden = None
        if mask is not None and not bool(mask.all()):
            length = ids.shape[1]
            seen = torch.tril(torch.ones(length, length, dtype=torch.bool)) & (mask != 0)[:, None, None, :]
            hidden = ~(seen | torch.eye(length, dtype=torch.bool))
        for layer in self.layers:
            x = layer(x, hidden)
        x = self.norm(x)
        return functional.linear(x, self.token.weight) if self.head is None else self.head(x)
