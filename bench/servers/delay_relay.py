"""Stands between a client and a server and holds everything back for a while, as a network does.

    python delay_relay.py TARGET_PORT MILLISECONDS

Every byte arrives MILLISECONDS later, in each direction. Prints one JSON line with its port and ends when its standard
input closes. What it receives it acknowledges at once.
"""

import asyncio
import json
import os
import socket
import sys


class Side(asyncio.Protocol):
    """One end; what it receives goes to the other one, later."""

    def __init__(self, delay):
        self.delay, self.other, self.early = delay, None, []

    def connection_made(self, transport):
        self.transport = transport
        self.socket = transport.get_extra_info("socket")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.acknowledge()

    def acknowledge(self):
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def data_received(self, data):
        self.acknowledge()
        asyncio.get_running_loop().call_later(self.delay, self.pass_on, data)

    def pass_on(self, data):
        if self.other is None:
            self.early.append(data)
        elif not self.other.transport.is_closing():
            self.other.transport.write(data)

    def connection_lost(self, _):
        if self.other is not None:
            asyncio.get_running_loop().call_later(self.delay, self.other.transport.close)


async def main():
    port, delay = int(sys.argv[1]), float(sys.argv[2]) / 1000
    loop = asyncio.get_running_loop()

    class Front(Side):
        def connection_made(self, transport):
            super().connection_made(transport)
            loop.create_task(self.reach())

        async def reach(self):
            _, back = await loop.create_connection(lambda: Side(delay), "127.0.0.1", port)
            self.other, back.other = back, self
            for data in self.early:
                self.pass_on(data)

    server = await loop.create_server(lambda: Front(delay), "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await loop.run_in_executor(None, lambda: os.read(0, 1))


if __name__ == "__main__":
    asyncio.run(main())
