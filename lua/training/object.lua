--- What client, session and model have in common: a slip in the name of a method is told, and the prompt completes
--- names without those that are for the parts of the client.

local errors = require "riverlua.errors"

local object = {}

local function words(text)
  local set = {}
  for name in text:gmatch("%S+") do set[name] = true end
  return set
end

--- Gives a class its `__index` and `__names`. To be called when all methods are there.
---@param class table
---@param options {called: string, made: string, fields: string, internal: string, more: table<string, any>|nil,
--- find: (fun(name: string): any)|nil} `called`: "training.Model"; `made`: a field that every object has as soon as it
--- is one; `fields` and `internal` (methods): names in one text; `more`: names that `find` has values for
function object.define(class, options)
  local internal, public = words(options.internal), words(options.fields)
  for _, known in ipairs{class, options.more or {}} do
    for name in pairs(known) do
      if not internal[name] and not name:find("^_") then public[name] = true end
    end
  end

  function class.__index(self, name)
    local value = class[name]
    if value == nil and options.more and options.more[name] then value = options.find(name) end
    if value ~= nil then return value end
    if type(name) == "string" and not name:find("^_") and not public[name] and rawget(self, options.made) then
      local near = errors.suggest(name, public)
      if near then
        errors.raise{kind = "argument", message = ("a %s has no '%s'"):format(options.called, name),
          hint = ("did you mean '%s'?"):format(near)}
      end
    end
    return nil
  end

  --- For completion at the prompt.
  function class.__names()
    local all = {}
    for name in pairs(public) do all[#all + 1] = name end
    return all
  end
end

return object
