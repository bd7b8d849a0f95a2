"""The same as river_sequential.lua with the official Python client: river_sequential.py BASE PAIRS [upload]"""

import sys
import time

from riverapi.main import Client

base, pairs = sys.argv[1], int(sys.argv[2])
cli = Client(base)
x = {"ordinal_date": 736389, "gallup": 43.843213, "ipsos": 46.19925042857143, "morning_consult": 48.318749,
     "rasmussen": 44.104692, "you_gov": 43.636914000000004}

if len(sys.argv) > 3:
    from river import linear_model, preprocessing
    model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    cli.upload_model(model, "regression", "bench")
cli.predict("bench", x=x)
print("start", flush=True)
cpu = time.process_time()
for _ in range(pairs):
    cli.learn("bench", x=x, y=43.75505)
    cli.predict("bench", x=x)
print("end", time.process_time() - cpu, flush=True)
