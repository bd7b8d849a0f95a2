--- Classifiers of many labels made of binary ones.

local hash_order = require "river.embedded.hash_order"
local label_book = require "river.embedded.label_book"
local python = require "river.embedded.python"
local random = require "river.embedded.random"
local registry = require "river.embedded.registry"

local None = python.None

-- The probability of true; the label may be the integer 1, which Python takes for the same.
local function probability_of_true(probs)
  local p = probs[true]
  if p == nil then p = probs[1] end
  return p
end

-- A label as it is handed to a wrapped model or a caller: None is nil.
local function plain(label)
  if label == None then return nil end
  return label
end

-- The targets that the wrapped models will get are of a kind that they take; what they take not at all shows here.
local function check_wrapped(self, y)
  if self.classifier.check_target then self.classifier:check_target(y, true) end
end

-- ------------------------------------------------------------------------------------------------ one against rest

local OneVsRestClassifier = registry.class{
  class = "river.multiclass.OneVsRestClassifier", role = "estimator", supervised = true,
  params = {{"classifier", kind = "estimator", required = true}},
}

function OneVsRestClassifier:init()
  self.labels, self.classifiers = label_book.new(), {}
end

function OneVsRestClassifier:check_target(y, inner)
  label_book.check(self.name, y, inner)
  check_wrapped(self, true)
end

---@param row river.embedded.Row
---@param y any
---@param w number|nil weight, for wrapped models that take one
function OneVsRestClassifier:learn_one(row, y, w)
  local truth, added = label_book.add(self.labels, y)
  if added then self.classifiers[truth] = registry.clone(self.classifier) end
  for i = 1, self.labels.n do self.classifiers[i]:learn_one(row, i == truth, w) end
end

---@param row river.embedded.Row
---@return table<any, number> probabilities by label
---@return any[] order
function OneVsRestClassifier:predict_proba_one(row)
  local probs, order, total = {}, {}, 0.0
  for i, label in ipairs(self.labels.list) do
    local p = probability_of_true(self.classifiers[i]:predict_proba_one(row))
    if p == nil then python.raise("KeyError", "True") end
    probs[label], order[i] = p, label
    total = total + p
  end
  for _, label in ipairs(order) do
    probs[label] = total ~= 0 and probs[label] / total or 1 / #order
  end
  return probs, order
end

function OneVsRestClassifier:predict_one(row)
  return label_book.likeliest(self:predict_proba_one(row))
end

function OneVsRestClassifier:state(pickle)
  local list = {}
  for i, label in ipairs(self.labels.list) do list[i] = {label, self.classifiers[i]:dump()} end
  return {{"classifiers", pickle.dict(list)}}
end

function OneVsRestClassifier:restore(state)
  for _, pair in ipairs(state.classifiers or {}) do
    self.classifiers[label_book.add(self.labels, pair[1])] = registry.build(pair[2])
  end
end

-- ------------------------------------------------------------------------------------------------- one against one

--- Votes of one classifier per pair of labels. The library visits labels in the order of a set, which decides between
--- labels with equal votes and for texts changes from run to run; here it is that of PYTHONHASHSEED=0.
local OneVsOneClassifier = registry.class{
  class = "river.multiclass.OneVsOneClassifier", role = "estimator", supervised = true,
  params = {{"classifier", kind = "estimator", required = true}},
}

function OneVsOneClassifier:init()
  self.labels, self.pairs, self.by_label = label_book.new(), {}, {}
  self.classes = hash_order.set()
end

-- What Python can compare: two texts or two numbers (of which booleans are some).
local function order_kind(label)
  local kind = type(label)
  return kind == "boolean" and "number" or kind
end

local function rank(label)
  if label == true then return 1 elseif label == false then return 0 end
  return label
end

function OneVsOneClassifier:check_target(y, inner)
  label_book.check(self.name, y, inner)
  if label_book.find(self.labels, y) == nil then
    for _, label in ipairs(self.labels.list) do
      if order_kind(label) ~= order_kind(y) or y == nil then
        python.raise("TypeError", "'<' not supported between instances of '%s' and '%s'",
          python.type_name(plain(label)), python.type_name(y))
      end
    end
  end
  check_wrapped(self, true)
end

