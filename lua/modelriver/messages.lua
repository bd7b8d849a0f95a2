--- Messages and their parts: `modelriver.user("What is this?", modelriver.image("photo.png"))`.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"

local messages = {}

local LONGEST_IMAGE = 20 * 1024 * 1024

local function content_of(what, ...)
  local count = select("#", ...)
  if count == 1 then
    local only = ...
    if type(only) == "string" then return only end
    errors.expect(what, "content", only, "string|table")
    return only.type and {only} or only
  end
  local parts = {...}
  for i = 1, count do
    errors.expect(what, ("part %d"):format(i), parts[i], "string|table")
    if type(parts[i]) == "string" then parts[i] = messages.text(parts[i]) end
  end
  if count == 0 then errors.expect(what, "content", nil, "string|table") end
  return parts
end

--- A message of the user's: of a text, or of texts and images.
---@param ... string|table
---@return table message
function messages.user(...) return {role = "user", content = content_of("modelriver.user", ...)} end

--- A message that tells the model how to behave.
---@param ... string|table
---@return table message
function messages.system(...) return {role = "system", content = content_of("modelriver.system", ...)} end

--- A message of the model's.
---@param ... string|table
---@return table message
function messages.assistant(...) return {role = "assistant", content = content_of("modelriver.assistant", ...)} end

--- The result of a tool call.
---@param id string the call's id
---@param content string
---@return table message
function messages.tool(id, content)
  return {role = "tool", tool_call_id = errors.expect("modelriver.tool", "id", id, "string"),
    content = errors.expect("modelriver.tool", "content", content, "string|table")}
end

--- A part of a message that is text.
---@param text string
---@return table part
function messages.text(text)
  return {type = "text", text = errors.expect("modelriver.text", "text", text, "string")}
end

-- The media type of an image, by its first bytes.
local function type_of(bytes)
  if bytes:find("^\137PNG\r\n\26\n") then return "image/png" end
  if bytes:find("^\255\216\255") then return "image/jpeg" end
  if bytes:find("^GIF8[79]a") then return "image/gif" end
  if bytes:find("^RIFF....WEBP") then return "image/webp" end
  return nil
end

local function too_large(size)
  errors.raise{kind = "limit", message = ("modelriver.image: the image has %d bytes (limit: %d)"):format(size,
    LONGEST_IMAGE), hint = "make it smaller, or give the address of one that the provider can fetch"}
end

local function read_image(path)
  local file, problem = io.open(path, "rb")
  if not file then
    errors.raise{kind = "argument", message = "modelriver.image: cannot read the file: " .. problem,
      hint = "an image is a path, its bytes (PNG, JPEG, GIF or WebP), or an address that begins with https://"}
  end
  local bytes, why = file:read(LONGEST_IMAGE + 1)
  file:close()
  if why then errors.raise{kind = "argument", message = "modelriver.image: cannot read the file: " .. why} end
  if bytes and #bytes > LONGEST_IMAGE then too_large(#bytes) end
  return bytes or ""
end

--- A part of a message that is an image.
---@param source string path of a file, bytes of a PNG, JPEG, GIF or WebP, an address (https:) or a data: URL
---@param options { detail: string|nil, type: string|nil }|nil `detail`: "low", "high", "auto"; `type`: the media type,
--- when the bytes are of another kind
---@return table part
function messages.image(source, options)
  errors.expect("modelriver.image", "source", source, "string")
  options = options or {}
  errors.check_options("modelriver.image", options, {detail = true, type = true})
  errors.expect("modelriver.image", "type", options.type, "string|nil")
  local address = source
  if not source:find("^https?://") and not source:find("^data:") then
    local is_path = type_of(source) == nil and #source < 4096 and not source:find("%z")
    local bytes = is_path and read_image(source) or source
    if #bytes > LONGEST_IMAGE then too_large(#bytes) end
    local kind = options.type or type_of(bytes)
    if not kind then
      errors.raise{kind = "argument", message = "modelriver.image: these are not the bytes of a PNG, JPEG, GIF or WebP",
        hint = "name the media type: {type = \"image/…\"}"}
    end
    address = ("data:%s;base64,%s"):format(kind, digest.to_base64(bytes))
  end
  return {type = "image_url", image_url = {url = address, detail = options.detail}}
end

return messages
