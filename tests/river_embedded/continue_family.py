"""Goes on with models that the embedded service wrote, and stores them as Python does.

    python continue_family.py < jobs

Per line {"path", "out", "samples", "first", "last", "predict", "supervised"}: loads the model at `path`, predicts and
learns the samples `first` to `last` (from 1) of a data set of reference.py, and writes the model to `out`. Answers
{"predictions": […]} or {"error": text} per line.
"""

import itertools
import json
import pickle
import sys

from reference import recorded, samples


def proceed(job):
    with open(job["path"], "rb") as file:
        model = pickle.load(file)
    predictions = []
    for x, y in itertools.islice(samples(job["samples"], job["last"]), job["first"] - 1, None):
        predictions.append(recorded(getattr(model, job["predict"])(dict(x))))
        if job["supervised"]:
            model.learn_one(dict(x), y)
        else:
            model.learn_one(dict(x))
    with open(job["out"], "wb") as file:
        pickle.dump(model, file)
    return {"predictions": predictions}


def main():
    for line in sys.stdin:
        try:
            answer = proceed(json.loads(line))
        except Exception as problem:  # told to the test
            answer = {"error": repr(problem)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