local function pair_of(self, low, high)
  local row = self.by_label[low]
  if not row then
    row = {}
    self.by_label[low] = row
  end
  local pair = row[high]
  if not pair then
    pair = {low = low, high = high, classifier = registry.clone(self.classifier)}
    row[high], self.pairs[#self.pairs + 1] = pair, pair
  end
  return pair
end

-- The places of all labels but one, in the order of Python's `classes - {y}`.
local function others(self, y)
  local classes, rest = self.classes, hash_order.set()
  if classes.used >> 2 > 1 then
    rest:merge(classes)
    rest:discard(y)
  else
    local truth = python.label_key(y)
    for _, label in ipairs(classes:items()) do
      if python.label_key(label) ~= truth then rest:add(label) end
    end
  end
  local places = rest:items()
  for i, label in ipairs(places) do places[i] = label_book.find(self.labels, label) end
  return places
end

---@param row river.embedded.Row
---@param y any
---@param w number|nil weight, for wrapped models that take one
function OneVsOneClassifier:learn_one(row, y, w)
  local truth = label_book.add(self.labels, y)
  local list = self.labels.list
  self.classes:add(list[truth])
  for _, place in ipairs(others(self, list[truth])) do
    local is_higher = rank(list[place]) < rank(list[truth])
    local pair = pair_of(self, is_higher and place or truth, is_higher and truth or place)
    pair.classifier:learn_one(row, is_higher, w)
  end
end

---@param row river.embedded.Row
---@return any label nil before there are two labels
function OneVsOneClassifier:predict_one(row)
  local votes, order = {}, {}
  for _, pair in ipairs(self.pairs) do
    local place = python.truthy(pair.classifier:predict_one(row)) and pair.high or pair.low
    if not votes[place] then
      votes[place] = 0
      order[#order + 1] = place
    end
    votes[place] = votes[place] + 1
  end
  local winner = label_book.likeliest(votes, order)
  return winner and plain(self.labels.list[winner])
end

--- The library has the method and refuses.
function OneVsOneClassifier.predict_proba_one()
  python.raise("NotImplementedError", "")
end

function OneVsOneClassifier:state(pickle)
  local list, items = self.labels.list, {}
  for i, pair in ipairs(self.pairs) do
    items[i] = {pickle.tuple{list[pair.low], list[pair.high]}, pair.classifier:dump()}
  end
  local factory = pickle.object("copy.deepcopy", {self.classifier:dump()}, {partial = true})
  return {
    {"classes", pickle.object("builtins.set", {pickle.tuple(table.move(list, 1, #list, 1, {}))})},
    {"classifiers", pickle.object("collections.defaultdict", {factory, pickle.dict(items)})},
  }
end

function OneVsOneClassifier:restore(state)
  if state.classes == nil then return end
  local classes = state.classes.class and state.classes.args[1] or state.classes
  for _, label in ipairs(classes) do
    label_book.add(self.labels, label)
    self.classes:add(label)
  end
  for _, item in ipairs(state.classifiers.args[2] or {}) do
    local low = label_book.add(self.labels, item[1][1])
    local high = label_book.add(self.labels, item[1][2])
    pair_of(self, low, high).classifier = registry.build(item[2])
  end
end

-- ---------------------------------------------------------------------------------------------------- output codes

--- A code of zeros and ones per label and one classifier per digit.
local OutputCodeClassifier = registry.class{
  class = "river.multiclass.OutputCodeClassifier", role = "estimator", supervised = true,
  params = {
    {"classifier", kind = "estimator", required = true}, {"code_size", kind = "integer", required = true},
    {"coding_method", "random", kind = "string"}, {"seed", None, kind = "integer", optional = true},
  },
}

-- More codes than this would have to be shuffled at once by the "exact" method.
local MAX_EXACT_SIZE = 20

function OutputCodeClassifier:init()
  self.labels, self.codes, self.classifiers = label_book.new(), {}, {}
  for i = 1, self.code_size do self.classifiers[i] = registry.clone(self.classifier) end
  self.rng = random.new(self.seed ~= None and self.seed or nil)
  if self.coding_method ~= "exact" then return end
  if self.code_size > MAX_EXACT_SIZE then
    python.raise("MemoryError", "2 to the power of %d codes", self.code_size)
  end
  self.integers, self.used = {}, 0
  for i = 1, 1 << self.code_size do self.integers[i] = i - 1 end
  self.rng:shuffle(self.integers)
end

function OutputCodeClassifier:check_target(y, inner)
  label_book.check(self.name, y, inner)
  check_wrapped(self, 1)
  if self.coding_method ~= "random" and self.coding_method ~= "exact" then
    python.raise("TypeError", "'NoneType' object is not iterable")
  end
  if self.integers and self.used >= #self.integers and not label_book.find(self.labels, y) then
    python.raise("StopIteration", "")
  end
end

local function next_code(self)
  local code = {}
  if self.integers then
    self.used = self.used + 1
    local value = self.integers[self.used]
    for i = self.code_size, 1, -1 do
      code[i] = value & 1
      value = value >> 1
    end
  else
    for i = 1, self.code_size do code[i] = self.rng:randint(0, 1) end
  end
  return code
end

---@param row river.embedded.Row
---@param y any
---@param w number|nil weight, for wrapped models that take one
function OutputCodeClassifier:learn_one(row, y, w)
  local place, added = label_book.add(self.labels, y)
  if added then self.codes[place] = next_code(self) end
  for i, digit in ipairs(self.codes[place]) do self.classifiers[i]:learn_one(row, digit, w) end
end

---@param row river.embedded.Row
---@return any label nil before there is one
function OutputCodeClassifier:predict_one(row)
  if self.labels.n == 0 then return nil end
  local output, best, nearest = {}, nil, nil
  for i, classifier in ipairs(self.classifiers) do
    output[i] = probability_of_true(classifier:predict_proba_one(row)) or 0.0
  end
  for place, code in ipairs(self.codes) do
    local distance = 0
    for i = 1, #code do distance = distance + math.abs(code[i] - output[i]) end
    if not best or distance < nearest then best, nearest = place, distance end
  end
  return plain(self.labels.list[best])
end

OutputCodeClassifier.predict_proba_one = OneVsOneClassifier.predict_proba_one

return {
  OneVsRestClassifier = OneVsRestClassifier, OneVsOneClassifier = OneVsOneClassifier,
  OutputCodeClassifier = OutputCodeClassifier,
}
