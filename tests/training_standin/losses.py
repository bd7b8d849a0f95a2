"""The stand-in's derivatives against differences of its losses, and custom losses against built-in ones."""

import json

import numpy

from raw import Client, backward, control, datum, m, nest, say

client = Client()
model = client.model()
seq = 0


def request(datums, loss, config, forward=False):
    global seq
    seq += 1
    whole = backward(model, seq, datums, loss, config)
    if not forward:
        return client.call("ForwardBackward", whole)
    given = whole.forward_backward_input
    given.gradient_accumulation = given.init_gradients = False
    return client.call("Forward", m.ForwardRequest(model_id=model, seq_id=seq, forward_input=given))


def loss_of(datums, loss, config, theta):
    control("model", {"id": model, "theta": theta})
    return client.future(request(datums, loss, config, True), model)[1].metrics["loss_sum"]


def gradient(datums, loss, config=None, theta=-0.4):
    """The derivative, and how far it is from the difference of losses."""
    config = config or {}
    control("model", {"id": model, "theta": theta})
    output = client.future(request(datums, loss, config), model)[1]
    found = control("state")["models"][model]["gradient"]
    step = 1e-4
    above, below = (loss_of(datums, loss, config, theta + way) for way in (step, -step))
    difference = (above - below) / (2 * step)
    return {"gradient": found, "off": abs(found - difference), "loss": output.metrics["loss_sum"],
            "metrics": dict(output.metrics)}


right, wrong = datum(), datum(answer=b"\\boxed{9}")
both = [right, wrong]
length = len(right["input_ids"])


def plain(which):
    """The same with weights."""
    return {"input_ids": which["input_ids"], "attention_mask": which["attention_mask"],
            "weights": which["advantages"]}


def custom(graph, columns):
    """A datum of a custom loss out of its columns, those of the graph by name."""
    result = {"input_ids": columns["input_ids"]}
    for index, column in enumerate(graph["columns"]):
        result[f"__river_loss_column_{index}"] = columns[column["name"]]
    result["__river_loss_position"] = numpy.ones(length, dtype=numpy.int64)
    result["attention_mask"] = numpy.ones(length, dtype=numpy.int64)
    text = json.dumps(graph, sort_keys=True, separators=(",", ":")).encode()
    result["__river_loss_graph_v1"] = numpy.frombuffer(text, dtype=numpy.uint8)
    return result


def with_targets(which):
    targets = numpy.append(which["input_ids"][1:], 0)
    return {"input_ids": which["input_ids"], "targets": targets, "weights": which["advantages"],
            "a": which["advantages"], "old": which["old_logprobs"]}


say("cross_entropy", **gradient([plain(right), plain(wrong)], "cross_entropy"))
for loss, config in (("importance_sampling", {}), ("importance_sampling", {"logprob_temperature": 0.7}),
                     ("ppo", {"clip_low": 0.1}), ("dro", {"beta": 0.5})):
    say(f"{loss} {sorted(config)}", **gradient(both, loss, config))
first = gradient([right], "importance_sampling")
say("cispo", is_the_ratio_form=abs(gradient([right], "cispo")["gradient"] - first["gradient"]) < 1e-9)


def node(op, *args, **more):
    return dict({"op": op, "args": [arg if isinstance(arg, dict) else {"node": arg} for arg in args]}, **more)


def constant(value):
    return {"constant": float(value)}


def column(name, dtype):
    return {"name": name, "dtype": dtype, "layout": "token"}


ce = {"version": 2, "columns": [column("targets", "int64"), column("weights", "float32")], "loss": 6,
      "metrics": {"weight_sum": 7}, "nodes": [
          {"op": "logits"}, {"op": "input", "column": 0}, {"op": "input", "column": 1}, node("ce", 0, 1),
          node("float", 3), node("mul", 4, 2), node("sum", 5), node("sum", 2)]}
ppo = {"version": 2, "columns": [column("a", "float32"), column("old", "float32"), column("targets", "int64")],
       "loss": 15, "metrics": {}, "nodes": [
           {"op": "logits"}, {"op": "input", "column": 0}, {"op": "input", "column": 1}, {"op": "input", "column": 2},
           node("ce", 0, 3), node("float", 4), node("neg", 5), node("sub", 6, 2), node("exp", 7), node("mul", 8, 1),
           node("clamp_min", 8, constant(0.8)), node("clamp_max", 10, constant(1.2)), node("mul", 11, 1),
           node("minimum", 9, 12), node("sum", 13), node("neg", 14)]}
for name, graph, loss in (("graph ce", ce, "cross_entropy"), ("graph ppo", ppo, "ppo")):
    text = json.dumps(graph, sort_keys=True, separators=(",", ":")).encode()
    prepared = client.call("PrepareLoss", m.PrepareLossRequest(model_id=model, model_name="standin/bytes", graph=text))
    own = gradient([custom(graph, with_targets(which)) for which in both], "loss_graph_v1")
    usual = gradient([plain(which) for which in both] if loss == "cross_entropy" else both, loss)
    say(name, prepared=prepared.status, same_loss=abs(own["loss"] - usual["loss"]) < 1e-6,
        same_gradient=abs(own["gradient"] - usual["gradient"]) < 1e-6, off=own["off"], metrics=own["metrics"])

# every operation once
every = {"version": 2, "columns": [column("targets", "int64")], "loss": 24, "metrics": {"m": 23}, "nodes": [
    {"op": "logits"}, {"op": "input", "column": 0}, node("ce", 0, 1), node("float", 2), node("var", 3, correction=1),
    node("std", 3, correction=0), node("add", 4, 5), node("logsumexp", 3), node("add", 6, 7), node("amax", 3),
    node("add", 8, 9), node("mul", 3, 3), node("mean", 11), node("add", 10, 12), node("sqrt", 3), node("neg", 3),
    node("expm1", 15), node("add", 14, 16), node("add", 3, constant(1)), node("log", 18), node("add", 17, 19),
    node("sum", 20), node("add", 13, 21), node("amin", 3), node("div", 22, constant(2))]}
say("graph of everything", **gradient([custom(every, with_targets(right))], "loss_graph_v1"))
for name, change in (("version", {"version": 1}), ("loss", {"loss": 99}), ("columns", {"columns": []}),
                     ("nodes", {"nodes": ce["nodes"][1:]}), ("metrics", {"metrics": {"": 1}})):
    text = json.dumps(dict(ce, **change), sort_keys=True, separators=(",", ":")).encode()
    say("refused " + name, status=client.call("PrepareLoss", m.PrepareLossRequest(
        model_id=model, model_name="standin/bytes", graph=text)).status)
say("counters", violations=len(control("counters")["violations"]), remarks=control("counters")["remarks"],
    decoded=nest.decode(nest.encode({"a": numpy.arange(3), "b": ["x"]}))["a"].tolist())
