"""Scores of the library's detectors that look at the target, and running statistics, for equal_anomaly_spec.lua."""

import json
import random

from river import anomaly, datasets, linear_model, preprocessing, stats

generator = random.Random(99)
SERIES = {
    "trump": [y for _, y in datasets.TrumpApproval()],
    "gauss": [generator.gauss(3, 7) + (60 if i % 97 == 0 else 0) for i in range(1000)],
}
DETECTORS = {
    "gaussian": lambda: anomaly.GaussianScorer(),
    "gaussian_window": lambda: anomaly.GaussianScorer(window_size=60, grace_period=10),
    "deviation": lambda: anomaly.StandardAbsoluteDeviation(),
    "deviation_median": lambda: anomaly.StandardAbsoluteDeviation(sub_stat=stats.Quantile(0.5)),
}
STATISTICS = {
    "Mean": {}, "Var": {}, "SEM": {"ddof": 0}, "EWMean": {"fading_factor": 0.3}, "EWVar": {"fading_factor": 0.2},
    "Count": {}, "Sum": {}, "Min": {}, "Max": {}, "PeakToPeak": {}, "Quantile": {"q": 0.17},
}


def scores(detector, series):
    for y in series:
        # A median is no number before the first value.
        if not isinstance(detector, anomaly.StandardAbsoluteDeviation) or detector.variance.n > 0:
            yield detector.score_one(None, y)
        else:
            yield None
        detector.learn_one(None, y)


def values(statistic, series):
    for x in series:
        statistic.update(x)
        yield statistic.get()


def pairs(series):
    for class_name in ("Cov", "PearsonCorr"):
        statistic, found = getattr(stats, class_name)(), []
        for x, y in zip(series, series[1:]):
            statistic.update(x, y)
            found.append(statistic.get())
        yield class_name, found


def errors(detector):
    for x, y in datasets.TrumpApproval():
        x = dict(sorted(x.items()))
        score = detector.score_one(x, y)
        yield score if score == score else "nan"
        detector.learn_one(x, y)


ERRORS = {
    "error": list(errors(anomaly.PredictiveAnomalyDetection(warmup_period=10))),
    "error_scaled": list(errors(anomaly.PredictiveAnomalyDetection(
        preprocessing.StandardScaler() | linear_model.LinearRegression(), n_std=2.5))),
}

print(json.dumps({name: {
    "errors": ERRORS,
    "series": series,
    "scores": {key: list(scores(make(), series)) for key, make in DETECTORS.items()},
    "statistics": {key: {"options": options, "values": list(values(getattr(stats, key)(**options), series))}
                   for key, options in STATISTICS.items()},
    "pairs": dict(pairs(series)),
} for name, series in SERIES.items()}))
