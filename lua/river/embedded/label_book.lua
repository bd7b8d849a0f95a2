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

--- Raises what Python would for a label that cannot be the key of a dictionary, or when there is none.
---@param class string name of the class whose `learn_one` it is
---@param y any
---@param inner boolean|nil true inside a pipeline, where no label is None
function label_book.check(class, y, inner)
  if y == nil and not inner then
    python.raise("TypeError", "%s.learn_one() missing 1 required positional argument: 'y'", class)
  end
  if type(y) == "table" and y ~= python.None then
    python.raise("TypeError", "unhashable type: '%s'", python.type_name(y))
  end
end

return label_book
