"""Where the stand-in listens: over TLS, on a Unix socket, past its relay, and on connections that grow old."""

from raw import INFO, Client, control, say

import grpc                                                             # noqa: E402

if "ca_file" in INFO:
    with open(INFO["ca_file"], "rb") as file:
        trusted = grpc.ssl_channel_credentials(file.read())
    say("tls", status=Client(f"localhost:{INFO['port']}", trusted).call("HealthCheck").status,
        plain=Client().call("HealthCheck", timeout=2, wait=False).status)
if "unix_socket" in INFO:
    say("unix", status=Client("unix:" + INFO["unix_socket"]).call("HealthCheck").status)
    say("direct", status=Client(f"127.0.0.1:{INFO['direct']}").call("HealthCheck").status,
        peer=control("log")[-1]["peer"])
    client, statuses = Client(), set()
    before = len(control("connections"))
    while len(control("connections")) < before + 3:             # three connections, one after the other
        statuses.add(client.call("HealthCheck").status)
    say("age", statuses=sorted(statuses))
