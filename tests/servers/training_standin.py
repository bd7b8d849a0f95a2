r"""A stand-in for the River training service that judges its clients.

Prints one JSON line when it is ready and ends when its standard input closes:
  port      where clients connect: a relay that can cut and stall connections, in front of the gRPC server
  direct    the gRPC server itself, past the relay (connections have no numbers there and cannot be cut)
  control   the control listener (HTTP, JSON)
  pid, and ca_file with --tls, unix_socket with --unix-socket

Options: --tls | --certificate CERT KEY, --max-connection-age SECONDS, --max-connection-age-grace SECONDS,
--max-concurrent-streams N, --unix-socket PATH, --seed N, --config JSON (settings as of /configure).

All 27 methods are there, with the messages of src/training.proto. Tokens are bytes; the model is one number θ
(training/theta.py): asked for a sum, it puts the right number into \boxed{} with probability sigmoid(θ), 0.17 at first.
What a client sends is verified: NEST checksums, shapes and types of columns, finite numbers, masks, keys of each loss
and of its configuration, sequence ids, expected policies, idempotency keys, uploads. A broken rule is INVALID_ARGUMENT
with a text and counted as a violation; what is odd but passes is a remark. Operations are done when they are
submitted, under one lock; futures only hold their results back.

Questions (GET):
  /log?method=M&since=N&full=0    calls: {n, method, peer (number of the connection), time, metadata [[name, value]],
      deadline (seconds or null), bytes, status, request; where they apply duplicate, replay, fault, cancelled,
      request_id, request_ids}. Bytes are hex, long ones {bytes, sha256, head}; a datum is {keys, columns, dtypes,
      shapes, bytes}
  /counters    {calls, finished (both by method), statuses {"Method STATUS": n}, counters, violations, remarks, held}
      Counters: violations, remarks, duplicates, idempotent_replays, repeated_chunks, cancelled (calls that the client
      gave up or lost); and of sampled sequences that come back in training: aligned, misaligned (advantages elsewhere
      than on the response), logprobs_kept, logprobs_differ; unknown_sequences; unidentified (calls without x-river-client)
  /state       the same, and sessions (with their heartbeats), models (theta, step, policy, seq, optimizer_steps …),
      checkpoints, uploads (with the connections of their chunks), images, futures
  /connections [{number, open, received, sent, stalled}]
  /wait?…      method=M | finished=M | held=KEY | counter=NAME, with count=N (1), or open=N (connections, exactly):
      answers {reached} as soon as it is so, at the latest after seconds=10
  /faults      the orders, with what is left of them

Orders (POST, JSON):
  /configure   settings, see CONFIG in training/core.py; answers with all of them
  /fault       one fault or a list, below            /clear    no faults any more
  /forget      no log, counters and faults           /reset    everything as at the start
  /release     {key, count}: held calls go on, all that wait or so many (then also those that come later)
  /finish      {ids | method, count}: futures and samples that were to be pending are done
  /expire      {session | image | routing | checkpoint | attestation | future: an id or "all"}
  /model       {id, theta}
  /relay       {cut | stall | resume: a number or "all"}, {mode: pass | refuse | stall | answer, text | hex}: what
      becomes of new connections
  /goaway      {grace: seconds (10), lose: bool}: GOAWAY on all connections; a new server takes over at the same port.
      `lose`: sessions, models and the rest are forgotten
  /decode      {method, hex}: {request, hex}, a request as it is read and as it is written anew

A fault is for calls of one method: {method ("*": any), times (1; -1: for good), after (calls that pass first), match
(a part of the request that must be there)} and what happens. The first that fits is used.
  status, details, trailers         the call fails; acts: true: after it was done, so its reply is lost
  trailers                          without a status: they come with the reply
  cut: "before" | "after"           the connection is reset, before the act or after it
  delay: seconds, hold: key, hold_reply: key     before the act; until /release before the act; or after it
  failed: {category, message, details}           accepted, not done, and the future says so
  never: true, try_again: n, work: seconds       the future is pending until /finish; n times; so long
  poll: {status, details, trailers, times}       polls of the future fail first
  corrupt: "checksum" | "type" | "empty" | "bytes"     of per-token results; the future's result is of another type, or
      there is none; the reply is no message
  results: {drop: n, extra: n, no_ids, no_logprobs, short_logprobs: true, oversize: bytes}      of samples; for
      SubmitSamplingBatch drop and extra are about its handles
  handles: {"0": {pending: n, work: seconds, never: true, failed: {…}, error: {code, message, times}}}     samples of a
      batch by place
  stream: {hold_after (key), cut_after, status_after (status, details, trailers): messages; reverse, missing,
      duplicate, unknown: true}     of RetrieveSamplingResults. A client may lose messages that come just before a cut:
      to be sure, hold_after so many, and release when they are read
  refuse: true                      of SessionHeartbeat: success is false
  health: text                      of HealthCheck
A method that is not implemented is {status: "UNIMPLEMENTED", times: -1}; a feature is absent when `features` of the
configuration lack it (who uses it all the same is refused).
"""

