"""The stand-in as the official OpenAI package sees it: one JSON line per scenario, {"name", …what was seen}.

Argument: the stand-in's start-up line.
"""

import json
import sys

import openai

info = json.loads(sys.argv[1])
MESSAGES = [{"role": "user", "content": "Grüße aus Lua, dear model"}]
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["Paris"]}}}}} for name in ("weather", "time")]
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}, "year": {"type": "integer", "minimum": 1900}},
          "required": ["title", "year"], "additionalProperties": False}


def client(key="good", **options):
    options.setdefault("max_retries", 0)
    address = "http://127.0.0.1:%d/v1" % info["http"]
    return openai.OpenAI(base_url=address, api_key=info["keys"].get(key, key), **options)


def create(model, messages=None, options=None, **fields):
    with client(**(options or {})) as cli:
        return cli.chat.completions.create(model=model, messages=messages or MESSAGES, **fields)


def plain(model, **fields):
    choice = create(model, **fields).choices[0]
    return {"content": choice.message.content, "refusal": choice.message.refusal,
            "finish_reason": choice.finish_reason}


def streamed(model, **fields):
    """What the chunks add up to, and the error that ended them."""
    seen = {"roles": [], "content": "", "refusal": "", "calls": {}, "finish_reason": None, "usage": None, "error": None,
            "pieces": 0}
    with client() as cli:
        try:
            for chunk in cli.chat.completions.create(model=model, messages=MESSAGES, stream=True, **fields):
                add_chunk(seen, chunk)
        except openai.OpenAIError as error:
            seen["error"] = described(error)
        except Exception as error:
            seen["error"] = {"class": type(error).__name__}
    return seen


def add_chunk(seen, chunk):
    seen["usage"] = chunk.usage.total_tokens if chunk.usage else seen["usage"]
    for choice in chunk.choices:
        delta = choice.delta
        if delta.role:
            seen["roles"].append(delta.role)
        if delta.content:
            seen["pieces"] += 1
        seen["content"] += delta.content or ""
        seen["refusal"] += delta.refusal or ""
        for call in delta.tool_calls or []:
            known = seen["calls"].setdefault(str(call.index), {"id": call.id, "name": call.function.name,
                                                               "arguments": ""})
            known["arguments"] += call.function.arguments or ""
        seen["finish_reason"] = choice.finish_reason or seen["finish_reason"]


def described(error):
    """The class and the fields of an error of the package."""
    return {"class": type(error).__name__, "status": getattr(error, "status_code", None),
            "code": getattr(error, "code", None), "param": getattr(error, "param", None),
            "type": getattr(error, "type", None), "message": str(error),
            "request_id": getattr(error, "request_id", None),
            "retry_after": error.response.headers.get("retry-after") if hasattr(error, "response") else None}


def failure(model, **fields):
    try:
        create(model, **fields)
    except openai.OpenAIError as error:
        return described(error)
    except Exception as error:
        return {"class": type(error).__name__}
    return {"class": None}


def with_headers():
    with client() as cli:
        raw = cli.chat.completions.with_raw_response.create(
            model="failover+cache:messages.0.content", messages=MESSAGES, extra_body={"user_id": "u1"})
        return {"headers": dict(raw.headers), "content": raw.parse().choices[0].message.content}


def tool_round(model):
    """Calls, their results, and the text after them."""
    first = create(model, tools=TOOLS).choices[0]
    calls = [{"id": call.id, "name": call.function.name, "arguments": json.loads(call.function.arguments)}
             for call in first.message.tool_calls]
    messages = MESSAGES + [first.message.model_dump(exclude_none=True)]
    unanswered = failure(model, messages=messages, tools=TOOLS)
    for call in calls:
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": "result of " + call["name"]})
    second = create(model, messages=messages, tools=TOOLS).choices[0]
    return {"calls": calls, "finish_reason": first.finish_reason, "unanswered": unanswered,
            "content": second.message.content}


