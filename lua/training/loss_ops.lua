--- The expressions that custom losses are written in: operations, their types, and the places they stand at.
--
-- Every operation is a method (`lp:exp()`, `a:minimum(b)`) and a function of the table `ops.functions` that objectives
-- get as `g` (`g.exp(lp)`, `g.minimum(1, b)`); `+ - * /`, the unary minus and `^` are operators. What the service
-- would refuse is refused where it is written.

local errors = require "riverlua.errors"

local ops = {}

-- An expression: `kind` is "logits", "log_softmax" (both [T,V]), "token" ([T]), "candidates" ([T,width]) or "scalar";
-- `dtype` "int" or "float"; `model`: its value depends on the model; `learns`: so does the loss through it (not
-- detached); `graph`: what it belongs to; `node`: what the service gets; `args`: expressions and numbers.
---@class training.Expression
---@operator add(training.Expression|number): training.Expression
---@operator sub(training.Expression|number): training.Expression
---@operator mul(training.Expression|number): training.Expression
---@operator div(training.Expression|number): training.Expression
---@operator pow(number): training.Expression
---@operator unm: training.Expression
local Expression = {}
Expression.__name = "training.Expression"

--- Most operations that one objective may write, used or not.
ops.MOST_WRITTEN = 4096

local MOST_POWER = 16

-- ------------------------------------------------------------------------------------------------- where it is

-- Sources of the files that are no place of the user's.
local own_sources = {}

--- Makes the calling file one that is left out when the place of an operation is looked for.
function ops.is_own_file()
  if debug then own_sources[debug.getinfo(2, "S").source] = true end
end

ops.is_own_file()

--- "script.lua:12": where the user's code is, or "".
---@return string
function ops.place()
  if not debug then return "" end
  for level = 2, 200 do
    local info = debug.getinfo(level, "Sl")
    if not info then return "" end
    if info.what ~= "C" and not own_sources[info.source] then
      return ("%s:%d"):format(info.short_src, info.currentline)
    end
  end
  return ""
end

--- Raises for a formula; `name` is that of the operation.
function ops.fail(name, text, hint)
  local place = ops.place()
  errors.raise{kind = "argument", hint = hint,
    message = ("loss_graph%s: %s: %s"):format(place ~= "" and " (" .. place .. ")" or "", name, text)}
end

local fail = ops.fail

-- ------------------------------------------------------------------------------------------------------- values

local function is_expression(value) return getmetatable(value) == Expression end

local function layout_of(value)
  if value.kind == "token" then return "[T]" end
  if value.kind == "candidates" then return ("[T,%d]"):format(value.width) end
  if value.kind == "scalar" then return "one number" end
  return value.kind
end

-- What a value is, for messages: "an int column 'targets' [T]".
local function describe(value)
  if type(value) == "number" then return ("the number %.17g"):format(value) end
  if not is_expression(value) then return value == nil and "nothing" or errors.with_article(type(value)) end
  if value.node.op == "logits" then return "the logits" end
  if value.node.op == "input" then
    return ("the %s column '%s' %s"):format(value.dtype, value.name, layout_of(value))
  end
  return ("%s of %s"):format(layout_of(value), value.node.op)
end

local function check_constant(name, value)
  if value - value ~= 0 then
    fail(name, value ~= value and "a constant is NaN" or "a constant is infinite")
  end
  return value * 1.0
end

-- The value as an argument: a finite number or an expression of the same graph.
local function argument(name, value, graph)
  if type(value) == "number" then return check_constant(name, value) end
  if not is_expression(value) then
    fail(name, ("an expression or a number is wanted, got %s"):format(describe(value)))
  end
  if graph and value.graph ~= graph or value.graph.done then
    fail(name, "the expression belongs to another loss", "use only what the function was given")
  end
  return value
end

