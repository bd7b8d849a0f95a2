--- What the embedded training service says no with: gRPC statuses, in the words of the service, and what an
-- operation that failed while it was worked on tells.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local grpc = require "riverlua.grpc"

local refusal = {}

local RETRYABLE = {UNAVAILABLE = true, ABORTED = true, RESOURCE_EXHAUSTED = true}
-- Of a large request so much is looked at, in pieces over all of it.
local LOOKED_AT, PIECE = 65536, 1024

--- A refusal, not raised.
---@param code string "INVALID_ARGUMENT"
---@param text string
---@return riverlua.Error of kind "grpc"
function refusal.new(code, text)
  return errors.new{kind = "grpc", status = grpc.status[code], code = code, details = text, from_server = true,
    sent = true, attempts = 1, trailers = {}, retryable = RETRYABLE[code] or false, message = code .. ": " .. text}
end

--- Refuses a call.
---@param code string
---@param text string
---@param ... any for `text`, as string.format takes them
function refusal.raise(code, text, ...)
  if select("#", ...) > 0 then text = text:format(...) end
  error(refusal.new(code, text), 0)
end

--- Refuses what breaks a rule: INVALID_ARGUMENT.
function refusal.wrong(text, ...) refusal.raise("INVALID_ARGUMENT", text, ...) end

--- A number as refusals show it.
---@param value number
---@return string
function refusal.number(value) return value ~= value and "nan" or ("%.14g"):format(value) end

--- The error as the caller of a method gets it.
---@param err riverlua.Error of kind "grpc"
---@param method string
---@return riverlua.Error
function refusal.of_method(err, method)
  local own = {}
  for name, value in pairs(err) do own[name] = value end
  own.method = method
  own.message = ("%s: %s%s"):format(method, err.code, err.details ~= "" and ": " .. err.details or "")
  return errors.new(own)
end

--- The error as a refusal when files of something are damaged, or cannot be read: DATA_LOSS. Where they lie is told by
--- its hint, which stays in this process; an operation fails with the category data_loss.
---@param what string whose files: "checkpoint river://run-1/weights/final"
---@param err any
---@return any
function refusal.of_files(what, err)
  if not errors.is(err, "storage") or not err.place then return err end
  local text = ("the %s cannot be used: %s"):format(what, err.problem)
  local made = refusal.new("DATA_LOSS", err.hint and ("%s (%s)"):format(text, err.hint) or text)
  made.hint = ("its files are in '%s'"):format(err.place)
  made.cause = err
  return made
end

-- Kinds of errors while working → the category that the answer has.
local CATEGORIES = {storage = "storage", memory = "out_of_memory", limit = "limit", cancelled = "cancelled",
  interrupted = "cancelled", closed = "cancelled"}

--- What came of an operation that raised: a refusal to be raised at each retrieval, or a RequestFailedResponse.
---@param err any
---@return riverlua.Error|nil refused
---@return table|nil failed
function refusal.outcome(err)
  if not errors.is(err) then return nil, {error_category = "internal", message = tostring(err)} end
  if err.code == "DATA_LOSS" then   -- clients would ask for the result of an operation again and again
    return nil, {error_category = "data_loss", message = err.details}
  elseif err.kind == "grpc" then
    return err
  end
  if err.kind == "refused" then return refusal.new("INVALID_ARGUMENT", err.message) end
  local text = tostring(err.message)
  if err.hint then text = ("%s (%s)"):format(text, err.hint) end
  return nil, {error_category = CATEGORIES[err.kind] or "internal", message = text}
end

--- Tells a repeat of a request from another request: two of one length that differ in few places of many may count
-- as the same.
---@param method string
---@param bytes string
---@return string
function refusal.fingerprint(method, bytes)
  local looked = bytes
  if #bytes > LOOKED_AT then
    local pieces, step = {}, (#bytes - PIECE) / (LOOKED_AT / PIECE - 1)
    for i = 0, LOOKED_AT // PIECE - 1 do
      local at = math.floor(i * step) + 1
      pieces[#pieces + 1] = bytes:sub(at, at + PIECE - 1)
    end
    looked = table.concat(pieces)
  end
  return digest.sha256(("%s %d "):format(method, #bytes) .. looked)
end

return refusal
