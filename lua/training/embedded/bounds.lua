--- What requests may consist of, looked at before they are decoded: two bytes of one can become a table in Lua.

local refusal = require "training.embedded.refusal"

local bounds = {}

local LARGEST = 128 << 20
-- Those that carry data; what a message may have is enough of a bound.
local CARRIERS = {ForwardBackward = true, Forward = true, UploadChunk = true, CreateTrainingDataAttestation = true}

local PROMPTS, DATUMS, ARTIFACTS = 65536, 1 << 20, 1000

-- Method → lists of {most, what they are, numbers of the fields that lead there}.
local COUNTED = {
  SampleFromTraining = {{PROMPTS, "prompts", {2}}},
  InferenceGenerate = {{PROMPTS, "prompts", {2}}},
  SampleFromCheckpoint = {{PROMPTS, "prompts", {3}}},
  SubmitSamplingBatch = {{PROMPTS, "prompts", {2, 2}}, {PROMPTS, "prompts", {3, 2}}, {PROMPTS, "prompts", {4, 3}}},
  RetrieveSamplingResults = {{PROMPTS, "handles", {1}}},
  Forward = {{DATUMS, "datums", {3, 1}}},
  ForwardBackward = {{DATUMS, "datums", {3, 1}}},
  CreateTrainingDataAttestation = {{ARTIFACTS, "artifacts", {2}}},
}

-- A number at a place, and the place behind it; nil when it is cut short.
local function varint(bytes, at)
  local value, shift = 0, 0
  repeat
    local byte = bytes:byte(at)
    if not byte or shift > 63 then return nil, at end
    value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
  until byte < 128
  return value, at
end

-- Counts fields, at most one more than `most`. What is malformed is for the decoder to complain about.
local function count(bytes, at, stop, path, depth, most)
  local found = 0
  while at <= stop and found <= most do
    local tag, length
    tag, at = varint(bytes, at)
    local wire = tag and tag & 7
    if wire == 1 or wire == 5 then
      length = wire == 1 and 8 or 4
    elseif wire == 0 or wire == 2 then
      length, at = varint(bytes, at)
      if length and wire == 0 then length = 0 end
    end
    if not length or length < 0 or length > stop - at + 1 then break end
    if wire == 2 and tag >> 3 == path[depth] then
      found = found + (path[depth + 1] and count(bytes, at, at + length - 1, path, depth + 1, most - found) or 1)
    end
    at = at + length
  end
  return found
end

--- Refuses a request that is too large, or has too many pieces.
---@param method string
---@param bytes string
function bounds.check(method, bytes)
  if #bytes > LARGEST and not CARRIERS[method] then
    refusal.wrong("a request of %d bytes, at most %d are taken", #bytes, LARGEST)
  end
  for _, list in ipairs(COUNTED[method] or {}) do
    local most, what, path = table.unpack(list)
    -- a piece takes two bytes at least
    if #bytes > 2 * most and count(bytes, 1, #bytes, path, 1, most) > most then
      refusal.wrong("more than %d %s", most, what)
    end
  end
end

return bounds