-- An expression that computes with numbers: not the logits themselves, and no whole numbers.
local function number_like(name, value)
  if type(value) == "number" then return value end
  if value.kind == "logits" then
    fail(name, "logits cannot be computed with", "take logits:ce(targets), or logits:log_softmax():gather(ids); "
      .. "before that only logits / temperature and logits:detach() are possible")
  elseif value.kind == "log_softmax" then
    fail(name, "all log-probabilities of the vocabulary cannot be computed with",
      "choose some with :gather(ids), where ids is an int column with a width")
  elseif value.dtype == "int" then
    fail(name, ("%s holds integers"):format(describe(value)), "make it floating with :float()")
  end
  return value
end

local function add(graph, node, result, args)
  graph.written = graph.written + 1
  if graph.written > ops.MOST_WRITTEN then
    fail(node.op, ("more than %d operations"):format(ops.MOST_WRITTEN), "a loop that should not be one?")
  end
  result.graph, result.node, result.args, result.index = graph, node, args, graph.written
  graph.expressions[graph.written] = result
  node.source = ops.place()
  return setmetatable(result, Expression)
end

-- A result computed from `args`, with the layout of `like`, or of another `kind` without a width.
local function computed(op, like, args, kind)
  local result = {kind = kind or like.kind, dtype = "float", model = false, learns = false}
  if not kind then result.width = like.width end
  for _, arg in ipairs(args) do
    if is_expression(arg) then
      result.model = result.model or arg.model
      result.learns = result.learns or arg.learns
    end
  end
  if op == "detach" then result.learns = false end
  return add(like.graph, {op = op}, result, args)
end

-- A scalar that depends on the model must stay out of what is per token.
local function check_feedback(name, per_token, scalar)
  if per_token.kind ~= "scalar" and is_expression(scalar) and scalar.kind == "scalar" and scalar.model then
    fail(name, "a number reduced from the model's outputs cannot go back into per-token values, not even detached",
      "only reductions of columns can, such as advantages - advantages:mean()")
  end
end

-- Of two arguments the one that gives the result its layout.
local function common_layout(name, a, b)
  if type(a) == "number" then return b end
  if type(b) == "number" then return a end
  if a.kind == b.kind and a.width == b.width then return a end
  check_feedback(name, a, b)
  check_feedback(name, b, a)
  if a.kind == "scalar" then return b end
  if b.kind == "scalar" then return a end
  fail(name, ("%s and %s do not go together"):format(describe(a), describe(b)),
    a.kind ~= b.kind and "[T,K] becomes [T] with :sum_candidates()" or nil)
end

--- The logits, and one input for each column (in order): the first nodes of a graph.
---@param columns table[] {name, dtype, width}
---@return training.Expression logits
---@return table<string, training.Expression> inputs
function ops.begin(graph, columns)
  local logits = add(graph, {op = "logits"}, {kind = "logits", dtype = "float", model = true, learns = true}, {})
  local inputs = {}
  for i, column in ipairs(columns) do
    inputs[column.name] = add(graph, {op = "input", column = i - 1}, {name = column.name, width = column.width,
      kind = column.width and "candidates" or "token", dtype = column.dtype == "float32" and "float" or "int",
      model = false, learns = false}, {})
  end
  return logits, inputs
end

-- --------------------------------------------------------------------------------------------------- operations

---@class training.LossFunctions
local functions = {}
ops.functions = functions

local function binary(name)
  return function(a, b)
    local graph = is_expression(a) and a.graph or is_expression(b) and b.graph
    if not graph then
      fail(name, ("an expression is wanted, got %s and %s"):format(describe(a), describe(b)))
    end
    a, b = argument(name, a, graph), argument(name, b, graph)
    number_like(name, a)
    number_like(name, b)
    return computed(name, common_layout(name, a, b), {a, b})
  end
end

for _, name in ipairs{"add", "sub", "mul", "minimum", "maximum"} do functions[name] = binary(name) end

local divide = binary("div")

--- `a / b`. Logits may be divided too, but only by a number above 0 (a temperature).
function functions.div(a, b)
  if is_expression(a) and a.kind == "logits" then
    if type(b) ~= "number" or argument("div", b) <= 0 then
      fail("div", ("logits may only be divided by a number above 0, got %s"):format(describe(b)))
    end
    argument("div", a)
    return computed("div", a, {a, b * 1.0})
  end
  return divide(a, b)
