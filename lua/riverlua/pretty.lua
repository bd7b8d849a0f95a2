--- Values as readable text: what the interactive mode shows for a table.
--
--     local pretty = require "riverlua.pretty"
--     pretty.print{name = "demo", scores = {0.5, 0.25}}   --> {name = "demo", scores = {0.5, 0.25}}
--
-- Keys are sorted, so the text is the same on every run. What fits on a line stays on one; cycles, depth and size
-- are limited, so any value can be shown.

local pretty = {}

local DEFAULTS = {width = 80, depth = 8, max_items = 2000, max_string = 400, indent = 2}

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true
  until while]]):gmatch("%a+") do
  KEYWORDS[word] = true
end

local ESCAPES = {["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"'}

local function escape_byte(c)
  return ESCAPES[c] or ("\\x%02X"):format(c:byte())
end

-- Valid UTF-8 as it is, everything else that cannot be seen as an escape.
local function quote(text)
  local pattern = utf8.len(text) and '[%c\\"]' or '[%c\\"\x80-\xff]'
  return '"' .. text:gsub(pattern, escape_byte) .. '"'
end

--- Whether a value is riverlua.json.null (and cjson.null): the null pointer as light userdata.
---@param value any
---@return boolean
function pretty.is_null(value)
  return type(value) == "userdata" and debug.getmetatable(value) == nil and tostring(value):find("%(nil%)$") ~= nil
end

local function show_string(text, limit)
  if #text <= limit then return quote(text) end
  local cut = limit
  -- Not inside a character.
  while cut > 0 and text:byte(cut + 1) & 0xC0 == 0x80 do cut = cut - 1 end
  return quote(text:sub(1, cut)) .. ("… (%d bytes)"):format(#text)
end

local function show_function(value)
  local info = debug.getinfo(value, "S")
  if info.what == "C" then return "<function: built in>" end
  return ("<function: %s:%d>"):format(info.short_src, info.linedefined)
end

-- The text that a value's own metatable gives it, or nil.
local function own_text(value)
  local metatable = debug.getmetatable(value)
  if type(metatable) ~= "table" then return nil end
  if rawget(metatable, "__tostring") ~= nil then
    local ok, text = pcall(tostring, value)
    return ok and text or "<" .. type(value) .. ": __tostring failed>"
  end
  local name = rawget(metatable, "__name")
  return type(name) == "string" and "<" .. name .. ">" or nil
end

local function show_scalar(value, options)
  local kind = type(value)
  if kind == "string" then return show_string(value, options.max_string) end
  if kind == "function" then return show_function(value) end
  if kind == "userdata" or kind == "thread" then
    if pretty.is_null(value) then return "null" end
    return own_text(value) or "<" .. tostring(value) .. ">"
  end
  return tostring(value)
end

local RANK = {number = 1, string = 2, boolean = 3}

local function key_before(a, b)
  local ra, rb = RANK[type(a)] or 4, RANK[type(b)] or 4
  if ra ~= rb then return ra < rb end
  if ra <= 2 then return a < b end
  return tostring(a) < tostring(b)
end

local function show_key(key, options)
  if type(key) == "string" and key:find("^[%a_][%w_]*$") and not KEYWORDS[key] then return key end
  if type(key) == "table" then return "[" .. (own_text(key) or "<" .. tostring(key) .. ">") .. "]" end
  return "[" .. show_scalar(key, options) .. "]"
end

-- The keys after the list part, sorted.
local function other_keys(value, length)
  local keys = {}
  for key in next, value do
    if not (math.type(key) == "integer" and key >= 1 and key <= length) then keys[#keys + 1] = key end
  end
  table.sort(keys, key_before)
  return keys
end

-- Joins scalar items into as few lines as `room` allows.
local function fill(items, room, pad, width)
  local lines, line, used = {}, {}, 0
  for i = 1, #items do
    local item = items[i]
    local length = width(item) + 2
    if #line > 0 and used + length > room then
      lines[#lines + 1] = table.concat(line, ", ")
      line, used = {}, 0
    end
    line[#line + 1] = item
    used = used + length
  end
  lines[#lines + 1] = table.concat(line, ", ")
  return table.concat(lines, ",\n" .. pad)
end

local show

-- The entries of a table as texts; second result: whether all of them are unnamed scalars.
local function entries(value, state, depth)
  local items, flat = {}, true
  local length = rawlen(value)
  local options = state.options
  for i = 1, length do
    if state.left <= 0 then break end
    local item = rawget(value, i)
    flat = flat and type(item) ~= "table"
    items[#items + 1] = show(item, state, depth + 1, 0)
  end
  for _, key in ipairs(other_keys(value, length)) do
    if state.left <= 0 then break end
    flat = false
    local name = show_key(key, options) .. " = "
    items[#items + 1] = name .. show(rawget(value, key), state, depth + 1, #name)
  end
  if state.left <= 0 then items[#items + 1] = "…" end
  return items, flat
end

local function show_table(value, state, depth, taken)
  local own = own_text(value)
  if own then return own end
  if state.open[value] then return "<cycle>" end
  if next(value) == nil then return "{}" end
  local options = state.options
  if depth >= options.depth then return "{…}" end
  state.open[value] = true
  local items, flat = entries(value, state, depth)
  state.open[value] = nil
  local line = "{" .. table.concat(items, ", ") .. "}"
  local room = options.width - depth * options.indent
  if not line:find("\n", 1, true) and state.width(line) + taken < room then return line end
  local pad = (" "):rep((depth + 1) * options.indent)
  local inside
  if flat then
    inside = fill(items, options.width - #pad, pad, state.width)
  else
    inside = table.concat(items, ",\n" .. pad)
  end
  return "{\n" .. pad .. inside .. "\n" .. (" "):rep(depth * options.indent) .. "}"
end

function show(value, state, depth, taken)
  state.left = state.left - 1
  if type(value) == "table" then return show_table(value, state, depth, taken) end
  return show_scalar(value, state.options)
end

--- Turns any value into readable text.
---@param value any
---@param options table|nil `width` columns to stay within where possible (80), `depth` levels shown (8), `max_items`
--- values shown in all (2000), `max_string` bytes shown of a string (400), `indent` (2)
---@return string
function pretty.format(value, options)
  local known = {}
  for name, default in pairs(DEFAULTS) do known[name] = options and options[name] or default end
  if options then require("riverlua.errors").check_options("pretty.format", options, DEFAULTS) end
  local state = {options = known, open = {}, left = known.max_items, width = require("riverlua.terminal").width}
  return show(value, state, 0, 0)
end

--- Prints values to the standard output, tables by their contents, separated by tabs.
---@param ... any
function pretty.print(...)
  local texts = table.pack(...)
  for i = 1, texts.n do
    local value = texts[i]
    texts[i] = type(value) == "string" and value or pretty.format(value)
  end
  io.stdout:write(table.concat(texts, "\t", 1, texts.n), "\n")
end

return pretty
