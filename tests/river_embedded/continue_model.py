"""Loads models that the embedded service wrote and goes on: predicts and learns the samples given.

    python continue_model.py < jobs.json

Input: [{"path": …, "flavor": …, "samples": [[features, target], …]}, …]. Output, for each: the predictions, and whether
the model predicts the same after it was stored again.
"""

import json
import pickle
import sys

import dill


def proceed(job):
    with open(job["path"], "rb") as file:
        model = dill.load(file)
    predictions = []
    for x, y in job["samples"]:
        x = dict(sorted(x.items()))
        if job["flavor"] == "regression":
            predictions.append(model.predict_one(x))
        else:
            predictions.append(model.predict_proba_one(x)[True])
        model.learn_one(x, y)
    stored = pickle.loads(pickle.dumps(model))
    x = dict(sorted(job["samples"][0][0].items()))
    return {"predictions": predictions, "same_when_stored": stored.predict_one(x) == model.predict_one(x)}


def main():
    json.dump([proceed(job) for job in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
