--- Composing models: constructors, values, operators, texts and what is refused.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local river = require "river"
local model = require "river.model"

local scaler = river.preprocessing.StandardScaler()
local linear = river.linear_model.LinearRegression()
local PIPELINE, UNION = "river.compose.Pipeline", "river.compose.TransformerUnion"

local function classes_of(node)
  local names = {}
  for index = 1, node.args.n do
    local step = node.args[index]
    names[index] = model.is_node(step) and step.class:match("[^.]+$") or model.kind(step)
  end
  return table.concat(names, " ")
end

local function refuses(pattern, call, ...)
  local err = support.error_of(call, ...)
  assert.equal("argument", err.kind)
  assert.truthy(tostring(err):find(pattern), tostring(err))
end

describe("a constructor", function()
  it("keeps positional and named arguments apart", function()
    local node = river.optim.SGD(0.01)
    assert.equal("river.optim.SGD", node.class)
    assert.same({n = 1, 0.01}, node.args)
    assert.same({}, node.kwargs)
    node = river.tree.HoeffdingTreeClassifier{grace_period = 20, delta = 0.5}
    assert.same({n = 0}, node.args)
    assert.same({grace_period = 20, delta = 0.5}, node.kwargs)
    node = river.ensemble.BaggingClassifier(linear, {n_models = 3})
    assert.same({n = 1, linear}, node.args)
    assert.same({n_models = 3}, node.kwargs)
  end)

  it("takes the array part of a table of named arguments as positional ones", function()
    local node = river.linear_model.LinearRegression{river.optim.SGD(0.5), l2 = 0.1}
    assert.equal("river.optim.SGD", node.args[1].class)
    assert.same({l2 = 0.1}, node.kwargs)
  end)

  it("takes empty parentheses and empty braces as no argument", function()
    assert.same({n = 0}, river.preprocessing.StandardScaler{}.args)
    assert.same({n = 0}, river.preprocessing.StandardScaler().args)
    assert.same({n = 1, 1}, river.optim.SGD(1, {}).args)
  end)

  it("keeps integers and floats apart", function()
    local node = river.optim.SGD{a = 1, b = 1.0}
    assert.equal("integer", math.type(node.kwargs.a))
    assert.equal("float", math.type(node.kwargs.b))
  end)

  it("reaches classes of submodules and classes that the client never heard of", function()
    assert.equal("river.optim.losses.Huber", river.optim.losses.Huber(0.5).class)
    assert.equal("river.future.things.Forest", river.future.things.Forest{}.class)
    assert.equal("river.linear_model.Newcomer", river.class("river.linear_model.Newcomer")().class)
  end)

  it("spreads a list given alone where any number of arguments is taken", function()
    assert.same({n = 2, "a", "b"}, river.compose.Select{"a", "b"}.args)
    assert.same({n = 2, "a", "b"}, river.compose.Select("a", "b").args)
    local voting = river.ensemble.VotingClassifier{models = {linear, linear}}
    assert.equal("list", model.kind(voting.kwargs.models))
    assert.equal("list", model.kind(river.ensemble.VotingClassifier{linear, linear}.args[1]))
  end)

  it("takes a dictionary where that is all a class takes", function()
    assert.equal("dict", model.kind(river.compose.Renamer{old = "new"}.args[1]))
    assert.equal("dict", model.kind(river.compose.Renamer{mapping = {old = "new"}}.kwargs.mapping))
    local imputer = river.preprocessing.StatImputer{{"a", river.stats.Mean()}, {"b", 0}}
    assert.equal(2, imputer.args.n)
    assert.equal("b", imputer.args[2][1])
    assert.equal(1, river.preprocessing.StatImputer({"a", 0}).args.n)
  end)

  it("names the steps of a pipeline", function()
    for _, node in ipairs{
      river.compose.Pipeline{{"scale", scaler}, linear},
      river.compose.Pipeline({"scale", scaler}, linear),
      river.compose.Pipeline(river.tuple{"scale", scaler}, linear),
    } do
      assert.equal("tuple LinearRegression", classes_of(node))
      assert.equal("scale", node.args[1][1])
      assert.equal(scaler, node.args[1][2])
    end
    assert.equal("tuple", classes_of(river.compose.Pipeline{{"scale", scaler}}))
    assert.equal("tuple", classes_of(river.compose.Pipeline{"scale", scaler}))
  end)

  it("does not follow later changes of a table it was given", function()
    local options = {l2 = 0.1, list = {1, 2}}
    local node = river.linear_model.LinearRegression(options)
    options.l2, options.list[1] = 5, 6
    assert.equal(0.1, node.kwargs.l2)
    assert.equal(1, node.kwargs.list[1])
  end)

  it("makes values that cannot be changed", function()
    refuses("cannot be changed", function() scaler.extra = 1 end)
    refuses("cannot be changed", function() river.tuple{1, 2}[3] = 1 end)
    refuses("cannot be set", function() river.optim.SGD = nil; river.optim.Mine = 1 end)
  end)
end)

