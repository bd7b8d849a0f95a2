--- Large requests: in chunks over several connections, as one connection is limited by its window per round trip.
-- (CreateUpload, UploadChunk)

local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local failure = require "training.failure"
local task = require "riverlua.task"

local upload = {}

local MIB = 1024 * 1024
local DEFAULT_THRESHOLD, DEFAULT_CHUNK, DEFAULT_PARALLELISM = 64 * MIB, 32 * MIB, 6
local MOST_CHUNKS = 16
local LARGEST = 1024 * MIB
local CHUNK_TIMEOUT = 120
local TRIES, FIRST_PAUSE = 3, 2

upload.LARGEST = LARGEST

local function from_environment(name, default)
  local text = os.getenv(name)
  if not text or text == "" then return default end
  local value = math.tointeger(tonumber(text))
  if not value or value < 1 then
    errors.raise{kind = "argument", message = ("the environment variable %s must be a positive integer"):format(name)}
  end
  return value
end

--- Settings: those of the client's option `upload`, or of the variables that the official client reads.
---@param given {threshold: integer|nil, chunk: integer|nil, parallelism: integer|nil, required: boolean|nil}|nil
function upload.settings(given)
  given = errors.expect("training.Client", "upload", given or {}, "table")
  errors.check_options("training.Client: upload", given,
    {threshold = true, chunk = true, parallelism = true, required = true})
  local settings = {
    threshold = given.threshold or from_environment("RIVER_UPLOAD_THRESHOLD_BYTES", DEFAULT_THRESHOLD),
    chunk = given.chunk or from_environment("RIVER_UPLOAD_CHUNK_BYTES", DEFAULT_CHUNK),
    parallelism = given.parallelism or from_environment("RIVER_UPLOAD_PARALLELISM", DEFAULT_PARALLELISM),
    required = errors.expect("training.Client", "upload.required", given.required, "boolean|nil"),
  }
  if settings.required == nil then settings.required = os.getenv("RIVER_REQUIRE_CHUNKED_UPLOAD") == "1" end
  for _, name in ipairs{"threshold", "chunk", "parallelism"} do
    if math.type(settings[name]) ~= "integer" or settings[name] < 1 then
      errors.raise{kind = "argument", message = ("training.Client: upload.%s must be a positive integer"):format(name)}
    end
  end
  return settings
end

-- One chunk; raises after three tries. Any failure is tried again: the index says which chunk it is.
local function send_chunk(session, what, upload_id, index, data, purpose)
  for try = 1, TRIES do
    local reply, err = session.wire:try("UploadChunk", {upload_id = upload_id, chunk_index = index, data = data},
      {what = what, deadline = clock.now() + CHUNK_TIMEOUT, rpc_timeout = CHUNK_TIMEOUT, safe = true,
        purpose = purpose})
    if reply then return end
    if try == TRIES then
      error(failure.from_grpc({what = what, scrub = session.wire.scrub, checkpoint = session.last_checkpoint}, err), 0)
    end
    session.wire.transport:pause(FIRST_PAUSE * 2 ^ (try - 1))
  end
end

local function send_all(session, what, model_id, bytes)
  local settings = session.client.upload
  local chunk = math.max(settings.chunk, (#bytes + MOST_CHUNKS - 1) // MOST_CHUNKS)
  local count = (#bytes + chunk - 1) // chunk
  local made = session:rpc(what, "CreateUpload", {model_id = model_id, total_size = #bytes, chunk_count = count}, {})
  local allowed = made.max_parallelism > 0 and made.max_parallelism or settings.parallelism
  local connections = math.max(1, math.min(count, settings.parallelism, allowed))
  local indices = {}
  for i = 1, connections do indices[i] = i - 1 end
  task.map(indices, function(connection)
    for index = connection, count - 1, connections do
      send_chunk(session, what, made.upload_id, index, bytes:sub(index * chunk + 1, (index + 1) * chunk),
        "upload" .. connection)
    end
  end, {concurrency = connections})
  return made.upload_id
end

--- Uploads an encoded request if it is so large that this pays; returns the upload's id, or nil: send it in one piece.
---@param session table
---@param what string
---@param model_id string
---@param bytes string|userdata
---@return string|nil upload_id
function upload.maybe(session, what, model_id, bytes)
  local client = session.client
  if #bytes < client.upload.threshold or #bytes > LARGEST then return nil end
  if client.no_uploads then return nil end
  local ok, result = pcall(send_all, session, what, model_id, bytes)
  if ok then return result end
  local kind = errors.is(result) and result.kind
  if not kind or kind == "cancelled" or kind == "interrupted" or kind == "closed" or kind == "session_lost"
    or client.upload.required then
    if kind then result.sent = false end   -- the request itself was not
    error(result, 0)
  end
  if kind == "unsupported" then client.no_uploads = true end
  client:warn(("%s: the upload in chunks failed and the request goes in one piece: %s"):format(what, result.message))
  return nil
end

return upload
