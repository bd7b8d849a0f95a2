"""Custom losses: the JSON graph's form is checked, and its value and derivative in θ computed over one datum."""

import json
import re

import numpy

from training.losses import Wrong
from training.theta import Score

PREFIX = "__river_loss_column_"
POSITION = "__river_loss_position"
GRAPH = "__river_loss_graph_v1"
UNARY = ("neg", "exp", "expm1", "log", "sqrt", "detach", "float")
BINARY = ("add", "sub", "mul", "div", "minimum", "maximum")
REDUCTIONS = ("sum", "mean", "amin", "amax", "logsumexp", "var", "std", "sum_candidates")
ARGUMENTS = dict.fromkeys(UNARY + REDUCTIONS + ("log_softmax",), 1)
ARGUMENTS.update(dict.fromkeys(BINARY + ("ce", "gather", "clamp_min", "clamp_max"), 2))


def _wanted(condition, text):
    if not condition:
        raise Wrong("loss graph: " + text)


def _sorted_dict(pairs):
    keys = [key for key, _ in pairs]
    _wanted(keys == sorted(set(keys)), f"the keys {keys} are not sorted")
    return dict(pairs)


def _name(text):
    return isinstance(text, str) and 1 <= len(text) <= 64


class Pair:
    """A value and its derivative in θ."""

    def __init__(self, value, slope=None):
        self.value = numpy.asarray(value, dtype=numpy.float64)
        self.slope = numpy.zeros_like(self.value) if slope is None else numpy.asarray(slope, dtype=numpy.float64)


class Logits:
    """All that a graph may do with logits: divide them, detach them, look tokens up in them."""

    def __init__(self, temperature=1.0, detached=False):
        self.temperature, self.detached = temperature, detached


class Graph:
    """A loss graph that was checked; `text` is its JSON."""

    def __init__(self, text):
        _wanted(len(text) <= 65536, f"{len(text)} bytes, at most 65536 are taken")
        try:
            graph = json.loads(text, object_pairs_hook=_sorted_dict)
        except ValueError as problem:
            raise Wrong(f"loss graph: not JSON: {problem}") from problem
        self.text = bytes(text)
        _wanted(isinstance(graph, dict), "not an object")
        _wanted(set(graph) == {"version", "columns", "nodes", "loss", "metrics"}, f"has the keys {sorted(graph)}")
        _wanted(graph["version"] == 2, "its version is not 2")
        _wanted(not re.search(r"\s", re.sub(r'"(?:[^"\\]|\\.)*"', "", self.text.decode())), "it has spaces")
        self.columns, self.nodes = graph["columns"], graph["nodes"]
        self.loss, self.metrics = graph["loss"], graph["metrics"]
        self._check_columns()
        self._check_nodes()
        count = len(self.nodes)
        _wanted(isinstance(self.metrics, dict) and len(self.metrics) <= 16, "more than 16 metrics")
        for name, node in list(self.metrics.items()) + [("loss", self.loss)]:
            _wanted(_name(name), f"the metric name {name!r}")
            _wanted(isinstance(node, int) and 0 <= node < count, f"{name} names no node")

    def _check_columns(self):
        _wanted(isinstance(self.columns, list) and 1 <= len(self.columns) <= 16, "1 to 16 columns are wanted")
        names = []
        for column in self.columns:
            _wanted(isinstance(column, dict) and set(column) - {"width"} == {"name", "dtype", "layout"},
                    f"the column {column}")
            _wanted(_name(column["name"]), f"the column name {column['name']!r}")
            _wanted(column["dtype"] in ("int32", "int64", "float32"), f"the column type {column['dtype']}")
            _wanted(column["layout"] == "token", f"the layout {column['layout']}")
            width = column.get("width", 1)
            _wanted(isinstance(width, int) and 1 <= width <= 262144, f"the width {width}")
            names.append(column["name"])
        _wanted(names == sorted(set(names)), "columns are not sorted by distinct names")

    def _check_nodes(self):
        _wanted(isinstance(self.nodes, list) and 1 <= len(self.nodes) <= 128, "1 to 128 nodes are wanted")
        _wanted(self.nodes[0].get("op") == "logits", "the first node is not logits")
        for index, node in enumerate(self.nodes):
            op, args = node.get("op"), node.get("args", [])
            where = f"node {index} ({op})"
            if 1 <= index <= len(self.columns):
                _wanted(op == "input" and node.get("column") == index - 1, f"{where} is not the input {index - 1}")
            elif op in ("logits", "input"):
                _wanted(op == "logits" and index == 0, f"{where} is out of place")
            else:
                _wanted(op in ARGUMENTS, f"{where} is not known")
                _wanted(isinstance(args, list) and len(args) == ARGUMENTS[op], f"{where} has {len(args)} arguments")
                for arg in args:
                    _wanted(isinstance(arg, dict) and len(arg) == 1, f"{where} has the argument {arg}")
                    if "node" in arg:
                        _wanted(isinstance(arg["node"], int) and 0 <= arg["node"] < index, f"{where} looks ahead")
                    else:
                        _wanted(type(arg.get("constant")) in (int, float), f"{where} has the argument {arg}")
            _wanted(len(str(node.get("source", ""))) <= 512, f"{where} has a long source")

    def check_datum(self, where, datum):
        keys = set(datum.columns) - {"input_ids", "model_input", "attention_mask", "expert_routing_handle"}
        wanted = {f"{PREFIX}{index}" for index in range(len(self.columns))} | {POSITION, GRAPH}
        if keys != wanted:
            raise Wrong(f"{where}: columns {sorted(keys)}, {sorted(wanted)} are wanted")
        if datum.columns[GRAPH].tobytes() != self.text:
            raise Wrong(f"{where}: another graph than the first datum's")
        position = datum.columns[POSITION]
        if position.shape != (datum.length,) or not (position == 1).all():
            raise Wrong(f"{where}: {POSITION} is not ones")
        for index, column in enumerate(self.columns):
            values = datum.columns[f"{PREFIX}{index}"]
            shape = (datum.length, column["width"]) if "width" in column else (datum.length,)
            if values.shape != shape or values.dtype.name != column["dtype"]:
                raise Wrong(f"{where}: {column['name']} is {values.dtype} {list(values.shape)}")
            if values.dtype.kind == "f" and not numpy.isfinite(values).all():
                raise Wrong(f"{where}: {column['name']} is not finite")

    def run(self, totals, datum, theta):
        values = []
        for node in self.nodes:
            args = [values[arg["node"]] if "node" in arg else Pair(arg["constant"]) for arg in node.get("args", [])]
            values.append(self._node(node, args, datum, theta))
        loss = values[self.loss]
        if not isinstance(loss, Pair) or loss.value.ndim:
            raise Wrong("loss graph: its loss is not one number")
        totals.gradient += float(loss.slope)
        totals.add(loss_sum=loss.value, **{f"custom/{name}": values[at].value for name, at in self.metrics.items()})

    def _node(self, node, args, datum, theta):
        op = node["op"]
        if op == "logits":
            return Logits()
        if op == "input":
            return Pair(datum.columns[f"{PREFIX}{node['column']}"])
        if isinstance(args[0], Logits):
            return self._logits(op, args, datum, theta)
        return _arithmetic(op, args, node)

    def _logits(self, op, args, datum, theta):
        logits = args[0]
        if op == "div":
            return Logits(logits.temperature * float(args[1].value), logits.detached)
        if op == "detach":
            return Logits(logits.temperature, True)
        if op == "log_softmax":
            return logits
        if op not in ("ce", "gather"):
            raise Wrong(f"loss graph: {op} of logits")
        logprobs, slopes = Score(datum.ids, theta, logits.temperature).of(args[1].value.astype(numpy.int64))
        if logits.detached:
            slopes = numpy.zeros_like(slopes)
        return Pair(-logprobs, -slopes) if op == "ce" else Pair(logprobs, slopes)


