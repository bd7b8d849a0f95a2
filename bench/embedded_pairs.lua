-- Learn and predict in turn on `embedded:`, through the client: riverlua bench/embedded_pairs.lua linear|tree [samples]
-- Prints "start" and "end <CPU seconds>" around the work, which repeats the samples as often as asked for.

local river = require "river"
local support = dofile("tests/river_embedded/support.lua")

local kind, count = arg[1], math.tointeger(tonumber(arg[2] or "20000"))

-- Clusters around the corners of a cube, the same in embedded_pairs.py: a tree splits on them.
local function clusters()
  local state, samples = 1, {}
  local function uniform()
    state = (state * 1103515245 + 12345) % 2147483648
    return state / 2147483648
  end
  for i = 1, 5000 do
    local x, label = {}, 0
    for k = 0, 5 do
      local side = uniform() < 0.5 and 1 or 0
      if k < 3 then label = label + (side << k) end
      x["x" .. k] = side + 0.6 * uniform()
    end
    samples[i] = {x, label % 4}
  end
  return samples
end

local KINDS = {
  linear = {"regression", support.trump, function()
    return river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
  end},
  tree = {"multiclass", clusters, function() return river.tree.HoeffdingTreeClassifier() end},
}

local flavor, make_samples, make_model = table.unpack(KINDS[kind])
local samples = make_samples()
local cli <close> = river.Client("embedded:")
cli:upload_model(make_model(), flavor, "m")

io.stdout:setvbuf("no")
print("start")
local cpu = os.clock()
local sum = 0
for i = 1, count do
  local sample = samples[(i - 1) % #samples + 1]
  local prediction = cli:predict("m", sample[1]).prediction
  cli:learn("m", sample[1], sample[2])
  if prediction then sum = sum + prediction end
end
print(("end %.6f %.12g"):format(os.clock() - cpu, sum))
