"""What is recorded: models, their data, every loss over them, adapters, an optimizer's run. All in double, so that what
is told is what the formulas give; the trainer, in single precision, may be off by the tolerances of its spec."""

import dataclasses

import torch

import graphs
import lora
import losses
from model import Config, Transformer
from stream import Stream, fill, signs

ENTRIES = 10                   # of a larger gradient that are told one by one

LOSSES = (
    ("cross_entropy", {}, ("weights",)),
    ("cross_entropy", {"logprob_temperature": 1.7}, ("weights", "target_tokens")),
    ("cross_entropy", {}, ("soft_weights", "soft_targets")),
    ("importance_sampling", {}, ("old_logprobs", "advantages")),
    ("importance_sampling", {"logprob_temperature": 0.7}, ("old_logprobs", "advantages", "target_tokens")),
    ("ppo", {}, ("old_logprobs", "advantages")),
    ("ppo", {"clip_low": 0.05, "clip_high": 0.4}, ("old_logprobs", "advantages")),
    ("ppo", {"logprob_temperature": 1.3}, ("old_logprobs", "advantages")),
    ("cispo", {}, ("old_logprobs", "advantages")),
    ("cispo", {"eps_max": 0.9}, ("old_logprobs", "advantages")),
    ("cispo", {"use_perfect_ratio": 1}, ("old_logprobs", "advantages")),
    ("cispo", {"score_centering": 1, "eps_max": 0.95},
     ("old_logprobs", "advantages", "sampler_topk_ids", "sampler_topk_logprobs")),
    ("cispo", {"score_centering": 1, "use_perfect_ratio": 1, "logprob_temperature": 1.3},
     ("old_logprobs", "advantages", "sampler_topk_ids", "sampler_topk_logprobs")),
    ("echo_cispo", {}, ("old_logprobs", "advantages", "echo_weights")),
    ("echo_cispo", {"echo_coef": 0.7, "eps_max": 1.1, "score_centering": 1},
     ("old_logprobs", "advantages", "echo_weights", "sampler_topk_ids", "sampler_topk_logprobs")),
    ("dro", {}, ("old_logprobs", "advantages")),
    ("dro", {"beta": 0.6, "logprob_temperature": 1.3}, ("old_logprobs", "advantages")),
)
WIRE = {"soft_weights": "weights", "soft_targets": "target_tokens"}   # names in the datum
SOFT = 3
TOP = 4

MODELS = {
    "rotary": (Config(23, 16, 2, 2, 32, 24), {"rank": 3, "scale": 2.0, "attn": True, "mlp": True, "unembed": True}),
    "learned_tied": (Config(19, 12, 1, 3, 40, 18, "learned", True),
                     {"rank": 2, "scale": 1.5, "attn": True, "mlp": False, "unembed": True}),
    "rotary_tied": (Config(33, 20, 3, 2, 24, 40, "rotary", True, 500.0, 1e-4),
                    {"rank": 5, "scale": 0.5, "attn": False, "mlp": True, "unembed": False}),
    "recipe": (Config(256, 64, 2, 4, 256, 48, "learned"),
               {"rank": 16, "scale": 50.0 / 16, "attn": True, "mlp": True, "unembed": True}),
}


def ordered(model):
    """(name, parameter) in the order of the trainer's layout."""
    named = dict(model.named_parameters())
    names = ["token.weight", "position.weight"]
    for layer in range(model.config.layers):
        names += ["layers.%d.%s" % (layer, part) for part in (
            "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.out.weight", "norm2.weight", "norm2.bias",
            "mlp.up.weight", "mlp.down.weight")]
    names += ["norm.weight", "norm.bias", "head.weight"]
    return [(name, named[name]) for name in names if name in named]


def rounded(tensor, digits=4):
    """As it is written into the file, and as single precision has it."""
    return (tensor * 10 ** digits).round().div(10 ** digits).float().double()


