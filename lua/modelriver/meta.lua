--- What ModelRiver says about an answer, in one form: every channel (wrapped body, headers, webhook, test mode,
-- WebSocket) has its own names for the same things.

local meta = {}

---@class modelriver.Attempt
---@field provider string|nil
---@field model string|nil
---@field status "success"|"error"|nil
---@field reason string|nil why it failed
---@field duration_ms number|nil

---@class modelriver.Usage
---@field prompt_tokens integer|nil
---@field completion_tokens integer|nil
---@field total_tokens integer|nil

---@class modelriver.Meta
---@field provider string|nil that served it
---@field model string|nil that served it
---@field workflow string|nil
---@field duration_ms number|nil
---@field usage modelriver.Usage|nil
---@field attempts modelriver.Attempt[] every provider that was tried, in order; empty when nothing was said
---@field status string|nil "success" or "error"
---@field http_status integer|nil what ModelRiver thinks of the request, whatever the transport's status
---@field requested_provider string|nil
---@field requested_model string|nil
---@field offline_fallback boolean the answer was made up, because no provider answered
---@field test_mode boolean the answer is sample data
---@field structured_output boolean
---@field attempt_count integer|nil how many were tried, also when not more than their number was said

-- The first of them that is a table.
local function table_of(...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if type(value) == "table" then return value end
  end
  return nil
end

-- The first of them that is a number.
local function number_of(...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if type(value) == "number" then return value end
  end
  return nil
end

--- Token counts in OpenAI's names, from OpenAI's, Anthropic's or a webhook's; nil when there are none.
---@param raw any
---@return modelriver.Usage|nil
function meta.usage(raw)
  if type(raw) ~= "table" then return nil end
  local prompt = number_of(raw.prompt_tokens, raw.input_tokens, raw.prompt)
  local completion = number_of(raw.completion_tokens, raw.output_tokens, raw.completion)
  local total = number_of(raw.total_tokens, raw.total) or prompt and completion and prompt + completion
  if prompt == nil and completion == nil and total == nil then return nil end
  return {prompt_tokens = prompt, completion_tokens = completion, total_tokens = total}
end

local function attempt_of(raw)
  local status = raw.status
  if raw.success ~= nil then status = raw.success and "success" or "error" end
  return {provider = raw.provider, model = raw.model, status = status, reason = raw.reason or raw.error,
    duration_ms = raw.duration_ms}
end

--- All attempts of a list, in the normal form.
---@param raw any
---@return modelriver.Attempt[]
function meta.attempts(raw)
  local attempts = {}
  for i, one in ipairs(type(raw) == "table" and raw or {}) do
    attempts[i] = attempt_of(type(one) == "table" and one or {})
  end
  return attempts
end

--- The normal form of a decoded `meta` table.
---@param raw table|nil
---@return modelriver.Meta
function meta.normal(raw)
  raw = type(raw) == "table" and raw or {}
  local provider, model = raw.used_provider or raw.provider, raw.used_model or raw.model
  return {
    provider = provider, model = model, workflow = raw.workflow,
    duration_ms = raw.duration_ms, usage = meta.usage(table_of(raw.usage, raw.tokens)),
    attempts = meta.attempts(raw.attempts), status = raw.status, http_status = raw.http_status,
    requested_provider = raw.requested_provider, requested_model = raw.requested_model,
    offline_fallback = raw.offline_fallback == true,
    test_mode = raw.test_mode == true or provider == "Testing" and model == "test-mode",
    structured_output = raw.structured_output == true,
  }
end

return meta
