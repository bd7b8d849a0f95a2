"""What the stand-in's workflows answer: one Answer, shown raw, wrapped, as headers, or as a job's payload."""

import json
import time

# Cache fields of every workflow; `cache:<path>` adds one.
CACHE_FIELDS = ["user_id", "metadata.audience", "metadata.segment"]

WORDS = {
    "echo", "text", "structured", "badschema", "notjson", "anthropic", "tools", "refusal", "length", "filter",
    "null_content", "offline", "testmode", "failover", "cache", "cached_data", "bare", "image", "embedding", "big",
    "completion", "id",
}

SAMPLE = {"summary": "Launch went well", "topics": ["launch", "sales"], "confidence": 0.95}


class Refused(Exception):
    """The request is answered with an HTTP error."""

    def __init__(self, status, message, kind="invalid_request_error", code="invalid_request_error", param=None):
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param


class Answer:
    """What one run of a workflow said."""

    def __init__(self):
        self.provider, self.model = self.requested = ("openai", "gpt-4o-mini")
        self.backups = [{"position": 1, "provider": "anthropic", "model": "claude-3-5-sonnet"}]
        self.content, self.refusal, self.tool_calls, self.data, self.body = None, None, [], None, None
        self.finish_reason = "stop"
        self.usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
        self.attempts = [{"provider": "openai", "model": "gpt-4o-mini", "status": "success"}]
        self.offline = self.test_mode = self.bare = False
        self.workflow, self.customer_data, self.cached_name = None, {}, "customer_data"

    @property
    def structured(self):
        return self.data is not None

    # shapes --------------------------------------------------------------------------------------------------
    def completion(self):
        """The provider's own body."""
        if self.body is not None:
            return self.body
        message = {"role": "assistant", "content": self.content}
        if self.refusal is not None:
            message["refusal"] = self.refusal
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return {"id": "chatcmpl-stub", "object": "chat.completion", "created": 1677652288, "model": self.model,
                "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}],
                "usage": self.usage}

    def headers(self):
        """What travels beside a raw body."""
        if self.bare:
            return []
        headers = [("X-ModelRiver-Provider", self.provider), ("X-ModelRiver-Model", self.model),
                   ("X-ModelRiver-Workflow", self.workflow or ""), ("X-ModelRiver-Duration-Ms", 12),
                   ("X-ModelRiver-Attempts", len(self.attempts))]
        if self.customer_data:
            headers.append(("X-ModelRiver-Cached-Data", json.dumps(self.customer_data)))
        if self.offline:
            headers.append(("X-ModelRiver-Offline-Fallback", "true"))
        return headers

    def meta(self):
        if self.test_mode:
            return {"provider": "Testing", "model": "test-mode", "test_mode": True,
                    "tokens": {"prompt": 0, "completion": 0, "total": 0}, "duration_ms": 150}
        meta = {"status": "success", "http_status": 200, "workflow": self.workflow,
                "requested_provider": self.requested[0], "requested_model": self.requested[1],
                "used_provider": self.provider, "used_model": self.model, "duration_ms": 1420,
                "usage": self.usage, "structured_output": self.structured, "attempts": self.attempts}
        if self.offline:
            meta["offline_fallback"] = True
        return meta

    def wrapped(self):
        body = {"data": self.data if self.structured else self.completion(), self.cached_name: self.customer_data,
                "meta": self.meta()}
        if not self.test_mode:
            body["backups"] = self.backups
        return body

    def webhook_meta(self):
        """The names that webhooks use."""
        tokens = {"prompt": self.usage["prompt_tokens"], "completion": self.usage["completion_tokens"],
                  "total": self.usage["total_tokens"]}
        attempts = [{"provider": one["provider"], "model": one["model"], "duration_ms": 2341,
                     "success": one["status"] == "success"} for one in self.attempts]
        return {"provider": self.provider, "model": self.model, "tokens": tokens, "duration_ms": 2341,
                "attempts": attempts}

    def job_data(self):
        return self.data if self.structured else self.completion()

    def job_payload(self, channel_id):
        """A standard workflow's `response`."""
        meta = {"workflow": self.workflow, "status": "success", "duration_ms": 1250, "usage": self.usage}
        if self.test_mode:
            meta = dict(self.meta(), workflow=self.workflow, status="success")
        if self.offline:
            meta["offline_fallback"] = True
        return {"message": "success", "status": "success", "channel_id": channel_id, "data": self.job_data(),
                "content": self.content, "model": self.model, self.cached_name: self.customer_data, "meta": meta}


