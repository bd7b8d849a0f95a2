--- What is in a pickle, as indented text:
--
--     river.compose.pipeline.Pipeline
--       steps: collections.OrderedDict
--         StandardScaler: river.preprocessing.scale.StandardScaler
--           with_std: true
--           …

local errors = require "riverlua.errors"
local reader = require "river.pickle_reader"

local outline = {}

local LINES = 200
local SHOWN = 60     -- bytes of a text
local DEEPEST = 40   -- levels

local function scalar(value)
  local kind = reader.kind(value)
  if kind == "string" then
    local text = ("%q"):format(#value > SHOWN and value:sub(1, SHOWN) or value):gsub("\\\n", "\\n")
    return #value > SHOWN and ("%s… (%d bytes)"):format(text, #value) or text
  elseif kind == "none" then
    return "None"
  elseif kind == "bytes" then
    return ("%d bytes"):format(#value.text)
  elseif kind == "float" then
    return ("%.17g"):format(value)
  end
  return tostring(value)
end

local SCALARS = {string = true, none = true, bytes = true, float = true, integer = true, boolean = true,
  reference = true}

local show

local function add(self, depth, text)
  self[#self + 1] = ("  "):rep(depth) .. text
end

local function show_pairs(self, dict, depth)
  for _, pair in ipairs(dict) do
    if #self >= self.limit then return end
    local key = pair[1]
    show(self, pair[2], depth, (type(key) == "string" and key or SCALARS[reader.kind(key)] and scalar(key)
      or reader.kind(key)) .. ": ")
  end
end

-- Attributes, arguments and items of an object, each where there are some.
local function show_node(self, node, depth)
  for _, argument in ipairs(node.args) do show(self, argument, depth, "") end
  local names = {}
  for name in pairs(node.kwargs or {}) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do show(self, node.kwargs[name], depth, name .. " = ") end
  for _, part in ipairs{"items", "state"} do
    local value = node[part]
    if reader.kind(value) == "dict" then
      show_pairs(self, value, depth)
    elseif value ~= nil then
      show(self, value, depth, "")
    end
  end
end

function show(self, value, depth, label)
  if #self >= self.limit then return end
  local kind = reader.kind(value)
  if SCALARS[kind] or kind == nil then return add(self, depth, label .. scalar(value)) end
  local name = kind == "node" and value.class or ("%s of %d"):format(kind, #value)
  if self.seen[value] then return add(self, depth, ("%s%s (the one above)"):format(label, name)) end
  self.seen[value] = true
  add(self, depth, label .. name)
  if depth >= DEEPEST then return end
  if kind == "node" then
    show_node(self, value, depth + 1)
  elseif kind == "dict" then
    show_pairs(self, value, depth + 1)
  else
    for _, item in ipairs(value) do show(self, item, depth + 1, "") end
  end
end

--- The text.
---@param value any what `river.pickle.read` gave
---@param options {lines: integer}|nil at most so many lines (200)
---@return string # without a line break at the end
function outline.format(value, options)
  options = options or {}
  errors.check_options("pickle.outline", options, {lines = true})
  local self = {limit = options.lines or LINES, seen = {}}
  show(self, value, 0, "")
  if #self >= self.limit then self[#self + 1] = "…" end
  return table.concat(self, "\n")
end

return outline
