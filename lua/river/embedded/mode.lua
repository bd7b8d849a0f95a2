--- The value seen most often, among the first k different ones.

local label_book = require "river.embedded.label_book"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local Mode = registry.class{
  class = "river.stats.Mode", role = "stat", takes_any = true, params = {{"k", 25, kind = "integer"}},
}

function Mode:init() self.values, self.counts = label_book.new(), {} end

---@param x any a text, number or boolean; of numbers and booleans that Python takes for equal the first one counts
function Mode:update(x)
  local place = label_book.find(self.values, x)
  if not place then
    if self.k ~= -1 and self.values.n >= self.k then return end
    place = label_book.add(self.values, x)
  end
  self.counts[place] = (self.counts[place] or 0) + 1
end

---@return any nil before the first value
function Mode:get()
  local best
  for place = 1, self.values.n do
    if not best or self.counts[place] > self.counts[best] then best = place end
  end
  local value = best and self.values.list[best]
  if value == python.None then return nil end
  return value
end

return {Mode = Mode}
