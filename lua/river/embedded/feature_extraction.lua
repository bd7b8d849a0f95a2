--- New features out of others: products, and words of a text.

local errors = require "riverlua.errors"
local key_sets = require "river.embedded.key_sets"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local words = require "river.embedded.words"

local None = python.None

local power = require("riverlua.core.math").pow

local function define(name, params, methods)
  local class = registry.class{class = "river.feature_extraction." .. name, role = "estimator", transformer = true,
    supervised = false, params = params, transient = {"cache", "out"}}

  function class:revive() self.cache, self.out = key_sets.new(), {} end

  function class:check_target(y)
    python.takes_no_target(self.stateless and "Transformer" or self.name, y)
  end

  for method, body in pairs(methods or {}) do class[method] = body end
  return class
end

-- ------------------------------------------------------------------------------------------------------- products

--- Products of the features, up to `degree` of them.
local PolynomialExtender = define("PolynomialExtender", {
  {"degree", 2, kind = "integer"}, {"interaction_only", false, kind = "boolean"},
  {"include_bias", false, kind = "boolean"}, {"bias_name", "bias", kind = "string"},
})

PolynomialExtender.init = PolynomialExtender.revive

function PolynomialExtender.learn_one() end

function PolynomialExtender.restore() end

PolynomialExtender.stateless = true

-- Above this a product of integers may leave the range in which Lua's and Python's agree.
local EXACT = 2.0 ^ 53

-- A product as Python computes it.
local function times(a, b)
  local kind_a, kind_b = math.type(a), math.type(b)
  if kind_a and kind_b then
    if kind_a == "integer" and kind_b == "integer" and math.abs(a * 1.0 * b) >= EXACT then return a * 1.0 * b end
    return a * b
  end
  local text, count = a, b
  if type(b) == "string" then text, count = b, a end
  if type(text) == "string" then
    if math.type(count) == "integer" then
      if count * #text > 1 << 20 then python.raise("MemoryError", "") end
      return text:rep(count)
    end
    python.raise("TypeError", "can't multiply sequence by non-int of type '%s'", python.type_name(count))
  end
  python.raise("TypeError", "unsupported operand type(s) for *: '%s' and '%s'", python.type_name(a),
    python.type_name(b))
end

