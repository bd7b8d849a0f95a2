"""The same as grpc_unary.lua with grpcio: grpc_unary.py BASE CALLS IN_FLIGHT"""

import sys
import threading
import time

import grpc

target, calls, in_flight = sys.argv[1].partition("://")[2], int(sys.argv[2]), int(sys.argv[3])
call = grpc.insecure_channel(target).unary_unary("/bench/Unary.grpc")
metadata = [("x-api-key", "0123456789abcdef")]

assert call(b"hello", metadata=metadata, timeout=60) == b"hello"
print("start", flush=True)
cpu = time.process_time()
if in_flight == 1:
    for _ in range(calls):
        call(b"hello", metadata=metadata, timeout=60)
else:
    room, done = threading.Semaphore(in_flight), threading.Semaphore(0)

    def over(future):
        future.result()
        room.release()
        done.release()

    for _ in range(calls):
        room.acquire()
        call.future(b"hello", metadata=metadata, timeout=60).add_done_callback(over)
    for _ in range(calls):
        done.acquire()
print("end", time.process_time() - cpu, flush=True)
