"""The same as grpc_calls.lua with grpcio: grpc_calls.py HOST:PORT CALLS IN_FLIGHT sync|futures|asyncio

sync: a thread for each call in flight; futures: one thread, which starts a call for each that has ended; asyncio: a
task for each call in flight."""

import asyncio
import collections
import resource
import sys
import threading

import grpc

TARGET, COUNT, WIDTH, HOW = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
METHOD, REQUEST = "/river.api.v1.RiverService/SessionHeartbeat", b"\x0a\x24a0b1c2d3-e4f5-6789-abcd-ef0123456789"


def report(run):
    print("start", flush=True)
    before = resource.getrusage(resource.RUSAGE_SELF)
    run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    print("end", after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, flush=True)


def sync(call, count):
    def work(times):
        for _ in range(times):
            assert call(REQUEST, timeout=60) == b"\x08\x01"
    if WIDTH == 1:
        return work(count)
    threads = [threading.Thread(target=work, args=(count // WIDTH,)) for _ in range(WIDTH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def futures(call, count):
    pending = collections.deque(call.future(REQUEST, timeout=60) for _ in range(WIDTH))
    for _ in range(count - WIDTH):
        assert pending.popleft().result() == b"\x08\x01"
        pending.append(call.future(REQUEST, timeout=60))
    for future in pending:
        assert future.result() == b"\x08\x01"


async def in_tasks(call, count):
    async def work():
        for _ in range(count // WIDTH):
            assert await call(REQUEST, timeout=60) == b"\x08\x01"
    await asyncio.gather(*(work() for _ in range(WIDTH)))


async def run_asyncio():
    async with grpc.aio.insecure_channel(TARGET) as channel:
        call = channel.unary_unary(METHOD)
        await in_tasks(call, max(100, WIDTH))
        print("start", flush=True)
        before = resource.getrusage(resource.RUSAGE_SELF)
        await in_tasks(call, COUNT)
        after = resource.getrusage(resource.RUSAGE_SELF)
        print("end", after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, flush=True)


if HOW == "asyncio":
    asyncio.run(run_asyncio())
else:
    way = {"sync": sync, "futures": futures}[HOW]
    with grpc.insecure_channel(TARGET) as channel_:
        method = channel_.unary_unary(METHOD)
        way(method, max(100, WIDTH))
        report(lambda: way(method, COUNT))
