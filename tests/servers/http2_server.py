"""Runs nghttpd on a free port: prints one JSON line when it accepts connections, ends when standard input closes.

    http2_server.py [--tls] [further options of nghttpd]

Serves GET /index.html and /big.bin (1 MiB) and echoes the bodies of POSTs.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from stub_server import make_certificate                                # noqa: E402


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def accepts(port, child):
    while child.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(0.01)
    return False


def main():
    options = sys.argv[1:]
    folder = tempfile.mkdtemp(prefix="http2-server-")
    child = None
    try:
        with open(os.path.join(folder, "index.html"), "w") as page:
            page.write("hello over two\n")
        with open(os.path.join(folder, "big.bin"), "wb") as page:
            page.write(bytes(range(256)) * 4096)
        _, ca_file = make_certificate(folder, "good", "DNS:localhost,IP:127.0.0.1")
        tls = "--tls" in options
        options = [option for option in options if option != "--tls"]
        for _ in range(5):              # the port may be taken between looking and using
            port = free_port()
            words = ["nghttpd", "-a", "127.0.0.1", "-d", folder, "--echo-upload", *options, str(port)]
            words += [os.path.join(folder, "good.key"), ca_file] if tls else ["--no-tls"]
            child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            if accepts(port, child):
                break
        else:
            sys.exit("nghttpd does not start")
        print(json.dumps({"tls" if tls else "http": port, "ca_file": ca_file, "pid": child.pid}), flush=True)
        while sys.stdin.buffer.read(4096):
            pass
    finally:
        if child and child.poll() is None:
            child.kill()
            child.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
