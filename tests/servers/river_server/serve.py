"""A real River server (django-river-ml) for tests, on its own port and with its own state.

    python serve.py [--state FOLDER] [--port N] [--user NAME] [--token HEX]

Prints one JSON line when it is ready: {"port", "user", "token", "pid", "state"}. It stops cleanly, as after Ctrl-C,
when its standard input closes, so a test that dies never leaves a server behind; without --state the folder is a
temporary one that goes with it. The package's own switches are environment variables: DISABLE_AUTHENTICATION=false,
GENERATE_IDENTIFIERS=false, VIEW_RATE_LIMIT_DISABLE=false, VIEW_RATE_LIMIT, STORAGE_BACKEND; with
STORAGE_BACKEND=redis a redis-server of its own is started, unless REDIS_PORT names one. Ours are
RIVER_SERVER_DEBUG=1, RIVER_SERVER_PREFIX, RIVER_SERVER_TOKEN_SECONDS, RIVER_SERVER_NODELAY=1, RIVER_SERVER_VERBOSE=1.
"""

import argparse
import importlib.util
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

sys.dont_write_bytecode = True  # the source tree stays clean
HERE = os.path.dirname(os.path.abspath(__file__))


def parse_arguments():
    parser = argparse.ArgumentParser(description="a django-river-ml server for tests")
    parser.add_argument("--state", help="folder of the database and the models (default: a temporary one)")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", default="dinosaur")
    parser.add_argument("--token", default="0123456789abcdef0123456789abcdef01234567")
    return parser.parse_args()


def import_lazily(name):
    """One metric nobody uses here imports scipy.stats, half of the start-up time: load it when it is touched."""
    spec = importlib.util.find_spec(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)


def start_redis():
    """A redis-server that keeps nothing, on a port that was free; None: not wanted."""
    if os.environ.get("STORAGE_BACKEND") != "redis" or "REDIS_PORT" in os.environ:
        return None
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        child = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        for line in child.stdout:
            if "Ready to accept connections" in line:
                # what it says later must not fill the pipe
                threading.Thread(target=child.stdout.read, daemon=True).start()
                os.environ.update(REDIS_HOST="127.0.0.1", REDIS_PORT=str(port))
                return child
        child.wait()  # somebody was quicker to take the port
    raise SystemExit("redis-server does not start")


def guard_shelf():
    """All threads of the server write to one shelf. Where Python has no gdbm, two of them that add a record at once get
    the same place in the file, and later a model is read as something else."""
    import shelve

    lock = threading.RLock()

    def guarded(method):
        def call(*arguments):
            with lock:
                return method(*arguments)
        return call

    for name in ("__getitem__", "__setitem__", "__delitem__", "__contains__", "__len__", "get"):
        setattr(shelve.Shelf, name, guarded(getattr(shelve.Shelf, name)))


def prepare_database(state):
    import django

    fresh = not os.path.exists(os.path.join(state, "db.sqlite3"))
    django.setup()
    if fresh:
        from django.core.management import call_command

        call_command("migrate", verbosity=0)


def prepare_user(name, key):
    from django.contrib.auth.models import User
    from rest_framework.authtoken.models import Token

    user, _ = User.objects.get_or_create(username=name)
    Token.objects.filter(user=user).exclude(key=key).delete()  # every new user gets a random one
    Token.objects.get_or_create(user=user, key=key)


def make_server(port):
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application

    class Handler(WSGIRequestHandler):
        # off by default, like Django's own `runserver`
        disable_nagle_algorithm = os.environ.get("RIVER_SERVER_NODELAY") == "1"

        def log_message(self, *_):
            pass

    class Server(ThreadedWSGIServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass  # a client that hangs up is no news

    server = Server(("127.0.0.1", port), Handler)
    server.set_app(get_wsgi_application())
    return server


def stop_with_parent(server):
    def wait():
        while os.read(0, 4096):
            pass
        server.shutdown()

    threading.Thread(target=wait, daemon=True).start()


def close_storage():
    """What a clean exit does for shelve files: without it the last learns are lost on some systems."""
    from django_river_ml import storage

    close = getattr(storage.get_db(), "close", None)
    if close:
        close()


def main():
    arguments = parse_arguments()
    temporary = arguments.state is None
    state = os.path.abspath(arguments.state or tempfile.mkdtemp(prefix="river-server-"))
    os.makedirs(state, exist_ok=True)
    os.environ["RIVER_SERVER_STATE"] = state
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "river_settings")
    sys.path.insert(0, HERE)
    if os.environ.get("RIVER_SERVER_VERBOSE") != "1":
        logging.disable(logging.CRITICAL)  # tests provoke errors on purpose
    redis = None
    try:
        redis = start_redis()
        import scipy  # noqa: F401  (the parent of what is imported lazily)

        import_lazily("scipy.stats")
        guard_shelf()
        prepare_database(state)
        prepare_user(arguments.user, arguments.token)
        server = make_server(arguments.port)
        import river_urls  # noqa: F401  (loads the views now, not during the first request)
        from django_river_ml import storage

        storage.get_db()  # two first accesses at once would break it
        ready = {"port": server.server_address[1], "user": arguments.user, "token": arguments.token,
                 "pid": os.getpid(), "state": state}
        print(json.dumps(ready), flush=True)
        sys.stdout = open(os.devnull, "w")  # the package's views print
        stop_with_parent(server)
        try:
            server.serve_forever(poll_interval=0.05)
        except KeyboardInterrupt:
            pass
        server.server_close()
        close_storage()
    finally:
        if redis:
            redis.terminate()
            redis.wait()
        if temporary:
            shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
