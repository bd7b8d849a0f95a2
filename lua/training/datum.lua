--- Datums: the examples of forward and forward_backward as bytes (`Datum.data`).
--
--     local bytes = datum.encode{input_ids = {1, 2, 3}, weights = {0, 1, 1}}
--
-- A datum is a table of columns, each a list or an array (riverlua.array). **The type goes by the column's name**, not
-- by how its first number is written: ids, masks and targets are int64 (`sampler_topk_ids` int32), log-probabilities,
-- advantages and weights float32. So `{0, 0.5}` as weights is what it says, and the same datum has the same bytes
-- whether it comes as tables or as arrays. A column that is not known here is float32 if there is a float in it, else
-- int64, and as an array keeps its type.
--
-- Per-token columns have one value for each of the T input ids (or of the T positions that `model_input` expands to).
-- Position i is the prediction made from token i: `training.grpo_data` aligns a prompt and what was sampled for it.
-- A missing attention_mask is all ones.
--
-- Refused, with the datum's number, the column and the place: columns of another length, a fraction or NaN where it
-- would be cut off or spread, rows of different lengths, what does not fit the type, misspelled names.

local core = require "riverlua.core.nest"
local core_array = require "riverlua.core.array"
local array = require "riverlua.array"
local errors = require "riverlua.errors"
local nest = require "training.nest"

local datum = {}

local R = core.rules
local LONGEST_HANDLE = 4096

-- In the order in which they are sent.
local COLUMNS = {
  {"input_ids", R.int64 | R.tokens | R.natural},
  {"attention_mask", R.int64 | R.tokens | R.natural},
  {"position_ids", R.int64 | R.tokens},
  {"target_tokens", R.int64 | R.tokens | R.matrix},
  {"weights", R.float32 | R.tokens | R.matrix},
  {"old_logprobs", R.float32 | R.tokens},
  {"advantages", R.float32 | R.tokens},
  {"echo_weights", R.float32 | R.tokens | R.natural},
  {"sampler_topk_ids", R.int32 | R.tokens | R.only_matrix},
  {"sampler_topk_logprobs", R.float32 | R.tokens | R.only_matrix},
  {"expert_routing_handle", R.text},
}

local RULES, PLACE = {}, {model_input = 0}
for i, column in ipairs(COLUMNS) do RULES[column[1]], PLACE[column[1]] = column[2], i end

-- Columns that say something about the same candidates.
local PAIRS = {{"target_tokens", "weights"}, {"sampler_topk_ids", "sampler_topk_logprobs"}}

local HINTS = {
  {"^ has %d+ values for", "every column has one value for each token: zeros before the response and one at the end; "
    .. "training.grpo_data aligns them"},
  {"not an integer$", "ids, masks and targets are integers"},
  {"is nan$", "a reward or a log-probability was not a number; advantages of a group of equal rewards are zeros"},
  {"is %-?inf$", "log-probabilities and advantages must be finite"},
  {"is missing$", "the list has a hole here"},
  {"is a string, not a list", 'array.from_bytes("uint8", s) is how bytes are sent'},
}

local function raise(where, key, complaint, hint)
  for _, known in ipairs(HINTS) do
    if not hint and complaint:find(known[1]) then hint = known[2] end
  end
  local number = math.type(where) == "integer" and where or nil
  errors.raise{kind = "argument", message = ("%s: %s%s"):format(number and "datum " .. number or where, key or "",
    complaint), hint = hint, datum = number, key = key, index = math.tointeger(complaint:match("^%[(%d+)%]"))}
end

local function is_list(value) return type(value) == "table" or array.is(value) end

-- ---- chunks ----------------------------------------------------------------------------------------------

local TEXT_FIELDS = {type = true, tokens = true}
local IMAGE_FIELDS = {type = true, data = true, image_handle = true, format = true, expected_tokens = true}

-- The text of an image handle, or nil.
local function handle_of(value)
  if type(value) == "table" then value = value.id end
  return type(value) == "string" and value ~= "" and value or nil
