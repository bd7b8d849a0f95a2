-- Agreement with Python's json on random documents, both ways, character for character.
local json = require "riverlua.json"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") or "."
local python = os.getenv("RIVERLUA_PYTHON") or "python3"

local function quoted(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function run(arguments)
  local ok = os.execute(("%s %s %s"):format(python, quoted(here .. "/agreement.py"), arguments))
  assert.is_true(ok, "python failed: " .. arguments)
end

local function lines_of(name)
  local list = {}
  for line in io.lines(name, "L") do list[#list + 1] = line:sub(1, -2) end
  return list
end

local function random_text()
  local pieces = {}
  for i = 1, math.random(0, 20) do
    local code = math.random(0, ({0x7f, 0x7ff, 0xffff, 0x10ffff})[math.random(4)])
    if code >= 0xd800 and code < 0xe000 then code = code - 0x800 end
    pieces[i] = utf8.char(code)
  end
  return table.concat(pieces)
end

local function random_float()
  if math.random(2) == 1 then return math.random(-1000000, 1000000) / 100 end
  local x = string.unpack("d", string.pack("i8", math.random(0)))
  return x - x == 0 and x or 0.0
end

local function random_value(depth)
  local kind = math.random(depth == 0 and 5 or 8)
  if kind == 1 then return ({json.null, true, false})[math.random(3)] end
  if kind == 2 then return math.random(0) >> math.random(0, 63) end
  if kind == 3 then return -(math.random(0) >> math.random(0, 63)) end
  if kind == 4 then return random_float() end
  if kind == 5 then return random_text() end
  local t = {}
  if kind == 6 then
    for i = 1, math.random(0, 6) do t[i] = random_value(depth - 1) end
    return json.array(t)
  end
  local most, inner = 30, 0 -- wide and flat, or small and nested
  if kind == 7 then most, inner = 6, depth - 1 end
  for _ = 1, math.random(0, most) do t[random_text()] = random_value(inner) end
  return t
end

describe("Python and Lua", function()
  local texts, expected

  before_each(function() texts, expected = os.tmpname(), os.tmpname() end)
  after_each(function()
    os.remove(texts)
    os.remove(expected)
  end)

  local function compare(got, want, sources)
    assert.equal(#want, #got)
    for i, text in ipairs(want) do
      if got[i] ~= text then assert.equal(text, got[i], "document " .. i .. ": " .. sources[i]) end
    end
  end

  it("agree on 5,000 documents that Python wrote", function()
    run(("make 20260101 5000 %s %s"):format(quoted(texts), quoted(expected)))
    local sources, got = lines_of(texts), {}
    local encode = json.encoder{sort = true}
    for i, text in ipairs(sources) do got[i] = encode(json.decode(text)) end
    compare(got, lines_of(expected), sources)
  end)

  it("agree on 5,000 documents that Lua wrote", function()
    math.randomseed(2026, 1)
    local sources, want = {}, {}
    local file = assert(io.open(texts, "wb"))
    for i = 1, 5000 do
      local value = random_value(3)
      sources[i] = json.encode(value)
      want[i] = json.encode(value, {sort = true})
      file:write(sources[i], "\n")
    end
    file:close()
    run(("canonical < %s > %s"):format(quoted(texts), quoted(expected)))
    compare(lines_of(expected), want, sources)
  end)
end)
