"""Sends the recorded requests of the official client again, as bytes: replay.py INFO SERVERS_FOLDER VECTORS.

Names that the server chose are those of this run: of futures, policies, runs, uploads and images. Sessions and
models get the recorded names. Prints for each request whether its bytes come out of decoding and encoding as they
were, whether it says what was recorded, and with which status it was answered.
"""

import json
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[2])

import grpc                                                             # noqa: E402
from google.protobuf import json_format                                 # noqa: E402

from training import nest, schema                                       # noqa: E402
from training.schema import METHODS, m                                  # noqa: E402

INFO = json.loads(sys.argv[1])


class Replay:
    def __init__(self, channel):
        self.channel = channel
        self.names = {}             # recorded → of this run
        self.submitted = []         # futures of this run that no recorded request has asked for
        self.handles = []
        self.runs = {}

    def call(self, method, request):
        streams = METHODS[method][2]
        make = self.channel.unary_stream if streams else self.channel.unary_unary
        answer = make(f"/{schema.SERVICE}/{method}")(request, metadata=(("x-api-key", "test-key"),), timeout=20)
        if streams:
            return [METHODS[method][1].FromString(message) for message in answer]
        return METHODS[method][1].FromString(answer)

    def renamed(self, text):
        for old, new in self.names.items():
            text = text.replace(old, new)
        return text

    def rename_nest(self, value):
        if isinstance(value, dict):
            return {key: self.rename_nest(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.rename_nest(item) for item in value]
        return self.renamed(value) if isinstance(value, str) else value

    def rename(self, message):
        """Puts the names of this run into a message."""
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING and field.is_repeated and not field.message_type:
                message.ClearField(field.name)
                getattr(message, field.name).extend(self.renamed(item) for item in value)
            elif field.type == field.TYPE_STRING:
                setattr(message, field.name, self.renamed(value))
            elif message.DESCRIPTOR.name == "Datum" and field.name == "data":
                message.data = nest.encode(self.rename_nest(nest.decode(value)))
            elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
                for item in value if field.is_repeated else [value]:
                    self.rename(item)

    def learn(self, method, recorded):
        """Names that stand in a recorded request for the first time."""
        if method == "RetrieveFuture" and recorded["request_id"] not in self.names:
            self.names[recorded["request_id"]] = self.submitted.pop(0)
        elif method == "RetrieveSamplingResults":
            self.names.update(zip(recorded["request_ids"], self.handles))
        elif method == "SaveWeights":
            self.names[recorded["path"].split("/")[0]] = self.runs[recorded["model_id"]]
        policy = recorded.get("expected_policy_id")
        if policy:
            self.names[policy] = self.call("GetInfo", m.GetInfoRequest(
                model_id=recorded["model_id"]).SerializeToString()).policy_version.id

    def note(self, method, answer):
        if hasattr(answer, "request_id"):
            self.submitted.append(answer.request_id)
        elif method == "SubmitSamplingBatch":
            self.handles = list(answer.request_ids)
        elif method == "CreateUpload":
            self.names["up-000064"] = answer.upload_id
        elif method == "UploadImage":
            self.names["3898d190-f9eb-dacc-0cb1-e29c658cda14"] = answer.id
        elif method == "RetrieveFuture" and answer.WhichOneof("response") == "create_model":
            self.runs[answer.create_model.model_id] = answer.create_model.training_run_id

    def step(self, line, call):
        method, raw = call["method"], bytes.fromhex(call["request_hex"])
        message = METHODS[method][0].FromString(raw)
        same = message.SerializeToString(deterministic=True) == raw
        said = json_format.MessageToDict(message, preserving_proto_field_name=True)
        if "base_source" in said:
            said["base"] = said.pop("base_source")
        if method == "LoadWeights" and call["request"]["seq_id"] == "31":
            # a snapshot that is sampled later was saved by a call that is not among the recorded ones
            self.call("SaveWeights", m.SaveWeightsRequest(
                model_id="sess-000002:model:1", seq_id=30, path=self.runs["sess-000002:model:1"] + "/s1",
                mode="inference", durable=True).SerializeToString())
        self.learn(method, call["request"])
        before = message.SerializeToString()
        self.rename(message)
        if message.SerializeToString() != before:
            raw = message.SerializeToString()
        status, details = "OK", ""
        try:
            answer = self.call(method, raw)
            self.note(method, answer)
            if method == "RetrieveFuture":
                details = answer.WhichOneof("response")
        except grpc.RpcError as problem:
            status, details = problem.code().name, problem.details()
        print(json.dumps({"name": f"{line['id']} {line['name']}", "method": method, "same": same,
                          "said": said == call["request"], "status": status, "details": details}), flush=True)


def main():
    with grpc.insecure_channel(f"127.0.0.1:{INFO['port']}") as channel, open(sys.argv[3]) as vectors:
        replay = Replay(channel)
        replay.call("CreateSession", b"")                   # so that the next one is sess-000002, as it was recorded
        for line in map(json.loads, vectors):
            for call in line["calls"]:
                if "method" in call:
                    replay.step(line, call)


main()
