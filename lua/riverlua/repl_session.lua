--- Locals that survive from line to line, for the interactive mode.
--
-- A line typed at the prompt is a chunk of its own, so plain Lua forgets its locals. Here every line that
-- declares or mentions such a local is compiled inside a function:
--
--     local a, b <const>, keep = ...  return function(...) <the line> end
--
-- where `a` and `b` are the locals of earlier lines that the line mentions. Once compiled, the upvalues of that
-- function are joined (debug.upvaluejoin) to the very variables the earlier lines created. A closure made three
-- lines ago and the line of now therefore share one variable; declaring a name again makes a new variable and
-- leaves the old one to the closures that hold it; <const> stays constant.
--
-- After each `local` statement at the top level of a line a call `keep(function() return a end)` is put in; the
-- closure holds the new variables. That happens right after the statement, so an error later in the line does not
-- lose them. A <close> variable is not kept: it is closed when its line ends.

local session = {}

local Session = {}
Session.__index = Session

-- Words that open a block (closed by `end` or `until`), or begin a statement wherever they stand.
local OPENERS = {["function"] = 1, ["do"] = 1, ["if"] = 1, ["repeat"] = 1, ["("] = 1, ["{"] = 1, ["["] = 1}
local CLOSERS = {["end"] = 1, ["until"] = 1, [")"] = 1, ["}"] = 1, ["]"] = 1}
local STARTERS = {}
for word in ("local if for while repeat return break goto do :: ;"):gmatch("%S+") do STARTERS[word] = true end
local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true
  until while]]):gmatch("%a+") do
  KEYWORDS[word] = true
end
-- Keywords that end an operand: a name after them begins a new statement.
local OPERANDS = {["end"] = true, ["nil"] = true, ["true"] = true, ["false"] = true, [")"] = true, ["]"] = true,
  ["}"] = true, ["..."] = true}

local NUMBERS = {"^0[xX][%x.]+[pP][+-]?%d+", "^0[xX][%x.]+", "^[%d.]+[eE][+-]?%d+", "^[%d.]+"}

-- End of a quoted string that begins at `at`.
local function string_end(text, at)
  local quote = text:sub(at, at)
  local i = at + 1
  while i <= #text do
    local c = text:sub(i, i)
    if c == quote then return i end
    i = i + (c == "\\" and 2 or 1)
  end
  return #text
end

-- The token at `at`: its kind ("name", "value", "symbol", "space") and its last position.
local function token(text, at)
  local _, last = text:find("^%s+", at)
  if last then return "space", last end
  local level = text:match("^%-%-%[(=*)%[", at)
  if level then
    _, last = text:find("]" .. level .. "]", at, true)
    return "space", last or #text
  end
  _, last = text:find("^%-%-[^\n]*", at)
  if last then return "space", last end
  _, last = text:find("^[%a_][%w_]*", at)
  if last then return "name", last end
  level = text:match("^%[(=*)%[", at)
  if level then
    _, last = text:find("]" .. level .. "]", at, true)
    return "value", last or #text
  end
  if text:find("^[\"']", at) then return "value", string_end(text, at) end
  if text:find("^%.%.%.", at) then return "symbol", at + 2 end
  if text:find("^%.%.", at) then return "symbol", at + 1 end
  if text:find("^%.?%d", at) then
    for i = 1, #NUMBERS do
      _, last = text:find(NUMBERS[i], at)
      if last then return "value", last end
    end
  end
  if text:find("^::", at) then return "symbol", at + 1 end
  return "symbol", at
end

