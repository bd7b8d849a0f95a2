"""The stand-in's own shapes, asked for with requests and websockets: one JSON line per question, {"name", "value"}.

Arguments: the stand-in's start-up line, and the folder of its program.
"""

import asyncio
import hashlib
import hmac
import http.server
import json
import queue
import sys
import threading
import urllib.parse

import requests
import websockets

info = json.loads(sys.argv[1])
sys.path.insert(0, sys.argv[2])

import stub_modelriver_webhook                                          # noqa: E402

API = "http://127.0.0.1:%d" % info["http"]
MESSAGES = [{"role": "user", "content": "Hello from here"}]
KEY = {"Authorization": "Bearer " + info["keys"]["good"]}


def post(path, body=None, headers=None, **options):
    return requests.post(API + path, json=body, headers=KEY if headers is None else headers, timeout=20, **options)


def ai(workflow, path="/v1/ai", headers=None, **fields):
    return post(path, dict({"workflow": workflow, "messages": MESSAGES}, **fields), headers)


def control(path, **query):
    return requests.get("http://127.0.0.1:%d%s" % (info["control"], path), params=query, timeout=20).json()


def full(answer):
    """Status, the headers that matter, and the body, decoded where it is JSON."""
    try:
        body = answer.json()
    except ValueError:
        body = answer.text
    names = [name for name in answer.headers if name.lower().startswith(("x-", "retry", "content-type", "idempotent"))]
    return {"status": answer.status_code, "headers": {name.lower(): answer.headers[name] for name in names},
            "body": body}


def broken(call, *arguments, **options):
    try:
        return full(call(*arguments, **options))
    except requests.RequestException as error:
        return {"raised": type(error).__name__}


# plain answers -----------------------------------------------------------------------------------------------
def wrapped():
    return full(ai("structured+failover", format="wrapped", metadata={"audience": "enterprise customers"}, user_id="u"))


def without_workflow():
    fields = {"provider": "xai", "model": "grok-9", "messages": MESSAGES, "format": "wrapped"}
    return [full(post("/v1/ai", fields)), full(post("/v1/ai", {"messages": MESSAGES, "model": "grok-9"}))]


def inline_schema():
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}
    answers = [ai("echo", format="wrapped", structured_output_schema=schema), ai("echo", format="wrapped",
                                                                               response_format=schema)]
    return [answer.json()["data"] for answer in answers]


def idempotency():
    key = dict(KEY, **{"Idempotency-Key": "k1"})
    first, second = (ai("job", "/v1/ai/async", key).json() for _ in range(2))
    conflict = ai("echo", "/v1/ai/async", key).status_code
    lost = [broken(ai, "job+lose_answer", "/v1/ai/async", dict(KEY, **{"Idempotency-Key": "k2"})) for _ in range(2)]
    counters = control("/stats")["counters"]
    return {"same": first["channel_id"] == second["channel_id"], "conflict": conflict, "lost": lost[0],
            "found": lost[1]["status"], "runs": counters["run:job+lose_answer"], "counted": counters["idempotency:k1"]}


def held():
    answers = queue.Queue()
    threading.Thread(target=lambda: answers.put(ai("echo+hold:h1").json())).start()
    waited = control("/wait", key="h1", waiting=1)["timeout"]
    control("/release", key="h1")
    return {"timeout": waited, "id": answers.get(timeout=10)["id"]}



def raw_stream(form):
    answer = ai("stream" + form, stream=True)
    return {"text": answer.content.decode("utf-8"), "type": answer.headers["content-type"]}


def stall():
    body = {"workflow": "stream+stall:2:s1", "messages": MESSAGES, "stream": True}
    answer = requests.post(API + "/v1/ai", json=body, headers=KEY, stream=True, timeout=20)
    lines = answer.iter_lines()
    before = [line for line, _ in zip(lines, range(5)) if line]
    waited = control("/wait", key="s1", waiting=1)["timeout"]
    control("/release", key="s1")
    after = [line for line in lines if line]
    return {"timeout": waited, "before": len(before), "after": len(after), "last": after[-1].decode()}


# jobs --------------------------------------------------------------------------------------------------------
def job(workflow, **fields):
    return ai(workflow, "/v1/ai/async", **fields).json()


def socket_url(answer):
    return answer["websocket_url"] + "/websocket?vsn=2.0.0&token=" + urllib.parse.quote(answer["ws_token"], safe="")


async def joined(answer, socket):
    await socket.send(json.dumps(["1", "1", answer["websocket_channel"], "phx_join", {}]))


