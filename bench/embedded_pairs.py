"""Learn and predict in turn with the Python library river in process: embedded_pairs.py linear|tree [samples]

Prints "start" and "end <CPU seconds>" around the work, like embedded_pairs.lua.
"""

import sys
import time

from river import datasets, linear_model, preprocessing, tree


def clusters():
    """The same as in embedded_pairs.lua."""
    state = 1

    def uniform():
        nonlocal state
        state = (state * 1103515245 + 12345) % 2147483648
        return state / 2147483648

    for _ in range(5000):
        x, label = {}, 0
        for k in range(6):
            side = 1 if uniform() < 0.5 else 0
            if k < 3:
                label += side << k
            x["x%d" % k] = side + 0.6 * uniform()
        yield x, label % 4


def main():
    kind, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20000
    if kind == "linear":
        # features in the order in which they travel, so that the sums can be compared
        samples = [(dict(sorted(x.items())), y) for x, y in datasets.TrumpApproval()]
        model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    else:
        samples = list(clusters())
        model = tree.HoeffdingTreeClassifier()
    print("start", flush=True)
    cpu, total = time.process_time(), 0
    for i in range(count):
        x, y = samples[i % len(samples)]
        prediction = model.predict_one(x)
        model.learn_one(x, y)
        if prediction:
            total += prediction
    print("end %.6f %.12g" % (time.process_time() - cpu, total), flush=True)


main()
