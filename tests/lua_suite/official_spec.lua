-- The official Lua test files, one test per file: run.sh does the work.

local binary = os.getenv("RIVERLUA") or "build/riverlua"
local build = binary:match("^(.*)/[^/]*$") or "."

describe("official Lua test file", function()
  local pipe = assert(io.popen(("sh tests/lua_suite/run.sh '%s' '%s' 2>&1"):format(binary, build)))
  local results = {}
  for line in pipe:lines() do
    local verdict, text = line:match("^([not ]*ok) %d+ %- (.*)$")
    if verdict then
      results[#results + 1] = {ok = verdict == "ok", name = text:gsub("%s*# SKIP.*", ""), notes = "",
        skipped = text:find("# SKIP", 1, true) ~= nil}
    elseif #results > 0 then
      results[#results].notes = results[#results].notes .. line .. "\n"
    end
  end
  local ok = pipe:close()
  for _, result in ipairs(results) do
    it(result.name, function()
      if result.skipped then return pending("fails under lua5.4 on this machine too") end
      assert(result.ok, result.notes)
    end)
  end
  it("all of them ran", function() assert(ok and #results > 20, #results .. " files") end)
end)
