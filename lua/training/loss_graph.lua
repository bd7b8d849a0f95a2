--- Custom losses: formulas written with operators, which the service evaluates and differentiates.
--
--     local loss = training.loss_graph({targets = "int64", advantages = "float32", old = "float32"},
--       function(logits, x, g)
--         local lp = -logits:ce(x.targets):float()
--         local ratio = (lp - x.old):exp()
--         local objective = g.minimum(ratio * x.advantages, ratio:clamp(0.8, 1.2) * x.advantages)
--         return -objective:sum(), {ratio = ratio:mean()}
--       end)
--     model:forward_backward({loss:datum{input_ids = ids, loss_data = {targets = …, …}}, …}, loss)
--
-- The function runs once, here, with stand-ins for the values. What it returns becomes a graph in JSON, `loss.json`,
-- which the RPC PrepareLoss registers and every datum carries. A loss is reduced per example, and the losses of the
-- examples are added up; metrics come back as `custom/<name>`, added up as well.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local ops = require "training.loss_ops"

ops.is_own_file()

local loss_graph = {
  LOSS_FN = "loss_graph_v1",   -- what requests call a custom loss
}

-- Limits of the service.
local MOST_COLUMNS, MOST_NODES, MOST_METRICS, MOST_BYTES = 16, 128, 16, 65536
local LONGEST_NAME, LONGEST_SOURCE, WIDEST = 64, 512, 262144
local DTYPES = {int32 = true, int64 = true, float32 = true}
local OPTIONS = {source = "boolean"}

local encode_value = json.encoder{sort = true, utf8 = "replace"}

-- JSON in ASCII, as the service's own clients write it.
local function encode(value)
  return (encode_value(value):gsub(utf8.charpattern, function(char)
    if #char == 1 then return nil end
    local code = utf8.codepoint(char)
    if code < 0x10000 then return ("\\u%04x"):format(code) end
    code = code - 0x10000
    return ("\\u%04x\\u%04x"):format(0xd800 + (code >> 10), 0xdc00 + (code & 0x3ff))
  end))
end

---@class training.LossGraph
---@field json string the graph as PrepareLoss and the datums have it
---@field columns {name: string, dtype: "int32"|"int64"|"float32", width: integer|nil}[] in the order of the graph
---@field metrics string[] names, sorted
---@field nodes integer how many nodes the graph has
local LossGraph = {}
LossGraph.__index = LossGraph
LossGraph.__name = "training.LossGraph"

local function fail(message, hint)
  errors.raise{kind = "argument", message = "loss_graph: " .. message, hint = hint}
end

