"""The same as sse_stream.lua with the official Python client: sse_openai.py BASE EVENTS"""

import sys
import time

from openai import OpenAI

base, wanted = sys.argv[1], int(sys.argv[2])
client = OpenAI(base_url=base + "/v1", api_key="bench")
messages = [{"role": "user", "content": "Tell me everything."}]


def read(count):
    pieces = 0
    for chunk in client.chat.completions.create(model="bench", messages=messages, max_tokens=count, stream=True):
        if chunk.choices[0].delta.content:
            pieces += 1
    return pieces


read(100)   # connects, and imports
print("start", flush=True)
cpu = time.process_time()
pieces = read(wanted)
print("end", time.process_time() - cpu, flush=True)
assert pieces == wanted, pieces
