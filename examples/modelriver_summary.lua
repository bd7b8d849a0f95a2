-- A text in, a summary out. With MODELRIVER_API_KEY set ModelRiver answers, with the workflow that MODELRIVER_WORKFLOW
-- names; without a key the function below does, in this process.

local modelriver = require "modelriver"

local live = os.getenv("MODELRIVER_API_KEY") ~= nil
local workflow = live and os.getenv("MODELRIVER_WORKFLOW") or "marketing-summary"

-- Two providers: the first one fails, so the second one serves.
if not live then
  modelriver.embedded.workflow(workflow, {
    cache_fields = {"metadata.audience"},
    providers = {
      {provider = "openai", model = "gpt-4o-mini", respond = function()
        error{status = 504, message = "Upstream timeout", reason = "timeout"}
      end},
      {provider = "anthropic", model = "claude-3-5-sonnet", respond = function(_, context)
        return "In short: " .. context.text:match("^[^.]*%.")
      end},
    },
  })
end

local client <close> = modelriver.Client{base_url = not live and "embedded:" or nil}

local answer = client:ai{
  workflow = workflow,
  format = "wrapped",
  messages = {
    modelriver.system("Summarise in one sentence."),
    modelriver.user("The launch went well. Eight hundred people came, and the demo did not crash once."),
  },
  metadata = {audience = "enterprise customers"},
}

print(answer:text())
print(("served by %s (%s)"):format(answer.meta.provider or "?", answer.meta.model or "?"))
for i, attempt in ipairs(answer.attempts) do
  print(("  try %d: %s %s%s"):format(i, attempt.provider, attempt.status,
    attempt.reason and ", " .. attempt.reason or ""))
end
print("audience:", answer.customer_data["metadata.audience"])
print("used:", client.usage)
