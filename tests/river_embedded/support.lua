-- What the tests of the embedded service share: the recorded numbers and the streams they were recorded from.

local json = require "riverlua.json"
local embedded = require "river.embedded"

local support = {}

local FOLDER = "tests/river_embedded/"

function support.read_file(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

function support.write_file(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  file:close()
end

function support.reference()
  return json.decode(support.read_file(FOLDER .. "reference.json"))
end

-- ------------------------------------------------------------------------------------------------------ streams

local function generator(seed)
  local state = seed
  return function()
    state = (state * 1103515245 + 12345) % 2147483648
    return state / 2147483648.0
  end
end

function support.synthetic(kind, count)
  local uniform, samples = generator(20240229), {}
  for i = 1, count or 1000 do
    local x = {}
    for j = 0, 7 do
      local value = (uniform() - 0.5) * 10.0 ^ (j - 3)
      if not (j >= 5 and uniform() < 0.3) then x[("abcdefgh"):sub(j + 1, j + 1)] = value end
    end
    x.flag = uniform() < 0.5
    x.whole = math.floor(uniform() * 100)
    local score = 3 * x.b - 20 * x.a + 0.01 * x.whole + (x.flag and 1.0 or 0.0) + uniform()
    if kind == "binary" then score = score > 1.5 end
    samples[i] = {x, score}
  end
  return samples
end

function support.trump()
  local samples, names = {}, nil
  for line in io.lines("examples/data/trump_approval.csv") do
    local fields = {}
    for field in line:gmatch("[^,\r]+") do fields[#fields + 1] = field end
    if not names then
      names = fields
    else
      local x = {}
      for i, name in ipairs(names) do x[name] = tonumber(fields[i]) end
      local y = x.five_thirty_eight + 0.0
      x.five_thirty_eight = nil
      samples[#samples + 1] = {x, y}
    end
  end
  return samples
end

function support.phishing(reference)
  local samples, names = {}, reference.phishing.names
  for i, values in ipairs(reference.phishing.rows) do
    local x = {}
    for j, name in ipairs(names) do x[name] = values[j] end
    samples[i] = {x, values[#names + 1]}
  end
  return samples
end

-- ----------------------------------------------------------------------------------------------------- requests

--- A service and shorthands for its requests.
function support.open(options)
  local service = embedded.new(options)
  local api = {service = service}

  function api.send(method, path, fields)
    local req = {method = method, path = "/api" .. path}
    for name, value in pairs(fields or {}) do req[name] = value end
    return service:request(req)
  end

  function api.upload(model, flavor, name)
    return api.send("POST", "/model/" .. flavor .. (name and "/" .. name or "") .. "/", {model = model})
  end

  function api.learn(body) return api.send("POST", "/learn/", {json = body}) end

  function api.predict(body) return api.send("POST", "/predict/", {json = body}) end

  function api.metrics(name) return api.send("GET", "/metrics/", {json = {model = name}}):json() end

  return api
end

--- The error that a call raises; fails when there is none.
function support.error_of(call, ...)
  local ok, problem = pcall(call, ...)
  assert(not ok, "an error was expected")
  return problem
end

--- The largest relative difference, kept while comparing.
function support.comparison()
  local compared = {worst = 0, count = 0}
  local words = {nan = true, inf = math.huge, ["-inf"] = -math.huge}
  function compared.add(ours, theirs, what)
    compared.count = compared.count + 1
    if words[theirs] then
      local same = theirs == "nan" and ours ~= ours or ours == words[theirs] or ours == theirs
      assert(same, ("%s: %s instead of %s"):format(what, tostring(ours), theirs))
      return
    end
    local difference = math.abs(ours - theirs)
    if difference > 0 then difference = difference / math.max(math.abs(ours), math.abs(theirs)) end
    assert(difference < 1e-9, ("%s: %.17g instead of %.17g"):format(what, ours, theirs))
    compared.worst = math.max(compared.worst, difference)
  end
  return compared
end

return support
