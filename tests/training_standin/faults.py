"""Faults on order, seen with a bare client: prints what became of the calls."""

from raw import Client, backward, control, m, nest, say, step

client = Client()
session = client.session()
model = client.model(session)
seq = 0


def next_():
    global seq
    seq += 1
    return seq


def order(**fault):
    control("fault", fault)


def steps():
    return control("state")["models"][model]["optimizer_steps"]


def result_of(outcome):
    kind, result = client.future(outcome, model)
    return kind


# statuses
order(method="GetInfo", status="RESOURCE_EXHAUSTED", details="später", times=2,
      trailers={"river-error-code": "IMAGE_QUOTA_EXCEEDED"})
info = m.GetInfoRequest(model_id=model)
say("statuses", outcomes=[client.call("GetInfo", info).shown() for _ in range(3)])
order(method="PrepareLoss", status="UNIMPLEMENTED", times=-1)
say("unimplemented", outcomes=[client.call("PrepareLoss").status for _ in range(3)])
order(method="GetInfo", after=1, status="INTERNAL", match={"model_id": model})
say("after one", outcomes=[client.call("GetInfo", info).status for _ in range(3)])
order(method="HealthCheck", trailers={"x-note": "hello"})
call = client.start("HealthCheck")
call.result()
say("trailers", value=dict(call.trailing_metadata()).get("x-note"))
control("clear", {})

# before and after the act
request = step(model, next_())
order(method="OptimStep", status="UNAVAILABLE")
say("not done", status=client.call("OptimStep", request).status, steps=steps())
order(method="OptimStep", status="UNAVAILABLE", acts=True)
say("done, reply lost", status=client.call("OptimStep", request).status, steps=steps())
say("repeated", status=client.call("OptimStep", request).status, steps=steps())
order(method="OptimStep", cut="before")
request = step(model, next_(), idempotency_key="one")
say("cut before", status=client.call("OptimStep", request).status, steps=steps())
order(method="OptimStep", cut="after")
say("cut after", status=client.call("OptimStep", request).status, steps=steps())
say("key repeated", status=client.call("OptimStep", request).status, steps=steps())

# futures
order(method="OptimStep", failed={"category": "storage_floor", "message": "full", "details": {"free": 3}})
outcome = client.call("OptimStep", step(model, next_()))
failed = client.future(outcome, model)[1]
say("failed", category=failed.error_category, details=failed.details.fields["free"].number_value, steps=steps())
order(method="OptimStep", try_again=3)
outcome = client.call("OptimStep", step(model, next_()))
say("try again", kind=result_of(outcome), polls=control("state")["futures"][outcome.reply.request_id]["polls"])
order(method="OptimStep", never=True)
outcome = client.call("OptimStep", step(model, next_()))
poll = m.RetrieveFutureRequest(request_id=outcome.reply.request_id, model_id=model)
say("never", kinds=[client.call("RetrieveFuture", poll).reply.WhichOneof("response") for _ in range(5)],
    state=client.call("RetrieveFuture", poll).reply.try_again.queue_state)
control("finish", {"ids": [outcome.reply.request_id]})
say("finished", kind=result_of(outcome))
order(method="OptimStep", poll={"status": "ABORTED", "times": 2})
outcome = client.call("OptimStep", step(model, next_()))
poll.request_id = outcome.reply.request_id
say("poll", statuses=[client.call("RetrieveFuture", poll).status for _ in range(3)])
control("configure", {"long_poll": 5})
order(method="OptimStep", never=True)
outcome = client.call("OptimStep", step(model, next_()))
poll.request_id = outcome.reply.request_id
waiting = client.start("RetrieveFuture", poll)
control(f"wait?method=RetrieveFuture&count={control('counters')['calls']['RetrieveFuture']}")
control("finish", {"ids": [outcome.reply.request_id]})
say("long poll", kind=waiting.result().WhichOneof("response"))
control("configure", {"long_poll": 0})

# results
order(method="ForwardBackward", corrupt="checksum")
output = client.future(client.call("ForwardBackward", backward(model, next_())), model)[1]
try:
    nest.decode(output.loss_fn_outputs["logprobs"].data)
except nest.Malformed as problem:
    say("checksum", text=str(problem)[:8])
