"""What the stand-in refuses, counts and remarks: prints the outcome of wrong requests, each next to a right one."""

import numpy

from raw import Client, backward, control, datum, m, nest, say, step

client = Client()
model = client.model()
seq = 0


def try_(name, request, method="ForwardBackward"):
    outcome = client.call(method, request)
    say(name, **outcome.shown())
    return outcome


def next_():
    global seq
    seq += 1
    return seq


def bad(name, **columns):
    try_(name, backward(model, next_(), [datum(), datum(**columns)]))


length = len(datum()["input_ids"])
floats = numpy.zeros(length, dtype=numpy.float32)
try_("right", backward(model, next_()))

# the codec
encoded = bytearray(nest.encode(datum()))
encoded[-1] ^= 1
try_("checksum", backward(model, next_(), encoded=[bytes(encoded)]))
try_("no header", backward(model, next_(), encoded=[b"NOPE"]))
try_("trailing", backward(model, next_(), encoded=[nest.encode(datum()) + b"x"]))
try_("cut", backward(model, next_(), encoded=[nest.encode(datum())[:-3]]))

# columns
bad("short column", advantages=floats[:-1])
bad("not finite", advantages=numpy.where(numpy.arange(length) == 3, numpy.nan, floats).astype(numpy.float32))
bad("mask missing", attention_mask=None)
bad("mask of twos", attention_mask=numpy.full(length, 2))
bad("advantages missing", advantages=None)
bad("ids as floats", input_ids=numpy.ones(length, dtype=numpy.float32))
bad("negative token", input_ids=numpy.full(length, -1))
bad("integers for floats", advantages=numpy.zeros(length, dtype=numpy.int64))
bad("unknown column", colour=floats)
for name, loss, config in (("unknown loss", "mse", {}), ("unknown setting", "ppo", {"clip": 0.2}),
                           ("infinite setting", "ppo", {"clip_low": float("inf")}),
                           ("setting of another loss", "importance_sampling", {"eps_max": 6.0})):
    try_(name, backward(model, next_(), loss=loss, config=config))
try_("no data", m.ForwardBackwardRequest(model_id=model, seq_id=next_(), forward_backward_input=m.ForwardBackwardInput(
    loss_fn="ppo")))
try_("undecodable", b"\xff\xff")

# sequence ids
try_("still in order", backward(model, next_()))
try_("no sequence id", m.OptimStepRequest(model_id=model), "OptimStep")
try_("gap", backward(model, seq + 5))
seq += 5
try_("after the gap", step(model, next_()), "OptimStep")
try_("again", step(model, seq), "OptimStep")
try_("again, but different", step(model, seq, lr=1.0), "OptimStep")
info = client.call("GetInfo", m.GetInfoRequest(model_id=model)).reply
say("applied twice", step=info.policy_version.step, duplicates=control("counters")["counters"]["duplicates"])

# policies and keys
try_("stale policy", step(model, next_(), expected_policy_id="pol-000001"), "OptimStep")
say("nothing queued", step=client.call("GetInfo", m.GetInfoRequest(model_id=model)).reply.policy_version.step)
try_("right policy", step(model, next_(), expected_policy_id=info.policy_version.id, idempotency_key="k"), "OptimStep")
replay = try_("same key", step(model, seq, expected_policy_id=info.policy_version.id, idempotency_key="k"), "OptimStep")
say("once", step=client.call("GetInfo", m.GetInfoRequest(model_id=model)).reply.policy_version.step,
    result=client.future(replay, model)[1].metrics["step"])
try_("key of another step", step(model, seq, lr=2.0, idempotency_key="k"), "OptimStep")
try_("infinite lr", step(model, next_(), lr=float("inf")), "OptimStep")

# features
control("configure", {"features": []})
run = list(control("state")["models"].values())[0]["run_id"]
scaled = step(model, next_())
scaled.adam_params.gradient_scale = 2.0
try_("scaled", scaled, "OptimStep")
try_("temporary", m.SaveWeightsRequest(model_id=model, seq_id=next_(), path=run + "/t", mode="training",
                                       durable=False), "SaveWeights")
try_("no batches", m.SubmitSamplingBatchRequest(idempotency_key="11111111-2222-3333-4444-555555555556"),
     "SubmitSamplingBatch")
control("configure", {"features": ["sampling_batch_v1"]})

# who asks
say("wrong key", **Client(key="nope").call("HealthCheck").shown())
control("configure", {"api_key": "test-key"})
say("key refused", **Client(key="nope").call("HealthCheck").shown())
say("key taken", **client.call("HealthCheck").shown())
for name, method, request in (
        ("no session", "CreateModel", m.CreateModelRequest(session_id="s", base_model="b", model_seq_id=1)),
        ("no model", "GetInfo", m.GetInfoRequest(model_id="nobody")),
        ("no future", "RetrieveFuture", m.RetrieveFutureRequest(request_id="req-x")),
        ("foreign model", "RetrieveFuture", m.RetrieveFutureRequest(request_id=replay.reply.request_id, model_id="x")),
        ("no prompt", "SampleFromTraining", m.SampleFromTrainingRequest(model_id=model, prompts=[
            m.InferencePrompt(max_tokens=3, top_p=1)])),
        ("nameless save", "SaveWeights", m.SaveWeightsRequest(model_id=model, seq_id=next_(), path="x/y",
                                                              mode="training")),
        ("publish", "SaveWeights", m.SaveWeightsRequest(model_id=model, seq_id=next_(), mode="publish", path=list(
            control("state")["models"].values())[0]["run_id"] + "/now")),
        ("graph", "PrepareLoss", m.PrepareLossRequest(model_id=model, model_name="standin/bytes", graph=b"{}")),
        ("group", "SubmitSamplingBatch", m.SubmitSamplingBatchRequest(
            idempotency_key="11111111-2222-3333-4444-555555555555", retained_kv_groups=["x"],
            kv_cache_policy=m.KvCachePolicy(), training=m.SampleFromTrainingRequest(model_id=model, prompts=[
                m.InferencePrompt(prompt="1", max_tokens=3, top_p=1)])))):
    try_(name, request, method)
control("expire", {"session": "all"})
session = list(control("state")["sessions"])[0]
say("expired", success=client.call("SessionHeartbeat", m.SessionHeartbeatRequest(session_id=session)).reply.success,
    **client.call("GetInfo", m.GetInfoRequest(model_id=model)).shown())
counters = control("counters")
say("counters", violations=counters["violations"], remarks=counters["remarks"])
