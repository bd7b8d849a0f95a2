"""The official client calls everything it has (deployments aside); a line for each thing."""

import hashlib
import json
import os
import struct
import uuid
import zlib

os.environ.update(RIVER_UPLOAD_THRESHOLD_BYTES="2048", RIVER_UPLOAD_CHUNK_BYTES="1024",
                  RIVER_REQUIRE_CHUNKED_UPLOAD="1")

import official                                                         # noqa: E402
from official import MODEL, control, river, say                         # noqa: E402

import grpc                                                             # noqa: E402
from river_client._proto import river_pb2 as pb2, river_pb2_grpc        # noqa: E402


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(bytes((width + 1) * height))) + chunk(b"IEND", b""))


def policy(version):
    return version and {"id": version.id, "step": version.step, "parent": version.parent_id,
                        "lineage": version.lineage_id}


def sample(one):
    return {"text": one.text, "tokens": len(one.tokens), "logprobs": len(one.logprobs), "stop": one.stop_reason,
            "policy": policy(one.policy_version)}


client = official.client()
say("health", value=client.health_check())
say("features", value=client.get_capabilities())
capabilities = client.get_server_capabilities()
say("model features", value=repr(capabilities))
base = client.sample("What is 7 + 5?", base_model=MODEL, num_samples=2)
say("base", count=len(base), first=sample(base[0]))