def structured():
    wanted = {"type": "json_schema", "json_schema": {"name": "film", "schema": SCHEMA, "strict": True}}
    return {"data": json.loads(create("echo", response_format=wanted).choices[0].message.content)}


def retried(model, retries):
    """Whether the package's own retries get there."""
    return plain(model, options={"max_retries": retries})


SCENARIOS = {
    "plain": lambda: plain("echo"),
    "length": lambda: plain("length"),
    "filter": lambda: plain("filter"),
    "refusal": lambda: plain("refusal"),
    "null_content": lambda: plain("null_content"),
    "chunked": lambda: plain("echo+chunked"),
    "drip": lambda: plain("echo+drip:1"),
    "headers": with_headers,
    "tools": lambda: tool_round("tools"),
    "parallel": lambda: tool_round("tools:parallel"),
    "no_tools": lambda: plain("tools", tools=TOOLS, tool_choice="none"),
    "structured": structured,
    "stream": lambda: streamed("stream"),
    "stream_usage": lambda: streamed("stream", stream_options={"include_usage": True}),
    "stream_usage_on_finish": lambda: streamed("stream+usage:finish"),
    "stream_tools": lambda: streamed("tools", tools=TOOLS),
    "stream_parallel": lambda: streamed("tools:parallel", tools=TOOLS),
    "stream_refusal": lambda: streamed("refusal:I will not do that"),
    "stream_many": lambda: {"pieces": streamed("many:3000")["pieces"]},
    "stream_unterminated": lambda: streamed("stream+unterminated"),
    "stream_after_done": lambda: streamed("stream+after_done"),
    "stream_linger": lambda: streamed("stream+linger+eof"),
    "stream_nodone": lambda: streamed("stream+nodone"),
    "stream_cut": lambda: streamed("stream+cut:2:fin"),
    "stream_badevent": lambda: streamed("stream+badevent:1"),
    "stream_error_data": lambda: streamed("midfail:data:2"),
    "stream_error_event": lambda: streamed("midfail:event:2"),
    "stream_error_choice": lambda: streamed("midfail:choice:2"),
    "stream_refused": lambda: streamed("fail502"),
    "unknown_key": lambda: failure("echo", options={"key": "mr_live_nobody"}),
    "revoked_key": lambda: failure("echo", options={"key": "revoked"}),
    "other_project": lambda: failure("echo", options={"key": "forbidden"}),
    "unknown_workflow": lambda: failure("xyz"),
    "event_driven": lambda: failure("event:movie"),
    "bad_role": lambda: failure("echo", messages=[{"role": "wizard", "content": "x"}]),
    "too_large": lambda: failure("echo", messages=[{"role": "user", "content": "x" * (5 << 20)}]),
    "rate_limited": lambda: failure("rate429:7"),
    "reset": lambda: failure("reset"),
    "closed": lambda: failure("close_http"),
    "truncated": lambda: failure("echo+truncate"),
    "held": lambda: failure("echo+hold:openai", options={"timeout": 0.2}),
    "html": lambda: failure("html500"),
    "shape_string": lambda: failure("fail500+shape:string"),
    "retried": lambda: retried("flaky:2:503+retry_after_ms:1", 2),
    "retried_after_reset": lambda: retried("flaky:1:reset", 1),
    "not_retried": lambda: failure("flaky:1:503+should_retry:false", options={"max_retries": 2}),
}
for _form in ("split:1", "split:7", "crlf", "cr", "bom", "nospace", "multiline", "fields", "comments:2", "chars:1",
              "eof", "null_role", "finish_with_content"):
    SCENARIOS["form " + _form] = lambda form=_form: streamed("stream+" + form)
for _status in (400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504):
    SCENARIOS["status %d" % _status] = lambda status=_status: failure("fail%d" % status)


if __name__ == "__main__":
    for _name, _scenario in SCENARIOS.items():
        print(json.dumps(dict(_scenario(), name=_name)), flush=True)