end

local function check_fields(chunk, fields, refuse)
  for name in pairs(chunk) do
    if not fields[name] then
      local near = type(name) == "string" and errors.suggest(name, fields)
      refuse((" has the unknown field '%s'"):format(name), near and ("did you mean '%s'?"):format(near))
    end
  end
end

local function text_chunk(chunk, refuse)
  check_fields(chunk, TEXT_FIELDS, refuse)
  local tokens, wrong = core_array.convert("int64", chunk.tokens, true)
  if not tokens then refuse(".tokens" .. wrong) end
  if #tokens.shape ~= 1 then refuse(".tokens is a list of lists") end
  if #tokens == 0 then refuse(".tokens is empty") end
  local least, at = tokens:min()
  if least < 0 then refuse((".tokens[%d] is %d, below zero"):format(at, least)) end
  return nest.dict{{"type", "text"}, {"tokens", tokens}}, #tokens
end

local function image_chunk(chunk, refuse)
  check_fields(chunk, IMAGE_FIELDS, refuse)
  local data, count, format = chunk.data, chunk.expected_tokens, chunk.format or "png"
  local made = nest.dict{{"type", "image"}}
  local handle = chunk.image_handle
  if handle == nil and type(data) == "table" then handle, data = data, nil end
  if handle ~= nil then
    if data ~= nil then refuse(" has both data and image_handle") end
    made.image_handle = handle_of(handle) or refuse(".image_handle is no handle of an uploaded image")
  elseif type(data) == "string" and data ~= "" then
    made.data = array.from_bytes("uint8", data)
  elseif array.is(data) and data.dtype == "uint8" and #data.shape == 1 and #data > 0 then
    made.data = data
  else
    refuse(".data must be the bytes of an image (a string or an array of uint8) or the handle of an uploaded one")
  end
  if type(format) ~= "string" or not utf8.len(format) then refuse(".format must be a name such as 'png'") end
  count = type(count) == "number" and math.tointeger(count)
  if not count or count < 1 then
    refuse(".expected_tokens must be how many positions the image takes, at least 1")
  end
  made.format = format
  made.expected_tokens = count
  return made, count
end

-- What `model_input` becomes, and how many positions it has.
local function chunks_of(chunks, where)
  if type(chunks) ~= "table" or #chunks == 0 then
    raise(where, "model_input", " must be a list of chunks",
      "a chunk is {type = 'text', tokens = …} or {type = 'image', data = …, expected_tokens = …}")
  end
  local list, total = {}, 0
  for i, chunk in ipairs(chunks) do
    local function refuse(what, hint) raise(where, "model_input", ("[%d]%s"):format(i, what), hint) end
    if type(chunk) ~= "table" then refuse(" is not a table") end
    local count
    if chunk.type == "text" then
      list[i], count = text_chunk(chunk, refuse)
    elseif chunk.type == "image" then
      list[i], count = image_chunk(chunk, refuse)
    else
      refuse((" has the unknown type '%s'"):format(tostring(chunk.type)), "types are 'text' and 'image'")
    end
    total = total + count
  end
  return list, total
end

-- ---- columns ---------------------------------------------------------------------------------------------

