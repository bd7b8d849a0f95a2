"""What Python's progressive_val_score says: JSON lines {"case", "flavor", "samples", "delays": [{"delay", values}]}.

Features are in sorted order, the order in which the client sends them.
"""

import json
import sys

from river import datasets, evaluate, linear_model, metrics, naive_bayes, preprocessing

SAMPLES = int(sys.argv[1])


def scaled(model):
    return preprocessing.StandardScaler() | model


CASES = {
    "regression": (datasets.TrumpApproval, lambda: scaled(linear_model.LinearRegression()),
                   ("MAE", "RMSE", "R2", "SMAPE")),
    "binary": (datasets.Phishing, lambda: scaled(linear_model.LogisticRegression()),
               ("Accuracy", "F1", "LogLoss", "ROCAUC", "Precision", "Recall")),
    "multiclass": (datasets.ImageSegments, naive_bayes.GaussianNB, ("Accuracy", "MacroF1", "CohenKappa")),
}

for flavor, (source, make, names) in CASES.items():
    samples = [(dict(sorted(x.items())), y) for x, y in source().take(SAMPLES)]
    answers = []
    for delay in (None, 0, 1, 7, SAMPLES + 5):
        metric = metrics.base.Metrics([getattr(metrics, name)() for name in names])
        steps = []
        for step in evaluate.iter_progressive_val_score(iter(samples), make(), metric, step=50, delay=delay):
            steps.append({"samples": step["Step"], **{m.__class__.__name__: m.get() for m in metric}})
        answers.append({"delay": delay, "steps": steps, **{m.__class__.__name__: m.get() for m in metric}})
    print(json.dumps({"flavor": flavor, "metrics": names, "answers": answers,
                      "samples": [{"x": x, "y": y} for x, y in samples]}))
