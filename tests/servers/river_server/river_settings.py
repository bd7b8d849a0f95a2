"""Settings of the test server: SQLite and shelve files below one folder, named by RIVER_SERVER_STATE."""

import os

STATE = os.environ.get("RIVER_SERVER_STATE", ".")
os.makedirs(STATE, exist_ok=True)

SECRET_KEY = "for tests only"
DEBUG = os.environ.get("RIVER_SERVER_DEBUG") == "1"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "river_urls"
WSGI_APPLICATION = "river_wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_river_ml",
    "rest_framework",
    "rest_framework.authtoken",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    # named here because the package adds it too late for servers other than runserver: stats would stay 0
    "django_river_ml.middleware.timer_middleware",
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(STATE, "db.sqlite3"),
        "OPTIONS": {"timeout": 10},
    }
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

# The package takes each of these names from the environment first, where values stay text.
DJANGO_RIVER_ML = {
    "URL_PREFIX": os.environ.get("RIVER_SERVER_PREFIX", "api"),
    "APP_DIR": STATE,
    "CACHE_DIR": os.path.join(STATE, "cache"),
    "SHELVE_PATH": os.path.join(STATE, "shelve.db"),
    "SHELVE_SECRET_KEY": "for tests only",
    "JWT_SERVER_SECRET": "one secret, so that several processes agree",
    "TOKEN_EXPIRES_SECONDS": int(os.environ.get("RIVER_SERVER_TOKEN_SECONDS", "600")),
    "REDIS_DB": os.environ.get("RIVER_SERVER_REDIS_DB", "0"),
}
