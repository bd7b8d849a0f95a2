"""The cases of the public interop test on grpcio's own client: interop_client.py READY-LINE

READY-LINE is what one of the servers printed. Prints "ok NAME" or "not ok NAME: why" for every case and ends with 1 if
one failed. It judges the servers, so that interop_spec.lua can judge riverlua with them.
"""

import json
import os
import sys
import tempfile
import urllib.request

import grpc

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "servers"))

from grpc_interop_server import INITIAL, TRAILING, compile_messages     # noqa: E402

SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
SECOND = 1000000


def expect(what, wanted, got):
    if wanted != got:
        raise AssertionError("%s: wanted %r, got %r" % (what, wanted, got))


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call succeeded")


class Cases:
    def __init__(self, pb, channel, stub, control):
        self.pb, self.channel, self.stub, self.control = pb, channel, stub, control

    def simple(self, **more):
        return self.pb.SimpleRequest(response_size=314159, payload=self.pb.Payload(body=bytes(271828)), **more)

    def stream(self, *sizes, interval=0):
        parameters = [self.pb.ResponseParameters(size=size, interval_us=interval if number else 0)
                      for number, size in enumerate(sizes)]
        return self.pb.StreamingOutputCallRequest(response_parameters=parameters)

    def empty_unary(self):
        expect("reply", b"", self.stub.EmptyCall(self.pb.Empty()).SerializeToString())

    def large_unary(self):
        expect("body", bytes(314159), self.stub.UnaryCall(self.simple()).payload.body)

    def server_streaming(self):
        sizes = [31415, 9, 2653, 58979]
        replies = self.stub.StreamingOutputCall(self.stream(*sizes))
        expect("sizes", sizes, [len(reply.payload.body) for reply in replies])

    def custom_metadata(self):
        sent = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
        _, unary = self.stub.UnaryCall.with_call(self.simple(), metadata=sent)
        duplex = self.stub.FullDuplexCall(iter([self.stream(314159)]), metadata=sent)
        expect("replies", 1, len(list(duplex)))
        for call in unary, duplex:
            expect("initial", sent[0][1], dict(call.initial_metadata())[INITIAL])
            expect("trailing", sent[1][1], dict(call.trailing_metadata())[TRAILING])

    def large_metadata(self):
        value = bytes(range(256)) * 160
        _, call = self.stub.UnaryCall.with_call(self.pb.SimpleRequest(), metadata=((TRAILING, value),))
        expect("trailing", value, dict(call.trailing_metadata())[TRAILING])

    def status_code_and_message(self, message="test status message"):
        wanted = self.pb.EchoStatus(code=2, message=message)
        unary = failure(lambda: self.stub.UnaryCall(self.pb.SimpleRequest(response_status=wanted)))
        request = self.pb.StreamingOutputCallRequest(response_status=wanted)
        duplex = failure(lambda: list(self.stub.FullDuplexCall(iter([request]))))
        for error in unary, duplex:
            expect("status", (grpc.StatusCode.UNKNOWN, message), (error.code(), error.details()))

    def special_status_message(self):
        self.status_code_and_message(SPECIAL)

    def unimplemented_method(self):
        call = self.channel.unary_unary("/grpc.testing.TestService/UnimplementedCall")
        expect("status", grpc.StatusCode.UNIMPLEMENTED, failure(lambda: call(b"")).code())

    def unimplemented_service(self):
        call = self.channel.unary_unary("/grpc.testing.UnimplementedService/UnimplementedCall")
        expect("status", grpc.StatusCode.UNIMPLEMENTED, failure(lambda: call(b"")).code())

    def timeout_on_sleeping_server(self):
        request = self.stream(1, 1, interval=2 * SECOND)
        error = failure(lambda: list(self.stub.FullDuplexCall(iter([request]), timeout=0.05)))
        expect("status", grpc.StatusCode.DEADLINE_EXCEEDED, error.code())
        self.wait("given_up=1")   # by its own clock, or because the client said so first

    def cancel_after_begin(self):
        call = self.stub.UnaryCall.future(self.pb.SimpleRequest(), metadata=(("x-test-hold", "1"),))
        self.wait("running=1")
        call.cancel()
        expect("status", grpc.StatusCode.CANCELLED, call.code())
        self.wait("cancelled=1&running=0")

    def cancel_after_first_response(self):
        call = self.stub.FullDuplexCall(iter([self.stream(31415, 1, interval=2 * SECOND)]))
        expect("size", 31415, len(next(call).payload.body))
        call.cancel()
        expect("status", grpc.StatusCode.CANCELLED, call.code())
        self.wait("cancelled=1")

    def too_large_request(self):
        request = self.pb.SimpleRequest(payload=self.pb.Payload(body=bytes(5 << 20)))
        error = failure(lambda: self.stub.UnaryCall(request))
        expect("status", grpc.StatusCode.RESOURCE_EXHAUSTED, error.code())

    def wait(self, query):
        answer = self.ask("/wait?" + query)
        expect(query, None, answer.get("timeout"))

    def ask(self, path):
        with urllib.request.urlopen("http://127.0.0.1:%d%s" % (self.control, path)) as answer:
            return json.load(answer)


def main():
    ready = json.loads(sys.argv[1])
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        pb, services = compile_messages(folder)
        options = (("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 21))
        channels = [(grpc.insecure_channel("127.0.0.1:%d" % ready["http"], options), "plain")]
        if "tls" in ready:
            with open(ready["ca_file"], "rb") as file:
                credentials = grpc.ssl_channel_credentials(file.read())
            channels.append((grpc.secure_channel("localhost:%d" % ready["tls"], credentials, options), "TLS"))
        for channel, kind in channels:
            with channel:
                cases = Cases(pb, channel, services.TestServiceStub(channel), ready["control"])
                for name in [name for name in vars(Cases) if "_" in name and not name.startswith("_")]:
                    cases.ask("/reset")
                    try:
                        getattr(cases, name)()
                        print("ok %s %s" % (name, kind))
                    except Exception as error:      # whatever it is, the next case is to be tried too
                        failed = True
                        print("not ok %s %s: %s" % (name, kind, error))
    sys.exit(failed)


if __name__ == "__main__":
    main()
