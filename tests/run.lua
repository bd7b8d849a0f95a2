-- Runs all tests and adds them up: build/riverlua tests/run.lua [--build DIR] [FILTER…]
-- FILTER: only files whose path contains it. The last line is "N passed, N failed".

local build = "build"
local filters = {}
do
  local i = 1
  while arg[i] do
    if arg[i] == "--build" then
      i = i + 1
      build = arg[i]
    else
      filters[#filters + 1] = arg[i]
    end
    i = i + 1
  end
end

local function lines_of(command)
  local pipe = assert(io.popen(command))
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = line end
  local ok, _, code = pipe:close()
  return lines, ok, code
end

local function wanted(path)
  if #filters == 0 then return true end
  for _, filter in ipairs(filters) do
    if path:find(filter, 1, true) then return true end
  end
  return false
end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local passed, failed, skipped = 0, 0, 0
local failures = {}

-- Counts TAP lines; everything that is neither is kept for the report of a failure.
local function run(name, command)
  local started = os.time()
  local lines, ok, code = lines_of(command .. " 2>&1")
  local here_passed, here_failed, here_skipped = 0, 0, 0
  for _, line in ipairs(lines) do
    if line:find("^ok .*# [Ss][Kk][Ii][Pp]") or line:find("^not ok %d+ # SKIP") then   -- busted's and cmocka's way
      here_skipped = here_skipped + 1
    elseif line:find("^ok ") then
      here_passed = here_passed + 1
    elseif line:find("^not ok ") then
      here_failed = here_failed + 1
    end
  end
  -- a crash is a failure even when everything before it passed
  if not ok and here_failed == 0 then here_failed = 1 end
  if here_passed + here_failed + here_skipped == 0 then here_failed = 1 end
  passed, failed, skipped = passed + here_passed, failed + here_failed, skipped + here_skipped
  print(("%-52s %4d passed %3d failed  %3d s"):format(name, here_passed, here_failed, os.time() - started))
  if here_failed > 0 then
    failures[#failures + 1] = ("---- %s (exit %s)\n%s"):format(name, code, table.concat(lines, "\n"))
  end
end

local interpreter = build .. "/riverlua"
local busted = lines_of("command -v busted")[1]

for _, path in ipairs(lines_of("find tests -name 'test_*.c' | LC_ALL=C sort")) do
  if wanted(path) then
    run(path, "CMOCKA_MESSAGE_OUTPUT=TAP " .. quote(build .. "/" .. path:gsub("%.c$", "")))
  end
end
for _, path in ipairs(lines_of("find tests -name '*_spec.lua' | LC_ALL=C sort")) do
  if wanted(path) then
    run(path, ("RIVERLUA=%s %s %s -o TAP %s"):format(interpreter, interpreter, quote(busted), quote(path)))
  end
end

for _, text in ipairs(failures) do print(text) end
print(("%d passed, %d failed%s"):format(passed, failed, skipped > 0 and (", %d skipped"):format(skipped) or ""))
os.exit(failed == 0 and 0 or 1)