# parts of requests -------------------------------------------------------------------------------------------
def text_of(content):
    """The text of a message's content: a string, or parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def last_user_text(body):
    for message in reversed(body.get("messages") or []):
        if message.get("role") == "user":
            return text_of(message.get("content"))
    return body.get("prompt") or ""


def path_value(body, path):
    """What a cache field's path names: keys, and indexes from 0; None when it is not there."""
    value = body
    for key in path.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def cache_fields(body, switches):
    paths = CACHE_FIELDS + ([switches.text("cache")] if switches.text("cache") else [])
    found = [(path, path_value(body, path)) for path in paths]
    return {path: value for path, value in found if value is not None}


def check_messages(body):
    """Chat requests must be in order: roles, and tool messages that answer the calls before them."""
    messages = body.get("messages")
    if messages is None and ("prompt" in body or "input" in body):
        return
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "Missing required parameter: 'messages'.", param="messages")
    open_calls = []
    for position, message in enumerate(messages):
        where = "messages.%d" % position
        if not isinstance(message, dict) or message.get("role") not in ("system", "developer", "user", "assistant",
                                                                        "tool"):
            raise Refused(400, "Invalid value for '%s.role'." % where, param=where)
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_calls:
                raise Refused(400, "messages with role 'tool' must be a response to a preceding message with "
                                   "'tool_calls'.", param=where)
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            break
        if message["role"] == "assistant" and message.get("tool_calls"):
            open_calls = [call["id"] for call in message["tool_calls"]]
    if open_calls:
        raise Refused(400, "An assistant message with 'tool_calls' must be followed by tool messages responding to "
                           "each 'tool_call_id'.", param="messages")


# JSON Schema samples -----------------------------------------------------------------------------------------
def schema_of(body):
    """The schema that the request itself carries, in any of the three places."""
    if isinstance(body.get("structured_output_schema"), dict):
        return body["structured_output_schema"]
    wanted = body.get("response_format")
    if isinstance(wanted, dict):
        if wanted.get("type") == "json_schema" and isinstance(wanted.get("json_schema"), dict):
            return wanted["json_schema"].get("schema")
        if wanted.get("type") not in ("text", "json_object"):
            return wanted
    return None


def conforming(schema):
    """A value that the schema (of the plain kinds) accepts."""
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return conforming(schema[key][0])
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: conforming(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [conforming(schema.get("items", {}))] * max(1, schema.get("minItems", 1))
    if kind in ("integer", "number"):
        return schema.get("minimum", 1 if kind == "integer" else 0.5)
    return {"boolean": True, "null": None}.get(kind, "text" + "x" * max(0, schema.get("minLength", 0) - 4))


# tool calls --------------------------------------------------------------------------------------------------
def tool_results(body):
    """The tool messages since the last user message."""
    results = []
    for message in reversed(body.get("messages") or []):
        if message.get("role") == "user":
            break
        if message.get("role") == "tool":
            results.insert(0, text_of(message.get("content")))
    return results


def call_tools(answer, body, how):
    """Fills in the calls that `tools[:how]` makes; False when it is time for text."""
    tools = [tool["function"] for tool in body.get("tools") or [] if isinstance(tool, dict) and "function" in tool]
    choice, results = body.get("tool_choice"), tool_results(body)
    if not tools or choice == "none" or (results and how != "loop"):
        return False
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]] or tools
    chosen = [tools[0], tools[-1]] if how == "parallel" else tools[:1]
    try:
        given = json.loads(last_user_text(body))
    except ValueError:
        given = None
    for tool in chosen:
        arguments = given if isinstance(given, dict) else conforming(tool.get("parameters") or {"type": "object"})
        text = {"badargs": '{"city": "Par', "empty": ""}.get(how, json.dumps(arguments, ensure_ascii=False))
        name = "no_such_tool" if how == "unknown" else tool["name"]
        # numbered over the whole conversation: an id is never used twice in it
        number = len(body.get("messages") or []) + len(answer.tool_calls)
        answer.tool_calls.append({"id": "call_%d" % number, "type": "function",
                                  "function": {"name": name, "arguments": text}})
    answer.finish_reason = "tool_calls"
    return True


