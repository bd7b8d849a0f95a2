"""Models trained in Python, as pickles, and what they predict afterwards while they go on learning.

One JSON line each: {"model", "flavor", "hex", "samples": [{"x", "y", "prediction"}, …]}. Features are in sorted order.
"""

import json

import dill
from river import (compose, datasets, feature_extraction, linear_model, multiclass, naive_bayes, optim, preprocessing,
                   tree)

TRAINED, CONTINUED = 300, 100

TRUMP, PHISHING, SEGMENTS = datasets.TrumpApproval, datasets.Phishing, datasets.ImageSegments


def scaled(model):
    return preprocessing.StandardScaler() | model


MODELS = {
    "scaler and regression": ("regression", TRUMP, lambda: scaled(linear_model.LinearRegression())),
    "a regression alone": ("regression", TRUMP, lambda: linear_model.LinearRegression(optim.SGD(1e-12), l2=0.1)),
    "the cumulative penalty": ("regression", TRUMP, lambda: scaled(linear_model.LinearRegression(l1=0.02))),
    "a schedule": ("regression", TRUMP, lambda: scaled(linear_model.LinearRegression(
        optim.SGD(optim.schedulers.InverseScaling(0.1)), intercept_init=3, clip_gradient=10.0))),
    "named and nested steps": ("regression", TRUMP, lambda: compose.Pipeline(
        ("first", preprocessing.StandardScaler()),
        ("second", scaled(linear_model.LinearRegression(intercept_lr=0.1))))),
    "centering": ("regression", TRUMP, lambda: (
        preprocessing.StandardScaler(with_std=False) | linear_model.LinearRegression(optim.SGD(1e-9)))),
    "scaler and classifier": ("binary", PHISHING, lambda: scaled(linear_model.LogisticRegression())),
    "a weighted loss": ("binary", PHISHING, lambda: scaled(
        linear_model.LogisticRegression(loss=optim.losses.Log(weight_pos=2.0)))),
    "Adam": ("regression", TRUMP, lambda: scaled(linear_model.LinearRegression(optim.Adam(0.05)))),
    "AdaGrad": ("binary", PHISHING, lambda: scaled(linear_model.LogisticRegression(optim.AdaGrad(0.3)))),
    "RMSProp": ("regression", TRUMP, lambda: scaled(linear_model.LinearRegression(optim.RMSProp(0.01)))),
    "a union": ("regression", TRUMP, lambda: (
        (compose.Select("gallup") + compose.Discard("gallup"))
        | preprocessing.StandardScaler() | linear_model.LinearRegression())),
    "smallest and largest": ("regression", TRUMP, lambda: (
        preprocessing.MinMaxScaler() | linear_model.LinearRegression(optim.SGD(0.01)))),
    "largest": ("regression", TRUMP, lambda: (
        preprocessing.MaxAbsScaler() | linear_model.LinearRegression(optim.SGD(0.01)))),
    "polynomial": ("regression", TRUMP, lambda: (
        preprocessing.StandardScaler() | feature_extraction.PolynomialExtender(2)
        | linear_model.LinearRegression(optim.SGD(0.001)))),
    "passive-aggressive": ("regression", TRUMP, lambda: scaled(linear_model.PARegressor(C=0.01, mode=2, eps=0.1))),
    "passive-aggressive classifier": ("binary", PHISHING, lambda: scaled(linear_model.PAClassifier(C=0.01))),
    "perceptron": ("binary", PHISHING, lambda: scaled(linear_model.Perceptron())),
    "ALMA": ("binary", PHISHING, lambda: scaled(linear_model.ALMAClassifier())),
    "softmax": ("multiclass", SEGMENTS, lambda: scaled(linear_model.SoftmaxRegression())),
    "one against the rest": ("multiclass", SEGMENTS, lambda: scaled(
        multiclass.OneVsRestClassifier(linear_model.LogisticRegression()))),
    "naive Bayes": ("multiclass", SEGMENTS, lambda: naive_bayes.GaussianNB()),
    "a tree": ("binary", PHISHING, lambda: tree.HoeffdingTreeClassifier(grace_period=50)),
}


def samples_of(dataset):
    for x, y in dataset().take(TRAINED + CONTINUED):
        yield dict(sorted(x.items())), y


def run(flavor, dataset, make):
    model, data, rest = make(), None, []
    predict = model.predict_proba_one if flavor == "binary" else model.predict_one
    for i, (x, y) in enumerate(samples_of(dataset)):
        if i == TRAINED:
            data = dill.dumps(model)
        if i >= TRAINED:
            rest.append({"x": x, "y": y, "prediction": predict(dict(x))})
        model.learn_one(dict(x), y)
    return data, rest


for name, (kind, source, build) in MODELS.items():
    pickled, answers = run(kind, source, build)
    print(json.dumps({"model": name, "flavor": kind, "hex": pickled.hex(), "samples": answers}))
