"""The official client among faults: prints what it makes of them."""

import os

os.environ.update(RIVER_UPLOAD_THRESHOLD_BYTES="2048", RIVER_UPLOAD_CHUNK_BYTES="1024")

import official                                                         # noqa: E402
from official import MODEL, control, river, say                         # noqa: E402

client = official.client()
DATUM = {"input_ids": [1, 2, 3, 4], "weights": [0.0, 1.0, 1.0, 0.0]}


def order(**fault):
    control("fault", fault)


def counted(*methods):
    calls = control("counters")["calls"]
    return [calls.get(method, 0) for method in methods]


def problem_of(action):
    try:
        action()
    except river.RiverError as problem:
        return {"class": type(problem).__name__, "status": getattr(problem, "status_code", None),
                "code": getattr(problem, "error_code", None), "text": str(problem)}
    return None


with client.session() as session:
    model = session.create_model(MODEL, lora=river.LoraConfig())

    order(method="OptimStep", status="UNAVAILABLE", times=2)
    model.optim_step(1e-5)
    log = control("log?method=OptimStep")
    say("retried", calls=len(log), steps=control("state")["models"][model.model_id]["optimizer_steps"],
        statuses=[call["status"] for call in log], duplicates=control("counters")["counters"].get("duplicates", 0))
    control("forget", {})
    order(method="OptimStep", status="UNAVAILABLE", acts=True)
    model.optim_step(1e-5)
    say("reply lost", steps=control("state")["models"][model.model_id]["optimizer_steps"],
        duplicates=control("counters")["counters"]["duplicates"])
    model.sync_committed_policy()
    control("forget", {})
    order(method="OptimStep", cut="after")
    model.optim_step(1e-5, idempotency_key="mine")
    say("with a key", steps=control("state")["models"][model.model_id]["optimizer_steps"],
        replays=control("counters")["counters"].get("idempotent_replays"))
    control("forget", {})

    control("configure", {"try_again": {"ForwardBackward": 3}})
    model.forward_backward([DATUM])
    say("polls", polls=counted("RetrieveFuture")[0])
    order(method="ForwardBackward", failed={"category": "storage_floor", "message": "no room"})
    say("failed", **problem_of(lambda: model.forward_backward([DATUM])))
    order(method="SaveWeights", failed={"category": "auto_checkpoint_failed", "message": "no room"})
    say("auto checkpoint", **problem_of(lambda: model.save_weights("x")))
    order(method="UploadImage", status="RESOURCE_EXHAUSTED", trailers={"river-error-code": "IMAGE_QUOTA_EXCEEDED"})
    say("quota", **problem_of(lambda: session.upload_image(b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + bytes(8))))
    order(method="SampleFromTraining", results={"drop": 1})
    say("fewer", **(problem_of(lambda: model.sample(["1", "2"])) or {"text": "nothing"}))
    order(method="SampleFromTraining", results={"no_ids": True})
    say("inexact", exact=model.sample("1 + 1")[0][0].token_data_is_exact)
    order(method="RetrieveFuture", status="ABORTED", times=2)
    model.forward_backward([DATUM])
    order(method="CreateUpload", status="UNIMPLEMENTED", times=-1)
    large = [{"input_ids": list(range(120)), "weights": [1.0] * 120}] * 2
    before = counted("CreateUpload", "UploadChunk")
    model.forward_backward(large)
    model.forward_backward(large)
    say("no uploads", asked=counted("CreateUpload")[0] - before[0], chunks=counted("UploadChunk")[0])
    # the official client counts a step that it then refuses itself: its next sequence id leaves one out
    control("configure", {"features": [], "seq_gaps": True})
    say("headers", value=[name for name, _ in log[-1]["metadata"]])
    say("no feature", **problem_of(lambda: model.optim_step(1e-5, gradient_scale=2.0)))
    order(method="OptimStep", never=True)
    try:
        model.optim_step(1e-5, timeout=0.5)
    except river.RiverTimeoutError as problem:
        say("never", request=bool(problem.request_id))
    control("wait?method=SessionHeartbeat")
    beats = control("log?method=SessionHeartbeat")
    say("beats", count=len(beats) > 0, deadline=beats[0]["deadline"], status=beats[0]["status"],
        agent=dict(beats[0]["metadata"])["x-river-client"])
    order(method="*", delay=0.05)
    say("delayed", ok=client.health_check())
    control("goaway", {"grace": 5})
    say("goaway", ok=client.health_check(), step=model.optim_step(1e-5).metrics["step"] > 0)
counters = control("counters")
say("end", violations=counters["violations"], remarks=counters["remarks"],
    deadlines={call["method"]: call["deadline"] for call in control("log")})
