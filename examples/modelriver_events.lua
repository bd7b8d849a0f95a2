-- An event-driven workflow: the model's answer goes to a webhook of ours, which adds what only we know and calls back;
-- whoever waits for the job gets both.
--
-- With MODELRIVER_API_KEY set ModelRiver works (workflow: MODELRIVER_WORKFLOW). It must then reach this machine:
-- WEBHOOK_URL is the address under which it sees PORT, MODELRIVER_WEBHOOK_SECRET the webhook's secret.

local modelriver = require "modelriver"
local server = require "riverlua.server"
local task = require "riverlua.task"

local live = os.getenv("MODELRIVER_API_KEY") ~= nil
local workflow = live and os.getenv("MODELRIVER_WORKFLOW") or "movie-suggestion"
local secret = live and os.getenv("MODELRIVER_WEBHOOK_SECRET") or "whsec_embedded"

if not live then
  modelriver.embedded.workflow(workflow, {event_name = "new_movie_suggestion", respond = function()
    return {title = "Heat", year = 1995}
  end})
end

local client <close> = modelriver.Client{base_url = not live and "embedded:" or nil}
local stock = {Heat = 3}
local seen = {}

-- Answers the webhook at once and does the work afterwards, as a webhook that takes long is sent again.
local function handle(req)
  local event = modelriver.webhook.verify(req.headers, req.body or "", secret)
  if seen[event.dedupe_key] then return {status = 200, body = "seen before"} end
  seen[event.dedupe_key] = true
  if event.callback_required then
    task.spawn(function()
      local movie = event.ai_response.data
      print(("webhook: %s suggests %s"):format(event.event, movie.title))
      if stock[movie.title] then
        client:callback(event, {title = movie.title, in_stock = stock[movie.title]}, {task_id = "movie-1"})
      else
        client:callback_error(event, "not_in_stock", movie.title .. " is not in stock")
      end
    end)
  end
  return {status = 200, body = "ok"}
end

local hooks <close> = server.new{port = tonumber(os.getenv("PORT")) or 0, handler = handle}
local serving <close> = task.spawn(function() hooks:run() end)   -- luacheck: ignore 211

local job = client:ai_async{
  workflow = workflow,
  messages = {modelriver.user("Suggest a film.")},
  webhook_url = os.getenv("WEBHOOK_URL") or ("http://127.0.0.1:%d/"):format(hooks.port),
}
local answer = job:wait{timeout = 60, on_status = function(status) print("job: " .. status) end}
print(("%s: %d in stock (task %s)"):format(answer.data.title, answer.data.in_stock, answer.task_id))
