"""The same as training_first.lua with the official client: training_first.py PORT"""

import sys

import river_client as river

client = river.Client(api_key="bench", endpoint="127.0.0.1", port=int(sys.argv[1]), use_ssl=False)
assert client.health_check()
