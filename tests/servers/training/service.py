"""The service: how a call is judged, spoiled and answered, and the methods of sessions, models and futures."""

import time

import grpc

from training.core import Model, Refused, Session, Violation, status_code
from training.operations import Operations
from training.sampling import Sampling
from training.schema import METHODS, SERVICE, m, shown
from training.storage import Storage


class _Cut(Exception):
    """The connection is gone; nothing can be answered."""


class Service(Sampling, Operations, Storage):
    # How a call goes

    def _peer(self, context):
        peer = context.peer()
        port = peer.rpartition(":")[2]
        number = self.relay.number_of(int(port)) if self.relay and port.isdigit() else None
        return peer if number is None else number

    def _begin(self, method, raw, context):
        """The call, its request and the fault that was ordered for it; what comes before the act is done."""
        call = self.ledger.arrive(method, raw, context, self._peer(context))
        context.add_callback(lambda: self.ledger.gone(call))
        key, given = self.config["api_key"], dict(context.invocation_metadata())
        if "x-river-client" not in given:
            self.ledger.bump("unidentified")
        if key is not None and given.get("x-api-key") != key:
            raise _ended(call, Refused("UNAUTHENTICATED", "the API key is not valid"))
        try:
            request = METHODS[method][0].FromString(raw)
        except Exception as problem:                                        # noqa: BLE001
            raise _ended(call, Violation(f"{method}: the request cannot be decoded: {problem}")) from problem
        with self.ledger.lock:
            self.arrived(request, raw)
        fault = self.ledger.take(method, lambda: shown(request))
        if fault:
            call.notes["fault"] = True
        if "delay" in fault:
            self.ledger.pause(fault["delay"])
        if "hold" in fault:
            self.ledger.hold(fault["hold"])
        if fault.get("cut") == "before":
            self._cut(call)
            raise _ended(call, _Cut())
        if "status" in fault and not fault.get("acts"):
            raise _ended(call, _ordered(fault))
        return call, request, fault

    def _end(self, call, context, fault):
        """What comes between the act and its answer."""
        if fault.get("cut") == "after":
            self._cut(call)
            raise _Cut
        if "hold_reply" in fault:
            self.ledger.hold(fault["hold_reply"])
        if "status" in fault:
            raise _ordered(fault)
        if fault.get("trailers"):
            context.set_trailing_metadata(tuple(fault["trailers"].items()))

    def _cut(self, call, flush=False):
        if isinstance(call.peer, int):
            self.relay.cut(call.peer, flush)

    def _refuse(self, call, context, problem):
        if isinstance(problem, _Cut):
            self.ledger.finish(call, "CUT")
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if isinstance(problem, Violation):
            self.ledger.violation(problem.text)
        if isinstance(problem, Refused):
            self.ledger.finish(call, problem.status)
            if problem.trailers:
                context.set_trailing_metadata(tuple(problem.trailers.items()))
            context.abort(status_code(problem.status), problem.text)
        self.ledger.violation(f"{call.method}: the stand-in failed: {problem!r}")
        self.ledger.finish(call, "INTERNAL")
        raise problem

    def unary(self, method, raw, context):
        call = None
        try:
            call, request, fault = self._begin(method, raw, context)
            if method == "RetrieveFuture":
                self._await(request, context)
            with self.ledger.lock:
                reply = getattr(self, method)(request, call, fault)
            self._end(call, context, fault)
            reply = reply.SerializeToString()
            if not context.is_active():
                raise _Cut
            if fault.get("corrupt") == "bytes":
                reply = b"\xff" * 9
        except Exception as problem:                                        # noqa: BLE001
            self._refuse(call or problem.call, context, problem)
        self.ledger.finish(call, "OK")
        return reply

    def stream(self, method, raw, context):
        call = None
        try:
            call, request, fault = self._begin(method, raw, context)
            with self.ledger.lock:
                messages = getattr(self, method)(request, call, fault)
            order = fault.get("stream", {})
            before = written = self.relay.sent(call.peer) if isinstance(call.peer, int) else 0
            for number, message in enumerate(messages):
                if number == order.get("hold_after"):
                    self.ledger.hold(order.get("key", "stream"))
                if number == order.get("cut_after"):
                    if written > before:
                        self.relay.passed(call.peer, written)
                    self._cut(call, flush=written > before)
                    raise _Cut
                if number == order.get("status_after"):
                    raise _ordered(dict({"status": "UNAVAILABLE"}, **order))
                reply = message.SerializeToString()
                written += len(reply) + 14              # its own head and that of an HTTP/2 frame
                yield reply
            self._end(call, context, fault)
        except Exception as problem:                                        # noqa: BLE001
            self._refuse(call or problem.call, context, problem)
        self.ledger.finish(call, "OK")

    def handlers(self):
        """The generic handler of grpcio; requests and replies are bytes to it."""
        made = {}
        for name, (_, _, streams) in METHODS.items():
            kind = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
            act = self.stream if streams else self.unary
            made[name] = kind(lambda raw, context, act=act, name=name: act(name, raw, context))
        return grpc.method_handlers_generic_handler(SERVICE, made)

    # Without a model

    def HealthCheck(self, request, call, fault):
        return m.HealthCheckResponse(status=fault.get("health", "ok"))

    def GetServerCapabilities(self, request, call, fault):
        response = m.GetServerCapabilitiesResponse(features=self.config["features"])
        for name in [request.model_name] if request.model_name else self.config["models"]:
            response.supported_models.add(model_name=name, features=self.config["model_features"])
        return response

    def CreateSession(self, request, call, fault):
        if self.config["session_error"]:
            return m.CreateSessionResponse(error_message=self.config["session_error"])
        session = Session(self.next_id("sess"), request, call.peer)
        self.sessions[session.id] = session
        response = m.CreateSessionResponse(session_id=session.id)
        if self.config["session_info"]:
            response.info_message = self.config["session_info"]
        if self.config["session_warning"]:
            response.warning_message = self.config["session_warning"]
        return response

    def SessionHeartbeat(self, request, call, fault):
        session = self.sessions.get(request.session_id)
        if session is None or self.expires(session) or fault.get("refuse"):
            return m.SessionHeartbeatResponse(success=False)
        session.last = time.monotonic()
        session.beats.append({"time": call.time, "peer": call.peer})
        response = m.SessionHeartbeatResponse(success=True)
        for status in self.config["capacity"]:
            run = status.get("training_run_id", "*")
            for run_id in [model.run_id for model in session.models] if run == "*" else [run]:
                observed = time.time() - status.get("age", 0)
                response.capacity_status.add(
                    training_run_id=run_id, workload=status.get("workload", "training"),
                    state=status.get("state", "ready"), capacity_wait=status.get("capacity_wait", False),
                    observed_at=m.Timestamp(seconds=int(observed), nanos=int(observed % 1 * 1e9)))
        return response

    # Models

    def CreateModel(self, request, call, fault):
        session = self.session(request.session_id)
        self.base(request.base_model)
        seq = request.model_seq_id
        if seq in session.model_seqs:
            if session.model_seqs[seq] != hash(call.raw):
                raise Violation(f"CreateModel repeats model_seq_id {seq} with another content")
            self.ledger.bump("duplicates")
            call.notes["duplicate"] = True
        elif seq != len(session.model_seqs) + 1 and not self.config["seq_gaps"]:
            raise Violation(f"model_seq_id {seq}, {len(session.model_seqs) + 1} was expected")
        if request.HasField("lora_config") == request.full_weight:
            raise Violation("exactly one of lora_config and full_weight is wanted")
        if request.train_router and not request.full_weight:
            raise Violation("train_router needs full_weight")
        if request.HasField("lora_config") and not 1 <= request.lora_config.rank <= 32:
            raise Violation(f"a LoRA rank of {request.lora_config.rank}")
        attestation = request.training_data_attestation_id
        if attestation and self.attestations.get(attestation) != session.id:
            raise Refused("FAILED_PRECONDITION", f"no manifest {attestation} in this session")
        session.model_seqs[seq] = hash(call.raw)
        if "failed" in fault:
            return self.submit(call, fault, None, None)
        model_id = f"{session.id}:model:{seq}"
        model = Model(model_id, session, request, self.next_uuid("run"), self.config["theta"])
        self.new_policy(model, 0, "")
        self.models[model_id] = model
        session.models.append(model)
        made = m.CreateModelResponse(type="create_model", model_id=model_id, training_run_id=model.run_id)
        return self.submit(call, fault, None, m.RetrieveFutureResponse(create_model=made))

    def GetInfo(self, request, call, fault):
        model = self.model(request.model_id)
        response = m.GetInfoResponse(
            type="get_info", model_id=model.id, model_name=model.base_model, is_lora=not model.full_weight,
            model_data=m.ModelData(arch="theta", model_name=model.base_model, tokenizer_id=model.base_model),
            policy_version=model.policy, last_auto_checkpoint_error=self.config["auto_checkpoint_error"],
            run_storage_bytes=4096 * sum(found["run"] == model.run_id for found in self.checkpoints.values()))
        if model.rank is not None:
            response.lora_rank = model.rank
        if model.auto_checkpoint:
            found = self.checkpoints[model.auto_checkpoint]
            response.latest_auto_checkpoint.CopyFrom(m.AutoCheckpoint(
                path=model.auto_checkpoint, policy_version=found["policy"], size_bytes=4096,
                created_at=m.Timestamp(seconds=int(found["created"]))))
        return response

    def UnloadModel(self, request, call, fault):
        model = self.model(request.model_id)
        model.unloaded = "failed" not in fault
        return self.submit(call, fault, model.id,
                           m.RetrieveFutureResponse(unload_model=m.UnloadModelResponse(type="unload_model")))

    # Futures

    def _await(self, request, context):
        """The long poll: until the result is there or the patience configured is over."""
        patience = self.config["long_poll"]
        if not patience:
            return
        future = self.futures.get(request.request_id)
        until = time.monotonic() + patience
        while future is not None and (future.never or future.ready > time.monotonic()):
            left = min([until] + ([] if future.never else [future.ready])) - time.monotonic()
            if left <= 0 or not context.is_active():
                return
            self.ledger.wait_for(lambda: False if future.never else future.ready <= time.monotonic(), left)

    def RetrieveFuture(self, request, call, fault):
        future = self.futures.get(request.request_id)
        if future is None:
            raise Refused("NOT_FOUND", f"no request {request.request_id}")
        given = request.model_id if request.HasField("model_id") else None
        if given != future.model_id:
            if given is not None:
                raise Violation(f"{request.request_id} is asked for with the model {given}, "
                                f"{future.model_id} is right")
            self.ledger.remark(f"{request.request_id} is asked for without its model {future.model_id}")
        future.polls += 1
        if future.trouble and future.trouble["times"] != 0:
            future.trouble["times"] -= 1
            raise _ordered(future.trouble)
        if future.never or future.left > 0 or future.ready > time.monotonic():
            future.left -= 1 if future.left > 0 else 0
            return m.RetrieveFutureResponse(try_again=m.TryAgainResponse(
                request_id=request.request_id, queue_state=self.config["queue_state"]))
        return future.response


def _ended(call, problem):
    problem.call = call
    return problem


def _ordered(fault):
    return Refused(fault["status"], fault.get("details", "the stand-in was told so"), fault.get("trailers"))
