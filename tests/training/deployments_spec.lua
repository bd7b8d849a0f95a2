--- Deployments: requests as the official client sends them, checks before and after, attempts, waiting, OpenAI clients.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "rest_support.lua")
local deployments = require "training.deployments"
local json = require "riverlua.json"
local task = require "riverlua.task"

local error_of, check_error = support.error_of, support.check_error
local KEY = "11111111-2222-3333-4444-555555555555"

describe("deployments", function()
  local server, list

  setup(function() server = support.start() end)
  teardown(function() server:close() end)

  local function client(options)
    local all = {base_url = server:url(), api_key = "test-key", client_name = "river-client-python/0.16.0"}
    for name, value in pairs(options or {}) do all[name] = value end
    local made = deployments.new(all)
    made.rest.first_delay = 0.001
    return made
  end

  before_each(function()
    server:reset()
    list = client()
  end)
  after_each(function() list:close() end)

  local function make(options)
    local all = {checkpoint = "river://x/weights/final", unified_replicas = 2}
    for name, value in pairs(options or {}) do all[name] = value end
    return list:create(all)
  end

  it("asks as the official client does", function()
    local made = list:create{checkpoint = "river://x/weights/final", unified_replicas = 2, idempotency_key = KEY}
    list:get(made.id)
    list:list{include_deleted = true}
    list:scale(made.id, {unified_replicas = 3, idempotency_key = KEY .. "2"})
    list:usage(made.id)
    list:delete(made.id, {idempotency_key = KEY .. "3"})
    local wanted = {}
    for _, vector in ipairs(support.lines("vectors/deployments.jsonl")) do
      for _, call in ipairs(vector.calls) do wanted[#wanted + 1] = call end
    end
    local log = server:log()
    assert.equal(#wanted, #log)
    for i, call in ipairs(wanted) do
      local sent = log[i]
      assert.equal(call.http, sent.method)
      assert.equal((call.path:gsub("dep%-%d+", made.id)), sent.path)
      assert.same(call.body ~= "" and json.decode(call.body) or "", sent.body ~= "" and json.decode(sent.body) or "")
      local theirs, ours = support.headers_of(call), support.headers_of(sent)
      for _, name in ipairs{"authorization", "x-river-client", "accept", "content-type"} do
        assert.equal(theirs[name], ours[name], name)
      end
      local key = ours["idempotency-key"]
      assert.equal(theirs["idempotency-key"], key and key:sub(1, #KEY))
    end
  end)

  it("are objects with what the service said", function()
    local made = make()
    assert.equal("accepted", made.phase)
    assert.same({unified = {desired = 2, allocated = 2, ready = 0, pending = 2}}, made.replicas)
    assert.is_false(made.serving)
    assert.equal("op-1", made.operation_id)
    assert.is_nil(made.phase_reason)
    assert.equal("training.Deployment(dep-000001, Qwen3.6-35B-A3B-FP8, accepted)", tostring(made))
    local other = list:create{base_model = "GLM-5.1-NVFP4", prefill_replicas = 1, decode_replicas = 2.0}
    assert.equal("prefill_decode", other.topology)
    assert.equal(2, other.replicas.decode.desired)
    local all = list:list()
    assert.equal(2, #all)
    assert.equal(other.id, all[2].id)
    assert.same({unified = 1.5}, list:usage(made).replica_hours)
    assert.equal(5, list:scale(made, {unified_replicas = 5}).replicas.unified.desired)
    assert.equal("deleting", list:delete(made).phase)
    assert.equal("deleted", list:wait(made, {phase = "deleted", interval = 0}).phase)
    assert.equal(1, #list:list())
    assert.equal(2, #list:list{include_deleted = true})
    local gone = list:get(made.id)
    assert.is_true(gone.is_terminal)
    assert.equal("2026-01-02T00:00:00Z", gone.deleted_at)
  end)

  it("carry a new idempotency key with each change, and the same one when it is repeated", function()
    server:control("/fault", {path = "/api", kind = "status", status = 503, times = 2})
    make()
    make()
    local log, keys = server:log(), {}
    for _, request in ipairs(log) do
      local key = support.headers_of(request)["idempotency-key"]
      assert.truthy(key:find("^%x+%-%x+%-4%x+%-[89ab]%x+%-%x+$"), key)
      keys[#keys + 1] = key
    end
    assert.equal(4, #keys)
    assert.equal(keys[1], keys[2])
    assert.equal(keys[1], keys[3])
    assert.not_equal(keys[1], keys[4])
  end)

  it("are created once when the answer is lost", function()
    local made = make{idempotency_key = "mine"}
    assert.equal(made.id, make{idempotency_key = "mine"}.id)
    assert.equal(1, #list:list())
  end)

  it("are checked before anything is sent", function()
    local cases = {
      {"exactly one", {unified_replicas = 1}},
      {"exactly one", {unified_replicas = 1, checkpoint = "a", base_model = "b"}},
      {"how many engines", {checkpoint = "a"}},
      {"how many engines", {checkpoint = "a", prefill_replicas = 1}},
      {"stands alone", {checkpoint = "a", unified_replicas = 1, decode_replicas = 1}},
      {"'unified_replicas' must be an integer, got a boolean", {checkpoint = "a", unified_replicas = true}},
      {"got 1.5", {checkpoint = "a", unified_replicas = 1.5}},
      {"got a string", {checkpoint = "a", unified_replicas = "1"}},
      {"not be negative", {checkpoint = "a", unified_replicas = -1}},
      {"'checkpoint' is empty", {checkpoint = "", unified_replicas = 1}},
      {"'base_model' must be a string", {base_model = 3, unified_replicas = 1}},
      {"did you mean 'unified_replicas'?", {checkpoint = "a", unified_replica = 1}},
      {"'timeout' must be", {checkpoint = "a", unified_replicas = 1, timeout = -1}},
      {"'idempotency_key'", {checkpoint = "a", unified_replicas = 1, idempotency_key = "a\nb"}},
    }
    for _, case in ipairs(cases) do check_error(error_of(list.create, list, case[2]), "argument", case[1]) end
    check_error(error_of(list.get, list, ""), "argument", "empty text")
    check_error(error_of(list.get, list), "argument", "got nothing")
    check_error(error_of(list.get, "dep-1"), "argument", "colon")
    check_error(error_of(list.scale, list, "x", {}), "argument", "how many engines")
    check_error(error_of(list.wait, list, "x", {phase = "redy"}), "argument", "did you mean 'ready'?")
    check_error(error_of(list.list, list, {include_deleted = 1}), "argument", "include_deleted")
    check_error(error_of(deployments.new, {base_url = "ftp://secret@x", api_key = "k", client_name = "c"}), "argument",
      "https://")
    check_error(error_of(deployments.new, {base_url = server:url(), api_key = "", client_name = "c"}), "argument",
      "api_key is empty")
    check_error(error_of(deployments.new, {base_url = server:url(), api_key = "k", client_name = "c", api_keys = 1}),
      "argument", "did you mean")
    assert.equal(0, #server:log())
  end)

  it("take what save_weights returned, and ids with any characters", function()
    assert.equal("river://a", list:create{checkpoint = {path = "river://a"}, unified_replicas = 1}.checkpoint)
    local err = check_error(error_of(list.get, list, "../x y"), "not_found", "get_deployment: not_found: there is no")
    assert.equal("not_found", err.code)
    assert.equal("/api/v1/deployments/..%2Fx%20y", server:log()[2].path)
  end)

  it("say what a status means", function()
    local function kind_of(status, body)
      server:control("/fault", {path = "/api", kind = "status", status = status, times = 9, body = body or "{}"})
      local err = error_of(list.list, list)
      server:reset()
      return err
    end
    check_error(kind_of(401), "auth", "status 401", "team's API key")
    check_error(kind_of(403, '{"error":{"code":"gated","message":"not for\\nyou"}}'), "auth", "gated: not for you")
    check_error(kind_of(404, '{"code":7,"message":"gone"}'), "not_found", "7: gone")
    check_error(kind_of(422, "<html>"), "invalid_request", "status 422")
    local limited = check_error(kind_of(429, '{"error":"slowly"}'), "rate_limit", "slowly")
    assert.equal(9, limited.attempts)
    assert.is_true(limited.retryable)
    assert.equal(9, check_error(kind_of(500), "server", "status 500").attempts)
    assert.equal(1, check_error(kind_of(501), "server", "status 501").attempts)
    assert.equal(1, check_error(kind_of(409), "invalid_request").attempts)
    assert.equal(9, check_error(kind_of(408), "server").attempts)
  end)

  it("are asked for again after what passes, at most nine times", function()
    for _, fault in ipairs{{kind = "status", status = 502}, {kind = "status", status = 504}, {kind = "close"}} do
      server:reset()
      fault.path, fault.times = "/api", 8
      server:control("/fault", fault)
      assert.same({}, list:list())
      assert.equal(9, #server:log())
    end
    server:control("/fault", {path = "/api", kind = "close", times = 20})
    local err = error_of(list.list, list)
    assert.equal(9, err.attempts)
    check_error(err, err.kind, "list_deployments: ")
  end)

  it("wait as long as the service asks, at most a minute, else half a second doubled up to eight", function()
    local waits = {}
    local answers = {{429, "3"}, {503, "1000"}, {500}, {500}, {500}, {500}, {500}, {408, "x"}, {500}}
    local made = client{transport = {
      request = function()
        local answer = table.remove(answers, 1)
        return {status = answer[1], headers = {["retry-after"] = answer[2]}, body = "{}", close = function() end}
      end,
      pause = function(_, seconds) waits[#waits + 1] = seconds end,
    }}
    made.rest.first_delay = 0.5
    check_error(error_of(made.list, made), "server")
    assert.equal(8, #waits)
    assert.same({3, 60}, {waits[1], waits[2]})
    for i, longest in ipairs{2, 4, 8, 8, 8, 8} do
      assert.is_true(waits[i + 2] <= longest and waits[i + 2] >= 0.75 * longest, tostring(waits[i + 2]))
    end
  end)

  it("never show the key", function()
    local made = client{api_key = "very-secret-key"}
    local err = check_error(error_of(made.list, made), "auth", "Bearer ***")
    for _, text in ipairs{err.message, err.body, tostring(err), tostring(made)} do
      assert.is_nil(text:find("very-secret", 1, true))
    end
    made:close()
  end)

  it("that are not what the service promises are refused", function()
    for _, case in ipairs{
      {"id"}, {"model"}, {"base_url"}, {"checkpoint"}, {"base_model"}, {"topology"}, {"phase"}, {"created_at"},
      {"updated_at"}, {"id", '""'}, {"phase", "3"}, {"phase_reason", "3"}, {"operation_id", "{}"}, {"replicas"},
      {"replicas", "[]"}, {"replicas.unified", "1"}, {"replicas.unified.ready", '"1"'},
      {"replicas.unified.desired", "1.5"},
    } do
      server:reset()
      server:control("/break", {field = case[1], value = case[2]})
      check_error(error_of(make), "protocol", "create_deployment: ", (case[1]:match("[^.]+$")))
    end
    server:reset()
    for kind, text in pairs{garbage = "not JSON", list = "no JSON object"} do
      server:control("/fault", {path = "/api", kind = kind})
      check_error(error_of(list.list, list), "protocol", text)
    end
    server:control("/fault", {path = "/api", kind = "status", status = 200, body = '{"data": {}}'})
    check_error(error_of(list.list, list), "protocol", "no list 'data'")
    server:control("/fault", {path = "/api", kind = "status", status = 200, body = '{"data": [1]}'})
    check_error(error_of(list.list, list), "protocol", "data[1]")
  end)

  it("are waited for until they serve", function()
    server:control("/plan", {phases = "accepted,accepted,provisioning,ready"})
    local made = make{wait = true, interval = 0}
    assert.equal("ready", made.phase)
    assert.is_true(made.serving)
    assert.equal(4, #server:log())
  end)

  it("serve when degraded, and are ready with all engines", function()
    server:control("/plan", {phases = "degraded"})
    local made = make()
    server:control("/set", {id = made.id, ready = 1})
    assert.is_true(list:wait(made.id, {interval = 0}).is_serving)
    check_error(error_of(list.wait, list, made.id, {phase = "ready", timeout = 0}), "timeout", "still degraded")
    server:control("/set", {id = made.id, phase = "ready", ready = 1})
    local err = check_error(error_of(list.wait, list, made.id, {timeout = 0}), "timeout", "still ready after 0 s")
    assert.equal(1, err.deployment.replicas.unified.ready)
    server:control("/set", {id = made.id, phase = "ready", ready = 0})
    assert.is_false(list:get(made.id).serving)
    server:control("/set", {id = made.id, phase = "ready"})
    assert.equal("ready", list:wait(made.id, {phase = "ready"}).phase)
  end)

  it("that fail or vanish end the wait", function()
    server:control("/plan", {phases = "accepted,failed"})
    local err = check_error(error_of(make, {wait = true, interval = 0}), "deployment", "is failed: no room for it")
    assert.equal("failed", err.deployment.phase)
    server:control("/plan", {phases = "deleted"})
    local made = make()
    check_error(error_of(list.wait, list, made.id), "deployment", "is deleted: no reason given")
    assert.equal("deleted", list:wait(made.id, {phase = {"deleted"}}).phase)
  end)

  it("let go of a wait that is cancelled", function()
    local made = make()
    local ok = pcall(task.timeout, 0.05, function() list:wait(made.id, {interval = 60}) end)
    assert.is_false(ok)
    assert.equal("accepted", list:get(made.id).phase)
  end)

  it("have an OpenAI client, whatever their address ends with", function()
    for _ = 1, 2 do
      local made = make()
      local chat <close> = made:openai()
      local answer = chat.chat.completions:create{model = made.model, messages = {{role = "user", content = "hi"}}}
      assert.equal("HI", answer.choices[1].message.content)
      local log = server:log()
      assert.equal(made.base_url:match("//[^/]+(/.*)$") .. "/chat/completions", log[#log].path)
      assert.equal("Bearer test-key", support.headers_of(log[#log]).authorization)
    end
  end)

  it("do not give the key to an address without encryption when the service has some", function()
    local made = client{base_url = "https://api.example.com", transport = {request = function()
      return {status = 200, headers = {}, body = json.encode{id = "d", model = "d", base_url = "http://elsewhere/v1",
        checkpoint = "c", base_model = "b", topology = "unified", phase = "ready", created_at = "x", updated_at = "y",
        replicas = {unified = {desired = 1, ready = 1}}}}
    end}}
    local deployment = made:get("d")
    check_error(error_of(deployment.openai, deployment), "protocol", "without encryption")
    check_error(error_of(deployment.openai), "argument", "colon")
  end)
end)
