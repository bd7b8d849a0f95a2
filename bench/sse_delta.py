"""The same as sse_delta.lua with the official Python client: sse_delta.py BASE EVENTS"""

import sys
import time

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="bench")
took = []
for chunk in client.chat.completions.create(model="bench", messages=[{"role": "user", "content": "Now?"}],
                                            max_tokens=int(sys.argv[2]), stream=True):
    text = chunk.choices[0].delta.content
    if text:
        took.append((time.monotonic_ns() - int(text)) / 1e9)
print("\n".join(map(str, took)))
