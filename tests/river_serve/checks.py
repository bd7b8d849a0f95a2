"""`riverlua serve river` as programs see it that were written for a django-river-ml server.

    python checks.py CHECK PORT [MORE…]

Runs one check against a running service; an assertion that fails says what was seen.
"""

import base64
import http.client
import json
import os
import pickle
import sys
import threading

PATIENCE = 60


class Api:
    """One connection to a server."""

    def __init__(self, port, prefix="/api", headers=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.prefix = prefix
        self.headers = headers or {}

    def send(self, method, path, body=None, headers=None):
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        self.connection.request(method, self.prefix + path, body, {**self.headers, **(headers or {})})
        response = self.connection.getresponse()
        return response.status, response.headers, response.read()

    def json(self, method, path, body=None):
        status, _, content = self.send(method, path, body)
        assert status in (200, 201), (method, path, status, content)
        return json.loads(content)

    def open(self, path):
        self.connection.request("GET", self.prefix + path, headers=self.headers)
        return self.connection.getresponse()


def model_bytes():
    import dill
    from river import linear_model, preprocessing

    return dill.dumps(preprocessing.StandardScaler() | linear_model.LinearRegression())


# ---- the same answers as a real server's

SAME = [
    ("GET", "", None), ("GET", "/models", None), ("GET", "/models?a=1&b", None), ("GET", "/models/?a=1", None),
    ("POST", "/learn", "{}"), ("DELETE", "/model", "model=x"), ("GET", "/stream/events/x", None),
    ("GET", "/nope", None), ("GET", "/nope/", None), ("POST", "/nope/", "x"), ("GET", "/learnt/", None),
    ("GET", "/model/x", None), ("GET", "/model/a/b/c/", None), ("GET", "/model/a/b/c", None),
    ("GET", "/model//", None), ("GET", "//models/", None), ("GET", "/model/a%2Fb/c/", None), ("GET", "/models/x/", None),
    ("HEAD", "/models/", None), ("HEAD", "/models", None), ("HEAD", "/nope/", None), ("HEAD", "/learn/", None),
    ("HEAD", "/model/nope/", None), ("GET", "/learn/", None), ("PUT", "/learn/", "{}"), ("POST", "/models/", ""),
    ("DELETE", "/models/", None), ("PATCH", "/metrics/", "{}"), ("POST", "/stream/events/", ""),
    ("HEAD", "/stream/metrics/", None), ("POST", "/auth/token/", ""), ("GET", "/auth/token/", None),
    ("GET", "/auth/token", None), ("GET", "/model/nope/", None), ("GET", "/model/download/nope/", None),
    ("GET", "/model/download/", None), ("DELETE", "/model/", "model=nope"), ("DELETE", "/model/", ""),
    ("POST", "/learn/", "{"), ("POST", "/learn/", ""), ("POST", "/predict/", "\xff"), ("POST", "/label/", "no"),
    ("GET", "/metrics/", None), ("GET", "/metrics/", "{}"), ("GET", "/metrics/", '{"model": "nope"}'),
    ("GET", "/stats/", '{"model": "nope at all"}'), ("POST", "/learn/", "{}"),
    ("POST", "/learn/", '{"model": "nope", "features": {"a": 1}, "ground_truth": 1}'),
    ("POST", "/predict/", '{"model": "nope", "features": {"a": 1}}'),
]


def shown(answer, method):
    """What must be equal: pages of HTML only in being pages."""
    status, headers, body = answer
    kind = (headers.get("Content-Type") or "").split(";")[0]
    content = json.loads(body) if kind == "application/json" and body else "a page" if kind == "text/html" else body
    if isinstance(content, bytes):
        content = content.decode("latin-1")
    if status == 301 or method == "HEAD":
        content = None
    allow = sorted(set(headers.get("Allow", "").replace(",", " ").split()) - {"OPTIONS", "HEAD"})
    return {"status": status, "type": kind, "body": content, "location": headers.get("Location"),
            "allow": allow if status == 405 else None,
            "challenge": headers.get("Www-Authenticate")}


def same_answers(port, real_port):
    different = []
    for method, path, body in SAME:
        ours = shown(Api(port).send(method, path, body and body.encode("latin-1")), method)
        real = shown(Api(int(real_port)).send(method, path, body and body.encode("latin-1")), method)
        real["challenge"] = real["challenge"] and real["challenge"].replace(real_port, str(port))
        if real != ours:
            different.append("%s %s:\n  real %r\n  ours %r" % (method, path, real, ours))
    assert not different, "\n".join(different)


def outside_the_prefix(port):
    for path in ["/", "/ap", "/apis/", "/other/models/", "/models/"]:
        status, headers, _ = Api(port, prefix="").send("GET", path)
        assert status == 404 and headers["Content-Type"].startswith("text/html"), path


def strange_names(port):
    """Names that no answer could tell are refused, so that the answers about all models stay possible."""
    api = Api(port)
    for name in ["%ff%fe", "a%80", "%ed%a0%80", "%c3"]:
        status, _, body = api.send("POST", "/model/regression/%s/" % name, model_bytes())
        assert status == 400 and "UTF-8" in json.loads(body)["message"], (name, status, body)
        assert api.send("GET", "/model/%s/" % name)[0] == 404
        assert api.send("GET", "/model/download/%s/" % name)[0] == 404
        assert api.send("DELETE", "/model/", "model=" + name)[0] == 404
    assert api.json("POST", "/model/regression/%c3%a4%00b/", model_bytes()) == {"name": "ä\0b"}
    assert "ä\0b" in api.json("GET", "/models/")["models"]
    for path in ["/learn/", "/predict/", "/label/"]:
        status = api.send("POST", path, b'{"model": "\xff", "features": {"a": 1}, "label": 1, "identifier": 1}')[0]
        assert status == 400, (path, status)


def tables_as_names(port):
    """What is no name is repeated as Python would write it."""
    api, x = Api(port), {"a": 1.0}
    api.json("POST", "/model/regression/named/", model_bytes())
    for value in [{"a": 1}, [1, 2.5, "x"], {"b": [True, None, {"c": "it's"}], "d": {}, "e": []}, ["é\n"]]:
        status, _, body = api.send("POST", "/learn/", {"model": value, "features": x, "ground_truth": 1})
        assert (status, json.loads(body)) == (400, "No model named '%s'." % value), body
        sample = {"model": "named", "identifier": value, "label": 1}
        status, _, body = api.send("POST", "/label/", sample)
        assert (status, json.loads(body)) == (400, "No information stored for ID '%s'" % value), body
        assert api.json("POST", "/predict/", {"model": "named", "features": x, "identifier": value})["identifier"] == value
        assert api.json("POST", "/label/", sample) == "Successful label."
        assert api.json("GET", "/stats/", {"model": value})["learn"]["n_calls"] == 1
    deep = inner = []
    for _ in range(100):
        inner.append([])
        inner = inner[0]
    for value in [deep, ["x" * 100000], list(range(100000)), {str(i): i for i in range(10000)}]:
        status, _, body = api.send("POST", "/predict/", {"model": value, "features": x})
        assert status == 400 and len(body) < 5000 and b"..." in body and b"0x" not in body, body[:200]


# ---- authentication


def basic(user, token):
    return {"Authorization": "Basic " + base64.b64encode(("%s:%s" % (user, token)).encode()).decode()}


def bearer(token, word="Bearer"):
    return {"Authorization": "%s %s" % (word, token)}


PROTECTED = [
    ("GET", "/models/", None), ("POST", "/learn/", "{}"), ("POST", "/predict/", '{"model": "x", "features": {"a": 1}}'),
    ("GET", "/model/x/", None), ("GET", "/model/download/x/", None), ("DELETE", "/model/", "model=x"),
    ("POST", "/model/regression/", "x"), ("POST", "/model/regression/x/", "x"),
]
OPEN = [("GET", "/", None), ("GET", "/metrics/", '{"model": "x"}'), ("GET", "/stats/", '{"model": "unheard of"}'),
        ("POST", "/label/", "{"), ("GET", "/nope/", None), ("GET", "/models", None)]


def auth_answers(port, user, token):
    """What a server with authentication answers to each of these."""
    api, seen = Api(port), []

    def note(what, answer, method):
        seen.append((what, shown(answer, method)))

    for method, path, body in PROTECTED:
        note(("nobody", method, path), api.send(method, path, body), method)
        note(("forged", method, path), api.send(method, path, body, bearer("forged")), method)
        note(("basic", method, path), api.send(method, path, body, basic(user, token)), method)
    for method, path, body in OPEN:
        answer = api.send(method, path, body)
        note(("open", method, path), (answer[0], {}, b""), method)
    note("bad JSON", api.send("POST", "/learn/", "{"), "POST")
    note("HEAD", api.send("HEAD", "/models/"), "HEAD")
    note("PUT", api.send("PUT", "/learn/", "{}"), "PUT")
    note("realm without slash", api.send("GET", "/auth/token", None, basic(user, token)), "GET")
    for what, headers in [("nobody", {}), ("user", basic("x" + user, token)), ("token", basic(user, token + "x")),
                          ("shorter", basic(user, token[:-1])), ("none", basic(user, "")), ("bearer", bearer(token))]:
        note(("realm", what), api.send("GET", "/auth/token/", None, headers), "GET")
    status, _, body = api.send("GET", "/auth/token/", None, basic(user, token))
    granted = json.loads(body)
    note("realm", (status, {}, b""), "GET")
    note("what it grants", (sorted((key, type(value).__name__) for key, value in granted.items()), {}, b""), "GET")
    for word in ["Bearer", "bearer", "BEARER", "Token"]:
        note(word, api.send("GET", "/models/", None, bearer(granted["token"], word)), "GET")
    note("changed", api.send("GET", "/models/", None, bearer(granted["token"][:-1] + "!")), "GET")
    return seen


def same_auth_answers(port, real_port, user, token):
    ours = json.dumps(auth_answers(port, user, token)).replace(":%d" % port, ":PORT")
    real = json.dumps(auth_answers(int(real_port), user, token)).replace(":" + real_port, ":PORT")
    different = ["ours %s\nreal %s" % pair for pair in zip(json.loads(ours), json.loads(real)) if pair[0] != pair[1]]
    assert not different, "\n".join(different)


def bad_credentials(port):
    for header in ["Basic !!!", "Basic", "Basic bm8gY29sb24=", "Basic YTpi YTpi", "Basic =", "", "Basic " + "A" * 5000]:
        assert Api(port).send("GET", "/auth/token/", None, {"Authorization": header})[0] == 403, header
    status, headers, _ = Api(port).send("GET", "/models/", None, {"Host": 'x"y'})
    assert status == 401 and headers["Www-Authenticate"].startswith('realm="http://127.0.0.1:%d/' % port)


def large_bodies(port, user, token):
    """Bodies of strangers are not read; who is known may send them, and the official client finds its way."""
    from riverapi.main import Client

    def large(method, path, headers=None):
        api = Api(port)
        api.connection.putrequest(method, "/api" + path)
        api.connection.putheader("Content-Length", "100000000")
        for name, value in (headers or {}).items():
            api.connection.putheader(name, value)
        api.connection.endheaders()
        response = api.connection.getresponse()   # nothing of the body has been sent
        assert response.headers["Connection"] == "close"
        return response.status, response.headers

    for path in ["/learn/", "/predict/", "/model/regression/x/", "/model/regression/"]:
        for headers in [{}, bearer("forged")]:
            status, answered = large("POST", path, headers)
            assert status == 401 and answered["Www-Authenticate"].startswith('realm="http://127.0.0.1'), (path, status)
        assert large("POST", path, basic(user, token))[0] == 403
    assert large("POST", "/label/")[0] == large("GET", "/metrics/")[0] == large("GET", "/stream/events/")[0] == 413
    assert large("POST", "/nope/")[0] == 404 and large("POST", "/learn")[0] == 301
    assert large("GET", "/auth/token/")[0] == 403
    assert large("GET", "/auth/token/", basic(user, token))[0] == 200
    os.environ["RIVER_ML_USER"], os.environ["RIVER_ML_TOKEN"] = user, token
    client = Client("http://127.0.0.1:%d" % port, quiet=True)
    Api(port).send("GET", "/auth/token/", None, basic(user, token))
    granted = json.loads(Api(port).send("GET", "/auth/token/", None, basic(user, token))[2])["token"]
    mine = Api(port, headers=bearer(granted))
    mine.json("POST", "/model/regression/large/", model_bytes())
    features = {"feature %d" % i: float(i) for i in range(20000)}
    assert client.learn("large", x=features, y=1.0) == "Successful learn."
    assert mine.json("GET", "/stats/", {"model": "large"})["learn"]["n_calls"] == 1
    assert len(mine.send("GET", "/model/download/large/")[2]) > 100000


# ---- clients


def no_learn_is_lost(port):
    api = Api(port)
    api.json("POST", "/model/regression/shared/", model_bytes())
    failures = []

    def learn(first):
        mine = Api(port)
        try:
            for i in range(200):
                sample = {"model": "shared", "features": {"a": first + i, "b": i % 7}, "ground_truth": i % 5}
                assert mine.json("POST", "/learn/", sample) == "Successful learn."
                mine.json("POST", "/predict/", {"model": "shared", "features": {"a": i}})
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=learn, args=(1000 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert api.json("GET", "/stats/", {"model": "shared"})["learn"]["n_calls"] == 1600
    scaler = list(pickle.loads(api.send("GET", "/model/download/shared/")[2]).steps.values())[0]
    assert scaler.counts["a"] == scaler.counts["b"] == 1600, scaler.counts


def events(port):
    api = Api(port)
    api.json("POST", "/model/regression/seen/", model_bytes())
    listener, measured = Api(port).open("/stream/events/"), Api(port).open("/stream/metrics/")
    for stream in (listener, measured):
        assert stream.status == 200 and stream.headers["Content-Type"] == "text/event-stream"
        assert stream.headers["Transfer-Encoding"] == "chunked"
    sample = {"model": "seen", "features": {"a": 1.0, "b": 2, "ä\U0001f30a": True}, "ground_truth": 3}
    api.json("POST", "/learn/", sample)
    prediction = api.json("POST", "/predict/", {"model": "seen", "features": {"a": 1.0, "b": 2}})["prediction"]
    api.json("POST", "/predict/", {"model": "seen", "features": {"a": 1.0}, "identifier": "i"})
    api.json("POST", "/label/", {"model": "seen", "identifier": "i", "label": 1})

    def event(kind, data):
        return b"event: %s\ndata: %s\n\n" % (kind, json.dumps(data).encode())

    wanted = event(b"learn", {"model": "seen", "features": sample["features"], "prediction": 0.0, "ground_truth": 3})
    wanted += event(b"predict", {"model": "seen", "features": {"a": 1.0, "b": 2}, "prediction": prediction})
    assert listener.read(len(wanted)) == wanted
    assert listener.readline() == b"event: predict\n"
    metrics = api.json("GET", "/metrics/", {"model": "seen"})
    assert list(json.loads(measured.readline()[6:])) == ["MAE", "RMSE", "SMAPE"]
    assert measured.readline() == b"\n"
    assert json.loads(measured.readline()[6:]) == metrics


def official_events(port):
    from riverapi.main import Client

    api, seen = Api(port), []
    api.json("POST", "/model/regression/watched/", model_bytes())
    stream = Client("http://127.0.0.1:%d" % port, quiet=True).stream_events()
    api_thread = threading.Thread(target=lambda: [
        Api(port).json("POST", "/learn/", {"model": "watched", "features": {"a": 1}, "ground_truth": 1})
        for _ in range(200)])
    api_thread.start()
    for line in stream:
        seen.append(line)
        if len(seen) == 4:
            break
    api_thread.join()
    assert seen[0] == "event: learn" and json.loads(seen[1][6:])["model"] == "watched", seen


def with_token(port, user, token):
    """The official client finds its way through the handshake."""
    os.environ["RIVER_ML_USER"], os.environ["RIVER_ML_TOKEN"] = user, token
    from river import linear_model, preprocessing
    from riverapi.main import Client

    client = Client("http://127.0.0.1:%d" % port, quiet=True)
    name = client.upload_model(preprocessing.StandardScaler() | linear_model.LinearRegression(), "regression", "mine")
    assert name == "mine"
    assert client.learn("mine", x={"a": 1.0}, y=2.0) == "Successful learn."
    assert client.predict("mine", x={"a": 1.0})["prediction"] == 0.04
    assert client.models() == {"models": ["mine"]}
    assert client.stats("mine")["learn"]["n_calls"] == 1
    assert client.delete_model("mine") == 204


def keep(port):
    """First run on a folder."""
    api = Api(port)
    api.json("POST", "/model/regression/kept/", model_bytes())
    for i in range(50):
        api.json("POST", "/learn/", {"model": "kept", "features": {"a": i, "b": i % 3}, "ground_truth": i % 5})
    print(json.dumps(api.json("POST", "/predict/", {"model": "kept", "features": {"a": 3, "b": 1}})["prediction"]))


def kept(port):
    api = Api(port)
    assert api.json("GET", "/models/")["models"] == ["kept"]
    print(json.dumps(api.json("POST", "/predict/", {"model": "kept", "features": {"a": 3, "b": 1}})["prediction"]))
    scaler = list(pickle.loads(api.send("GET", "/model/download/kept/")[2]).steps.values())[0]
    assert scaler.counts["a"] == 50


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
