"""nghttpd as a gRPC server that does not think: every call to /bench/Unary.grpc is answered with five bytes.

Prints one JSON line when it accepts connections, and ends when its standard input closes.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(port):
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.01)
    raise SystemExit("nghttpd does not come up")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, "bench"))
        with open(os.path.join(folder, "bench", "Unary.grpc"), "wb") as file:
            file.write(b"\0\0\0\0\5hello")
        types = os.path.join(folder, "types")
        with open(types, "w") as file:
            file.write("application/grpc grpc\n")
        port = free_port()
        child = subprocess.Popen(["nghttpd", "--no-tls", "-d", folder, "--mime-types-file=" + types,
                                  "--trailer=grpc-status: 0", str(port)], stdout=subprocess.DEVNULL)
        try:
            wait_for(port)
            print(json.dumps({"port": port}), flush=True)
            sys.stdin.read()
        finally:
            child.kill()
            child.wait()


main()
