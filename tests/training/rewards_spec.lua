--- Answers in texts: boxes, GSM8K's answers, numbers; and texts that were made to take long.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "rest_support.lua")
local rewards = require "training.rewards"

local check_error, error_of = support.check_error, support.error_of

-- What extract_boxed finds, said plainly: from every place, the latest first, with a walk of its own.
local function slow_box(text, name)
  for start = #text, 1, -1 do
    local inside = text:match("^\\" .. name .. "%s*{()", start)
    if inside then
      local depth, at = 1, inside
      while at <= #text do
        local char = text:sub(at, at)
        if char == "\\" then
          -- a box inside is one however many backslashes stand before it
          local _, run = text:find("^\\+", at)
          local brace = text:match("^boxed%s*{()", run + 1)
          if name == "fbox" then brace = text:match("^fbox%s*{()", run + 1) end
          if brace then
            depth, at = depth + 1, brace
          else
            at = run + ((run - at) % 2 == 0 and 2 or 1)
          end
        else
          if char == "{" then depth = depth + 1 elseif char == "}" then depth = depth - 1 end
          if depth == 0 then return (text:sub(inside, at - 1):match("^%s*(.-)%s*$")) end
          at = at + 1
        end
      end
    end
  end
  return nil
end

describe("extract_boxed", function()
  it("finds the last complete box", function()
    for text, wanted in pairs{
      ["\\boxed{42}"] = "42",
      ["first \\boxed{1}, no: \\boxed{2}."] = "2",
      ["\\boxed{1} and then \\boxed{2"] = "1",
      ["\\boxed{ \\frac{1}{2} }"] = "\\frac{1}{2}",
      ["$\\boxed {x}$"] = "x",
      ["\\boxed\n{x}"] = "x",
      ["\\boxed{\\boxed{5} }"] = "5",
      ["\\boxed{a \\boxed{5}"] = "5",
      ["\\boxed{\\{1, 2\\}}"] = "\\{1, 2\\}",
      ["\\boxed{\\{}"] = "\\{",
      ["\\boxed{\\\\}"] = "\\\\",
      ["\\\\boxed{7}"] = "7",
      ["{\\boxed{7}"] = "7",
      ["}}\\boxed{7}"] = "7",
      ["\\fbox{8}"] = "8",
      ["\\boxed{7} \\fbox{8}"] = "7",
      ["\\boxed{}"] = "",
      ["\\boxed{12 apples}"] = "12 apples",
      ["\\boxed{\xff}"] = "\xff",
    } do
      assert.equal(wanted, rewards.extract_boxed(text), text)
    end
    for _, text in ipairs{"", "42", "boxed{42}", "\\boxed42", "\\boxed{42", "\\boxed{{42}", "\\boxed}", "\\boxed {",
      "\\unboxed{1}", "\\boxeds{1}"} do
      assert.is_nil(rewards.extract_boxed(text), text)
    end
  end)

  it("agrees with a plain search on random texts", function()
    local pieces = {"\\boxed{", "\\boxed", "{", "}", "}", "\\", "\\\\", "\\{", "\\}", "1", " ", "\\fbox{", "x"}
    math.randomseed(5)
    local found = 0
    for _ = 1, 20000 do
      local parts = {}
      for i = 1, math.random(12) do parts[i] = pieces[math.random(#pieces)] end
      local text = table.concat(parts)
      local wanted = slow_box(text, "boxed")
      if not wanted and not text:find("\\boxed%s*{") then wanted = slow_box(text, "fbox") end
      -- where both names are mixed the plain search above is not plain enough
      if not (text:find("boxed", 1, true) and text:find("fbox", 1, true)) then
        assert.equal(wanted, rewards.extract_boxed(text), text)
        if wanted then found = found + 1 end
      end
    end
    assert.is_true(found > 2000)
  end)

  it("takes texts only", function()
    check_error(error_of(rewards.extract_boxed), "argument", "must be a string, got nothing")
    check_error(error_of(rewards.boxed, "x"), "argument", "'answer'")
    check_error(error_of(rewards.boxed, nil, 5), "argument", "'text'")
  end)
end)

describe("extract_gsm8k_answer", function()
  it("is what stands behind ####", function()
    for text, wanted in pairs{
      ["16 - 7 = <<16-7=9>>9\n#### 9"] = "9",
      ["#### 1,234"] = "1234",
      ["#### -5"] = "-5",
      ["#### $12.50"] = "12.50",
      ["#### 18."] = "18",
      ["#### 1\n#### 2"] = "2",
      ["#####3"] = "3",
      ["#### 10 dollars\r\n"] = "10",
      ["#### x = 3 "] = "x = 3",
      ["#### 2\nthat is all"] = "2",
    } do
      assert.equal(wanted, rewards.extract_gsm8k_answer(text), text)
    end
    assert.is_nil(rewards.extract_gsm8k_answer("42"))
    assert.is_nil(rewards.extract_gsm8k_answer("#### \n"))
    assert.is_nil(rewards.extract_gsm8k_answer("### 4"))
  end)
end)

describe("numbers", function()
  it("have one form", function()
    for text, wanted in pairs{
      ["1,234.50"] = "1234.5", ["$1234.5"] = "1234.5", ["+1234.5."] = "1234.5", ["1.2345e3"] = "1234.5",
      ["12,345,678"] = "12345678", ["007"] = "7", ["-0"] = "0", ["-0.0"] = "0", [".5"] = "0.5", ["5."] = "5",
      ["-$5"] = "-5", ["$-5"] = "-5", ["\\$5"] = "5", ["5\\$"] = "5", ["1\\,234"] = "1234", ["1{,}234"] = "1234",
      ["1\\!000"] = "1000", [" 42 "] = "42", ["1e-3"] = "0.001", ["12e1"] = "120", ["0.000"] = "0", ["1.10"] = "1.1",
      ["123456789012345678901234567890"] = "123456789012345678901234567890",
    } do
      assert.equal(wanted, rewards.number(text), text)
    end
    for value, wanted in pairs{[0.1] = "0.1", [1e-7] = "0.0000001", [2.5e10] = "25000000000", [-3] = "-3", [7.0] = "7",
      [0.1 + 0.2] = "0.30000000000000004", [1e22] = "10000000000000000000000"} do
      assert.equal(wanted, rewards.number(value))
    end
  end)

  it("are not what only looks like one", function()
    for _, text in ipairs{"", ".", "-", "nan", "inf", "0x10", "1,2", "1,2345", "1234,567", ",5", "1,", "1.2.3", "1e",
      "1e9999", "e5", "1 2", "12a", "½", "1/2", "--5", "5-", ("1"):rep(5000)} do
      assert.is_nil(rewards.number(text), text)
    end
    assert.is_nil(rewards.number(0 / 0))
    assert.is_nil(rewards.number(1 / 0))
    check_error(error_of(rewards.number, {}), "argument", "must be a string")
  end)

  it("and answers are equal, or not", function()
    assert.is_true(rewards.same_number("1,000", 1000))
    assert.is_false(rewards.same_number("nan", "nan"))
    assert.is_false(rewards.same_number("0.1", "0.10000000000000001"))
    assert.is_true(rewards.same_answer(" x+1", "x+1 "))
    assert.is_true(rewards.same_answer("18.0", "$18"))
    assert.is_false(rewards.same_answer("X", "x"))
    assert.is_false(rewards.same_answer(nil, nil))
    assert.is_false(rewards.same_answer("", ""))
    assert.is_false(rewards.same_answer("", " "))
    assert.is_false(rewards.same_answer("5", nil))
    assert.is_false(rewards.same_answer(0 / 0, ""))
  end)
end)

describe("the reward of the example", function()
  it("is 1.0 for the right answer in a box, else 0.0", function()
    local answer = "She has 3 * 6 = <<3*6=18>>18.\n#### 1,018"
    assert.equal(1.0, rewards.boxed("so \\boxed{1018}", answer))
    assert.equal("float", math.type(rewards.boxed("so \\boxed{1018}", answer)))
    for _, text in ipairs{"1018", "\\boxed{1019}", "\\boxed{1018", "\\boxed{}", "", "#### 1018",
      "\\boxed{1018} \\boxed{1}"} do
      assert.equal(0.0, rewards.boxed(text, answer), text)
    end
    assert.equal(1.0, rewards.boxed("\\boxed{1,018.00}", 1018))
    assert.equal(1.0, rewards.boxed("\\boxed{x^2}", "x^2"))
    -- nothing equals nothing: no answer is never right
    assert.equal(0.0, rewards.boxed("", "no answer here"))
    assert.equal(0.0, rewards.boxed("\\boxed{}", "#### "))
  end)
end)

describe("texts that were made to take long", function()
  it("take time in proportion to their length", function()
    -- a walk that is quadratic takes minutes here
    local n = 400000
    for _, text in ipairs{("{"):rep(n), ("}"):rep(n), ("\\boxed{"):rep(n // 7), ("\\"):rep(n), ("\\{"):rep(n // 2),
      "\\boxed" .. (" "):rep(n), ("\\boxed" .. (" "):rep(100)):rep(n // 106), ("#"):rep(n), (" "):rep(n),
      "\\" .. ("{"):rep(n // 2) .. ("}"):rep(n // 2), "\\boxed{" .. (" "):rep(n) .. "}", "#### " .. ("1,"):rep(n // 2),
      "\\boxed{" .. ("1,"):rep(n // 2) .. "}", "\\boxed{1e" .. ("9"):rep(n) .. "}", ("#### "):rep(n // 5),
      "\\boxed{" .. ("0"):rep(n) .. "}", ("\\fbox{\\boxed"):rep(n // 12), ("\n"):rep(n)} do
      assert.equal(0.0, rewards.boxed(text, "#### 7"))
      rewards.extract_gsm8k_answer(text)
      rewards.same_answer(text, text .. "x")
    end
  end)

  it("are looked at from their end", function()
    assert.equal("7", rewards.extract_boxed(("{"):rep(3 << 20) .. "\\boxed{7}"))
    assert.is_nil(rewards.extract_boxed("\\boxed{7}" .. (" "):rep(2 << 20)))
  end)
end)
