"""Custom losses (loss_graph_v1) in PyTorch: graphs as the client writes them, and what they mean, by autograd."""

import json

import torch


class Builder:
    """Writes a graph: columns are named first, then every call is a node."""

    def __init__(self, *columns):
        columns = sorted(columns)
        self.columns = [{"name": name, "dtype": dtype, "layout": "token", **({"width": width} if width else {})}
                        for name, dtype, width in columns]
        self.nodes = [{"op": "logits"}] + [{"op": "input", "column": i} for i in range(len(columns))]
        self.logits = 0
        self.input = {name: 1 + i for i, (name, _, _) in enumerate(columns)}

    def __call__(self, name, *args, **more):
        self.nodes.append({"op": name, **more, "args": [
            {"constant": arg} if isinstance(arg, float) else {"node": arg} for arg in args]})
        return len(self.nodes) - 1

    def text(self, loss, **metrics):
        return json.dumps({"version": 2, "columns": self.columns, "nodes": self.nodes, "loss": loss,
                           "metrics": metrics}, sort_keys=True, separators=(",", ":"))


def clipped():
    """PPO, as one writes it, with the entropy of nothing but the target."""
    g = Builder(("a", "float32", 0), ("old", "float32", 0), ("targets", "int64", 0))
    tempered = g("div", g.logits, 1.4)
    lp = g("neg", g("ce", tempered, g.input["targets"]))
    ratio = g("exp", g("sub", lp, g.input["old"]))
    cut = g("clamp_max", g("clamp_min", ratio, 0.8), 1.2)
    gain = g("minimum", g("mul", ratio, g.input["a"]), g("mul", cut, g.input["a"]))
    worst = g("maximum", g("mul", lp, lp), g("detach", ratio))
    loss = g("add", g("neg", g("sum", gain)), g("mul", g("mean", worst), 0.3))
    return g.text(loss, ratio=g("mean", ratio), worst=g("amax", worst))


def distilled():
    """A divergence from a teacher's candidates, both ways around."""
    g = Builder(("ids", "int64", 3), ("teacher", "float32", 3), ("weights", "float32", 0))
    chances = g("gather", g("log_softmax", g.logits, dtype="float32"), g.input["ids"])
    own = g("exp", chances)
    still = g("gather", g("log_softmax", g("detach", g.logits)), g.input["ids"])
    there = g("sum_candidates", g("mul", own, g("sub", chances, g.input["teacher"])))
    back = g("sum_candidates", g("mul", g("exp", g.input["teacher"]), g("sub", still, chances)))
    each = g("mul", g("add", there, back), g.input["weights"])
    return g.text(g("sum", each), there=g("sum", there), least=g("amin", back))


def spread():
    """All the reductions, and the functions that are left."""
    g = Builder(("targets", "int32", 0), ("weights", "float32", 0))
    ce = g("float", g("ce", g.logits, g.input["targets"]))
    weighted = g("mul", ce, g.input["weights"])
    root = g("sqrt", g("add", ce, 0.5))
    parts = [g("var", weighted), g("std", ce, correction=0), g("logsumexp", ce), g("amax", weighted),
             g("amin", ce), g("mean", g("log", g("add", ce, 1.0))), g("sum", g("expm1", g("mul", ce, -0.3))),
             g("sum", g("div", root, g("add", g.input["weights"], 1.5)))]
    loss = parts[0]
    for part in parts[1:]:
        loss = g("add", loss, part)
    return g.text(g("div", loss, 2.0), var=parts[0], std=parts[1], most=parts[3])


def value_of(graph, columns, logits):
    """Of one example: every node's tensor."""
    done = []

    def arg(node, number):
        one = node["args"][number]
        return done[one["node"]] if "node" in one else one["constant"]
    unary = {"neg": torch.neg, "exp": torch.exp, "expm1": torch.expm1, "log": torch.log, "sqrt": torch.sqrt,
             "detach": torch.Tensor.detach, "float": lambda x: x, "log_softmax": lambda x: x.log_softmax(-1),
             "sum": torch.sum, "mean": torch.mean, "amin": torch.amin, "amax": torch.amax,
             "logsumexp": lambda x: x.logsumexp(0), "sum_candidates": lambda x: x.sum(1)}
    binary = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "minimum": torch.minimum,
              "maximum": torch.maximum, "clamp_min": torch.clamp_min, "clamp_max": torch.clamp_max,
              "ce": lambda x, y: -x.log_softmax(-1).gather(1, y.long()[:, None])[:, 0],
              "gather": lambda x, y: x.gather(1, y.long())}
    for node in graph["nodes"]:
        op = node["op"]
        if op == "logits":
            done.append(logits)
        elif op == "input":
            done.append(columns[graph["columns"][node["column"]]["name"]])
        elif op in ("var", "std"):
            done.append(getattr(torch, op)(arg(node, 0), correction=node.get("correction", 1)))
        elif op in unary:
            done.append(unary[op](arg(node, 0)))
        else:
            done.append(binary[op](arg(node, 0), arg(node, 1)))
    return done


def run(text, data, model):
    """All of a request: (loss, metrics)."""
    graph, total, metrics = json.loads(text), 0.0, {}
    for datum in data:
        values = value_of(graph, datum["columns"], model(datum["input_ids"][None])[0])
        total = total + values[graph["loss"]]
        for name, node in graph["metrics"].items():
            metrics["custom/" + name] = metrics.get("custom/" + name, 0.0) + float(values[node].detach())
    return total, metrics


# graph, and which of a datum's columns is which of the graph's
GRAPHS = ((clipped, {"a": "advantages", "old": "old_logprobs", "targets": "target_tokens"}),
          (distilled, {"ids": "soft_targets", "teacher": "teacher", "weights": "weights"}),
          (spread, {"targets": "target_tokens", "weights": "weights"}))
