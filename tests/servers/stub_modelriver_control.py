"""The control listener of the ModelRiver stand-in: questions about it, and orders that no workflow name can carry."""

import json

import stub_modelriver_webhook as webhook
from stub_modelriver_socket import close_code

WAIT_SECONDS = 10


async def wait(hub, query):
    """Whether the named counts were reached; `waiting` and `open` are compared exactly, the others are minimums."""
    ledger, key = hub.ledger, query.get("key", "hold")

    def holds():
        listener = query.get("listener", "http")
        return all((
            "open" not in query or ledger.open.get(listener, 0) == int(query["open"]),
            "accepted" not in query or ledger.accepted.get(listener, 0) >= int(query["accepted"]),
            "requests" not in query or ledger.total >= int(query["requests"]),
            "waiting" not in query or ledger.waiting.get(key, 0) == int(query["waiting"]),
            "counted" not in query or ledger.counters.get(key, 0) >= int(query["counted"]),
        ))
    reached = await ledger.wait_for(holds, WAIT_SECONDS)
    return dict(ledger.snapshot(), timeout=not reached)


async def log(hub, query):
    return [line for line in hub.ledger.requests if query.get("path") in (None, line["path"])]


async def reset(hub, _):
    hub.forget()
    return hub.ledger.snapshot()


async def release(hub, query):
    hub.ledger.release(query.get("key", "hold"))
    return hub.ledger.snapshot()


async def stats(hub, _):
    return hub.ledger.snapshot()


async def jobs(hub, _):
    return [job.described() for job in hub.jobs.values()]


async def sockets(hub, _):
    return [sock.described() for sock in hub.sockets]


async def frames(hub, query):
    return [line for line in hub.frames if query.get("way") in (None, line["way"])]


async def deliveries(hub, _):
    return hub.deliveries


async def kill(hub, query):
    """All open sockets, or the one with this number, end with a close frame of this code, `fin` or `rst`."""
    chosen = [sock for sock in hub.sockets if sock.open and query.get("socket") in (None, str(sock.number))]
    for sock in chosen:
        sock.kill(close_code(query.get("code", "rst")))
    return {"killed": len(chosen)}


async def push(hub, query):
    """An event of the test's own to all who listen to a job; `own=1`: with their join_ref."""
    job = hub.jobs[query["channel_id"]]
    payload = json.loads(query.get("payload", "{}"))
    for channel in list(job.channels):
        await channel.push(query.get("event", "response"), payload, channel.join_ref if "own" in query else None)
    return {"listeners": len(job.channels)}


async def raw(hub, query):
    """The text of a frame, or (as `hex`) bytes as they are, to all open sockets."""
    data = bytes.fromhex(query["hex"]) if "hex" in query else None
    for sock in [sock for sock in hub.sockets if sock.open]:
        await (sock.send_bytes(data) if data else sock.send_frame(1, query.get("text", "").encode()))
    return {}


async def crash(hub, query):
    """The channels of a job die with phx_error; they may be joined anew."""
    for channel in list(hub.jobs[query["channel_id"]].channels):
        channel.leave()
        await channel.sock.send_message(channel.join_ref, channel.join_ref, channel.topic, "phx_error", {})
    return {}


async def expire(hub, query):
    """The tokens of a job are too old from now on."""
    for token in hub.tokens.values():
        if query.get("channel_id") in (None, token.job.channel_id):
            token.expires = 0
    return {}


async def token(hub, query):
    """A fresh token of a job."""
    return hub.jobs[query["channel_id"]].places(fresh=True)


async def lapse(hub, query):
    """The time for the callback is over."""
    job = hub.jobs[query["channel_id"]]
    if not job.callback.done():
        job.callback.set_result(None)
    return job.described()


async def workflow(hub, query):
    """Another name for switches."""
    hub.aliases[query["name"]] = query["switches"]
    return {}


async def deliver(hub, query):
    """One webhook with this body, signed: `url`, `body`, `scheme`, `timestamp`, `secret`; answers with the status."""
    body = query["body"].encode()
    timestamp, scheme = int(query.get("timestamp", "0")) or webhook.now(), query.get("scheme", "A")
    data = query["data"].encode() if "data" in query else None
    headers = webhook.signed_headers(query.get("secret", hub.webhook_secret), scheme, timestamp, body, data,
                                     query.get("channel_id", ""))
    status = await webhook.post(query["url"], body, headers)
    return {"status": status, "headers": dict(headers)}


PATHS = {
    "/wait": wait, "/log": log, "/reset": reset, "/release": release, "/stats": stats, "/jobs": jobs,
    "/sockets": sockets, "/frames": frames, "/deliveries": deliveries, "/kill": kill, "/push": push, "/raw": raw,
    "/crash": crash, "/expire": expire, "/token": token, "/lapse": lapse, "/workflow": workflow, "/deliver": deliver,
}


async def serve(hub, conn):
    """The control requests of one connection."""
    while True:
        request = await conn.read_request()
        action = PATHS.get(request.path)
        if action is None:
            await conn.answer_json({"error": "no such path"}, 404)
            continue
        try:
            await conn.answer_json(await action(hub, request.query))
        except (KeyError, ValueError) as problem:
            await conn.answer_json({"error": repr(problem)}, 400)
