--- What waits when its client is closed: it ends, at once.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "jobs_support.lua")
local modelriver = require "modelriver"
local task = require "riverlua.task"

-- How a call of each kind ends whose client is closed once all of them wait.
local function ends_of(client, names)
  local waiting, ends = task.queue(), {}
  local function run(kind, fn)
    return task.spawn(function() ends[kind] = support.error_of(fn) end)
  end
  local running = {
    run("ai", function()
      waiting:put("ai")
      client:ai(support.question(names.ai))
    end),
    run("stream", function()
      local stream = client:stream(support.question(names.stream))
      while stream.content == "" do stream:next() end
      waiting:put("stream")
      stream:text()
    end),
    run("job", function()
      client:ai_async(support.question(names.job)):wait{on_status = function(status)
        if status == "joined" then waiting:put("job") end
      end}
    end),
  }
  for _ = 1, #running do waiting:get(20) end
  if names.under_way then names.under_way() end
  client:close()
  for _, one in ipairs(running) do assert.is_true(one:join(10)) end
  return ends
end

local function check(ends)
  for _, kind in ipairs{"ai", "stream", "job"} do
    assert.equal("closed", ends[kind].kind, kind .. ": " .. tostring(ends[kind]))
  end
  assert.truthy(#ends.stream.partial > 0)
end

describe("closing a client ends what waits", function()
  it("for a server", function()
    local server <close> = support.start()
    check(ends_of(support.client(server), {ai = "echo+hold:ai", stream = "echo+stall", job = "job+hold:job",
      under_way = function() server:wait{key = "ai", waiting = 1} end}))
    assert.is_true(server:wait{listener = "websocket", open = 0})
  end)

  it("in this process", function()
    local never, gone = task.queue(), {}
    local function respond(_, context)
      context.emit("some ")
      local _ <close> = setmetatable({}, {__close = function() gone[context.workflow] = true end})
      never:get()
    end
    for _, name in ipairs{"ai", "stream", "job"} do modelriver.embedded.workflow(name, respond) end
    check(ends_of(modelriver.Client{base_url = "embedded:"}, {ai = "ai", stream = "stream", job = "job"}))
    modelriver.embedded.reset()
    task.sleep(0)
    assert.same({ai = true, stream = true, job = true}, gone)
  end)
end)