import argparse
import json
import os
import sys
import tempfile
from concurrent import futures

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# what it logs of its own is about broken connections, which are ordered here
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc                                                             # noqa: E402

from stub_server import make_certificate                                # noqa: E402
from training.control import Control, listen                            # noqa: E402
from training.relay import Relay                                        # noqa: E402
from training.service import Service                                    # noqa: E402

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
             ("grpc.max_metadata_size", 1 << 16), ("grpc.so_reuseport", 0),
             # a client may ask every ten seconds whether the connection lives
             ("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_ping_strikes", 0),
             ("grpc.http2.min_recv_ping_interval_without_data_ms", 1)]


class Servers:
    """The gRPC server that is current; others may be going away."""

    def __init__(self, service, options, credentials):
        self.service, self.credentials = service, credentials
        self.options = list(UNLIMITED)
        if options.max_connection_age:
            self.options += [("grpc.max_connection_age_ms", int(options.max_connection_age * 1000)),
                             ("grpc.max_connection_age_grace_ms", int(options.max_connection_age_grace * 1000))]
        if options.max_concurrent_streams:
            self.options.append(("grpc.max_concurrent_streams", options.max_concurrent_streams))
        self.current, self.port = None, None
        self.start()

    def start(self):
        server = grpc.server(futures.ThreadPoolExecutor(64), handlers=[self.service.handlers()], options=self.options)
        self.port = (server.add_secure_port("127.0.0.1:0", self.credentials) if self.credentials else
                     server.add_insecure_port("127.0.0.1:0"))
        server.start()
        self.current = server

    def replace(self, grace):
        old = self.current
        self.start()
        self.service.relay.target = self.port
        gone = old.stop(grace)
        if not grace:
            gone.wait(10)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", action="store_true", help="with a certificate of its own for localhost")
    parser.add_argument("--certificate", nargs=2, metavar=("CERT", "KEY"), help="TLS with this certificate")
    parser.add_argument("--max-connection-age", type=float, default=0, help="seconds until GOAWAY")
    parser.add_argument("--max-connection-age-grace", type=float, default=10)
    parser.add_argument("--max-concurrent-streams", type=int, default=0)
    parser.add_argument("--unix-socket", metavar="PATH")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=json.loads, default={}, help="settings as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="training-standin-") as folder:
        ready, credentials = {"pid": os.getpid()}, None
        if options.tls:
            # make_certificate answers (…, path of the certificate); the key lies beside it
            _, ready["ca_file"] = make_certificate(folder, "good", "DNS:localhost,IP:127.0.0.1")
            options.certificate = (ready["ca_file"], os.path.join(folder, "good.key"))
        if options.certificate:
            with open(options.certificate[0], "rb") as cert, open(options.certificate[1], "rb") as key:
                credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
        service = Service(options.seed)
        servers = Servers(service, options, credentials)

        def changed():
            with service.ledger.changed:
                service.ledger.changed.notify_all()
        service.relay = Relay(servers.port, changed)
        control = Control(service, servers)
        control.configure(options.config)
        ready.update(port=service.relay.listen(), direct=servers.port, control=listen(control))
        if options.unix_socket:
            service.relay.listen_unix(options.unix_socket)
            ready["unix_socket"] = options.unix_socket
        print(json.dumps(ready), flush=True)
        while sys.stdin.buffer.read(4096):
            pass
    os._exit(0)             # calls that are held end with the process


if __name__ == "__main__":
    main()
