--- The embedded ModelRiver service: workflows are Lua functions of this process, reached by `embedded:` as others are
-- reached over the network.
--
--     local modelriver = require "modelriver"
--     modelriver.embedded.workflow("summary", function(request, context) return "In short: " .. context.text end)
--     local client <close> = modelriver.Client{base_url = "embedded:"}
--     print(client:ai{workflow = "summary", messages = {{role = "user", content = "A long text"}}}:text())
--
-- What a function returns: a text; `{tool_calls = {{name =, arguments =}}}`; `{content =, finish_reason =, usage =}`;
-- the whole body of a provider (with `choices`, or Anthropic's with `type = "message"`), passed on as it is; any other
-- table is a structured answer. What it raises is a provider's failure, in words of its own by
-- `error{status = 504, message =, reason = "timeout"}`: the next provider is asked, and the one who called learns the
-- message, never a traceback. To see tracebacks, set
-- `modelriver.embedded.on_error = function(problem, where) … where.traceback … end`.
--
-- The way of a request: transport (or modelriver.serve) → gateway, which routes → checks, idempotency → workflow →
-- providers, in turn (forward: a server; outcome: what one gave; schemas; failure; text: words and tokens) → answer, or
-- stream. Jobs: jobs, kept in store → channels, the Phoenix side, over socket → delivery of webhooks. response is what
-- transport hands out.

local errors = require "riverlua.errors"
local store = require "modelriver.embedded.store"
local workflows = require "modelriver.embedded.workflow"

local embedded = {}

--- Called with what a workflow's function raised, and {workflow, provider, model, attempt, traceback}.
---@type fun(problem: any, where: table)|nil
embedded.on_error = nil

local registry = {workflows = {}, webhooks = {}, store = store.new()}

function registry.report(problem, where)
  local listener = embedded.on_error
  if listener then pcall(listener, problem, where) end
end

--- Registers a workflow, in place of one of that name.
---
--- `spec` is a function `fn(request, context)`, or a table: `providers`, a list of {provider =, model =, respond = fn |
--- forward = {base_url =, api_key =, model =, headers =}, timeout = seconds} tried in order (`forward` asks a server
--- with OpenAI's API); or `respond`, short for one provider; `schema` (JSON Schema of structured answers);
--- `event_name` (event-driven: for async requests alone); `cache_fields` (paths such as "metadata.audience");
--- `testing` = {sample =, delay_ms =} (test mode); `offline_fallback` (an answer that keeps to the schema is made up
--- when all providers fail); `validate` = true (false: what does not keep to the schema is no failure of the provider,
--- and reaches the one who asked); `webhook_url` ("embedded:<name>", or http).
---
--- `context`: `text` of the last user message, `emit(piece)` streams a piece of the answer (what is returned as text
--- after that is ignored), `attempt` (1 for the first provider), `workflow`, `provider`, `model`, `schema`, `stream`.
---
--- A provider's `timeout` bounds its whole answer; in a stream, the time to each piece.
---@param name string
---@param spec function|table
---Raises kind="argument" for what is wrong in it.
function embedded.workflow(name, spec)
  local checked = workflows.check(name, spec)
  registry.workflows[name] = checked
end

--- Registers a receiver of webhooks in this process: it is called with the headers (lower-case names) and the raw body,
--- and returns a status, or nothing for 200. What it raises counts as 500.
---@param address string "embedded:<name>"
---@param receiver fun(headers: table<string, string>, raw_body: string): integer|nil
function embedded.webhook(address, receiver)
  errors.expect("modelriver.embedded.webhook", "address", address, "string")
  errors.expect("modelriver.embedded.webhook", "receiver", receiver, "callable")
  if not address:find("^embedded:.") then
    errors.raise{kind = "argument", message = "modelriver.embedded.webhook: the address must begin with embedded:",
      hint = "such as embedded:orders; what goes to http and https addresses is posted there"}
  end
  registry.webhooks[address] = receiver
end

--- Forgets all workflows, receivers, `on_error` and jobs that have ended. Clients that are open stay open.
function embedded.reset()
  for name in pairs(registry.workflows) do registry.workflows[name] = nil end
  for address in pairs(registry.webhooks) do registry.webhooks[address] = nil end
  registry.store:forget()
  embedded.on_error = nil
end

--- Makes the transport for `embedded:`.
---
--- Options: `api_key` (when given, requests must carry it: 401), `other_keys` (list of keys of other projects: 403),
--- `callback_seconds` (300: how long a job waits for its callback), `token_seconds` (300: life of a ws_token),
--- `webhook_secret` ("whsec_embedded"), `webhook_scheme` ("A", "B" or "C"; see modelriver.webhook), `webhook_delays`
--- (seconds before each try of a delivery), `project_id`, `base_url` ("embedded:", what URLs in answers begin with).
---@param options table|nil
---@return modelriver.embedded.Transport
function embedded.new(options)
  return require("modelriver.embedded.transport").new(registry, options)
end

return embedded