def make_mask(stream, length, kind):
    mask = torch.ones(length, dtype=torch.int64)
    cut = 1 + stream.below(max(1, length // 3))
    if kind == "right":
        mask[-cut:] = 0
    elif kind == "left":
        mask[:cut] = 0
    elif kind == "holes":
        mask[1 + stream.below(length - 2)] = 0
        mask[1 + stream.below(length - 2)] = 0
    return mask


def make_datum(stream, model, length, kind):
    config = model.config
    vocabulary = config.vocabulary
    ids = torch.tensor([stream.below(vocabulary) for _ in range(length)])
    mask = make_mask(stream, length, kind)
    with torch.no_grad():
        chances = model(ids[None], mask[None])[0].log_softmax(-1)
    following = torch.cat((ids[1:], ids[:1]))
    old = chances.gather(1, following[:, None])[:, 0] + torch.from_numpy(stream.around(length, 0.5))
    prompt = stream.below(max(1, length // 2))
    response = torch.arange(length) >= prompt
    advantages = torch.from_numpy(stream.around(length, 1.5))
    advantages[torch.from_numpy(stream.uniform(length)) < 0.2] = 0
    near = (chances + torch.from_numpy(stream.around(length * vocabulary, 0.6)).view(length, -1)).log_softmax(-1)
    top, top_ids = near.topk(min(TOP, vocabulary - 1), -1)
    top_ids[-1], top[-1] = -1, -40.0
    datum = {
        "input_ids": ids, "attention_mask": mask,
        "target_tokens": torch.tensor([stream.below(vocabulary) for _ in range(length)]),
        "weights": rounded(torch.from_numpy(stream.uniform(length))) * response,
        "soft_targets": torch.tensor([[stream.below(vocabulary) for _ in range(SOFT)] for _ in range(length)]),
        "soft_weights": rounded(torch.from_numpy(stream.uniform(length * SOFT)).view(length, SOFT)),
        "old_logprobs": rounded(old.clamp(max=-0.001)) * response,
        "advantages": rounded(advantages) * response,
        "echo_weights": rounded(torch.from_numpy(stream.uniform(length))) * ~response,
        "sampler_topk_ids": top_ids, "sampler_topk_logprobs": rounded(top.clamp(max=-0.001)),
    }
    if kind == "none":
        del datum["attention_mask"]
    return datum


def make_data(stream, model, lengths=None):
    context = model.config.context
    lengths = lengths or [context, 1, 2 + stream.below(context - 2), 5 + stream.below(context - 5),
                          4 + stream.below(context - 4), 2]
    kinds = ["none", "none", "all", "right", "left", "all"]
    if context > 16:
        lengths, kinds = lengths + [context - 3], kinds + ["holes"]
    return [make_datum(stream, model, length, kind) for length, kind in zip(lengths, kinds)]


def wire(data, columns):
    """The data as a loss gets it: its columns, by the names of the service."""
    keep = ("input_ids", "attention_mask") + columns
    return [{WIRE.get(name, name): datum[name] for name in keep if name in datum} for datum in data]


def told(tensor):
    """What is kept of a tensor: all of a small one; of others the norm, some elements and sums with signs."""
    flat = tensor.detach().reshape(-1).double()
    if len(flat) <= ENTRIES:
        return {"values": flat.tolist()}
    stream = Stream(len(flat))
    at = [stream.below(len(flat)) for _ in range(ENTRIES)]
    return {"norm": float(flat.norm()), "sums": (signs(len(flat)) @ flat).tolist(), "at": at,
            "values": flat[at].tolist()}


def evaluate(model, trainable, data, loss, config, columns):
    """One case: what a pass over the data gives."""
    for _, parameter in trainable:
        parameter.grad = None
    total, metrics, logprobs = losses.run(loss, config, wire(data, columns), model)
    total.backward()
    return {"loss": loss, "config": config, "columns": list(columns), "metrics": metrics,
            "logprobs": [own.tolist() for own in logprobs],
            "gradients": {name: told(parameter.grad if parameter.grad is not None else torch.zeros_like(parameter))
                          for name, parameter in trainable}}


def evaluate_graph(model, trainable, data, make, columns):
    """The same of a custom loss, over the datums that have no mask and more than three tokens."""
    for _, parameter in trainable:
        parameter.grad = None
    text, chosen = make(), [i for i, datum in enumerate(data) if len(datum["input_ids"]) > 3
                            and bool(datum.get("attention_mask", torch.ones(1)).all())]
    parts = [{"input_ids": data[i]["input_ids"], "columns": {
        name: data[i]["old_logprobs"][:, None] - data[i]["soft_weights"] if column == "teacher" else data[i][column]
        for name, column in columns.items()}} for i in chosen]
    total, metrics = graphs.run(text, parts, model)
    total.backward()
    return {"graph": text, "name": make.__name__, "data": [
        {"input_ids": part["input_ids"].tolist(),
         "columns": [part["columns"][name].tolist() for name in sorted(columns)]} for part in parts],
            "metrics": {"loss_sum": float(total.detach()), **metrics},
            "gradients": {name: told(parameter.grad) for name, parameter in trainable}}


def distribution(model, ids):
    """Log-probabilities of the whole vocabulary at each position."""
    with torch.no_grad():
        return {"ids": ids.tolist(), "logprobs": model(ids[None])[0].log_softmax(-1).tolist()}


# Rates at which rounding is not blown up: ten times as fast, PyTorch in single precision is 1 % off itself in double.
ADAMW = {"lr": 0.001, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 0.8}


def optimize(model, trainable, data, steps, options):
    """Steps of torch.optim.AdamW with clip_grad_norm_ over the cross-entropy of the data."""
    parameters = [parameter for _, parameter in trainable]
    optimizer = torch.optim.AdamW(parameters, lr=options["lr"], betas=(options["beta1"], options["beta2"]),
                                  eps=options["eps"], weight_decay=options["weight_decay"])
    told_steps = []
    for _ in range(steps):
        optimizer.zero_grad()
        total, metrics, _ = losses.run("cross_entropy", {}, wire(data, ("weights",)), model)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, options["clip"])
        optimizer.step()
        told_steps.append([metrics["loss_sum"], float(norm)])
    state = [optimizer.state[parameter] for parameter in parameters]
    return {"options": options, "steps": told_steps, "columns": ["weights"],
            "weights": {name: told(parameter) for name, parameter in trainable},
            "exp_avg": {name: told(each["exp_avg"]) for (name, _), each in zip(trainable, state)},
            "exp_avg_sq": {name: told(each["exp_avg_sq"]) for (name, _), each in zip(trainable, state)}}


def written(data):
    """Data as JSON has them."""
    return [{name: column.tolist() for name, column in datum.items()} for datum in data]


def build(config, seed):
    model = Transformer(config).double()
    fill(ordered(model), seed)
    return model


def build_adapted(config, seed, options):
    model = lora.adapt(build(config, seed), **options)
    named = lora.adapters(model)
    fill(named, seed + 1)
    return model, named


def record(name, config, adapters, seed, chosen=LOSSES, steps=0, slower=1):
    """Everything about one model. The optimizer's steps are smaller by `slower`."""
    stream, model = Stream(seed + 1000), build(config, seed)
    data = make_data(stream, model)
    result = {"name": name, "config": dataclasses.asdict(config), "seed": seed, "data": written(data),
              "cases": [evaluate(model, ordered(model), data, *loss) for loss in chosen],
              "graphs": [evaluate_graph(model, ordered(model), data, *graph) for graph in graphs.GRAPHS],
              "distribution": distribution(model, data[0]["input_ids"]), "adapters": adapters}
    adapted, named = build_adapted(config, seed, adapters)
    result["adapted"] = [evaluate(adapted, named, data, *loss) for loss in chosen[:1] + chosen[5:6]]
    result["adapted_distribution"] = distribution(adapted, data[0]["input_ids"])
    if steps:
        result["adamw"] = optimize(model, ordered(model), data, steps, {**ADAMW, "lr": ADAMW["lr"] / slower})
        result["adapted_adamw"] = optimize(adapted, named, data, steps, {**ADAMW, "lr": ADAMW["lr"] / 5 / slower})
    return result


def random_config(stream):
    """A small configuration, any of whose parts may be odd."""
    heads = 1 + stream.below(4)
    dh = 2 * (1 + stream.below(8))
    config = Config(5 + stream.below(60), heads * dh, 1 + stream.below(3), heads, 3 + stream.below(70),
                    12 + stream.below(30), ("rotary", "learned")[stream.below(2)], stream.below(2) == 1,
                    (10000.0, 100.0)[stream.below(2)], (1e-5, 1e-3)[stream.below(2)])
    adapters = {"rank": 1 + stream.below(6), "scale": 0.25 * (1 + stream.below(12)), "attn": stream.below(2) == 1,
                "mlp": stream.below(2) == 1, "unembed": stream.below(2) == 1}
    if not (adapters["attn"] or adapters["mlp"]):
        adapters["unembed"] = True
    return config, adapters


