--- What a graph of a loss means, in the plainest way: its value for one example, and the derivative of the loss by
-- every logit. Values are {value, gradient} pairs, where a gradient is by all T·V logits (dual numbers).

local evaluator = {}

local function zeros(n)
  local list = {}
  for i = 1, n do list[i] = 0.0 end
  return list
end

local function combine(n, value, ...)
  local gradient, terms = zeros(n), {...}
  for k = 1, #terms, 2 do
    local factor, other = terms[k], terms[k + 1]
    if factor ~= 0 then
      for i = 1, n do gradient[i] = gradient[i] + factor * other[i] end
    end
  end
  return {value, gradient}
end

-- A derivative of one argument each.
local unary = {
  neg = function(v) return -v, -1 end,
  exp = function(v) return math.exp(v), math.exp(v) end,
  expm1 = function(v) return math.exp(v) - 1, math.exp(v) end,
  log = function(v) return math.log(v), 1 / v end,
  sqrt = function(v) return v ^ 0.5, 0.5 * v ^ -0.5 end,
  detach = function(v) return v, 0 end,
  float = function(v) return v + 0.0, 1 end,
}

local binary = {
  add = function(a, b) return a + b, 1, 1 end,
  sub = function(a, b) return a - b, 1, -1 end,
  mul = function(a, b) return a * b, b, a end,
  div = function(a, b) return a / b, 1 / b, -a / (b * b) end,
  minimum = function(a, b) return math.min(a, b), a <= b and 1 or 0, a <= b and 0 or 1 end,
  maximum = function(a, b) return math.max(a, b), a >= b and 1 or 0, a >= b and 0 or 1 end,
}
binary.clamp_min, binary.clamp_max = binary.maximum, binary.minimum

-- Reductions → value, list of derivatives
local function moments(list, correction)
  local n, mean, square = #list, 0, 0
  for _, v in ipairs(list) do mean = mean + v / n end
  for _, v in ipairs(list) do square = square + (v - mean) ^ 2 end
  local variance, derivatives = square / (n - correction), {}
  for i, v in ipairs(list) do derivatives[i] = 2 * (v - mean) / (n - correction) end
  return variance, derivatives
end