describe("a value", function()
  local function value_of(given) return river.optim.SGD{v = given}.kwargs.v end

  it("has a kind", function()
    assert.equal("list", model.kind(value_of{1, 2}))
    assert.equal("dict", model.kind(value_of{a = 1}))
    assert.equal("tuple", model.kind(value_of(river.tuple{1})))
    assert.equal("set", model.kind(value_of(river.set{1})))
    assert.equal("none", model.kind(value_of(river.none)))
    assert.equal("none", model.kind(value_of(require("riverlua.json").null)))
    assert.equal("reference", model.kind(value_of(river.stats.Mean)))
    assert.equal("reference", model.kind(value_of(river.utils.math.sigmoid)))
    assert.equal("river.utils.math.sigmoid", value_of(river.utils.math.sigmoid).name)
    assert.equal("list", model.kind(value_of(require("riverlua.json").array{})))
  end)

  it("of a dictionary is sorted by key, or in the order given", function()
    local function keys(dict)
      local names = {}
      for index, pair in ipairs(dict) do names[index] = tostring(pair[1]) end
      return table.concat(names, " ")
    end
    assert.equal("false true -1 2.5 a b", keys(value_of{b = 1, a = 2, [2.5] = 3, [-1] = 4, [true] = 5, [false] = 6}))
    assert.equal("b a", keys(river.dict{{"b", 1}, {"a", 2}}))
    assert.equal("0 1", keys(river.dict{[0] = 0.5, [1] = 0.5}))
    assert.equal("1 2", keys(river.dict{0.5, 0.25}))
    assert.equal("", keys(river.dict{}))
  end)

  it("that cannot be sent is refused with a reason", function()
    refuses("river.list{} or river.dict{}", value_of, {})
    refuses("Lua function", value_of, function() end)
    refuses("UTF%-8", value_of, "\xff")
    refuses("list items and named fields", value_of, {1, a = 2})
    refuses("thread", value_of, coroutine.create(function() end))
    refuses("object of the script", value_of, setmetatable({}, {}))
    refuses("argument 1 is nil.*river.none", river.optim.SGD, nil)
    local loop = {}
    loop[1] = loop
    refuses("contain itself", value_of, loop)
    refuses("key of a dictionary", value_of, {[{}] = 1})
    refuses("in order", river.tuple, {a = 1})
    refuses("takes a table", river.tuple, 1, 2)
    refuses("dotted name", river.ref, "Mean")
    refuses("dotted name", river.ref, "river..Mean")
  end)
end)

describe("operator", function()
  local a, b, c, d = river.optim.A(), river.optim.B(), river.optim.C(), river.optim.D()

  it("| appends and prepends as Python's", function()
    assert.equal(PIPELINE, (a | b).class)
    assert.equal("A B C", classes_of(a | b | c))
    assert.equal("A B C", classes_of(a | (b | c)))
    assert.equal("A B Pipeline", classes_of((a | b) | (c | d)))
  end)

  it("| leaves its operands alone", function()
    local pipe = a | b
    local _ = pipe | c
    assert.equal(2, pipe.args.n)
    assert.equal("A B D", classes_of(pipe | d))
  end)

  it("| takes named steps, functions, and lists as unions", function()
    assert.equal("tuple A", classes_of(river.tuple{"x", b} | a))
    assert.equal("A tuple", classes_of(a | {"x", b}))
    assert.equal("A reference", classes_of(a | river.utils.math.softmax))
    assert.equal("reference A", classes_of(river.ref "river.utils.math.softmax" | a))
    assert.equal("list A", classes_of({b, c} | a))
  end)

  it("| numbers the name of a step put before one of the same name, as Python's", function()
    local pipe = a | (a | b)
    assert.equal("tuple A B", classes_of(pipe))
    assert.equal("A1", pipe.args[1][1])
    assert.equal("A A B", classes_of(a | a | b))
  end)

  it("| chains statistics", function()
    local link = river.stats.Shift(1) | river.stats.Mean()
    assert.equal("river.stats.Link", link.class)
    assert.equal("river.stats.Shift", link.kwargs.left.class)
  end)

  it("+ unites as Python's", function()
    assert.equal(UNION, (a + b).class)
    assert.equal("A B C", classes_of(a + b + c))
    assert.equal("A TransformerUnion", classes_of(a + (b + c)))
    local nested = (a + b) + (c + d)
    assert.equal("A B tuple", classes_of(nested))
    assert.equal("TransformerUnion", nested.args[3][1])
    assert.equal("A B Pipeline", classes_of((c | d) + (a + b)))
    assert.equal("Pipeline A", classes_of((c | d) + a))
  end)

  it("* multiplies features or groups by their names", function()
    assert.equal("river.compose.TransformerProduct", (a * b).class)
    assert.equal("A B C", classes_of(a * b * c))
    local grouper = a * "city"
    assert.equal("river.compose.Grouper", grouper.class)
    assert.same({transformer = a, by = "city"}, grouper.kwargs)
    assert.equal("river.compose.Grouper", ("city" * a).class)
    assert.equal("list", model.kind((a * {"city", "street"}).kwargs.by))
  end)

  it("precedence is Python's", function()
    assert.equal("TransformerUnion C", classes_of(a + b | c))
    assert.equal("A TransformerProduct", classes_of(a + b * c))
  end)

  it("mistakes get a hint", function()
    refuses("call it: river.optim.B%(%)", function() return a | river.optim.B end)
    refuses("call it", function() return river.optim.A | river.optim.B end)
    refuses("got nil", function() return a | nil end)
    refuses("cannot be a step", function() return a | "text" end)
    refuses("Lua function", function() return a | print end)
    refuses("'%+' joins transformers", function() return river.stats.Mean() + river.stats.Var() end)
    refuses("one side", function() return river.tuple{"x", a} | river.tuple{"y", b} end)
  end)
end)

