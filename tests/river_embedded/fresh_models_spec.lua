-- Models fresh from Python, of classes whose learning is not read from pickles: taken, and equal from then on; those
-- that have learned are refused in words.

local json = require "riverlua.json"
local support = dofile("tests/river_embedded/support.lua")

local PYTHON = dofile("tests/support/python.lua").command

local function from_hex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function models()
  local pipe = assert(io.popen(("%s tests/river_embedded/fresh_models.py </dev/null"):format(PYTHON)))
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = json.decode(line) end
  assert(pipe:close())
  return lines
end

local function compare(compared, ours, theirs, what)
  if type(theirs) == "table" then
    for label, p in pairs(theirs) do compared.add(ours[label], p, what .. ", " .. label) end
    for label in pairs(ours) do assert(theirs[label] ~= nil, what .. ": extra label " .. label) end
  elseif type(theirs) == "number" then
    compared.add(ours, theirs, what)
  else
    assert.equal(theirs ~= json.null and theirs or nil, ours, what)
  end
end

describe("a model that Python made", function()
  for _, model in ipairs(models()) do
    local path = ("/model/%s/m/"):format(model.flavor)

    it("and did not teach learns here as there: " .. model.name, function()
      local service, compared = support.open(), support.comparison()
      local answer = service.send("POST", path, {body = from_hex(model.fresh)})
      assert.equal(201, answer.status, answer.body)
      for i, sample in ipairs(model.samples) do
        local predicted = service.predict{model = "m", features = sample.x}
        assert.is_true(predicted.status < 300, predicted.body)
        compare(compared, predicted:json().prediction, sample.prediction, "prediction " .. i)
        local y = sample.y
        if model.flavor == "cluster" or model.flavor == "custom" then y = nil end
        answer = service.learn{model = "m", features = sample.x, ground_truth = y}
        assert.equal(201, answer.status, answer.body)
      end
    end)

    it("and taught is refused: " .. model.name, function()
      local answer = support.open().send("POST", path, {body = from_hex(model.taught)})
      assert.equal(400, answer.status)
      assert.truthy(answer:json().message:find("has learned in Python cannot be read", 1, true), answer.body)
    end)
  end
end)
