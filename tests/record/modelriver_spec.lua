-- Scripts of the modelriver client, recorded against the stand-in server and replayed when it is gone.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local servers = support.servers

local CLIENT = [[
local modelriver = require "modelriver"
local function new_modelriver(options)
  local all = {base_url = base, api_key = way, http = {proxy = false}}
  for name, value in pairs(options or {}) do all[name] = value end
  return modelriver.Client(all)
end
local function ask(workflow, text, more)
  local fields = {workflow = workflow, messages = {modelriver.user(text or "one two three")}}
  for name, value in pairs(more or {}) do fields[name] = value end
  return fields
end
local function show(label, fn, ...)
  local ok, value = pcall(fn, ...)
  if ok then return print(label, value) end
  if type(value) ~= "table" then return print(label, "raw error", value) end
  print(label, value.kind, value.phase, value.status, value.code, value.tries, value.retryable, value.partial,
    value.message)
end
]]

-- Records a script, ends the server, and replays it: with the same output. Returns the folder, what the server said of
-- itself, and the output.
local function expect_same(script)
  local folder = support.new_folder()
  local server <close> = servers.start{servers.python(), servers.folder .. "stub_modelriver.py"}
  local info = server.info
  local recorded = support.run(CLIENT .. script, "record", {args = {server:url(), info.keys.good}, folder = folder})
  assert.equal(0, recorded.code, recorded.err)
  assert.equal("", recorded.err)
  server:close()
  local replayed = support.run(CLIENT .. script, "replay", {args = {"http://127.0.0.1:9", "another-key"},
    folder = folder})
  assert.equal(recorded.out, replayed.out, replayed.err)
  assert.equal(0, replayed.code, replayed.err)
  return folder, info, recorded.out
end

