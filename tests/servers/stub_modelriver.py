"""The whole ModelRiver API on loopback, as the vendor's pages and clients describe it, and as badly as a test orders.

Prints one JSON line with its addresses and secrets and ends when its standard input closes. Standard library only.
In Lua: `servers.start{servers.python(), servers.folder .. "stub_modelriver.py"}` (tests/support/servers.lua).

The line: `http`, `tls` (signed by `ca_file`), `control`, `refused` (nobody listens): ports on 127.0.0.1; `keys` =
{good, forbidden (403), revoked (401)}, `project_id`, `webhook_secret`, `pid`. Any other key is answered 401.

Paths: POST /v1/ai, /v1/ai/async, /v1/ai/reconnect, /v1/chat/completions, /v1/callback/<channel_id>; GET
/socket/websocket?token=…&vsn=2.0.0. The same under /api; there /api/v1/ai/reconnect wants no key, as a backend that
relays would. All else is 404 {"errors": {"detail": …}}. Bodies above 4 MiB: 413. Every request is logged with its body.

SWITCHES. What happens is chosen by the workflow's name (on /v1/chat/completions: `model`), so that tests need no other
channel: `base[:argument…]` and any number of `+switch[:argument…]`, in any order: `echo+split:1+crlf`,
`job+close:1001+hold:k7`. A name with an unknown word is 404 model_not_found, except the aliases `marketing-summary`
(= structured) and `batch-processor` (= echo), and those made by control. Without `workflow`, `provider` and `model`
are needed, and `model` may hold switches too. Counted switches (flaky, lose_answer) count per whole name: add
`+id:<anything>` to have a count of your own.

What is answered (all of these also as a stream, and as a job's result):
  echo               the text of the last user message
  text:<text>        this text (no "+" in it)                  big[:<bytes>]     so many b's (1 MiB)
  structured         data of the request's schema (response_format or structured_output_schema), else a sample with
                     summary, topics, confidence; a request with a schema gets data from every workflow
  badschema          data that does not fit                    notjson           text where JSON was expected
  anthropic          the provider's body in Anthropic's shape  image, embedding, completion    such bodies
  tools              calls the request's first tool, or the one that tool_choice names; its arguments are the user's
                     text when that is a JSON object, else made from the parameters; text "Tools said: …" once tool
                     messages are there, or with tool_choice "none". tools:parallel first and last tool;
                     tools:loop calls for ever; tools:badargs cut JSON; tools:empty ""; tools:unknown no such tool
  refusal[:<text>]   message.refusal                           null_content      content null
  length, filter     finish_reason length, content_filter      failover          second attempt, by anthropic
  offline            offline_fallback, structured, all attempts failed           testmode   test mode, structured
  cache:<path>       one more cache field (always: user_id, metadata.audience, metadata.segment)
  cached_data        the field is called so, not customer_data bare              no X-ModelRiver-* headers
  event:<name>       event-driven: 400 model_not_supported unless async
Tool messages that answer no call, or are missing, are 400 as with OpenAI.

Failures:
  fail200            200 with `error`, `data` null             fail<status>      that status: fail401, fail502, …
  rate429[:<retry-after>]   429 always                         html500           500 with an HTML page
  flaky:<n>[:<how>]  the first n times fails: a status (503), 200 (as fail200), or reset, close_http, badjson, empty200,
                     text200, truncate, html500
  shape:<shape>      of the failure's body: openai, string ({"error", "message"}), message, errors, text, html, empty,
                     list
  retry_after:<text>, retry_after_ms:<ms>, retry_date:<seconds from now>, should_retry:<text>     headers of failures
  reset, close_http  RST or FIN after the request was read     lose_answer[:<n>] done and kept, then RST, n times (1)
  badjson, truncate, empty200, text200   of the good answer: spoilt, cut in its length, nothing, plain text
  slow:<ms>, hold[:<key>]    before the answer, or before a job's result: time, or until control releases the key
  hold_post[:<key>]  before the answer of any POST             chunked, drip:<n> chunks of 7 bytes; n bytes a write
Idempotency-Key is honoured: a 2xx is sent again with Idempotent-Replayed; 409 for another body, or while in flight.

Streams (`stream: true`): a role chunk, pieces (words) of the text, a finish chunk, usage when include_usage is asked
for, [DONE].
  stream             (nothing: as echo)                        plain             ordinary JSON all the same
  chars:<n>          pieces of n characters                    many:<n>[:<piece>]    n equal pieces as fast as possible
  split:<n>          n bytes a write (and a chunk)             eof               no chunks: until the connection ends
  crlf, cr, bom, nospace, multiline (JSON over several data lines), fields (id, retry, unknown ones)
  comments[:<n>]     n comments before every piece             null_role         content null beside the role
  usage[:finish]     a usage chunk unasked; or on the finish chunk               finish_with_content
  midfail:<shape>[:<n>]   an error after n (1) pieces: data, event, choice
  stall[:<n>[:<key>]]     silence after n (1) pieces until the key ("stall") is released
  cut[:<n>[:<end>]]       ends after n (1) pieces; end: clean (last chunk), fin, rst
  nodone[:<end>]     ends after the finish chunk               unterminated      no blank line after [DONE]
  badevent[:<n>]     an event of cut JSON after n (1) pieces   after_done        one more piece after [DONE]
  linger[:<key>]     the body does not end after [DONE] until the key is released

The async answer (`job` alone is echo):
  http:<status>      of the answer (200)                       pending:<word>    its `status`
  short              the specification's short form: 2-part topic, no project_id     topic:2     2-part topic only
  no_token, no_project, no_channel    left out                 jwt_token         the token is a JWT
  ws_url:<kind>      slash (/socket/), full (/socket/websocket), bare (no path), none (left out)
  spent, expired     the first token is                        token_ms:<ms>     life of all tokens (300000)
  upgrade:<how>[:<n>]     refused (n times): a status, hang, bad_accept, no_accept, no_upgrade, protocol, extension
  reconnect:<how>[:<n>]   /v1/ai/reconnect answers (n times) a status, no_token, no_channel

The job on its channel. It runs when it is made; what it said is told to all who join, each time they join:
  early:lost         not told to those who join later          before_reply      told before the join is answered
  mute_join[:<n>]    the first n (1) joins are not answered    join_only:<2|3>   topics of so many parts only
  refuse[:<reason>[:<n>]]   (the first n) joins are refused    crash[:<n>[:new]] phx_error after the first n (1) joins
  close:<code>[:<n>] after the first n (1) joins the socket ends: a code, 1006 or rst (RST), 1005 (empty), fin (FIN)
  close_early:<code>[:<n>]  the same instead of an answer to the join
  fail_job[:<text>]  failure payload                           fail_bare         one that says nothing
  fail200            the provider's failure as payload         error_event[:<text>]   the `error` event
  status:<word>      status of the payload                     meta_only         only meta.status says success
  success_event      event `success` instead of `response`     own_ref           pushed with the client's join_ref
  foreign_ref        before it, a frame of another join_ref    stray             before it, another topic and reply
  unknown_events[:<n>]      before it, n (1) `progress` events binary, ping      before it, a frame of that kind
  fragment[:<n>]     in frames of n (16) bytes, a ping between ws_split:<n>      n bytes a write
  mute_heartbeat     no answer to heartbeats                   idle:<ms>         silent sockets are closed (60000)
  topic_heartbeat:<how>     none, or crash, on the job's topic (else answered)
  frame:<kind>       before it, a bad frame: masked, rsv, opcode, bad_utf8, cut_utf8, big_ping, split_ping, orphan,
                     interrupted, huge, negative, close_short, close_code, close_utf8, cut; or a bad text: notjson,
                     not_array, short_array, payload, empty
Real refusals: unmatched topic (not ai_response:…), invalid_channel_format, invalid_project_uuid, invalid_channel_uuid
(also unknown ones), unauthorized_project_access. Tokens open one socket once; 403 after that.

Event-driven jobs (`event:<name>`): ai_generated, then completed when POST /v1/callback/<channel_id> came.
  old                ai_generated carries ai_response          auto              the callback is simulated
  window:<ms>        for the callback (300000), then failure   callback_fail:<status>[:<n>]   answered n (1) times
The callback: 404 unknown, 400 without a `data` object or an `error` text, 409 the second, 410 too late.

Webhooks, to the request's `webhook_url` (http only), delays a ten thousandth of the real ones:
  scheme:<A|B|C>     of the signature (A; B without data is C) badsig, nosig     another secret; no signature
  stale[:<seconds>]  timestamp in the past (3600)              twice             delivered twice
  callback_header    callback URL in the header only           inside_data       fields inside `data`
  observability      task.completed inside `data`              odd_json          `data` in unusual spaces and escapes
  attempts:<n>       of 8

CONTROL (GET, not counted): /stats, /log?path=…, /reset, /release?key=…, /wait?… with listener (http, tls, websocket)
and open=N | accepted=N, requests=N, key and waiting=N | counted=N (ten seconds at most). Counters: run:<workflow>,
stream:<workflow> (ended as told), gone and gone:<workflow> (the client left), flaky:…, lose_answer:…,
idempotency:<key>, replayed, unauthorized, reconnect, callback, done:<workflow>, joined, refused, frame:<event>, pong, idle,
"invalid message", upgrade:403, close:<code received>, delivered:<workflow> and dead:<workflow> (webhooks).
  /jobs /sockets /frames?way=in|out /deliveries      what there is, was said, and was delivered
  /kill?code=…&socket=…      ends open sockets         /crash?channel_id=…        phx_error on a job's channels
  /push?channel_id=…&event=…&payload=JSON&own=1        an event of the test's own
  /raw?text=… | hex=…        a text frame, or any bytes, to all open sockets
  /expire?channel_id=…       its tokens are too old    /token?channel_id=…        a fresh one, as /v1/ai/reconnect
  /lapse?channel_id=…        the callback is too late  /workflow?name=…&switches=…    another name for switches
  /deliver?url=…&body=…&scheme=…&data=…&timestamp=…&secret=…&channel_id=…     one webhook, now; answers its status
"""

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import stub_modelriver_control as control                               # noqa: E402
import stub_modelriver_http as http                                     # noqa: E402
from stub_modelriver_core import ClientGone, Connection, Hub            # noqa: E402
from stub_server import make_certificate                                # noqa: E402


