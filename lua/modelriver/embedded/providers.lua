--- Runs the providers of a workflow, one after the other, until one gives an answer.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local failure = require "modelriver.embedded.failure"
local json = require "riverlua.json"
local outcome = require "modelriver.embedded.outcome"
local schemas = require "modelriver.embedded.schemas"
local task = require "riverlua.task"
local texts = require "modelriver.embedded.text"

local providers = {}

local decode = json.decoder{drop_null = true}

---@class modelriver.embedded.Run one request to one workflow
---@field workflow modelriver.embedded.Workflow
---@field request table decoded
---@field body string the bytes it came in
---@field schema table|nil
---@field wrapped boolean
---@field openai boolean the answer is for an OpenAI client
---@field started number of task.now()
---@field id string
---@field created integer
---@field attempts table[] the ended ones
---@field tries integer how many were begun
---@field customer_data table
---@field provider {provider: string, model: string}|nil the one that answered
---@field outcome modelriver.embedded.Outcome|nil
---@field failure modelriver.embedded.Failure|nil why there is no outcome
---@field offline_fallback boolean|nil
---@field test_mode boolean|nil
---@field duration_ms integer|nil once it has ended

--- Calls `fn` for at most `seconds`; `limit.due` is moved by who sees progress. nil: no limit.
local function limited(seconds, limit, fn)
  if not seconds then return fn() end
  limit.due = task.now() + seconds
  local results
  local child <close> = task.spawn(function() results = table.pack(pcall(fn)) end)
  while not child:join(math.max(0, limit.due - task.now())) do
    if task.now() >= limit.due then
      child:cancel("the provider's time is up")
      child:join()
      break
    end
  end
  if results and results[1] then return table.unpack(results, 2, results.n) end
  if not results or errors.is(results[2], "cancelled") then
    error(failure.new(504, "timeout", ("no answer within %g s"):format(seconds)), 0)
  end
  error(results[2], 0)
end

local function context_of(run, provider, index, sink, progress)
  local emitted = {}
  local context = {
    text = texts.of_request(run.request), attempt = index, workflow = run.workflow.name, schema = run.schema,
    provider = provider.provider, model = provider.model, stream = sink ~= nil,
  }
  function context.emit(piece)
    errors.expect("context.emit", "piece", piece, "string")
    if not utf8.len(piece) then
      errors.raise{kind = "argument", message = "context.emit: 'piece' is not UTF-8",
        hint = "a piece must not end inside a character"}
    end
    if piece == "" then return end
    emitted[#emitted + 1] = piece
    progress()
    if sink then sink:emit(piece) end
  end
  return context, emitted
end

local function respond(run, provider, index, sink, progress)
  if provider.forward then
    return require("modelriver.embedded.forward").respond(run, provider, sink, progress)
  end
  local context, emitted = context_of(run, provider, index, sink, progress)
  local value = provider.respond(decode(run.body), context)   -- a request of its own: it may change it
  return outcome.of(value, run.request, run.checked_schema, table.concat(emitted))
end

-- One provider; returns its outcome, or nil and the failure.
local function attempt(run, provider, index, sink)
  local started, traceback, limit = task.now(), nil, {}
  local function progress()
    -- a stream is given its time anew with every piece; a whole answer is not
    if sink and provider.timeout then limit.due = task.now() + provider.timeout end
  end
  local ok, result = pcall(limited, provider.timeout, limit, function()
    local good, value = xpcall(respond, function(problem)
      traceback = debug.traceback("", 2)
      return problem
    end, run, provider, index, sink, progress)
    if not good then error(value, 0) end
    return value
  end)
  local record = {provider = provider.provider, model = provider.model, status = ok and "success" or "error",
    duration_ms = math.floor((task.now() - started) * 1000 + 0.5)}
  if ok then
    run.attempts[index] = record
    return result
  end
  if failure.is_end(result) then error(result, 0) end
  local failed = failure.of(result)
  record.reason = failed.reason
  run.attempts[index] = record
  run.report(result, {workflow = run.workflow.name, provider = provider.provider, model = provider.model,
    attempt = index, traceback = traceback})
  return nil, failed
end

-- An answer that keeps to the schema though nobody gave one.
local function fall_back(run)
  local sample = schemas.sample(run.schema)
  if sample == nil then return end
  local ok, made = pcall(outcome.of, {content = json.encode(sample)}, run.request, run.schema)
  if not ok then return end
  made.usage = {prompt_tokens = 0, completion_tokens = 0, total_tokens = 0}
  run.provider = {provider = "offline", model = "offline-fallback"}
  run.outcome, run.failure, run.offline_fallback = made, nil, true
end

-- Sample data in place of an answer.
local function test(run)
  local testing = run.workflow.testing
  if testing.delay_ms > 0 then task.sleep(testing.delay_ms / 1000) end
  local sample = testing.sample
  run.provider, run.test_mode = {provider = "Testing", model = "test-mode"}, true
  run.outcome = outcome.of(type(sample) == "string" and {content = sample} or {content = json.encode(sample)},
    run.request, type(sample) ~= "string" and {} or nil)
  run.outcome.usage = {prompt_tokens = 0, completion_tokens = 0, total_tokens = 0}
end

local function try_all(run, sink)
  for index, provider in ipairs(run.workflow.providers) do
    if sink then sink:begin(provider) end
    run.provider, run.tries = provider, index
    local made, failed = attempt(run, provider, index, sink)
    if made then
      run.outcome, run.failure = made, nil
      return
    end
    run.failure = failed
    if sink and sink.started then return end   -- a stream that has delivered something is never started again
  end
  run.provider = nil
  if run.workflow.offline_fallback then fall_back(run) end
end

--- Runs a request: afterwards `run.outcome` or `run.failure` is set.
---@param run modelriver.embedded.Run
---@param sink modelriver.embedded.Writer|nil takes the pieces of a stream
function providers.run(run, sink)
  if run.workflow.testing then
    if sink then sink:begin({provider = "Testing", model = "test-mode"}) end
    test(run)
  else
    try_all(run, sink)
  end
  run.duration_ms = math.floor((task.now() - run.started) * 1000 + 0.5)
end

--- A run that has not begun.
---@param fields table workflow, request, body, customer_data, report, wrapped, openai
---@return modelriver.embedded.Run
function providers.new_run(fields)
  fields.schema = schemas.of(fields.workflow, fields.request)
  fields.checked_schema = fields.workflow.validate and fields.schema or nil
  fields.started, fields.created, fields.attempts, fields.tries = task.now(), os.time(), {}, 0
  fields.id = "chatcmpl-" .. digest.hex(digest.random(12))
  return fields
end

return providers
