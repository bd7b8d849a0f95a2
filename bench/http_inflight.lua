-- Requests with many in flight on one thread: http_inflight.lua URL REQUESTS CONCURRENCY
-- Prints "start" and "end CPU" lines for bench/run.py.

local http = require "riverlua.http"
local task = require "riverlua.task"

local address, count, concurrency = arg[1], tonumber(arg[2]), tonumber(arg[3])
-- like wrk, without asking for compression: short answers then take the short way
local client <close> = http.Client{proxy = false, decompress = false}

local function run(n)
  local left = n
  local workers = {}
  for i = 1, concurrency do
    workers[i] = function()
      while left > 0 do
        left = left - 1
        local res = client:get(address)
        assert(res.status == 200 and #res.body > 0)
      end
    end
  end
  task.gather(workers)
end

run(concurrency * 4)   -- connects
print("start")
io.stdout:flush()
local cpu = os.clock()
run(count)
print("end", os.clock() - cpu)
