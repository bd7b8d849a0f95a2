--- Completion of names at the prompt: globals, locals of the session, keywords, fields and methods.
--
-- Nothing of the user's is called: only tables are looked into, and `__index` only where it is a table. Tables whose
-- fields are made when they are asked for, or are not all for the user, say so in their metatable: `__names(value)` →
-- list of names.

local complete = {}

local KEYWORDS = {"and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
  "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while"}

-- How far a chain of `__index` tables is followed.
local MAX_CHAIN = 16

-- The tables in which the fields of a value are found: itself, then along __index.
local function places(value)
  local list, seen = {}, {}
  while #list < MAX_CHAIN do
    if type(value) == "table" then
      if seen[value] then break end
      seen[value] = true
      list[#list + 1] = value
    end
    local metatable = debug.getmetatable(value)
    local index = type(metatable) == "table" and rawget(metatable, "__index")
    if type(index) ~= "table" then break end
    value = index
  end
  return list
end

-- The list of a value that makes its fields when they are asked for, or nil.
local function names_of(value)
  local metatable = debug.getmetatable(value)
  local list = type(metatable) == "table" and rawget(metatable, "__names")
  if not list then return nil end
  local ok, names = pcall(list, value)
  return ok and names or nil
end

local function field(value, name)
  if names_of(value) then
    local ok, found = pcall(function() return value[name] end)
    return ok and found or nil
  end
  for _, place in ipairs(places(value)) do
    local found = rawget(place, name)
    if found ~= nil then return found end
  end
  return nil
end

local function callable(value)
  if type(value) == "function" then return true end
  local metatable = debug.getmetatable(value)
  return type(metatable) == "table" and rawget(metatable, "__call") ~= nil
end

-- The value of a path like `cli.model.info`, through the session's locals and the globals.
local function resolve(path, session)
  local value
  for name in path:gmatch("[^.:]+") do
    if value == nil then
      local known, found = session:get(name)
      if known then value = found else value = field(_G, name) end
    else
      value = field(value, name)
    end
    if value == nil then return nil end
  end
  return value
end

local function common_prefix(words)
  local first, last = words[1], words[#words]
  local length = 0
  while length < #first and first:byte(length + 1) == last:byte(length + 1) do length = length + 1 end
  return first:sub(1, length)
end

-- Words side by side, filled downwards, within `width` columns.
local function columns(words, width)
  local widest = 0
  for _, word in ipairs(words) do widest = math.max(widest, #word) end
  local across = math.max(1, (width + 2) // (widest + 2))
  local down = (#words + across - 1) // across
  local lines = {}
  for row = 1, down do
    local line = {}
    for at = row, #words, down do line[#line + 1] = words[at] .. (" "):rep(widest - #words[at]) end
    lines[row] = table.concat(line, "  "):gsub("%s+$", "")
  end
  return table.concat(lines, "\n")
end

--- Candidates for the name that `before` ends with.
---@param before string the line up to the cursor
---@param session table see riverlua.repl_session
---@return string[] candidates sorted
---@return string prefix what has been typed of the name
function complete.candidates(before, session)
  local word = before:match("[%w_.:]*$")
  local path, separator, prefix = word:match("^(.*)([.:])([%w_]*)$")
  if not path then prefix = word end
  local names, seen = {}, {}
  local function offer(name)
    if type(name) ~= "string" or seen[name] or not name:find("^[%a_][%w_]*$") then return end
    if name:sub(1, #prefix) ~= prefix or (prefix == "" and name:sub(1, 1) == "_") then return end
    seen[name] = true
    names[#names + 1] = name
  end
  if path then
    local value = path ~= "" and resolve(path, session)
    if value ~= nil and value ~= false then
      local told = names_of(value)
      for _, name in ipairs(told or {}) do offer(name) end
      for _, place in ipairs(told and {} or places(value)) do
        for name, entry in next, place do
          if separator == "." or callable(entry) then offer(name) end
        end
      end
    end
  else
    for _, name in ipairs(session:names()) do offer(name) end
    for _, place in ipairs(places(_G)) do
      for name in next, place do offer(name) end
    end
    if prefix ~= "" then
      for _, name in ipairs(KEYWORDS) do offer(name) end
    end
  end
  table.sort(names)
  return names, prefix
end

--- What a press of the tab key does.
---@param before string the line up to the cursor
---@param session table
---@param width integer columns of the terminal
---@return string|nil insertion text to insert at the cursor
---@return string|nil listing candidates to show, when there is nothing to insert
function complete.press(before, session, width)
  if not before:find("%S") then return "  " end
  local names, prefix = complete.candidates(before, session)
  if #names == 0 then return nil end
  local insertion = common_prefix(names):sub(#prefix + 1)
  if insertion ~= "" or #names == 1 then return insertion end
  return nil, columns(names, width)
end

return complete