-- By bytes, whatever the locale is: the order of columns is part of the format.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function sorted_names(named)
  local names = {}
  for name in pairs(named) do names[#names + 1] = name end
  table.sort(names, before)
  return names
end

local function check_name(what, name)
  if type(name) ~= "string" then
    fail(("%s must have names, got %s as a key"):format(what, tostring(name)))
  end
  local length = utf8.len(name)
  if not length then fail(("the name of one of the %s is not UTF-8"):format(what)) end
  if length < 1 or length > LONGEST_NAME then
    fail(("names of %s have 1 to %d characters, not %d"):format(what, LONGEST_NAME, length))
  end
end

-- "int64", {"int64", 8} or {dtype = "int64", shape = {"T", 8}} → a column
local function read_column(name, given)
  local dtype, width = given, nil
  if type(given) == "table" then
    local shape = given.shape
    dtype, width = given[1] or given.dtype, given[2]
    local known = {true, true}
    if shape ~= nil then
      if type(shape) ~= "table" or shape[1] ~= "T" or #shape ~= 2 then
        fail(("the shape of column '%s' must be {\"T\", K}"):format(name))
      end
      width, known = shape[2], {true, shape = true}
    end
    known.dtype = given[1] == nil or nil
    for key in pairs(given) do
      if not known[key] then fail(("column '%s' is a dtype such as \"float32\", or {dtype, width}"):format(name)) end
    end
    if (width ~= nil or shape) and (math.type(width) ~= "integer" or width < 1 or width > WIDEST) then
      fail(("the width of column '%s' must be an integer from 1 to %d"):format(name, WIDEST))
    end
  end
  if not DTYPES[dtype] then
    local near = type(dtype) == "string" and errors.suggest(dtype, DTYPES)
    fail(("column '%s' must be \"int32\", \"int64\" or \"float32\", got %s"):format(name, tostring(dtype)),
      near and ("did you mean \"%s\"?"):format(near))
  end
  return {name = name, dtype = dtype, width = width}
end

local function read_columns(inputs)
  errors.expect("loss_graph", "inputs", inputs, "table")
  for name in pairs(inputs) do check_name("columns", name) end
  local columns = {}
  for i, name in ipairs(sorted_names(inputs)) do columns[i] = read_column(name, inputs[name]) end
  if #columns < 1 or #columns > MOST_COLUMNS then
    fail(("a loss has 1 to %d columns, not %d"):format(MOST_COLUMNS, #columns))
  end
  return columns
end

-- -------------------------------------------------------------------------------------------------- the formula

-- The columns as the function gets them: a slip in a name is told.
local function named_inputs(inputs)
  return setmetatable({}, {
    __index = function(_, name)
      local input = inputs[name]
      if input then return input end
      local near = type(name) == "string" and errors.suggest(name, inputs)
      ops.fail(tostring(name), "there is no such column",
        near and ("did you mean '%s'?"):format(near) or "columns: " .. table.concat(sorted_names(inputs), ", "))
    end,
    __newindex = function(_, name) ops.fail(tostring(name), "columns cannot be set") end,
    __pairs = function() return pairs(inputs) end,
  })
end

local function check_output(graph, what, value)
  if not ops.is_expression(value) then fail(("%s must be an expression, got %s"):format(what, ops.describe(value))) end
  if value.graph ~= graph then fail(("%s belongs to another loss"):format(what)) end
  if value.kind ~= "scalar" then
    fail(("%s must be one number, got %s"):format(what, ops.describe(value)), "reduce it, with :sum() or :mean()")
  end
end

local function check_outputs(graph, loss, metrics)
  check_output(graph, "the loss", loss)
  if not loss.model then fail("the loss does not depend on the logits") end
  if not loss.learns then fail("the loss depends on the logits only through detach: there is nothing to learn") end
  if type(metrics) ~= "table" or ops.is_expression(metrics) then
    fail("the metrics must be a table of expressions by name", "return loss, {ratio = ratio:mean()}")
  end
  local count = 0
  for name, metric in pairs(metrics) do
    check_name("metrics", name)
    check_output(graph, ("the metric '%s'"):format(name), metric)
    count = count + 1
  end
  if count > MOST_METRICS then fail(("a loss has at most %d metrics, not %d"):format(MOST_METRICS, count)) end
end

-- Everything that the outputs need; inputs stay in any case.
local function mark_needed(outputs, inputs)
  local needed, stack = {}, outputs
  for i = 1, inputs do needed[i] = true end
  while #stack > 0 do
    local expression = table.remove(stack)
    if not needed[expression.index] then
      needed[expression.index] = true
      for _, arg in ipairs(expression.args) do
        if ops.is_expression(arg) then stack[#stack + 1] = arg end
      end
    end
  end
  return needed
end

-- Nodes in the order they were written in, without those that nothing needs; second: positions by expression.
local function number_nodes(graph, needed, with_source)
  local nodes, positions = json.array{}, {}
  for i = 1, graph.written do
    local expression = graph.expressions[i]
    if needed[i] then
      local node = expression.node
      if #expression.args > 0 then
        node.args = json.array{}
        for k, arg in ipairs(expression.args) do
          node.args[k] = ops.is_expression(arg) and {node = positions[arg]} or {constant = arg}
        end
      end
      node.source = with_source and node.source:sub(1, LONGEST_SOURCE) or ""
      positions[expression] = #nodes
      nodes[#nodes + 1] = node
    end
  end
  return nodes, positions
end

local function serialize(graph, columns, loss, metrics, with_source)
  local outputs = {loss}
  for _, metric in pairs(metrics) do outputs[#outputs + 1] = metric end
  local nodes, positions = number_nodes(graph, mark_needed(outputs, 1 + #columns), with_source)
  if #nodes > MOST_NODES then
    fail(("the graph has %d nodes, and at most %d are possible"):format(#nodes, MOST_NODES),
      "every operation is a node, and so are the logits and each column")
  end
  local described = json.array{}
  for i, column in ipairs(columns) do
    described[i] = {name = column.name, dtype = column.dtype, layout = "token", width = column.width}
  end
  local named = json.object{}
  for name, metric in pairs(metrics) do named[name] = positions[metric] end
  local text = encode{version = 2, columns = described, nodes = nodes, loss = positions[loss], metrics = named}
  if #text > MOST_BYTES then
    fail(("the graph has %d bytes, and at most %d are possible"):format(#text, MOST_BYTES),
      with_source and "the option source = false leaves out the places of the operations")
  end
  return text, #nodes
end

--- Makes a loss of a formula. This is also what calling the module does.
---
--- Errors: kind "argument" for a formula that the service would refuse; the message names operation and line.
---@param inputs table<string, string|table> columns of the datums: dtype ("int32", "int64", "float32") for one value
--- a token, {dtype, K} for K values a token
---@param fn fun(logits: training.Expression, x: table<string, training.Expression>, g: training.LossFunctions):
--- training.Expression, table<string, training.Expression>|nil returns the loss, one number, and metrics by name
---@param options {source: boolean|nil}|nil `source` = false leaves out the places in the script, which the service
--- has in its messages; then the graph, which each datum carries, is shorter
---@return training.LossGraph
function loss_graph.build(inputs, fn, options)
  local columns = read_columns(inputs)
  errors.expect("loss_graph", "fn", fn, "callable")
  options = options or {}
  errors.check_options("loss_graph", options, OPTIONS)
  errors.expect("loss_graph", "source", options.source, "boolean|nil")
  local graph = {written = 0, expressions = {}}
  local logits, named = ops.begin(graph, columns)
  local loss, metrics = fn(logits, named_inputs(named), ops.functions)
  metrics = metrics or {}
  check_outputs(graph, loss, metrics)
  graph.done = true
  local text, nodes = serialize(graph, columns, loss, metrics, options.source ~= false)
  return setmetatable({json = text, columns = columns, metrics = sorted_names(metrics), nodes = nodes}, LossGraph)
end

--- A datum in the form in which the service takes those of custom losses, for `loss_fn` "loss_graph_v1".
---
--- `given`: `input_ids` (T tokens) or `model_input` (chunks), `loss_data`: for each column T values, or T lists of K
--- values (lists or arrays); perhaps `expert_routing_handle`, and an `attention_mask` of ones. Targets are not
--- shifted, and the last position is not left out.
---
--- Errors: kind "argument", naming column and index.
---@param given table
---@return training.nest.Dict for training.datum.encode, or what submits datums
function LossGraph:datum(given)
  return require("training.loss_datum").build(self, given)
end

function LossGraph:__tostring()
  local names = {}
  for i, column in ipairs(self.columns) do names[i] = column.name end
  return ("%s: columns %s; %d nodes%s"):format(LossGraph.__name, table.concat(names, ", "), self.nodes,
    #self.metrics > 0 and "; metrics " .. table.concat(self.metrics, ", ") or "")
end

errors.want_colon(LossGraph, "loss")

--- Whether a value is a loss that this module made.
---@param value any
---@return boolean
function loss_graph.is(value) return getmetatable(value) == LossGraph end

return setmetatable(loss_graph, {__call = function(_, ...) return loss_graph.build(...) end})
