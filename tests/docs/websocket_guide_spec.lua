--- docs/websocket.md: its blocks run (see support.lua), and its tables name what there is.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local docs = dofile(folder .. "support.lua")
local error_of = dofile(folder .. "../support/servers.lua").error_of
local websocket = require "riverlua.websocket"
local websocket_socket = require "riverlua.websocket_socket"

docs.describe_blocks({describe = describe, it = it}, "docs/websocket.md")

describe("docs/websocket.md", function()
  local text = docs.read_file("docs/websocket.md")

  it("describes every option and every call", function()
    local err = error_of(websocket.connect, "ws://localhost", {zzzzzzzzzz = 1})
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
