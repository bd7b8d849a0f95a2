-- Compares estimators of the embedded service with the Python library, prediction by prediction.
--
--     local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()   (busted's names are in _ENV)
--     equal.check("naive_bayes", {
--       gaussian = {model = river.naive_bayes.GaussianNB(), on = {"phishing", "images"}},
--     })
--
-- makes one test per model and data set. A model is described once, in Lua; the library gets it as a pickle. What it
-- computed is kept under build/reference and used again until the model, the script or the library changes.

local json = require "riverlua.json"
local learning = require "river.embedded.learning"
local registry = require "river.embedded.registry"
local row = require "river.embedded.row"
local python = require "river.embedded.python"

local equal = {}

local SCRIPT = "tests/river_embedded/reference.py"
local REQUIREMENTS = "tests/requirements.txt"
local CACHE = "build/reference"
local COUNT = 1000

local reference_python = dofile("tests/support/python.lua")

local function read_file(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

-- FNV-1a: names the answer to a question.
local function fingerprint(text)
  local hash = 0xcbf29ce484222325
  for i = 1, #text do hash = (hash ~ text:byte(i)) * 0x100000001b3 end
  return ("%016x"):format(hash)
end

local function run(arguments, input)
  local name = os.tmpname()
  local file = assert(io.open(name, "wb"))
  file:write(input or "")
  file:close()
  local pipe = assert(io.popen(("%s %s %s < %s"):format(reference_python.command, SCRIPT, arguments, name)))
  local text = pipe:read("a")
  local ok = pipe:close()
  os.remove(name)
  assert(ok, SCRIPT .. " failed")
  return text
end

-- Where the answer of the script to a question is kept.
local function place_of(arguments, input)
  local version = read_file(SCRIPT) .. read_file(REQUIREMENTS) .. reference_python.variables
  return ("%s/%s.json"):format(CACHE, fingerprint(version .. arguments .. "\n" .. input))
end

local function keep(path, text)
  assert(os.execute("mkdir -p " .. CACHE))
  local part = path .. os.tmpname():gsub("/", ".")
  local file = assert(io.open(part, "wb"))
  file:write(text)
  file:close()
  assert(os.rename(part, path))
end

-- The answer of the script to a question, asked once.
local function cached(arguments, input)
  local path = place_of(arguments, input)
  local text = read_file(path)
  if not text then
    text = run(arguments, input)
    keep(path, text)
  end
  return text
end

-- The same for many questions of a line each: those not asked before are asked together.
local function ask_all(questions)
  local unknown = {}
  for _, question in ipairs(questions) do
    if not read_file(place_of("run", question)) then unknown[#unknown + 1] = question end
  end
  if #unknown == 0 then return end
  local at = 0
  for line in run("run", table.concat(unknown)):gmatch("[^\n]+") do
    at = at + 1
    keep(place_of("run", unknown[at]), line .. "\n")
  end
  assert(at == #unknown, SCRIPT .. " did not answer all questions")
end

local kept = {}

--- The samples of a data set: an array of {features, label}.
---@param name string one of those in reference.py
---@param count integer|nil default 1,000
---@return table[]
function equal.samples(name, count)
  count = count or COUNT
  local key = name .. " " .. count
  if not kept[key] then
    local list = {}
    for line in cached("samples " .. key, ""):gmatch("[^\n]+") do list[#list + 1] = json.decode(line) end
    kept[key] = list
  end
  return kept[key]
end

-- A case on a data set as the script is asked for it.
local function question_of(case, samples)
  local bytes = require("river.pickle").dumps(case.model, {allow = case.allow})
  return json.encode({
    model = bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end), samples = samples,
    count = case.count or COUNT, predict = case.predict, supervised = case.supervised ~= false,
  }, {sort = true}) .. "\n"
end

-- What the library predicts.
local function reference(case, samples)
  local answer = json.decode(cached("run", question_of(case, samples)), {nan = true})
  assert(not answer.error, answer.error)
  return answer.predictions
end

local compared = {}
compared.__index = compared

local function label_of(value)
  if value == nil or value == json.null or value == python.None then return python.None end
  return value
end

function compared:number(ours, theirs, what)
  assert(type(ours) == "number", ("%s: %s instead of %.17g"):format(what, tostring(ours), theirs))
  if ours == theirs or ours ~= ours and theirs ~= theirs then return end
  local difference = math.abs(ours - theirs) / math.max(math.abs(ours), math.abs(theirs))
  assert(difference < self.tolerance, ("%s: %.17g instead of %.17g"):format(what, ours, theirs))
  self.worst = math.max(self.worst, difference)
end

function compared:value(ours, theirs, what, order)
  if type(theirs) == "table" then
    assert(type(ours) == "table", ("%s: %s instead of probabilities"):format(what, tostring(ours)))
    assert(order, what .. ": no order beside the probabilities")
    assert(#order == #theirs, ("%s: %d labels instead of %d"):format(what, #order, #theirs))
    for i, pair in ipairs(theirs) do
      local label = label_of(pair[1])
      assert(order[i] == label, ("%s: label %s at place %d instead of %s"):format(what, tostring(order[i]), i,
        tostring(label)))
      self:number(ours[label], pair[2], ("%s, %s"):format(what, tostring(label)))
    end
  elseif type(theirs) == "number" then
    self:number(ours, theirs, what)
  else
    assert(label_of(ours) == label_of(theirs), ("%s: %s instead of %s"):format(what, tostring(ours), tostring(theirs)))
  end
end

--- Runs one model over one data set on both sides; raises at the first difference.
---@param case table see `equal.check`
---@param samples string name of the data set
---@return number worst the largest relative difference
function equal.compare(case, samples)
  local count = case.count or COUNT
  local theirs = reference(case, samples)
  local model = registry.build(case.model)
  local entry = {model = model, reader = row.reader()}
  local function read(x) return (learning.read_features(entry, x)) end
  local result = setmetatable({worst = 0, tolerance = case.tolerance or 1e-9}, compared)
  local method = model.aliases and model.aliases[case.predict] or case.predict
  for i, sample in ipairs(equal.samples(samples, count)) do
    local prediction, order = model[method](model, read(sample[1]))
    local expected = theirs[i]
    result:value(prediction, expected, "prediction " .. i, order)
    if case.supervised ~= false then
      model:check_target(sample[2])
      model:learn_one(read(sample[1]), sample[2])
    else
      model:learn_one(read(sample[1]))
    end
  end
  return result.worst
end

--- Declares the tests of a table of cases.
---@param title string
---@param cases table<string, table> name → {model = description, on = data sets, predict = "predict_one" (default),
--- "predict_proba_one" or "score_one", supervised = false when it learns without label, count = 1000, tolerance = 1e-9,
--- allow = names outside the library}
function equal.check(title, cases)
  local names = {}
  for name in pairs(cases) do names[#names + 1] = name end
  table.sort(names)
  local questions = {}
  for _, name in ipairs(names) do
    local case = cases[name]
    case.predict = case.predict or "predict_one"
    for _, samples in ipairs(case.on) do questions[#questions + 1] = question_of(case, samples) end
  end
  describe(title .. " as the Python library:", function()
    setup(function() ask_all(questions) end)
    for _, name in ipairs(names) do
      local case = cases[name]
      for _, samples in ipairs(case.on) do
        it(("%s on %s"):format(name, samples), function()
          local worst = equal.compare(case, samples)
          if os.getenv("RIVER_EMBEDDED_REPORT") then print(("%s on %s: %g"):format(name, samples, worst)) end
        end)
      end
    end
  end)
end

return equal
