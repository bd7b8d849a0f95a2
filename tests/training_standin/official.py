"""The official client and what it needs: a tokenizer of bytes in a hub's cache that it finds without a network.

Import this before river_client. The cache lies in a folder of its own that goes when the process ends.
"""

import atexit
import json
import os
import shutil
import sys
import tempfile
import urllib.request
import warnings

sys.dont_write_bytecode = True
MODEL = os.environ.get("OFFICIAL_MODEL", "standin/bytes")
_cache = tempfile.mkdtemp(prefix="standin-hub-")
atexit.register(shutil.rmtree, _cache, True)
os.environ.update(HF_HOME=_cache, HF_HUB_CACHE=os.path.join(_cache, "hub"), HF_HUB_OFFLINE="1",
                  TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", RIVER_METRICS_DISABLED="1",
                  RIVER_CONSOLE_URL="http://127.0.0.1:9", TOKENIZERS_PARALLELISM="false")
for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(name, None)


def _byte_letters():
    """The letters that byte-level tokenizers write for the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, spare = {}, 256
    for byte in range(256):
        if byte in kept:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(spare)
            spare += 1
    return letters


def make_tokenizer():
    """Tokens 0 to 255 are the bytes; then come the end and the place of an image."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    letters = _byte_letters()
    tokenizer = Tokenizer(models.BPE({letter: byte for byte, letter in letters.items()}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"])
    revision = "0" * 40
    folder = os.path.join(_cache, "hub", "models--" + MODEL.replace("/", "--"))
    snapshot = os.path.join(folder, "snapshots", revision)
    os.makedirs(snapshot)
    os.makedirs(os.path.join(folder, "refs"))
    with open(os.path.join(folder, "refs", "main"), "w") as file:
        file.write(revision)
    tokenizer.save(os.path.join(snapshot, "tokenizer.json"))
    for name, content in (
            ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}),
            ("config.json", {"model_type": "gpt2"})):
        with open(os.path.join(snapshot, name), "w") as file:
            json.dump(content, file)


make_tokenizer()
warnings.filterwarnings("ignore")

import river_client as river                                            # noqa: E402,F401

INFO = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}


def client(**options):
    options = dict({"api_key": "test-key", "endpoint": "127.0.0.1", "port": INFO["port"], "use_ssl": False}, **options)
    return river.Client(**options)


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def control(path, order=None):
    """Asks the stand-in, or orders it."""
    data = None if order is None else json.dumps(order).encode()
    with _opener.open(f"http://127.0.0.1:{INFO['control']}/{path}", data, 30) as answer:
        return json.load(answer)


def say(name, **values):
    print(json.dumps(dict(values, name=name)), flush=True)
