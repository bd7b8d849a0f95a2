--- Many jobs waited for at once.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "jobs_support.lua")
local modelriver = require "modelriver"
local task = require "riverlua.task"

local server, client
setup(function()
  server = support.start()
  client = support.client(server)
end)
teardown(function()
  client:close()
  server:close()
end)
before_each(function() server:reset() end)

local function start_all(names)
  return task.map(names, function(name, i)
    return client:ai_async(support.question(name, "number " .. i))
  end, {concurrency = 16})
end

describe("waiting for all jobs", function()
  it("gives their answers in their order", function()
    local results = modelriver.wait_all(start_all{"job+slow:60", "job", "job+slow:30"})
    assert.equal(3, results.n)
    for i = 1, 3 do assert.equal("number " .. i, results[i]:text()) end
  end)

  it("of none is done at once", function() assert.same({n = 0}, modelriver.wait_all{}) end)

  it("listens to hundreds at the same time", function()
    local names = {}
    for i = 1, 300 do names[i] = i % 50 == 0 and "job+hold:all+fail_job:bad " .. i or "job+hold:all" end
    local jobs = start_all(names)
    local order = {}
    local waiting = task.spawn(function()
      local results, failures = modelriver.wait_all(jobs, {failures = "return", on_done = function(job, result, err)
        order[#order + 1] = job.id
        assert.truthy((result == nil) ~= (err == nil))
      end})
      return {results, failures}
    end)
    assert.truthy(server:wait{key = "joined", counted = 300})
    assert.equal(300, server:stats().open.websocket)
    server:release("all")
    local results, failures = table.unpack(waiting:await())
    for i = 1, 300 do
      if i % 50 == 0 then
        assert.equal("job", failures[i].kind)
        assert.truthy(failures[i].message:find("bad " .. i, 1, true))
      else
        assert.equal("number " .. i, results[i]:text())
      end
    end
    assert.equal(300, #order)
    assert.truthy(server:wait{listener = "websocket", open = 0})
    assert.equal(300, support.count(server, "close:1000"))
  end)

  it("raises when some failed, after all have ended", function()
    local jobs = start_all{"job", "job+fail_job:first", "job+slow:50", "job+refuse:no"}
    local err = support.error_of(modelriver.wait_all, jobs)
    assert.equal("job", err.kind)
    assert.truthy(err.message:find("2 of 4 jobs failed", 1, true))
    assert.equal("number 1", err.results[1]:text())
    assert.equal("number 3", err.results[3]:text())
    assert.equal("job", err.failures[2].kind)
    assert.equal("websocket", err.failures[4].kind)
    assert.is_nil(support.leak(server, err))
  end)

  it("ends for each at its deadline", function()
    local jobs = start_all{"job", "job+hold:never"}
    local results, failures = modelriver.wait_all(jobs, {timeout = 0.5, failures = "return"})
    assert.equal("number 1", results[1]:text())
    assert.equal("timeout", failures[2].kind)
  end)

  it("tells which job a status is of", function()
    local jobs = start_all{"job", "job"}
    local seen = {}
    modelriver.wait_all(jobs, {on_status = function(status, _, job)
      if status == "completed" then seen[job.id] = true end
    end})
    for _, job in ipairs(jobs) do assert.truthy(seen[job.id]) end
  end)

  it("stops for all when it is cancelled", function()
    local jobs = start_all{"job+hold:x", "job+hold:x", "job+hold:x"}
    local waiting = task.spawn(function() modelriver.wait_all(jobs) end)
    assert.truthy(server:wait{key = "joined", counted = 3})
    waiting:cancel()
    assert.equal("cancelled", support.error_of(waiting.await, waiting).kind)
    assert.truthy(server:wait{listener = "websocket", open = 0})
  end)

  it("stops for all when on_done raises", function()
    local jobs = start_all{"job+hold:y", "job"}
    assert.equal("mine", support.error_of(modelriver.wait_all, jobs, {on_done = function() error("mine", 0) end}))
    assert.truthy(server:wait{listener = "websocket", open = 0})
  end)

  it("works outside of tasks and where Lua cannot yield", function()
    local jobs, list, results = start_all{"job", "job"}, {2, 1}, nil
    table.sort(list, function(a, b)
      results = results or modelriver.wait_all(jobs)
      return a < b
    end)
    assert.equal("number 2", results[2]:text())
  end)

  it("is refused with wrong arguments", function()
    local jobs = start_all{"job"}
    for _, arguments in ipairs{{nil}, {"x"}, {{7}}, {{{}}}, {jobs[1]}, {jobs, {failures = true}}, {jobs, {on_done = 7}},
      {jobs, {timeout = -1}}, {jobs, 7}} do
      assert.equal("argument", support.error_of(modelriver.wait_all, arguments[1], arguments[2]).kind)
    end
    assert.truthy(support.error_of(modelriver.wait_all, jobs, {on_don = print}).message:find("on_done", 1, true))
    modelriver.wait_all(jobs)
  end)
end)
