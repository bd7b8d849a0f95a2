--- Custom losses of the embedded service: the JSON of a loss graph (loss_graph_v1) is checked and made into what a
--- model computes with.

local core = require "riverlua.core.trainer"
local errors = require "riverlua.errors"
local json = require "riverlua.json"

local graph = {}

local LARGEST = 65536
local MOST_COLUMNS, MOST_NODES, MOST_METRICS = 16, 128, 16
local LONGEST_NAME, LONGEST_SOURCE = 64, 512
local WIDEST = 262144
local DTYPES = {int32 = true, int64 = true, float32 = true}
local KEYS = {version = true, columns = true, nodes = true, loss = true, metrics = true}

local function want(condition, format, ...)
  if not condition then
    errors.raise{kind = "refused", message = "loss graph: " .. format:format(...)}
  end
end

-- A value as a refusal shows it.
local function shown(value)
  if type(value) == "table" then return "a table" end
  value = tostring(value)
  local stop = #value > LONGEST_NAME and utf8.offset(value, LONGEST_NAME + 1)
  return stop and stop <= #value and value:sub(1, stop - 1) .. "…" or value
end

local function is_text(value, longest)
  return type(value) == "string" and (utf8.len(value) or math.huge) <= longest
end

local function is_name(value) return value ~= "" and is_text(value, LONGEST_NAME) end

local function is_index(value, below) return math.type(value) == "integer" and value >= 0 and value < below end

local function check_columns(columns)
  want(type(columns) == "table" and #columns >= 1 and #columns <= MOST_COLUMNS, "1 to %d columns are wanted",
    MOST_COLUMNS)
  local last
  for i, column in ipairs(columns) do
    local where = ("column %d"):format(i - 1)
    want(type(column) == "table", "%s is no object", where)
    want(is_name(column.name), "%s has no name of 1 to %d characters", where, LONGEST_NAME)
    want(not last or last < column.name, "columns are not sorted by distinct names")
    want(DTYPES[column.dtype], "%s is of the type %s", where, shown(column.dtype))
    want(column.layout == "token", "%s has the layout %s", where, shown(column.layout))
    local width = column.width
    want(width == nil or math.type(width) == "integer" and width >= 1 and width <= WIDEST, "%s has the width %s", where,
      shown(width))
    last = column.name
  end
end

local function check_arguments(node, index, where)
  for _, argument in ipairs(type(node.args) == "table" and node.args or {}) do
    want(type(argument) == "table" and (argument.node == nil) ~= (argument.constant == nil),
      "%s has an argument that is neither a node nor a constant", where)
    want(argument.node == nil or is_index(argument.node, index), "%s looks ahead", where)
    want(argument.constant == nil or type(argument.constant) == "number", "%s has a constant that is no number", where)
  end
end

local function check_nodes(nodes, columns)
  want(type(nodes) == "table" and #nodes >= 1 and #nodes <= MOST_NODES, "1 to %d nodes are wanted", MOST_NODES)
  for i, node in ipairs(nodes) do
    local index = i - 1
    want(type(node) == "table" and type(node.op) == "string", "node %d has no op", index)
    local where = ("node %d (%s)"):format(index, shown(node.op))
    want((node.op == "logits") == (index == 0), "the first node, and no other, is logits")
    want((node.op == "input") == (index >= 1 and index <= #columns),
      "%s: the inputs follow the logits, one a column", where)
    want(node.op ~= "input" or node.column == index - 1, "%s is not the input %d", where, index - 1)
    want(node.source == nil or is_text(node.source, LONGEST_SOURCE),
      "%s has a source that is longer than %d characters", where, LONGEST_SOURCE)
    check_arguments(node, index, where)
  end
end

local function list_metrics(metrics, count)
  local list = {}
  want(type(metrics) == "table", "its metrics are no object")
  for name, node in pairs(metrics) do
    want(is_name(name), "a metric has no name of 1 to %d characters", LONGEST_NAME)
    want(is_index(node, count), "the metric %s names no node", name)
    list[#list + 1] = {name = name, node = node}
  end
  want(#list <= MOST_METRICS, "more than %d metrics", MOST_METRICS)
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

local function decode(text)
  want(#text <= LARGEST, "%d bytes, at most %d are taken", #text, LARGEST)
  local ok, value = pcall(json.decode, text)
  want(ok, "not JSON: %s", ok or tostring(value.message or value))
  want(type(value) == "table", "not an object")
  for key in pairs(value) do want(KEYS[key], "it has the key %s", shown(key)) end
  want(value.version == 2, "its version is not 2")
  return value
end

--- A graph for model:pass{graph=}. Raises kind "refused" with what is wrong.
---@param text string the graph's JSON, as PrepareLoss and the datums have it
---@return userdata
function graph.compile(text)
  local value = decode(text)
  check_columns(value.columns)
  check_nodes(value.nodes, value.columns)
  want(is_index(value.loss, #value.nodes), "its loss names no node")
  local ok, compiled = pcall(core.graph, {columns = value.columns, nodes = value.nodes, loss = value.loss,
    metrics = list_metrics(value.metrics, #value.nodes), text = text})
  if ok then return compiled end
  if errors.is(compiled) then error(compiled, 0) end
  return errors.raise{kind = "refused", message = "loss graph: " .. tostring(compiled)}
end

return graph