-- The tokens of a chunk that compiles, without spaces and comments.
local function tokens_of(text)
  local tokens = {}
  local at = 1
  while at <= #text do
    local kind, last = token(text, at)
    if kind ~= "space" then
      local word = text:sub(at, last)
      if kind == "name" and KEYWORDS[word] then kind = "keyword" end
      tokens[#tokens + 1] = {kind = kind, text = word, at = at}
    end
    at = last + 1
  end
  return tokens
end

-- Reads the names after `local` at index i of `tokens`: a list of {name=, attribute=}.
local function declared(tokens, i)
  local names = {}
  if tokens[i].text == "function" then return {{name = tokens[i + 1].text}} end
  while tokens[i] and tokens[i].kind == "name" do
    local entry = {name = tokens[i].text}
    names[#names + 1] = entry
    i = i + 1
    if tokens[i] and tokens[i].text == "<" then
      entry.attribute = tokens[i + 1].text
      i = i + 3
    end
    if not (tokens[i] and tokens[i].text == ",") then break end
    i = i + 1
  end
  return names
end

-- Finds out which names a chunk mentions, which locals it declares at its top level, and where each such
-- statement is over: a list of {at=, names=}.
local function examine(text)
  local tokens = tokens_of(text)
  local mentioned, declarations = {_ENV = true}, {}
  local depth = 0
  local open -- the declaration whose statement is not over yet
  for i, word in ipairs(tokens) do
    local before = tokens[i - 1]
    local operand_before = before and (before.kind == "name" or before.kind == "value" or OPERANDS[before.text])
    local starts = STARTERS[word.text] or (operand_before and (word.kind == "name" or word.text == "function"))
    if open and depth == 0 and starts then
      open.at = word.at
      open = nil
    end
    if word.kind == "name" then
      mentioned[word.text] = true
    elseif depth == 0 and word.text == "local" then
      local names = declared(tokens, i + 1)
      open = {at = #text + 1, names = names}
      declarations[#declarations + 1] = open
    end
    if word.kind ~= "value" then
      depth = depth + (OPENERS[word.text] or 0) - (CLOSERS[word.text] or 0)
    end
  end
  return mentioned, declarations
end

-- A variable of its own that holds `value`.
local function new_cell(value)
  local variable = value
  return function() return variable end
end

-- Remembers the variables of a declaration; `holder` is a closure that returns them all.
local function keep(self, names, holder)
  local index_of = {}
  local i = 1
  while true do
    local name = debug.getupvalue(holder, i)
    if not name then break end
    index_of[name] = i
    i = i + 1
  end
  local values = table.pack(holder())
  for at, entry in ipairs(names) do
    local index = index_of[entry.name]
    -- A constant known when compiling is no variable at all.
    if index then
      self.variables[entry.name] = {holder = holder, index = index, attribute = entry.attribute}
    else
      self.variables[entry.name] = {holder = new_cell(values[at]), index = 1, attribute = entry.attribute}
    end
  end
end

local function kept_names(declaration)
  local kept = {}
  for _, entry in ipairs(declaration.names) do
    if entry.attribute ~= "close" then kept[#kept + 1] = entry end
  end
  return kept
end

-- The chunk with a call of `keep_name` after each declaration.
local function with_calls(text, declarations, keep_name)
  local out, from = {}, 1
  for number, declaration in ipairs(declarations) do
    local names = {}
    for _, entry in ipairs(kept_names(declaration)) do names[#names + 1] = entry.name end
    if #names > 0 then
      out[#out + 1] = text:sub(from, declaration.at - 1)
      -- At the end a line break: the last thing may be a comment.
      out[#out + 1] = ("%s;%s(%d, function() return %s end);"):format(declaration.at > #text and "\n" or "",
        keep_name, number, table.concat(names, ","))
      from = declaration.at
    end
  end
  out[#out + 1] = text:sub(from)
  return table.concat(out)
end

-- A name that the chunk does not use.
local function free_name(mentioned)
  local name = "_keep"
  while mentioned[name] do name = name .. "_" end
  return name
end

--- Compiles a chunk that is known to be well formed, with the locals of earlier chunks in scope.
---@param text string
---@param name string chunk name
---@return function|nil chunk
---@return string|nil message what is wrong, as `load` says it
---@return boolean wrapped true when the function is not a main chunk in Lua's eyes
function Session:compile(text, name)
  local mentioned, declarations = examine(text)
  local variables = self.variables
  local used = {}
  for known in pairs(variables) do
    if mentioned[known] then used[#used + 1] = known end
  end
  if #used == 0 and #declarations == 0 then
    local chunk, message = load(text, name)
    return chunk, message, false
  end
  table.sort(used)
  local keep_name = free_name(mentioned)
  local header = {}
  for i, known in ipairs(used) do
    header[i] = known .. (variables[known].attribute == "const" and " <const>" or "")
  end
  header[#header + 1] = keep_name
  local source = ("local %s = ... return function(...) %s\nend"):format(table.concat(header, ","),
    with_calls(text, declarations, keep_name))
  local maker, message = load(source, name)
  if not maker then return nil, message, false end
  local arguments = {}
  arguments[#used + 1] = function(number, holder) keep(self, kept_names(declarations[number]), holder) end
  local chunk = maker(table.unpack(arguments, 1, #used + 1))
  local i = 1
  while true do
    local upvalue = debug.getupvalue(chunk, i)
    if not upvalue then break end
    local variable = upvalue ~= keep_name and variables[upvalue]
    if variable then debug.upvaluejoin(chunk, i, variable.holder, variable.index) end
    i = i + 1
  end
  return chunk, nil, true
end

--- The value of a local of the session.
---@param name string
---@return boolean known
---@return any value
function Session:get(name)
  local variable = self.variables[name]
  if not variable then return false end
  local _, value = debug.getupvalue(variable.holder, variable.index)
  return true, value
end

--- The names of the session's locals, sorted.
---@return string[]
function Session:names()
  local names = {}
  for name in pairs(self.variables) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- A session without locals.
function session.new()
  return setmetatable({variables = {}}, Session)
end

return session
