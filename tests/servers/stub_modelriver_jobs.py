"""Jobs of the ModelRiver stand-in: the async answer, one-time tokens, results, callbacks of event-driven workflows."""

import asyncio
import base64
import json
import time
import uuid

import stub_modelriver_answers as answers
import stub_modelriver_webhook as webhook
from stub_modelriver_answers import Refused

TOKEN_SECONDS = 300
CALLBACK_MS = 300000

WORDS = {
    "job", "http", "short", "topic", "no_token", "no_project", "no_channel", "ws_url", "pending", "token_ms", "spent",
    "expired", "jwt_token", "reconnect", "early", "status", "meta_only", "fail_job", "fail_bare", "error_event",
    "success_event", "old", "auto", "window", "callback_fail",
}


class Token:
    """Opens one socket, once, while it is fresh."""

    def __init__(self, job, seconds):
        self.job = job
        # characters that mean something else in a query, so that clients must encode them
        self.text = "wst_" + uuid.uuid4().hex + "/+=&%"
        self.spent = False
        self.expires = time.monotonic() + seconds

    @property
    def good(self):
        return not self.spent and time.monotonic() < self.expires


class Job:
    """One async request: runs by itself, tells every joined channel, and those that join later."""

    def __init__(self, hub, request, body, switches):
        self.hub, self.body, self.switches = hub, body, switches
        self.channel_id = str(uuid.uuid4())
        self.http_origin, self.ws_origin = request.origin("http"), request.origin("ws")
        self.answer = answers.run(body, switches)
        self.webhook_url = body.get("webhook_url")
        self.event_name = switches.text("event")
        self.published, self.channels = [], set()
        self.joins = 0
        self.state = "pending"
        self.callback = asyncio.get_running_loop().create_future()

    # the answer of the POST and of /reconnect ----------------------------------------------------------------
    def token(self, fresh=False):
        seconds = self.switches.argument("token_ms", 0, TOKEN_SECONDS * 1000) / 1000
        token = Token(self, seconds)
        if "jwt_token" in self.switches:
            token.text = self.jwt(seconds)
        if not fresh:
            token.spent = "spent" in self.switches
            token.expires = 0 if "expired" in self.switches else token.expires
        self.hub.tokens[token.text] = token
        return token.text

    def jwt(self, seconds):
        def part(value):
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
        return ".".join((part({"alg": "HS256", "typ": "JWT"}), part({
            "project_id": self.hub.project_id, "channel_id": self.channel_id, "exp": int(time.time() + seconds)}),
            base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()))

    def socket_url(self):
        ending = {"slash": "/socket/", "full": "/socket/websocket", "bare": ""}
        return self.ws_origin + ending.get(self.switches.text("ws_url"), "/socket")

    def topic(self):
        two = "short" in self.switches or self.switches.text("topic") == "2"
        return "ai_response:" + (self.channel_id if two else self.hub.project_id + ":" + self.channel_id)

    def places(self, fresh=False):
        """Where and how to listen."""
        value = {"channel_id": self.channel_id, "project_id": self.hub.project_id, "ws_token": self.token(fresh),
                 "websocket_url": self.socket_url(), "websocket_channel": self.topic()}
        if self.switches.text("ws_url") == "none":
            del value["websocket_url"]
        if "no_project" in self.switches or "short" in self.switches:
            del value["project_id"]
        return value

    def accepted(self):
        value = dict({"message": "success", "status": self.switches.text("pending", "pending")}, **self.places())
        if "short" not in self.switches:
            value["instructions"] = {"websocket": "Connect and join the channel",
                                     "webhook": "The result is sent to your webhook"}
        if self.answer.test_mode:
            value["test_mode"] = True
        for word, key in (("no_token", "ws_token"), ("no_channel", "channel_id")):
            if word in self.switches:
                del value[key]
        return value

    # running -------------------------------------------------------------------------------------------------
    async def run(self):
        if "hold" in self.switches:
            await self.hub.ledger.hold(self.switches.text("hold", "hold"))
        if "slow" in self.switches:
            await asyncio.sleep(self.switches.argument("slow", 0, 100) / 1000)
        if self.event_name:
            await self.run_event_driven()
        else:
            event, payload = self.result()
            self.send_webhook(webhook.completed(self, payload))
            await self.publish(event, payload)
        self.state = "done"
        self.hub.ledger.count("done:" + self.switches.name)

    def result(self):
        """The last event of a standard workflow."""
        switches = self.switches
        if "error_event" in switches:
            return "error", {"message": switches.text("error_event", "Something went wrong")}
        payload = self.answer.job_payload(self.channel_id)
        if "fail200" in switches:
            failure = answers.provider_failure(self.answer.workflow, self.answer.customer_data)
            payload = dict(failure, status="error", channel_id=self.channel_id)
        if "fail_job" in switches:
            payload = {"status": "error", "channel_id": self.channel_id,
                       "error": {"message": switches.text("fail_job", "The job failed")}}
        if "fail_bare" in switches:
            payload = {"status": "error", "channel_id": self.channel_id}
        if "status" in switches:
            payload["status"] = switches.text("status")
        if "meta_only" in switches:
            del payload["status"]
        return ("success" if "success_event" in switches else "response"), payload

    async def publish(self, event, payload):
        """To all who listen; kept for those who join later, unless it came too early and is lost."""
        if self.channels or self.switches.text("early") != "lost":
            self.published.append((event, payload))
        for channel in list(self.channels):
            await channel.catch_up()

    async def run_event_driven(self):
        answer = self.answer
        generated = {"status": "ai_generated", "channel_id": self.channel_id, "event_name": self.event_name,
                     "message": "AI response generated, waiting for the backend", "meta": {"duration_ms": 1250}}
        if "old" in self.switches:
            generated["ai_response"] = {"data": answer.job_data(), "meta": answer.meta()}
        self.state = "ai_generated"
        self.send_webhook(webhook.ai_generated(self))
        await self.publish("response", generated)
        if "auto" in self.switches and not self.callback.done():
            self.callback.set_result({"data": {"final": answer.job_data()}, "task_id": "task_auto",
                                      "metadata": {"simulated": True}})
        try:
            window = self.switches.argument("window", 0, CALLBACK_MS) / 1000
            given = await asyncio.wait_for(asyncio.shield(self.callback), window)
        except asyncio.TimeoutError:
            given = None
            self.callback.set_result(None)
        self.state = "answered"
        if given is None:
            payload = {"status": "error", "channel_id": self.channel_id,
                       "error": {"message": "Callback timeout: no answer from the backend in time"}}
        else:
            payload = self.completed_by(given)
        self.send_webhook(webhook.completed(self, payload))
        await self.publish("response", payload)

    def completed_by(self, given):
        """The payload after the backend's callback."""
        if "error" in given:
            return {"status": "error", "channel_id": self.channel_id,
                    "error": {"message": given.get("message") or given["error"], "code": given["error"]}}
        payload = {"status": "completed", "channel_id": self.channel_id, "data": given["data"],
                   "customer_data": self.answer.customer_data, "meta": self.answer.meta()}
        if "task_id" in given:
            payload["task_id"] = given["task_id"]
        if "metadata" in given:
            payload["callback_metadata"] = given["metadata"]
        return payload

    def send_webhook(self, envelope):
        if self.webhook_url:
            kind = envelope.get("type") or envelope["data"]["type"]
            self.hub.spawn(webhook.deliver(self, webhook.sealed(self, envelope), kind))

    def described(self):
        return {"channel_id": self.channel_id, "workflow": self.switches.name, "state": self.state,
                "joins": self.joins, "listeners": len(self.channels), "webhook_url": self.webhook_url}


