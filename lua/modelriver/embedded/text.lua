--- Texts of messages, and how many tokens they might be.

local text = {}

--- The text of a message's content: a string, or a list of parts of which those of type text count.
---@param content any
---@return string
function text.of_content(content)
  if type(content) == "string" then return content end
  local parts = {}
  for _, part in ipairs(type(content) == "table" and content or {}) do
    if type(part) == "string" then
      parts[#parts + 1] = part
    elseif type(part) == "table" and type(part.text) == "string" then
      parts[#parts + 1] = part.text
    end
  end
  return table.concat(parts, "\n")
end

--- What the user said last: the text of the last user message, else the prompt or the input; "" without any.
---@param request table
---@return string
function text.of_request(request)
  local messages = type(request.messages) == "table" and request.messages or {}
  for i = #messages, 1, -1 do
    local message = messages[i]
    if type(message) == "table" and message.role == "user" then return text.of_content(message.content) end
  end
  return text.of_content(request.prompt or request.input)
end

--- A text cut into pieces of one word each, white space included: joined they are the text.
---@param whole string
---@return string[]
function text.pieces(whole)
  local pieces, at = {}, 1
  while at <= #whole do
    local _, last = whole:find("^%s*%S+", at)
    if not last then break end
    pieces[#pieces + 1] = whole:sub(at, last)
    at = last + 1
  end
  if at <= #whole then pieces[#pieces + 1] = whole:sub(at) end
  return pieces
end

-- A word of up to four characters is one token, a longer one a token for every four that it begins.
local function tokens_of(whole)
  local count = 0
  for word in whole:gmatch("%S+") do
    local length = utf8.len(word) or #word
    count = count + (length + 3) // 4
  end
  return count
end

--- An estimate of what a model would have counted; the same for the same texts.
---@param request table
---@param answer string
---@return modelriver.Usage
function text.usage(request, answer)
  local prompt = 0
  for _, message in ipairs(type(request.messages) == "table" and request.messages or {}) do
    if type(message) == "table" then prompt = prompt + tokens_of(text.of_content(message.content)) end
  end
  prompt = prompt + tokens_of(text.of_content(request.prompt or request.input))
  local completion = tokens_of(answer)
  return {prompt_tokens = prompt, completion_tokens = completion, total_tokens = prompt + completion}
end

return text
