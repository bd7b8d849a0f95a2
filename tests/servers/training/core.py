"""What all methods of the stand-in share: configuration, sessions, models, policies, futures, refusals."""

import copy
import time
import uuid

import grpc

from training import theta
from training.ledger import Ledger
from training.schema import m

ENDPOINT_FEATURES = ["sampling_batch_v1", "policy_versions_v1", "sampling_policy_pinning_v1",
                     "sampling_latest_snapshot_v1", "gradient_scale_v1", "temporary_checkpoints_v1",
                     "session_image_handles_v1"]
MODEL_FEATURES = ["retained_kv_v1", "bounded_kv_v1", "prompt_token_echo_v1", "full_weight_rl_v1"]

CONFIG = {
    "api_key": None,                    # the only key that is taken; none: any
    "models": ["standin/bytes"],        # those that GetServerCapabilities names
    "any_model": True,                  # others are taken too
    "features": ENDPOINT_FEATURES, "model_features": MODEL_FEATURES,
    "theta": theta.START,               # of models that are created
    "session_ttl": 1800,                # seconds without a heartbeat
    "session_info": None, "session_warning": None, "session_error": None,
    "capacity": [],                     # what heartbeats answer
    "try_again": 0,                     # answers of RetrieveFuture before the result: a number, or numbers by method
    "queue_state": "queued",
    "work": {},                         # seconds until the result is there, by method
    "long_poll": 0,                     # seconds that RetrieveFuture waits for it
    "batch_pending": 0,                 # snapshots that say pending: a number, or a list by place in the batch
    "batch_manual": False,              # samples of batches are done when it is ordered
    "split_spans": False,               # samples say that two policies made them
    "canned": [],                       # texts of the next samples, in turn
    "image_tokens": 1,                  # that a placeholder (an id above 255) becomes in prompts that are echoed
    "pad_tokens": 0,                    # tokens added to each sample
    "seq_gaps": False,                  # a sequence id may leave some out
    "max_parallelism": 6, "image_ttl": 21600, "auto_checkpoint_every": 0, "auto_checkpoint_error": "",
    "chat_status": 200, "routing_handles": [],
}


class Refused(Exception):
    """Ends a call with a status."""

    def __init__(self, status, text, trailers=None):
        super().__init__(text)
        self.status, self.text, self.trailers = status, text, trailers or {}


class Violation(Refused):
    """The client broke a rule."""

    def __init__(self, text):
        super().__init__("INVALID_ARGUMENT", text)


class Session:
    def __init__(self, session_id, request, peer):
        self.id, self.tags, self.peer = session_id, dict(request.tags), peer
        self.sdk_version = request.sdk_version
        self.last = time.monotonic()
        self.beats = []
        self.expired = False
        self.models = []
        self.model_seqs = {}
        self.images = {}


class Model:
    def __init__(self, model_id, session, request, run_id, start):
        self.id, self.session, self.run_id, self.base_model = model_id, session, run_id, request.base_model
        self.full_weight, self.train_router = request.full_weight, request.train_router
        self.rank = request.lora_config.rank if request.HasField("lora_config") else None
        self.attestation = request.training_data_attestation_id or None
        self.theta, self.adam = start, theta.Adam()
        self.gradient, self.has_gradient = 0.0, False
        self.policy = None
        self.snapshot = None                # the policy of the newest immutable inference checkpoint
        self.last_seq, self.seqs = 0, {}
        self.samples = 0
        self.optimizer_steps = self.backwards = self.forwards = 0
        self.keys = {}                      # idempotency keys of the optimizer
        self.auto_checkpoint = None
        self.unloaded = False
        self.graphs = set()


class Future:
    def __init__(self, method, model_id, response, left, ready, never):
        self.method, self.model_id, self.response = method, model_id, response
        self.left, self.ready, self.never = left, ready, never
        self.error = None                   # of a sample: [code, message, how often]
        self.trouble = None                 # of polls: a fault
        self.polls = 0