local function pick(better)
  return function(list)
    local best = 1
    for i = 2, #list do if better(list[i], list[best]) then best = i end end
    local derivatives = zeros(#list)
    derivatives[best] = 1
    return list[best], derivatives
  end
end

local reductions = {
  sum = function(list)
    local total, derivatives = 0, {}
    for i, v in ipairs(list) do total, derivatives[i] = total + v, 1 end
    return total, derivatives
  end,
  mean = function(list)
    local total, derivatives = 0, {}
    for i, v in ipairs(list) do total, derivatives[i] = total + v / #list, 1 / #list end
    return total, derivatives
  end,
  amin = pick(function(a, b) return a < b end),
  amax = pick(function(a, b) return a > b end),
  logsumexp = function(list)
    local total, derivatives = 0, {}
    for _, v in ipairs(list) do total = total + math.exp(v) end
    for i, v in ipairs(list) do derivatives[i] = math.exp(v) / total end
    return math.log(total), derivatives
  end,
  var = function(list, node) return moments(list, node.correction or 1) end,
  std = function(list, node)
    local variance, derivatives = moments(list, node.correction or 1)
    for i, d in ipairs(derivatives) do derivatives[i] = d / (2 * variance ^ 0.5) end
    return variance ^ 0.5, derivatives
  end,
}

local function log_softmax_row(row, n)
  local total, weights = 0, {}
  for _, logit in ipairs(row) do total = total + math.exp(logit[1]) end
  for k, logit in ipairs(row) do weights[k] = math.exp(logit[1]) / total end
  local mean = {0, zeros(n)}
  for k, logit in ipairs(row) do mean = combine(n, 0, 1, mean[2], weights[k], logit[2]) end
  local out = {}
  for k, logit in ipairs(row) do out[k] = combine(n, logit[1] - math.log(total), 1, logit[2], -1, mean[2]) end
  return out
end

-- A pair, or lists of them: is it a pair?
local function is_pair(value) return type(value[2]) == "table" and type(value[1]) == "number" end

local function map(fn, a, b)
  if is_pair(a) and (not b or is_pair(b)) then return fn(a, b) end
  local out = {}
  for i = 1, #(is_pair(a) and b or a) do
    out[i] = map(fn, is_pair(a) and a or a[i], b and (is_pair(b) and b or b[i]))
  end
  return out
end

local function flatten(value, into)
  if is_pair(value) then
    into[#into + 1] = value
  else
    for _, item in ipairs(value) do flatten(item, into) end
  end
  return into
end

local function reduce(reduction, value, node, n)
  local list, plain = flatten(value, {}), {}
  for i, pair in ipairs(list) do plain[i] = pair[1] end
  local result, derivatives = reduction(plain, node)
  local terms = {}
  for i, pair in ipairs(list) do
    terms[#terms + 1] = derivatives[i]
    terms[#terms + 1] = pair[2]
  end
  return combine(n, result, table.unpack(terms))
end

local function inputs_of(node, values, n)
  local args = {}
  for i, arg in ipairs(node.args or {}) do
    args[i] = arg.node and values[arg.node + 1] or {arg.constant, zeros(n)}
  end
  return args
end

--- Evaluates a decoded graph. `logits`: T lists of V numbers; `data`: by column.
---@return number loss
---@return table gradient T·V derivatives of the loss, row after row
---@return table metrics by name
function evaluator.run(graph, logits, data)
  local width = #logits[1]
  local n = #logits * width
  local values = {}
  local function constant(v) return {v, zeros(n)} end
  local ops = {
    logits = function()
      local rows = {}
      for t, row in ipairs(logits) do
        rows[t] = {}
        for k, v in ipairs(row) do
          rows[t][k] = constant(v)
          rows[t][k][2][(t - 1) * width + k] = 1.0
        end
      end
      return rows
    end,
    input = function(node)
      local rows = {}
      for t, v in ipairs(data[graph.columns[node.column + 1].name]) do
        if type(v) == "number" then
          rows[t] = constant(v)
        else
          rows[t] = {}
          for k, one in ipairs(v) do rows[t][k] = constant(one) end
        end
      end
      return rows
    end,
    ce = function(_, args)
      local out = {}
      for t, row in ipairs(args[1]) do
        local lp = log_softmax_row(row, n)[args[2][t][1] + 1]
        out[t] = combine(n, -lp[1], -1, lp[2])
      end
      return out
    end,
    log_softmax = function(_, args)
      local out = {}
      for t, row in ipairs(args[1]) do out[t] = log_softmax_row(row, n) end
      return out
    end,
    gather = function(_, args)
      local out = {}
      for t, ids in ipairs(args[2]) do
        out[t] = {}
        for k, id in ipairs(ids) do out[t][k] = args[1][t][id[1] + 1] end
      end
      return out
    end,
    sum_candidates = function(node, args)
      local out = {}
      for t, row in ipairs(args[1]) do out[t] = reduce(reductions.sum, row, node, n) end
      return out
    end,
  }
  for i, node in ipairs(graph.nodes) do
    local args = inputs_of(node, values, n)
    local op = node.op
    if ops[op] then
      values[i] = ops[op](node, args)
    elseif reductions[op] then
      values[i] = reduce(reductions[op], args[1], node, n)
    elseif unary[op] then
      values[i] = map(function(a)
        local v, d = unary[op](a[1])
        return combine(n, v, d, a[2])
      end, args[1])
    else
      values[i] = map(function(a, b)
        local v, da, db = binary[op](a[1], b[1])
        return combine(n, v, da, a[2], db, b[2])
      end, args[1], args[2])
    end
  end
  local metrics = {}
  for name, index in pairs(graph.metrics) do metrics[name] = values[index + 1][1] end
  local loss = values[graph.loss + 1]
  return loss[1], loss[2], metrics
end

return evaluator
