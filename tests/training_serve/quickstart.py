"""The official client calls what `riverlua serve training` can do; a line for each thing. Argument: READY-LINE."""

import json
import os
import sys
import uuid

os.environ.update(RIVER_UPLOAD_THRESHOLD_BYTES="2048", RIVER_UPLOAD_CHUNK_BYTES="1024",
                  RIVER_REQUIRE_CHUNKED_UPLOAD="1", OFFICIAL_MODEL="embedded/rambler-134k")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "training_standin"))

import official                                                         # noqa: E402
from official import MODEL, river, say                                  # noqa: E402

import grpc                                                             # noqa: E402
from river_client._proto import river_pb2 as pb2, river_pb2_grpc        # noqa: E402

KEY = os.environ["RIVER_API_KEY"]


def policy(version):
    return version and {"id": version.id, "step": version.step, "parent": version.parent_id}


def sample(one):
    return {"text": one.text, "tokens": len(one.tokens), "logprobs": len(one.logprobs), "stop": one.stop_reason,
            "policy": policy(one.policy_version)}


def refusal(call):
    try:
        call()
    except river.RiverConnectionError as problem:
        return {"status": problem.status_code, "details": problem.details}


for key in "another-key", "":
    say("key %s" % (key or "none"), **refusal(official.client(api_key=key, enable_retries=False).get_capabilities))

client = official.client(api_key=KEY)
say("health", value=client.health_check())
say("features", value=client.get_capabilities())
base = client.sample("s4821=", base_model=MODEL, num_samples=2, max_tokens=16)
say("base", count=len(base), first=sample(base[0]))

