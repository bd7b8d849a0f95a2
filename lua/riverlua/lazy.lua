--- Modules whose parts are loaded when they are asked for: a script pays for what it uses.

local errors = require "riverlua.errors"

local lazy = {}

--- Gives a module its parts. A slip in a name is told; the prompt completes all names.
---@param name string the module's: "training"
---@param module table what is there at once
---@param modules table<string, string> name → module that it is
---@param functions table<string, string[]> name → module and name of a function in it
---@return table module
function lazy.module(name, module, modules, functions)
  local names = {}
  for _, known in ipairs{module, modules, functions} do
    for part in pairs(known) do names[#names + 1] = part end
  end

  local function lookup(self, part)
    local value
    if modules[part] then
      value = require(modules[part])
    elseif functions[part] then
      value = require(functions[part][1])[functions[part][2]]
    else
      local near = type(part) == "string" and errors.suggest(part, names)
      if near then
        errors.raise{kind = "argument", message = ("the module '%s' has no '%s'"):format(name, part),
          hint = ("did you mean %s.%s?"):format(name, near)}
      end
      return nil
    end
    rawset(self, part, value)
    return value
  end

  return setmetatable(module, {__index = lookup, __names = function() return table.move(names, 1, #names, 1, {}) end})
end

return lazy
