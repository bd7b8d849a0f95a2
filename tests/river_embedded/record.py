"""Records what the Python library river computes, for the tests of the embedded service.

    python record.py > reference.json        (river 0.26.1)

Every stream is fed the way a server does it: predict, update the metrics, learn; features in sorted order. Floats are
written with their shortest round-trip text, so the comparison can be exact.
"""

import json
import math
import sys

import river
from river import compose, datasets, linear_model, metrics, optim, preprocessing


class Generator:
    """Pseudo-random numbers that the Lua side makes too, from integers only."""

    def __init__(self, seed):
        self.state = seed

    def uniform(self):
        self.state = (self.state * 1103515245 + 12345) % 2147483648
        return self.state / 2147483648.0


def synthetic(kind, count=1000):
    """Names that come and go, integers, booleans and values of very different size."""
    random = Generator(20240229)
    for i in range(count):
        x = {}
        for j, name in enumerate("abcdefgh"):
            value = (random.uniform() - 0.5) * 10.0 ** (j - 3)
            if j >= 5 and random.uniform() < 0.3:
                continue
            x[name] = value
        x["flag"] = random.uniform() < 0.5
        x["whole"] = int(random.uniform() * 100)
        score = 3 * x["b"] - 20 * x["a"] + 0.01 * x["whole"] + (1.0 if x["flag"] else 0.0) + random.uniform()
        yield dict(sorted(x.items())), (score > 1.5 if kind == "binary" else score)


def phishing():
    for x, y in datasets.Phishing():
        yield dict(sorted(x.items())), y


def trump():
    for x, y in datasets.TrumpApproval():
        yield dict(sorted(x.items())), y


def linear(**kwargs):
    return linear_model.LinearRegression(**kwargs)


def logistic(**kwargs):
    return linear_model.LogisticRegression(**kwargs)


Scaler = preprocessing.StandardScaler

# name: (flavor, stream, model, how many steps lie between two recorded predictions)
RUNS = {
    "trump": ("regression", trump, lambda: Scaler() | linear(), 1),
    "trump_rate": ("regression", trump, lambda: Scaler() | linear(optimizer=optim.SGD(0.05), intercept_lr=0.1), 20),
    "trump_l2": ("regression", trump, lambda: Scaler() | linear(l2=0.1, clip_gradient=5), 20),
    "trump_l1": ("regression", trump, lambda: Scaler() | linear(l1=0.02, intercept_init=40), 20),
    "trump_centered": ("regression", trump, lambda: Scaler(with_std=False) | linear(optimizer=optim.SGD(1e-6)), 20),
    "trump_centered_window": ("regression", trump,
                              lambda: Scaler(False, 10) | linear(optimizer=optim.SGD(1e-7)), 20),
    "synthetic_window": ("regression", lambda: synthetic("regression"), lambda: Scaler(window_size=50) | linear(), 20),
    "trump_schedule": ("regression", trump, lambda: Scaler() | linear(
        optimizer=optim.SGD(optim.schedulers.InverseScaling(0.1, power=0.3)),
        intercept_lr=optim.schedulers.InverseScaling(0.5),
        initializer=optim.initializers.Constant(0.5)), 20),
    "trump_nested": ("regression", trump, lambda: compose.Pipeline(
        ("first", Scaler(with_std=False)), compose.Pipeline(Scaler(), linear())), 20),
    "phishing": ("binary", phishing, lambda: Scaler() | logistic(), 2),
    "phishing_bare": ("binary", phishing, lambda: logistic(optimizer=optim.SGD(0.1), l2=0.001), 25),
    "phishing_weighted": ("binary", phishing, lambda: Scaler() | logistic(
        loss=optim.losses.Log(weight_pos=2.0, weight_neg=0.5),
        optimizer=optim.SGD(optim.schedulers.Optimal(optim.losses.Log(), alpha=0.01))), 25),
    "synthetic_regression": ("regression", lambda: synthetic("regression"), lambda: Scaler() | linear(), 2),
    "synthetic_binary": ("binary", lambda: synthetic("binary"), lambda: Scaler() | logistic(), 2),
    "synthetic_bare": ("regression", lambda: synthetic("regression"),
                       lambda: linear(optimizer=optim.SGD(1e-10), l2=0.5,
                                      initializer=optim.initializers.Constant(0.001)), 20),
    "synthetic_diverging": ("regression", lambda: synthetic("regression", 150),
                            lambda: linear(clip_gradient=1e5), 10),
}

METRICS = {
    "regression": lambda: [metrics.MAE(), metrics.RMSE(), metrics.SMAPE()],
    "binary": lambda: [metrics.Accuracy(), metrics.LogLoss(), metrics.Precision(), metrics.Recall(), metrics.F1()],
}


def number(value):
    """JSON has no infinities: words, as a server writes them."""
    value = float(value)
    return value if math.isfinite(value) else str(value)


def label_of(prediction):
    return max(prediction, key=prediction.get) if isinstance(prediction, dict) else prediction


def measure(measured, truth, prediction):
    if not prediction:
        return
    for metric in measured:
        wants_label = getattr(metric, "requires_labels", False) and isinstance(prediction, dict)
        metric.update(truth, label_of(prediction) if wants_label else prediction)


def last_step(model):
    while isinstance(model, compose.Pipeline):
        model = model[-1]
    return model


def run(flavor, stream, make, every):
    model, measured = make(), METRICS[flavor]()
    predictions, values, count = [], [], 0
    for x, y in stream():
        prediction = model.predict_one(x) if flavor == "regression" else model.predict_proba_one(x)
        if count % every == 0:
            predictions.append(number(prediction if flavor == "regression" else prediction[True]))
        measure(measured, y, prediction)
        model.learn_one(x, y)
        count += 1
        if count % 100 == 0:
            values.append([number(metric.get()) for metric in measured])
    final = last_step(model)
    return {
        "flavor": flavor, "every": every, "count": count, "predictions": predictions, "metrics": values,
        "weights": {name: number(w) for name, w in sorted(final.weights.items())},
        "intercept": number(final.intercept),
    }


def main():
    rows = list(phishing())
    names = list(rows[0][0])
    json.dump({
        "river": river.__version__,
        "phishing": {"names": names, "rows": [[x[name] for name in names] + [y] for x, y in rows]},
        "runs": {name: run(*spec) for name, spec in RUNS.items()},
    }, sys.stdout, separators=(",", ":"), sort_keys=True)
    print()


if __name__ == "__main__":
    main()
