--- The River server in this process, behind the address `embedded:`.
--
-- It answers the requests of the River API as a django-river-ml server does (same statuses, same bodies) and gives the
-- numbers of the Python library. It never yields, so concurrent tasks cannot lose each other's learns.

local errors = require "riverlua.errors"
local registry = require "river.embedded.registry"

local embedded = {}

-- The version of the Python library whose numbers are reproduced.
local RIVER_VERSION = "0.26.1"
local VERSION = "1.0.0"

local OPTIONS = {path = true, prefix = true, generate_identifiers = true, timeout = true}

--- Makes a service.
---
--- Options: `path` (a folder in which the models are kept; without it they live as long as the service), `prefix`
--- (the first part of all paths, such as "api"; when it is left out any one is taken) and `generate_identifiers`
--- (default true: a prediction asked for without identifier gets one and can be labelled later, the last 10,000 of
--- them are remembered). `timeout` is accepted and has no meaning here.
---@param options table|nil
---@return river.embedded.Service service with `request(req)`, `close()` and the field `embedded`
function embedded.new(options)
  options = options or {}
  errors.expect("river.embedded.new", "options", options, "table")
  errors.check_options("river.embedded.new", options, OPTIONS)
  if options.path ~= nil then errors.expect("river.embedded.new", "path", options.path, "string") end
  if options.prefix ~= nil then errors.expect("river.embedded.new", "prefix", options.prefix, "string") end
  return require("river.embedded.service").new{
    path = options.path ~= "" and options.path or nil,
    prefix = options.prefix, generate_identifiers = options.generate_identifiers,
    river_version = RIVER_VERSION, version = VERSION,
  }
end

--- The classes that models can be made of, as full names of the Python library.
---@return string[]
function embedded.classes()
  local names = {}
  for _, name in ipairs(registry.names()) do
    if name:find("^river%.") then names[#names + 1] = name end
  end
  return names
end

return embedded
