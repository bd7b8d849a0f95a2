--- Labels in the order in which they were first seen; those that Python takes for equal are one.

local python = require "river.embedded.python"

local label_key = python.label_key

local label_book = {}

---@class river.embedded.LabelBook plain data
---@field n integer
---@field list any[] the labels as first seen, None as `python.None`
---@field index table<any, integer> `python.label_key(label)` → place

---@return river.embedded.LabelBook
function label_book.new()
  return {n = 0, list = {}, index = {}}
end

--- The place of a label, or nil.
---@param book river.embedded.LabelBook
---@param label any
---@return integer|nil
function label_book.find(book, label)
  return book.index[label_key(label)]
end

--- The place of a label, a new one at the end if it is new.
---@param book river.embedded.LabelBook
---@param label any
---@return integer place
---@return boolean added
function label_book.add(book, label)
  local key = label_key(label)
  local place = book.index[key]
  if place then return place, false end
  place = book.n + 1
  book.n, book.index[key] = place, place
  book.list[place] = key == python.None and key or label
  return place, true
end

--- The first label of those with the highest number, as Python's `max`; nil when there is none, or when it is None.
---@param numbers table<any, number> by label
---@param order any[] labels
---@return any
function label_book.likeliest(numbers, order)
  local best = order[1]
  for i = 2, #order do
    local label = order[i]
    if numbers[label] > numbers[best] then best = label end
  end
  if best == python.None then return nil end
  return best
end

--- Adds probabilities to those there are, as Python's Counter does.
---@param probs table<any, number> by label; in place
---@param order any[] their labels as first met; in place
---@param votes table<any, number>
---@param labels any[] the order of `votes`
---@param weight number|nil a factor of the votes
function label_book.add_votes(probs, order, votes, labels, weight)
  for i = 1, #labels do
    local label = labels[i]
    local p = weight and votes[label] * weight or votes[label]
    if probs[label] then
      probs[label] = p + probs[label]
    else
      order[#order + 1], probs[label] = label, p
    end
  end
end

---@param probs table<any, number>
---@param order any[]
---@return number
function label_book.sum(probs, order)
  local sum = 0
  for i = 1, #order do sum = sum + probs[order[i]] end
  return sum
end

--- Divides numbers by their sum when it is above 0.
---@param probs table<any, number> in place
---@param order any[]
function label_book.normalize(probs, order)
  local sum = label_book.sum(probs, order)
  if sum > 0 then
    for i = 1, #order do probs[order[i]] = probs[order[i]] / sum end
  end
end

--- Multiplies numbers with the inverse of their sum unless it is 0: the last bits may differ from those of `normalize`.
---@param probs table<any, number> in place
---@param order any[]
function label_book.scale(probs, order)
  local sum = label_book.sum(probs, order)
  if sum == 0 or sum ~= sum then return end
  local scale = 1 / sum
  for i = 1, #order do probs[order[i]] = probs[order[i]] * scale end
end

--- Raises what Python would for a label that cannot be the key of a dictionary, or when there is none.
---@param class string name of the class whose `learn_one` it is
---@param y any
---@param inner boolean|nil true inside a pipeline, where no label is None
function label_book.check(class, y, inner)
  python.needs_target(class, y, inner)
  if type(y) == "table" and y ~= python.None then
    python.raise("TypeError", "unhashable type: '%s'", python.type_name(y))
  end
end

return label_book
