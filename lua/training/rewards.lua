--- Answers in texts, and whether they are right: `\boxed{…}`, the answers of GSM8K, numbers as people write them.
--
--     local rewards = require "training.rewards"
--     rewards.boxed("… so it is \\boxed{1,234}", "She has 1234\n#### 1,234")   --> 1.0
--
-- Texts come from models, so they may be anything: every function takes time in proportion to the text, and looks only
-- at its last MiB. Nothing here runs what a text says.

local errors = require "riverlua.errors"

local rewards = {}

local LONGEST_TEXT = 1 << 20    -- where an answer is looked for
local LONGEST_NUMBER = 4096     -- digits; longer texts are compared as they are

local function tail(text) return #text > LONGEST_TEXT and text:sub(-LONGEST_TEXT) or text end

-- Without white space at both ends; one walk from each.
local function trimmed(text)
  local first = text:find("%S")
  if not first then return "" end
  local last = #text
  while text:find("^%s", last) do last = last - 1 end
  return text:sub(first, last)
end

-- ---------------------------------------------------------------------------------------------------------- boxed

-- Where the content of the last complete box with a name begins and ends. Braces are paired in one walk; a backslash
-- before a brace takes its meaning.
local function last_box(text, name)
  local open, depth = {}, 0   -- for each open brace: where the box's content begins, or false
  local best_start, best_stop = 0, nil
  local box = "^" .. name .. "%s*{()"
  local at = text:find("\\", 1, true)   -- before the first box braces do not matter
  while at do
    at = text:find("[\\{}]", at)
    if not at then break end
    local char = text:byte(at)
    if char == 123 then          -- {
      depth = depth + 1
      open[depth] = false
      at = at + 1
    elseif char == 125 then      -- }
      if depth > 0 then
        local start = open[depth]
        depth = depth - 1
        if start and start > best_start then best_start, best_stop = start, at - 1 end
      end
      at = at + 1
    else
      local _, run = text:find("^\\+", at)
      local start = text:match(box, run + 1)
      if start then
        depth = depth + 1
        open[depth] = start
        at = start
      else
        at = run + ((run - at) % 2 == 0 and 2 or 1)   -- an odd backslash takes the next character with it
      end
    end
  end
  return best_stop and best_start, best_stop
end

--- What stands in the last complete `\boxed{…}` of a text (`\fbox{…}` if there is none), without white space at its
--- ends; nil when there is none. Braces inside may be nested; of nested boxes the innermost last one counts.
---@param text string
---@return string|nil
function rewards.extract_boxed(text)
  text = tail(errors.expect("extract_boxed", "text", text, "string"))
  local start, stop = last_box(text, "boxed")
  if not start then start, stop = last_box(text, "fbox") end
  return start and trimmed(text:sub(start, stop)) or nil
end

-- ---------------------------------------------------------------------------------------------------------- GSM8K

