--- Where a job listens: the address of the WebSocket and the name of the channel, in all the forms that the service
-- gives them.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local url = require "riverlua.url"

local job_place = {}

local LOOPBACK = {["localhost"] = true, ["[::1]"] = true}

local function is_loopback(host) return LOOPBACK[host] or host:find("^127%.") ~= nil end

-- The token rides in the address: it must not travel in the clear when the API itself is encrypted.
local function secured(client, address)
  local parts = url.parse(address)
  if address:find("^ws://") and client.gateway.base_url:find("^https:") and parts and not is_loopback(parts.host)
    and not client.allow_insecure_ws then
    -- port 80 is that of ws, where nobody speaks TLS
    return "wss" .. address:sub(3):gsub("^(://[^/]*):80(/)", "%1%2")
  end
  return address
end

--- The address to connect to, from what the service says ("wss://host/socket", with or without endings).
---@param client modelriver.Client
---@param given string|nil websocket_url; default: the API's own host
---@param token string ws_token
---@return string
function job_place.socket_address(client, given, token)
  local base = given or client.gateway.base_url:gsub("^http", "ws")
  if base:find("^http") then base = base:gsub("^http", "ws") end
  if not base:find("^wss?://") and not base:find("^embedded:") then
    errors.raise{kind = "protocol", message = "ai_async: the service named no WebSocket address"}
  end
  base = base:gsub("[?#].*$", ""):gsub("/+$", ""):gsub("/websocket$", ""):gsub("/+$", "")
  if not base:find("/socket$") then base = base .. "/socket" end
  return secured(client, base) .. "/websocket?token=" .. url.escape(token) .. "&vsn=2.0.0"
end

-- Tokens may be JWTs that name the project; nobody promises that.
local function project_in_token(token)
  local body = token:match("^[%w_-]+%.([%w_-]+)%.[%w_-]*$")
  if not body then return nil end
  body = body:gsub("-", "+"):gsub("_", "/")
  local decoded = digest.from_base64(body .. ("="):rep(-#body % 4))
  local ok, claims = pcall(failure.decode, decoded or "")
  return ok and type(claims) == "table" and type(claims.project_id) == "string" and claims.project_id or nil
end

--- The channel's names, the likeliest first. One with a project in it is taken as it is; else the full name is made,
--- where the project is known, and the name that the service gave comes after it.
---@param job modelriver.Job
---@return string[]
function job_place.topics(job)
  local given = job.websocket_channel
  if given and given:find("^[^:]+:[^:]+:[^:]+$") then return {given} end
  local short = given or "ai_response:" .. job.id
  local project = job.project_id or job.client.project_id or (job.ws_token and project_in_token(job.ws_token))
  if not project then return {short} end
  return {("ai_response:%s:%s"):format(project, job.id), short}
end

return job_place