async def conversation(workflow, count):
    """The first frames after a join, or how the socket ended."""
    answer, frames = job(workflow), []
    async with websockets.connect(socket_url(answer), max_size=None, compression=None) as socket:
        await joined(answer, socket)
        try:
            for _ in range(count):
                frame = await asyncio.wait_for(socket.recv(), 10)
                frames.append(json.loads(frame) if isinstance(frame, str) else "binary")
        except websockets.ConnectionClosed as closed:
            return {"frames": frames, "sent": closed.sent.code if closed.sent else None,
                    "received": closed.rcvd.code if closed.rcvd else None}
    return {"frames": frames}


async def upgrade(url):
    try:
        async with websockets.connect(url, compression=None):
            return 101
    except websockets.InvalidStatus as error:
        return error.response.status_code
    except Exception as error:
        return type(error).__name__


def upgrades():
    answer = job("job")
    url = socket_url(answer)
    tries = {"good": url, "spent": url, "unknown": url.replace("wst_", "x"), "vsn": socket_url(job("job")).replace(
        "vsn=2.0.0", "vsn=1.0.0"), "path": url.replace("/socket/websocket", "/socket"),
        "status": socket_url(job("job+upgrade:503")), "accept": socket_url(job("job+upgrade:bad_accept"))}
    seen = {name: asyncio.run(upgrade(address)) for name, address in tries.items()}
    seen["plain"] = requests.get(url.replace("ws:", "http:"), timeout=20).status_code
    seen["spoken"] = requests.get(url.replace("ws:", "http:"), headers={
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "eA=="},
        timeout=20).text
    return seen


async def many_sockets(count):
    """So many at once: each joins a job that is held, then all get their result."""
    answers = [job("job+hold:crowd") for _ in range(count)]
    sockets = await asyncio.gather(*(websockets.connect(socket_url(one), compression=None, open_timeout=60)
                                    for one in answers))
    await asyncio.gather(*(joined(answer, socket) for answer, socket in zip(answers, sockets)))
    await asyncio.gather(*(socket.recv() for socket in sockets))
    control("/release", key="crowd")
    results = [json.loads(one) for one in await asyncio.gather(*(socket.recv() for socket in sockets))]
    await asyncio.gather(*(socket.close() for socket in sockets))
    return {"answered": sum(one[4]["status"] == "success" for one in results),
            "own": sum(one[4]["channel_id"] == answer["channel_id"] for one, answer in zip(results, answers))}


async def controlled():
    """What control can do to an open socket; the last frames of the channel, and the close code."""
    answer, seen = job("job+hold:never"), []
    channel_id = answer["channel_id"]
    orders = (("/push", {"event": "x", "payload": '{"a":1}'}), ("/push", {"event": "y", "own": 1}),
              ("/raw", {"text": "[]"}), ("/crash", {}))
    async with websockets.connect(socket_url(answer), compression=None) as socket:
        await joined(answer, socket)
        await socket.recv()
        for path, query in orders:
            control(path, channel_id=channel_id, **query)
            seen.append(json.loads(await asyncio.wait_for(socket.recv(), 10)))
        number = [one["number"] for one in control("/sockets") if one["channel_id"] == channel_id][0]
        control("/kill", code=1001, socket=number)
        await socket.wait_closed()
        return {"events": [one[3] if one else "raw" for one in seen], "refs": [one[0] for one in seen if one and one[0]],
                "code": socket.close_code}


def gone():
    """A client that leaves while it waits is counted."""
    try:
        requests.post(API + "/v1/ai", json={"workflow": "echo+hold:gone", "messages": MESSAGES}, headers=KEY,
                      timeout=0.2)
    except requests.Timeout:
        return control("/wait", key="gone", counted=1)["timeout"]


def reconnects():
    known = job("job")
    asked = {"channel_id": known["channel_id"]}
    fresh = post("/v1/ai/reconnect", asked).json()
    other_key = {"Authorization": "Bearer " + info["keys"]["forbidden"]}

    def ordered(switches):
        return post("/v1/ai/reconnect", {"channel_id": job(switches)["channel_id"]})
    return {
        "keys": sorted(fresh), "fresh": fresh["ws_token"] != known["ws_token"],
        "opens": asyncio.run(upgrade(socket_url(fresh))),
        "statuses": {
            "no_key": post("/v1/ai/reconnect", asked, {}).status_code,
            "relay": post("/api/v1/ai/reconnect", asked, {}).status_code,
            "other": post("/v1/ai/reconnect", asked, other_key).status_code,
            "unknown": post("/v1/ai/reconnect", {"channel_id": "x"}).status_code,
            "ordered": ordered("job+reconnect:500").status_code},
        "no_token": sorted(ordered("job+reconnect:no_token").json())}


def token_ends():
    """An expired token, and one whose time control ends."""
    late = job("job")
    control("/expire", channel_id=late["channel_id"])
    return [asyncio.run(upgrade(socket_url(one))) for one in (job("job+expired"), job("job+spent"), late)]