describe("a namespace", function()
  it("is refused as a call, with a class to use", function()
    refuses("not a class.*name a class in it: river.linear_model.ALMAClassifier", river.linear_model)
    refuses("did you mean river.optim.SGD", river.optim.sgd)
    refuses("passed as a value", river.utils.math.novelty)
  end)

  it("does not swallow typing errors", function()
    refuses("no 'Cleint' %(hint: did you mean river.Client%?%)", function() return river.Cleint end)
    refuses("did you mean river.linear_model", function() return river.liner_model end)
    refuses("river.preprocessing.StandardScaler", function() return river.StandardScaler end)
    refuses("classes live in modules", function() return river.Quux end)
    refuses("it has no 'learn_one'", function() return river.optim.SGD.learn_one end)
  end)

  it("lists what it knows", function()
    local names = {}
    for name in pairs(river) do names[name] = true end
    assert.truthy(names.Client and names.linear_model and names.tuple)
    names = {}
    for name, value in pairs(river.optim) do names[name] = tostring(value) end
    assert.equal("river.optim.SGD", names.SGD)
    assert.equal("river.optim.losses", names.losses)
  end)

  it("keeps what it made", function()
    assert.equal(river.optim, river.optim)
    assert.equal(river.optim.SGD, river.optim.SGD)
  end)
end)

describe("the text of a model", function()
  local texts = {
    "river.preprocessing.StandardScaler() | river.linear_model.LinearRegression{optimizer = river.optim.SGD(0.01)}",
    "river.compose.Pipeline(river.tuple{\"scale\", river.preprocessing.StandardScaler()})",
    "river.optim.A() + river.optim.B() | river.optim.C()",
    "river.optim.A() + (river.optim.B() | river.optim.C())",
    "(river.optim.A() + river.optim.B()) * river.optim.C()",
    "river.compose.Grouper{by = river.list{\"a\", 1}, transformer = river.optim.A()}",
    "river.optim.A(river.none, true, -3, 1.5, {x = 1e+300, y = 2.0})",
    "river.optim.A{s = \"quote \\\" line\\n\", [\"end\"] = river.set{1}, [\"two words\"] = river.dict{{\"k\", 1}}}",
    "river.optim.A(river.ref(\"river.stats.Mean\"), river.list{})",
    "river.compose.Pipeline(river.optim.A(), river.compose.Pipeline(river.optim.B()))",
    "river.compose.TransformerUnion(river.optim.A() | river.optim.B(), river.optim.C())",
    "river.with_score_as_prediction(river.anomaly.HalfSpaceTrees{seed = 42})",
    "river.optim.A(math.huge, -math.huge, math.mininteger, 0.1, 1e-07)",
  }
  for _, text in ipairs(texts) do
    it("is Lua that makes it again: " .. text:sub(1, 60), function()
      local env = {river = river, math = math}
      local node = assert(load("return " .. text, "=text", "t", env))()
      local again = assert(load("return " .. tostring(node), "=text", "t", env))()
      assert.equal(tostring(node), tostring(again))
      assert.equal(support.hex(require("river.pickle").dumps(node)), support.hex(require("river.pickle").dumps(again)))
    end)
  end

  it("is short where operators say it", function()
    assert.equal(texts[1], tostring(assert(load("return " .. texts[1], "=text", "t", {river = river}))()))
  end)
end)