order(method="ForwardBackward", corrupt="type")
say("type", kind=result_of(client.call("ForwardBackward", backward(model, next_()))))
order(method="ForwardBackward", corrupt="empty")
say("empty", kind=result_of(client.call("ForwardBackward", backward(model, next_()))))
prompts = [m.InferencePrompt(prompt="1 + 1", max_tokens=32, temperature=1, top_p=1, top_k=-1) for _ in range(3)]
sampling = m.SampleFromTrainingRequest(model_id=model, prompts=prompts)
for name, fault in (("drop", {"drop": 1}), ("extra", {"extra": 2}), ("no_ids", {"no_ids": True}),
                    ("short", {"short_logprobs": True}), ("oversize", {"oversize": 5000000})):
    order(method="SampleFromTraining", results=fault)
    results = client.future(client.call("SampleFromTraining", sampling), model)[1].results
    say(name, results=len(results), ids=len(results[0].token_ids), text=len(results[0].text),
        logprobs=len(results[0].token_logprobs))

# independent samples
order(method="SubmitSamplingBatch", handles={
    "0": {"pending": 1}, "1": {"failed": {"category": "oops"}}, "2": {"error": {"code": 14, "times": 1}}})
batch = m.SubmitSamplingBatchRequest(idempotency_key="11111111-2222-3333-4444-555555555555", training=sampling)
handles = list(client.call("SubmitSamplingBatch", batch).reply.request_ids)
retrieval = m.RetrieveSamplingResultsRequest(request_ids=handles, model_id=model)


def kinds():
    outcome = client.call("RetrieveSamplingResults", retrieval)
    return {"kinds": [result.WhichOneof("response") for result in outcome.reply], "status": outcome.status,
            "ids": [handles.index(result.request_id) if result.request_id in handles else -1
                    for result in outcome.reply]}


say("batch", rounds=[kinds()["kinds"], kinds()["kinds"]])
order(method="RetrieveSamplingResults", stream={"hold_after": 1, "key": "stream", "cut_after": 1})
stream = client.start("RetrieveSamplingResults", retrieval)
seen = [next(stream).WhichOneof("response")]
control("release", {"key": "stream", "count": 1})
outcome = client.end("RetrieveSamplingResults", stream)
say("stream cut", kinds=seen, status=outcome.status, more=len(outcome.reply))
for name, fault in (("stream status", {"status_after": 2, "status": "ABORTED"}),
                    ("reverse", {"reverse": True}), ("missing", {"missing": True}), ("twice", {"duplicate": True}),
                    ("unknown", {"unknown": True})):
    order(method="RetrieveSamplingResults", stream=fault)
    say(name, **kinds())

# held calls, deadlines
order(method="HealthCheck", hold="door")
held = client.start("HealthCheck")
say("held", reached=control("wait?held=door")["reached"], done=held.done())
control("release", {"key": "door"})
say("let go", status=held.result().status)
order(method="HealthCheck", hold="door")
held = client.start("HealthCheck", timeout=0.2)
say("deadline", status=client.end("HealthCheck", held).status,
    seen=control("wait?counter=cancelled")["reached"])
control("release", {"key": "door"})
order(method="SessionHeartbeat", refuse=True)
beat = m.SessionHeartbeatRequest(session_id=session)
control("configure", {"capacity": [{"state": "waiting", "capacity_wait": True, "age": 5}]})
say("heartbeat", success=[client.call("SessionHeartbeat", beat).reply.success for _ in range(2)],
    capacity=[status.state for status in client.call("SessionHeartbeat", beat).reply.capacity_status])

# connections
first = Client()
first.call("HealthCheck")
number = control("log?method=HealthCheck")[-1]["peer"]
order(method="HealthCheck", hold="door")
held = first.start("HealthCheck")
control("wait?held=door")
control("goaway", {"grace": 20})
new = Client().call("HealthCheck").status                       # the new server answers
control("release", {"key": "door"})
say("goaway", held=first.end("HealthCheck", held).status, new=new, after=first.call("HealthCheck").status,
    moved=control("log?method=HealthCheck")[-1]["peer"] > number,
    kept=first.call("GetInfo", info).status)
control("relay", {"stall": "all"})
say("stalled", status=first.call("HealthCheck", timeout=0.3).status)
control("relay", {"resume": "all"})
say("resumed", status=first.call("HealthCheck").status)
control("relay", {"mode": "refuse"})
say("refused", cut=control("relay", {"cut": "all"})["cut"] > 0,
    status=first.call("HealthCheck", timeout=2, wait=False).status)
control("relay", {"mode": "answer", "text": "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"})
say("no HTTP/2", status=Client().call("HealthCheck", timeout=2, wait=False).status)
control("relay", {"mode": "pass"})
say("passes", status=Client().call("HealthCheck").status)
control("goaway", {"grace": 0, "lose": True})
say("lost", status=Client().call("GetInfo", info).status)
say("end", violations=control("counters")["violations"],
    unused=[fault for fault in control("faults") if fault["left"] > 0])
