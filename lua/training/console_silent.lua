--- Metrics for the console where there is none: judged as they would be there, and not sent.

local checks = require "training.console_metrics"

local console_silent = {}

---@class training.SilentConsole
local Silent = {}
Silent.__index = Silent
Silent.__name = "training.SilentConsole"

--- In place of training.console, for a run of the trainer in this process.
---@return training.SilentConsole
function console_silent.open() return setmetatable({definitions = checks.definitions()}, Silent) end

--- Raises kind "argument" for what is no observation.
---@param values table<string, number>
function Silent:log(values) checks.encode_values("console:log", values) end   -- luacheck: ignore self

--- Raises kind "argument" for what is no definition.
---@param name string
---@param options table|nil
function Silent:define_metric(name, options) self.definitions:define("console:define_metric", name, options) end

function Silent:close() end   -- luacheck: ignore self

Silent.__close = Silent.close

return console_silent
