"""An independent WebSocket server for the tests: the library `websockets`, over ws, wss and a Unix socket.

Prints one JSON line with its addresses and ends when its standard input closes. Keys: ws, wss, wss_wrong_name (ports on
127.0.0.1), ca_file, wrong_ca_file, unix_socket, control.

Paths:
  /echo                   sends every message back, of the same kind
  /headers                the request's headers as JSON
  /fragments?n=&size=     a text of n pieces of `size` bytes each, one frame a piece, with a ping between
  /big?size=              one binary message
  /many?n=&size=          n messages "1", "2", … (with blanks up to that size), then closes
  /pings?n=               pings n times and waits for each pong, then says "answered"
  /close?code=&reason=    closes at once
  /leave?after=           echoes so many messages, then drops the connection without a close frame
  /count                  counts messages until the other side closes; see /seen
Subprotocols: beta, gamma. The control port speaks HTTP: GET /seen?id=X answers when the connection whose path had the
parameter id=X is over: code and reason that the server saw, messages received, subprotocol.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import urllib.parse

from websockets.asyncio.server import serve, unix_serve
from websockets.exceptions import ConnectionClosed

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from stub_server import make_certificate                                # noqa: E402

seen = {}
changed = asyncio.Condition()


async def echo(ws, query):
    count = 0
    try:
        async for message in ws:
            count += 1
            await ws.send(message)
            if count == int(query.get("after", -1)):
                ws.transport.abort()
    finally:
        ws.counted = count


async def headers(ws, query):
    await ws.send(json.dumps({name.lower(): value for name, value in ws.request.headers.raw_items()}))
    await ws.wait_closed()


async def fragments(ws, query):
    async def pieces():
        for i in range(int(query["n"])):
            await ws.ping()
            yield chr(ord("a") + i % 26) * int(query["size"])
    await ws.send(pieces())
    await ws.wait_closed()


async def big(ws, query):
    await ws.send(bytes(i % 251 for i in range(int(query["size"]))))
    await ws.wait_closed()


async def many(ws, query):
    for i in range(int(query["n"])):
        await ws.send(str(i + 1).ljust(int(query.get("size", 0))))


async def pings(ws, query):
    for i in range(int(query["n"])):
        await (await ws.ping("ping %d" % i))
    await ws.send("answered")
    await ws.wait_closed()


async def close(ws, query):
    await ws.close(int(query["code"]), query.get("reason", ""))


async def count(ws, query):
    ws.counted = 0
    async for _ in ws:
        ws.counted += 1


ROUTES = {"/echo": echo, "/leave": echo, "/headers": headers, "/fragments": fragments, "/big": big, "/many": many,
          "/pings": pings, "/close": close, "/count": count}


SUBPROTOCOLS = ["beta", "gamma"]


def choose(ws, offered):
    return next((name for name in offered if name in SUBPROTOCOLS), None)


async def handle(ws):
    target = urllib.parse.urlsplit(ws.request.path)
    query = dict(urllib.parse.parse_qsl(target.query))
    try:
        await ROUTES[target.path](ws, query)
    except ConnectionClosed:
        pass
    finally:
        await ws.close()
        async with changed:
            seen[query.get("id")] = {"code": ws.close_code, "reason": ws.close_reason,
                                     "count": getattr(ws, "counted", None), "subprotocol": ws.subprotocol}
            changed.notify_all()


async def control(reader, writer):
    """HTTP, as far as the tests need it."""
    try:
        while line := await reader.readline():
            target = urllib.parse.urlsplit(line.split()[1].decode())
            query = dict(urllib.parse.parse_qsl(target.query))
            while (await reader.readline()).strip():
                pass
            async with changed:
                await asyncio.wait_for(changed.wait_for(lambda: query["id"] in seen), 10)
                body = json.dumps(seen[query["id"]]).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (ConnectionError, asyncio.TimeoutError):
        pass
    finally:
        writer.close()


async def until_input_ends():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def port_of(server):
    return next(iter(server.sockets)).getsockname()[1]


async def main(folder):
    options = {"subprotocols": SUBPROTOCOLS, "select_subprotocol": choose, "max_size": 1 << 26, "ping_interval": None}
    good, ca_file = make_certificate(folder, "good", "DNS:localhost,IP:127.0.0.1")
    wrong, wrong_ca = make_certificate(folder, "wrong", "DNS:elsewhere.example")
    path = os.path.join(folder, "socket")
    async with serve(handle, "127.0.0.1", 0, **options) as plain, \
            serve(handle, "127.0.0.1", 0, ssl=good, **options) as safe, \
            serve(handle, "127.0.0.1", 0, ssl=wrong, **options) as wrong_name, \
            unix_serve(handle, path, **options), \
            await asyncio.start_server(control, "127.0.0.1", 0) as controller:
        print(json.dumps({"ws": port_of(plain), "wss": port_of(safe), "wss_wrong_name": port_of(wrong_name),
                          "control": port_of(controller), "ca_file": ca_file, "wrong_ca_file": wrong_ca,
                          "unix_socket": path}), flush=True)
        await until_input_ends()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)                 # whatever is still open


if __name__ == "__main__":
    asyncio.run(main(tempfile.mkdtemp(prefix="websocket-peer-")))
