"""The guide's tour with the official client riverapi: prints what each call returns, one JSON line each."""

import json
import sys

from river import datasets, linear_model, preprocessing
from riverapi.main import Client

output, sys.stdout = sys.stdout, sys.stderr  # the client prints, too


def show(call, value):
    print(json.dumps({"call": call, "value": value}), file=output)


client = Client(sys.argv[1], quiet=True)
name, path = sys.argv[2], sys.argv[3]
model = preprocessing.StandardScaler() | linear_model.LinearRegression()

show("info", client.info())
show("upload_model", client.upload_model(model, "regression", name))
for x, y in datasets.TrumpApproval().take(20):
    x = dict(sorted(x.items()))
    show("sample", {"x": x, "y": y})
    show("predict", client.predict(name, x))
    show("learn", client.learn(name, x=x, y=y))
show("metrics", client.metrics(name))
show("stats", client.stats(name))
show("get_model_json", client.get_model_json(name))
show("models", client.models())
show("download_model", client.download_model(name, path))
show("delete_model", client.delete_model(name))
