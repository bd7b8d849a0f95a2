-- Facts out of a text, in a form that is checked: the answer fits the JSON Schema, or an error says what does not.
-- With MODELRIVER_API_KEY set ModelRiver answers (workflow: MODELRIVER_WORKFLOW), otherwise the function below.

local modelriver = require "modelriver"
local errors = require "riverlua.errors"

local live = os.getenv("MODELRIVER_API_KEY") ~= nil
local workflow = live and os.getenv("MODELRIVER_WORKFLOW") or "invoice"

local invoice = {
  type = "object",
  properties = {
    number = {type = "string"},
    total = {type = "number", minimum = 0},
    items = {type = "array", items = {
      type = "object",
      properties = {name = {type = "string"}, price = {type = "number"}},
      required = {"name", "price"},
    }},
  },
  required = {"number", "total", "items"},
}

-- Careless at first, as models are: the total is a text. Told so, it mends it. (`validate = false`: the gateway would
-- take that for a failure of the provider, and try the next one.)
if not live then
  modelriver.embedded.workflow(workflow, {validate = false, respond = function(request)
    local total = #request.messages > 1 and '42.5' or '"42.50"'
    return ('{"number": "2026-117", "total": %s, "items": [{"name": "Coffee", "price": 42.5}]}'):format(total)
  end})
end

local client <close> = modelriver.Client{base_url = not live and "embedded:" or nil}
local question = {modelriver.user("Invoice 2026-117: Coffee, 42.50 in all.")}

local ok, err = pcall(client.ai, client, {workflow = workflow, messages = question, schema = invoice})
if ok then
  print("right at once")
elseif errors.is(err, "schema") then
  for _, problem in ipairs(err.problems) do print("at first:", problem.path, problem.message) end
else
  error(err, 0)
end

local answer = client:ai{workflow = workflow, messages = question, schema = invoice, repair = true}
print(("invoice %s: %.2f for %d item(s)%s"):format(answer.data.number, answer.data.total, #answer.data.items,
  answer.repaired and ", after one repair" or ""))
