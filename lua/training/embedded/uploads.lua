--- Large requests that come in pieces. (CreateUpload, UploadChunk)

local bounds = require "training.embedded.bounds"
local clock = require "riverlua.clock"
local protobuf = require "riverlua.protobuf"
local models = require "training.embedded.models"
local refusal = require "training.embedded.refusal"

local uploads = {}

local MOST_BYTES, MOST_CHUNKS = 1 << 30, 16
-- All that have not been used.
local MOST_UPLOADS, MOST_HELD = 256, 4 << 30
local PARALLELISM = 6
-- A client that has given up sends its request as a whole, and says nothing about the upload.
local IDLE_SECONDS = 600

local REQUEST = protobuf.training:message("river.api.v1.ForwardBackwardRequest")

local function forget(service, upload)
  if service.uploads[upload.id] ~= upload then return end
  service.uploads[upload.id] = nil
  service.upload_count = service.upload_count - 1
  service.upload_bytes = service.upload_bytes - upload.bytes
end

local function forget_those(service, choose)
  local gone = {}
  for _, upload in pairs(service.uploads) do
    if choose(upload) then gone[#gone + 1] = upload end
  end
  for _, upload in ipairs(gone) do forget(service, upload) end
end

--- Forgets the uploads of a model.
function uploads.forget_model(service, model)
  forget_those(service, function(upload) return upload.model == model end)
end

--- Forgets the uploads that nothing has come of for ten minutes.
---@param now number on riverlua.clock
function uploads.reap(service, now)
  forget_those(service, function(upload) return now - upload.last > IDLE_SECONDS end)
end

local methods = {}
uploads.methods = methods

function methods.CreateUpload(service, request)
  local model = models.find(service, request.model_id)
  local size, count = request.total_size, request.chunk_count
  if count < 1 or count > MOST_CHUNKS then refusal.wrong("%d chunks, 1 to %d are taken", count, MOST_CHUNKS) end
  if math.type(size) ~= "integer" or size < count or size > MOST_BYTES then
    refusal.wrong("an upload of %s bytes, %d to %d are taken", size, count, MOST_BYTES)
  end
  if service.upload_count >= MOST_UPLOADS then
    refusal.raise("RESOURCE_EXHAUSTED", "%d uploads have been begun and not used", service.upload_count)
  end
  service.upload_number = (service.upload_number or 0) + 1
  local upload = {id = ("up-%06d"):format(service.upload_number), model = model, size = size, count = count,
    chunks = {}, bytes = 0, last = clock.now()}
  service.uploads[upload.id] = upload
  service.upload_count = service.upload_count + 1
  return {upload_id = upload.id, max_parallelism = PARALLELISM}
end

function methods.UploadChunk(service, request)
  local upload, index, data = service.uploads[request.upload_id], request.chunk_index, request.data
  if not upload then refusal.raise("NOT_FOUND", "no upload %s", request.upload_id) end
  if index >= upload.count then refusal.wrong("chunk %d of %d", index, upload.count) end
  if data == "" then refusal.wrong("chunk %d is empty", index) end
  upload.last = clock.now()
  local known = upload.chunks[index]
  if known then
    if known ~= data then refusal.wrong("chunk %d with another content", index) end
    return {}
  end
  if upload.bytes + #data > upload.size then
    refusal.wrong("upload %s has more than the %d bytes that were announced", upload.id, upload.size)
  end
  if service.upload_bytes + #data > MOST_HELD then
    refusal.raise("RESOURCE_EXHAUSTED", "%d bytes of uploads are waiting to be used", service.upload_bytes)
  end
  upload.chunks[index] = data
  upload.bytes, service.upload_bytes = upload.bytes + #data, service.upload_bytes + #data
  return {}
end

-- The chunks in one; they are let go of.
local function assemble(service, upload)
  local list, missing = {}, {}
  for i = 0, upload.count - 1 do
    list[i + 1] = upload.chunks[i]
    if not upload.chunks[i] then missing[#missing + 1] = tostring(i) end
  end
  if #missing > 0 then refusal.wrong("upload %s lacks the chunks %s", upload.id, table.concat(missing, ", ")) end
  if upload.bytes ~= upload.size then
    refusal.wrong("upload %s has %d bytes, %d were announced", upload.id, upload.bytes, upload.size)
  end
  forget(service, upload)
  return table.concat(list)
end

--- The whole request that one stands for which names an upload.
---@param thin table ForwardBackwardRequest
---@return table ForwardBackwardRequest
---@return integer size bytes
function uploads.resolve(service, thin)
  local id = thin.upload_id
  local upload = service.uploads[id]
  if not upload or upload.model.id ~= thin.model_id then
    refusal.raise("NOT_FOUND", "no upload %s of %s", id, thin.model_id)
  end
  if thin.forward_backward_input then refusal.wrong("both an upload and an input") end
  local bytes = assemble(service, upload)
  bounds.check("ForwardBackward", bytes)
  local ok, request = pcall(REQUEST.decode, REQUEST, bytes)
  if not ok then refusal.wrong("upload %s is no request: %s", id, request.message or tostring(request)) end
  if request.upload_id ~= "" then refusal.wrong("upload %s names an upload", id) end
  for _, field in ipairs{"model_id", "seq_id", "expected_policy_id"} do
    if request[field] ~= thin[field] then
      refusal.wrong("%s is %s in the request, %s in the upload %s", field, thin[field], request[field], id)
    end
  end
  return request, #bytes
end

return uploads