describe("a script of the modelriver client, recorded and replayed", function()
  after_each(support.clean)

  it("gives the same: ai, stream, jobs, OpenAI's form, tools", function()
    local folder, info, out = expect_same[[
      local cli <close> = new_modelriver()
      local answer = cli:ai(ask("echo", "hello"))
      print(answer:text(), answer.usage.total_tokens, answer.meta.provider)
      print(json.encode(cli:ai(ask("structured")).data, {sort = true}))
      for event in cli:stream(ask("echo+split:3")) do print(event.kind, event.delta or event.finish) end
      local job = cli:ai_async(ask("job"))
      print(job:wait{on_status = function(status) print(" ", status) end,
        on_step = function(step) print(" ", step.id, step.status) end}:text())
      print(tostring(job), job.reconnects)
      local whole = cli.chat.completions:create{model = "echo", messages = {modelriver.user("openai")}}
      print(whole.choices[1].message.content)
      for chunk in cli.chat.completions:create{model = "echo", messages = {modelriver.user("a b")}, stream = true} do
        print(chunk.choices[1] and chunk.choices[1].delta.content)
      end
      print(cli:ai(ask("echo", "keyed", {idempotency_key = true})):text())
      local resumed = cli:resume(cli:ai_async(ask("job", "resumed")):save())
      print(resumed:wait():text())
    ]]
    assert.matches("resumed", out, 1, true)
    local text = support.text(folder)
    assert.is_nil(text:find(info.keys.good, 1, true))
    assert.is_nil(text:find(info.webhook_secret, 1, true))
  end)

  it("calls the same tools", function()
    local _, _, out = expect_same[[
      local cli <close> = new_modelriver()
      local answer = cli:run(ask("tools", '{"city":"Graz"}', {tools = {weather = {description = "the weather",
        parameters = {type = "object", properties = {city = {type = "string"}}, required = {"city"}},
        fn = function(arguments)
          print("asked for", arguments.city)
          return "sun in " .. arguments.city
        end}}}))
      print(answer:text())
    ]]
    assert.matches("sun in Graz", out, 1, true)
  end)

  it("fails as it did: a provider, refusals, statuses, streams that are cut", function()
    local _, _, out = expect_same[[
      local cli <close> = new_modelriver{retries = 1}
      show("provider", cli.ai, cli, ask("fail200"))
      show("server", cli.ai, cli, ask("fail502"))
      show("limited", cli.ai, cli, ask("rate429:1"))
      show("unknown", cli.ai, cli, ask("nothing-of-that-name"))
      for _, workflow in ipairs{"echo+cut:2", "echo+cut:1:rst", "echo+midfail:event:1"} do
        show(workflow, function()
          for event in cli:stream(ask(workflow)) do print(" ", event.delta) end
        end)
      end
      for _, workflow in ipairs{"fail_job:bad luck", "fail_bare", "job+error_event:no", "job+refuse",
        "job+upgrade:404", "job+upgrade:403:9", "job+reconnect:no_token+close:1006:1"} do
        show(workflow, function()
          local job = cli:ai_async(ask(workflow))
          local ok, err = pcall(job.wait, job)
          print(workflow, ok, job.status, job.reconnects)
          error(err, 0)
        end)
      end
    ]]
    assert.matches("provider\tprovider", out, 1, true)
    assert.matches("bad luck", out, 1, true)
    assert.matches("\tone two \t", out, 1, true)
    assert.matches("job+refuse\twebsocket", out, 1, true)
  end)

  it("tries again as it did, without the pauses: 429, lost connections, refused tokens, channels that crash", function()
    local _, _, out = expect_same[[
      local cli <close> = new_modelriver{retries = 3}
      local start = task.now()
      print(cli:ai(ask("echo+flaky:2:429+retry_after:1", "in the end")).tries)
      print(cli:ai(ask("echo+flaky:1:reset")).tries)
      print(task.now() - start >= 2)
      for _, workflow in ipairs{"job+close:1006:2", "job+close:1001:1", "job+close:rst:1", "job+close_early:1011:1",
        "job+upgrade:503:2", "job+upgrade:403:1", "job+spent", "job+crash:2", "job+reconnect:500:1+close:1006:1",
        "job+early:lost+close:1006:1", "job+event:x+auto"} do
        local job = cli:ai_async(ask(workflow))
        local seen = {}
        show(workflow, function() return job:wait{timeout = 5, on_status = function(status)
          seen[#seen + 1] = status
        end}:text() end)
        print(" ", job.reconnects, table.concat(seen, " "))
      end
    ]]
    assert.matches("job+close:1006:2\tone two three\n \t2\t", out, 1, true)
    assert.matches("reconnecting", out, 1, true)
  end)

  it("makes no pause between tries, but counts it", function()
    local function answer(status, body, ...)
      return support.entry("POST", "http://127.0.0.1:80/v1/ai", {status = status, headers = {...}, body = body},
        '{"workflow":"echo","messages":[{"role":"user","content":"one two three"}]}')
    end
    local entries = {}
    for i = 1, 10 do entries[i] = answer(429, "{}", {"Retry-After", "50"}) end
    entries[11] = answer(200, '{"choices":[{"message":{"content":"patience"},"finish_reason":"stop"}]}')
    local script = CLIENT .. [[
      local cli <close> = new_modelriver{retries = 20, timeout = tonumber(extra)}
      local start = task.now()
      show("asked", function() return cli:ai(ask("echo")):text() end)
      print((task.now() - start) // 50)
    ]]
    local folder = support.write(entries)
    local function replayed(limit)
      -- it is ended after 40 seconds
      local result = support.run(script, "replay", {args = {"http://127.0.0.1:9", "key", limit}, folder = folder,
        seconds = 40})
      assert.equal(0, result.code, result.err)
      return result.out
    end
    assert.equal("asked\tpatience\n10.0\n", replayed("1000"))
    assert.matches("^asked\trate_limit\t.*\n3%.0\n$", replayed("170"))
  end)

  it("runs out of time where it did", function()
    local _, _, out = expect_same[[
      local cli <close> = new_modelriver{retries = 0}
      show("request", cli.ai, cli, ask("echo+hold:never", "x", {timeout = 0.2}))
      local job = cli:ai_async(ask("job+hold:never"))
      show("job", job.wait, job, {timeout = 0.2})
      show("again", job.wait, job, {timeout = 0.2, heartbeat = 0.05})
      local hung = cli:ai_async(ask("job+upgrade:hang"))
      show("hung", hung.wait, hung, {timeout = 0.2})
      local left = cli:ai_async(ask("job+hold:never"))
      show("left", task.timeout, 0.1, left.wait, left)
      local late = cli:ai_async(ask("job+slow:400"))
      show("late", late.wait, late, {timeout = 0.1})
      print(late:wait():text())
    ]]
    assert.matches("late\ttimeout\tjob", out, 1, true)
  end)

  it("does not care for heartbeats, nor for a server that no longer answers them", function()
    local folder, _, out = expect_same[[
      local cli <close> = new_modelriver()
      for _, workflow in ipairs{"job+slow:300", "job+slow:300+topic_heartbeat:none", "job+slow:500+mute_heartbeat"} do
        local job = cli:ai_async(ask(workflow))
        print(job:wait{heartbeat = 0.05}:text(), job.reconnects > 0)
      end
    ]]
    assert.matches("true", out, 1, true)
    assert.is_nil(support.text(folder):find(',\\"heartbeat\\",', 1, true))
  end)

  it("gives the same answers to many jobs at once", function()
    local folder, _, out = expect_same[[
      local cli <close> = new_modelriver()
      local kinds = {"job", "job+close:1006:1", "job+upgrade:403:1", "fail_job:number", "job+crash:1"}
      local jobs = task.map((function()
        local list = {}
        for i = 1, 50 do list[i] = i end
        return list
      end)(), function(i) return cli:ai_async(ask(kinds[i % #kinds + 1], "question " .. i)) end, {concurrency = 10})
      local results, failures = modelriver.wait_all(jobs, {failures = "return"})
      for i = 1, 50 do
        print(i, results[i] and results[i]:text() or failures[i].message, jobs[i].reconnects)
      end
    ]]
    assert.matches("\n50\tquestion 50\t0\n", out, 1, true)
    assert.matches("\n11\tquestion 11\t1\n", out, 1, true)
    local sockets = 0
    for _, entry in ipairs(support.entries(folder)) do
      if entry.type == "websocket" then sockets = sockets + 1 end
    end
    assert.equal(70, sockets)
  end)

  it("keeps no token in the recording", function()
    local folder = support.new_folder()
    local server <close> = servers.start{servers.python(), servers.folder .. "stub_modelriver.py"}
    local script = CLIENT .. [[
      local cli <close> = new_modelriver()
      for _, workflow in ipairs{"job", "job+jwt_token", "job+close:1006:1"} do
        local job = cli:ai_async(ask(workflow))
        io.stderr:write(job:save().ws_token, "\n")
        job:wait{on_status = function(status)
          if status == "connecting" and job.ws_token then io.stderr:write(job.ws_token, "\n") end
        end}
      end
    ]]
    local recorded = support.run(script, "record", {args = {server:url(), server.info.keys.good}, folder = folder})
    local text, tokens = support.text(folder), 0
    for token in recorded.err:gmatch("[^\n]+") do
      tokens = tokens + 1
      assert.is_nil(text:find(token, 1, true))
    end
    assert.is_true(tokens >= 4)
    for _, secret in ipairs{server.info.keys.good, server.info.webhook_secret, "eyJ"} do
      assert.is_nil(text:find(secret, 1, true))
    end
  end)

  it("says what differs when it has changed", function()
    local folder = support.new_folder()
    local server <close> = servers.start{servers.python(), servers.folder .. "stub_modelriver.py"}
    local script = CLIENT .. [[
      local cli <close> = new_modelriver{project_id = extra}
      show("ask", cli.ai, cli, ask("echo", extra and "another question" or "question"))
      local job = cli:ai_async(ask("job+short"))
      show("job", job.wait, job)
    ]]
    support.run(script, "record", {args = {server:url(), server.info.keys.good}, folder = folder})
    server:close()
    local replayed = support.run(script, "replay", {args = {"http://127.0.0.1:9", "key", "project-7"}, folder = folder})
    assert.equal(0, replayed.code, replayed.err)
    assert.matches('body $.messages[1].content is "another question", recorded is "question"', replayed.out, 1, true)
    assert.matches("job\treplay\t", replayed.out, 1, true)
    assert.matches("frame $[3] is \"ai_response:project-7:", replayed.out, 1, true)
  end)
end)
