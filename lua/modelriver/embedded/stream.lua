--- Streamed answers: chunks of OpenAI's shape as server-sent events, made while the provider still works.

local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local failure = require "modelriver.embedded.failure"
local json = require "riverlua.json"
local task = require "riverlua.task"
local texts = require "modelriver.embedded.text"

local stream = {}

local encode = json.encoder{sort = true}

-- Bytes that may wait for a reader.
local MOST_WAITING = 64 * 1024 * 1024
-- Characters of a tool call's arguments in one chunk.
local ARGUMENTS_PIECE = 12

---@class modelriver.embedded.Writer turns what a provider gives into bytes
---@field started boolean something of the answer is on its way: there is no other provider from here on
---@field ended boolean
local Writer = {}
Writer.__index = Writer
Writer.__name = "modelriver.embedded.Writer"

local function new_writer(run, include_usage)
  return setmetatable({run = run, include_usage = include_usage, queue = task.queue(), moved = core.signal(),
    waiting = 0, held = {}, started = false, ended = false}, Writer)
end

local function put(self, bytes)
  self.waiting = self.waiting + #bytes
  if self.waiting > MOST_WAITING then
    errors.raise{kind = "limit", message = "nobody reads the stream, and too much of it waits"}
  end
  self.queue:put(bytes)
  self.started = true
  self.moved:fire()
end

local function put_json(self, value) put(self, "data: " .. encode(value) .. "\n\n") end

local function choice_chunk(self, delta, finish_reason)
  return {id = self.run.id, object = "chat.completion.chunk", created = self.run.created, model = self.provider.model,
    choices = {{index = 0, delta = json.object(delta), finish_reason = finish_reason or json.null}}}
end

local function put_role(self)
  if self.role_sent then return end
  self.role_sent = true
  put_json(self, choice_chunk(self, {role = "assistant"}))
end

--- Another provider is asked: what was held back of the last one is forgotten.
---@param provider {provider: string, model: string}
function Writer:begin(provider)
  self.provider, self.held = provider, {}
end

--- A piece of the text.
---@param piece string
function Writer:content(piece)
  put_role(self)
  self.content_sent = true
  put_json(self, choice_chunk(self, {content = piece}))
end

--- A piece that a function emits; the reader gets it before the function goes on.
---@param piece string
function Writer:emit(piece)
  local first = not self.started
  self:content(piece)
  task.sleep(0)
  if first then task.sleep(0) end   -- a turn for the answer's head, and one for the piece
end

-- Whether a chunk carries something of the answer.
local function has_substance(chunk)
  for _, choice in ipairs(type(chunk.choices) == "table" and chunk.choices or {}) do
    local delta = type(choice.delta) == "table" and choice.delta or {}
    for name, value in pairs(delta) do
      if name ~= "role" and value ~= "" and value ~= json.null then return true end
    end
    if type(choice.finish_reason) == "string" then return true end
  end
  return false
end

--- A chunk of a provider that streams itself, passed on as it is. What comes before the first piece of the answer is
--- held back, so that another provider can still be asked.
---@param chunk table
function Writer:pass(chunk)
  if not self.started and not has_substance(chunk) then
    self.held[#self.held + 1] = chunk
    return
  end
  for _, held in ipairs(self.held) do put_json(self, held) end
  self.held = {}
  self.passed = true
  put_json(self, chunk)
end

-- Texts of at most so many characters that are `whole` together.
local function slices(whole)
  local list, at = {}, 1
  while at <= #whole do
    local following = utf8.offset(whole, ARGUMENTS_PIECE + 1, at) or #whole + 1
    list[#list + 1] = whole:sub(at, following - 1)
    at = following
  end
  return list
end

local function put_tool_calls(self, calls)
  put_role(self)
  for i, call in ipairs(calls) do
    local named = call["function"]
    put_json(self, choice_chunk(self, {tool_calls = {{index = i - 1, id = call.id, type = "function",
      ["function"] = {name = named.name, arguments = ""}}}}))
    for _, piece in ipairs(slices(named.arguments)) do
      put_json(self, choice_chunk(self, {tool_calls = {{index = i - 1, ["function"] = {arguments = piece}}}}))
    end
  end
end

-- The rest of an answer and the end of the stream.
local function finish(self)
  local outcome = self.run.outcome
  self.provider = self.run.provider
  if not self.passed then
    if outcome.content and not self.content_sent then
      for _, piece in ipairs(texts.pieces(outcome.content)) do self:content(piece) end
    end
    if outcome.tool_calls then put_tool_calls(self, outcome.tool_calls) end
    put_role(self)
    put_json(self, choice_chunk(self, {}, outcome.finish_reason))
    if self.include_usage then
      local chunk = choice_chunk(self, {})
      chunk.choices, chunk.usage = json.array{}, outcome.usage
      put_json(self, chunk)
    end
  end
  put(self, "data: [DONE]\n\n")
end

-- An error in the middle: the status has been sent long ago.
local function fail(self)
  local failed = self.run.failure
  put_json(self, {error = {message = failed.message, type = "upstream_error", code = failed.reason,
    status = failed.status}})
end

-- Runs the providers; the last thing of the task.
local function produce(self, run_providers)
  local ok, problem = pcall(run_providers, self.run, self)
  if ok then ok, problem = pcall(function()
    if not self.run.failure then finish(self) elseif self.started then fail(self) end
  end) end
  if not ok and not failure.is_end(problem) then
    self.run.failure = failure.of(problem)
    pcall(fail, self)
  end
  self.ended = true
  self.queue:close()
  self.moved:fire()
end

local function next_bytes(self)
  local bytes = self.queue:get()
  if bytes then self.waiting = self.waiting - #bytes end
  return bytes
end

--- Starts a streamed run and waits for the first piece of its answer. Returns `stream` and `close` of an answer, or
--- nil when the run failed before there was anything of it.
---@param run modelriver.embedded.Run
---@param run_providers fun(run, writer)
---@return (fun(): string|nil)|nil stream
---@return fun()|nil close
function stream.start(run, run_providers)
  local options = type(run.request.stream_options) == "table" and run.request.stream_options or {}
  local writer = new_writer(run, options.include_usage == true)
  local producer = task.spawn(produce, writer, run_providers)
  local guard <close> = setmetatable({}, {__close = function(_, problem)   -- luacheck: ignore 211
    if problem ~= nil then producer:cancel("the one who asked has gone") end
  end})
  while not writer.started and not writer.ended do writer.moved:wait() end
  if not writer.started then return nil end
  return function() return next_bytes(writer) end, function()
    producer:cancel("nobody reads the stream any more")
    writer.queue:close()
  end
end

return stream