end

local function the_expression(name, value)
  if not is_expression(value) then
    fail(name, ("an expression is wanted, got %s"):format(describe(value)))
  end
  return argument(name, value)
end

for _, name in ipairs{"neg", "exp", "expm1", "log", "sqrt"} do
  functions[name] = function(a)
    number_like(name, the_expression(name, a))
    return computed(name, a, {a})
  end
end

--- The same values in float32: of integers, or of what was computed in the model's own precision.
function functions.float(a)
  the_expression("float", a)
  if a.kind == "logits" or a.kind == "log_softmax" then
    fail("float", ("%s cannot be cast"):format(describe(a)),
      "cast what becomes of them, as in logits:ce(targets):float(), or take logits:log_softmax(\"float32\")")
  end
  return computed("float", a, {a})
end

--- The same values, through which the loss does not learn.
function functions.detach(a)
  the_expression("detach", a)
  if a.kind ~= "logits" and a.kind ~= "log_softmax" then number_like("detach", a) end
  return computed("detach", a, {a})
end

local function clamp(name, a, bound)
  number_like(name, the_expression(name, a))
  bound = number_like(name, argument(name, bound, a.graph))
  if is_expression(bound) and bound.kind ~= "scalar" then
    fail(name, ("the bound must be one number, not %s"):format(describe(bound)), "use :minimum or :maximum")
  end
  check_feedback(name, a, bound)
  return computed(name, a, {a, bound})
end

--- Not below `bound`, a number or a scalar.
function functions.clamp_min(a, bound) return clamp("clamp_min", a, bound) end

--- Not above `bound`, a number or a scalar.
function functions.clamp_max(a, bound) return clamp("clamp_max", a, bound) end

--- Between `low` and `high`; either may be nil.
function functions.clamp(a, low, high)
  if low == nil and high == nil then fail("clamp", "a bound is wanted") end
  if low ~= nil then a = clamp("clamp_min", a, low) end
  if high ~= nil then a = clamp("clamp_max", a, high) end
  return a
end

local function check_reducible(name, a)
  number_like(name, the_expression(name, a))
end

for _, name in ipairs{"sum", "mean", "amin", "amax", "logsumexp"} do
  functions[name] = function(a, ...)
    check_reducible(name, a)
    if select("#", ...) > 0 then
      fail(name, "it takes no arguments: it goes over the whole example",
        name == "sum" and "over the candidates of each token only: :sum_candidates()" or nil)
    end
    return computed(name, a, {a}, "scalar")
  end
end

for _, name in ipairs{"var", "std"} do
  functions[name] = function(a, correction)
    check_reducible(name, a)
    correction = correction or 1
    if math.type(correction) ~= "integer" or correction < 0 then
      fail(name, "the correction must be an integer of at least 0")
    end
    local result = computed(name, a, {a}, "scalar")
    result.node.correction = correction
    return result
  end
end

--- The sum over the candidates of each token: [T,K] → [T].
function functions.sum_candidates(a)
  check_reducible("sum_candidates", a)
  if a.kind ~= "candidates" then
    fail("sum_candidates", ("values per token and candidate are wanted, got %s"):format(describe(a)))
  end
  return computed("sum_candidates", a, {a}, "token")
end

local function the_logits(name, value)
  the_expression(name, value)
  if value.kind ~= "logits" then
    fail(name, ("the logits are wanted, got %s"):format(describe(value)))
  end
  return value
end

-- An int column itself, of one layout.
local function int_column(name, value, graph, kind)
  local wanted = kind == "token" and "an int column without a width" or "an int column with a width"
  value = argument(name, value, graph)
  if not is_expression(value) or value.node.op ~= "input" or value.dtype ~= "int" or value.kind ~= kind then
    fail(name, ("%s is wanted, got %s"):format(wanted, describe(value)),
      ("declare it as {ids = %s}"):format(kind == "token" and "\"int64\"" or "{\"int64\", K}"))
  end
  return value
