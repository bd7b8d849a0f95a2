"""A redis-server on a free port that keeps nothing. Prints one JSON line when it is ready; ends with its input."""

import json
import os
import socket
import subprocess
import sys


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


port = free_port()
server = subprocess.Popen(
    ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
    stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
for line in server.stdout:
    if "eady to accept connections" in line:
        break
else:
    sys.exit("redis-server did not start")
print(json.dumps({"port": port}), flush=True)
while os.read(0, 4096):
    pass
server.terminate()
server.wait()
