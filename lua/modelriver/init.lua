--- ModelRiver, the AI gateway: workflows from a script.
--
--     local modelriver = require "modelriver"
--     local client <close> = modelriver.Client{}          -- the key: MODELRIVER_API_KEY
--     print(client:ai("marketing-summary", "Summarise this week's launch."):text())
--
-- `modelriver.Client{base_url = "embedded:"}` is a gateway inside this process whose workflows are Lua functions: see
-- modelriver.embedded.

local errors = require "riverlua.errors"
local lazy = require "riverlua.lazy"

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

return lazy.module("modelriver", modelriver, MODULES, FUNCTIONS)
