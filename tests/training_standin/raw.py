"""A bare client for the stand-in, with the stand-in's own messages. Scripts are called with INFO SERVERS_FOLDER."""

import json
import sys
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[2])

import grpc                                                             # noqa: E402
import numpy                                                            # noqa: E402

from training import nest                                               # noqa: E402
from training.schema import METHODS, SERVICE, m                         # noqa: E402

INFO = json.loads(sys.argv[1])
NO_RETRIES = (("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1),
              ("grpc.use_local_subchannel_pool", 1),
              ("grpc.max_reconnect_backoff_ms", 100),
              ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50))
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def control(path, order=None):
    data = None if order is None else json.dumps(order).encode()
    with _opener.open(f"http://127.0.0.1:{INFO['control']}/{path}", data, 30) as answer:
        return json.load(answer)


def say(name, **values):
    print(json.dumps(dict(values, name=name)), flush=True)


class Outcome:
    """What became of a call: `status`, `details`, `trailers`, and the reply (or list of replies)."""

    def __init__(self, reply=None, problem=None):
        self.reply, self.status, self.details, self.trailers = reply, "OK", "", {}
        if problem is not None:
            self.status, self.details = problem.code().name, problem.details()
            self.trailers = dict(problem.trailing_metadata() or ())

    def shown(self):
        return {"status": self.status, "details": self.details, "trailers": self.trailers}


class Client:
    def __init__(self, target=None, credentials=None, key="test-key"):
        target = target or f"127.0.0.1:{INFO['port']}"
        self.channel = (grpc.secure_channel(target, credentials, NO_RETRIES) if credentials else
                        grpc.insecure_channel(target, NO_RETRIES))
        self.metadata = (("x-api-key", key),)

    def start(self, method, request=None, timeout=20, wait=True):
        """A call that is not waited for."""
        make = self.channel.unary_stream if METHODS[method][2] else self.channel.unary_unary
        raw = request if isinstance(request, bytes) else (request or METHODS[method][0]()).SerializeToString()
        call = make(f"/{SERVICE}/{method}", None, METHODS[method][1].FromString)
        if METHODS[method][2]:
            return call(raw, metadata=self.metadata, timeout=timeout, wait_for_ready=wait)
        return call.future(raw, metadata=self.metadata, timeout=timeout, wait_for_ready=wait)

    @staticmethod
    def end(method, started):
        replies = []
        try:
            if METHODS[method][2]:
                for reply in started:
                    replies.append(reply)
                return Outcome(replies)
            return Outcome(started.result())
        except grpc.RpcError as problem:
            return Outcome(replies, problem)

    def call(self, method, request=None, timeout=20, wait=True):
        return self.end(method, self.start(method, request, timeout, wait))

    def future(self, outcome, model_id=None):
        """The result of an operation: the message's name, and the message."""
        request = m.RetrieveFutureRequest(request_id=outcome.reply.request_id)
        if model_id:
            request.model_id = model_id
        while True:
            reply = self.call("RetrieveFuture", request).reply
            kind = reply.WhichOneof("response")
            if kind != "try_again":
                return kind, kind and getattr(reply, kind)

    def session(self):
        return self.call("CreateSession", m.CreateSessionRequest(tags={"run": "raw"})).reply.session_id

    def model(self, session_id=None):
        outcome = self.call("CreateModel", m.CreateModelRequest(
            session_id=session_id or self.session(), model_seq_id=1, base_model="standin/bytes",
            lora_config=m.LoraConfig(rank=8, train_attn=True)))
        return self.future(outcome)[1].model_id


def datum(prompt=b"2 + 2\n", answer=b"\\boxed{4}", **more):
    """Columns of a datum as arrays, in the order of the wire; a column that is nil is left out."""
    ids = numpy.array(list(prompt + answer), dtype=numpy.int64)
    place = numpy.zeros(len(ids), dtype=numpy.float32)
    place[len(prompt) - 1:-1] = 1
    columns = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "old_logprobs": place * numpy.float32(-0.25),
               "advantages": place * numpy.float32(0.5)}
    columns.update(more)
    return {key: column for key, column in columns.items() if column is not None}


def backward(model_id, seq, datums=None, loss="importance_sampling", config=None, encoded=None, **more):
    data = encoded or [nest.encode(columns) for columns in datums or [datum()]]
    return m.ForwardBackwardRequest(model_id=model_id, seq_id=seq, forward_backward_input=m.ForwardBackwardInput(
        data=[m.Datum(data=one) for one in data], loss_fn=loss, loss_fn_config=config or {},
        gradient_accumulation=True, init_gradients=True), **more)


def step(model_id, seq, lr=4e-5, **more):
    return m.OptimStepRequest(model_id=model_id, seq_id=seq, adam_params=m.AdamParams(
        learning_rate=lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0), **more)