def _arithmetic(op, args, node):
    a = args[0]
    b = args[1] if len(args) > 1 else None
    x, dx = a.value, a.slope
    if op in ("float", "neg"):
        return Pair(x, dx) if op == "float" else Pair(-x, -dx)
    if op == "detach":
        return Pair(x)
    if op == "exp":
        return Pair(numpy.exp(x), numpy.exp(x) * dx)
    if op == "expm1":
        return Pair(numpy.expm1(x), numpy.exp(x) * dx)
    if op == "log":
        return Pair(numpy.log(x), dx / x)
    if op == "sqrt":
        return Pair(numpy.sqrt(x), dx / (2 * numpy.sqrt(x)))
    if b is not None:
        y, dy = b.value, b.slope
        if op == "add":
            return Pair(x + y, dx + dy)
        if op == "sub":
            return Pair(x - y, dx - dy)
        if op == "mul":
            return Pair(x * y, dx * y + x * dy)
        if op == "div":
            return Pair(x / y, (dx * y - x * dy) / (y * y))
        first = x <= y if op in ("minimum", "clamp_max") else x >= y
        return Pair(numpy.where(first, x, y), numpy.where(first, dx, dy))
    if op == "sum":
        return Pair(x.sum(), dx.sum())
    if op == "mean":
        return Pair(x.mean(), dx.mean())
    if op == "sum_candidates":
        return Pair(x.sum(axis=1), dx.sum(axis=1))
    if op in ("amin", "amax"):
        at = numpy.unravel_index(numpy.argmin(x) if op == "amin" else numpy.argmax(x), x.shape)
        return Pair(x[at], dx[at])
    if op == "logsumexp":
        top = x.max()
        total = numpy.exp(x - top).sum()
        return Pair(top + numpy.log(total), (numpy.exp(x - top) * dx).sum() / total)
    below = max(x.size - node.get("correction", 1), 1)                      # var and std
    centred = x - x.mean()
    var, dvar = (centred ** 2).sum() / below, 2 * (centred * dx).sum() / below
    return Pair(var, dvar) if op == "var" else Pair(numpy.sqrt(var), dvar / (2 * numpy.sqrt(var)) if var else 0.0)
