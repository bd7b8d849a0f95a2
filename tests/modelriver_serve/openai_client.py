"""`riverlua serve modelriver` as the official OpenAI package sees it: one JSON line of what was seen.

Arguments: the address and the key.
"""

import json
import sys

import openai

address, key = sys.argv[1:3]
MESSAGES = [{"role": "user", "content": "one two three"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}]


def error_of(call):
    try:
        call()
    except openai.APIStatusError as error:
        return {"class": type(error).__name__, "status": error.status_code, "code": error.code}
    return None


def main():
    client = openai.OpenAI(base_url=address + "/v1", api_key=key, max_retries=0)
    create = client.chat.completions.create
    seen = {}
    whole = create(model="echo", messages=MESSAGES)
    seen["whole"] = [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.total_tokens > 0]
    pieces, usage = [], None
    for chunk in create(model="pieces", messages=MESSAGES, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
    seen["pieces"], seen["usage"] = pieces, usage.total_tokens > 0
    call = create(model="tools", messages=MESSAGES, tools=TOOLS).choices[0].message.tool_calls[0]
    seen["call"] = [call.function.name, json.loads(call.function.arguments)]
    answered = [*MESSAGES, {"role": "assistant", "tool_calls": [call.model_dump()]},
                {"role": "tool", "tool_call_id": call.id, "content": "cold"}]
    seen["told"] = create(model="tools", messages=answered, tools=TOOLS).choices[0].message.content
    with create(model="endless", messages=MESSAGES, stream=True) as stream:
        next(iter(stream))
    stranger = openai.OpenAI(base_url=address + "/v1", api_key="mr_live_other", max_retries=0)
    seen["errors"] = [
        error_of(lambda: create(model="nowhere", messages=MESSAGES)),
        error_of(lambda: create(model="film", messages=MESSAGES)),
        error_of(lambda: stranger.chat.completions.create(model="echo", messages=MESSAGES)),
    ]
    print(json.dumps(seen))


main()