class Core:
    """Tables and the rules about them; the methods themselves are in the classes made of this one."""

    def __init__(self, seed):
        self.seed = seed
        self.ledger = Ledger()
        self.relay = None
        self.forget()

    def forget(self):
        """Everything as at the start, configuration too."""
        with self.ledger.lock:
            self.config = copy.deepcopy(CONFIG)
            self.lose()
            self.ledger.forget()

    def lose(self):
        """What a server loses that starts anew: everything but its configuration."""
        with self.ledger.lock:
            self.numbers = {}
            self.sessions, self.models, self.futures = {}, {}, {}
            self.policies, self.checkpoints = {}, {}
            self.uploads, self.images, self.attestations = {}, {}, {}
            self.batches, self.kv_groups = {}, {}
            self.routing, self.sequences = {}, {}
            self.base_samples = 0

    def next_id(self, kind):
        self.numbers[kind] = self.numbers.get(kind, 0) + 1
        return "%s-%06d" % (kind, self.numbers[kind])

    def next_uuid(self, kind):
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"standin:{self.seed}:{self.next_id(kind)}"))

    # Sessions

    def expires(self, session):
        if not session.expired and time.monotonic() - session.last > self.config["session_ttl"]:
            session.expired = True
        return session.expired

    def session(self, session_id):
        session = self.sessions.get(session_id)
        if session is None:
            raise Refused("NOT_FOUND", f"no session {session_id}")
        if self.expires(session):
            raise Refused("NOT_FOUND", f"session {session_id} has expired")
        return session

    # Models and policies

    def model(self, model_id):
        model = self.models.get(model_id)
        if model is None:
            raise Refused("NOT_FOUND", f"no model {model_id}")
        if model.unloaded:
            raise Refused("NOT_FOUND", f"model {model_id} is unloaded")
        self.session(model.session.id)
        return model

    def feature(self, name, what, status="INVALID_ARGUMENT"):
        """Refuses what clients may ask for only where the endpoint says that it can do it."""
        if name not in self.config["features"]:
            if status == "INVALID_ARGUMENT":
                raise Violation(f"{what} without the feature {name}")
            raise Refused(status, f"{what} is not implemented")

    def base(self, name):
        if not name:
            raise Violation("base_model is empty")
        if not self.config["any_model"] and name not in self.config["models"]:
            raise Refused("INVALID_ARGUMENT", f"{name} is not supported")

    def new_policy(self, model, step, parent):
        policy = m.PolicyVersion(id=self.next_id("pol"), lineage_id=model.run_id, step=step, parent_id=parent)
        self.policies[policy.id] = (policy, model.theta)
        model.policy = policy
        return policy

    def sequence(self, model, request, call):
        """Checks the sequence id of an operation. The caller admits it with `admit` when all else is right."""
        if not request.HasField("seq_id"):
            raise Violation(f"{call.method} without a seq_id")
        seq, seen = request.seq_id, model.seqs.get(request.seq_id)
        if seen is None:
            expected, model.last_seq = model.last_seq + 1, max(model.last_seq, seq)
            raise Violation(f"{call.method} of {model.id} has seq_id {seq}, {expected} was expected")
        if seen.get("digest") is not None:
            if seen["digest"] != hash(call.raw):
                raise Violation(f"{call.method} of {model.id} repeats seq_id {seq} with another content")
            self.ledger.bump("duplicates")
            call.notes["duplicate"] = True
            self.ledger.remark(f"{call.method} of {model.id} repeats seq_id {seq}: it is queued again")

    def arrived(self, request, raw):
        """Notes the sequence id as soon as the call is there: a fault may keep the call from being looked at."""
        if "seq_id" not in request.DESCRIPTOR.fields_by_name or not request.HasField("seq_id"):
            return
        model, seq = self.models.get(request.model_id), request.seq_id
        if model is None or seq in model.seqs or seq < 1:
            return
        if seq == model.last_seq + 1 or (self.config["seq_gaps"] and seq > model.last_seq):
            model.last_seq = seq
            model.seqs[seq] = {}

    def admit(self, model, request, call):
        model.seqs[request.seq_id]["digest"] = hash(call.raw)

    def guard(self, model, request):
        if request.HasField("expected_policy_id") and request.expected_policy_id != model.policy.id:
            raise Refused("FAILED_PRECONDITION", f"policy {request.expected_policy_id} was expected, "
                          f"{model.policy.id} is current")

    # Futures

    def setting(self, name, method):
        value = self.config[name]
        return value.get(method, value.get("*", 0)) if isinstance(value, dict) else value

    def submit(self, call, fault, model_id, response):
        """Queues a result; answers with the AsyncResponse."""
        request_id = self.next_id("req")
        if "failed" in fault:
            response = m.RetrieveFutureResponse(failed=failure(fault["failed"]))
        if fault.get("corrupt") == "type":
            response = m.RetrieveFutureResponse(unload_model=m.UnloadModelResponse(type="unload_model"))
        elif fault.get("corrupt") == "empty":
            response = m.RetrieveFutureResponse()
        left = fault.get("try_again", self.setting("try_again", call.method))
        ready = time.monotonic() + fault.get("work", self.setting("work", call.method))
        self.futures[request_id] = Future(call.method, model_id, response, left, ready, fault.get("never", False))
        if "poll" in fault:
            self.futures[request_id].trouble = dict({"times": 1}, **fault["poll"])
        call.notes["request_id"] = request_id
        return m.AsyncResponse(request_id=request_id, type=call.method)


def failure(order):
    """A RequestFailedResponse out of an order's {category, message, details}."""
    failed = m.RequestFailedResponse(error_category=order.get("category", "internal"),
                                     message=order.get("message", "the stand-in was told to fail"))
    for key, value in order.get("details", {}).items():
        into = failed.details.fields[key]
        if isinstance(value, bool):
            into.bool_value = value
        elif isinstance(value, (int, float)):
            into.number_value = value
        else:
            into.string_value = str(value)
    return failed


def status_code(name):
    return getattr(grpc.StatusCode, name)
