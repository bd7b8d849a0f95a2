"""The random numbers of src/trainer/random.h: weights are made from them on both sides instead of being kept."""

import numpy
import torch

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def mix(x):
    """Of numpy.uint64, which wraps around."""
    x = x ^ (x >> numpy.uint64(30))
    x = x * numpy.uint64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> numpy.uint64(27))
    x = x * numpy.uint64(0x94D049BB133111EB)
    return x ^ (x >> numpy.uint64(31))


class Stream:
    def __init__(self, seed):
        with numpy.errstate(over="ignore"):
            self.state = int(mix(numpy.array([seed ^ 0x6A09E667F3BCC909], dtype=numpy.uint64))[0])

    def words(self, count):
        """The next `count` numbers of 64 bits."""
        with numpy.errstate(over="ignore"):
            steps = numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(GOLDEN)
            words = mix(numpy.uint64(self.state) + steps)
        self.state = (self.state + count * GOLDEN) & MASK
        return words

    def uniform(self, count):
        """In [0, 1)."""
        return (self.words(count) >> numpy.uint64(11)).astype(numpy.float64) * 2.0 ** -53

    def around(self, count, size):
        """In [-size, size)."""
        return size * (2 * self.uniform(count) - 1)

    def below(self, limit):
        return int(self.words(1)[0] % numpy.uint64(limit))

    def tensor(self, shape, size, middle=0.0):
        """A tensor of floats (in double) around `middle`."""
        count = int(numpy.prod(shape))
        values = (middle + self.around(count, size)).astype(numpy.float32).astype(numpy.float64)
        return torch.from_numpy(values.reshape(tuple(shape)))


def fill(named, seed):
    """Gives each of (name, parameter) its values: the same in tests/trainer/support.lua. Norms are around one, other
    vectors around zero, matrices [out, in] of the size √(3 / in): what goes in comes out as large."""
    stream = Stream(seed)
    with torch.no_grad():
        for name, parameter in named:
            if parameter.dim() == 1:
                value = stream.tensor(parameter.shape, 0.25, 1.0 if name.endswith("weight") else 0.0)
            elif name in ("token.weight", "position.weight"):
                value = stream.tensor(parameter.shape, 1.0)
            else:
                value = stream.tensor(parameter.shape, (3 / parameter.shape[1]) ** 0.5)
            parameter.copy_(value)


SIGNS = 4


def signs(count):
    """Rows of ±1, with which a tensor's sums tell of all its elements."""
    words = Stream(77).words(count)
    return torch.from_numpy(numpy.stack([
        1.0 - 2.0 * ((words >> numpy.uint64(bit)) & numpy.uint64(1)).astype(numpy.float64) for bit in range(SIGNS)]))
