--- The same calls by the official Python client and by this one return the same.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local river = require "river"
local null = require("riverlua.json").null

-- Values that must be equal stay; those that differ from run to run are reduced to their type.
local function shape(value)
  if type(value) ~= "table" then return math.type(value) or type(value) end
  local shapes = {}
  for key, item in pairs(value) do shapes[key] = shape(item) end
  return shapes
end

-- null of the raw answer is absent in ours.
local function without_nulls(value)
  if type(value) ~= "table" then return value end
  local copy = {}
  for key, item in pairs(value) do
    if item ~= null then copy[key] = without_nulls(item) end
  end
  return copy
end

describe("this client and the official one", function()
  local server, lines, samples

  setup(function()
    server = support.start_server()
    local path = support.temporary_name()
    lines, samples = {}, {}
    for _, line in ipairs(support.run_python("official.py", server.url, "parity", path)) do
      if line.call == "sample" then
        samples[#samples + 1] = line.value
      else
        lines[#lines + 1] = {call = line.call, value = without_nulls(line.value)}
      end
    end
    os.remove(path)
  end)

  teardown(function()
    if server then server.stop() end
  end)

  it("return the same", function()
    local cli <close> = river.Client(server.url)
    local path = support.temporary_name()
    local ours = {}
    local function show(call, value) ours[#ours + 1] = {call = call, value = value} end
    show("info", cli:info())
    local model = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
    show("upload_model", cli:upload_model(model, "regression", "parity"))
    for _, sample in ipairs(samples) do
      show("predict", cli:predict("parity", sample.x, {identifier = true}))
      show("learn", cli:learn("parity", sample.x, sample.y))
    end
    show("metrics", cli:metrics("parity"))
    show("stats", cli:stats("parity"))
    show("get_model_json", cli:get_model_json("parity"))
    show("models", cli:models())
    show("download_model", cli:download_model("parity", path))
    show("delete_model", cli:delete_model("parity"))
    os.remove(path)

    assert.equal(#lines, #ours)
    assert.equal(20, #samples)
    for index, line in ipairs(lines) do
      local mine = ours[index]
      assert.equal(line.call, mine.call)
      assert.same(shape(line.value), shape(mine.value), line.call)
      if line.call == "predict" then
        assert.equal(line.value.prediction, mine.value.prediction)
      elseif line.call ~= "stats" and line.call ~= "download_model" then
        assert.same(line.value, mine.value, line.call)
      end
    end
  end)

  it("take each other's models", function()
    local cli <close> = river.Client(server.url)
    local path = support.temporary_name()
    cli:upload_model(river.preprocessing.StandardScaler() | river.linear_model.LinearRegression(), "regression", "a")
    for index, sample in ipairs(samples) do
      if index <= 10 then cli:learn("a", sample.x, sample.y) end
    end
    cli:download_model("a", path)
    local file = assert(io.open(path, "rb"))
    local bytes = file:read("a")
    file:close()
    os.remove(path)
    cli:upload_model(bytes, "regression", "b")
    for index = 11, 20 do
      local x = samples[index].x
      assert.equal(cli:predict("a", x).prediction, cli:predict("b", x).prediction)
    end
  end)
end)
