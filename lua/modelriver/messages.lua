--- Messages and their parts: `modelriver.user("What is this?", modelriver.image("photo.png"))`.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"

local messages = {}

local LONGEST_IMAGE = 20 * 1024 * 1024
local LONGEST_DATA_URL = LONGEST_IMAGE // 3 * 4 + 100
local LONGEST_PATH = 4096

-- One part of a message: texts become parts.
local function part_of(what, name, value)
  if type(value) == "string" then return messages.text(value) end
  errors.expect(what, name, value, "string|table")
  if value.role ~= nil then
    errors.raise{kind = "argument", message = ("%s: '%s' is a message already"):format(what, name),
      hint = "a message is made of texts and parts such as modelriver.image(…)"}
  end
  return value
end

local function content_of(what, ...)
  local parts = {...}
  local count = select("#", ...)
  if count <= 1 and type(parts[1]) == "string" then return parts[1] end
  if count == 0 then errors.expect(what, "content", nil, "string|table") end
  -- a list of parts is as good as the parts
  if count == 1 and type(parts[1]) == "table" and parts[1].type == nil and parts[1].role == nil then
    parts, count = parts[1], #parts[1]
    if count == 0 then errors.raise{kind = "argument", message = what .. ": the list of parts is empty"} end
  end
  local content = {}
  for i = 1, count do content[i] = part_of(what, count == 1 and "content" or ("part %d"):format(i), parts[i]) end
  return content
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

--- Internal: the message that puts an answer into a conversation.
---@param answer modelriver.Response
---@return table message
function messages.of_answer(answer)
  local message = {role = "assistant"}
  for name, value in pairs(answer.message or {}) do message[name] = value end
  -- servers refuse an empty list of calls, and a message that says nothing
  if type(message.tool_calls) == "table" and #message.tool_calls == 0 then message.tool_calls = nil end
  if message.content == nil and message.tool_calls == nil then message.content = answer:text() end
  return message
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
  if why then
    errors.raise{kind = "argument", message = ("modelriver.image: cannot read the file: %s: %s"):format(path, why)}
  end
  return bytes or ""
end

-- Whether a text is the name of a file, and not what is in one.
local function is_path(source)
  return type_of(source) == nil and #source < LONGEST_PATH and not source:find("%c") and not source:find("^%s*<")
    and utf8.len(source) ~= nil
end

local function data_url(source, given)
  local named = is_path(source) and source
  local bytes = named and read_image(named) or source
  if #bytes > LONGEST_IMAGE then too_large(#bytes) end
  local kind = given or type_of(bytes)
  if not kind then
    errors.raise{kind = "argument", hint = "name the media type: {type = \"image/…\"}",
      message = ("modelriver.image: %s not the bytes of a PNG, JPEG, GIF or WebP"):format(named
        and ("'%s' has"):format(named) or "these are")}
  end
  return ("data:%s;base64,%s"):format(kind, digest.to_base64(bytes))
end

--- A part of a message that is an image.
---@param source string path of a file, bytes of a PNG, JPEG, GIF or WebP, an address (https:) or a data: URL
---@param options { detail: string|nil, type: string|nil }|nil `detail`: "low", "high", "auto"; `type`: the media type,
--- when the bytes are of another kind
---@return table part
function messages.image(source, options)
  errors.expect("modelriver.image", "source", source, "string")
  options = options == nil and {} or errors.expect("modelriver.image", "options", options, "table")
  errors.check_options("modelriver.image", options, {detail = true, type = true})
  errors.expect("modelriver.image", "detail", options.detail, "string|nil")
  local kind = errors.expect("modelriver.image", "type", options.type, "string|nil")
  if kind and not kind:find("^image/[%w.+-]+$") then
    errors.raise{kind = "argument", message = "modelriver.image: 'type' must be a media type such as \"image/png\""}
  end
  local scheme = source:sub(1, 8):lower():match("^(%a+):")
  local address = source
  if scheme == "data" then
    if not source:lower():find("^data:image/[%w.+-]+[;,]") then
      errors.raise{kind = "argument", message = "modelriver.image: the data: URL is not one of an image"}
    end
    if #source > LONGEST_DATA_URL then too_large(#source) end
  elseif not (scheme == "http" or scheme == "https") then
    address = data_url(source, kind)
  end
  return {type = "image_url", image_url = {url = address, detail = options.detail}}
end

return messages
