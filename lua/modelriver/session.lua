--- Conversations: a session keeps the messages, so that every question comes with what was said before.
--
--     local session = client:session{workflow = "chat", system = "You are brief."}
--     print(session:ask("Who wrote Faust?"):text())
--     print(session:ask("And when?"):text())

local client_module = require "modelriver.client"
local errors = require "riverlua.errors"
local messages_module = require "modelriver.messages"
local request = require "modelriver.request"

local session = {methods = {}}

---@class modelriver.Session
---@field messages table[] the conversation so far; may be saved, and given to a new session
local Session = {}
Session.__index = Session
Session.__name = "modelriver.Session"

local OWN = {client = true, system = true, messages = true, max_messages = true}

-- Options of the calls that a session makes.
local KNOWN = {schema = true, repair = true, max_rounds = true, approve = true, on_tool = true}
for name in pairs(OWN) do KNOWN[name] = true end

local SYSTEM = {system = true, developer = true}

local function fail(message, hint) errors.raise{kind = "argument", message = "session: " .. message, hint = hint} end

local function check(options)
  errors.expect("session", "options", options, "table")
  request.check_names("session", options, KNOWN)
  if options.client ~= nil and not client_module.is(options.client) then
    fail("'client' must be a modelriver.Client")
  end
  errors.expect("session", "system", options.system, "string|nil")
  errors.expect("session", "messages", options.messages, "table|nil")
  if options.messages and next(options.messages) ~= nil then request.check("session", {messages = options.messages}) end
  errors.expect("session", "max_messages", options.max_messages, "integer|nil")
  if options.max_messages and options.max_messages < 1 then
    fail(("'max_messages' must be at least 1, got %d"):format(options.max_messages))
  end
end

local function is_system(message) return message ~= nil and SYSTEM[message.role] == true end

--- Makes a session.
---
--- Options: `client` (default: a new one of `modelriver.Client{}`), `system` (text of the first message, in place of
--- the one in `messages`), `messages` (an earlier conversation), `max_messages` (how many of the earlier messages go
--- along with a question, beside the system's; fewer when there would be answers without their question; default:
--- all); everything else (`workflow`, `temperature`, `timeout` …) goes with every question.
---@param options table
---@return modelriver.Session
function session.new(options)
  check(options)
  local fields, messages = {}, {}
  for name, value in pairs(options) do
    if not OWN[name] then fields[name] = value end
  end
  for i, message in ipairs(options.messages or {}) do messages[i] = message end
  if options.system then
    local first = is_system(messages[1]) and table.remove(messages, 1)
    local told = messages_module.system(options.system)
    if first then told.role = first.role end
    table.insert(messages, 1, told)
  end
  return setmetatable({client = options.client or client_module.new(), fields = fields, messages = messages,
    max_messages = options.max_messages, own_client = options.client == nil}, Session)
end

-- What of the conversation goes along.
local function recent(self)
  local all, most = self.messages, self.max_messages
  local kept, first = {}, 1
  if is_system(all[1]) then kept[1], first = all[1], 2 end
  if most and #all - first + 1 > most then
    first = #all - most + 1
    -- answers and results of tools are understood only behind what they answer
    while all[first] and all[first].role ~= "user" do first = first + 1 end
  end
  return table.move(all, first, #all, #kept + 1, kept)
end

local function question_of(what, content)
  errors.expect(what, "content", content, "string|table")
  if type(content) == "table" and content.role ~= nil then return content end
  return messages_module.user(content)
end

local function request_of(self, what, content, more)
  local given, question = {}, question_of(what, content)
  for name, value in pairs(self.fields) do given[name] = value end
  for name, value in pairs(errors.expect(what, "options", more or {}, "table")) do
    if OWN[name] then
      errors.raise{kind = "argument",
        message = ("%s: '%s' belongs to the session, not to one question"):format(what, name)}
    end
    given[name] = value
  end
  given.messages = recent(self)
  given.messages[#given.messages + 1] = question
  return given, question
end

local function add(self, question, answer)
  self.messages[#self.messages + 1] = question
  self.messages[#self.messages + 1] = answer
end

--- Asks, and keeps question and answer. A call that fails leaves the conversation as it was.
---@param content string|table text, a list of parts, or a message
---@param more table|nil fields and options for this question
---@return modelriver.Response
function Session:ask(content, more)
  local given, question = request_of(self, "session:ask", content, more)
  local answer = self.client:ai(given)
  add(self, question, messages_module.of_answer(answer))
  return answer
end

--- Asks, and hands the answer out piece by piece; question and answer are kept when it has been read to its end.
---@param content string|table
---@param more table|nil
---@return modelriver.Stream
---@return nil
---@return nil
---@return modelriver.Stream # closed when a loop over the stream is left
function Session:stream(content, more)
  local given, question = request_of(self, "session:stream", content, more)
  local stream = self.client:stream(given)
  stream.keeps_all = true   -- the conversation has it anyway
  stream.on_end = function(text, calls)
    add(self, question, {role = "assistant", content = (text ~= "" or not calls) and text or nil, tool_calls = calls})
  end
  return stream, nil, nil, stream
end

--- Asks with tools, see `client:run`; the calls and their results are kept too. A call that fails leaves the
--- conversation as it was, even when tools were called: `err.messages` has what was said.
---@param content string|table
---@param more table|nil `tools`, `max_rounds` …
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

errors.want_colon(Session, "session")

function Session:__tostring() return ("modelriver.Session(%d messages)"):format(#self.messages) end

--- `client:session{…}`: a session on this client.
function session.methods.session(self, options)
  local all = {}
  for name, value in pairs(errors.expect("session", "options", options or {}, "table")) do all[name] = value end
  all.client = self
  return session.new(all)
end

return session
