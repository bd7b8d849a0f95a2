--- training.loss_graph: the graphs of the official client, rules, and what the graphs mean.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")
local evaluator = dofile(here .. "graph_evaluator.lua")
local formulas = dofile(here .. "loss_formulas.lua")
local json = require "riverlua.json"
local loss_graph = require "training.loss_graph"

local error_of = servers.error_of

local vectors = {}
for line in io.lines(here .. "loss_vectors.jsonl") do
  local vector = json.decode(line)
  vectors[vector.name] = vector
end

local COLUMNS = {t = "int64", a = "float32", b = "float32", n = "int32", ids = {"int64", 4}, p = {"float32", 4},
  q = {"float32", 3}}

-- The loss of a formula over COLUMNS.
local function build(fn, options) return loss_graph(COLUMNS, fn, options) end

local function graph_of(fn) return json.decode(build(fn).json) end

-- The operations of a graph, without those of the logits and columns.
local function operations(fn)
  local graph, list = graph_of(fn), {}
  for i = 9, #graph.nodes do
    local node, words = graph.nodes[i], {}
    for k, arg in ipairs(node.args) do words[k] = arg.node and "#" .. arg.node or tostring(arg.constant) end
    list[#list + 1] = node.op .. "(" .. table.concat(words, ",") .. ")"
  end
  return table.concat(list, " ")
end

local function refused(fn, ...)
  local err = error_of(build, fn)
  assert.equal("argument", err.kind)
  local text = tostring(err)
  for _, piece in ipairs{...} do assert.matches(piece, text, 1, true) end
  return err
end

describe("loss_graph", function()
  describe("makes the official graph of", function()
    for name, formula in pairs(formulas) do
      it(name, function()
        local loss = loss_graph(formula[1], formula[2])
        local graph = json.decode(loss.json)
        for _, node in ipairs(graph.nodes) do
          assert.matches("loss_formulas.lua:%d+$", node.op ~= "logits" and node.op ~= "input" and node.source
            or "loss_formulas.lua:1")
          assert.is_true(#node.source <= 512)
          node.source = nil
        end
        assert.same(vectors[name].graph, graph)
        -- and byte for byte
        local plain = loss_graph(formula[1], formula[2], {source = false}).json:gsub(',"source":""', "")
        assert.equal(json.encode(vectors[name].graph, {sort = true}), plain)
      end)
    end

    it("what PrepareLoss was seen with", function()
      local loss = loss_graph.build({targets = "int64"}, function(logits, x) return logits:ce(x.targets):sum() end,
        {source = false})
      assert.equal(vectors.prepared.text, loss.json)
    end)
  end)

  describe("writes", function()
    it("every operation, as a method and as a function", function()
      assert.equal("ce(#0,#7) add(#8,#1) sub(#9,#2) mul(#10,#1) div(#11,#2) minimum(#12,#1) maximum(#13,#2) neg(#14) "
        .. "exp(#15) expm1(#16) log(#17) sqrt(#18) float(#19) clamp_min(#20,-1.0) clamp_max(#21,1.0) sum(#22)",
        operations(function(logits, x)
          local v = logits:ce(x.t):add(x.a):sub(x.b):mul(x.a):div(x.b):minimum(x.a):maximum(x.b):neg():exp():expm1()
          return v:log():sqrt():float():clamp(-1, 1):sum()
        end))
      assert.equal(operations(function(logits, x)
        return (-(1 - logits:ce(x.t)) * 2 / x.a + x.b):exp():mean()
      end), operations(function(logits, x, g)
        return g.mean(g.exp(g.add(g.div(g.mul(g.neg(g.sub(1, g.ce(logits, x.t))), 2), x.a), x.b)))
      end))
      local reduced = {"sum", "mean", "amin", "amax", "logsumexp", "var", "std"}
      for _, name in ipairs(reduced) do
        assert.equal("ce(#0,#7) " .. name .. "(#8)", operations(function(logits, x)
          return logits:ce(x.t)[name](logits:ce(x.t))
        end):gsub("ce%(#0,#7%) ce", "ce"):gsub("#9", "#8"), name)
      end
      assert.equal("log_softmax(#0) gather(#8,#3) mul(#9,#5) sum_candidates(#10) detach(#11) sub(#11,#12) sum(#13)",
        operations(function(logits, x)
          local s = (logits:log_softmax():gather(x.ids) * x.p):sum_candidates()
          return (s - s:detach()):sum()
        end))
    end)

    it("constants as floats, on either side", function()
      assert.equal("ce(#0,#7) sub(1.0,#8) mul(2.0,#9) div(#10,4.0) add(#11,0.1) maximum(#12,-0.0) sum(#13)",
        operations(function(logits, x, g)
          return g.maximum(2 * (1 - logits:ce(x.t)) / 4 + 0.1, -0.0):sum()
        end))
      assert.matches('{"constant":1e+16}', build(function(logits, x)
        return (logits:ce(x.t) * 10 ^ 16):sum()
      end).json, 1, true)
      assert.matches('{"constant":1e-05}', build(function(logits, x)
        return (logits:ce(x.t) * 1e-5):sum()
      end).json, 1, true)
    end)

    it("powers as multiplications", function()
      local function power(n)
        return operations(function(logits, x) return (x.a ^ n + logits:ce(x.t)):sum() end)
      end
      assert.equal("ce(#0,#7) add(#1,#8) sum(#9)", power(1))
      assert.equal("mul(#1,#1) ce(#0,#7) add(#8,#9) sum(#10)", power(2))
      assert.equal("mul(#1,#1) mul(#8,#1) ce(#0,#7) add(#9,#10) sum(#11)", power(3))
      assert.equal("mul(#1,#1) mul(#8,#8) mul(#9,#9) mul(#10,#10) ce(#0,#7) add(#11,#12) sum(#13)", power(16))
      assert.equal("sqrt(#1) ce(#0,#7) add(#8,#9) sum(#10)", power(0.5))
      for _, n in ipairs{0, -1, 17, 1.5, "2", math.huge} do
        refused(function(logits, x) return (x.a ^ n + logits:ce(x.t)):sum() end, "pow")
      end
      refused(function(logits, x) return (2 ^ logits:ce(x.t)):sum() end, "base")
    end)

    it("corrections and the dtype of log_softmax", function()
      local graph = graph_of(function(logits, x)
        local v = logits:log_softmax("float32"):gather(x.ids)
        return v:var() + v:var(0) + v:std(2)
      end)
      assert.equal("float32", graph.nodes[9].dtype)
      assert.equal(1, graph.nodes[11].correction)
      assert.equal(0, graph.nodes[12].correction)
      assert.equal(2, graph.nodes[14].correction)
    end)

    it("the columns by the bytes of their names, whether used or not", function()
      local loss = loss_graph({b = "float32", B = "int32", ["é"] = {"float32", 2}, a = "int64"}, function(logits, x)
        return logits:ce(x.a):sum()
      end)
      assert.same({{name = "B", dtype = "int32"}, {name = "a", dtype = "int64"}, {name = "b", dtype = "float32"},
        {name = "é", dtype = "float32", width = 2}}, loss.columns)
      local graph = json.decode(loss.json)
      assert.same({{name = "B", dtype = "int32", layout = "token"}, {name = "a", dtype = "int64", layout = "token"},
        {name = "b", dtype = "float32", layout = "token"},
        {name = "é", dtype = "float32", layout = "token", width = 2}}, graph.columns)
      for i = 0, 3 do assert.equal(i, graph.nodes[2 + i].column) end
      assert.matches('"name":"\\u00e9"', loss.json, 1, true)
    end)

    it("columns declared as in Python alike", function()
      local function fn(logits, x) return (logits:log_softmax():gather(x.ids) * x.p):sum() end
      assert.equal(loss_graph({ids = {"int64", 8}, p = {"float32", 8}}, fn).json:gsub(":%d+", ""),
        loss_graph({ids = {dtype = "int64", shape = {"T", 8}}, p = {"float32", shape = {"T", 8}}}, fn).json
          :gsub(":%d+", ""))
      loss_graph({t = {"int64"}, n = {dtype = "int32"}}, function(logits, x) return logits:ce(x.t):sum() end)
    end)

    it("only what the loss and the metrics need", function()
      assert.equal("ce(#0,#7) sum(#8) exp(#1) mean(#10)", operations(function(logits, x)
        local v = logits:ce(x.t)
        local _ = (v * 2):mean()
        local loss = v:sum()
        return loss, {m = x.a:exp():mean()}
      end))
    end)

    it("the places of the operations, or not", function()
      local function fn(logits, x) return logits:ce(x.t):sum() end
      local line = debug.getinfo(fn, "S").linedefined
      local graph = json.decode(build(fn).json)
      assert.matches("loss_graph_spec.lua:" .. line .. "$", graph.nodes[9].source)
      for _, node in ipairs(json.decode(build(fn, {source = false}).json).nodes) do assert.equal("", node.source) end
    end)

    it("what it is as a text", function()
      local loss = loss_graph({t = "int64"}, function(logits, x)
        local v = logits:ce(x.t)
        return v:sum(), {z = v:amax(), m = v:mean()}
      end)
      assert.equal("training.LossGraph: columns t; 6 nodes; metrics m, z", tostring(loss))
      assert.same({"m", "z"}, loss.metrics)
      assert.equal(6, loss.nodes)
      assert.is_true(loss_graph.is(loss))
      assert.is_false(loss_graph.is{})
    end)
  end)

  describe("means", function()
    local LOGITS = {{0.3, -1.2, 0.8, 0.1}, {1.5, 0.2, -0.4, 0.9}, {-0.7, 0.6, 0.5, -1.1}}
    local TARGETS = {2, 0, 3}

    local function log_probability(row, id)
      local total = 0
      for _, v in ipairs(row) do total = total + math.exp(v) end
      return row[id + 1] - math.log(total)
    end

    -- Compares with a plain function of the logits, whose derivative is taken by differences; `frozen` makes one that
    -- holds what is detached fast.
    local function agrees(name, data, frozen)
      local formula = formulas[name]
      local graph = json.decode(loss_graph(formula[1], formula[2]).json)
      local value, gradient, metrics = evaluator.run(graph, LOGITS, data)
      local plain = frozen(LOGITS)
      assert.is_true(math.abs(plain(LOGITS) - value) < 1e-12)
      local step = 1e-5
      for t, row in ipairs(LOGITS) do
        for k = 1, #row do
          local function moved(by)
            local copy = {}
            for i, old in ipairs(LOGITS) do copy[i] = table.move(old, 1, #old, 1, {}) end
            copy[t][k] = copy[t][k] + by
            return plain(copy)
          end
          local difference = (moved(step) - moved(-step)) / (2 * step)
          local place = ("%s at %d, %d"):format(name, t, k)
          assert.is_true(math.abs(difference - gradient[(t - 1) * #row + k]) < 1e-7, place)
        end
      end
      return metrics
    end

    it("weighted cross-entropy", function()
      local weights = {0.5, 0, 2}
      local metrics = agrees("ce", {targets = TARGETS, weights = weights}, function()
        return function(logits)
          local total = 0
          for t, row in ipairs(logits) do total = total - weights[t] * log_probability(row, TARGETS[t]) end
          return total
        end
      end)
      assert.same({weight_sum = 2.5}, metrics)
    end)

    it("PPO, on both sides of the clip", function()
      local old, advantages = {-0.2, -0.6, -2.9}, {1, -0.5, 2}
      agrees("ppo", {targets = TARGETS, old = old, a = advantages}, function()
        return function(logits)
          local total = 0
          for t, row in ipairs(logits) do
            local ratio = math.exp(log_probability(row, TARGETS[t]) - old[t])
            local clipped = math.max(0.8, math.min(1.2, ratio))
            total = total - math.min(ratio * advantages[t], clipped * advantages[t])
          end
          return total
        end
      end)
    end)

    it("CISPO, which does not learn through its weights", function()
      local old, advantages, mask = {-0.9, -0.6, -5}, {1, -0.5, 2}, {1, 1, 0.5}
      agrees("cispo", {targets = TARGETS, old_logprobs = old, advantages = advantages, mask = mask},
        function(frozen)
          local function lp_of(logits, t)
            local row = {}
            for k, v in ipairs(logits[t]) do row[k] = v / 0.7 end
            return log_probability(row, TARGETS[t])
          end
          local weights = {}
          for t = 1, 3 do weights[t] = math.min(6, math.exp(lp_of(frozen, t) - old[t])) end
          return function(logits)
            local total = 0
            for t = 1, 3 do total = total - weights[t] * lp_of(logits, t) * advantages[t] * mask[t] end
            return total / math.max(1, mask[1] + mask[2] + mask[3])
          end
        end)
    end)

    it("cross-entropy with soft targets", function()
      local ids, p = {}, {}
      for t = 1, 3 do
        ids[t], p[t] = {0, 1, 2, 3, 0, 1, 2, 3}, {0.1, 0.2, 0.3, 0.05, 0.05, 0.1, 0.1, 0.1 * t}
      end
      agrees("topk64", {ids = ids, p = p}, function()
        return function(logits)
          local total = 0
          for t, row in ipairs(logits) do
            for k, id in ipairs(ids[t]) do total = total - p[t][k] * log_probability(row, id) end
          end
          return total
        end
      end)
    end)

    it("all the rest", function()
      local metrics = agrees("misc", {targets = TARGETS}, function()
        return function(logits)
          local v, n, mean, square, sum_exp, most, pointwise = {}, 3, 0, 0, 0, -math.huge, 0
          for t, row in ipairs(logits) do
            local one = -log_probability(row, TARGETS[t])
            v[t], mean, square, sum_exp = one, mean + one / n, square + one * one / n, sum_exp + math.exp(one)
            most = math.max(most, one)
            pointwise = pointwise + one ^ 0.5 + math.exp(-one) - 1 + math.log(one + 1)
          end
          local deviation = 0
          for _, one in ipairs(v) do deviation = deviation + (one - mean) ^ 2 end
          return deviation / (n - 1) + (deviation / n) ^ 0.5 + math.log(sum_exp) + most + square + pointwise
        end
      end)
      local least = math.huge
      for t, row in ipairs(LOGITS) do least = math.min(least, -log_probability(row, TARGETS[t])) end
      assert.is_true(math.abs(metrics.m - least) < 1e-12)
    end)
  end)

  describe("refuses", function()
    it("wrong columns", function()
      local function fails(inputs, piece)
        local err = error_of(loss_graph, inputs, function(logits, x) return logits:ce(x.t):sum() end)
        assert.equal("argument", err.kind)
        assert.matches(piece, tostring(err), 1, true)
      end
      fails(nil, "inputs")
      fails({}, "1 to 16 columns, not 0")
      local many = {t = "int64"}
      for i = 1, 16 do many["c" .. i] = "float32" end
      fails(many, "not 17")
      fails({t = "int64", [""] = "int32"}, "1 to 64 characters, not 0")
      fails({t = "int64", [("x"):rep(65)] = "int32"}, "not 65")
      fails({t = "int64", ["\xff"] = "int32"}, "UTF-8")
      fails({"int64"}, "names")
      fails({t = "int46"}, 'did you mean "int64"')
      fails({t = "float64"}, "float32")
      fails({t = 5}, "column 't'")
      fails({t = "int64", w = {"float32", 0}}, "262144")
      fails({t = "int64", w = {"float32", 262145}}, "262144")
      fails({t = "int64", w = {"float32", 2.5}}, "262144")
      fails({t = "int64", w = {"float32", width = 3}}, "{dtype, width}")
      fails({t = "int64", w = {"float32", 3, shape = {"T", 3}}}, "{dtype, width}")
      fails({t = "int64", w = {dtype = "float32", shape = {"T"}}}, '{"T", K}')
      fails({t = "int64", w = {dtype = "float32", shape = {"T", 0}}}, "262144")
      fails({t = "int64", w = {shape = {"T", 3}}}, "column 'w'")
      fails({t = "int64", w = {}}, "column 'w'")
      local wide = loss_graph({t = "int64", [("é"):rep(64)] = {"float32", 262144}, one = {"float32", 1}},
        function(logits, x) return logits:ce(x.t):sum() end)
      assert.equal(3, #wide.columns)
    end)

    it("what is done with logits but cannot be", function()
      refused(function(logits) return (logits * 2):sum() end, "mul", "logits", "temperature")
      refused(function(logits) return logits:sum() end, "sum", "logits")
      refused(function(logits) return logits:float() end, "float", "cannot be cast")
      refused(function(logits, x) return (logits / 0):ce(x.t):sum() end, "div", "above 0")
      refused(function(logits, x) return (logits / -1):ce(x.t):sum() end, "above 0")
      refused(function(logits, x) return (logits / x.a):ce(x.t):sum() end, "above 0")
      refused(function(logits, x) return (1 / logits):ce(x.t):sum() end, "div", "logits")
      refused(function(logits, x) return logits:gather(x.ids):sum() end, "gather", "log_softmax")
      refused(function(logits) return logits:log_softmax():sum() end, "sum", "gather")
      refused(function(logits, x) return logits:log_softmax():ce(x.t):sum() end, "ce", "the logits are wanted")
      refused(function(logits) return logits:log_softmax():exp():sum() end, "exp", "gather")
      refused(function(logits) return logits:log_softmax():float():sum() end, "cannot be cast")
      refused(function(logits, x) return logits:log_softmax("bfloat16"):gather(x.ids):sum() end, "float32")
      refused(function(logits, x) return x.a:ce(x.t):sum() + logits:ce(x.t):sum() end, "ce")
      build(function(logits, x)
        return (logits:log_softmax():detach():gather(x.ids) * logits:log_softmax():gather(x.ids)
          + (logits:detach() / 2):log_softmax():gather(x.ids)):sum()
      end)
    end)

    it("wrong indices", function()
      refused(function(logits, x) return logits:ce(x.a):sum() end, "ce", "the float column 'a' [T]")
      refused(function(logits, x) return logits:ce(x.ids):sum() end, "ce", "the int column 'ids' [T,4]")
      refused(function(logits, x) return logits:ce(x.t:float()):sum() end, "ce")
      refused(function(logits) return logits:ce(3):sum() end, "the number 3")
      refused(function(logits) return logits:ce():sum() end, "got nothing")
      refused(function(logits, x) return logits:log_softmax():gather(x.t):sum() end, "gather", "with a width")
      refused(function(logits, x) return logits:log_softmax():gather(x.p):sum() end, "gather")
      build(function(logits, x) return logits:ce(x.n):sum() end)
    end)

    it("layouts that do not go together", function()
      refused(function(logits, x) return (logits:ce(x.t) + x.p):sum() end, "add", "[T] of ce", "[T,4]",
        "sum_candidates")
      refused(function(logits, x) return (x.p * x.q):sum() + logits:ce(x.t):sum() end, "[T,4]", "[T,3]")
      refused(function(logits, x) return logits:ce(x.t):sum_candidates():sum() end, "sum_candidates", "[T] of ce")
      refused(function(logits, x) return logits:ce(x.t):clamp(x.a):sum() end, "clamp_min", "one number")
      refused(function(logits, x) return logits:ce(x.t):sum(1) end, "sum", "no arguments")
      refused(function(logits, x) return logits:ce(x.t):var(-1) end, "correction")
      build(function(logits, x) return (logits:ce(x.t) * (x.p:sum_candidates() - x.a:mean())):sum() / x.a:sum() end)
    end)

    it("integers where numbers are computed with", function()
      refused(function(logits, x) return (logits:ce(x.t) * x.n):sum() end, "mul", "holds integers", ":float()")
      refused(function(logits, x) return logits:ce(x.t):sum() + x.n:sum() end, "sum", "integers")
      build(function(logits, x) return (logits:ce(x.t) * x.n:float()):sum() end)
    end)

    it("what goes back from a reduction to the tokens", function()
      local hint = "cannot go back into per-token values"
      refused(function(logits, x)
        local v = logits:ce(x.t)
        return (v - v:mean()):sum()
      end, "sub", hint)
      refused(function(logits, x)
        local v = logits:ce(x.t)
        return (v:mean():detach() * x.a):sum() + v:sum()
      end, "mul", hint)
      refused(function(logits, x)
        local v = logits:ce(x.t)
        return v:clamp(nil, v:amax()):sum()
      end, "clamp_max", hint)
      refused(function(logits, x)
        local v = logits:log_softmax():gather(x.ids)
        return (v / v:sum()):sum_candidates():sum()
      end, "div", hint)
      build(function(logits, x)
        local v = logits:ce(x.t)
        return v:mean():clamp(v:amin(), v:amax()) * v:sum():minimum(x.a:sum())
      end)
    end)

    it("results that are no loss", function()
      refused(function() end, "the loss must be an expression, got nothing")
      refused(function() return 1 end, "the number 1")
      refused(function(logits, x) return logits:ce(x.t) end, "one number, got [T] of ce", "reduce it")
      refused(function(logits) return logits end, "the logits")
      refused(function(_, x) return x.a:sum() end, "does not depend on the logits")
      refused(function(logits, x) return logits:ce(x.t):detach():sum() end, "nothing to learn")
      refused(function(logits, x) return logits:detach():ce(x.t):sum() end, "nothing to learn")
      refused(function(logits, x) return logits:ce(x.t):sum(), {m = logits:ce(x.t)} end, "metric 'm'")
      refused(function(logits, x) return logits:ce(x.t):sum(), {m = 1} end, "metric 'm'")
      refused(function(logits, x) return logits:ce(x.t):sum(), {x.a:sum()} end, "names")
      refused(function(logits, x) return logits:ce(x.t):sum(), {[""] = x.a:sum()} end, "not 0")
      refused(function(logits, x) return logits:ce(x.t):sum(), {[("x"):rep(65)] = x.a:sum()} end, "not 65")
      refused(function(logits, x) return logits:ce(x.t):sum(), x.a:sum() end, "metrics")
      refused(function(logits, x)
        local metrics = {}
        for i = 1, 17 do metrics["m" .. i] = x.a:sum() end
        return logits:ce(x.t):sum(), metrics
      end, "at most 16 metrics, not 17")
    end)

    it("constants that are no numbers", function()
      refused(function(logits, x) return (logits:ce(x.t) * (0 / 0)):sum() end, "mul", "NaN")
      refused(function(logits, x) return (logits:ce(x.t) + math.huge):sum() end, "add", "infinite")
      refused(function(logits, x) return logits:ce(x.t):clamp(0 / 0):sum() end, "NaN")
      refused(function(logits, x) return (logits / math.huge):ce(x.t):sum() end, "infinite")
      refused(function(logits, x) return (logits:ce(x.t) * "2"):sum() end, "mul", "got a string")
      refused(function(logits, x) return (logits:ce(x.t) * {}):sum() end, "got a table")
      refused(function(logits, x, g) return g.add(1, 2) + logits:ce(x.t):sum() end, "add", "an expression is wanted")
      refused(function(logits, x, g) return g.exp(1) + logits:ce(x.t):sum() end, "exp", "the number 1")
    end)

    it("more than 128 nodes, 64 KiB, or endless formulas", function()
      local function chain(n)
        return function(logits, x)
          local v = logits:ce(x.t)
          for _ = 1, n do v = v + 1 end
          return v:sum()
        end
      end
      assert.equal(128, build(chain(128 - 8 - 2)).nodes)
      refused(chain(128 - 8 - 1), "129 nodes, and at most 128")
      refused(function(logits, x)
        local v = logits:ce(x.t)
        while true do v = v + 1 end
      end, "more than 4096 operations")
      -- names of four bytes a character become twelve
      local wide = {t = "int64"}
      for i = 1, 15 do wide[("😀"):rep(60) .. ("%03d"):format(i)] = "float32" end
      local long = [[return function(logits, x)
        local v = logits:ce(x.t)
        for _ = 1, 100 do v = v + 1 end
        return v:sum()
      end]]
      local fn = load(long, "=" .. ("x"):rep(600))()
      local loss = loss_graph(wide, fn)
      assert.is_true(#loss.json <= 65536)
      for _, node in ipairs(json.decode(loss.json).nodes) do assert.is_true(#node.source <= 512) end
    end)

    it("what Lua does with values", function()
      refused(function(logits, x) return logits:ce(x.t) < 1 end, "<", "compared")
      refused(function(logits, x) return logits:ce(x.t) <= x.a end, "<=", "compared")
      refused(function(logits, x) return logits:ce(x.t) / #x.a end, "#", "number of tokens")
      refused(function(logits, x) return logits:ce(x.t) % 2 end, "%")
      refused(function(logits, x) return logits:ce(x.t) // 2 end, "//")
      refused(function(logits, x) return logits:ce(x.t)[1] end, "[]", "single elements")
      refused(function(logits, x) return "x" .. logits:ce(x.t) end, "..")
      refused(function(logits, x) x.a.kept = true return logits:ce(x.t):sum() end, "cannot be changed")
      refused(function(logits, x) x.a = 1 return logits:ce(x.t):sum() end, "cannot be set")
      refused(function(logits, x) return x.a(logits) end, "no function")
    end)

    it("slips, with a hint and the line", function()
      local function slip(logits, x) return logits:ce(x.t):summ() end
      local err = refused(slip, "summ", "did you mean 'sum'?")
      assert.matches("loss_graph_spec.lua:" .. debug.getinfo(slip, "S").linedefined, err.message, 1, true)
      refused(function(logits, x, g) return g.logsumex(logits:ce(x.t)) end, "did you mean 'logsumexp'?")
      refused(function(logits, x) return logits:ce(x.tt):sum() end, "no such column", "did you mean 't'?")
      refused(function(logits, x) return logits:ce(x.targets):sum() end, "columns: a, b, ids, n, p, q, t")
      local options = error_of(build, function() end, {sources = false})
      assert.matches("did you mean 'source'?", options.message, 1, true)
      assert.matches("callable", error_of(loss_graph, COLUMNS, 5).message, 1, true)
    end)

    it("expressions of another loss", function()
      local kept
      build(function(logits, x)
        kept = x.a
        return logits:ce(x.t):sum()
      end)
      refused(function(logits, x) return (logits:ce(x.t) * kept):sum() end, "another loss")
      assert.matches("another loss", error_of(function() return kept + 1 end).message, 1, true)
    end)

    it("nothing that the function itself raises", function()
      local mine = {}
      assert.equal(mine, error_of(build, function() error(mine) end))
    end)
  end)

  it("works without the library debug", function()
    local result = servers.run([[
      debug = nil
      local loss = require("training.loss_graph")({t = "int64"}, function(l, x) return l:ce(x.t):sum() end)
      print((loss.json:gsub("^.*nodes", "")))
      print(select(2, pcall(require("training.loss_graph"), {t = "int64"}, function(l, x) return l:sum() end)).message)
    ]])
    assert.matches('"source":""', result.out, 1, true)
    assert.matches("loss_graph: sum: logits", result.out, 1, true)
  end)
end)
