"""Datums are checked here, and the built-in losses with their derivative in θ computed."""

import math

import numpy

from training import nest
from training.theta import Score

IMAGE_TOKEN = 0
INTEGERS = ("input_ids", "attention_mask", "target_tokens", "sampler_topk_ids", "policy_age_steps")
FLOATS = ("weights", "old_logprobs", "advantages", "echo_weights", "sampler_topk_logprobs")
GRAPH_LOSS = "loss_graph_v1"

# loss → (columns it needs, keys of its configuration)
LOSSES = {
    "cross_entropy": (("weights",), ()),
    "importance_sampling": (("old_logprobs", "advantages"), ()),
    "ppo": (("old_logprobs", "advantages"), ("clip_low", "clip_high")),
    "cispo": (("old_logprobs", "advantages"), ("eps_max", "use_perfect_ratio", "score_centering")),
    "echo_cispo": (("old_logprobs", "advantages", "echo_weights"),
                   ("eps_max", "echo_coef", "use_perfect_ratio", "score_centering")),
    "dro": (("old_logprobs", "advantages"), ("beta",)),
    GRAPH_LOSS: ((), ()),
}


class Wrong(ValueError):
    """A request that the service refuses; its text says where."""


class Datum:
    """A datum that was checked: `ids` (images expanded), columns by name, image handles it names."""

    def __init__(self, where, message, loss, remark):
        self.handles = []
        try:
            value = nest.decode(message.data)
        except nest.Malformed as problem:
            raise Wrong(f"{where}: {problem}") from problem
        if not isinstance(value, dict):
            raise Wrong(f"{where}: a dict of columns is wanted")
        self.columns = value
        self.ids = self._input(where, value, remark)
        self.length = len(self.ids)
        for key, column in value.items():
            if key in ("model_input", "expert_routing_handle"):
                continue
            if not hasattr(column, "dtype"):
                raise Wrong(f"{where}: {key} is not an array")
            if key.startswith("__river_loss_") and loss == GRAPH_LOSS:
                continue
            self._column(f"{where}: {key}", key, column, remark)
        self._mask(where, loss)
        self.routing = self._routing(where)
        for key in LOSSES[loss][0]:
            if key not in value:
                raise Wrong(f"{where}: {loss} needs {key}")

    def _input(self, where, value, remark):
        keys = list(value)
        if ("input_ids" in value) == ("model_input" in value):
            raise Wrong(f"{where}: exactly one of input_ids and model_input is wanted")
        if "input_ids" in value:
            ids = value["input_ids"]
            if not hasattr(ids, "dtype") or ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise Wrong(f"{where}: input_ids is not a vector of integers")
            if len(ids) == 0:
                raise Wrong(f"{where}: input_ids is empty")
            if (ids < 0).any():
                raise Wrong(f"{where}: input_ids has a negative token")
            return ids
        if keys[0] != "model_input":
            raise Wrong(f"{where}: model_input is not the first key")
        if not isinstance(value["model_input"], list) or not value["model_input"]:
            raise Wrong(f"{where}: model_input is not a list of chunks")
        parts = []
        for number, chunk in enumerate(value["model_input"]):
            parts.append(self._chunk(f"{where}: model_input[{number}]", chunk, remark))
        return numpy.concatenate(parts)

    def _chunk(self, where, chunk, remark):
        keys = list(chunk) if isinstance(chunk, dict) else None
        if keys == ["type", "tokens"] and chunk["type"] == "text":
            tokens = chunk["tokens"]
            if tokens.ndim != 1 or tokens.dtype != numpy.int64:
                raise Wrong(f"{where}: tokens is not a vector of int64")
            return tokens
        for source in ("data", "image_handle"):
            if keys == ["type", source, "format", "expected_tokens"] and chunk["type"] == "image":
                count = chunk["expected_tokens"]
                # the official client writes a vector of one element
                if count.size != 1 or count.ndim > 1 or count.dtype != numpy.int64 or count.item() <= 0:
                    raise Wrong(f"{where}: expected_tokens is not one positive int64")
                if count.ndim == 0:
                    remark(f"{where}: expected_tokens is a scalar, a vector of one element is usual")
                if source == "data" and (chunk["data"].dtype != numpy.uint8 or not chunk["data"].size):
                    raise Wrong(f"{where}: data is not a vector of bytes")
                if source == "image_handle":
                    self.handles.append(chunk["image_handle"])
                return numpy.full(count.item(), IMAGE_TOKEN, dtype=numpy.int64)
        raise Wrong(f"{where}: neither a text nor an image chunk: {keys}")

    def _column(self, where, key, column, remark):
        if column.ndim == 0 or column.ndim > 2 or column.shape[0] != self.length:
            raise Wrong(f"{where} has shape {list(column.shape)}, {self.length} values are wanted")
        if column.ndim == 2 and column.shape[1] == 0:
            raise Wrong(f"{where} has rows without values")
        if column.ndim == 2 and key in ("input_ids", "attention_mask", "old_logprobs", "advantages", "echo_weights"):
            raise Wrong(f"{where} has two dimensions")
        if key in INTEGERS and column.dtype.kind not in "iub":
            raise Wrong(f"{where} is {column.dtype}, integers are wanted")
        if key in FLOATS and column.dtype.kind != "f":
            # a list whose first number is 0 loses its fractions in the official client
            remark(f"{where} is {column.dtype}, floating numbers are wanted")
        if key not in INTEGERS and key not in FLOATS:
            remark(f"{where} is not known to any loss")
        if column.dtype.kind == "f" and not numpy.isfinite(column).all():
            at = int(numpy.flatnonzero(~numpy.isfinite(column))[0])
            raise Wrong(f"{where} is not finite at {at}")

    def _mask(self, where, loss):
        mask = self.columns.get("attention_mask")
        if mask is None:
            if "input_ids" in self.columns:
                raise Wrong(f"{where}: attention_mask is missing")
            return
        if ((mask != 0) & (mask != 1)).any():
            raise Wrong(f"{where}: attention_mask has values other than 0 and 1")
        if loss == GRAPH_LOSS and not (mask == 1).all():
            raise Wrong(f"{where}: attention_mask has zeros, {GRAPH_LOSS} takes no padding")
        if not mask.any():
            raise Wrong(f"{where}: attention_mask is all zeros")

    def _routing(self, where):
        handle = self.columns.get("expert_routing_handle")
        if handle is None:
            return None
        if handle.dtype != numpy.uint8 or handle.ndim != 1 or not 0 < handle.size <= 4096:
            raise Wrong(f"{where}: expert_routing_handle is not 1 to 4096 bytes")
        return handle.tobytes().decode("utf-8", "replace")

    def column(self, name):
        """A column as float64 with its last position zeroed."""
        values = numpy.array(self.columns[name], dtype=numpy.float64)
        values[-1] = 0
        return values

    def active(self):
        mask = self.columns.get("attention_mask")
        return numpy.ones(self.length) if mask is None else numpy.asarray(mask, dtype=numpy.float64)


