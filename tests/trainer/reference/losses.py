"""The built-in losses of the training service in PyTorch, differentiated by autograd: docs/training_losses.md says what
they mean, tests/servers/training/losses.py what the metrics are. All are sums over tokens.

A datum is a dict of tensors [T] (or [T, K]): input_ids, attention_mask and the columns of its loss.
"""

import torch
from torch.nn import functional

CONFIG = {"clip_low": 0.2, "clip_high": 0.2, "eps_max": 6.0, "echo_coef": 0.05, "beta": 0.05}


def active(datum):
    """1 where a position counts: not the last one, not those that the mask hides."""
    mask = datum.get("attention_mask")
    counts = torch.ones(len(datum["input_ids"]), dtype=torch.float64) if mask is None else mask.double()
    counts = counts.clone()
    counts[-1] = 0
    return counts


def targets_of(datum):
    if "target_tokens" in datum:
        return datum["target_tokens"]
    return functional.pad(datum["input_ids"][1:], (0, 1))


def centred(datum, chances, cap, perfect):
    """What centring takes off lp at each position: Σ sg(μ·w)·lp over the sampler's K tokens and the rest of them."""
    ids, mu = datum["sampler_topk_ids"].long(), datum["sampler_topk_logprobs"].double().exp()
    there = ids >= 0
    mu = torch.where(there, mu, 0.0)
    known = chances.gather(1, ids.clamp(min=0))
    pi = torch.where(there, known.exp(), 0.0)
    rest_mu, rest_pi = 1 - mu.sum(1), 1 - pi.sum(1)
    total = 0
    for of_mu, of_pi, logprob in [(mu, pi, known)] + [(rest_mu[:, None], rest_pi[:, None], rest_pi[:, None].log())]:
        used = of_mu > 0
        ratio = torch.where(used, of_pi / torch.where(used, of_mu, 1.0), 0.0)
        weight = torch.ones_like(ratio) if perfect else ratio.clamp(max=cap)
        total = total + torch.where(used, (of_mu * weight).detach() * logprob, 0.0).sum(1)
    return total


def policy(name, config, datum, chances, counts, sums):
    lp = chances.gather(1, targets_of(datum)[:, None])[:, 0]
    old, advantages = datum["old_logprobs"].double(), datum["advantages"].double() * counts
    response = ((datum["advantages"] != 0) | (old != 0)) & (counts != 0)
    log_ratio = torch.where(response, lp - old, 0.0)
    ratio = log_ratio.exp()
    sums.update(ratio_sum=ratio[response].sum(), log_ratio_sum=log_ratio.sum(), num_response=response.sum(),
                entropy_sum=-(chances.exp() * chances).sum(1)[response].sum())
    if name == "importance_sampling":
        loss = -(advantages * ratio).sum()
    elif name == "ppo":
        clipped = ratio.clamp(1 - config["clip_low"], 1 + config["clip_high"]) * advantages
        loss = -torch.minimum(ratio * advantages, clipped).sum()
        sums.update(clip_count=((ratio * advantages > clipped) & response).sum())
    elif name == "dro":
        quad = 0.5 * config["beta"] * (log_ratio ** 2).sum()
        loss = quad - (advantages * lp).sum()
        sums.update(quad_penalty_sum=quad)
    else:
        cap, perfect = config["eps_max"], bool(config.get("use_perfect_ratio"))
        weight = torch.ones_like(ratio) if perfect else ratio.clamp(max=cap)
        score = weight.detach() * lp
        if config.get("score_centering"):
            score = score - centred(datum, chances, cap, perfect)
        loss = -torch.where(advantages != 0, advantages * score, 0.0).sum()
        sums.update(trunc_count=((ratio > cap) & response).sum())
        if name == "echo_cispo":
            echo = datum["echo_weights"].double() * counts
            penalty = -(echo * lp).sum()
            loss = loss + config["echo_coef"] * penalty
            sums.update(echo_loss_sum=penalty, echo_penalty_sum=config["echo_coef"] * penalty,
                        echo_weight_sum=echo.sum(), num_echo_tokens=(echo != 0).sum(),
                        echo_policy_overlap_count=((echo != 0) & (advantages != 0)).sum())
    sums.update(policy_loss_sum=loss)
    return loss


def of(name, config, datum, logits):
    """One datum with its logits [T, V]: (loss, sums by metric, logprobs [T - 1])."""
    config = {**CONFIG, **config}
    chances = (logits / config.get("logprob_temperature", 1.0)).log_softmax(-1)
    ids, counts, sums = datum["input_ids"], active(datum), {}
    own = chances[:-1].gather(1, ids[1:, None])[:, 0]
    if name == "cross_entropy":
        weights, targets = datum["weights"].double(), targets_of(datum)
        if weights.dim() == 1:
            weights, targets = weights[:, None], targets[:, None]
        weights = weights * counts[:, None]
        loss = -(weights * chances.gather(1, targets.long())).sum()
        sums.update(ce_loss_sum=loss, weight_sum=weights.sum(), num_ce_tokens=(weights != 0).sum())
    else:
        loss = policy(name, config, datum, chances, counts, sums)
    sums.update(loss_sum=loss, num_tokens=torch.tensor(len(ids)))
    return loss, {key: float(value.detach()) for key, value in sums.items()}, own


def run(name, config, data, model):
    """All of a request: (loss, metrics, logprobs by datum)."""
    total, metrics, logprobs = 0.0, {}, []
    for datum in data:
        mask = datum.get("attention_mask")
        logits = model(datum["input_ids"][None], None if mask is None else mask[None])[0]
        loss, sums, own = of(name, config, datum, logits)
        total = total + loss
        for key, value in sums.items():
            metrics[key] = metrics.get(key, 0.0) + value
        logprobs.append(own.detach())
    metrics["loss"] = metrics["loss_sum"] / len(data)
    for key, above, below in (("loss_mean", "loss_sum", "weight_sum"), ("mean_ratio", "ratio_sum", "num_response"),
                              ("kl", "log_ratio_sum", "num_response"), ("entropy", "entropy_sum", "num_response"),
                              ("clip_frac", "clip_count", "num_response"),
                              ("truncation_frac", "trunc_count", "num_response"),
                              ("quad_penalty", "quad_penalty_sum", "num_response")):
        if above in metrics and metrics.get(below):
            metrics[key] = metrics[above] / metrics[below]
    return total, metrics, logprobs
