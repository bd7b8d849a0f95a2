"""Records what a django-river-ml server answers to requests.json, for the tests of the embedded service.

    python record_answers.py > answers.json

The server's views run in this process, on a storage of their own.
"""

import json
import os
import sys
import tempfile

import django
from django.conf import settings
from django.urls import include, path

STATE = tempfile.TemporaryDirectory()
HERE = os.path.dirname(os.path.abspath(__file__))

settings.configure(
    SECRET_KEY="test-only",
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_river_ml", "rest_framework"],
    MIDDLEWARE=["django_river_ml.middleware.timer_middleware"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    REST_FRAMEWORK={"DEFAULT_AUTHENTICATION_CLASSES": [], "UNAUTHENTICATED_USER": None},
    DJANGO_RIVER_ML={"APP_DIR": STATE.name, "CACHE_DIR": STATE.name, "SHELVE_PATH": os.path.join(STATE.name, "shelve")},
)
django.setup()

import dill  # noqa: E402
from django.test import Client  # noqa: E402
from river import compose, linear_model, preprocessing  # noqa: E402

urlpatterns = [path("", include("django_river_ml.urls", namespace="django_river_ml"))]

MODELS = {
    "regression": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
    "binary": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "linear": linear_model.LinearRegression,
    "logistic": linear_model.LogisticRegression,
    "scaler": preprocessing.StandardScaler,
    "scaler_pipeline": lambda: compose.Pipeline(preprocessing.StandardScaler()),
    "model_in_the_middle": lambda: compose.Pipeline(linear_model.LinearRegression(), linear_model.LinearRegression()),
    "twins": lambda: compose.Pipeline(
        preprocessing.StandardScaler(with_std=False), preprocessing.StandardScaler(),
        ("last", linear_model.LinearRegression(l2=0.5, intercept_lr=1))),
}


def answer(client, request):
    if "model" in request:
        data = dill.dumps(MODELS[request["model"]]())
    elif "json" in request:
        data = json.dumps(request["json"])
    else:
        data = request.get("body", "")
    response = client.generic(request["method"], "/api" + request["path"], data, content_type="application/json")
    content = response.content.decode("utf-8", "replace")
    is_json = response.headers.get("Content-Type", "").startswith("application/json")
    return [response.status_code, json.loads(content) if is_json and content else None]


def main():
    out, sys.stdout = sys.stdout, open(os.devnull, "w")
    client = Client(raise_request_exception=False)
    with open(os.path.join(HERE, "requests.json"), encoding="utf-8") as file:
        requests = json.load(file)
    lines = [json.dumps(answer(client, request), sort_keys=True) for request in requests]
    out.write("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
