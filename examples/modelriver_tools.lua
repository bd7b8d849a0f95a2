-- A model that has functions of this script called. With MODELRIVER_API_KEY set ModelRiver answers (workflow:
-- MODELRIVER_WORKFLOW), otherwise the function below plays the model.

local json = require "riverlua.json"
local modelriver = require "modelriver"

local live = os.getenv("MODELRIVER_API_KEY") ~= nil
local workflow = live and os.getenv("MODELRIVER_WORKFLOW") or "assistant"

-- Asks for the weather of two cities at once, then puts the results into a sentence.
if not live then
  modelriver.embedded.workflow(workflow, function(request)
    local results = {}
    for _, message in ipairs(request.messages) do
      if message.role == "tool" then results[#results + 1] = json.decode(message.content) end
    end
    if #results == 0 then
      return {tool_calls = {
        {name = "weather", arguments = {city = "Oslo"}},
        {name = "weather", arguments = {city = "Lisbon"}},
      }}
    end
    return ("%s: %d degrees, %s: %d degrees."):format(results[1].city, results[1].degrees, results[2].city,
      results[2].degrees)
  end)
end

local client <close> = modelriver.Client{base_url = not live and "embedded:" or nil}

local degrees = {Oslo = -3, Lisbon = 17}

local answer = client:run{
  workflow = workflow,
  messages = {modelriver.user("How warm is it in Oslo and in Lisbon?")},
  tools = {
    weather = {
      description = "The temperature of a city, in degrees Celsius.",
      parameters = {type = "object", properties = {city = {type = "string"}}, required = {"city"}},
      fn = function(arguments)
        local found = degrees[arguments.city]
        if not found then error("no weather is known for " .. arguments.city) end   -- the model is told
        return {city = arguments.city, degrees = found}
      end,
    },
  },
  approve = function(name, arguments)
    print(("the model calls %s(%s)"):format(name, json.encode(arguments)))
    return true
  end,
}

print(answer:text())
print(("%d rounds, %d messages"):format(answer.rounds, #answer.messages))
