-- Replays what PyTorch says (tests/trainer/reference/record.py) through riverlua.core.trainer. Weights are made
-- here by the same formula; a gradient is read off the optimizer: with beta1 = 0 the mean that it keeps is the
-- gradient.
--
-- Equal means, for a tensor b of PyTorch's: told whole, ‖a - b‖ ≤ 1e-4 · ‖b‖. Of a larger one the norm, four sums
-- with signs, which every element is in, to within 1e-4 · ‖b‖, and single elements with
-- |a - b| ≤ 1e-4 · max(|b|, rms(b)). Metrics and log-probabilities: |a - b| ≤ 1e-4 · max(|b|, 1).

local array = require "riverlua.array"
local datum = require "training.datum"
local loss_graph = require "training.embedded.graph"
local json = require "riverlua.json"
local nest = require "training.nest"
local trainer = require "riverlua.core.trainer"

local reference = {}

reference.TOLERANCE = 1e-4

-- ---- the numbers of src/trainer/random.h

local function mix(x)
  x = x ~ x >> 30
  x = x * 0xbf58476d1ce4e5b9
  x = x ~ x >> 27
  x = x * 0x94d049bb133111eb
  return x ~ x >> 31
end

-- A function that gives the next number of 64 bits.
local function stream(seed)
  local state = mix(seed ~ 0x6a09e667f3bcc909)
  return function()
    state = state + 0x9e3779b97f4a7c15
    return mix(state)
  end
end

local SIGNS = 4

-- Σ ± x with the signs of four streams of bits.
local function signed_sums(values)
  local next_word, sums = stream(77), {0, 0, 0, 0}
  for i = 1, #values do
    local word, x = next_word(), values[i]
    for bit = 1, SIGNS do
      if word >> (bit - 1) & 1 == 1 then sums[bit] = sums[bit] - x else sums[bit] = sums[bit] + x end
    end
  end
  return sums
end

-- ---- arrays

-- All elements in a list, rows one after another.
local function flat(a)
  local bytes, out, at = a:bytes(), {}, 1
  local format = ({float32 = "<f", float64 = "<d", int32 = "<i4"})[a.dtype]
  while at <= #bytes do out[#out + 1], at = format:unpack(bytes, at) end
  return out
end
reference.flat = flat

-- Other tensors of the shapes that `tensors` ({{name=, array=}, …}) have: the values of stream.py's fill.
function reference.filled(tensors, seed)
  local next_word, result = stream(seed), {}
  for _, tensor in ipairs(tensors) do
    local name, shape = tensor.name, tensor.array.shape
    local columns = shape[2]
    local size, middle = 0.25, 0
    if not columns then
      middle = name:find("weight$") and 1 or 0
    elseif name == "token.weight" or name == "position.weight" then
      size = 1
    else
      size = (3 / columns) ^ 0.5
    end
    local values = {}
    for i = 1, shape[1] * (columns or 1) do
      values[i] = middle + size * (2 * ((next_word() >> 11) * 0x1p-53) - 1)
    end
    result[name] = columns and array.matrix("float32", values, columns) or array.float32(values)
  end
  return result
end

function reference.by_name(tensors)
  local result = {}
  for _, tensor in ipairs(tensors) do result[tensor.name] = tensor.array end
  return result
end

-- ---- comparing

local function complain(where, ...)
  error(where .. ": " .. string.format(...), 0)
end

local function near(where, a, b, allowed)
  if a ~= a or math.abs(a - b) > allowed then complain(where, "%.9g, PyTorch says %.9g", a, b) end
end

local function norm(values)
  local sum = 0
  for i = 1, #values do sum = sum + values[i] * values[i] end
  return sum ^ 0.5
end