-- All combinations of `size` positions out of n, the first position slowest; with repetitions unless `distinct`.
local function combine(n, size, distinct, out)
  local combination = {}
  local function extend(depth, first)
    if depth > size then
      out[#out + 1] = table.move(combination, 1, size, 1, {})
      return
    end
    for i = first, n do
      combination[depth] = i
      extend(depth + 1, distinct and i + 1 or i)
    end
  end
  extend(1, 1)
end

-- More products than this per sample are refused rather than computed.
local MAX_PRODUCTS = 1 << 20

local function count_products(n, size, distinct)
  local count = 1.0
  for i = 1, size do count = count * (distinct and n - i + 1 or n + i - 1) / i end
  return math.max(count, 0)
end

-- For a set of names: which positions to multiply, and the keys of the products.
local function products(self, keys)
  local list, total = {}, 0
  for size = 1, self.degree do total = total + count_products(keys.n, size, self.interaction_only) end
  if total > MAX_PRODUCTS then python.raise("MemoryError", "") end
  for size = 1, self.degree do combine(keys.n, size, self.interaction_only, list) end
  local names, place, plan = {}, {}, {}
  for _, combination in ipairs(list) do
    local parts = {}
    for i, position in ipairs(combination) do parts[i] = keys[position] end
    table.sort(parts)
    local name = table.concat(parts, "*")
    if not place[name] then
      place[name] = #names + 1
      names[#names + 1] = name
    end
    plan[place[name]] = combination
  end
  if self.include_bias and not place[self.bias_name] then
    place[self.bias_name] = #names + 1
    names[#names + 1] = self.bias_name
  end
  plan.bias = self.include_bias and place[self.bias_name]
  plan.keys = key_sets.get(self.cache, names)
  return plan
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function PolynomialExtender:transform_one(row)
  local plan, out = key_sets.remember(self.cache, row.keys, products, self), self.out
  local keys, plain = plan.keys, not row.other
  for k = 1, keys.n do
    local combination = plan[k]
    if k ~= plan.bias then
      local product = plain and row[combination[1]] or times(1, row[combination[1]])
      for i = 2, #combination do product = times(product, row[combination[i]]) end
      out[k] = product
    end
  end
  if plan.bias then out[plan.bias] = 1 end
  out.keys, out.other = keys, row.other and key_sets.first_other(out, keys.n)
  return out
end

-- ----------------------------------------------------------------------------------------------------------- words

local PATTERN = [[(?u)\b\w[\w\-]+\b]]

-- Parameters of both vectorizers, after those of their own.
local function parameters(first)
  local list = {
    {"on", None, kind = "string", optional = true}, {"strip_accents", true, kind = "boolean"},
    {"lowercase", true, kind = "boolean"}, {"preprocessor", None, kind = "reference", optional = true},
    {"stop_words", None, kind = "list", optional = true}, {"tokenizer_pattern", PATTERN, kind = "string"},
    {"tokenizer", None, kind = "reference", optional = true}, {"ngram_range", None, kind = "list", optional = true},
  }
  if first then table.insert(list, 1, first) end
  return list
end

local function refuse(self, text)
  errors.raise{kind = "unsupported", message = ("%s: the embedded service %s"):format(self.name, text)}
end

local Vectorizer = {}

function Vectorizer:init()
  if self.preprocessor ~= None or self.tokenizer ~= None then refuse(self, "cannot run functions of Python") end
  if self.tokenizer_pattern ~= PATTERN then refuse(self, "takes texts apart by the default pattern only") end
  if self.ngram_range == None then self.ngram_range = {1, 1} end
  if self.ngram_range[1] ~= 1 or self.ngram_range[2] ~= 1 then refuse(self, "counts single words only") end
  self.is_stop_word = {}
  for _, word in ipairs(self.stop_words ~= None and self.stop_words or {}) do self.is_stop_word[word] = true end
  if self.start then self:start() end
  self:revive()
end

function Vectorizer:describe(null)
  local out = getmetatable(getmetatable(self)).describe(self, null)
  out.ngram_range = {"1", "1"}
  return out
end

--- Whether a sample may be a text instead of features.
---@return boolean
function Vectorizer:takes_text() return self.on == None end

-- How often each word is in the text of a sample: names in order, and their counts.
local function count_words(self, row)
  local text
  if self.on == None then
    text = row.source
  else
    local position = row.keys.index[self.on]
    if not position then python.raise("KeyError", self.on) end
    text = key_sets.original(row, position)
  end
  if type(text) ~= "string" then
    python.raise("AttributeError", "'%s' object has no attribute '%s'", python.type_name(text),
      self.strip_accents and "encode" or "lower")
  end
  local names, counts, total = {}, {}, 0
  for _, word in ipairs(words.split(text, self.strip_accents, self.lowercase)) do
    if not self.is_stop_word[word] then
      if not counts[word] then names[#names + 1] = word end
      counts[word] = (counts[word] or 0) + 1
      total = total + 1
    end
  end
  return names, counts, total
end

--- Counts the words of the text under `on`. Letters beyond ASCII are told apart as `river.embedded.words` says.
local BagOfWords = define("BagOfWords", parameters(), Vectorizer)

function BagOfWords.learn_one() end

function BagOfWords.restore() end

BagOfWords.stateless = true

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function BagOfWords:transform_one(row)
  local names, counts = count_words(self, row)
  local out = self.out
  for i, name in ipairs(names) do out[i] = counts[name] end
  out.keys = key_sets.get(self.cache, names)
  return out
end

--- Counts of words, weighted by how rare the words are among the texts so far.
local TFIDF = define("TFIDF", parameters{"normalize", true, kind = "boolean"}, Vectorizer)

function TFIDF:start() self.names, self.dfs, self.n = {}, {}, 0 end

function TFIDF:learn_one(row)
  for _, name in ipairs((count_words(self, row))) do
    if not self.dfs[name] then self.names[#self.names + 1] = name end
    self.dfs[name] = (self.dfs[name] or 0) + 1
  end
  self.n = self.n + 1
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function TFIDF:transform_one(row)
  local names, counts, total = count_words(self, row)
  local out, squares = self.out, 0.0
  for i, name in ipairs(names) do
    local value = counts[name] / total * (math.log((1 + self.n) / (1 + (self.dfs[name] or 0))) + 1)
    out[i] = value
    squares = squares + power(value, 2)
  end
  if self.normalize then
    local norm = math.sqrt(squares)
    for i = 1, #names do out[i] = out[i] / norm end
  end
  out.keys = key_sets.get(self.cache, names)
  return out
end

function TFIDF:state(pickle)
  local list = {}
  for i, name in ipairs(self.names) do list[i] = {name, self.dfs[name]} end
  return {{"dfs", pickle.object("collections.Counter", {pickle.dict(list)})}, {"n", self.n}}
end

function TFIDF:restore(state)
  if state.dfs == nil then return end
  local pickle = require "river.embedded.pickle"
  for _, pair in ipairs(state.dfs.args[1] or {}) do
    self.names[#self.names + 1] = pickle.name(pair[1])
    self.dfs[pair[1]] = pickle.number(pair[2])
  end
  self.n = pickle.number(state.n)
end

return {PolynomialExtender = PolynomialExtender, BagOfWords = BagOfWords, TFIDF = TFIDF}
