"""Answers of the Python library to single calls, for the comparison with the embedded service.

    python calls.py < jobs

Per line {"model": hex of a pickle, "calls": [[method, features, label?], …]}; answers one list per line, of {"value":
what the method returned} or {"error": repr of what it raised}. A call that fails leaves the model as it was, as on a
server. Features and probabilities are lists of pairs, in Python's order.
"""

import copy
import json
import pickle
import sys


def plain(value):
    """Numbers of numpy as Python's."""
    return value.item() if hasattr(value, "item") else value


def ordered(value):
    """Dictionaries as pairs, in their own order."""
    if isinstance(value, dict):
        return {"pairs": [[plain(key), plain(item)] for key, item in value.items()]}
    return {"value": plain(value)}


def answer(model, method, x, *label):
    before = copy.deepcopy(model)
    named = {"y": label[0]} if label else {}
    try:
        return model, ordered(getattr(model, method)(dict(sorted(x.items())), **named))
    except Exception as problem:  # told to the test
        return before, {"error": repr(problem)}


def main():
    for line in sys.stdin:
        job = json.loads(line)
        model, answers = pickle.loads(bytes.fromhex(job["model"])), []
        for call in job["calls"]:
            model, result = answer(model, *call)
            answers.append(result)
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
