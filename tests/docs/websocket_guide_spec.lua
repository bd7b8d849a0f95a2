--- What docs/websocket.md says is tried: every block of Lua in it runs in a process of its own and prints what its
-- comments `--> …` promise. Its tables name what there is.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local websocket = require "riverlua.websocket"
local websocket_socket = require "riverlua.websocket_socket"

local text = servers.read_file("docs/websocket.md")

local function with_single_blanks(line) return (line:gsub("[ \t]+", " ")) end

describe("docs/websocket.md", function()
  local count = 0
  for block in text:gmatch("\n```lua\n(.-)\n```\n") do
    count = count + 1
    it("has a block " .. count .. " that runs and prints what it says", function()
      local result = servers.run(block, {seconds = 30})
      assert.same({0, ""}, {result.code, result.err})
      local output, from, promises = with_single_blanks(result.out), 1, 0
      for promise in block:gmatch("%-%->%s*([^\n]*)") do
        local _, stop = output:find(with_single_blanks(promise), from, true)
        assert(stop, ("'%s' is not printed, or not in this order; it prints\n%s"):format(promise, output))
        from, promises = stop + 1, promises + 1
      end
      assert.is_true(promises > 1)
    end)
  end

  it("has three of them", function() assert.equal(3, count) end)

  it("describes every option and every call", function()
    local err = servers.error_of(websocket.connect, "ws://localhost", {zzzzzzzzzz = 1})
    local options = 0
    for name in err.message:match("known: (.*)$"):gmatch("[%w_]+") do
      assert.truthy(text:find("| `" .. name .. "` |", 1, true), name .. " is not described")
      options = options + 1
    end
    assert.equal(10, options)
    for name, value in pairs(websocket_socket.WebSocket) do
      if type(value) == "function" and not name:find("^_") then
        assert.truthy(text:find("`ws:" .. name .. "(", 1, true), name .. " is not described")
      end
    end
  end)
end)
