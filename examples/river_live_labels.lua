-- Live classification: web sites are judged when they are visited; whether one was phishing is known 20 visits later.
--
--   riverlua examples/river_live_labels.lua                                      a River service in this process
--   RIVER_ML_URL=http://localhost:8000 riverlua examples/river_live_labels.lua   a django-river-ml server
--
-- Every prediction is asked for with an identifier: the server keeps the sample until its label comes, so this program
-- has to remember nothing but the answer.

local chart = require "riverlua.chart"
local river = require "river"

local DELAY, VISITS, REPORT = 20, 500, 100

local folder = arg[0]:match("^(.*/)") or "./"
local address = os.getenv("RIVER_ML_URL") or ""
local cli <close> = river.Client(address ~= "" and address or "embedded:")

local name = cli:upload_model(river.preprocessing.StandardScaler() | river.linear_model.LogisticRegression(), "binary")
local visits = river.datasets.csv(folder .. "data/phishing.csv.gz",
  {target = "is_phishing", types = {is_phishing = "boolean"}})

local open, rows = {}, {}             -- answers that wait for their label; the report
local right, warned, missed = 0, 0, 0

-- The truth about a visit has come: teach the model, and see whether it was right.
local function reveal(visit, number)
  local warning = visit.answer.likeliest == true
  visit.answer:label(visit.truth)
  if warning == visit.truth then right = right + 1 end
  if warning then warned = warned + 1 end
  if visit.truth and not warning then missed = missed + 1 end
  if number % REPORT == 0 then
    rows[#rows + 1] = {number, right / number, warned, missed}
  end
end

local count = 0
for x, truth in visits:take(VISITS) do
  count = count + 1
  open[count] = {answer = cli:predict(name, x, {identifier = true}), truth = truth}
  local known = count - DELAY
  if known >= 1 then
    reveal(open[known], known)
    open[known] = nil
  end
end
for number = count - DELAY + 1, count do reveal(open[number], number) end

print(("%d visits, each label %d visits late"):format(count, DELAY))
print(chart.table(rows, {columns = {
  {title = "labels"}, {title = "right", format = function(part) return ("%.1f%%"):format(100 * part) end},
  {title = "warned"}, {title = "missed"},
}}))
print(("the server's own count: accuracy %.3f"):format(cli:metrics(name).Accuracy))
cli:delete_model(name)
