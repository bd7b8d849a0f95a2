"""Runs a command on a pseudo-terminal, types and waits as a file of steps says, and prints what the terminal showed.

Each line of the file is a verb and a percent-encoded text: `send text`, `expect text` (waits until the text shows up
after what earlier steps matched), `signal number`. Exits with the command's code; 99 when an expected text did not come.
"""
import os
import pty
import select
import signal
import struct
import sys
import termios
import fcntl
import time
import urllib.parse

PATIENCE = 20.0


def main():
    steps = []
    with open(sys.argv[1], encoding="ascii") as file:
        for line in file:
            verb, text = line.rstrip("\n").split(" ", 1)
            steps.append((verb, urllib.parse.unquote_to_bytes(text)))
    child, terminal = pty.fork()
    if child == 0:
        os.environ.setdefault("TERM", "xterm")
        os.execvp(sys.argv[2], sys.argv[2:])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown = bytearray()
    seen = 0

    def read(deadline):
        """Reads once; False at the end."""
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(terminal, 65536)
        except OSError:
            return False
        shown.extend(data)
        return bool(data)

    failed = None
    for verb, text in steps:
        if verb == "send":
            os.write(terminal, text)
        elif verb == "signal":
            os.kill(child, int(text))
        else:
            deadline = time.monotonic() + PATIENCE
            while shown.find(text, seen) < 0:
                if not read(deadline):
                    failed = text
                    break
            if failed is not None:
                break
            seen = shown.find(text, seen) + len(text)
    if failed is not None:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while read(deadline):
        pass
    if time.monotonic() >= deadline:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    sys.stdout.buffer.write(bytes(shown))
    if failed is not None:
        sys.stdout.buffer.write(b"\n-- expected and not seen: " + failed + b"\n")
        sys.exit(99)
    sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)


main()
