-- riverlua.json against lua-cjson, both ways, in one process: medians of interleaved runs.
--
--     build/riverlua bench/json.lua [runs]
--
-- A ratio above 1 means that riverlua.json is faster. cjson prints 14 digits and loses the rest; ours is exact.

local cjson = require "cjson"
local json = require "riverlua.json"

local runs = math.max(5, math.tointeger(tonumber(arg and arg[1] or nil) or 7))

local function repeated(n, make)
  local t = {}
  for i = 1, n do t[i] = make(i) end
  return t
end

math.randomseed(42)

local features = {
  clouds = 75, humidity = 81, ordinal_date = 735950, pressure = 1017.0, temperature = 6.54, wind = 9.3,
  station = "metro-canal-du-midi",
}

local documents = {
  {"request", {model = "phobic-general", ground_truth = 4, identifier = "2ea0f2d4-1c11-4a5a-b1f5-2f9f2a0d7c3e",
    features = features}},
  {"response", {model = "phobic-general", identifier = "2ea0f2d4-1c11-4a5a-b1f5-2f9f2a0d7c3e",
    prediction = 3.8263527163516235, status = "success", features = features}},
  {"floats", repeated(1000, function() return (math.random() - 0.5) * 10 ^ math.random(-5, 5) end)},
  {"short floats", repeated(1000, function() return math.random(0, 100000) / 100 + 0.5 end)},
  {"ints", repeated(1000, function(i) return math.random(-1000, 1000) * i end)},
  {"ascii text", repeated(50, function(i) return ("The river learns one example at a time. "):rep(i % 9 + 1) end)},
  {"escaped text", repeated(50, function(i)
    return ('She said: "tab\there"\nand C:\\temp\\%d\n'):format(i):rep(5)
  end)},
  {"non-ASCII text", repeated(50, function(i) return ("Größe: naïve café – Река учится, 川は学ぶ 🙂 "):rep(i % 5 + 1) end)},
  {"records", repeated(100, function(i)
    return {id = i, name = "user" .. i, active = i % 2 == 0, score = i * 1.25, tags = {"a", "b", "c" .. i % 7}}
  end)},
  {"nested", {config = {optimizer = {name = "SGD", lr = 0.01, schedule = {1, 2, 3}}, steps = {
    {StandardScaler = {with_std = true}},
    {LinearRegression = {l2 = 0.0, intercept_lr = 0.01, weights = {a = 1.5, b = -2.5}}}}},
    metrics = {MAE = 1.234567, RMSE = 2.345678, SMAPE = 12.5}, history = repeated(20, function(i)
      return {step = i, loss = 1 / i, ok = true}
    end)}},
}

local function median(t)
  table.sort(t)
  return t[(#t + 1) // 2]
end

-- Seconds for one call, over enough calls to be measured.
local function time_once(f, x, n)
  local start = os.clock()
  for _ = 1, n do f(x) end
  return (os.clock() - start) / n
end

local function calls_for(f, x)
  local n = 1
  while true do
    local start = os.clock()
    for _ = 1, n do f(x) end
    local spent = os.clock() - start
    if spent > 0.01 then return math.max(1, math.floor(n * 0.03 / spent)) end
    n = n * 2
  end
end

local function compare(ours, theirs, x)
  local n = calls_for(ours, x)
  local a, b, ratios = {}, {}, {}
  for i = 1, runs do
    collectgarbage()
    a[i] = time_once(ours, x, n)
    collectgarbage()
    b[i] = time_once(theirs, x, n)
    ratios[i] = b[i] / a[i]
  end
  return median(ratios), median(a), median(b)
end

local worst, product, count = math.huge, 1, 0
local function report(name, what, ratio, a, b)
  print(("%-16s %-7s %6.2f   (%.2f us, cjson %.2f us)"):format(name, what, ratio, a * 1e6, b * 1e6))
  worst, product, count = math.min(worst, ratio), product * ratio, count + 1
end

print(("%-16s %-7s %6s"):format("document", "", "ratio"))
for _, document in ipairs(documents) do
  local name, value = document[1], document[2]
  local text = json.encode(value)
  report(name, "encode", compare(json.encode, cjson.encode, value))
  report(name, "decode", compare(json.decode, cjson.decode, text))
end
print(("riverlua.json / lua-cjson: geometric mean %.2f, worst %.2f, %d measurements, medians of %d runs")
  :format(product ^ (1 / count), worst, count, runs))
