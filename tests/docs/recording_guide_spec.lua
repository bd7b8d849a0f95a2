--- What docs/recording.md shows is tried: its script is recorded on `riverlua serve river` and replayed without it, and
--- prints what its comments promise; its format is read.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")

local function blocks_of(path, language)
  local text = servers.read_file(path)
  local blocks = {}
  for block in text:gmatch("\n```" .. language .. "\n(.-\n)```") do blocks[#blocks + 1] = block end
  return blocks
end

describe("docs/recording.md", function()
  local folder

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
  end)
  after_each(function() os.execute("rm -rf " .. servers.quote(folder)) end)

  it("shows scripts that print the same recorded and replayed", function()
    local blocks = blocks_of("docs/recording.md", "lua")
    assert.equal(3, #blocks)
    local promised = {}
    for promise in blocks[1]:gmatch("%-%->%s*([^\n]*)") do promised[#promised + 1] = promise .. "\n" end
    local server = servers.start({servers.riverlua, "serve", "river", "--json", "--stdin", "--port", "0"})
    local _ <close> = server
    local url = server.info.url:match("^http://[^/]*")
    local recorded = servers.run(blocks[1], {environment = {RIVER_ML_URL = url, RIVERLUA_RECORD = folder}})
    server:close()
    assert.equal(table.concat(promised), recorded.out, recorded.err)
    local replayed = servers.run(blocks[2] .. blocks[1], {environment = {RIVER_ML_URL = url, RIVERLUA_REPLAY = folder}})
    assert.equal(recorded.out, replayed.out, replayed.err)
    for _, block in ipairs{blocks[2], blocks[3]} do
      local alone = servers.run(block)
      assert.equal(0, alone.code, alone.err)
    end
  end)

  it("shows the format", function()
    local text = blocks_of("docs/recording.md", "json")[1]
    local read = false
    local entries = require("riverlua.recording").parse(function()
      if read then return nil end
      read = true
      return text
    end, "guide")
    assert.equal(2, #entries)
    assert.equal(200, entries[1].answer.status)
    assert.same({101, "closed"}, {entries[2].answer.status, entries[2]["end"].how})
  end)
end)
