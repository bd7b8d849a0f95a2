"""The same as river_once.lua with river and its official client: river_once.py BASE"""

import sys

from river import linear_model, optim, preprocessing
from riverapi.main import Client

cli = Client(sys.argv[1])
model = preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer=optim.SGD(0.01))
cli.upload_model(model, "regression", model_name="bench")
cli.learn("bench", x={"a": 1.5, "b": 2}, y=3.5)
cli.predict("bench", x={"a": 1.5, "b": 2})
