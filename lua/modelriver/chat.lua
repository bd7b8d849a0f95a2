--- The OpenAI-compatible endpoint: `client.chat.completions:create{model =, messages =, …}`.
--
-- The answer is OpenAI's body as it came. The same client pointed at another OpenAI-compatible server by `base_url`
-- talks to that one.

local ask = require "modelriver.ask"
local errors = require "riverlua.errors"
local request = require "modelriver.request"

local chat = {}

local PATH = "/v1/chat/completions"

---@class modelriver.Completions
local Completions = {}
Completions.__index = Completions
Completions.__name = "modelriver.Completions"

--- Asks for a chat completion. `model` is a workflow's name on ModelRiver, a model's elsewhere.
---
--- Fields are OpenAI's, passed on untouched; options as for `client:ai`. With `stream = true` the result is an iterator
--- of chunks as OpenAI sends them: `for chunk in … do io.write(chunk.choices[1].delta.content or "") end`; leaving the
--- loop frees the connection.
---@param given table
---@return table|modelriver.Stream completion `choices`, `usage`, `model`, … (JSON null is absent)
---@return modelriver.Response|nil response the same in the form of `client:ai`
function Completions:create(given)
  local what = "chat.completions:create"
  if getmetatable(self) ~= Completions then
    errors.raise{kind = "argument", message = what .. ": call it with a colon: client.chat.completions:create{…}"}
  end
  local body, options = request.split(what, given)
  if type(body.model) ~= "string" or body.model == "" then
    errors.raise{kind = "argument", message = what .. ": 'model' is missing",
      hint = "the name of a workflow, or of a model on other servers"}
  end
  if body.messages == nil then
    errors.raise{kind = "argument", message = what .. ": 'messages' is missing",
      hint = "write messages = {modelriver.user(text)}"}
  end
  request.check(what, body)
  if body.stream == true then
    return ask.streamed(self.gateway, what, PATH, body, options, true)
  end
  local answer = ask.whole(self.gateway, what, PATH, body, options)
  return answer.raw, answer
end

--- Internal: `client.chat`.
---@param gateway modelriver.Gateway
function chat.new(gateway)
  return {completions = setmetatable({gateway = gateway}, Completions)}
end

return chat
