"""What the Python library computes, for the comparison with the embedded service.

    python reference.py samples NAME COUNT      the samples of a data set, one [features, label] per line
    python reference.py run < cases             per line {"model": hex of a pickle, "samples", "count", "predict",
                                                "supervised"}; answers {"predictions": […]} or {"error": text}

Every sample is predicted, then learned; features in sorted order, as they travel over the network.
"""

import itertools
import json
import pickle
import random
import sys

from river import datasets
from river.datasets import synth


def mixed(target):
    """Text, numbers and booleans side by side; one name comes and goes."""
    generator = random.Random(7)
    colors, cities = ["red", "green", "blue", "grey"], ["Rome", "Oslo", "Lima"]
    while True:
        x = {
            "city": generator.choice(cities), "color": generator.choice(colors), "flag": generator.random() < 0.4,
            "size": generator.gauss(3, 2), "whole": generator.randrange(20),
        }
        if generator.random() < 0.3:
            x["rare"] = generator.uniform(-1, 1)
        score = (colors.index(x["color"]) * 1.5 + (2 if x["city"] == "Oslo" else 0) + x["size"] + 0.1 * x["whole"]
                 + x.get("rare", 0) + generator.gauss(0, 0.3))
        if target == "regression":
            yield x, score
        elif target == "binary":
            yield x, score > 6
        else:
            yield x, "low" if score < 4 else "middle" if score < 8 else "high"


def counts(target):
    """How often words occur in a text: whole numbers, most of them absent."""
    generator = random.Random(11)
    words = [f"word{i:02d}" for i in range(30)]
    while True:
        topic = generator.randrange(3)
        x = {}
        for i, word in enumerate(words):
            likely = 0.5 if i % 3 == topic else 0.15
            if generator.random() < likely:
                x[word] = generator.randrange(1, 5)
        if x:
            yield x, topic == 0 if target == "binary" else ["sport", "music", "science"][topic]


def texts(target):
    """Sentences under a name, beside a number."""
    generator = random.Random(5)
    vocabulary = {
        "sport": "Goal match team-play coach Läufer the a-b Runde",
        "music": "Song the coach Crème-brûlée café tune co2 a",
        "science": "the Atom cell ÉNERGIE match x-ray proof it's",
    }
    while True:
        topic = generator.choice(sorted(vocabulary))
        own, other = vocabulary[topic].split(), vocabulary["music"].split()
        words = [generator.choice(own if generator.random() < 0.8 else other) for _ in range(generator.randrange(2, 9))]
        x = {"length": len(words), "text": " ".join(words) + generator.choice([".", "!", " -- no", ""])}
        yield x, topic == "sport" if target == "binary" else topic


SAMPLES = {
    "trump": datasets.TrumpApproval,
    "phishing": datasets.Phishing,
    "bananas": datasets.Bananas,
    "images": datasets.ImageSegments,
    "friedman": lambda: synth.Friedman(seed=42),
    "planes": lambda: synth.Planes2D(seed=42),
    "waveform": lambda: synth.Waveform(seed=42),
    "mixed_regression": lambda: mixed("regression"),
    "mixed_binary": lambda: mixed("binary"),
    "mixed_multiclass": lambda: mixed("multiclass"),
    "counts_binary": lambda: counts("binary"),
    "counts_multiclass": lambda: counts("multiclass"),
    "texts_binary": lambda: texts("binary"),
    "texts_multiclass": lambda: texts("multiclass"),
    "bare_texts_binary": lambda: ((x["text"], y) for x, y in texts("binary")),
    "bare_texts_multiclass": lambda: ((x["text"], y) for x, y in texts("multiclass")),
}


def plain(value):
    """Numbers of numpy as Python's."""
    return value.item() if hasattr(value, "item") else value


def copied(x):
    """A sample of its own, in sorted order; a text is one too."""
    return x if isinstance(x, str) else {str(key): plain(x[key]) for key in sorted(x, key=str)}


def samples(name, count):
    for x, y in itertools.islice(SAMPLES[name](), count):
        yield copied(x), plain(y)


def recorded(prediction):
    """Probabilities as pairs, in their own order."""
    if isinstance(prediction, dict):
        return [[plain(label), plain(p)] for label, p in prediction.items()]
    return plain(prediction)


def run(case):
    model = pickle.loads(bytes.fromhex(case["model"]))
    predict = getattr(model, case["predict"])
    predictions = []
    for x, y in samples(case["samples"], case["count"]):
        predictions.append(recorded(predict(copied(x))))
        if case["supervised"]:
            model.learn_one(copied(x), y)
        else:
            model.learn_one(copied(x))
    return {"predictions": predictions}


def main():
    if sys.argv[1] == "samples":
        for x, y in samples(sys.argv[2], int(sys.argv[3])):
            print(json.dumps([x, y]))
        return
    for line in sys.stdin:
        try:
            answer = run(json.loads(line))
        except Exception as problem:  # told to the test
            answer = {"error": repr(problem)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
