"""The HTTP side of the ModelRiver stand-in: routes, keys, failures on order, and how an answer is put on the wire."""

import asyncio
import email.utils
import json
import re
import time

import stub_modelriver_answers as answers
import stub_modelriver_jobs as jobs
import stub_modelriver_socket as phoenix
import stub_modelriver_sse as sse
import stub_modelriver_webhook as webhook
from stub_modelriver_answers import Refused
from stub_modelriver_core import ClientGone, Switches

MAX_BODY = 4 << 20

WORDS = {
    "rate429", "flaky", "slow", "hold", "hold_post", "badjson", "truncate", "html500", "reset", "close_http",
    "empty200", "text200", "chunked", "drip", "lose_answer", "retry_after", "retry_after_ms", "retry_date",
    "should_retry", "shape", "event",
}
ALL_WORDS = WORDS | answers.WORDS | sse.WORDS | jobs.WORDS | phoenix.WORDS | webhook.WORDS

KINDS = {
    400: ("invalid_request_error", "invalid_request_error", "Invalid request"),
    401: ("authentication_error", "invalid_api_key", "Invalid API key provided"),
    403: ("permission_error", "forbidden", "This API key has no access to this project"),
    404: ("invalid_request_error", "model_not_found", "Not found"),
    408: ("timeout_error", "request_timeout", "Request timed out"),
    409: ("invalid_request_error", "conflict", "Conflict"),
    413: ("invalid_request_error", "request_too_large", "Request body too large"),
    422: ("invalid_request_error", "invalid_request_error", "Unprocessable request"),
    429: ("rate_limit_error", "rate_limit_exceeded", "Rate limit exceeded"),
    500: ("server_error", "internal_error", "Internal server error"),
    502: ("upstream_error", "upstream_error", "Provider error"),
    503: ("server_error", "service_unavailable", "Service unavailable"),
    504: ("upstream_error", "upstream_timeout", "Upstream timeout"),
}

HTML_500 = "<!DOCTYPE html><html><head><title>500</title></head><body><h1>Internal Server Error</h1></body></html>"


# errors ------------------------------------------------------------------------------------------------------
def error_body(shape, message, kind, code, param=None):
    """(body, content type) of an error in one of the shapes that are known, or none at all."""
    json_kind = "application/json; charset=utf-8"
    if shape == "text":
        return message, "text/plain"
    if shape == "html":
        return HTML_500, "text/html"
    if shape == "empty":
        return "", json_kind
    value = {"string": {"error": code, "message": message}, "message": {"message": message},
             "errors": {"errors": {"detail": message}}, "list": ["nothing", "known"]}.get(shape)
    if value is None:
        value = {"error": {"message": message, "type": kind, "code": code}}
        if param or kind == "invalid_request_error":
            value["error"]["param"] = param
    return json.dumps(value), json_kind


def retry_headers(switches):
    headers = []
    for word, name in (("retry_after", "Retry-After"), ("retry_after_ms", "retry-after-ms"),
                       ("should_retry", "x-should-retry")):
        if word in switches:
            headers.append((name, switches.text(word, "")))
    if "retry_date" in switches:
        when = time.time() + switches.argument("retry_date", 0, 1)
        headers.append(("Retry-After", email.utils.formatdate(when, usegmt=True)))
    return headers


