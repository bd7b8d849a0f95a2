--- What the documents say is tried: every block of Lua in one runs in a process of its own, in an empty folder beside
-- `examples`, and prints what its comments `--> …` promise. Blocks that begin with the line `-- on a server` are only
-- compiled.

local docs = {}

--- The command under test.
docs.interpreter = os.getenv("RIVERLUA") or "build/riverlua"

local SERVER_MARK = "-- on a server"
-- What would lead a block elsewhere.
local UNSET = "-u RIVER_ML_URL -u RIVER_ML_USER -u RIVER_ML_TOKEN -u MODELRIVER_API_KEY -u MODELRIVER_API_URL"

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

--- What a command prints, and how it ended.
function docs.output_of(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read("a")
  return text, pipe:close()
end

--- The text of a file.
function docs.read_file(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

local ROOT = docs.output_of("pwd"):gsub("\n$", "")
local PROGRAM = docs.interpreter:sub(1, 1) == "/" and docs.interpreter or ROOT .. "/" .. docs.interpreter

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

local function assignments(environment)
  local words = {}
  for name, value in pairs(environment or {}) do words[#words + 1] = name .. "=" .. quote(value) end
  return table.concat(words, " ")
end

local function run_block(name, block, environment)
  local folder = os.tmpname()
  os.remove(folder)
  local _ <close> = setmetatable({}, {__close = function() os.execute("rm -rf " .. quote(folder)) end})
  assert(os.execute(("mkdir %s && ln -s %s/examples %s/examples"):format(quote(folder), quote(ROOT), quote(folder))))
  local file = assert(io.open(folder .. "/block.lua", "wb"))
  file:write(block.text)
  file:close()
  local command = ("cd %s && exec env %s %s %s --quiet block.lua </dev/null"):format(quote(folder), UNSET,
    assignments(environment), quote(PROGRAM))
  local output, ok = docs.output_of(command)
  assert(ok, ("%s failed:\n%s"):format(name, output))
  local from = 1
  for _, promise in ipairs(promises_of(block.text)) do
    local stop, missing = find_promise(with_single_blanks(output), promise, from)
    assert(stop, ("%s: '%s' is not printed, or not in this order; it prints\n%s"):format(name, missing or "", output))
    from = stop
  end
end

--- Describes what is tried of a document; `busted` has its functions, which only specs see.
---@param busted { describe: function, it: function }
---@param path string
---@param environment table<string, string>|nil|fun(text: string): table<string, string> what leads blocks to a
--- server that the spec has started
function docs.describe_blocks(busted, path, environment)
  busted.describe("the Lua in " .. path, function()
    local blocks = blocks_of(path)

    busted.it("is there", function() assert(#blocks >= 2, "no blocks") end)

    for _, block in ipairs(blocks) do
      local name = ("%s, line %d"):format(path, block.line)
      local on_server = block[1] == SERVER_MARK
      local does = on_server and "compiles" or "runs, and prints what it says"
      busted.it(("of line %d %s"):format(block.line, does), function()
        assert(load(block.text, "=" .. name, "t"))
        if on_server then return end
        for _, client in ipairs{"river.Client", "modelriver.Client", "training.Client"} do
          assert(environment or block.text:find("embedded:", 1, true) or not block.text:find(client, 1, true),
            name .. " needs a server and does not say so")
        end
        run_block(name, block, type(environment) == "function" and environment(block.text) or environment)
      end)
    end
  end)
end

--- Describes that the links inside of a document lead somewhere.
---@param busted { describe: function, it: function }
---@param path string
---@param least integer so many there are
function docs.describe_links(busted, path, least)
  busted.it("has links that lead somewhere", function()
    local text = docs.read_file(path)
    local anchors = {}
    for heading in text:gmatch("\n##+ ([^\n]+)") do
      anchors[heading:lower():gsub("[^%w%s-]", ""):gsub(" ", "-")] = true
    end
    local count = 0
    for anchor in text:gmatch("%]%(#([^)]+)%)") do
      count = count + 1
      assert(anchors[anchor], "#" .. anchor .. " leads nowhere")
    end
    for file in text:gmatch("%]%(([^)#:]+)%)") do
      assert(io.open("docs/" .. file) or io.open(file), file .. " is not there")
    end
    assert(count >= least, "too few links")
  end)
end

return docs
