-- Signed webhooks: the vectors are HMACs calculated outside of riverlua.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local members = require "modelriver.webhook_members"
local webhook = require "modelriver.webhook"

local SECRET, TIME = "whsec_test_0001", 1767616496
local BODY = '{"type":"task.completed","channel_id":"550e8400-e29b-41d4-a716-446655440000","status":"success",'
  .. '"data":{"b":1,"a":"é"},"meta":{"workflow":"w1"}}'
local SIGNATURES = {
  A = "abc02e83bd053c26f5890becc1261f809232ab27266a13d1df060fb7ab18fa34",
  B = "fdc877fdec2b492bd95af93c5b3fdc97fcfc6386c4dee3c7962070ee5d6a29b2",
  C = "bd5d786c3d3d05d27280e3b0de3d6357627efdf80b9d82a63fe8b72b10521dd0",
}

local function headers_of(scheme)
  if scheme == "A" then return {["mr-signature"] = SIGNATURES.A, ["mr-timestamp"] = tostring(TIME)} end
  return {["X-ModelRiver-Signature"] = SIGNATURES[scheme], ["X-ModelRiver-Timestamp"] = tostring(TIME)}
end

local function verify(headers, body, options)
  options = options or {}
  options.now = options.now or TIME
  return webhook.verify(headers, body or BODY, SECRET, options)
end

local function failure(...)
  local ok, err = pcall(...)
  assert.is_false(ok)
  assert.is_true(errors.is(err), tostring(err))
  local shown = tostring(err) .. json.encode({err.message, err.hint, err.body})
  assert.is_nil(shown:find(SECRET, 1, true))
  for _, signature in pairs(SIGNATURES) do assert.is_nil(shown:find(signature, 1, true)) end
  return err
end

local function refused(...)
  local err = failure(...)
  assert.equal("signature", err.kind)
  return err
end