with client.session(run="quick", project="start") as session:
    model = session.create_model(MODEL, lora=river.LoraConfig(rank=8, seed=3))
    say("model", id=model.model_id, run=model.training_run_id, policy=policy(model.get_policy_version()))

    # sampling
    groups = model.sample(["s4821=", "s1007="], num_samples=2, max_tokens=16, temperature=0.7, seed=5, logprobs=3,
                          return_prompt_logprobs=True)
    one = groups[0][0]
    top = one.top_logprobs.token_ids
    say("sample", groups=[len(group) for group in groups], first=sample(one), top=[len(top[0]), len(top)],
        prompt_ids=list(one.prompt_token_ids), prompt_logprobs=len(one.prompt_logprobs))
    runs = [[s.text for s in model.sample("s4821=", num_samples=2, seed=5)[0]] for _ in range(2)]
    say("again", same=runs[0] == runs[1])
    ids = model.sample(prompt_token_ids=list(b"s9021="), max_tokens=4)
    say("ids", first=sample(ids[0][0]))
    stopped = model.sample("s4821=", num_samples=4, max_tokens=64, stop=["}"])[0]
    say("stop", kept=[s.tokens[-1:] == [ord("}")] for s in stopped if s.stop_reason == "stop"],
        texts=["}" in s.text for s in stopped])
    say("session base", first=sample(session.sample("s4821=", base_model=MODEL, max_tokens=8)[0][0]))

    # every loss on a datum of the specification's form
    prompt, answer = list(b"s4821="), list(b"\\boxed{1248}\n")
    length = len(prompt) + len(answer)

    def column(value):
        return [0.0] * (len(prompt) - 1) + [value] * len(answer) + [0.0]
    rl = {"input_ids": prompt + answer, "attention_mask": [1] * length, "old_logprobs": column(-0.3),
          "advantages": column(0.5)}
    supervised = {"input_ids": prompt + answer, "weights": column(1.0)}
    topk = {"input_ids": prompt, "target_tokens": [[5, 6]] * len(prompt), "weights": [[0.5, 0.5]] * len(prompt)}
    losses = (
        ("cross_entropy", supervised, "cross_entropy", {}), ("soft targets", topk, "cross_entropy", {}),
        ("importance_sampling", rl, "importance_sampling", {"logprob_temperature": 0.9}),
        ("ppo", rl, river.BuiltinLoss("ppo", {"clip_high": 0.28}), {}),
        ("cispo", rl, "cispo", {"eps_max": 6.0}), ("perfect", rl, "cispo", {"use_perfect_ratio": 1.0}),
        ("echo_cispo", dict(rl, echo_weights=[0.5] * length), "echo_cispo", {"echo_coef": 0.05}),
        ("dro", rl, "dro", {"beta": 0.05}))
    for name, datum, loss, config in losses:
        result = model.forward_backward([datum], loss_fn=loss, **config)
        say(name, metrics=dict(result.metrics), logprobs=[len(row) for row in result.logprobs or []])
    say("forward", metrics=dict(model.forward([rl], loss_fn="importance_sampling").metrics))
    wrong = dict(rl, advantages=[0.0] * (length - 1) + [float("nan")])
    say("nan", **refusal(lambda: model.forward_backward([wrong], loss_fn="importance_sampling")))

    # steps, guarded by policies
    before = model.get_policy_version()
    model.forward_backward([supervised], expected_policy_id=before.id)
    step = model.optim_step(4e-5, grad_clip_norm=1.0, gradient_scale=0.5, expected_policy_id=before.id)
    say("step", metrics=dict(step.metrics), policy=policy(step.policy_version), before=before.id, step=model.step)
    say("stale", **refusal(lambda: model.forward_backward([supervised], expected_policy_id=before.id)))
    learned = [model.train_step([supervised], lr=4e-5)[0].metrics["loss"] for _ in range(8)]
    say("train_step", step=model.step, losses=learned)

    # uploads: the threshold is low here
    uploaded = model.forward_backward([{"input_ids": list(range(120)), "weights": [1.0] * 120}] * 2)
    say("upload", tokens=uploaded.metrics["num_tokens"])

    # checkpoints
    final = model.save_weights("final")
    again = model.save_weights("final", mode="inference", immutable=True, durable=False)
    say("saved", path=final.path, type=final.checkpoint_type, immutable=again.path,
        policy=policy(final.policy_version))
    other = session.create_model(MODEL, lora=river.LoraConfig(rank=8), checkpoint=final)
    greedy = [m.sample("s4821=", temperature=0, max_tokens=16)[0][0].logprobs for m in (model, other)]
    say("loaded", step=other.step, same=greedy[0] == greedy[1], policy=policy(other.get_policy_version()))
    kept = session.sample("s4821=", base_model=MODEL, checkpoint=again, max_tokens=8)
    say("checkpoint", first=sample(kept[0][0]))
    full = session.create_model(MODEL, full_weight=True)
    full.train_step([supervised], lr=1e-3)
    say("full", step=full.step)
    say("missing", **refusal(lambda: model.load_weights("river://nowhere/weights/none")))

    # chat in three forms
    messages = [{"role": "user", "content": "s4821="}]
    for name, answer in (
            ("chat base", client.chat_complete(messages, base_model=MODEL, max_tokens=16)),
            ("chat checkpoint", client.chat_complete_from_checkpoint(messages, checkpoint_path=again.path)),
            ("chat training", model.chat_complete(messages))):
        say(name, body=json.loads(answer.response_json), status=answer.status_code)

    # independent samples; their collector in the client wants a newer Python, so its stub is asked
    channel = grpc.insecure_channel(f"127.0.0.1:{official.INFO['port']}")
    stub, key = river_pb2_grpc.RiverServiceStub(channel), (("x-api-key", KEY),)
    request = pb2.SubmitSamplingBatchRequest(
        idempotency_key=str(uuid.UUID(int=9)), policy_selection=1,
        training=pb2.SampleFromTrainingRequest(model_id=model.model_id, prompts=[
            pb2.InferencePrompt(prompt="s4821=", max_tokens=16, temperature=1, top_p=1, top_k=-1)] * 3))
    handles = list(stub.SubmitSamplingBatch(request, metadata=key).request_ids)
    repeated = list(stub.SubmitSamplingBatch(request, metadata=key).request_ids)
    retrieval = pb2.RetrieveSamplingResultsRequest(request_ids=handles, model_id=model.model_id)
    done = []
    while len(done) < 3:
        done = [result for result in stub.RetrieveSamplingResults(retrieval, metadata=key)
                if result.WhichOneof("response") == "inference"]
    say("batch", handles=len(set(handles)), repeated=handles == repeated, done=len(done))
    try:
        stub.HealthCheck(pb2.HealthCheckRequest())
    except grpc.RpcError as problem:
        say("stub without key", status=problem.code().name)
    channel.close()
say("end")