def create(hub, request, body, switches):
    """Starts a job; (HTTP status, answer)."""
    events = body.get("events")
    if events and switches.text("event") not in events:
        raise Refused(400, "Event '%s' is not the workflow's event." % events[0], param="events")
    job = Job(hub, request, body, switches)
    hub.jobs[job.channel_id] = job
    accepted = job.accepted()
    hub.spawn(job.run())
    return switches.argument("http", 0, 200), accepted


def reconnect(hub, request, body):
    """(HTTP status, places) with a fresh token; no places when refused."""
    hub.ledger.count("reconnect")
    channel_id = body.get("channel_id")
    if not isinstance(channel_id, str):
        return 400, None
    job = hub.jobs.get(channel_id)
    if job is None:
        return 404, None
    how, times = job.switches.argument("reconnect"), job.switches.argument("reconnect", 1, 1 << 30)
    refused = how is not None and hub.ledger.count("reconnect:" + channel_id) <= times
    if refused and how.isdigit():
        return int(how), None
    job.http_origin, job.ws_origin = request.origin("http"), request.origin("ws")
    value = job.places(fresh=True)
    if refused:
        del value[{"no_token": "ws_token", "no_channel": "channel_id"}[how]]
    return 200, value


def take_callback(hub, channel_id, body):
    """The backend's answer for an event-driven job: (HTTP status, answer)."""
    job = hub.jobs.get(channel_id)
    if job is None or not job.event_name:
        return 404, {"error": "not_found", "message": "No such event-driven request"}
    status = job.switches.argument("callback_fail")
    if status and hub.ledger.count("callback_fail:" + channel_id) <= job.switches.argument("callback_fail", 1, 1):
        return int(status), {"error": "service_unavailable", "message": "Try again"}
    if job.callback.done() and job.callback.result() is None:
        return 410, {"error": "callback_timeout", "message": "The callback came too late"}
    if job.callback.done():
        return 409, {"error": "already_completed", "message": "This request was already completed"}
    if job.state != "ai_generated":
        return 409, {"error": "not_ready", "message": "The AI response is not there yet"}
    if not isinstance(body.get("error"), str) and not isinstance(body.get("data"), dict):
        return 400, {"error": "invalid_data", "message": "data must be an object and must not be null"}
    hub.ledger.count("callback")
    job.callback.set_result(body)
    return 200, {"status": "success", "message": "Callback received", "channel_id": channel_id}
