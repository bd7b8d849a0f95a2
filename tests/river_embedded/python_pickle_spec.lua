--- Models that Python trained and pickled go on in the embedded service: the same predictions, bit for bit.

local json = require "riverlua.json"
local support = dofile("tests/river_embedded/support.lua")

local PYTHON = dofile("tests/support/python.lua").command

-- What these learned stays in Python: they are refused.
local REFUSED = {["a tree"] = true}

local function from_hex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function lines_of(script)
  local pipe = assert(io.popen(("%s tests/river_embedded/%s </dev/null"):format(PYTHON, script)))
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = json.decode(line) end
  assert(pipe:close(), script .. " failed")
  return lines
end

describe("a pickle of Python's", function()
  local lines = lines_of "python_models.py"

  local function load(line)
    local service = support.open()
    local answer = service.send("POST", ("/model/%s/m/"):format(line.flavor), {body = from_hex(line.hex)})
    return service, answer
  end

  local function predictions_of(service, line)
    local list = {}
    for i, sample in ipairs(line.samples) do
      list[i] = service.predict{model = "m", features = sample.x}:json().prediction
      assert.equal(201, service.learn{model = "m", features = sample.x, ground_truth = sample.y}.status)
    end
    return list
  end

  local function expected_of(line)
    local list = {}
    for i, sample in ipairs(line.samples) do list[i] = sample.prediction end
    return list
  end

  for _, line in ipairs(lines) do
    if REFUSED[line.model] then
      it("whose learning cannot be read is refused with a reason: " .. line.model, function()
        local _, answer = load(line)
        assert.equal(400, answer.status)
        assert.truthy(answer:json().message:find("has learned in Python cannot be read", 1, true), answer.body)
      end)
    else
      it("goes on: " .. line.model, function()
        local service, answer = load(line)
        assert.equal(201, answer.status, answer.body)
        assert.same(expected_of(line), predictions_of(service, line))
      end)

      it("comes back as it was: " .. line.model, function()
        local service = load(line)
        local again = support.open()
        local bytes = service.send("GET", "/model/download/m/").body
        assert.equal(201, again.send("POST", ("/model/%s/m/"):format(line.flavor), {body = bytes}).status)
        assert.same(expected_of(line), predictions_of(again, line))
      end)
    end
  end
end)
