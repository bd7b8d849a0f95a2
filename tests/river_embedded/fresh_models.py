"""Models that Python has made and not taught, as pickles, and what they predict while they learn.

One JSON line each: {"name", "flavor", "fresh", "taught", "samples": [{"x", "y", "prediction"}, …]}: the pickles as hex,
"taught" after a few samples. Features are in sorted order.
"""

import itertools
import json

import dill
from river import (anomaly, cluster, compose, datasets, drift, ensemble, feature_selection, forest, linear_model,
                   metrics, multiclass, naive_bayes, neighbors, preprocessing, stats, tree)

COUNT = 150

TRUMP, PHISHING, SEGMENTS = datasets.TrumpApproval, datasets.Phishing, datasets.ImageSegments


def scaled(model):
    return preprocessing.StandardScaler() | model


def logistic():
    return linear_model.LogisticRegression()


MODELS = {
    "tree": ("multiclass", SEGMENTS, lambda: tree.HoeffdingTreeClassifier(
        grace_period=30, delta=0.01, tau=0.2, leaf_prediction="nb", split_criterion="gini")),
    "tree with a splitter": ("multiclass", SEGMENTS, lambda: tree.HoeffdingTreeClassifier(
        grace_period=30, splitter=tree.splitter.HistogramSplitter(n_bins=20))),
    "regression tree": ("regression", TRUMP, lambda: tree.HoeffdingTreeRegressor(
        grace_period=40, leaf_prediction="model", leaf_model=linear_model.LinearRegression(l2=0.1))),
    "adaptive tree": ("multiclass", SEGMENTS, lambda: tree.HoeffdingAdaptiveTreeClassifier(grace_period=30, seed=3)),
    "adaptive regression tree": ("regression", TRUMP, lambda: tree.HoeffdingAdaptiveTreeRegressor(
        grace_period=30, seed=3)),
    "eager tree": ("multiclass", SEGMENTS, lambda: tree.ExtremelyFastDecisionTreeClassifier(grace_period=30)),
    "forest": ("multiclass", SEGMENTS, lambda: forest.ARFClassifier(
        n_models=3, seed=5, metric=metrics.CohenKappa(), drift_detector=drift.ADWIN(0.01))),
    "regression forest": ("regression", TRUMP, lambda: forest.ARFRegressor(n_models=3, seed=5)),
    "neighbours": ("multiclass", SEGMENTS, lambda: neighbors.KNNClassifier(n_neighbors=3, engine=neighbors.LazySearch())),
    "neighbours by graph": ("multiclass", SEGMENTS, lambda: neighbors.KNNClassifier(
        engine=neighbors.SWINN(warm_up=50, seed=2))),
    "regression by neighbours": ("regression", TRUMP, lambda: neighbors.KNNRegressor(
        engine=neighbors.LazySearch(window_size=30))),
    "clusters": ("cluster", PHISHING, lambda: scaled(cluster.KMeans(n_clusters=3, seed=4))),
    "bagging": ("multiclass", SEGMENTS, lambda: ensemble.BaggingClassifier(
        tree.HoeffdingTreeClassifier(grace_period=30), n_models=3, seed=6)),
    "bagged regression": ("regression", TRUMP, lambda: scaled(ensemble.BaggingRegressor(
        linear_model.LinearRegression(), n_models=3, seed=6))),
    "adaptive bagging": ("binary", PHISHING, lambda: ensemble.ADWINBaggingClassifier(
        scaled(logistic()), n_models=3, seed=6)),
    "leveraging bagging": ("binary", PHISHING, lambda: ensemble.LeveragingBaggingClassifier(
        scaled(logistic()), n_models=3, seed=6)),
    "boosting": ("binary", PHISHING, lambda: ensemble.AdaBoostClassifier(naive_bayes.GaussianNB(), n_models=3, seed=6)),
    "voting": ("multiclass", SEGMENTS, lambda: ensemble.VotingClassifier(
        [naive_bayes.GaussianNB(), tree.HoeffdingTreeClassifier(grace_period=30)])),
    "output codes": ("multiclass", SEGMENTS, lambda: scaled(multiclass.OutputCodeClassifier(
        logistic(), code_size=8, seed=7))),
    "robust scaler": ("regression", TRUMP, lambda: preprocessing.RobustScaler() | linear_model.LinearRegression()),
    "adaptive scaler": ("regression", TRUMP, lambda: (
        preprocessing.AdaptiveStandardScaler(fading_factor=0.4) | linear_model.LinearRegression())),
    "selection": ("regression", TRUMP, lambda: (
        preprocessing.StandardScaler() | feature_selection.SelectKBest(stats.PearsonCorr(), k=2)
        | linear_model.LinearRegression())),
    "imputer": ("regression", TRUMP, lambda: (
        preprocessing.StatImputer(("gallup", stats.Mean())) | preprocessing.StandardScaler()
        | linear_model.LinearRegression())),
    "union": ("regression", TRUMP, lambda: (
        (compose.Select("gallup", "ipsos") | preprocessing.RobustScaler()) + compose.Select("rasmussen"))
        | preprocessing.StandardScaler() | linear_model.LinearRegression()),
    "half space trees": ("custom", PHISHING, lambda: predicting(anomaly.HalfSpaceTrees(
        n_trees=5, window_size=30, seed=8, limits={"empty_server_form_handler": (0, 1)}))),
}


def predicting(detector):
    """A server asks for predict_one; river.with_score_as_prediction in Lua does the same."""
    detector.predict_one = detector.score_one
    return detector


def learn(model, flavor, x, y):
    if flavor in ("cluster", "custom"):
        model.learn_one(x)
    else:
        model.learn_one(x, y)


def samples(make_data, count):
    for x, y in itertools.islice(make_data(), count):
        yield {name: x[name] for name in sorted(x)}, y


def described(name, flavor, make_data, make):
    fresh = dill.dumps(make())
    model = make()
    recorded, taught = [], None
    for i, (x, y) in enumerate(samples(make_data, COUNT)):
        if i == 5:
            taught = dill.dumps(model)
        prediction = model.predict_proba_one(x) if flavor == "binary" else model.predict_one(x)
        if isinstance(prediction, dict):
            prediction = {str(label).lower(): p for label, p in prediction.items()}
        recorded.append({"x": x, "y": y, "prediction": prediction})
        learn(model, flavor, x, y)
    return {"name": name, "flavor": flavor, "fresh": fresh.hex(), "taught": taught.hex(), "samples": recorded}


for key, (kind, data, factory) in MODELS.items():
    print(json.dumps(described(key, kind, data, factory)))
