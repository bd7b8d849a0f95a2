-- The workflows that the server of these tests offers.

local modelriver = require "modelriver"
local task = require "riverlua.task"

local workflow = modelriver.embedded.workflow

workflow("echo", function(_, context) return context.text end)
workflow("slow", function(_, context)
  task.sleep(0.05)
  return context.text
end)
workflow("pieces", function(_, context)
  for word in context.text:gmatch("%S+%s*") do context.emit(word) end
end)
workflow("endless", function(_, context)
  while true do
    context.emit("x")
    task.sleep(0.001)
  end
end)
workflow("tools", function(request)
  local last = request.messages[#request.messages]
  if last.role == "tool" then return "The tool said " .. last.content end
  return {tool_calls = {{name = "weather", arguments = {city = "Oslo"}}}}
end)
workflow("broken", function() error{status = 504, message = "Upstream timeout", reason = "timeout"} end)
workflow("film", {event_name = "new_film", respond = function() return {title = "Heat"} end})
