--- Local checks of what a call sends: a River server answers 500 to some mistakes and is poisoned by others.

local errors = require "riverlua.errors"

local check = {
  -- The identifier of predictions that nobody will label.
  UNLABELLED = "riverlua",
}

local MAX_DEPTH = 64

local function fail(message, hint)
  errors.raise{kind = "argument", message = message, hint = hint}
end

local function is_null(value)
  return value == require("riverlua.json").null
end

local NOT_FINITE_HINT = "one such value spoils the model for good; drop the sample, or leave the feature out"

local function check_nested(where, path, value, depth)
  local kind = type(value)
  if kind == "number" then
    if value - value ~= 0 then
      fail(("%s: %s is %s"):format(where, path, value ~= value and "NaN" or value), NOT_FINITE_HINT)
    end
  elseif kind == "table" then
    if depth > MAX_DEPTH then fail(("%s: %s is nested too deep"):format(where, path)) end
    for key, item in next, value do
      check_nested(where, ("%s[%s]"):format(path, tostring(key)), item, depth + 1)
    end
  elseif kind ~= "string" and kind ~= "boolean" and not is_null(value) then
    fail(("%s: %s is %s"):format(where, path, errors.with_article(kind)), "values are numbers, strings and booleans")
  end
end

-- The rare cases, away from the loop over features.
local function check_other(where, name, value)
  if type(name) ~= "string" then
    fail(("%s: the features need names, got %s as a key"):format(where, tostring(name)),
      "features are a table such as {age = 3, city = \"Rome\"}")
  end
  check_nested(where, "feature '" .. name .. "'", value, 1)
end

--- Checks the features of a sample, in one pass.
---@param where string the call, for messages
---@param features any
function check.features(where, features)
  if type(features) ~= "table" then
    -- a text model takes the text itself
    if type(features) == "string" and features ~= "" then return end
    fail(("%s: the features must be a table, got %s"):format(where, features == nil and "nothing" or type(features)),
      "features are a table such as {age = 3, city = \"Rome\"}")
  end
  if next(features) == nil then
    fail(where .. ": there are no features", "a sample needs at least one")
  end
  for name, value in next, features do
    if type(name) ~= "string" then check_other(where, name, value) end
    local kind = type(value)
    if kind == "number" then
      if value - value ~= 0 then check_other(where, name, value) end
    elseif kind ~= "string" and kind ~= "boolean" then
      check_other(where, name, value)
    end
  end
end

--- Checks a label or prediction: anything of JSON but NaN and infinities.
---@param where string
---@param name string "label" or "prediction"
---@param value any
function check.label(where, name, value)
  local kind = type(value)
  if kind == "number" then
    if value - value == 0 then return end
  elseif kind == "string" or kind == "boolean" then
    return
  end
  check_nested(where, "the " .. name, value, 1)
end

--- The `__index` of a class whose misspelt methods say so instead of "attempt to call a nil value".
---@param class string its name, for the message
---@param methods table
---@param unset table<string, true> fields that an object may have or not
---@return fun(object: table, name: any): any
function check.methods(class, methods, unset)
  return function(_, name)
    local method = methods[name]
    if method ~= nil or unset[name] or type(name) ~= "string" or name:find("^_") then return method end
    local callable = {}
    for known in pairs(methods) do
      if not known:find("^_") then callable[#callable + 1] = known end
    end
    local near = errors.suggest(name, callable)
    fail(("%s has no '%s'"):format(errors.with_article(class), name), near and ("did you mean '%s'?"):format(near))
  end
end

--- Checks a model's name.
---@param where string
---@param name any
---@param in_path boolean|nil whether it becomes part of an address
---@return string name
function check.name(where, name, in_path)
  if type(name) ~= "string" or name == "" then
    fail(("%s: a model's name is a string, got %s"):format(where, name == "" and "an empty one" or
      name == nil and "nothing" or type(name)), "upload_model returns the name")
  end
  if in_path and (name:find("/", 1, true) or name == "." or name == ".." or not utf8.len(name)) then
    fail(("%s: '%s' cannot be used as a model's name"):format(where, name), "names are UTF-8 text without '/'")
  end
  return name
end

return check