-- Their names in the order in which they are sent.
local function names_of(columns, where)
  local names = nest.keys(columns)
  if names then return names end
  names = {}
  for name in next, columns do
    if type(name) ~= "string" then
      raise(where, nil, ("columns have names, and here is one with the key %s"):format(tostring(name)))
    end
    names[#names + 1] = name
  end
  table.sort(names, function(a, b)
    local before, after = PLACE[a] or #COLUMNS + 1, PLACE[b] or #COLUMNS + 1
    if before ~= after then return before < after end
    return a < b
  end)
  return names
end

local function rule_of(name, columns, where)
  local rule = RULES[name]
  if rule then return rule end
  if name:find("^__river_loss_column_%d+$") then return R.by_value | R.tokens | R.matrix | R.keep end
  if name == "__river_loss_position" then return R.int64 | R.tokens end
  if name == "__river_loss_graph_v1" then return R.text end
  if name == "loss_data" then
    raise(where, name, " belongs to a custom loss", "prepare the loss first: it turns loss_data into columns")
  end
  local near = errors.suggest(name, RULES)
  if near and columns[near] == nil then
    raise(where, name, " is no column that is known", ("did you mean '%s'?"):format(near))
  end
  return R.by_value
end

-- Length of a row; nil: no matrix.
local function width_of(value)
  if array.is(value) then return value.shape[2] end
  local first = type(value) == "table" and value[1]
  return is_list(first) and #first or nil
end

local function check_pairs(columns, where)
  for _, pair in ipairs(PAIRS) do
    local one, other = columns[pair[1]], columns[pair[2]]
    if one ~= nil and other ~= nil then
      local width, other_width = width_of(one), width_of(other)
      if width ~= other_width then
        local function said(w) return w and "rows of " .. w or "one value for each token" end
        raise(where, pair[2], (" has %s, but %s has %s"):format(said(other_width), pair[1], said(width)))
      end
    end
  end
end

-- What the core takes: name, value, rule, name, value, rule …, and the number of tokens.
local function read(columns, where)
  if type(columns) ~= "table" then raise(where, nil, ("a datum is a table, got a %s"):format(type(columns))) end
  if columns[1] ~= nil then
    raise(where, nil, "a datum is a table of named columns, and here is a list",
      "several datums go into one list: {{input_ids = …}, {input_ids = …}}")
  end
  local ids, chunks = columns.input_ids, columns.model_input
  local tokens = is_list(ids) and #ids or 0
  if chunks ~= nil then
    chunks, tokens = chunks_of(chunks, where)
  elseif ids == nil then
    raise(where, nil, "input_ids is missing", "model_input takes its place where there are images")
  end
  check_pairs(columns, where)
  local entries, n = {}, 0
  local function add(name, value, rule)
    entries[n + 1], entries[n + 2], entries[n + 3] = name, value, rule
    n = n + 3
  end
  if chunks then add("model_input", chunks, R.any) end
  for _, name in ipairs(names_of(columns, where)) do
    if name ~= "model_input" then add(name, columns[name], rule_of(name, columns, where)) end
  end
  local handle = columns.expert_routing_handle
  if handle ~= nil and is_list(handle) == false and #tostring(handle) > LONGEST_HANDLE then
    raise(where, "expert_routing_handle", (" has more than %d bytes"):format(LONGEST_HANDLE))
  end
  if not chunks and columns.attention_mask == nil then add("attention_mask", false, R.ones) end
  return entries, tokens
end

--- One datum as bytes.
---@param columns table columns by name; `training.nest.dict` gives them an order, which is kept
---@param where integer|string|nil what errors call it: a number n for "datum n" (default: "datum")
---@return string
function datum.encode(columns, where)
  where = where or "datum"
  local entries, tokens = read(columns, where)
  local bytes, bad, complaint = core.columns(entries, tokens)
  if not bytes then raise(where, entries[3 * bad - 2], complaint) end
  return bytes
end

---@class training.PlannedDatum
---@field size integer bytes that it takes
---@field tokens integer its positions

--- Internal: a datum whose shape has been looked at, for `datum.block`.
---@param columns table
---@param where integer
---@return training.PlannedDatum
function datum.plan(columns, where)
  local entries, tokens = read(columns, where)
  local size, bad, complaint = core.size(entries, tokens)
  if not size then raise(where, entries[3 * bad - 2], complaint) end
  return {entries = entries, tokens = tokens, size = size, where = where}
end

--- Internal: the field `data` of a ForwardBackwardInput as a block of bytes (riverlua.core.block), which becomes the
--- request: datums are written once, where they are sent from.
---@param list training.PlannedDatum[]
---@return userdata
function datum.block(list)
  local parts = {}
  for i, planned in ipairs(list) do
    parts[3 * i - 2], parts[3 * i - 1], parts[3 * i] = planned.entries, planned.tokens, planned.size
  end
  local block, bad, complaint, number = core.block(parts)
  if not block then raise(list[number].where, list[number].entries[3 * bad - 2], complaint) end
  return block
end

--- All datums of a request.
---@param list table[] datums
---@return string[]
function datum.encode_all(list)
  errors.expect("data", "the datums", list, "table")
  local encoded = {}
  for i = 1, #list do encoded[i] = datum.encode(list[i], i) end
  return encoded
end

-- ---- group-relative policy optimization ------------------------------------------------------------------

local function refuse_grpo(what, hint)
  errors.raise{kind = "argument", message = "training.grpo_data: " .. what, hint = hint}
end

local function count_of(value, what, hint)
  if not is_list(value) then
    refuse_grpo(("%s must be a list or an array, got %s"):format(what, value == nil and "nothing" or type(value)), hint)
  end
  return #value
end

-- An array joined from (value, count, name) and so on.
local function join(dtype, parts)
  local arguments, n = {}, 0
  for _, part in ipairs(parts) do
    arguments[n + 1], arguments[n + 2] = part[1], part[2]
    n = n + 2
  end
  local made, bad, complaint = core_array.join(dtype, table.unpack(arguments, 1, n))
  return made or refuse_grpo(parts[bad][3] .. complaint)
end

--- The datum of one sample for the policy-gradient losses: prompt and response as input_ids, and the sampled
--- log-probabilities and the advantage where the response is predicted, with zeros elsewhere. Of P prompt tokens the
--- last one, at position P, is the first that predicts a token of the response. Raises kind "argument".
---@param prompt_tokens integer[]|riverlua.Array the ids of the prompt, at least one
---@param sample table with `tokens` and `logprobs`, one for each token
---@param advantage number|number[]|riverlua.Array of the whole response, or of each of its tokens
---@param more table|nil further columns, such as echo_weights or expert_routing_handle
---@return table datum arrays input_ids, attention_mask, old_logprobs and advantages, and what was in `more`
function datum.grpo_data(prompt_tokens, sample, advantage, more)
  local prompt = count_of(prompt_tokens, "prompt_tokens",
    "the samples of a text prompt have its ids when they are asked for")
  if prompt == 0 then
    refuse_grpo("prompt_tokens is empty", "the first token of a response is predicted from the prompt")
  end
  if type(sample) ~= "table" then refuse_grpo("the sample must be a table, got " .. type(sample)) end
  local count = count_of(sample.tokens, "sample.tokens")
  local logprobs = count_of(sample.logprobs, "sample.logprobs", "sample with log-probabilities")
  if count == 0 then
    refuse_grpo("sample.tokens is empty",
      "leave out samples whose token_data_is_exact is false: nothing was sampled, or the service sent no ids")
  end
  if logprobs ~= count then
    refuse_grpo(("sample.logprobs has %d values for %d tokens"):format(logprobs, count),
      "leave out samples whose token_data_is_exact is false")
  end
  if sample.token_data_is_exact == false then
    refuse_grpo("the sample is not exact: it does not say what was sampled", "leave it out")
  end
  if type(advantage) ~= "number" and count_of(advantage, "advantage") ~= count then
    refuse_grpo(("advantage has %d values for %d tokens"):format(#advantage, count))
  end
  local made = {
    input_ids = join("int64", {{prompt_tokens, prompt, "prompt_tokens"}, {sample.tokens, count, "sample.tokens"}}),
    attention_mask = join("int64", {{1, prompt + count}}),
    old_logprobs = join("float32", {{0, prompt - 1}, {sample.logprobs, count, "sample.logprobs"}, {0, 1}}),
    advantages = join("float32", {{0, prompt - 1}, {advantage, count, "advantage"}, {0, 1}}),
  }
  for name, column in pairs(errors.expect("training.grpo_data", "more", more or {}, "table")) do
    if made[name] ~= nil then refuse_grpo(("'%s' is made here, and not to be given"):format(name)) end
    made[name] = column
  end
  return made
end

return datum