-- An array against what cases.py told of a tensor.
function reference.same_tensor(where, a, told, tolerance)
  local values = flat(a)
  tolerance = tolerance or reference.TOLERANCE
  if not told.at then
    if #values ~= #told.values then complain(where, "%d elements, PyTorch has %d", #values, #told.values) end
    local difference = {}
    for i, b in ipairs(told.values) do difference[i] = values[i] - b end
    local off, size = norm(difference), norm(told.values)
    if off ~= off or off > tolerance * size then complain(where, "off by %.3g of its norm", off / size) end
    return
  end
  near(where .. " norm", norm(values), told.norm, tolerance * told.norm)
  for bit, sum in ipairs(signed_sums(values)) do
    near(("%s sum %d"):format(where, bit), sum, told.sums[bit], tolerance * told.norm)
  end
  local least = told.norm / (#values) ^ 0.5
  for k, at in ipairs(told.at) do
    local b = told.values[k]
    near(("%s[%d]"):format(where, at), values[at + 1], b, tolerance * math.max(math.abs(b), least))
  end
end

-- ---- what is replayed

local WIRE = {soft_weights = "weights", soft_targets = "target_tokens"}

-- The bytes of the datums with the columns of a case.
local function encoded(model, columns)
  local list = {}
  for i, whole in ipairs(model.data) do
    local one = {input_ids = whole.input_ids, attention_mask = whole.attention_mask}
    for _, name in ipairs(columns) do one[WIRE[name] or name] = whole[name] end
    list[i] = datum.encode(one)
  end
  return list
end

function reference.base(engine, model)
  local shapes = engine:base(model.config, nil, 0):tensors()
  return engine:base(model.config, reference.filled(shapes, model.seed))
end

-- A model of full weights, or with the adapters of the recording, whose A and B are not what they begin with.
function reference.model(engine, base, model, adapted)
  if not adapted then return engine:model(base) end
  local made = engine:model(base, model.adapters)
  made:set_tensors(reference.filled(made:tensors(), model.seed + 1))
  return made
end

-- The gradients that a model has, by name; used up.
function reference.gradients(model)
  model:set_optimizer(nil)
  assert(model:step{lr = 0, beta1 = 0, beta2 = 0, eps = 1, weight_decay = 0}.finite, "the gradient is not finite")
  local result = {}
  for _, tensor in ipairs(model:optimizer().tensors) do
    local name = tensor.name:match("^exp_avg%.(.*)$")
    if name then result[name] = tensor.array end
  end
  return result
end

local function title(case)
  local words = {case.loss}
  for key, value in pairs(case.config) do words[#words + 1] = ("%s=%g"):format(key, value) end
  table.sort(words, function(a, b) return a ~= b and (a == case.loss or b ~= case.loss and a < b) end)
  return table.concat(words, " ")
end

local function masked(datum_, position)
  return datum_.attention_mask ~= nil and datum_.attention_mask[position] == 0
end

local function compare_metrics(where, metrics, told)
  for key, value in pairs(told) do
    if metrics[key] == nil then complain(where, "there is no metric %s", key) end
    near(("%s, metric %s"):format(where, key), metrics[key], value,
      reference.TOLERANCE * math.max(math.abs(value), 1))
  end
end

-- All gradients of a pass; how many there are.
local function compare_gradients(where, live, told)
  local gradients, count = reference.gradients(live), 0
  for name, one in pairs(told) do
    if not gradients[name] then complain(where, "there is no gradient of %s", name) end
    reference.same_tensor(("%s, gradient of %s"):format(where, name), gradients[name], one)
    count = count + 1
  end
  for name in pairs(gradients) do
    if not told[name] then complain(where, "PyTorch has no gradient of %s", name) end
  end
  return count
end

-- One loss: metrics, log-probabilities and all gradients.
function reference.case(live, model, case)
  local where = ("%s, %s"):format(model.name, title(case))
  local result = live:pass(encoded(model, case.columns), {loss = case.loss, config = case.config, gradients = true,
    clear = true})
  compare_metrics(where, result.metrics, case.metrics)
  for i, told in ipairs(case.logprobs) do
    local own = result.logprobs[i]
    if #own ~= #told then complain(where, "datum %d has %d logprobs, PyTorch %d", i - 1, #own, #told) end
    for t, value in ipairs(told) do
      -- where nobody looks, what stands there is nobody's business
      if not masked(model.data[i], t) then
        near(("%s, datum %d, logprob %d"):format(where, i - 1, t - 1), own[t], value,
          reference.TOLERANCE * math.max(math.abs(value), 1))
      end
    end
  end
  return compare_gradients(where, live, case.gradients)
end

-- A custom loss.
function reference.graph(live, model, case)
  local where = ("%s, graph %s"):format(model.name, case.name)
  local columns, list = json.decode(case.graph).columns, {}
  for i, told in ipairs(case.data) do
    local ones = array.fill("int64", #told.input_ids, 1)
    local value = {input_ids = array.int64(told.input_ids), attention_mask = ones, __river_loss_position = ones,
      __river_loss_graph_v1 = array.from_bytes("uint8", case.graph)}
    for k, column in ipairs(columns) do
      local make = column.width and array.matrix or array[column.dtype]
      local values = told.columns[k]
      value["__river_loss_column_" .. k - 1] = column.width and make(column.dtype, values) or make(values)
    end
    list[i] = nest.encode(value)
  end
  local result = live:pass(list, {loss = "loss_graph_v1", config = {}, gradients = true, clear = true,
    graph = loss_graph.compile(case.graph)})
  compare_metrics(where, result.metrics, case.metrics)
  return compare_gradients(where, live, case.gradients)
end

local function sampled(from, prompt, vocabulary)
  return from:sample{{ids = prompt, max_tokens = 1, temperature = 1, top_p = 1, top_k = -1, seed = 1,
    top_logprobs = vocabulary, prompt_logprobs = true}}[1]
end

-- The log-probabilities of the whole vocabulary, as the sampler has them: those of a prompt (whose first row is
-- padding), and those of a token that it chooses after half of it.
function reference.distribution(from, model, told)
  local ids, vocabulary = told.ids, model.config.vocabulary
  local function same(logprob, position, id)
    local value = told.logprobs[position][id + 1]
    near(("%s, logprob of %d after %d tokens"):format(model.name, id, position), logprob, value,
      reference.TOLERANCE * math.max(math.abs(value), 1))
  end
  local function compare(block, row, position)
    assert(block.width == vocabulary, "a row has not the whole vocabulary")
    for k = 0, vocabulary - 1 do
      local at = 4 * (row * vocabulary + k) + 1
      same(("<f"):unpack(block.logprobs, at), position, (("<i4"):unpack(block.ids, at)))
    end
  end
  local whole = sampled(from, ids, vocabulary)
  assert(whole.prompt_top.rows == #ids)
  for position = 1, #ids - 1 do
    compare(whole.prompt_top, position, position)
    same(whole.prompt_logprobs[position + 1], position, ids[position + 1])
  end
  local half = #ids // 2
  local part = sampled(from, table.move(ids, 1, half, 1, {}), vocabulary)
  compare(part.top, 0, half)
  same(part.logprobs[1], half, part.ids[1])
end

-- Steps of AdamW: the loss and the norm of each, at the end weights and moments.
function reference.optimize(live, model, told)
  local data = encoded(model, told.columns)
  live:set_optimizer(nil)
  for number, step in ipairs(told.steps) do
    local where = ("%s, step %d"):format(model.name, number)
    local result = live:pass(data, {loss = "cross_entropy", config = {}, gradients = true, clear = true})
    near(where .. ", loss", result.metrics.loss_sum, step[1], reference.TOLERANCE * math.max(math.abs(step[1]), 1))
    local made = live:step(told.options)
    near(where .. ", norm", made.grad_norm, step[2], reference.TOLERANCE * math.max(step[2], 1))
    assert(made.step == number)
  end
  local tensors = reference.by_name(live:tensors())
  for name, each in pairs(told.weights) do
    reference.same_tensor(("%s, %s after %d steps"):format(model.name, name, #told.steps), tensors[name], each)
  end
  local state = reference.by_name(live:optimizer().tensors)
  for _, kind in ipairs{"exp_avg", "exp_avg_sq"} do
    for name, each in pairs(told[kind]) do
      -- moments of small gradients follow the weights' own small errors
      reference.same_tensor(("%s, %s of %s"):format(model.name, kind, name), state[kind .. "." .. name], each,
        1e-3)
    end
  end
end

function reference.open(threads) return trainer.open{threads = threads or 2} end

return reference