# workflows ---------------------------------------------------------------------------------------------------
def run(body, switches):
    """The answer of the workflow whose switches are given to a request's body."""
    answer = Answer()
    answer.workflow = body.get("workflow") or (switches.name if body.get("provider") is None else None)
    answer.customer_data = cache_fields(body, switches)
    answer.bare = "bare" in switches
    if "cached_data" in switches:
        answer.cached_name = "cached_data"
    answer.content = switches.text("text") or last_user_text(body)
    if "big" in switches:
        answer.content = "b" * switches.argument("big", 0, 1 << 20)
    choose_provider(answer, body, switches)
    if "tools" in switches:
        if call_tools(answer, body, switches.text("tools")):
            answer.content = None
            return answer
        results = tool_results(body)
        answer.content = "Tools said: " + "; ".join(results) if results else answer.content
    special(answer, body, switches)
    return answer


def choose_provider(answer, body, switches):
    if "failover" in switches or "anthropic" in switches:
        answer.provider, answer.model = "anthropic", "claude-3-5-sonnet"
        answer.attempts = [{"provider": "anthropic", "model": "claude-3-5-sonnet", "status": "success"}]
    if "failover" in switches:
        answer.attempts.insert(0, {"provider": "openai", "model": "gpt-4o-mini", "status": "error",
                                   "reason": "timeout"})
    if body.get("provider") and not body.get("workflow"):
        answer.provider, answer.model = answer.requested = (body["provider"], body.get("model"))
        answer.backups = []
        answer.attempts = [{"provider": answer.provider, "model": answer.model, "status": "success"}]


def special(answer, body, switches):
    """Structured answers, and bodies that are not an OpenAI chat completion."""
    schema = schema_of(body)
    wants_sample = any(word in switches for word in ("structured", "offline", "testmode", "badschema"))
    if schema or wants_sample:
        answer.data = conforming(schema) if schema else dict(SAMPLE)
    if "badschema" in switches:
        answer.data = {"unexpected": [1, 2]}
    if answer.structured:
        answer.content = "Sorry, no JSON today." if "notjson" in switches else json.dumps(answer.data)
        if "notjson" in switches:
            answer.data = None
    if "offline" in switches:
        answer.offline = True
        answer.attempts = [{"provider": provider, "model": model, "status": "error", "reason": reason}
                           for provider, model, reason in (("openai", "gpt-4o-mini", "timeout"),
                                                           ("anthropic", "claude-3-5-sonnet", "rate_limit"))]
    if "testmode" in switches:
        answer.test_mode, answer.provider, answer.model = True, "Testing", "test-mode"
        answer.usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    if "refusal" in switches:
        answer.content, answer.refusal = None, switches.text("refusal", "I cannot help with that.")
    if "null_content" in switches:
        answer.content = None
    for word, reason in (("length", "length"), ("filter", "content_filter")):
        if word in switches:
            answer.finish_reason = reason
    answer.body = other_body(answer, switches)


def other_body(answer, switches):
    if "anthropic" in switches:
        return {"id": "msg_stub", "type": "message", "role": "assistant", "model": answer.model,
                "content": [{"type": "text", "text": answer.content}], "stop_reason": "end_turn",
                "stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 12}}
    if "image" in switches:
        return {"created": int(time.time()), "data": [{"url": "https://images.example/stub.png",
                                                       "revised_prompt": answer.content}]}
    if "embedding" in switches:
        return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 1.0]}],
                "model": "text-embedding-3-small", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    if "completion" in switches:
        return {"id": "cmpl-stub", "object": "text_completion", "created": 1677652288, "model": answer.model,
                "choices": [{"index": 0, "text": answer.content, "finish_reason": "stop"}], "usage": answer.usage}
    return None


def provider_failure(workflow, customer_data):
    """A valid request whose providers failed: HTTP 200 with an error."""
    return {"data": None, "customer_data": customer_data,
            "error": {"message": "Provider request failed", "details": {"status": 504, "message": "Upstream timeout"}},
            "meta": {"status": "error", "http_status": 502, "workflow": workflow,
                     "attempts": [{"provider": "openai", "model": "gpt-4o-mini", "status": "error",
                                   "reason": "timeout"}]}}