--- The answer of a row of GSM8K: the number behind the last `####`, without the commas between its digits; what else
--- stands there when it is no number. nil when there is no `####`, or nothing behind it.
---@param answer string
---@return string|nil
function rewards.extract_gsm8k_answer(answer)
  answer = tail(errors.expect("extract_gsm8k_answer", "answer", answer, "string"))
  local back = answer:reverse():find("####", 1, true)
  if not back then return nil end
  local rest = trimmed(answer:sub(#answer - back + 2):match("^[^\r\n]*"))
  local digits = rest:match("^%$?(%-?[%d.,]+)")
  if digits and digits:find("%d") then rest = digits:gsub(",", ""):gsub("%.$", "") end
  return rest ~= "" and rest or nil
end

-- -------------------------------------------------------------------------------------------------------- numbers

-- What may stand around a number without changing it.
local function bare(text)
  text = trimmed(text)
  text = text:gsub("^\\?%$", ""):gsub("%.$", ""):gsub("\\?%$$", "")
  text = text:gsub("\\[!,;]", ""):gsub("{,}", ",")
  return trimmed(text)
end

-- A finite float in digits, as few as read back as the same one.
local function digits_of(value)
  local whole = math.tointeger(value)
  if whole then return ("%d"):format(whole) end
  for _, form in ipairs{"%.15g", "%.16g", "%.17g"} do
    local text = form:format(value)
    if tonumber(text) == value then return text end
  end
end

-- Digits before and behind the point, moved by an exponent.
local function moved(whole, fraction, exponent)
  if exponent >= 0 then
    fraction = fraction .. ("0"):rep(exponent - #fraction)
    return whole .. fraction:sub(1, exponent), fraction:sub(exponent + 1)
  end
  whole = ("0"):rep(-exponent - #whole) .. whole
  return whole:sub(1, exponent - 1), whole:sub(exponent) .. fraction
end

-- 1,234 but not 1,2: that could be a list.
local function without_commas(whole)
  if not whole:find(",", 1, true) then return whole end
  local first, rest = whole:match("^(%d%d?%d?)(,.*)$")
  if not first or #rest % 4 ~= 0 or rest:gsub(",%d%d%d", "") ~= "" then return nil end
  return (whole:gsub(",", ""))
end

--- A number in one form for all its spellings: no sign `+`, no dollar sign, no commas between thousands, no zeros that
--- say nothing, no exponent. "1,234.50", "$1234.5.", "+1234.5", "1.2345e3" → "1234.5"; nil when the text is no number
--- (also for "nan", "inf" and hexadecimal ones). Numbers of any length stay exact.
---@param value string|number
---@return string|nil
function rewards.number(value)
  if type(value) == "number" then
    if value - value ~= 0 then return nil end
    value = digits_of(value)
  end
  local text = errors.expect("rewards.number", "value", value, "string")
  if #text > LONGEST_NUMBER then return nil end
  local sign, digits, exponent = bare(text):match("^([+-]?)%s*%$?([%d.,]+)([eE]?[+-]?%d*)$")
  if not sign then return nil end
  local whole, fraction = digits:match("^([%d,]*)%.?(%d*)$")
  whole = whole and without_commas(whole)
  if not whole or whole .. fraction == "" then return nil end
  if exponent ~= "" then
    exponent = math.tointeger(tonumber(exponent:match("^[eE]([+-]?%d%d?%d?)$")))
    if not exponent then return nil end
    whole, fraction = moved(whole, fraction, exponent)
  end
  whole = whole:gsub("^0+", "")
  fraction = fraction:reverse():gsub("^0+", ""):reverse()
  local plain = (whole == "" and "0" or whole) .. (fraction ~= "" and "." .. fraction or "")
  return (sign == "-" and plain ~= "0") and "-" .. plain or plain
end

--- Whether two texts are the same number.
---@param a string|number
---@param b string|number
---@return boolean
function rewards.same_number(a, b)
  local one = rewards.number(a)
  return one ~= nil and one == rewards.number(b)
end

local function as_text(value) return type(value) == "number" and (rewards.number(value) or "") or value end

--- Whether two answers are the same: the same text but for white space at the ends, or the same number. An answer that
--- is not there (nil, or empty) equals nothing.
---@param a string|number|nil
---@param b string|number|nil
---@return boolean
function rewards.same_answer(a, b)
  if a == nil or b == nil then return false end
  a = trimmed(as_text(errors.expect("same_answer", "a", a, "string|number")))
  b = trimmed(as_text(errors.expect("same_answer", "b", b, "string|number")))
  if a == "" or b == "" then return false end
  return a == b or rewards.same_number(a, b)
end

--- The reward of the GSM8K example: 1.0 when the last `\boxed{…}` of a sample is the right answer, else 0.0. The
--- answer is a row's (with `####`), or the bare text or number.
---@param text string what the model wrote
---@param answer string|number
---@return number
function rewards.boxed(text, answer)
  errors.expect("rewards.boxed", "answer", answer, "string|number")
  if type(answer) == "string" and answer:find("####", 1, true) then
    answer = rewards.extract_gsm8k_answer(answer) or ""
  end
  return rewards.same_answer(rewards.extract_boxed(text), answer) and 1.0 or 0.0
end

return rewards