def check_config(loss, config):
    allowed = LOSSES[loss][1] + (("logprob_temperature",) if loss != GRAPH_LOSS else ())
    for key, value in config.items():
        if key not in allowed:
            raise Wrong(f"loss_fn_config: {loss} knows no {key}")
        if not math.isfinite(value):
            raise Wrong(f"loss_fn_config: {key} is not finite")
    for key in ("logprob_temperature", "eps_max"):
        if key in config and config[key] <= 0:
            raise Wrong(f"loss_fn_config: {key} is not positive")


class Totals:
    """What a batch adds up to."""

    def __init__(self):
        self.gradient = 0.0
        self.metrics = {}
        self.logprobs = []
        self.tokens = 0
        self.datums = 0

    def add(self, **sums):
        for name, value in sums.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(value)

    def finish(self):
        """The metrics, with those that are made of the sums."""
        metrics = self.metrics
        metrics["loss"] = metrics["loss_sum"] / max(1, self.datums)
        metrics["micro_batches"] = 1.0

        def ratio(name, above, below):
            if metrics.get(below):
                metrics[name] = metrics[above] / metrics[below]
        if "weight_sum" in metrics:
            ratio("loss_mean", "loss_sum", "weight_sum")
        if "num_response" in metrics:
            ratio("mean_ratio", "ratio_sum", "num_response")
            ratio("kl", "log_ratio_sum", "num_response")
            ratio("entropy", "entropy_sum", "num_response")
            for name, above in (("clip_frac", "clip_count"), ("truncation_frac", "trunc_count"),
                                ("quad_penalty", "quad_penalty_sum")):
                if above in metrics:
                    ratio(name, above, "num_response")
        return metrics


