"""The same as river_many.lua with the official Python client, one call each: river_many.py BASE COUNT"""

import sys
import time

from riverapi.main import Client

cli = Client(sys.argv[1])
samples = [({"ordinal_date": 736389 + i, "gallup": 43.8 + i % 7, "ipsos": 46.1, "morning_consult": 48.3,
             "rasmussen": 44.1, "you_gov": 43.6}, 43.7 + i % 3) for i in range(int(sys.argv[2]))]
cli.learn("bench", x=samples[0][0], y=samples[0][1])
print("start", flush=True)
cpu = time.process_time()
for x, y in samples:
    cli.learn("bench", x=x, y=y)
print("end", time.process_time() - cpu, flush=True)
