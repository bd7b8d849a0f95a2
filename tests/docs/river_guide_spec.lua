--- What the documents say is tried: every block of Lua in README.md and docs/river.md runs in a process of its own, in
-- an empty folder beside `examples`, and prints what its comments `--> …` promise. Blocks that begin with the line
-- `-- on a server` are only compiled. The table of classes and the flags are compared with the real ones.

local INTERPRETER = os.getenv("RIVERLUA") or "build/riverlua"
local SERVER_MARK = "-- on a server"

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function output_of(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read("a")
  return text, pipe:close()
end

local function read_file(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

local ROOT = output_of("pwd"):gsub("\n$", "")
local PROGRAM = INTERPRETER:sub(1, 1) == "/" and INTERPRETER or ROOT .. "/" .. INTERPRETER

-- The blocks of a document: {line = where it begins, text =}.
local function blocks_of(path)
  local blocks, block, number = {}, nil, 0
  for line in io.lines(path) do
    number = number + 1
    if block and line == "```" then
      block.text = table.concat(block, "\n") .. "\n"
      blocks[#blocks + 1], block = block, nil
    elseif block then
      block[#block + 1] = line
    elseif line == "```lua" then
      block = {line = number}
    end
  end
  assert(not block, path .. ": a block does not end")
  return blocks
end

-- What the comments `--> text` promise, in order; "…" stands for anything, and any blanks for a tab.
local function promises_of(text)
  local promises = {}
  for line in text:gmatch("[^\n]+") do
    local promise = line:match("%-%->%s*(.*)$")
    if promise then promises[#promises + 1] = promise end
  end
  return promises
end

local function with_single_blanks(text) return (text:gsub("[ \t]+", " ")) end

-- Where a promise ends in the output, from a place on; nil and the piece that is not there.
local function find_promise(output, promise, from)
  for piece in (with_single_blanks(promise):gsub("…", "\n") .. "\n"):gmatch("([^\n]*)\n") do
    piece = piece:match("^%s*(.-)%s*$")
    if piece ~= "" then
      local _, stop = output:find(piece, from, true)
      if not stop then return nil, piece end
      from = stop + 1
    end
  end
  return from
end

local function run_block(name, block)
  local folder = os.tmpname()
  os.remove(folder)
  local _ <close> = setmetatable({}, {__close = function() os.execute("rm -rf " .. quote(folder)) end})
  assert(os.execute(("mkdir %s && ln -s %s/examples %s/examples"):format(quote(folder), quote(ROOT), quote(folder))))
  local file = assert(io.open(folder .. "/block.lua", "wb"))
  file:write(block.text)
  file:close()
  local command = ("cd %s && exec env -u RIVER_ML_URL -u RIVER_ML_USER -u RIVER_ML_TOKEN %s --quiet block.lua")
    :format(quote(folder), quote(PROGRAM)) .. " </dev/null"
  local output, ok = output_of(command)
  assert(ok, ("%s failed:\n%s"):format(name, output))
  local from = 1
  for _, promise in ipairs(promises_of(block.text)) do
    local stop, missing = find_promise(with_single_blanks(output), promise, from)
    assert(stop, ("%s: '%s' is not printed, or not in this order; it prints\n%s"):format(name, missing or "", output))
    from = stop
  end
end

for _, path in ipairs{"README.md", "docs/river.md"} do
  describe("the Lua in " .. path, function()
    local blocks = blocks_of(path)

    it("is there", function()
      assert.truthy(#blocks >= 2)
    end)

    for _, block in ipairs(blocks) do
      local name = ("%s, line %d"):format(path, block.line)
      local on_server = block[1] == SERVER_MARK
      it(("of line %d %s"):format(block.line, on_server and "compiles" or "runs, and prints what it says"), function()
        assert(load(block.text, "=" .. name, "t"))
        if not on_server then
          assert.truthy(block.text:find("embedded:", 1, true) or not block.text:find("river.Client", 1, true),
            name .. " needs a server and does not say so")
          run_block(name, block)
        end
      end)
    end
  end)
end

describe("docs/river.md", function()
  local text = read_file("docs/river.md")

  it("lists the classes of the embedded service", function()
    local listed = {}
    for package_name, row in text:gmatch("\n| `(river%.[%w_.]+)` | (`[^\n]*`) |") do
      for class in row:gmatch("`([%w_]+)`") do listed[#listed + 1] = package_name .. "." .. class end
    end
    table.sort(listed)
    local known = {}
    for _, name in ipairs(require("river.embedded").classes()) do
      if name:find("^river%.") then known[#known + 1] = name end
    end
    table.sort(known)
    assert.same(known, listed)
  end)

  it("describes every flag of riverlua serve river", function()
    local help, ok = output_of(quote(INTERPRETER) .. " serve river --help")
    assert.truthy(ok)
    local section = text:match("\n## 13%.(.-)\n## ")
    local count = 0
    for flag in help:gmatch("\n%s+(%-%-%l+)") do
      count = count + 1
      assert.truthy(section:find("`" .. flag .. "`", 1, true), flag .. " is not described")
    end
    assert.truthy(count >= 8)
  end)

  it("speaks of every method of the client", function()
    for name, value in pairs(getmetatable(require("river").Client("embedded:"))) do
      if type(value) == "function" and not name:find("^_") and name ~= "new" then
        assert.truthy(text:find(name, 1, true), name .. " is not described")
      end
    end
  end)

  it("has links that lead somewhere", function()
    local anchors = {}
    for heading in text:gmatch("\n##+ ([^\n]+)") do
      anchors[heading:lower():gsub("[^%w%s-]", ""):gsub(" ", "-")] = true
    end
    local count = 0
    for anchor in text:gmatch("%]%(#([^)]+)%)") do
      count = count + 1
      assert.truthy(anchors[anchor], "#" .. anchor .. " leads nowhere")
    end
    assert.truthy(count > 10)
  end)
end)