def _cross_entropy(totals, datum, score):
    weights = datum.column("weights")
    targets = datum.columns.get("target_tokens")
    if targets is None:
        if weights.ndim != 1:
            raise Wrong("weights has two dimensions and there are no target_tokens")
        targets = numpy.append(score.ids[1:], 0)
    if targets.shape != weights.shape:
        raise Wrong("target_tokens and weights have different shapes")
    logprobs, slopes = score.of(targets)
    active = datum.active()
    weights = weights * (active[:, None] if weights.ndim == 2 else active)
    loss = -(weights * logprobs).sum()
    totals.gradient -= float((weights * slopes).sum())
    totals.add(loss_sum=loss, ce_loss_sum=loss, num_tokens=datum.length, weight_sum=weights.sum(),
               num_ce_tokens=(weights != 0).sum())


def _policy(totals, datum, score, loss, config):
    old, advantages, active = datum.column("old_logprobs"), datum.column("advantages"), datum.active()
    if "target_tokens" in datum.columns:
        logprobs, slopes = score.of(datum.columns["target_tokens"])
    else:
        logprobs, slopes = numpy.append(score.logprobs, 0.0), numpy.append(score.slopes, 0.0)
    advantages = advantages * active
    response = (advantages != 0) | (old != 0)
    response[-1] = False
    response = response & (active != 0)
    log_ratio = numpy.where(response, logprobs - old, 0.0)
    ratio = numpy.exp(numpy.clip(log_ratio, -40, 40))
    totals.add(ratio_sum=ratio[response].sum(), log_ratio_sum=log_ratio.sum(), num_response=response.sum(),
               entropy_sum=score.entropies[response[:-1]].sum(), num_tokens=datum.length)
    if loss == "importance_sampling":
        value = -(advantages * ratio).sum()
        slope = -(advantages * ratio * slopes).sum()
    elif loss == "ppo":
        low, high = 1 - config.get("clip_low", 0.2), 1 + config.get("clip_high", 0.2)
        clipped = numpy.clip(ratio, low, high)
        taken = ratio * advantages <= clipped * advantages
        value = -numpy.minimum(ratio * advantages, clipped * advantages).sum()
        slope = -numpy.where(taken, ratio * advantages * slopes, 0.0).sum()
        totals.add(clip_count=(~taken & response).sum())
    elif loss in ("cispo", "echo_cispo"):
        cap = config.get("eps_max", 6.0)
        weight = numpy.ones_like(ratio) if config.get("use_perfect_ratio") else numpy.minimum(ratio, cap)
        value = -(weight * advantages * logprobs).sum()
        slope = -(weight * advantages * slopes).sum()
        totals.add(trunc_count=((ratio > cap) & response).sum())
        if config.get("score_centering") and not {"sampler_topk_ids", "sampler_topk_logprobs"} <= set(datum.columns):
            raise Wrong("score_centering needs sampler_topk_ids and sampler_topk_logprobs")
        if loss == "echo_cispo":
            echo = datum.column("echo_weights") * active
            if (echo < 0).any():
                raise Wrong("echo_weights is negative")
            coef, penalty = config.get("echo_coef", 0.05), -(echo * logprobs).sum()
            value += coef * penalty
            slope -= coef * (echo * slopes).sum()
            totals.add(echo_loss_sum=penalty, echo_penalty_sum=coef * penalty, echo_weight_sum=echo.sum(),
                       num_echo_tokens=(echo != 0).sum(),
                       echo_policy_overlap_count=((echo != 0) & (advantages != 0)).sum())
    else:                                                   # dro
        beta = config.get("beta", 0.05)
        quad = 0.5 * beta * log_ratio ** 2
        value = -(advantages * logprobs).sum() + quad.sum()
        slope = (-(advantages * slopes) + beta * log_ratio * slopes).sum()
        totals.add(quad_penalty_sum=quad.sum())
    totals.gradient += float(slope)
    totals.add(loss_sum=value, policy_loss_sum=value)


def run(datums, loss, config, theta, graph=None):
    """The totals of a batch; raises Wrong with the datum's number."""
    totals = Totals()
    for number, datum in enumerate(datums):
        score = Score(datum.ids, theta, config.get("logprob_temperature", 1.0))
        try:
            if loss == GRAPH_LOSS:
                graph.run(totals, datum, theta)
            elif loss == "cross_entropy":
                _cross_entropy(totals, datum, score)
            else:
                _policy(totals, datum, score, loss, config)
        except Wrong as problem:
            raise Wrong(f"datum {number}: {problem}") from problem
        totals.logprobs.append(score.logprobs.astype(numpy.float32))
        totals.tokens += datum.length
        totals.datums += 1
    totals.finish()
    return totals
