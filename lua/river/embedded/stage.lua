--- What the classes share whose numbers are kept by riverlua.core.river: saving and loading.
--
-- Such an object has a `kernel`; `open(self)` makes it from the parameters.

local stage = {}

--- The plain table of an object: its fields, and what its kernel has learned.
---@param self table
---@return table
function stage.save(self)
  local saved, transient = {}, {kernel = true}
  for _, name in ipairs(self.transient or {}) do transient[name] = true end
  for name, value in next, self do
    if not transient[name] then saved[name] = value end
  end
  return {fields = saved, learned = self.kernel:get()}
end

--- Makes an object what it was when it was saved.
---@param self table
---@param saved table
function stage.load(self, saved)
  for name, value in next, saved.fields do self[name] = value end
  self:open()
  self.kernel:set(saved.learned)
end

--- The pairs {name, value} of a column, for `pickle.dict`.
---@param names string[]
---@param values any[]
---@return table[]
function stage.pairs(names, values)
  local list = {}
  for i, name in ipairs(names) do list[i] = {name, values[i]} end
  return list
end

--- A column as a `defaultdict` of floats.
---@param pickle table river.embedded.pickle
---@param names string[]
---@param values number[]
---@param factory table|nil the reference to `float`, where one pickle has several of them
---@return table node
function stage.float_dict(pickle, names, values, factory)
  return pickle.object("collections.defaultdict",
    {factory or pickle.reference("builtins.float"), pickle.dict(stage.pairs(names, values))})
end

--- The pairs of a dictionary in a pickle's state: a `defaultdict`, `Counter` or the library's vector.
---@param node any
---@return table[]
function stage.dict_of(node)
  if type(node) ~= "table" then return {} end
  if not node.class then return node end
  local place = node.class == "collections.defaultdict" and 2 or 1
  local dict = node.args[place]
  return type(dict) == "table" and dict or {}
end

return stage
