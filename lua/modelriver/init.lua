--- ModelRiver, the AI gateway: workflows from a script.
--
--     local modelriver = require "modelriver"
--     local client <close> = modelriver.Client{}          -- the key: MODELRIVER_API_KEY
--     print(client:ai("marketing-summary", "Summarise this week's launch."):text())
--
-- `modelriver.Client{base_url = "embedded:"}` is a gateway inside this process whose workflows are Lua functions: see
-- modelriver.embedded.

local errors = require "riverlua.errors"

local modelriver = {}

--- Makes a client, see `modelriver.client`.
---@param options table|nil
---@return modelriver.Client
function modelriver.Client(options)
  if options == modelriver then
    errors.raise{kind = "argument", message = "modelriver.Client: call it with a dot: modelriver.Client{…}"}
  end
  return require("modelriver.client").new(options)
end

-- Name → module that it is, or module and name of a function in it; loaded when asked for.
local MODULES = {embedded = "modelriver.embedded", webhook = "modelriver.webhook"}
local FUNCTIONS = {session = {"modelriver.session", "new"}, wait_all = {"modelriver.wait_all", "wait_all"}}
for _, name in ipairs{"user", "system", "assistant", "tool", "image", "text"} do
  FUNCTIONS[name] = {"modelriver.messages", name}
end

-- Also for completion at the prompt.
local function names()
  local all = {"Client"}
  for _, known in ipairs{MODULES, FUNCTIONS} do
    for name in pairs(known) do all[#all + 1] = name end
  end
  return all
end

local function lookup(self, name)
  local value
  if MODULES[name] then
    value = require(MODULES[name])
  elseif FUNCTIONS[name] then
    value = require(FUNCTIONS[name][1])[FUNCTIONS[name][2]]
  else
    local near = type(name) == "string" and errors.suggest(name, names())
    if near then
      errors.raise{kind = "argument", message = ("the module 'modelriver' has no '%s'"):format(name),
        hint = ("did you mean modelriver.%s?"):format(near)}
    end
    return nil
  end
  rawset(self, name, value)
  return value
end

return setmetatable(modelriver, {__index = lookup, __names = names})
