"""What works on a model's weights: forward and backward, uploads, the optimizer, checkpoints."""

import math
import time

import numpy

from training import nest
from training.core import Core, Refused, Violation
from training.graph import GRAPH, Graph
from training.losses import GRAPH_LOSS, LOSSES, Datum, Wrong, check_config, run
from training.schema import m

MAX_UPLOAD, MAX_CHUNKS = 1 << 30, 16
YEAR = 365 * 86400
ROUTING_GONE = "routing capture expired before admission"


class Operations(Core):
    # Uploads

    def CreateUpload(self, request, call, fault):
        self.model(request.model_id)
        if not 1 <= request.chunk_count <= MAX_CHUNKS:
            raise Violation(f"{request.chunk_count} chunks, 1 to {MAX_CHUNKS} are taken")
        if not request.chunk_count <= request.total_size <= MAX_UPLOAD:
            raise Violation(f"an upload of {request.total_size} bytes")
        upload_id = self.next_id("up")
        self.uploads[upload_id] = {"model": request.model_id, "size": request.total_size,
                                   "count": request.chunk_count, "chunks": {}, "peers": set(), "used": False}
        return m.CreateUploadResponse(upload_id=upload_id, max_parallelism=self.config["max_parallelism"])

    def UploadChunk(self, request, call, fault):
        upload = self.uploads.get(request.upload_id)
        if upload is None:
            raise Refused("NOT_FOUND", f"no upload {request.upload_id}")
        if request.chunk_index >= upload["count"]:
            raise Violation(f"chunk {request.chunk_index} of {upload['count']}")
        if not request.data:
            raise Violation(f"chunk {request.chunk_index} is empty")
        known = upload["chunks"].get(request.chunk_index)
        if known is not None and known != request.data:
            raise Violation(f"chunk {request.chunk_index} with another content")
        if known is not None:
            self.ledger.bump("repeated_chunks")
        upload["chunks"][request.chunk_index] = request.data
        upload["peers"].add(call.peer)
        return m.UploadChunkResponse()

    def _uploaded(self, thin):
        """The whole request that a thin one stands for."""
        upload = self.uploads.get(thin.upload_id)
        if upload is None or upload["model"] != thin.model_id:
            raise Refused("NOT_FOUND", f"no upload {thin.upload_id} of {thin.model_id}")
        if thin.HasField("forward_backward_input"):
            raise Violation("both an upload and an input")
        missing = [index for index in range(upload["count"]) if index not in upload["chunks"]]
        if missing:
            raise Violation(f"upload {thin.upload_id} lacks the chunks {missing}")
        whole = b"".join(upload["chunks"][index] for index in range(upload["count"]))
        if len(whole) != upload["size"]:
            raise Violation(f"upload {thin.upload_id} has {len(whole)} bytes, {upload['size']} were announced")
        try:
            request = m.ForwardBackwardRequest.FromString(whole)
        except Exception as problem:                                        # noqa: BLE001
            raise Violation(f"upload {thin.upload_id} is no request: {problem}") from problem
        if request.upload_id:
            raise Violation(f"upload {thin.upload_id} names an upload")
        for field in ("model_id", "seq_id", "expected_policy_id"):
            if getattr(request, field) != getattr(thin, field):
                raise Violation(f"{field} is {getattr(thin, field)} in the request, "
                                f"{getattr(request, field)} in the upload {thin.upload_id}")
        upload["used"] = True
        upload["chunks"] = dict.fromkeys(upload["chunks"], b"")
        return request

    # Losses

    def _datums(self, model, given):
        loss, config = given.loss_fn, dict(given.loss_fn_config)
        if loss not in LOSSES:
            raise Violation(f"no loss is called {loss!r}")
        if not given.data:
            raise Violation("no data")
        graph = None
        try:
            check_config(loss, config)
            datums = [Datum(f"datum {number}", datum, loss, self.ledger.remark)
                      for number, datum in enumerate(given.data)]
            if loss == GRAPH_LOSS:
                if GRAPH not in datums[0].columns:
                    raise Wrong(f"datum 0: {GRAPH} is missing")
                graph = Graph(datums[0].columns[GRAPH].tobytes())
                if graph.text not in model.graphs:
                    self.ledger.remark("a loss graph that was not prepared")
                for number, datum in enumerate(datums):
                    graph.check_datum(f"datum {number}", datum)
        except Wrong as problem:
            raise Violation(str(problem)) from problem
        replay = given.force_routing_replay
        if replay not in ("", "ids"):
            raise Violation(f"force_routing_replay is {replay!r}")
        for number, datum in enumerate(datums):
            for handle in datum.handles:
                self.use_image(handle, model.session)
            if replay or given.compute_expert_flip_metric:
                if datum.routing is None:
                    raise Violation(f"datum {number}: expert_routing_handle is missing")
                if datum.routing not in self.routing and datum.routing not in self.config["routing_handles"]:
                    raise Refused("FAILED_PRECONDITION", ROUTING_GONE)
        return datums, loss, config, graph

    def _compare(self, datums):
        """Whether what was sampled here comes back where it belongs. Counted, not judged: both have good reasons."""
        for datum in datums:
            known = self.sequences.get(numpy.asarray(datum.ids, dtype=numpy.int64).tobytes())
            if known is None:
                self.ledger.bump("unknown_sequences")
                continue
            prompt, logprobs = known
            if "advantages" in datum.columns:
                at = numpy.flatnonzero(datum.column("advantages"))
                outside = ((at < prompt - 1) | (at > datum.length - 2)).any()
                short = len(at) and len(at) < datum.length - prompt
                self.ledger.bump("misaligned" if outside or short else "aligned")
            if "old_logprobs" in datum.columns:
                old = datum.column("old_logprobs")[prompt - 1:datum.length - 1]
                self.ledger.bump("logprobs_kept" if numpy.allclose(old, logprobs, atol=1e-5) else "logprobs_differ")

    def _output(self, totals, fault):
        logprobs = bytearray(nest.encode(totals.logprobs))
        if fault.get("corrupt") == "checksum":
            logprobs[-1] ^= 0xff
        output = m.ForwardBackwardOutput(type="forward_backward", loss_fn_output_type="logprobs")
        output.loss_fn_outputs["logprobs"].data = bytes(logprobs)
        for name, value in totals.metrics.items():
            output.metrics[name] = value
        output.usage.training_tokens = output.usage.total_tokens = totals.tokens
        return output

    def _pass(self, model, request, given, call, fault, backward):
        if model.attestation and model.attestation not in self.attestations:
            raise Refused("FAILED_PRECONDITION", f"the manifest {model.attestation} is gone")
        datums, loss, config, graph = self._datums(model, given)
        self.guard(model, request)
        try:
            totals = run(datums, loss, config, model.theta, graph)
        except Wrong as problem:
            raise Violation(str(problem)) from problem
        self.admit(model, request, call)
        self._compare(datums)
        if given.compute_expert_flip_metric:
            totals.metrics["expert_flip/per_token_expert_rate"] = 0.0
        if backward and "failed" not in fault:
            if not given.gradient_accumulation:
                self.ledger.remark("ForwardBackward without gradient_accumulation")
            if given.init_gradients:
                model.gradient = 0.0
            model.gradient += totals.gradient
            model.has_gradient = True
            model.backwards += 1
        elif not backward:
            model.forwards += 1
        return self.submit(call, fault, model.id,
                           m.RetrieveFutureResponse(forward_backward=self._output(totals, fault)))

    def Forward(self, request, call, fault):
        model = self.model(request.model_id)
        self.sequence(model, request, call)
        if request.forward_input.gradient_accumulation or request.forward_input.init_gradients:
            raise Violation("Forward with gradients")
        return self._pass(model, request, request.forward_input, call, fault, False)

    def ForwardBackward(self, request, call, fault):
        model = self.model(request.model_id)
        self.sequence(model, request, call)
        if request.upload_id:
            request = self._uploaded(request)
        return self._pass(model, request, request.forward_backward_input, call, fault, True)

    def PrepareLoss(self, request, call, fault):
        model = self.model(request.model_id)
        if request.model_name != model.base_model:
            raise Violation(f"the model {request.model_name}, {model.base_model} was expected")
        try:
            model.graphs.add(Graph(request.graph).text)
        except Wrong as problem:
            raise Violation(str(problem)) from problem
        return m.PrepareLossResponse()

    # The optimizer

    def _check_adam(self, params):
        if params.HasField("gradient_scale"):
            self.feature("gradient_scale_v1", "gradient_scale")
        for name in ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm", "gradient_scale"):
            value = getattr(params, name)
            if not math.isfinite(value) or value < 0:
                raise Violation(f"adam_params: {name} is {value}")
            if name in ("beta1", "beta2", "eps", "weight_decay") and not params.HasField(name):
                raise Violation(f"adam_params: {name} is missing")
            if name in ("grad_clip_norm", "gradient_scale") and params.HasField(name) and value == 0:
                raise Violation(f"adam_params: {name} is 0")
        if params.beta1 >= 1 or params.beta2 >= 1:
            raise Violation("adam_params: a beta is 1 or more")

    def OptimStep(self, request, call, fault):
        model = self.model(request.model_id)
        key = request.idempotency_key if request.HasField("idempotency_key") else None
        content = (request.seq_id, request.adam_params.SerializeToString(deterministic=True))
        if key is not None and key in model.keys:
            known, request_id = model.keys[key]
            if known != content:
                raise Violation(f"the idempotency_key {key} with another step")
            self.ledger.bump("idempotent_replays")
            call.notes.update(replay=True, request_id=request_id)
            return m.AsyncResponse(request_id=request_id, type=call.method)
        self.sequence(model, request, call)
        self._check_adam(request.adam_params)
        self.guard(model, request)
        self.admit(model, request, call)
        response = None if "failed" in fault else self._stepped(model, request.adam_params)
        answer = self.submit(call, fault, model.id, response)
        if key is not None:
            model.keys[key] = (content, answer.request_id)
        return answer

    def _stepped(self, model, params):
        if not model.has_gradient:
            self.ledger.remark("OptimStep without a gradient")
        gradient = model.gradient * (params.gradient_scale if params.HasField("gradient_scale") else 1.0)
        norm = abs(gradient)
        if params.HasField("grad_clip_norm") and norm > params.grad_clip_norm:
            gradient *= params.grad_clip_norm / norm
        model.theta = model.adam.step(model.theta, gradient, params)
        model.gradient, model.has_gradient = 0.0, False
        model.optimizer_steps += 1
        policy = self.new_policy(model, model.policy.step + 1, model.policy.id)
        every = self.config["auto_checkpoint_every"]
        if every and policy.step % every == 0:
            path = f"river://{model.run_id}/weights/auto-{policy.step}"
            self._store(path, model, "training", None, True)
            model.auto_checkpoint = path
        step = m.OptimStepResponse(type="optim_step", policy_version=policy)
        step.metrics.update({"step": policy.step, "lr": params.learning_rate, "grad_norm": norm,
                             "grad_norm_finite": float(math.isfinite(norm))})
        return m.RetrieveFutureResponse(optim_step=step)

    # Checkpoints

    def checkpoint(self, path):
        found = self.checkpoints.get(path)
        if found is None or found["expires"] < time.time():
            raise Refused("NOT_FOUND", f"no checkpoint {path}")
        return found

    def _store(self, path, model, mode, ttl, durable, immutable=False):
        default = YEAR if durable else 86400
        self.checkpoints[path] = {
            "theta": model.theta, "adam": model.adam.copy() if mode == "training" else None, "mode": mode,
            "policy": model.policy, "durable": durable, "immutable": immutable, "ttl": ttl,
            "created": time.time(), "expires": time.time() + (ttl or default), "run": model.run_id}

    def _check_save(self, model, request):
        run, _, name = request.path.partition("/")
        if run != model.run_id or not name:
            raise Violation(f"the path {request.path}, {model.run_id}/NAME was expected")
        if request.mode not in ("training", "inference", "publish"):
            raise Violation(f"no mode is called {request.mode!r}")
        if request.mode == "publish" and not model.full_weight:
            raise Violation("publish is for full weights")
        if model.full_weight and request.mode != "publish" and not request.immutable:
            raise Violation("full weights are saved immutable only")
        if request.HasField("ttl_seconds") and not 0 < request.ttl_seconds <= YEAR:
            raise Violation(f"ttl_seconds is {request.ttl_seconds}")
        if request.HasField("durable") and not request.durable:
            self.feature("temporary_checkpoints_v1", "durable = false")
        if not request.HasField("durable"):
            self.ledger.remark("SaveWeights without durable")
        return name

    def SaveWeights(self, request, call, fault):
        model = self.model(request.model_id)
        self.sequence(model, request, call)
        name = self._check_save(model, request)
        self.guard(model, request)
        self.admit(model, request, call)
        response = m.SaveWeightsResponse(type="save_weights", policy_version=model.policy)
        if request.mode == "publish":
            model.snapshot = model.policy
        elif "failed" not in fault:
            path = f"river://{model.run_id}/weights/{name}"
            if request.immutable:
                version, base = 1, path
                while path in self.checkpoints:
                    version, path = version + 1, f"{base}@{version + 1}"
                if request.mode == "inference":
                    model.snapshot = model.policy
            ttl = request.ttl_seconds if request.HasField("ttl_seconds") else None
            self._store(path, model, request.mode, ttl, request.durable, request.immutable)
            response.path = path
        return self.submit(call, fault, model.id, m.RetrieveFutureResponse(save_weights=response))

    def LoadWeights(self, request, call, fault):
        model = self.model(request.model_id)
        self.sequence(model, request, call)
        found = self.checkpoint(request.path)
        if request.optimizer and found["adam"] is None:
            raise Refused("FAILED_PRECONDITION", f"{request.path} holds no optimizer")
        self.admit(model, request, call)
        if "failed" not in fault:
            model.theta, model.policy = found["theta"], found["policy"]
            model.adam = found["adam"].copy() if request.optimizer else type(model.adam)()
            model.gradient, model.has_gradient = 0.0, False
        response = m.LoadWeightsResponse(type="load_weights", path=request.path, policy_version=model.policy)
        return self.submit(call, fault, model.id, m.RetrieveFutureResponse(load_weights=response))
