--- How a provider failed: what a workflow's function raised, in the three words that the service passes on.

local errors = require "riverlua.errors"

local failure = {}

---@class modelriver.embedded.Failure
---@field status integer the provider's HTTP status
---@field message string
---@field reason string a word for `attempts`: "timeout", "connection", "rate_limit", "authentication", "schema", …

local Failure = {__name = "modelriver.embedded.Failure"}
Failure.__tostring = function(self) return self.message end

-- What is not UTF-8 has no place in an answer.
local function writable(text) return utf8.len(text) and text or (text:gsub("[\x80-\xff]", "?")) end

--- Makes one.
---@param status integer
---@param reason string
---@param message string
---@return modelriver.embedded.Failure
function failure.new(status, reason, message)
  return setmetatable({status = status, reason = writable(reason), message = writable(message)}, Failure)
end

local REASON_OF_KIND = {timeout = "timeout", connect = "connection", dns = "connection", tls = "connection",
  protocol = "protocol", limit = "limit"}
local STATUS_OF_REASON = {timeout = 504, connection = 502, protocol = 502, limit = 502}

local function reason_of_status(status)
  if status == 429 then return "rate_limit" end
  if status == 401 or status == 403 then return "authentication" end
  if status == 408 or status == 504 then return "timeout" end
  return status >= 500 and "upstream_error" or "invalid_request"
end

--- The failure that an answer with this status is.
---@param status integer
---@param message string
---@return modelriver.embedded.Failure
function failure.of_status(status, message)
  return failure.new(status, reason_of_status(status), message)
end

-- The place stays, for it helps to find the mistake, but without the folders: they are nobody else's business.
local function without_folders(message)
  return (message:gsub("^[^\n]-([^/\n]+:%d+: )", "%1"))
end

local function status_of(value)
  return math.type(value) == "integer" and value >= 100 and value <= 999 and value or nil
end

local function of_table(problem)
  local reason = type(problem.reason) == "string" and problem.reason or REASON_OF_KIND[problem.kind]
  local status = status_of(problem.status)
  if status and not reason then reason = reason_of_status(status) end
  reason = reason or "error"
  local message = type(problem.message) == "string" and problem.message or "the provider failed"
  return failure.new(status or STATUS_OF_REASON[reason] or 500, reason, message)
end

--- What somebody raised, as a failure.
---@param problem any
---@return modelriver.embedded.Failure
function failure.of(problem)
  if getmetatable(problem) == Failure then return problem end
  if type(problem) == "table" then return of_table(problem) end
  if problem == nil then return of_table{} end
  return failure.new(500, "error", without_folders(tostring(problem)))
end

--- Whether the one who asked gave up, so that it is no failure of a provider.
---@param problem any
---@return boolean
function failure.is_end(problem)
  return errors.is(problem, "cancelled") or errors.is(problem, "interrupted")
end

return failure