class Exchange:
    """One request of the API and the means to answer it."""

    def __init__(self, hub, conn, request):
        self.hub, self.conn, self.request = hub, conn, request
        self.switches = Switches("")
        self.body = None

    async def send(self, status, body, headers=(), kind="application/json; charset=utf-8"):
        """An answer, in the transfer that the switches ask for."""
        body = body.encode() if isinstance(body, str) else body
        headers = [("x-request-id", "req_%d" % self.hub.next_number("request")), *headers]
        if "chunked" in self.switches or "drip" in self.switches:
            return await self.send_in_pieces(status, body, [("Content-Type", kind), *headers])
        return await self.conn.answer(status, body, headers, kind)

    async def send_in_pieces(self, status, body, headers):
        step = self.switches.argument("drip", 0, 1) if "drip" in self.switches else 7
        if "chunked" in self.switches:
            pieces = [body[at:at + 7] for at in range(0, len(body), 7)] + [b""]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            headers = [*headers, ("Transfer-Encoding", "chunked")]
        else:
            headers = [*headers, ("Content-Length", len(body))]
        await self.conn.send_split(self.conn.head(status, headers) + body, step)
        return True

    async def send_json(self, value, status=200, headers=()):
        return await self.send(status, json.dumps(value, ensure_ascii=False), headers)

    async def fail(self, status, message=None, kind=None, code=None, param=None, headers=()):
        usual = KINDS.get(status, ("server_error", "error", "Status %d" % status))
        body, content_type = error_body(self.switches.text("shape", "openai"), message or usual[2], kind or usual[0],
                                        code or usual[1], param)
        return await self.send(status, body, [*retry_headers(self.switches), *headers], content_type)

    async def misbehave(self, how, body=b'{"id": "chatcmpl-stub", "choices": []}', headers=()):
        """One of the answers that no client likes."""
        if how == "reset":
            return self.conn.abort()
        if how == "close_http":
            return False
        if how == "badjson":
            return await self.send(200, body[:-max(1, len(body) // 3)] + b"}]", headers)
        if how == "empty200":
            return await self.send(200, b"", headers)
        if how == "text200":
            return await self.send(200, b"all is well", headers, "text/plain")
        if how == "truncate":
            head = self.conn.head(200, [("Content-Type", "application/json"), ("Content-Length", len(body)), *headers])
            await self.conn.send(head + body[:len(body) // 2])
            return False
        return await self.send(500, HTML_500, headers, "text/html")


MISBEHAVIOURS = ("reset", "close_http", "badjson", "empty200", "text200", "truncate", "html500")


# who and what ------------------------------------------------------------------------------------------------
def authorize(exchange):
    """Raises Refused unless the request carries the project's key."""
    given = exchange.request.header("authorization") or ""
    keys = exchange.hub.keys
    if given == "Bearer " + keys["forbidden"]:
        raise Refused(403, KINDS[403][2], KINDS[403][0], KINDS[403][1])
    if given != "Bearer " + keys["good"]:
        exchange.hub.ledger.count("unauthorized")
        raise Refused(401, KINDS[401][2], KINDS[401][0], KINDS[401][1])


def parse_body(exchange):
    if len(exchange.request.body) > MAX_BODY:
        raise Refused(413, KINDS[413][2], KINDS[413][0], KINDS[413][1])
    try:
        body = json.loads(exchange.request.body)
    except ValueError:
        raise Refused(400, "The request body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise Refused(400, "The request body must be a JSON object.")
    return body


def known(switches):
    return all(word in ALL_WORDS or re.fullmatch(r"fail\d{3}", word) for word in switches.words)


def find_workflow(hub, body, endpoint):
    """The switches of the workflow that a request names."""
    name = body.get("model") if endpoint == "chat" else body.get("workflow")
    if name is None and endpoint != "chat":
        if not (isinstance(body.get("provider"), str) and isinstance(body.get("model"), str)):
            raise Refused(400, "Missing required parameter: 'workflow'.", param="workflow")
        switches = Switches(body["model"])
        return switches if known(switches) else Switches("echo")
    if not isinstance(name, str) or not name:
        param = "model" if endpoint == "chat" else "workflow"
        raise Refused(400, "Missing required parameter: '%s'." % param, param=param)
    switches = Switches(hub.aliases.get(name, name))
    if not known(switches):
        raise Refused(404, "Workflow '%s' does not exist. Create it in the console first." % name,
                      code="model_not_found", param="model")
    if name in hub.aliases:
        switches.name = name
    return switches


# one call ----------------------------------------------------------------------------------------------------
async def ordered_failure(exchange):
    """The failure that the switches ask for: what `misbehave` or `fail` returned, or None when there is none."""
    switches, ledger = exchange.switches, exchange.hub.ledger
    if "flaky" in switches:
        how = switches.argument("flaky", 1, "503")
        if ledger.count("flaky:" + switches.name) <= switches.argument("flaky", 0, 1):
            if how == "200":
                return await exchange.send_json(answers.provider_failure(switches.name, {}))
            return await (exchange.fail(int(how)) if how.isdigit() else exchange.misbehave(how))
    if "rate429" in switches:
        wait = switches.text("rate429")
        return await exchange.fail(429, headers=[("Retry-After", wait)] if wait else [])
    for word in switches.words:
        if word.startswith("fail") and word[4:].isdigit() and word != "fail200":
            return await exchange.fail(int(word[4:]))
    for word in ("reset", "close_http", "html500"):
        if word in switches:
            return await exchange.misbehave(word)
    return None


async def idempotent(exchange, endpoint):
    """An answer kept under the request's Idempotency-Key, sent again; None when there is none."""
    hub, key = exchange.hub, exchange.request.header("idempotency-key")
    if not key:
        return None
    hub.ledger.count("idempotency:" + key)
    kept = hub.idempotent.get((endpoint, key))
    if kept is None:
        hub.idempotent[endpoint, key] = (exchange.request.body, None)
        return None
    if kept[0] != exchange.request.body:
        return await exchange.fail(409, "This idempotency key was used with another request",
                                   code="idempotency_conflict")
    if kept[1] is None:
        return await exchange.fail(409, "A request with this idempotency key is being processed",
                                   code="idempotency_in_flight")
    hub.ledger.count("replayed")
    status, body, headers = kept[1]
    return await exchange.send(status, body, [*headers, ("Idempotent-Replayed", "true")])


def keep_answer(exchange, endpoint, answer):
    """Keeps a good answer under the request's Idempotency-Key, or (None) forgets that one was begun."""
    key = exchange.request.header("idempotency-key")
    if key and answer is not None:
        exchange.hub.idempotent[endpoint, key] = (exchange.request.body, answer)
    elif key and exchange.hub.idempotent.get((endpoint, key), (None, True))[1] is None:
        del exchange.hub.idempotent[endpoint, key]


async def deliver(exchange, endpoint, value, status=200, headers=()):
    """A good answer, spoilt where the switches say so."""
    switches = exchange.switches
    body = json.dumps(value, ensure_ascii=False).encode()
    keep_answer(exchange, endpoint, (status, body, headers))
    if "lose_answer" in switches:
        lost = exchange.hub.ledger.count("lose_answer:" + switches.name)
        if lost <= switches.argument("lose_answer", 0, 1):
            return exchange.conn.abort()
    for word in ("badjson", "truncate", "empty200", "text200"):
        if word in switches:
            return await exchange.misbehave(word, body, headers)
    return await exchange.send(status, body, headers)


async def wait_as_told(exchange, endpoint):
    switches, conn, ledger = exchange.switches, exchange.conn, exchange.hub.ledger
    if "hold_post" in switches:
        await conn.pause(ledger.hold(switches.text("hold_post", "hold_post")))
    if endpoint != "async":
        if "hold" in switches:
            await conn.pause(ledger.hold(switches.text("hold", "hold")))
        if "slow" in switches:
            await conn.pause(asyncio.sleep(switches.argument("slow", 0, 100) / 1000))


async def produce(exchange, endpoint):
    """A call past authorization and idempotency."""
    switches, body = exchange.switches, exchange.body
    failed = await ordered_failure(exchange)
    if failed is not None:
        return failed
    answers.check_messages(body)
    await wait_as_told(exchange, endpoint)
    exchange.hub.ledger.count("run:" + switches.name)
    if endpoint == "async":
        status, value = jobs.create(exchange.hub, exchange.request, body, switches)
        return await deliver(exchange, endpoint, value, status)
    if "event" in switches or body.get("events"):
        raise Refused(400, "Workflow '%s' is event-driven and not supported here: use the async API."
                      % switches.name, code="model_not_supported", param="model")
    if "fail200" in switches:
        failure = answers.provider_failure(switches.name, answers.cache_fields(body, switches))
        return await deliver(exchange, endpoint, failure)
    answer = answers.run(body, switches)
    if body.get("stream") is True and "plain" not in switches:
        return await stream(exchange, answer)
    if endpoint == "ai" and body.get("format") == "wrapped":
        return await deliver(exchange, endpoint, answer.wrapped())
    return await deliver(exchange, endpoint, answer.completion(), 200, answer.headers())


async def stream(exchange, answer):
    headers = [("x-request-id", "req_%d" % exchange.hub.next_number("request")), *answer.headers()]
    try:
        return await sse.stream(exchange.conn, answer, exchange.body, exchange.switches, headers)
    except ClientGone:
        exchange.hub.ledger.count("gone:" + exchange.switches.name)
        raise


async def call(exchange, endpoint):
    authorize(exchange)
    exchange.body = parse_body(exchange)
    exchange.switches = find_workflow(exchange.hub, exchange.body, endpoint)
    replayed = await idempotent(exchange, endpoint)
    if replayed is not None:
        return replayed
    try:
        return await produce(exchange, endpoint)
    except ClientGone:
        exchange.hub.ledger.count("gone")
        raise
    finally:
        keep_answer(exchange, endpoint, None)


async def reconnect(exchange):
    if exchange.request.path.startswith("/v1/") or exchange.request.header("authorization"):
        authorize(exchange)
    exchange.body = parse_body(exchange)
    status, value = jobs.reconnect(exchange.hub, exchange.request, exchange.body)
    return await (exchange.fail(status) if value is None else exchange.send_json(value, status))


async def callback(exchange, channel_id):
    authorize(exchange)
    status, value = jobs.take_callback(exchange.hub, channel_id, parse_body(exchange))
    return await exchange.send_json(value, status)


# routes ------------------------------------------------------------------------------------------------------
async def route(exchange):
    request = exchange.request
    path = request.path[4:] if request.path.startswith("/api/v1/") else request.path
    if request.method == "POST":
        endpoint = {"/v1/ai": "ai", "/v1/ai/async": "async", "/v1/chat/completions": "chat"}.get(path)
        if endpoint:
            return await call(exchange, endpoint)
        if path == "/v1/ai/reconnect":
            return await reconnect(exchange)
        if path.startswith("/v1/callback/"):
            return await callback(exchange, path.rpartition("/")[2])
    if path == "/socket/websocket":
        return await phoenix.serve(exchange.hub, exchange.conn, request)
    return await exchange.send_json({"errors": {"detail": "Not Found"}}, 404)


async def serve(hub, conn):
    """All requests of one connection."""
    while True:
        request = await conn.read_request()
        hub.ledger.record(request)
        exchange = Exchange(hub, conn, request)
        try:
            lives = await route(exchange)
        except Refused as refused:
            lives = await exchange.fail(refused.status, refused.message, refused.kind, refused.code, refused.param)
        if not lives or (request.header("connection") or "").lower() == "close":
            return
