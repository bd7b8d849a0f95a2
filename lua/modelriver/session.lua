--- Conversations: a session keeps the messages, so that every question comes with what was said before.
--
--     local session = client:session{workflow = "chat", system = "You are brief."}
--     print(session:ask("Who wrote Faust?"):text())
--     print(session:ask("And when?"):text())

local client_module = require "modelriver.client"
local errors = require "riverlua.errors"
local messages_module = require "modelriver.messages"

local session = {methods = {}}

---@class modelriver.Session
---@field messages table[] the conversation so far; may be saved, and given to a new session
local Session = {}
Session.__index = Session
Session.__name = "modelriver.Session"

local OWN = {client = true, system = true, messages = true, max_messages = true}

local function fail(message, hint) errors.raise{kind = "argument", message = "session: " .. message, hint = hint} end

--- Makes a session.
---
--- Options: `client` (default: a new one of `modelriver.Client{}`), `system` (text of the first message), `messages`
--- (an earlier conversation), `max_messages` (older ones are left out of requests, but for the system's; default: none
--- are); everything else (`workflow`, `temperature`, `timeout` …) goes with every question.
---@param options table
---@return modelriver.Session
function session.new(options)
  errors.expect("session", "options", options, "table")
  local client = options.client
  if client == nil then client = client_module.new() end
  if not client_module.is(client) then fail("'client' must be a modelriver.Client") end
  errors.expect("session", "system", options.system, "string|nil")
  errors.expect("session", "messages", options.messages, "table|nil")
  errors.expect("session", "max_messages", options.max_messages, "integer|nil")
  if options.max_messages and options.max_messages < 1 then fail("'max_messages' must be at least 1") end
  local fields = {}
  for name, value in pairs(options) do
    if not OWN[name] then fields[name] = value end
  end
  local messages = {}
  for i, message in ipairs(options.messages or {}) do messages[i] = message end
  if options.system and not (messages[1] and messages[1].role == "system") then
    table.insert(messages, 1, messages_module.system(options.system))
  end
  return setmetatable({client = client, fields = fields, messages = messages, max_messages = options.max_messages,
    own_client = options.client == nil}, Session)
end

-- What of the conversation goes along.
local function recent(self)
  local all, most = self.messages, self.max_messages
  local first = 1
  local kept = {}
  if all[1] and all[1].role == "system" then
    kept[1], first = all[1], 2
  end
  if most and #all - first + 1 > most then first = #all - most + 1 end
  -- the result of a tool call is understood only behind the call
  while all[first] and all[first].role == "tool" do first = first + 1 end
  return table.move(all, first, #all, #kept + 1, kept)
end

local function request_of(self, what, content, more)
  errors.expect(what, "content", content, "string|table")
  local given = {}
  for name, value in pairs(self.fields) do given[name] = value end
  for name, value in pairs(errors.expect(what, "options", more or {}, "table")) do given[name] = value end
  local question = messages_module.user(content)
  given.messages = recent(self)
  given.messages[#given.messages + 1] = question
  return given, question
end

local function add(self, question, answer)
  self.messages[#self.messages + 1] = question
  self.messages[#self.messages + 1] = answer
end

--- Asks, and keeps question and answer. A call that fails leaves the conversation as it was.
---@param content string|table text, or a list of parts
---@param more table|nil fields and options for this question
---@return modelriver.Response
function Session:ask(content, more)
  local given, question = request_of(self, "session:ask", content, more)
  local answer = self.client:ai(given)
  add(self, question, answer.message or {role = "assistant", content = answer:text()})
  return answer
end

--- Asks, and hands the answer out piece by piece; question and answer are kept when it has been read to its end.
---@param content string|table
---@param more table|nil
---@return modelriver.Stream
function Session:stream(content, more)
  local given, question = request_of(self, "session:stream", content, more)
  local stream = self.client:stream(given)
  stream.on_end = function(text, calls)
    add(self, question, {role = "assistant", content = (text ~= "" or not calls) and text or nil, tool_calls = calls})
  end
  return stream, nil, nil, stream
end

--- Asks with tools, see `client:run`; the calls and their results are kept too.
---@param content string|table
---@param more table `tools`, `max_rounds` …
---@return modelriver.Response
function Session:run(content, more)
  local given = request_of(self, "session:run", content, more)
  local before = #given.messages - 1
  local answer = self.client:run(given)
  table.move(answer.messages, before + 1, #answer.messages, #self.messages + 1, self.messages)
  return answer
end

--- Forgets what was said, but for the system's message.
function Session:reset()
  local first = self.messages[1]
  self.messages = first and first.role == "system" and {first} or {}
end

--- Closes the client, if the session made it.
function Session:close()
  if self.own_client then self.client:close() end
end

Session.__close = Session.close

function Session:__tostring() return ("modelriver.Session(%d messages)"):format(#self.messages) end

--- `client:session{…}`: a session on this client.
function session.methods.session(self, options)
  local all = {}
  for name, value in pairs(options or {}) do all[name] = value end
  all.client = self
  return session.new(all)
end

return session
