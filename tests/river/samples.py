"""The first samples of the library's data sets as JSON lines {"data", "x", "y"}: samples.py COUNT NAME…"""

import json
import sys

from river import datasets

for name in sys.argv[2:]:
    for x, y in getattr(datasets, name)().take(int(sys.argv[1])):
        print(json.dumps({"data": name, "x": x, "y": y}))
