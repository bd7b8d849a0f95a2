"""What the Python library's metrics say about random sequences, for metrics_spec.lua.

    python metrics_reference.py        one JSON object per line: a sequence, and what each metric made of it

Values are recorded along the way and at the end, with the text that Python prints then.
"""

import json
import math
import random

from river import metrics, utils

COUNT, EVERY = 300, 23

generator = random.Random(2024)


def regression(positive):
    for i in range(COUNT):
        y = generator.gauss(10, 20) if i % 11 else 0.0
        p = y + generator.gauss(0, 5) if i % 17 else 0.0
        yield (abs(y), abs(p)) if positive else (y, p)


def binary():
    for _ in range(COUNT):
        y = generator.random() < 0.4
        yield y, y if generator.random() < 0.7 else not y


def probabilities():
    for i in range(COUNT):
        y = generator.random() < 0.4
        p = min(max(generator.gauss(0.7 if y else 0.4, 0.3), 0.0), 1.0)
        yield y, p if i % 3 else {False: 1.0 - p, True: p}


def ties():
    for _ in range(COUNT):
        y = generator.random() < 0.3
        yield y, generator.randrange(1, 6) / 6 if y else generator.randrange(6) / 6


def multiclass(labels):
    for _ in range(COUNT):
        y = generator.choice(labels)
        yield y, y if generator.random() < 0.5 else generator.choice(labels + labels[:2])


def distributions(labels):
    for _ in range(COUNT):
        weights = [generator.random() for _ in labels]
        total = sum(weights)
        yield generator.choice(labels), {label: w / total for label, w in zip(labels, weights)}


REGRESSION = ["MAE", "MSE", "RMSE", "MAPE", "SMAPE", "R2"]
BINARY = ["Precision", "Recall", "F1", "MCC", "Jaccard", ("FBeta", {"beta": 2.0}), "Accuracy", "BalancedAccuracy",
          ("F1", {"pos_val": False}), ("Precision", {"pos_val": False})]
MULTICLASS = ["Accuracy", "BalancedAccuracy", "CohenKappa", "GeometricMean", "MacroPrecision", "MacroRecall", "MacroF1",
              "MicroPrecision", "MicroRecall", "MicroF1", "WeightedPrecision", "WeightedRecall", "WeightedF1",
              "MacroJaccard", "MicroJaccard", "WeightedJaccard", ("MacroFBeta", {"beta": 0.5}),
              ("MicroFBeta", {"beta": 3}), ("WeightedFBeta", {"beta": 2.5})]
CLUSTERING = ["FowlkesMallows", "Rand", "AdjustedRand", "MutualInfo", "NormalizedMutualInfo", "AdjustedMutualInfo",
              ("NormalizedMutualInfo", {"average_method": "min"}), ("NormalizedMutualInfo", {"average_method": "max"}),
              ("AdjustedMutualInfo", {"average_method": "geometric"}), "Homogeneity", "Completeness", "VBeta",
              ("VBeta", {"beta": 2.0})]
PRINTED = ["ConfusionMatrix", "ClassificationReport", ("ClassificationReport", {"decimals": 3})]

ANIMALS = ["cat", "ant", "bird", "bee", "zebra"]
MANY = [f"class {i:02d}" for i in range(23)]

# name: (pairs, metrics, whether weights are tried, window of a rolling metric)
SEQUENCES = {
    "regression": (regression(False), REGRESSION, False, None),
    "regression, weighted": (regression(False), REGRESSION, True, None),
    "regression, rolling": (regression(False), ["MAE", "RMSE", "SMAPE", "R2"], False, 40),
    "positive regression": (regression(True), ["RMSLE", "MAE"], False, None),
    "binary": (binary(), BINARY + MULTICLASS + CLUSTERING + PRINTED, False, None),
    "binary, weighted": (binary(), BINARY, True, None),
    "binary, rolling": (binary(), BINARY, False, 25),
    "probabilities": (probabilities(), ["LogLoss", "ROCAUC", ("ROCAUC", {"n_thresholds": 21}),
                                        ("ROCAUC", {"n_thresholds": 300}), "RollingROCAUC", "RollingPRAUC",
                                        ("RollingROCAUC", {"window_size": 40}), ("RollingPRAUC", {"window_size": 40}),
                                        ("RollingROCAUC", {"pos_val": False})], False, None),
    "scores with ties": (ties(), ["LogLoss", "ROCAUC", ("RollingROCAUC", {"window_size": 60}),
                                  ("RollingPRAUC", {"window_size": 60})], False, None),
    "probabilities, weighted": (probabilities(), ["LogLoss", "ROCAUC"], True, None),
    "probabilities, rolling": (probabilities(), ["LogLoss", "ROCAUC", "RollingROCAUC", "RollingPRAUC"], False, 50),
    "animals": (multiclass(ANIMALS), MULTICLASS + CLUSTERING + PRINTED, False, None),
    "animals, weighted": (multiclass(ANIMALS), MULTICLASS, True, None),
    "animals, rolling": (multiclass(ANIMALS), MULTICLASS + CLUSTERING + PRINTED, False, 30),
    "many classes": (multiclass(MANY), MULTICLASS + CLUSTERING + PRINTED, False, None),
    "whole numbers": (multiclass([3, 1, 0, 7]), MULTICLASS + CLUSTERING + PRINTED, False, None),
    "one class": (multiclass(["only"]), MULTICLASS + CLUSTERING + PRINTED, False, None),
    "distributions": (distributions(ANIMALS), ["CrossEntropy"], False, None),
    "distributions, weighted": (distributions(ANIMALS), ["CrossEntropy"], True, None),
}


def value_of(metric):
    try:
        value = float(metric.get())
    except NotImplementedError:
        return None
    return value if math.isfinite(value) else str(value)


def plain(prediction):
    return [[k, v] for k, v in prediction.items()] if isinstance(prediction, dict) else prediction


def main():
    for name, (pairs, specs, weighted, window) in SEQUENCES.items():
        samples = [(y, p, generator.choice([0.5, 1.0, 2.0, 3.25]) if weighted else None) for y, p in pairs]
        results = []
        for spec in specs:
            class_name, options = spec if isinstance(spec, tuple) else (spec, {})
            metric = cls = getattr(metrics, class_name)
            metric = utils.Rolling(cls, window_size=window, **options) if window else cls(**options)
            values, texts = [value_of(metric)], [repr(metric)]
            for i, (y, p, w) in enumerate(samples):
                if w is None:
                    metric.update(y, p)
                else:
                    metric.update(y, p, w)
                if i % EVERY == 0 or i == len(samples) - 1:
                    values.append(value_of(metric))
                    texts.append(repr(metric))
            results.append({"metric": class_name, "options": options, "values": values, "texts": texts,
                            "bigger": None if class_name == "ConfusionMatrix" else metric.bigger_is_better,
                            "labels": getattr(metric, "requires_labels", None)})
        print(json.dumps({"name": name, "every": EVERY, "window": window, "results": results,
                          "samples": [[y, plain(p), w] for y, p, w in samples]}))


if __name__ == "__main__":
    main()
