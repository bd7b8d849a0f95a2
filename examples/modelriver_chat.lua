-- A conversation whose answers are printed while they come: riverlua examples/modelriver_chat.lua ["a question" …]
-- With MODELRIVER_API_KEY set ModelRiver answers (workflow: MODELRIVER_WORKFLOW), otherwise the function below.

local modelriver = require "modelriver"
local task = require "riverlua.task"

local live = os.getenv("MODELRIVER_API_KEY") ~= nil
local workflow = live and os.getenv("MODELRIVER_WORKFLOW") or "chat"

if not live then
  modelriver.embedded.workflow(workflow, function(request, context)
    local asked = 0
    for _, message in ipairs(request.messages) do
      if message.role == "user" then asked = asked + 1 end
    end
    local text = ("You asked %d %s so far. The last one was: %s"):format(asked, asked == 1 and "thing" or "things",
      context.text)
    for word in text:gmatch("%S+%s*") do
      task.sleep(0.02)   -- a model thinks, too
      context.emit(word)
    end
  end)
end

local client <close> = modelriver.Client{base_url = not live and "embedded:" or nil}
local session = client:session{workflow = workflow, system = "You are brief."}

local questions = #arg > 0 and arg or {"Who wrote Faust?", "And when?"}
for _, question in ipairs(questions) do
  print("> " .. question)
  for event in session:stream(question) do
    if event.delta then
      io.write(event.delta)
      io.flush()
    end
  end
  print()
end
print(("%d messages in the conversation"):format(#session.messages))