with client.session(run="quick", project="start") as session:
    model = session.create_model(MODEL, lora=river.LoraConfig(rank=8, seed=3))
    say("model", id=model.model_id, run=model.training_run_id, policy=policy(model.get_policy_version()),
        tokenizer=model.tokenizer.encode("a7"))

    groups = model.sample(["1 + 2", "3 and 4"], num_samples=2, max_tokens=16, temperature=0.7, seed=5, logprobs=3,
                          return_prompt_logprobs=True, return_expert_routing=True, metrics_type="debug")
    one = groups[0][0]
    say("sample", groups=[len(group) for group in groups], first=sample(one), prompt_ids=list(one.prompt_token_ids),
        prompt_logprobs=len(one.prompt_logprobs), routing=list(one.routing_datum_keys(required=True)),
        top=[one.top_logprobs.token_ids[0].tolist(), len(one.top_logprobs.token_ids)])
    runs = [[s.text for s in model.sample("1 + 2", num_samples=2, seed=5)[0]] for _ in range(2)]
    say("again", same=runs[0] == runs[1])
    ids = model.sample(prompt_token_ids=list(b"9 + 9"), max_tokens=4)
    say("ids", first=sample(ids[0][0]))
    say("session base", first=sample(session.sample("1 + 1", base_model=MODEL)[0][0]))

    # every loss on the datum of the specification
    prompt, answer = list(b"2 + 2\n"), list(b"\\boxed{4}")
    length = len(prompt) + len(answer)

    def column(value):
        return [0.0] * (len(prompt) - 1) + [value] * len(answer) + [0.0]
    rl = {"input_ids": prompt + answer, "attention_mask": [1] * length, "old_logprobs": column(-0.3),
          "advantages": column(0.5)}
    supervised = {"input_ids": prompt + answer, "weights": column(1.0)}
    topk = {"input_ids": prompt, "target_tokens": [[5, 6]] * len(prompt), "weights": [[0.5, 0.5]] * len(prompt)}
    for name, datum, loss, config in (
            ("cross_entropy", supervised, "cross_entropy", {}), ("soft targets", topk, "cross_entropy", {}),
            ("importance_sampling", rl, "importance_sampling", {"logprob_temperature": 0.9}),
            ("ppo", rl, river.BuiltinLoss("ppo", {"clip_high": 0.28}), {}),
            ("cispo", rl, "cispo", {"eps_max": 6.0}), ("perfect", rl, "cispo", {"use_perfect_ratio": 1.0}),
            ("echo_cispo", dict(rl, echo_weights=[0.5] * length), "echo_cispo", {"echo_coef": 0.05}),
            ("dro", rl, "dro", {"beta": 0.05})):
        result = model.forward_backward([datum], loss_fn=loss, **config)
        say(name, metrics=dict(result.metrics), logprobs=[len(row) for row in result.logprobs or []],
            gradient=control("state")["models"][model.model_id]["gradient"])
    say("forward", metrics=dict(model.forward([rl], loss_fn="importance_sampling").metrics))
    handle = one.routing_datum_keys(required=True)
    replay = model.forward_backward([dict(rl, **handle)], loss_fn="importance_sampling",
                                    force_routing_replay=True, compute_expert_flip_metric=True)
    say("replay", rate=replay.metrics.get("expert_flip/per_token_expert_rate"))

    before = model.get_policy_version()
    guarded = model.forward_backward([supervised], expected_policy_id=before.id)
    step = model.optim_step(4e-5, grad_clip_norm=1.0, gradient_scale=0.5, expected_policy_id=before.id)
    say("step", metrics=dict(step.metrics), policy=policy(step.policy_version), before=before.id, step=model.step)
    try:
        model.forward_backward([supervised], expected_policy_id=before.id)
    except river.RiverConnectionError as problem:
        say("stale", status=problem.status_code, details=problem.details)
    both = model.train_step([rl], lr=4e-5, loss_fn="importance_sampling")
    say("train_step", step=model.step, metrics=dict(both[1].metrics))

    # uploads: the threshold is low here
    uploaded = model.forward_backward([{"input_ids": list(range(120)), "weights": [1.0] * 120}] * 2)
    say("upload", tokens=uploaded.metrics["num_tokens"], uploads=list(control("state")["uploads"].values()))

    # checkpoints
    final = model.save_weights("final")
    again = model.save_weights("final", mode="inference", immutable=True, durable=False)
    say("saved", path=final.path, type=final.checkpoint_type, immutable=again.path, policy=policy(final.policy_version))
    theta = control("state")["models"][model.model_id]["theta"]
    other = session.create_model(MODEL, lora=river.LoraConfig(), checkpoint=final)
    say("loaded", step=other.step, same=control("state")["models"][other.model_id]["theta"] == theta,
        policy=policy(other.get_policy_version()))
    say("checkpoint", first=sample(session.sample("1 + 1", base_model=MODEL, checkpoint=again)[0][0]))
    full = session.create_model(MODEL, full_weight=True, train_router=True)
    say("published", path=full.save_weights("now", mode="publish").path)
    try:
        model.load_weights("river://nowhere/weights/none")
    except river.RiverConnectionError as problem:
        say("missing", status=problem.status_code)

    # chat in three forms
    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    for name, answer in (
            ("chat base", client.chat_complete(messages, base_model=MODEL, max_tokens=16)),
            ("chat checkpoint", client.chat_complete_from_checkpoint(messages, checkpoint_path=again.path)),
            ("chat training", model.chat_complete(messages))):
        say(name, body=json.loads(answer.response_json), status=answer.status_code)

    # images
    picture = png(64, 48)
    image = session.upload_image(picture, idempotency_key="11111111-2222-3333-4444-555555555555")
    twice = session.upload_image(picture, idempotency_key="11111111-2222-3333-4444-555555555555")
    say("image", width=image.width, height=image.height, bytes=image.byte_count == len(picture),
        digest=image.sha256 == hashlib.sha256(picture).hexdigest(), same=image.id == twice.id)
    seen = model.sample(model_input=[{"type": "image", "data": image}, {"type": "text", "tokens": list(b"2 + 3")}])
    say("image sample", first=sample(seen[0][0]))
    chunks = [{"type": "text", "tokens": [1, 2]}, {"type": "image", "data": image, "expected_tokens": 4},
              {"type": "image", "data": picture, "expected_tokens": 2}]
    say("image datum", tokens=model.forward_backward(
        [{"model_input": chunks, "weights": [1.0] * 8}]).metrics["num_tokens"])
    session.release_image(image)
    try:
        model.sample("<|image_pad|> 1 + 1", images=[image])
    except river.RiverConnectionError as problem:
        say("expired", status=problem.status_code, code=problem.error_code, right=problem.image_id == image.id)

    # attestation
    manifest = session.attest_training_data(
        [river.TrainingDataArtifact("a.jsonl", hashlib.sha256(b"hello").hexdigest(), b"hello")])
    bound = session.create_model(MODEL, lora=river.LoraConfig(), training_data_attestation=manifest)
    bound.forward_backward([supervised])
    control("expire", {"attestation": "all"})
    try:
        bound.forward_backward([supervised])
    except river.RiverConnectionError as problem:
        say("manifest gone", status=problem.status_code)
    say("attested", size=manifest.artifacts[0].size_bytes)

    # independent samples; their collector in the client wants a newer Python, so its stub is asked
    channel = grpc.insecure_channel(f"127.0.0.1:{official.INFO['port']}")
    stub, key = river_pb2_grpc.RiverServiceStub(channel), (("x-api-key", "test-key"),)
    control("configure", {"batch_pending": [0, 1, 2]})
    request = pb2.SubmitSamplingBatchRequest(
        idempotency_key=str(uuid.UUID(int=9)), policy_selection=1,
        training=pb2.SampleFromTrainingRequest(model_id=model.model_id, prompts=[
            pb2.InferencePrompt(prompt="1 + 2", max_tokens=16, temperature=1, top_p=1, top_k=-1,
                                return_prompt_token_ids=True)] * 3))
    handles = list(stub.SubmitSamplingBatch(request, metadata=key).request_ids)
    repeated = list(stub.SubmitSamplingBatch(request, metadata=key).request_ids)
    retrieval = pb2.RetrieveSamplingResultsRequest(request_ids=handles, model_id=model.model_id)
    rounds = [[result.WhichOneof("response") for result in stub.RetrieveSamplingResults(retrieval, metadata=key)]
              for _ in range(3)]
    done = list(stub.RetrieveSamplingResults(retrieval, metadata=key))
    say("batch", handles=len(set(handles)), repeated=handles == repeated, rounds=rounds,
        prompt=bytes(done[0].inference.results[0].prompt_token_ids).decode(),
        snapshot=done[0].inference.results[0].policy_version.id == again.policy_version.id)
    channel.close()

state = control("state")
say("end", calls=state["calls"], violations=state["violations"], remarks=state["remarks"],
    counters=state["counters"], unloaded=[m["unloaded"] for m in state["models"].values()],
    sessions=state["sessions"])
