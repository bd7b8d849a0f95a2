-- client:run: functions that a model has called.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local modelriver = require "modelriver"
local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local task = require "riverlua.task"

local error_of, faked, refuses = support.error_of, support.faked, support.refuses

local CITY = {type = "object", required = {"city"}, properties = {city = {type = "string"}}}

local function nothing() end

local function call(id, name, arguments)
  return {id = id, type = "function", ["function"] = {name = name, arguments = arguments}}
end

-- An answer that calls tools.
local function calls(...)
  return {body = {choices = {{index = 0, finish_reason = "tool_calls",
    message = {role = "assistant", content = json.null, tool_calls = {...}}}},
    usage = {prompt_tokens = 10, completion_tokens = 5, total_tokens = 15}}}
end

local function said(text)
  return {body = {choices = {{index = 0, finish_reason = "stop", message = {role = "assistant", content = text}}},
    usage = {prompt_tokens = 1, completion_tokens = 2, total_tokens = 3}}}
end

local function in_turn(...)
  local list = {...}
  return function(_, number) return list[math.min(number, #list)] end
end

-- Runs with answers one after the other: the answer, the bodies that were sent, decoded.
local function run(answers, fields)
  local client, requests = faked(in_turn(table.unpack(answers)))
  local given = {workflow = "w", messages = {modelriver.user("How warm?")}}
  for name, value in pairs(fields) do given[name] = value end
  local ok, answer = pcall(client.run, client, given)
  local bodies = {}
  for i, one in ipairs(requests) do bodies[i] = json.decode(one.json) end
  if not ok then error(answer, 0) end
  return answer, bodies, requests
end

-- What the model is told about one call.
local function told(tool, arguments, more)
  local fields = {tools = {weather = tool}}
  for name, value in pairs(more or {}) do fields[name] = value end
  local _, bodies = run({calls(call("c1", "weather", arguments or '{"city":"Oslo"}')), said("ok")}, fields)
  local messages = bodies[2].messages
  assert.equal("tool", messages[#messages].role)
  assert.equal("c1", messages[#messages].tool_call_id)
  return messages[#messages].content
end

describe("tools on the wire", function()
  it("are sorted by name, with their schemas as they were given", function()
    local parameters = {type = "object", required = {}, properties = {content = {}}}
    local _, _, requests = run({said("ok")}, {tools = {
      b = {description = "second", parameters = parameters, strict = true, fn = nothing},
      a = nothing, ["c-3_X"] = nothing}})
    assert.truthy(requests[1].json:find('"tools":' .. '[{"function":{"name":"a","parameters":{"properties":{},'
      .. '"type":"object"}},"type":"function"},{"function":{"description":"second","name":"b","parameters":'
      .. '{"properties":{"content":{}},"required":[],"type":"object"},"strict":true},"type":"function"},'
      .. '{"function":{"name":"c-3_X","parameters":{"properties":{},"type":"object"}},"type":"function"}]', 1, true),
      requests[1].json)
    assert.is_nil(getmetatable(parameters.required))
  end)

  it("are sent with the other fields, and options are not", function()
    local _, bodies = run({said("ok")}, {tools = {f = nothing}, max_rounds = 3, temperature = 0.5, user_id = "u",
      approve = nothing, on_tool = nothing, timeout = 20, parallel_tool_calls = false})
    local names = {}
    for name in pairs(bodies[1]) do names[#names + 1] = name end
    table.sort(names)
    assert.same({"messages", "parallel_tool_calls", "temperature", "tools", "user_id", "workflow"}, names)
  end)

  it("may be asked for by workflow and text, as of client:ai", function()
    local client, requests = faked(said("ok"))
    assert.equal("ok", client:run("w", "hello", {tools = {f = nothing}}):text())
    assert.equal("hello", json.decode(requests[1].json).messages[1].content)
  end)

  it("are refused when they are none", function()
    local client, requests = faked(said("ok"))
    local function refused(pattern, tools, more)
      local fields = {workflow = "w", messages = {modelriver.user("x")}, tools = tools}
      for name, value in pairs(more or {}) do fields[name] = value end
      return refuses(pattern, client.run, client, fields)
    end
    refused("^argument: run: 'tools' must be a table with functions by name", nil)
    refused("'tools' must be a table with functions by name", {})
    refused("'tools' must be a table with functions by name", "weather")
    refused("'tools' must have functions by name, and is a list", {{type = "function"}})
    refused("'the weather' is no name for a tool .*letters", {["the weather"] = nothing})
    refused("is no name for a tool", {[("x"):rep(65)] = nothing})
    refused("is no name for a tool", {[""] = nothing})
    refused("'tools.a' must be a function or a table, got string", {a = "print"})
    refused("'tools.a.fn' must be a callable, got nothing", {a = {}})
    refused("run: tools.a: unknown option 'function'", {a = {["function"] = nothing}})
    refused("unknown option 'parameter'; did you mean 'parameters'", {a = {parameter = {}, fn = nothing}})
    refused("'tools.a.description' must be a string, got number", {a = {description = 1, fn = nothing}})
    refused("'tools.a.parameters' must be a table, got string", {a = {parameters = "{}", fn = nothing}})
    refused("'tools.a.strict' must be a boolean", {a = {strict = 1, fn = nothing}})
    local err = refused("^argument: run: tools.a.parameters: schema: /properties/x/type: ",
      {a = {parameters = {properties = {x = {type = "strnig"}}}, fn = nothing}})
    assert.equal("/properties/x/type", err.path)
    refused("'max_rounds' must be at least 1, got 0", {a = nothing}, {max_rounds = 0})
    refused("'max_rounds' must be an integer, got string", {a = nothing}, {max_rounds = "3"})
    refused("'approve' must be a callable", {a = nothing}, {approve = true})
    refused("'on_tool' must be a callable", {a = nothing}, {on_tool = true})
    refused("'stream' is for client:stream", {a = nothing}, {stream = true})
    refused("run: 'messages' is missing", {a = nothing}, {messages = json.null})
    refuses("run: 'messages' is missing", client.run, client, {workflow = "w", tools = {a = nothing}})
    refuses("run: 'request' must be a table or a string, got nothing", client.run, client)
    refuses("call it with a colon", client.run, {workflow = "w"})
    assert.equal(0, #requests)
  end)

  it("take options that other calls refuse", function()
    local client, requests = faked(said("ok"))
    for _, name in ipairs{"max_rounds", "approve", "on_tool"} do
      refuses("there is no option '" .. name .. "' here.*client:run", client.ai, client,
        {workflow = "w", messages = {modelriver.user("x")}, [name] = 1})
    end
    assert.equal(0, #requests)
  end)
end)

describe("a call of a tool", function()
  it("is answered with its result, and the model asked again", function()
    local seen
    local answer, bodies = run({calls(call("c1", "weather", '{"city":"Oslo","days":2}')), said("It is cold.")},
      {tools = {weather = {parameters = CITY, fn = function(arguments, made)
        seen = {arguments, made.id, made.name, made.arguments}
        return "-3 degrees"
      end}}})
    assert.same({{city = "Oslo", days = 2}, "c1", "weather", '{"city":"Oslo","days":2}'}, seen)
    assert.equal("It is cold.", answer:text())
    assert.equal(2, answer.rounds)
    assert.equal(2, #bodies)
    assert.same({{role = "user", content = "How warm?"},
      {role = "assistant", tool_calls = {call("c1", "weather", '{"city":"Oslo","days":2}')}},
      {role = "tool", tool_call_id = "c1", content = "-3 degrees"}}, bodies[2].messages)
    assert.same(bodies[1].tools, bodies[2].tools)
    assert.equal(4, #answer.messages)
    assert.same({role = "assistant", content = "It is cold."}, answer.messages[4])
    assert.same({prompt_tokens = 11, completion_tokens = 7, total_tokens = 18}, answer.total_usage)
    assert.equal(3, answer.usage.total_tokens)
  end)

  it("is told results of every kind as text", function()
    local cyclic = {}
    cyclic.again = cyclic
    local function result(value) return told(function() return value end) end
    assert.equal("null", result(nil))
    assert.equal("12", result(12))
    assert.equal("0.5", result(0.5))
    assert.equal("false", result(false))
    assert.equal('{"a":[1,2],"b":null}', result{a = {1, 2}, b = json.null})
    assert.equal("[]", result(json.array{}))
    assert.equal("{}", result{})
    assert.equal("", result(""))
    assert.equal('"quoted"', result('"quoted"'))
    for _, value in ipairs{0 / 0, math.huge, cyclic, nothing, {nothing}} do
      assert.truthy(result(value):find("^error: [^\n]+$"), tostring(value))
    end
    assert.equal("error: the result is not text: it is no valid UTF-8", result("\xff\xfe"))
  end)

  it("that fails is told as an error, in words for the model", function()
    local function failure(value, level) return told(function() error(value, level) end) end
    assert.equal("error: no such city", failure("no such city"))
    assert.equal("error: no such city", failure("no such city", 0))
    assert.equal("error: see config: lua:3: it", failure("see config: lua:3: it", 0))
    assert.equal("error: first line", failure("first line\nstack traceback:\n\tfile.lua:3"))
    assert.equal("error: it is closed", failure{message = "it is closed"})
    assert.equal("error: the limit", failure(errors.new{kind = "limit", message = "the limit", hint = "mine"}))
    assert.equal('error: {"code":7}', failure{code = 7})
    assert.equal("error: 42", failure(42))
    assert.equal("error: named", failure(setmetatable({}, {__tostring = function() return "named" end})))
    for _, value in ipairs{"", "\n", {nothing}} do
      assert.equal("error: it failed and did not say why", failure(value, 0))
    end
    assert.equal("error: it failed and did not say why", told(function() error() end):gsub("nil$",
      "it failed and did not say why"))
    assert.equal("error: it failed, and what it said is not UTF-8", failure("\xff", 0))
    assert.truthy(told(function(given) return given.x.y end):find("^error: attempt to index a nil value"))
    local chunk = load("error('from a chunk')", "a chunk of code")
    assert.equal("error: from a chunk", told(chunk))
  end)

  it("fails with nil and a reason, as Lua's functions do", function()
    assert.equal("error: no such file", told(function() return nil, "no such file" end))
    assert.equal("null", told(function() return nil, nil end))
    assert.equal("fine", told(function() return "fine", "more" end))
  end)

  it("whose arguments do not fit is told what is wrong, and the function is not called", function()
    local tool = {parameters = CITY, fn = function() error("called") end}
    assert.equal("error: the arguments do not fit the schema:\n/city: must be a string, got 5",
      told(tool, '{"city":5}'))
    assert.equal('error: the arguments do not fit the schema:\n(root): must have the member "city"', told(tool, "{}"))
    assert.truthy(told(tool, '{"city": "Par'):find("^error: the arguments are not JSON: "))
    assert.truthy(told(tool, "[1]"):find("(root): must be an object", 1, true))
    assert.truthy(told(tool, '"Oslo"'):find("(root): must be an object", 1, true))
    assert.truthy(told(tool, ("["):rep(1000)):find("^error: the arguments are not JSON: "))
    assert.truthy(told(nothing, "[1]"):find("(root): must be an object", 1, true))
    local slow = {parameters = {properties = {a = {pattern = "^(a|a)*$"}}}, fn = tool.fn}
    assert.truthy(told(slow, '{"a":"' .. ("a"):rep(64) .. '!"}'):find("^error: the arguments cannot be checked: "))
  end)

  it("may have no arguments, in all the ways of saying so", function()
    for _, arguments in ipairs{"", "  ", "{}", "null", " null\n"} do
      assert.equal("0", told(function(given)
        local count = 0
        for _ in pairs(given) do count = count + 1 end
        return count
      end, arguments))
    end
    local bare = calls({id = "c1", type = "function", ["function"] = {name = "f"}})
    local _, bodies = run({bare, said("ok")}, {tools = {f = function(given) return next(given) == nil end}})
    assert.equal("true", bodies[2].messages[3].content)
  end)

  it("has its JSON null checked, and absent in what the function gets", function()
    local tool = {parameters = {properties = {note = {type = {"string", "null"}}}, required = {"note"}},
      fn = function(given) return given.note == nil end}
    assert.equal("true", told(tool, '{"note":null}'))
    assert.equal("true", told({parameters = {}, fn = function(given) return given[1] == json.null end}, "[null]"))
  end)

  it("of a tool that does not exist is told which there are", function()
    local _, bodies = run({calls(call("c1", "wether", "{}"), {id = "c2", type = "function", ["function"] = {}}),
      said("ok")}, {tools = {weather = nothing, time = nothing}})
    assert.equal("error: there is no tool 'wether'; tools: time, weather", bodies[2].messages[3].content)
    assert.truthy(bodies[2].messages[4].content:find("^error: there is no tool 'nil'"))
  end)

  it("whose arguments came as an object is understood", function()
    local made = calls({id = "c1", type = "function", ["function"] = {name = "f", arguments = {city = "Oslo"}}})
    local _, bodies = run({made, said("ok")}, {tools = {f = function(given) return given.city end}})
    assert.equal("Oslo", bodies[2].messages[3].content)
  end)

  it("without an id, or with another's, gets one of its own", function()
    local answer, bodies = run({
      calls({type = "function", ["function"] = {name = "f", arguments = "{}"}}, call("", "f", "{}"), call(7, "f", "{}"),
        call("same", "f", "{}"), call("same", "f", "{}")),
      calls({["function"] = {name = "f", arguments = "{}"}}), said("ok")}, {tools = {f = function() return "r" end}})
    local function check(messages, at, count)
      local seen = {}
      assert.equal(count, #messages[at].tool_calls)
      for i, made in ipairs(messages[at].tool_calls) do
        assert.is_nil(seen[made.id])
        seen[made.id] = true
        assert.equal("string", type(made.id))
        assert.equal(made.id, messages[at + i].tool_call_id)
      end
      return seen
    end
    local first = check(bodies[2].messages, 2, 5)
    assert.is_true(first.same)
    for id in pairs(check(bodies[3].messages, 8, 1)) do assert.is_nil(first[id]) end
    assert.equal(10, #answer.messages)
  end)

  it("that is no function's is left out of the conversation, for nobody answers it", function()
    local _, bodies = run({calls({id = "x", type = "custom", custom = {name = "sql"}}, call("c1", "f", "{}")),
      said("ok")}, {tools = {f = function() return "r" end}})
    assert.same({call("c1", "f", "{}")}, bodies[2].messages[2].tool_calls)
    assert.equal("c1", bodies[2].messages[3].tool_call_id)
  end)

  it("keeps what else the provider wrote into it", function()
    local made = call("c1", "f", "{}")
    made.extra_content = {google = {thought_signature = "abc"}}
    local _, bodies = run({calls(made), said("ok")}, {tools = {f = nothing}})
    assert.same(made, bodies[2].messages[2].tool_calls[1])
  end)

  it("of Anthropic's shape is answered as one", function()
    local body = {type = "message", role = "assistant", stop_reason = "tool_use", usage = {input_tokens = 1,
      output_tokens = 2}, content = {{type = "text", text = "Let me see."},
      {type = "tool_use", id = "toolu_1", name = "weather", input = {city = "Oslo"}},
      {type = "tool_use", id = "toolu_2", name = "weather", input = json.object{}}}}
    local answer, bodies = run({{body = body}, said("ok")}, {tools = {weather = {parameters = CITY,
      fn = function(given) return given.city end}}})
    assert.same({role = "assistant", content = "Let me see.", tool_calls = {
      call("toolu_1", "weather", '{"city":"Oslo"}'), call("toolu_2", "weather", "{}")}}, bodies[2].messages[2])
    assert.same({role = "tool", tool_call_id = "toolu_1", content = "Oslo"}, bodies[2].messages[3])
    assert.truthy(bodies[2].messages[4].content:find("^error: the arguments do not fit"))
    assert.equal(6, answer.total_usage.total_tokens)
  end)
end)

describe("calls of one round", function()
  it("run side by side, and are answered in the model's order", function()
    local forth, back = task.queue(), task.queue()
    local _, bodies = run({calls(call("1", "ping", "{}"), call("2", "pong", "{}"), call("3", "quick", "{}")),
      said("ok")}, {tools = {
        ping = function()
          forth:put("ball")
          return back:get() .. " came back"
        end,
        pong = function()
          back:put(forth:get())
          return "played"
        end,
        quick = function() return "quick" end,
      }})
    local results = {}
    for i = 3, 5 do results[#results + 1] = bodies[2].messages[i].tool_call_id .. bodies[2].messages[i].content end
    assert.same({"1ball came back", "2played", "3quick"}, results)
  end)

  it("are sixteen at once, and all come to their turn", function()
    local list, now, most = {}, 0, 0
    for i = 1, 40 do list[i] = call("c" .. i, "f", ('{"i":%d}'):format(i)) end
    local _, bodies = run({calls(table.unpack(list)), said("ok")}, {tools = {f = function(given)
      now = now + 1
      most = math.max(most, now)
      task.sleep(0)
      now = now - 1
      return given.i
    end}})
    assert.equal(16, most)
    for i = 1, 40 do assert.equal(tostring(i), bodies[2].messages[2 + i].content) end
  end)

  it("do not hinder each other when one fails", function()
    local _, bodies = run({calls(call("1", "bad", "{}"), call("2", "good", "{}")), said("ok")},
      {tools = {bad = function() error("no", 0) end, good = function()
        task.sleep(0)
        return "yes"
      end}})
    assert.equal("error: no", bodies[2].messages[3].content)
    assert.equal("yes", bodies[2].messages[4].content)
  end)
end)

describe("approve", function()
  local function approved(approve, on_call)
    return told({parameters = CITY, fn = on_call or function() return "done" end}, nil, {approve = approve})
  end

  it("lets calls through, or refuses them with a reason or without", function()
    local asked
    assert.equal("done", approved(function(...)
      asked = {...}
      return true
    end))
    assert.equal("weather", asked[1])
    assert.same({city = "Oslo"}, asked[2])
    assert.equal("c1", asked[3].id)
    local function never() error("called") end
    assert.equal("error: the call was refused", approved(function() return false end, never))
    assert.equal("error: the call was refused", approved(function() end, never))
    assert.equal("error: the call was refused: not today", approved(function() return false, "not today" end, never))
  end)

  it("that raises ends the run with its error", function()
    local err = error_of(approved, function() error({own = true}) end)
    assert.is_true(err.own)
  end)

  it("is not asked about calls that cannot be made", function()
    local function never() error("asked") end
    assert.truthy(told({parameters = CITY, fn = nothing}, "{}", {approve = never}):find("do not fit"))
    run({calls(call("1", "other", "{}")), said("ok")}, {tools = {f = nothing}, approve = never})
  end)

  it("is asked one call at a time, in the model's order", function()
    local order, asking = {}, 0
    run({calls(call("1", "f", "{}"), call("2", "f", "{}"), call("3", "f", "{}")), said("ok")},
      {tools = {f = nothing}, approve = function(_, _, made)
        asking = asking + 1
        assert(asking == 1)
        task.sleep(0)
        order[#order + 1] = made.id
        asking = asking - 1
        return false
      end})
    assert.same({"1", "2", "3"}, order)
  end)

  it("that raises is not asked about the other calls", function()
    local count = 0
    local err = error_of(run, {calls(call("1", "f", "{}"), call("2", "f", "{}"))}, {tools = {f = nothing},
      approve = function()
        count = count + 1
        task.sleep(0)
        error("stop", 0)
      end})
    assert.equal("stop", err)
    assert.equal(1, count)
  end)
end)

describe("on_tool", function()
  it("is told every call, what came of it, and the error behind it", function()
    local events = {}
    local problem = {message = "broken", code = 7}
    run({calls(call("1", "good", "{}"), call("2", "bad", "{}"), call("3", "none", "{}"), call("4", "good", "{")),
      said("ok")}, {tools = {good = function() return 1 end, bad = function() error(problem) end},
      on_tool = function(made, text, worked, err) events[tonumber(made.id)] = {made.name, text, worked, err} end})
    assert.same({"good", "1", true}, events[1])
    assert.same({"bad", "error: broken", false, problem}, events[2])
    assert.equal(problem, events[2][4])
    assert.same({"none", false}, {events[3][1], events[3][3]})
    assert.is_false(events[4][3])
  end)

  it("that raises ends the run", function()
    assert.equal("enough", error_of(run, {calls(call("1", "f", "{}"))}, {tools = {f = nothing},
      on_tool = function() error("enough", 0) end}))
  end)
end)

describe("rounds", function()
  it("end with an error that has the conversation", function()
    local client, requests = faked(calls(call("1", "f", "{}")))
    local err = error_of(client.run, client, {workflow = "w", messages = {modelriver.user("x")},
      tools = {f = function() return "r" end}, max_rounds = 3})
    assert.same({"limit", "run 'w': no answer after 3 rounds of tool calls", "w"},
      {err.kind, err.message, err.workflow})
    assert.equal(3, #requests)
    assert.equal(7, #err.messages)
    assert.equal("tool", err.messages[7].role)
    assert.equal(45, err.total_usage.total_tokens)
    err = error_of(client.run, client, "w", "x", {tools = {f = nothing}, max_rounds = 1})
    assert.equal("run 'w': no answer after a round of tool calls", err.message)
    err = error_of(client.run, client, "w", "x", {tools = {f = nothing}})
    assert.equal("run 'w': no answer after 10 rounds of tool calls", err.message)
  end)

  it("obey an order to use tools once", function()
    for _, choice in ipairs{"required", {type = "function", ["function"] = {name = "f"}}, "auto"} do
      local _, bodies = run({calls(call("1", "f", "{}")), said("ok")}, {tools = {f = nothing}, tool_choice = choice})
      assert.same(choice, bodies[1].tool_choice)
      assert.equal("auto", bodies[2].tool_choice)
    end
    local _, bodies = run({calls(call("1", "f", "{}")), said("ok")}, {tools = {f = nothing}, tool_choice = "none"})
    assert.equal("none", bodies[2].tool_choice)
    _, bodies = run({calls(call("1", "f", "{}")), said("ok")}, {tools = {f = nothing}})
    assert.is_nil(bodies[2].tool_choice)
  end)

  it("that fail after tools were called tell how far the conversation came, and it can go on", function()
    local ran, down = 0, true
    local client, requests = faked(function(_, number)
      if number == 1 then return calls(call("1", "f", "{}")) end
      return down and {status = 400, body = {error = {message = "no"}}} or said("at last")
    end)
    local tools = {f = function()
      ran = ran + 1
      return "r"
    end}
    local err = error_of(client.run, client, "w", "x", {tools = tools})
    assert.equal("invalid_request", err.kind)
    assert.equal(3, #err.messages)
    assert.equal(15, err.total_usage.total_tokens)
    down = false
    assert.equal("at last", client:run{workflow = "w", messages = err.messages, tools = tools}:text())
    assert.equal(1, ran)
    assert.equal(3, #json.decode(requests[3].json).messages)
    assert.equal(3, #err.messages)
  end)

  it("are requests of their own, with idempotency keys of their own", function()
    local _, _, requests = run({calls(call("1", "f", "{}")), calls(call("2", "f", "{}")), said("ok")},
      {tools = {f = nothing}, idempotency_key = "k"})
    local keys = {}
    for i, one in ipairs(requests) do keys[i] = one.headers["Idempotency-Key"] end
    assert.same({"k", "k-2", "k-3"}, keys)
  end)

  it("leave the user's tables alone", function()
    local messages, tools = {modelriver.user("x")}, {f = {fn = nothing, parameters = {required = {}}}}
    local fields = {messages = messages, tools = tools, tool_choice = "required"}
    run({calls(call("1", "f", "{}")), said("ok")}, fields)
    assert.same({messages = {{role = "user", content = "x"}}, tool_choice = "required",
      tools = {f = {fn = nothing, parameters = {required = {}}}}}, fields)
    assert.is_nil(getmetatable(tools.f.parameters.required))
  end)

  it("make a conversation that the next run goes on with, through JSON too", function()
    local client, requests = faked(in_turn(calls(call("1", "f", "{}")), said("one"), said("two")))
    local first = client:run("w", "x", {tools = {f = nothing}})
    local messages = json.decode(json.encode(first.messages))
    messages[#messages + 1] = modelriver.user("and then?")
    local second = client:run{workflow = "w", messages = messages, tools = {f = nothing}}
    assert.equal(6, #second.messages)
    assert.equal(5, #json.decode(requests[3].json).messages)
    assert.equal(4, #first.messages)
  end)

  it("end with an answer that says nothing, too", function()
    local answer = run({{body = {choices = {{message = {role = "assistant", tool_calls = json.array{}}}}}}},
      {tools = {f = nothing}})
    assert.equal("", answer:text())
    assert.same({role = "assistant", content = ""}, answer.messages[2])
    assert.same({}, answer.total_usage)
  end)
end)

describe("a tool", function()
  it("may ask the service itself", function()
    local client
    client = faked(function(req)
      if req.json.workflow == "inner" then return said("inner answer") end
      return #req.json.messages == 1 and calls(call("1", "outer", "{}"), call("2", "again", "{}")) or said("done")
    end)
    local answer = client:run("w", "x", {tools = {outer = function() return client:ai("inner", "y"):text() end,
      again = function() return client:run("inner", "y", {tools = {f = nothing}}):text() end}})
    assert.equal("done", answer:text())
    assert.equal("inner answer", answer.messages[3].content)
    assert.equal("inner answer", answer.messages[4].content)
    assert.equal(15 + 3 + 3 + 3, client.usage.total.total_tokens)
  end)

  it("that waits too long by its own clock is an error for the model", function()
    assert.equal("error: not done within 0.001 s", told(function()
      return task.timeout(0.001, function() task.queue():get() end)
    end))
  end)

  it("and all others stop when the run is stopped", function()
    local client = faked(calls(call("1", "f", "{}"), call("2", "f", "{}")))
    local started, ended, closed = 0, 0, 0
    local running = task.spawn(function()
      client:run("w", "x", {tools = {f = function()
        local _ <close> = setmetatable({}, {__close = function() closed = closed + 1 end})
        started = started + 1
        task.queue():get()
        ended = ended + 1
      end}})
    end)
    while started < 2 do task.sleep(0) end
    running:cancel()
    local ok, err = pcall(running.await, running)
    assert.is_false(ok)
    assert.equal("cancelled", err.kind)
    assert.same({2, 0, 2}, {started, ended, closed})
  end)

  it("stops with the time of the run", function()
    local client = faked(calls(call("1", "f", "{}")))
    local stopped = false
    local err = error_of(task.timeout, 0.02, client.run, client, {workflow = "w", messages = {modelriver.user("x")},
      tools = {f = function()
        local _ <close> = setmetatable({}, {__close = function() stopped = true end})
        task.queue():get()
      end}})
    assert.equal("timeout", err.kind)
    assert.is_true(stopped)
  end)
end)
