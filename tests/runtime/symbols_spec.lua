-- What the libraries show to a host: names, writable data, and a header that any compiler takes.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")

local build = servers.riverlua:match("^(.*)/[^/]*$") or "."
local archive, shared = build .. "/libriverlua.a", build .. "/libriverlua.so"
local quote = servers.quote

local function lines(command)
  local pipe = assert(io.popen(command))
  local list = {}
  for line in pipe:lines() do list[#list + 1] = line end
  assert(pipe:close(), command)
  return list
end

-- Symbols as {object=, type=, name=}.
local function symbols(options, path)
  local list, object = {}, nil
  for _, line in ipairs(lines(("nm %s %s"):format(options, quote(path)))) do
    object = line:match("^([^%s:]+%.o):$") or object
    local kind, name = line:match("^%x*%s+(%a)%s+([^%s@]+)")
    if kind then list[#list + 1] = {object = object, type = kind, name = name} end
  end
  assert(#list > 0, path)
  return list
end

local function matches_any(name, patterns)
  for _, pattern in ipairs(patterns) do
    if name:find(pattern) then return true end
  end
  return false
end

-- A sanitizer's own names and data say nothing about the library.
local function is_instrumented()
  for _, symbol in ipairs(symbols("-u", archive)) do
    if matches_any(symbol.name, {"^__[atu]b?san_", "^__sanitizer_"}) then return true end
  end
  return false
end

describe("the libraries", function()
  local instrumented = is_instrumented()

  it("libriverlua.so exports riverlua_* and luaopen_* only", function()
    local exported = {}
    for _, symbol in ipairs(symbols("-D --defined-only", shared)) do
      exported[symbol.name] = true
      assert.is_true(matches_any(symbol.name, {"^riverlua_", "^luaopen_"}), symbol.name)
    end
    -- everything the header declares is there
    for name in servers.read_file("src/riverlua.h"):gmatch("RIVERLUA_API[^;]-(riverlua_[%w_]+)%(") do
      assert.is_true(exported[name], name)
      exported[name] = nil
    end
    assert.is_nil(next(exported))
  end)

  it("libriverlua.so has a soname and needs nothing but what it says", function()
    local text = table.concat(lines("objdump -p " .. quote(shared)), "\n")
    assert.matches("SONAME%s+libriverlua%.so%.%d+", text)
    for name in text:gmatch("NEEDED%s+(%S+)") do
      assert.is_true(matches_any(name, {"^liblua5%.4", "^libuv", "^libz%.", "^libnettle%.",
        "^libpcre2%-8%.", "^libprotobuf%-c%.", "^libnghttp2%.", "^libc%.so", "^libm%.", "^libdl%.",
        "^libpthread%.", "^lib[atu]b?san%.", "^ld%-linux"}), name)
    end
  end)

  it("libriverlua.a defines riverlua_*, rvl_* and luaopen_* only", function()
    for _, symbol in ipairs(symbols("-g --defined-only", archive)) do
      assert.is_true(matches_any(symbol.name, {"^riverlua_", "^rvl_", "^luaopen_", "^__odr_asan"}), symbol.name)
    end
  end)

  it("hold no writable data", function()
    if instrumented then return pending("a sanitizer keeps data of its own in the objects") end
    local object
    for _, line in ipairs(lines("objdump -h " .. quote(archive))) do
      object = line:match("^(%S+%.o):") or object
      local section, size = line:match("^%s*%d+%s+(%S+)%s+(%x+)")
      if section and matches_any(section, {"^%.data$", "^%.data%.[^r]", "^%.bss", "^%.tdata", "^%.tbss"}) then
        assert.equal(0, tonumber(size, 16), ("%s has %s"):format(object, section))
      end
    end
    for _, symbol in ipairs(symbols("", archive)) do
      assert.is_false(matches_any(symbol.type, {"^[bBC]$"}), ("%s in %s"):format(symbol.name, symbol.object))
    end
  end)

  it("link with what riverlua.pc names for a static program", function()
    if instrumented then return pending("a sanitizer needs its own library") end
    local flags = lines(("PKG_CONFIG_PATH=%s pkg-config --static --libs riverlua"):format(quote(build)))[1]
    local program = os.tmpname()
    local named, count = flags:gsub("%-lriverlua%f[%s\0]", function() return quote(archive) end)
    assert.equal(1, count)
    local source = "#include <riverlua.h>\nint main(void) { riverlua_close(riverlua_new(NULL)); return 0; }\n"
    assert.is_true(os.execute(("printf %%s %s | %s -Isrc -x c - -x none -o %s %s && %s"):format(quote(source),
      os.getenv("CC") or "cc", quote(program), named, quote(program))))
    os.remove(program)
  end)

  it("never print, exit, abort, fork or install signal handlers", function()
    local never = {"^exit$", "^_exit$", "^_Exit$", "^abort$", "^__assert_fail$", "^signal$", "^sigaction$", "^fork$",
      "^system$", "^popen$", "^setlocale$"}
    local prints = {"^v?f?printf$", "^__v?f?printf_chk$", "^puts$", "^putchar$", "^fput[cs]$", "^fwrite$", "^perror$",
      "^stdout$", "^stderr$"}
    -- the command, which does speak on the standard streams, and its terminal
    local speaks = {["lua_command.o"] = true, ["lua_terminal.o"] = true}
    -- refuses to work for any other host
    local takes_signals = {["lua_signals.o"] = true}
    for _, symbol in ipairs(symbols("-u", archive)) do
      assert.is_false(matches_any(symbol.name, never) and not (takes_signals[symbol.object] and
        symbol.name == "sigaction"), ("%s in %s"):format(symbol.name, symbol.object))
      assert.is_false(not speaks[symbol.object] and matches_any(symbol.name, prints),
        ("%s in %s"):format(symbol.name, symbol.object))
    end
  end)
end)

describe("riverlua.h", function()
  local warnings = "-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -fsyntax-only"

  local function compiles(command, text)
    local path = os.tmpname()
    local file <close> = assert(io.open(path, "w"))
    file:write(text)
    file:close()
    local ok = os.execute(("%s %s -Isrc %s"):format(command, warnings, quote(path)))
    os.remove(path)
    return ok
  end

  local text = [[
    #include "riverlua.h"
    #include "riverlua.h"
    int host(void);
    int host(void) {
      riverlua_config config;
      riverlua_config_init(&config);
      riverlua *rt = riverlua_new(&config);
      int status = riverlua_run_string(rt, "return 1", "host");
      riverlua_close(rt);
      return status;
    }
  ]]

  for _, standard in ipairs{"c99", "c11", "c17"} do
    it("compiles as " .. standard, function()
      assert.is_true(compiles(("%s -std=%s -x c"):format(os.getenv("CC") or "cc", standard), text))
    end)
  end

  for _, standard in ipairs{"c++11", "c++17", "c++20"} do
    it("compiles as " .. standard, function()
      local compiler = os.getenv("CXX") or "c++"
      if not servers.has(compiler) then return pending("no C++ compiler") end
      assert.is_true(compiles(("%s -std=%s -x c++"):format(compiler, standard), text))
    end)
  end
end)
