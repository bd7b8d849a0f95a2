--- Datums of custom losses in the form in which the service takes them: columns by number, positions, and the graph.

local errors = require "riverlua.errors"

local loss_datum = {}

local WHERE = "loss:datum"
local KEYS = {input_ids = true, model_input = true, loss_data = true, attention_mask = true,
  expert_routing_handle = true}
local LONGEST_HANDLE = 4096

local function fail(message, hint)
  errors.raise{kind = "argument", message = WHERE .. ": " .. message, hint = hint}
end

local function is_list(value) return type(value) == "table" or require("riverlua.array").is(value) end

local function shape_text(shape)
  local sizes = {}
  for i, size in ipairs(shape) do sizes[i] = ("%d"):format(size) end
  return "[" .. table.concat(sizes, ", ") .. "]"
end

-- An array of a list; where that cannot be, the message names the index.
local function to_array(what, dtype, values)
  local array = require "riverlua.array"
  if not is_list(values) then
    fail(("%s must be a list, got %s"):format(what, values == nil and "nothing" or type(values)))
  end
  local ok, made = pcall(array.new, dtype, values)
  if ok then return made end
  if not errors.is(made, "argument") then error(made, 0) end
  fail(("%s (%s): %s"):format(what, dtype, (made.message:gsub("^array%.%w+: ", ""))), made.hint)
end

-- The first number that is not finite, for the message; float32 has no place for numbers beyond 3.4e38 either.
local function check_finite(what, made)
  local sum = made:sum()
  if sum - sum == 0 then return end
  local function look(values, path)
    for i = 1, #values do
      local value = values[i]
      if type(value) ~= "number" then
        look(value, ("%s[%d]"):format(path, i))
      elseif value - value ~= 0 then
        fail(("%s%s[%d] is %s"):format(what, path, i, value ~= value and "NaN" or "beyond what float32 holds"))
      end
    end
  end
  look(made, "")
end

local function column_array(column, values, length)
  local what = ("loss_data.%s"):format(column.name)
  if values == nil then fail(what .. " is missing", "each column of the loss needs values for each token") end
  local made = to_array(what, column.dtype, values)
  local wanted = {length, column.width}
  local shape = made.shape
  if #shape ~= #wanted or shape[1] ~= length or shape[2] ~= column.width then
    fail(("%s has the shape %s, and %s is wanted"):format(what, shape_text(shape), shape_text(wanted)),
      ("%d tokens%s"):format(length, column.width and (", %d values for each"):format(column.width) or ""))
  end
  if column.dtype == "float32" then check_finite(what, made) end
  return made
end

-- Positions of a chunk of text or of an image.
local function chunk_length(chunk, i)
  if type(chunk) ~= "table" then fail(("model_input[%d] must be a chunk, got %s"):format(i, type(chunk))) end
  if chunk.tokens ~= nil then
    if not is_list(chunk.tokens) then fail(("model_input[%d].tokens must be a list"):format(i)) end
    return #chunk.tokens
  end
  local expected = chunk.expected_tokens
  if math.type(expected) ~= "integer" or expected < 1 then
    fail(("model_input[%d] needs tokens, or expected_tokens of at least 1"):format(i))
  end
  return expected
end

-- The key and value that come first, and how many tokens that is.
local function read_input(given)
  if (given.input_ids == nil) == (given.model_input == nil) then
    fail("either input_ids or model_input is wanted" .. (given.input_ids and ", not both" or ""))
  end
  local length
  if given.input_ids ~= nil then
    local ids = to_array("input_ids", "int64", given.input_ids)
    if #ids.shape ~= 1 then fail("input_ids must be a list of integers, not of lists") end
    length = #ids
    if length > 0 then return {"input_ids", ids}, length end
  else
    errors.expect(WHERE, "model_input", given.model_input, "table")
    length = 0
    for i, chunk in ipairs(given.model_input) do length = length + chunk_length(chunk, i) end
    if length > 0 then return {"model_input", given.model_input}, length end
  end
  fail("there are no tokens")
end

local function check_mask(mask, length)
  local made = to_array("attention_mask", "int64", mask)
  local shape = made.shape
  if #shape ~= 1 or #made ~= length then
    fail(("attention_mask has the shape %s, and [%d] is wanted"):format(shape_text(shape), length))
  end
  for i = 1, length do
    if made[i] ~= 1 then
      fail(("attention_mask[%d] is %d: padding is not possible with a custom loss"):format(i, made[i]),
        "leave the mask out")
    end
  end
end

local function read_handle(handle)
  if type(handle) == "string" then
    if #handle < 1 or #handle > LONGEST_HANDLE then
      fail(("expert_routing_handle has 1 to %d bytes, not %d"):format(LONGEST_HANDLE, #handle))
    end
    return require("riverlua.array").from_bytes("uint8", handle)
  end
  return to_array("expert_routing_handle", "uint8", handle)
end

-- The graphs' bytes: every datum of a loss has them.
local graphs = setmetatable({}, {__mode = "k"})

local function graph_of(loss)
  local bytes = graphs[loss]
  if not bytes then
    bytes = require("riverlua.array").from_bytes("uint8", loss.json)
    graphs[loss] = bytes
  end
  return bytes
end

--- What `loss:datum(given)` does, see training.loss_graph.
---@param loss training.LossGraph
---@param given table
---@return training.nest.Dict
function loss_datum.build(loss, given)
  local array = require "riverlua.array"
  errors.expect(WHERE, "datum", given, "table")
  errors.check_options(WHERE, given, KEYS)
  local first, length = read_input(given)
  local pairs_in_order = {first}
  local function put(key, value) pairs_in_order[#pairs_in_order + 1] = {key, value} end
  if given.expert_routing_handle ~= nil then
    put("expert_routing_handle", read_handle(given.expert_routing_handle))
  end
  local data = errors.expect(WHERE, "loss_data", given.loss_data, "table")
  local known = {}
  for i, column in ipairs(loss.columns) do
    known[column.name] = true
    put(("__river_loss_column_%d"):format(i - 1), column_array(column, data[column.name], length))
  end
  for name in pairs(data) do
    if not known[name] then
      local near = type(name) == "string" and errors.suggest(name, known)
      fail(("loss_data.%s is no column of the loss"):format(tostring(name)),
        near and ("did you mean '%s'?"):format(near))
    end
  end
  if given.attention_mask ~= nil then check_mask(given.attention_mask, length) end
  local ones = array.fill("int64", length, 1)
  put("__river_loss_position", ones)
  put("attention_mask", ones)
  put("__river_loss_graph_v1", graph_of(loss))
  return require("training.nest").dict(pairs_in_order)
end

return loss_datum