describe("modelriver.webhook", function()
  it("has a body of known length to test with", function() assert.equal(145, #BODY) end)

  for _, scheme in ipairs{"A", "B", "C"} do
    it("verifies the known signature of scheme " .. scheme, function()
      local event = verify(headers_of(scheme))
      assert.equal(scheme, event.scheme)
      assert.equal("task.completed", event.type)
      assert.equal("é", event.data.a)
      assert.equal("550e8400-e29b-41d4-a716-446655440000:task.completed", event.dedupe_key)
      assert.equal("w1", event.workflow)
      assert.equal("w1", event.meta.workflow)
      assert.same({}, event.customer_data)
      assert.is_false(event.callback_required)
      assert.equal(scheme, verify(headers_of(scheme), BODY, {scheme = scheme}).scheme)
    end)

    it("signs as scheme " .. scheme, function()
      local headers = webhook.sign(BODY, SECRET, {scheme = scheme, timestamp = TIME})
      assert.equal(SIGNATURES[scheme], headers[scheme == "A" and "mr-signature" or "x-modelriver-signature"])
      assert.equal(tostring(TIME), headers[scheme == "A" and "mr-timestamp" or "x-modelriver-timestamp"])
      assert.equal(scheme, verify(headers).scheme)
    end)

    it("refuses under scheme " .. scheme .. " what was changed", function()
      local headers = headers_of(scheme)
      refused(verify, headers, (BODY:gsub("é", "e")))
      refused(webhook.verify, headers, BODY, SECRET .. "x", {now = TIME})
      for name, value in pairs(headers) do
        if name:lower():find("signature") then
          local other = headers_of(scheme)
          other[name] = (value:sub(1, 1) == "0" and "1" or "0") .. value:sub(2)
          refused(verify, other)
        end
      end
    end)

    it("takes no other scheme when " .. scheme .. " is forced", function()
      for _, other in ipairs{"A", "B", "C"} do
        if other ~= scheme then refused(verify, headers_of(other), BODY, {scheme = scheme}) end
      end
    end)
  end

  it("takes names of headers in any case, lists of values and lists of headers", function()
    local signature, time = SIGNATURES.B, tostring(TIME)
    for _, headers in ipairs{
      {["x-modelriver-signature"] = signature, ["x-modelriver-timestamp"] = time},
      {["X-MODELRIVER-SIGNATURE"] = {signature}, ["X-Modelriver-Timestamp"] = {time}},
      {{"X-ModelRiver-Signature", signature}, {"X-ModelRiver-Timestamp", time}},
      {{name = "X-ModelRiver-Signature", value = signature}, {name = "X-ModelRiver-Timestamp", value = time}},
      {"X-ModelRiver-Signature: " .. signature, "X-ModelRiver-Timestamp: " .. time},
      {x_modelriver_signature = signature, x_modelriver_timestamp = time},
    } do assert.equal("B", verify(headers).scheme) end
    assert.equal("A", verify{["Mr-Signature"] = SIGNATURES.A:upper()}.scheme)
  end)

  it("refuses a header that came twice with two values", function()
    refused(verify, {["mr-signature"] = SIGNATURES.A, ["MR-Signature"] = ("0"):rep(64)})
  end)

  it("says what is missing", function()
    local err = refused(verify, {})
    assert.truthy(err.message:find("mr%-signature"))
    assert.truthy(err.hint:find("proxy"))
    refused(verify, nil)
    err = refused(verify, {["x-modelriver-signature"] = SIGNATURES.B})
    assert.truthy(err.message:find("X%-ModelRiver%-Timestamp is missing"))
    refused(verify, headers_of("B"), BODY, {scheme = "A"})
  end)

  it("refuses signatures of another length and with other characters", function()
    for _, text in ipairs{"", "sha256=" .. SIGNATURES.A, SIGNATURES.A:sub(2), SIGNATURES.A .. "0"} do
      assert.truthy(refused(verify, {["mr-signature"] = text}).message:find("not the 64"))
    end
    assert.truthy(refused(verify, {["mr-signature"] = ("g"):rep(64)}).message:find("hexadecimal"))
  end)

  it("says by how much a webhook is too old or too new", function()
    for _, scheme in ipairs{"B", "C"} do
      assert.equal(scheme, verify(headers_of(scheme), BODY, {now = TIME + 300}).scheme)
      assert.equal(scheme, verify(headers_of(scheme), BODY, {now = TIME - 300}).scheme)
      local old = refused(verify, headers_of(scheme), BODY, {now = TIME + 310})
      assert.truthy(old.message:find("too old: by 10 s"), old.message)
      local new = refused(verify, headers_of(scheme), BODY, {now = TIME - 342})
      assert.truthy(new.message:find("from the future: by 42 s"), new.message)
      assert.truthy(new.hint:find("clock"))
      assert.equal(scheme, verify(headers_of(scheme), BODY, {now = TIME + 900, tolerance = 900}).scheme)
    end
    assert.equal("A", verify(headers_of("A"), BODY, {now = TIME + 1e6}).scheme)
  end)

  it("refuses a timestamp that is none", function()
    for _, text in ipairs{"soon", "-5", "1e9", "12345678901234567890"} do
      local headers = webhook.sign(BODY, SECRET, {scheme = "C"})
      headers["x-modelriver-timestamp"] = text
      headers["x-modelriver-signature"] = digest.hex(digest.hmac_sha256(SECRET, text .. "." .. BODY))
      assert.truthy(refused(verify, headers).message:find("timestamp"))
    end
  end)

  it("signs the body under B when there is no data", function()
    local body = '{"type":"task.ai_generated","channel_id":"c"}'
    local headers = webhook.sign(body, SECRET, {scheme = "B", timestamp = TIME})
    assert.equal("C", verify(headers, body).scheme)
  end)

  it("signs the bytes of data as they stand", function()
    local data = '{ "z" : 1.50, "a":[1e2 ,{"}":"\\"]}"}], "é":"\\u00e9" }'
    local body = '{"a":{"data":0},"data" :' .. data .. ',"b":"data"}'
    assert.equal(data, members.find(body, "data"))
    local expected = digest.hex(digest.hmac_sha256(SECRET, TIME .. "." .. data))
    assert.equal(expected, webhook.sign(body, SECRET, {scheme = "B", timestamp = TIME})["x-modelriver-signature"])
  end)

  it("finds members as a decoder does", function()
    for body, expected in pairs{
      ['{"data":1}'] = "1", ['{"data":null}'] = "null", ['{"data":"x\\\\"}'] = '"x\\\\"', [' {"data" : [] } '] = "[]",
      ['{"data":1,"data":2}'] = "2", ['{"\\u0064ata":3}'] = "3", ['{"x":"\\"data\\":1","data":4}'] = "4",
    } do assert.equal(expected, members.find(body, "data")) end
    for _, body in ipairs{"", "[]", "{}", '{"x":{"data":1}}', '{"data"', '{"data":', '{"data":"', '{"data":[', "1"} do
      assert.is_nil(members.find(body, "data"))
    end
    local deep = ("["):rep(100000) .. ("]"):rep(100000)
    assert.equal(deep, members.find('{"data":' .. deep .. "}", "data"))
  end)

  it("looks at the top, then in data, then in the header", function()
    local function read(body, extra)
      local headers = webhook.sign(body, SECRET)
      for name, value in pairs(extra or {}) do headers[name] = value end
      return webhook.verify(headers, body, SECRET)
    end
    local event = read('{"type":"task.ai_generated","event":"new","channel_id":"c","ai_response":{"data":{"x":1}},'
      .. '"callback_url":"https://h/v1/callback/c","callback_required":true,"customer_data":{"user_id":"u"}}')
    assert.equal("new", event.event)
    assert.equal(1, event.ai_response.data.x)
    assert.equal("https://h/v1/callback/c", event.callback_url)
    assert.is_true(event.callback_required)
    assert.same({user_id = "u"}, event.customer_data)
    event = read('{"channel_id":"c","timestamp":"t","data":{"type":"task.ai_generated","event":"new",'
      .. '"ai_response":{"data":{"x":2}},"callback_url":"https://h/cb","data":{"y":3}}}')
    assert.equal("c:task.ai_generated", event.dedupe_key)
    assert.equal(2, event.ai_response.data.x)
    assert.equal("https://h/cb", event.callback_url)
    assert.is_true(event.callback_required)
    assert.equal(3, event.data.y)
    event = read('{"channel_id":"c","status":"success","data":{"choices":[]}}',
      {["X-ModelRiver-Callback-Url"] = "https://h/header"})
    assert.equal("https://h/header", event.callback_url)
    event = read('{"type":"task.completed","data":{"channel_id":"inner","provider":"openai"}}',
      {["mr-channel-id"] = "outer"})
    assert.equal("inner", event.channel_id)
    assert.equal("outer", read('{"type":"x"}', {["mr-channel-id"] = "outer"}).channel_id)
  end)

  it("gives what is said about the answer in one form", function()
    local body = '{"type":"task.completed","channel_id":"c","meta":{"provider":"openai","model":"m","tokens":'
      .. '{"prompt":1,"completion":2,"total":3},"attempts":[{"provider":"openai","success":true}]}}'
    local event = webhook.verify(webhook.sign(body, SECRET), body, SECRET)
    assert.same({prompt_tokens = 1, completion_tokens = 2, total_tokens = 3}, event.meta.usage)
    assert.equal("success", event.meta.attempts[1].status)
  end)

  it("tells misuse from forgery", function()
    local function misused(...)
      local err = failure(...)
      assert.equal("argument", err.kind)
      return err
    end
    assert.truthy(misused(webhook.verify, headers_of("A"), {type = "x"}, SECRET).hint:find("bytes"))
    misused(webhook.verify, headers_of("A"), nil, SECRET)
    misused(webhook.verify, headers_of("A"), BODY, nil)
    misused(webhook.verify, headers_of("A"), BODY, "")
    misused(webhook.verify, "mr-signature", BODY, SECRET)
    misused(webhook.verify, headers_of("A"), BODY, SECRET, {scheme = "D"})
    assert.truthy(misused(webhook.verify, headers_of("A"), BODY, SECRET, {tolerence = 1}).message:find("tolerance"))
    misused(webhook.sign, {}, SECRET)
    misused(webhook.sign, BODY, SECRET, {timestamp = "now"})
  end)

  it("says when what was signed is no JSON object", function()
    for _, body in ipairs{"", "[1]", "nope", '"x"', "3"} do
      assert.equal("protocol", failure(webhook.verify, webhook.sign(body, SECRET), body, SECRET).kind)
    end
  end)
end)
