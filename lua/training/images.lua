--- Images in prompts and datums: raw PNG or JPEG bytes, or handles to uploaded ones.

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local failure = require "training.failure"

local images = {}

-- RFC 9562, appendix A: the name space of URLs.
local NAMESPACE_URL = "\x6b\xa7\xb8\x11\x9d\xad\x11\xd1\x80\xb4\x00\xc0\x4f\xd4\x30\xc8"

---@class training.ImageHandle An image that the service keeps for a session.
---@field id string
---@field sha256 string
---@field byte_count integer
---@field width integer
---@field height integer
---@field session_id string
---@field data string the bytes, to upload them again
local ImageHandle = {}
ImageHandle.__index = ImageHandle
ImageHandle.__name = "training.ImageHandle"

function ImageHandle:__tostring()
  return ("training.ImageHandle(%s, %d×%d, %d bytes)"):format(self.id, self.width, self.height, self.byte_count)
end

---@param value any
---@return boolean
function images.is_handle(value) return getmetatable(value) == ImageHandle end

--- Returns an image as it is when it is one; raises kind "argument" when not.
---@param what string
---@param where string
---@param value any
---@return string|training.ImageHandle
function images.check(what, where, value)
  if images.is_handle(value) then return value end
  if type(value) ~= "string" then
    errors.raise{kind = "argument",
      message = ("%s: %s must be the bytes of an image or a handle, got %s"):format(what, where, errors.got(value)),
      hint = "session:upload_image(bytes) gives a handle"}
  elseif value == "" then
    errors.raise{kind = "argument", message = ("%s: %s is empty"):format(what, where)}
  end
  return value
end

--- The key under which an image is uploaded again: the same for the same bytes in the same session (UUID version 5).
---@param session_id string
---@param sha256 string
---@return string
function images.restore_key(session_id, sha256)
  local hash = digest.sha1(NAMESPACE_URL .. "river-image:" .. session_id .. ":" .. sha256)
  local a, b, c, d, e, f = (">I4I2I2I2I4I2"):unpack(hash)
  return ("%08x-%04x-%04x-%04x-%08x%04x"):format(a, b, c & 0x0fff | 0x5000, d & 0x3fff | 0x8000, e, f)
end

--- Uploads an image. (UploadImage)
---@param session table
---@param what string
---@param data string
---@param options {idempotency_key: string|nil, timeout: number|nil}
---@return training.ImageHandle
function images.upload(session, what, data, options)
  images.check(what, "data", data)
  if images.is_handle(data) then
    errors.raise{kind = "argument", message = what .. ": the image is uploaded already"}
  end
  local key = errors.expect(what, "idempotency_key", options.idempotency_key, "string|nil") or digest.uuid()
  local deadline = clock.now() + session:timeout_of(what, options.timeout)
  session.used_images = true   -- also when nobody knows whether it arrived
  local limit = session.image_slots
  local reply = limit:with(function()
    return session:rpc(what, "UploadImage", {idempotency_key = key, data = data, session_id = session.session_id},
      {deadline = deadline, safe = true, rounds = true, rpc_timeout = session.timeout})
  end)
  local sha256 = digest.hex(digest.sha256(data))
  if reply.sha256 ~= sha256 or reply.byte_count ~= #data or reply.session_id ~= session.session_id then
    error(failure.protocol({what = what}, "the service got other bytes than were sent"), 0)
  end
  return setmetatable({id = reply.id, sha256 = sha256, byte_count = #data, width = reply.width, height = reply.height,
    session_id = reply.session_id, data = data}, ImageHandle)
end

return images