def over_tls():
    """The same over TLS, where the socket's address says wss."""
    answer = requests.post("https://127.0.0.1:%d/v1/ai/async" % info["tls"], headers=KEY, verify=info["ca_file"],
                           json={"workflow": "job", "messages": MESSAGES}, timeout=20).json()
    return answer["websocket_url"] == "wss://127.0.0.1:%d/socket" % info["tls"]


# webhooks and callbacks --------------------------------------------------------------------------------------
class Receiver:
    """A backend: keeps what comes, answers with the statuses given (200 after them)."""

    def __init__(self, *statuses):
        self.got, statuses = queue.Queue(), list(statuses)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(handler):
                body = handler.rfile.read(int(handler.headers["content-length"]))
                handler.send_response(statuses.pop(0) if statuses else 200)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                self.got.put((dict(handler.headers), body))

            def log_message(handler, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d/hook" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next(self):
        return self.got.get(timeout=10)


def mac(message):
    return hmac.new(info["webhook_secret"].encode(), message, hashlib.sha256).hexdigest()


def webhook(switches, key="signature"):
    """One delivery and whether each scheme's signature fits it."""
    receiver = Receiver()
    job("structured" + switches, webhook_url=receiver.url)
    headers, body = receiver.next()
    lower = {name.lower(): value for name, value in headers.items()}
    given = lower.get("mr-signature") or lower.get("x-modelriver-signature")
    stamp = (lower.get("mr-timestamp") or lower.get("x-modelriver-timestamp", "")).encode()
    start = body.index(b'"data":') + 7
    _, length = json.JSONDecoder().raw_decode(body[start:].decode())
    data = body[start:].decode()[:length].encode()
    fits = [name for name, message in (("A", body), ("B", stamp + b"." + data), ("C", stamp + b"." + body))
            if given == mac(message)]
    return {"headers": sorted(name for name in lower if name.startswith(("mr-", "x-"))), "fits": fits,
            "body": json.loads(body)}


def webhook_retries():
    receiver = Receiver(500, 404, 302)
    job("echo+id:retries", webhook_url=receiver.url)
    bodies = [receiver.next()[1] for _ in range(4)]
    control("/wait", key="delivered:echo+id:retries", counted=1)
    tries = [(one["attempt"], one["status"]) for one in control("/deliveries") if one["url"] == receiver.url]
    return {"same": len(set(bodies)), "tries": tries}


def webhook_dead():
    url = "http://127.0.0.1:%d/" % info["refused"]
    job("echo+attempts:3", webhook_url=url)
    waited = control("/wait", key="dead:echo+attempts:3", counted=1)["timeout"]
    return {"timeout": waited, "tries": [one["status"] for one in control("/deliveries") if one["url"] == url]}


def event_driven(switches=""):
    """The webhook that wants a callback, the callback's refusals, its success and what follows."""
    receiver = Receiver()
    answer = job("event:movie" + switches, webhook_url=receiver.url, events=["movie"], user_id="u1")
    headers, body = receiver.next()
    first = json.loads(body)
    url = first.get("callback_url") or headers["X-ModelRiver-Callback-Url"]
    calls = [requests.post(url, json=one, headers=KEY, timeout=20) for one in (
        {"data": None}, {"data": []}, {}, {"data": {"ok": True}, "task_id": "t1"}, {"data": {"ok": True}})]
    no_key = requests.post(url, json={"data": {}}, timeout=20).status_code
    last = json.loads(receiver.next()[1])
    return {"first": first, "statuses": [call.status_code for call in calls], "no_key": no_key, "last": last,
            "unknown": post("/v1/callback/none", {"data": {}}).status_code,
            "header": "X-ModelRiver-Callback-Url" in headers,
            "own_url": url == API + "/v1/callback/" + answer["channel_id"]}


def callback_ends():
    """The backend's failure, and a callback that comes too late."""
    failed, late = (job("event:movie+hold:%s" % key) for key in ("c1", "c2"))
    early = post("/v1/callback/" + failed["channel_id"], {"data": {}}).status_code
    control("/release", key="c1"), control("/release", key="c2")
    reported = post("/v1/callback/" + failed["channel_id"], {"error": "no_stock", "message": "Sold out"}).status_code
    control("/lapse", channel_id=late["channel_id"])
    slow = job("event:movie+window:1")
    control("/wait", key="done:event:movie+window:1", counted=1)
    too_late = [post("/v1/callback/" + one["channel_id"], {"data": {}}).status_code for one in (late, slow)]

    async def last_of(answer):
        async with websockets.connect(socket_url(answer), compression=None) as socket:
            await joined(answer, socket)
            return [json.loads(await asyncio.wait_for(socket.recv(), 10))[4] for _ in range(3)][2]
    return {"early": early, "reported": reported, "too_late": too_late, "failed": asyncio.run(last_of(failed)),
            "late": asyncio.run(last_of(late))}


def vectors():
    """The published test vectors."""
    body = ('{"type":"task.completed","channel_id":"550e8400-e29b-41d4-a716-446655440000","status":"success",'
            '"data":{"b":1,"a":"é"},"meta":{"workflow":"w1"}}').encode()
    return {scheme: stub_modelriver_webhook.signature("whsec_test_0001", scheme, 1767616496, body, '{"b":1,"a":"é"}'
                                                      .encode()) for scheme in "ABC"}


QUESTIONS = {
    "raw": lambda: full(ai("echo")), "wrapped": wrapped, "without_workflow": without_workflow,
    "inline_schema": inline_schema, "fail200": lambda: full(ai("fail200")), "anthropic": lambda: full(ai("anthropic")),
    "offline": lambda: [full(ai("offline", format=form)) for form in ("raw", "wrapped")],
    "testmode": lambda: full(ai("testmode", format="wrapped", user_id="u")),
    "cached_data": lambda: full(ai("echo+cached_data", format="wrapped", user_id="u")),
    "image": lambda: full(ai("image", format="wrapped")), "bare": lambda: full(ai("bare")),
    "alias": lambda: full(ai("marketing-summary", format="wrapped")),
    "no_messages": lambda: full(post("/v1/ai", {"workflow": "echo"})),
    "not_json": lambda: full(requests.post(API + "/v1/ai", data="{", headers=KEY, timeout=20)),
    "no_route": lambda: full(requests.get(API + "/v1/ai/jobs/1", headers=KEY, timeout=20)),
    "prefix": lambda: ai("echo", "/api/v1/ai").status_code,
    "shapes": lambda: {shape: full(ai("fail503+shape:" + shape)) for shape in (
        "openai", "string", "message", "errors", "text", "html", "empty", "list")},
    "retry_headers": lambda: full(ai("fail429+retry_after:1.5+retry_after_ms:20+should_retry:true"))["headers"],
    "retry_date": lambda: full(ai("fail503+retry_date:60"))["headers"],
    "broken": lambda: {how: broken(ai, how) for how in ("reset", "close_http", "badjson", "empty200", "text200",
                                                        "truncate", "html500")},
    "flaky": lambda: [full(ai("flaky:2:500+id:shapes"))["status"] for _ in range(3)],
    "idempotency": idempotency, "held": held,
    "streams": lambda: {form: raw_stream(form) for form in ("", "+crlf", "+cr", "+bom", "+unterminated", "+multiline",
                                                            "+usage", "+midfail:choice", "+cut:1", "+nodone")},
    "stream_fail200": lambda: full(ai("fail200", stream=True)), "stream_plain": lambda: full(ai("plain", stream=True)),
    "stall": stall,
    "async": lambda: full(ai("job", "/v1/ai/async")), "async_short": lambda: full(ai("job+short", "/v1/ai/async")),
    "async_bare": lambda: full(ai("job+short+no_token+http:202", "/v1/ai/async")),
    "async_urls": lambda: {kind: job("job+ws_url:" + kind).get("websocket_url", "")[len(API) - 2:]
                           for kind in ("slash", "full", "bare", "none")},
    "async_testmode": lambda: full(ai("testmode", "/v1/ai/async"))["body"]["test_mode"],
    "async_event": lambda: full(ai("event:a", "/v1/ai/async", events=["b"])),
    "upgrades": upgrades, "reconnects": reconnects, "token_ends": token_ends, "tls": over_tls,
    "controlled": lambda: asyncio.run(controlled()), "gone": gone,
    "frames": lambda: {kind: asyncio.run(conversation("job+frame:" + kind, 3)) for kind in (
        "masked", "rsv", "opcode", "bad_utf8", "cut_utf8", "big_ping", "split_ping", "orphan", "interrupted",
        "close_short", "close_code", "close_utf8", "cut")},
    "company": lambda: asyncio.run(conversation("job+binary+ping+foreign_ref+stray+unknown_events+own_ref", 7)),
    "lost": lambda: asyncio.run(conversation("job+early:lost+idle:500", 2)),
    "crowd": lambda: asyncio.run(many_sockets(600)),
    "webhooks": lambda: {name: webhook(name) for name in (
        "", "+scheme:B", "+scheme:C", "+scheme:B+odd_json", "+badsig", "+nosig", "+observability")},
    "webhook_retries": webhook_retries, "webhook_dead": webhook_dead,
    "event_driven": event_driven, "callback_header": lambda: event_driven("+callback_header+inside_data"),
    "callback_ends": callback_ends, "vectors": vectors,
}


if __name__ == "__main__":
    for _name, _question in QUESTIONS.items():
        print(json.dumps({"name": _name, "value": _question()}), flush=True)