end

--- The cross-entropy −log p(target) of each token: [T].
function functions.ce(logits, targets)
  the_logits("ce", logits)
  return computed("ce", logits, {logits, int_column("ce", targets, logits.graph, "token")}, "token")
end

--- The log-probabilities of the whole vocabulary, for :gather. `dtype`: nil, or "float32" to compute them in that.
function functions.log_softmax(logits, dtype)
  the_logits("log_softmax", logits)
  if dtype ~= nil and dtype ~= "float32" then
    fail("log_softmax", ("the dtype must be \"float32\" or left out, not %s"):format(tostring(dtype)))
  end
  local result = computed("log_softmax", logits, {logits}, "log_softmax")
  result.node.dtype = dtype
  return result
end

--- Of all log-probabilities those of candidates: `ids` is an int column [T,K].
function functions.gather(log_probabilities, ids)
  the_expression("gather", log_probabilities)
  if log_probabilities.kind ~= "log_softmax" then
    fail("gather", ("a log_softmax is wanted, got %s"):format(describe(log_probabilities)),
      "logits:log_softmax():gather(ids)")
  end
  ids = int_column("gather", ids, log_probabilities.graph, "candidates")
  return computed("gather", ids, {log_probabilities, ids})
end

-- By squaring: x^5 is (x²)²·x.
local function power(a, n)
  if n == 1 then return a end
  local half = power(a, n // 2)
  local square = functions.mul(half, half)
  return n % 2 == 1 and functions.mul(square, a) or square
end

--- `a ^ n` for n from 1 to 16, as multiplications, and 0.5, which is sqrt.
function functions.pow(a, n)
  if not is_expression(a) then
    fail("pow", "the base must be an expression", "b ^ x is (x * math.log(b)):exp()")
  end
  number_like("pow", the_expression("pow", a))
  if n == 0.5 then return functions.sqrt(a) end
  local whole = type(n) == "number" and math.tointeger(n)
  if not whole or whole < 1 or whole > MOST_POWER then
    fail("pow", ("the exponent must be an integer from 1 to %d, or 0.5, got %s"):format(MOST_POWER, describe(n)))
  end
  return power(a, whole)
end

-- ---------------------------------------------------------------------------------------------------- operators

Expression.__add, Expression.__sub, Expression.__mul = functions.add, functions.sub, functions.mul
Expression.__div, Expression.__pow = functions.div, functions.pow
function Expression.__unm(a) return functions.neg(a) end

local function refuse(name, text, hint)
  return function() fail(name, text, hint) end
end

Expression.__mod = refuse("%", "there is no remainder")
Expression.__idiv = refuse("//", "there is no division without remainder")
Expression.__lt = refuse("<", "values cannot be compared", "use :minimum, :maximum or :clamp")
Expression.__le = refuse("<=", "values cannot be compared", "use :minimum, :maximum or :clamp")
Expression.__len = refuse("#", "the formula must not depend on the number of tokens")
Expression.__concat = refuse("..", "expressions cannot be joined")
Expression.__call = refuse("call", "an expression is no function")

function Expression.__newindex(_, name)
  fail(tostring(name), "expressions cannot be changed")
end

function Expression.__tostring(a) return Expression.__name .. ": " .. describe(a) end

function Expression.__index(_, name)
  local method = rawget(functions, name)
  if method then return method end
  if type(name) == "number" then fail("[]", "single elements cannot be taken") end
  -- fields that are not set
  if name == "width" or name == "name" then return nil end
  local near = type(name) == "string" and errors.suggest(name, functions)
  fail(tostring(name), "there is no such operation", near and ("did you mean '%s'?"):format(near))
end

setmetatable(functions, {__index = function(_, name)
  local near = type(name) == "string" and errors.suggest(name, functions)
  fail(tostring(name), "there is no such operation", near and ("did you mean '%s'?"):format(near))
end})

ops.is_expression, ops.describe = is_expression, describe

return ops
