"""Webhooks of the ModelRiver stand-in: envelopes, the three ways of signing, delivery with compressed delays."""

import asyncio
import datetime
import hashlib
import hmac
import json
import time
import urllib.parse

# The real delays before attempts 1–8, in seconds, and how much shorter they are here.
DELAYS = (0, 5, 30, 120, 600, 1800, 3600, 7200)
SHORTER = 10000
ATTEMPT_SECONDS = 10

WORDS = {"scheme", "badsig", "nosig", "stale", "callback_header", "inside_data", "observability", "odd_json", "twice",
         "attempts"}


# envelopes ---------------------------------------------------------------------------------------------------
def now():
    return int(time.time())


def now_text():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def callback_url(job):
    return "%s/v1/callback/%s" % (job.http_origin, job.channel_id)


def completed(job, payload):
    """The last message about a job."""
    failed = payload.get("status") not in ("success", "completed", "SUCCESS", "ok")
    envelope = {"type": "task.completed", "workflow": job.answer.workflow, "status": "error" if failed else "success",
                "channel_id": job.channel_id, "data": payload.get("data"), "meta": job.answer.webhook_meta(),
                job.answer.cached_name: job.answer.customer_data, "timestamp": now_text()}
    if failed:
        envelope["error"] = payload.get("error") or {"message": payload.get("message", "Unknown error")}
    if "observability" in job.switches:
        envelope = {"type": "task.completed", "data": {
            "channel_id": job.channel_id, "request_id": "req_stub", "model": job.answer.model,
            "provider": job.answer.provider, "response": job.answer.completion()}}
    return envelope


def ai_generated(job):
    """The message that asks the backend for its callback."""
    fields = {"type": "task.ai_generated", "event": job.event_name, "ai_response": {"data": job.answer.job_data()},
              "callback_url": callback_url(job), "callback_required": True,
              job.answer.cached_name: job.answer.customer_data, "meta": job.answer.webhook_meta()}
    if "callback_header" in job.switches:
        del fields["callback_url"]          # it comes in a header, see `sealed`
    if "inside_data" in job.switches:
        outside = {name: fields.pop(name) for name in ("callback_url",) if name in fields}
        return dict({"channel_id": job.channel_id, "timestamp": now_text(), "data": fields}, **outside)
    return dict(fields, channel_id=job.channel_id, timestamp=now_text())


def bytes_of(envelope, odd):
    """(body, bytes of its `data` member or None). `odd` spaces and escapes that encoding anew would not give."""
    data = None
    if envelope.get("data") is not None:
        data = json.dumps(envelope["data"], ensure_ascii=odd, separators=(" , ", " :  ") if odd else (",", ":"))
        envelope = dict(envelope, data="@data@")
    body = json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))
    return body.replace('"@data@"', data or "", 1).encode(), data and data.encode()


# signatures --------------------------------------------------------------------------------------------------
def signature(secret, scheme, timestamp, body, data):
    """Lower-case hex. A: the body; B: time, dot, the data member (C without one); C: time, dot, body."""
    signed = body
    if scheme in ("B", "C"):
        signed = b"%d." % timestamp + (data if scheme == "B" and data is not None else body)
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def signed_headers(secret, scheme, timestamp, body, data, channel_id):
    mac = signature(secret, scheme, timestamp, body, data)
    if scheme == "A":
        return [("mr-signature", mac), ("mr-timestamp", str(timestamp)), ("mr-channel-id", channel_id)]
    return [("X-ModelRiver-Signature", mac), ("X-ModelRiver-Timestamp", str(timestamp))]


# delivery ----------------------------------------------------------------------------------------------------
async def post(url, body, headers):
    """The status of one POST; 0 when there was no answer."""
    parts = urllib.parse.urlsplit(url)
    target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    head = ["POST %s HTTP/1.1" % target, "Host: " + parts.netloc, "Content-Type: application/json",
            "Content-Length: %d" % len(body), "Connection: close"] + ["%s: %s" % pair for pair in headers]
    writer = None
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
        writer.write(("\r\n".join(head) + "\r\n\r\n").encode() + body)
        await writer.drain()
        return int((await reader.readline()).split(b" ")[1])
    except (OSError, ValueError, IndexError):
        return 0
    finally:
        if writer:
            writer.close()


def sealed(job, envelope):
    """(body, headers) as they are sent."""
    switches = job.switches
    body, data = bytes_of(envelope, "odd_json" in switches)
    timestamp = now() - (switches.argument("stale", 0, 3600) if "stale" in switches else 0)
    secret = "not the secret" if "badsig" in switches else job.hub.webhook_secret
    headers = signed_headers(secret, switches.text("scheme", "A"), timestamp, body, data, job.channel_id)
    if "nosig" in switches:
        headers = [pair for pair in headers if "signature" not in pair[0].lower()]
    if "callback_header" in switches and job.state == "ai_generated":
        headers.append(("X-ModelRiver-Callback-Url", callback_url(job)))
    return body, headers


async def deliver(job, sealed_message, kind):
    """Until the receiver answers 2xx, or eight attempts failed; `twice` delivers again after the success."""
    (body, headers), hub, url, switches = sealed_message, job.hub, job.webhook_url, job.switches
    attempts = switches.argument("attempts", 0, len(DELAYS))
    for _ in range(2 if "twice" in switches else 1):
        for attempt, delay in enumerate(DELAYS[:attempts], 1):
            await asyncio.sleep(delay / SHORTER)
            try:
                status = await asyncio.wait_for(post(url, body, headers), ATTEMPT_SECONDS)
            except asyncio.TimeoutError:
                status = 0
            hub.deliveries.append({"url": url, "type": kind, "attempt": attempt, "status": status,
                                   "body": body.decode(), "headers": dict(headers)})
            if 200 <= status < 300:
                hub.ledger.count("delivered:" + switches.name)
                break
        else:
            hub.ledger.count("dead:" + switches.name)
            return
