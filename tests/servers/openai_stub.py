"""A server with OpenAI's chat completions, small and not always well: for the provider that forwards.

What it does is chosen by the model: "echo" answers with the last message; "status:<n>" refuses; "html" answers with a
page; "json" and "nochoices" with other things; "error200" with an error and status 200; "slow" never answers; streams:
"cut" ends without an end, "early" before the first piece, "broken" with an error, "garbage" with what is not JSON,
"stall" says nothing after the first piece. Every answer holds what came in under "seen".
"""

import http.server
import json
import sys
import threading
import time


def completion(body, headers):
    text = body["messages"][-1]["content"] if body.get("messages") else ""
    return {
        "id": "chatcmpl-upstream", "object": "chat.completion", "created": 1700000000, "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33},
        "seen": {"body": body, "authorization": headers.get("authorization"), "extra": headers.get("x-extra")},
    }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, text, kind="application/json"):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def event(self, value):
        data = f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def chunk(self, model, delta, finish=None, **more):
        self.event({"id": "chatcmpl-upstream", "object": "chat.completion.chunk", "model": model, "created": 1700000000,
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})

    def stream(self, model, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.chunk(model, {"role": "assistant"})
        if model == "garbage":
            self.event("{no")
        if model not in ("early", "garbage"):
            text = body["messages"][-1]["content"]
            for word in text.split(" "):
                self.chunk(model, {"content": word + " ", "reasoning_content": "hm"})
                if model == "stall":
                    time.sleep(60)
                if model == "broken":
                    self.event({"error": {"message": "the model fell over"}})
                    break
        if model == "echo":
            self.chunk(model, {}, "stop")
            if (body.get("stream_options") or {}).get("include_usage"):
                self.event({"id": "chatcmpl-upstream", "choices": [], "usage": {"prompt_tokens": 11,
                            "completion_tokens": 22, "total_tokens": 33}})
            self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model = body["model"]
        if self.path != "/v1/chat/completions":
            self.reply(404, json.dumps({"error": {"message": "no such path"}}))
        elif model.startswith("status:"):
            self.reply(int(model[7:]), json.dumps({"error": {"message": f"refused with {model[7:]}"}}))
        elif model == "html":
            self.reply(502, "<html>\n<h1>Bad Gateway</h1></html>", "text/html")
        elif model == "json":
            self.reply(200, "not JSON")
        elif model == "nochoices":
            self.reply(200, "{}")
        elif model == "error200":
            self.reply(200, json.dumps({"error": {"message": "quota is used up"}}))
        elif model == "slow":
            time.sleep(60)
        elif body.get("stream"):
            self.stream(model, body)
        else:
            self.reply(200, json.dumps(completion(body, self.headers)))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


def main():
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"http": server.server_address[1]}), flush=True)
    sys.stdin.read()


main()