async def listen(name, serve, hub, tls=None):
    """A listener on a port that the system chooses; its port."""
    counted = name != "control"

    async def accepted(reader, writer):
        number = hub.ledger.opened(name) if counted else 0
        conn = Connection(reader, writer, name, number, hub.ledger)
        try:
            await serve(hub, conn)
        except (ClientGone, OSError, ValueError):
            pass
        finally:
            await conn.finish()
            if counted:
                hub.ledger.closed(name)
    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls, backlog=1024, limit=1 << 20)
    return server, server.sockets[0].getsockname()[1]


async def run(folder):
    hub = Hub()
    tls, ca_file = make_certificate(folder, "good", "DNS:localhost,IP:127.0.0.1")
    listeners = {"http": (http.serve, None), "tls": (http.serve, tls), "control": (control.serve, None)}
    servers, line = [], {}
    for name, (serve, context) in listeners.items():
        server, line[name] = await listen(name, serve, hub, context)
        servers.append(server)
    refused = socket.socket()
    refused.bind(("127.0.0.1", 0))          # bound, but nobody listens
    line.update(refused=refused.getsockname()[1], keys=hub.keys, project_id=hub.project_id,
                webhook_secret=hub.webhook_secret, ca_file=ca_file, pid=os.getpid())
    print(json.dumps(line), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


def main():
    folder = tempfile.mkdtemp(prefix="stub-modelriver-")
    try:
        asyncio.new_event_loop().run_until_complete(run(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)                 # some requests may be held on purpose


if __name__ == "__main__":
    main()
