"""A checkpoint as PyTorch loads it: checkpoint.py FOLDER BASE IDS

FOLDER has model.safetensors, or an adapter in PEFT's form over the weights in the file BASE. Prints the
log-probabilities of the whole vocabulary after each of IDS (a list in JSON), computed from the files alone.
"""

import json
import os
import sys

import torch
from safetensors.torch import load_file

sys.dont_write_bytecode = True   # beside the sources
import cases  # noqa: E402
import lora  # noqa: E402
from model import Config, Transformer  # noqa: E402

PREFIX = "base_model.model."


def load(folder, base):
    with open(os.path.join(folder, "config.json")) as file:
        told = json.load(file)
    model = Transformer(Config(**{name: told[name] for name in Config.__dataclass_fields__}))
    whole = os.path.join(folder, "model.safetensors")
    weights = load_file(whole if os.path.exists(whole) else base)
    model.load_state_dict(weights, strict=True)
    if os.path.exists(whole):
        return model.double()
    with open(os.path.join(folder, "adapter_config.json")) as file:
        about = json.load(file)
    adapter = load_file(os.path.join(folder, "adapter_model.safetensors"))
    names = about["target_modules"]
    wanted = {part: any(part in name for name in names) for part in ("attn", "mlp")}
    lora.adapt(model, about["r"], about["lora_alpha"] / about["r"], **wanted, unembed="head" in names)
    missing, unknown = model.load_state_dict({name.removeprefix(PREFIX): value for name, value in adapter.items()},
                                             strict=False)
    left = [name for name in missing if ".lora_" in name]
    assert not unknown and not left, (unknown, left)
    return model.double()


def main():
    model = load(sys.argv[1], sys.argv[2])
    json.dump(cases.distribution(model, torch.tensor(json.loads(sys.argv[3]))), sys.stdout)


main()
