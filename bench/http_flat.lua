-- Memory over many requests in one process: http_flat.lua BASE REQUESTS
-- Prints the resident size in kB after each tenth.

local river = require "river"

local cli <close> = river.Client(arg[1])
local count = tonumber(arg[2])
local x = {a = 1.5, b = 2, c = 0.25}

local function resident()
  local file <close> = assert(io.open("/proc/self/status"))
  return tonumber(file:read("a"):match("VmRSS:%s+(%d+)"))
end

for i = 1, count do
  if i % 2 == 0 then cli:learn("bench", x, 1.5) else cli:predict("bench", x) end
  if i % (count // 10) == 0 then print(resident()) end
end
