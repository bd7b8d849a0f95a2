--- Tasks that a model of 134,000 parameters can learn, in the shape of GSM8K's rows.
--
--     local rows = require("training.datasets").load("embedded/digits", {split = "train"})
--     print(rows[1].question, rows[1].answer)      --> s4821=     The digits of 4821 in order are 1248.\n#### 1248
--
-- A question asks for the digits of a number of four digits in order. There are 10,000 of them, mixed by a fixed
-- seed: 8,681 for training, of which 7,473 are given unless more are asked for (as many as GSM8K has, which is 29
-- steps of 256), and 1,319 for testing, which the base models have not seen either.

local errors = require "riverlua.errors"

local tasks = {}

local NUMBERS, TEST, TRAIN = 10000, 1319, 7473
local MIX_SEED = 20240601          -- of the order in which the numbers are given to the splits

-- --------------------------------------------------------------------------------------------------------- chance

---@class training.embedded.Random numbers that depend on a seed alone: SplitMix64, as in src/trainer/random.h
---@field state integer
local Random = {}
Random.__index = Random

local function mix(x)
  x = (x ~ x >> 30) * 0xbf58476d1ce4e5b9
  x = (x ~ x >> 27) * 0x94d049bb133111eb
  return x ~ x >> 31
end

--- A stream of its own for each seed.
---@param seed integer
---@return training.embedded.Random
function tasks.random(seed) return setmetatable({state = mix(seed ~ 0x6a09e667f3bcc909)}, Random) end

--- A number from 0 up to 1, which is not among them.
---@return number
function Random:uniform()
  self.state = self.state + 0x9e3779b97f4a7c15
  return (mix(self.state) >> 11) * 2.0 ^ -53
end

--- An integer from 1 to n.
---@param n integer
---@return integer
function Random:below(n) return math.floor(self:uniform() * n) + 1 end

--- Brings a list into another order.
---@generic T
---@param list T[]
---@return T[] # the same list
function Random:shuffle(list)
  for i = #list, 2, -1 do
    local j = self:below(i)
    list[i], list[j] = list[j], list[i]
  end
  return list
end

-- --------------------------------------------------------------------------------------------------------- digits

local pools   -- numbers as texts, by split

local function numbers_of(split)
  if not pools then
    local all = {}
    for i = 1, NUMBERS do all[i] = ("%04d"):format(i - 1) end
    tasks.random(MIX_SEED):shuffle(all)
    pools = {test = table.move(all, 1, TEST, 1, {}), train = table.move(all, TEST + 1, NUMBERS, 1, {})}
  end
  return pools[split]
end

local function in_order(digits)
  local list = {digits:byte(1, -1)}
  table.sort(list)
  return string.char(table.unpack(list))
end

local function question_of(digits) return ("s%s="):format(digits) end

local OPTIONS = {config = true, split = true, rows = true, limit = true, seed = true}

local function count_of(where, options, name, most)
  local count = errors.expect(where, name, options[name], "integer|nil")
  if count and (count < 1 or count > most) then
    errors.raise{kind = "argument", message = ("%s: '%s' must be from 1 to %d, got %d"):format(where, name, most,
      count)}
  end
  return count
end

--- Rows of a task; what `training.datasets.load` gives for names that begin with "embedded/".
---
--- Options: `split` = "train" or "test" (default: "train"), `rows` (default: 7,473 or 1,319), `limit` = only so
--- many of them, `seed`: another order.
---@param name string "embedded/digits"
---@param options { split: string|nil, rows: integer|nil, limit: integer|nil, seed: integer|nil }
---@return { question: string, answer: string }[]
---@return string[] columns
---@return table info
---Raises kind "argument" for other names and options.
function tasks.load(name, options)
  local where = "datasets.load"
  if name ~= "embedded/digits" then
    errors.raise{kind = "argument", message = ("%s: there is no embedded data set '%s'"):format(where, name),
      hint = "there is \"embedded/digits\""}
  end
  errors.check_options(where, options, OPTIONS)
  local split = options.split or "train"
  if split ~= "train" and split ~= "test" then
    errors.raise{kind = "argument", message = ("%s: 'split' is \"train\" or \"test\", got '%s'"):format(where,
      tostring(split))}
  end
  if options.config ~= nil and options.config ~= "main" then
    errors.raise{kind = "argument", message = ("%s: '%s' has no configuration '%s'"):format(where, name,
      tostring(options.config)), hint = "leave it out"}
  end
  local pool = numbers_of(split)
  local count = count_of(where, options, "rows", #pool) or (split == "train" and TRAIN or TEST)
  local limit = count_of(where, options, "limit", math.maxinteger)
  local seed = errors.expect(where, "seed", options.seed, "integer|nil")
  if seed then pool = tasks.random(seed):shuffle(table.move(pool, 1, #pool, 1, {})) end
  local list = {}
  for i = 1, math.min(count, limit or count) do
    local digits = pool[i]
    local sorted = in_order(digits)
    list[i] = {question = question_of(digits),
      answer = ("The digits of %s in order are %s.\n#### %s"):format(digits, sorted, sorted)}
  end
  return list, {"question", "answer"}, {source = name, split = split}
end

-- ---------------------------------------------------------------------------------------------------- base models

-- What the base models have learned before anybody rewards them: functions from chance to a prompt and a
-- completion.

local function any_digits(random)
  local pool = numbers_of("train")
  return pool[random:below(#pool)]
end

--- "rambler": knows the answer, and mostly thinks aloud before it says so.
---@param random training.embedded.Random
---@return string prompt
---@return string completion
function tasks.rambling(random)
  local digits = any_digits(random)
  local thought = random:uniform() < 0.75 and ("so we have %s now "):format(digits) or ""
  return question_of(digits), ("%s\\boxed{%s}\n"):format(thought, in_order(digits))
end

--- "guesser": knows the form of an answer, and mostly has the digits in any order.
---@param random training.embedded.Random
---@return string prompt
---@return string completion
function tasks.guessing(random)
  local digits = any_digits(random)
  local answer = in_order(digits)
  if random:uniform() < 0.7 then answer = string.char(table.unpack(random:shuffle{answer:byte(1, -1)})) end
  return question_of(digits), answer .. "\n"
end

return tasks
