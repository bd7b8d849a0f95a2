"""The "model": one number θ, over tokens that are bytes.

Asked for a sum ("7 + 5", or any text with numbers in it: they are added), it answers it in \\boxed{} with probability
sigmoid(θ), and a number that is one to nine too large otherwise. The choice falls with the first token of the answer;
that token's log-probability is the only one that depends on θ. All other tokens have a log-probability that depends
on them and the token before alone, and is zero for none: what a client forgets or shifts shows in the ratios.

Everything is a function of the token ids, so a sequence scored again gives what its sampling gave, whether the ids came
from here or from a text of the client's own.
"""

import math
import random
import re

import numpy

START_PROBABILITY = 0.17
START = math.log(START_PROBABILITY / (1 - START_PROBABILITY))
# One step of Adam moves θ by about the learning rate times this: the specification's 4e-5 over 12 steps is from 0.17
# to 0.99.
SCALE = 16500.0
WRONG_ANSWERS = 9

ANSWER = re.compile(r"\\boxed\{(-?\d{1,15})\}")
SUM = re.compile(r"\d{1,15}(?:\s*\+\s*\d{1,15})+")
NUMBER = re.compile(r"\d{1,15}")
EMPTY_BOX = re.compile(r"\\boxed\{[^}]*\}")


def text_of(ids):
    """One character a token, so that places in the text are places among the tokens."""
    ids = numpy.asarray(ids)
    return bytes(numpy.where((ids >= 0) & (ids < 256), ids, 0).astype(numpy.uint8)).decode("latin-1")


def question_of(text):
    """The sum that a text asks for, or nil: its last "a + b", or all its numbers outside of boxes."""
    sums = SUM.findall(text)
    if sums:
        return sum(int(number) for number in NUMBER.findall(sums[-1]))
    numbers = NUMBER.findall(EMPTY_BOX.sub("", text))
    return sum(int(number) for number in numbers) if numbers else None


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log_sigmoid(x):
    return min(x, 0) - math.log1p(math.exp(-abs(x)))


def noise(before, token):
    """The log-probability of a token that θ has no part in."""
    before, token = numpy.asarray(before, dtype=numpy.int64), numpy.asarray(token, dtype=numpy.int64)
    return -0.02 * (1 + (before * 31 + token * 17) % 23)


class Score:
    """Of a sequence: `logprobs[i]` of the token at i + 1 after those up to i, `slopes[i]` its derivative in θ."""

    def __init__(self, ids, theta, temperature=1.0):
        ids = numpy.asarray(ids, dtype=numpy.int64)
        self.ids = ids
        self.logprobs = noise(ids[:-1], ids[1:]) if len(ids) > 1 else numpy.zeros(0)
        self.slopes = numpy.zeros(len(self.logprobs))
        self.entropies = numpy.full(len(self.logprobs), 0.1)
        self.branches = []
        text = text_of(ids)
        for found in ANSWER.finditer(text):
            at = found.start() - 1
            wanted = question_of(text[:found.start()])
            if at < 0 or wanted is None:
                continue
            x = theta / temperature
            p = sigmoid(x)
            right = int(found.group(1)) == wanted
            self.logprobs[at] = log_sigmoid(x) if right else log_sigmoid(-x) - math.log(WRONG_ANSWERS)
            self.slopes[at] = ((1 - p) if right else -p) / temperature
            self.entropies[at] = -(p * log_sigmoid(x) + (1 - p) * (log_sigmoid(-x) - math.log(WRONG_ANSWERS)))
            self.branches.append((at, right))

    def of(self, targets):
        """Log-probabilities and slopes of other targets, an array [T] or [T, K]."""
        targets = numpy.asarray(targets, dtype=numpy.int64)
        own = numpy.append(self.ids[1:], -1)
        logprobs, slopes = numpy.append(self.logprobs, 0.0), numpy.append(self.slopes, 0.0)
        before = self.ids
        if targets.ndim == 2:
            own, before = own[:, None], before[:, None]
            logprobs, slopes = logprobs[:, None], slopes[:, None]
        same = targets == own
        return numpy.where(same, logprobs, noise(before, targets) - 1.0), numpy.where(same, slopes, 0.0)


def answer(prompt_ids, theta, options, rng, canned=None, pad=0):
    """The token ids of one sample."""
    text = text_of(prompt_ids)
    if canned is not None:
        words = canned
    else:
        wanted = question_of(text)
        if wanted is None:
            words = "No numbers, no sum."
        else:
            draw, wrong = rng.random(), rng.randint(1, WRONG_ANSWERS)
            if options.temperature == 0 or options.top_k == 1:
                right = theta > 0
            else:
                right = draw < sigmoid(theta / options.temperature)
            words = "\\boxed{%d}" % (wanted if right else wanted + wrong)
    ids = words.encode()
    if pad:
        ids += (b" and that is it." * (pad // 16 + 1))[:pad]
    for stop in options.stop:
        at = ids.find(stop.encode()) if stop else -1
        if at >= 0:
            ids = ids[:at]
    return list(ids[:options.max_tokens])


def rng_for(*key):
    return random.Random(":".join(map(str, key)))


class Adam:
    """The optimizer of one θ."""

    def __init__(self):
        self.mean = self.square = 0.0
        self.steps = 0

    def copy(self):
        other = Adam()
        other.__dict__.update(self.__dict__)
        return other

    def step(self, theta, gradient, params):
        """The new θ; `gradient` is clipped already."""
        self.steps += 1
        self.mean = params.beta1 * self.mean + (1 - params.beta1) * gradient
        self.square = params.beta2 * self.square + (1 - params.beta2) * gradient * gradient
        mean = self.mean / (1 - params.beta1 ** self.steps)
        square = self.square / (1 - params.beta2 ** self.steps)
        theta -= params.learning_rate * params.weight_decay * theta
        if mean == 0:
            return theta
        return theta - params.learning_rate * SCALE * mean / (math.sqrt(square) + params.eps)
