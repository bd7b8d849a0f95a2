-- What is left out of recordings, and what is not.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local secrets = require "riverlua.recording.secrets"

describe("names of secrets", function()
  it("are known in every spelling", function()
    for _, name in ipairs{"Authorization", "proxy-authorization", "Cookie", "Set-Cookie", "X-API-Key", "x-goog-api-key",
      "api_key", "apiKey", "APIKey", "apikey", "token", "ws_token", "wsToken", "access_token", "refreshToken",
      "id_token",
      "X-Auth-Token", "csrfmiddlewaretoken", "password", "userPassword", "passwd", "secret", "client_secret",
      "webhook_secret", "clientSecret", "private_key", "secret%5Fkey", "signature", "X-Signature", "credentials",
      "auth", "jwt", "passphrase", "passWord", "api_keys", "secretKeys"} do
      assert.is_true(secrets.is_secret(name), name)
    end
  end)

  it("are not those of counts, of words that look like them, and of what is said about secrets", function()
    for _, name in ipairs{"prompt_tokens", "max_tokens", "total_tokens", "completion_tokens", "maxTokens",
      "x-ratelimit-remaining-tokens", "token_type", "token_endpoint", "expires_in", "eos_token", "author", "authority",
      "www-authenticate", "keyboard", "monkey", "keywords", "secretary", "design", "content", "auth_method",
      "signature_version", "max_token"} do
      assert.is_false(secrets.is_secret(name), name)
    end
  end)

  it("depend on the value where they may mean anything", function()
    local scrubber = secrets.scrubber()
    assert.equal('{"key":"age","cache_key":"***"}', (scrubber:text('{"key":"age","cache_key":"AIzaSyA1234567890abc"}')))
    assert.equal('{"key":"***"}', (scrubber:text('{"key":"-----BEGIN RSA PRIVATE KEY-----\\nMIIE\\n-----END"}')))
    assert.equal('{"tokens":["Hello"," world","***"],"keys":[{"id":"a b","v":"***","token":"***"}]}',
      (scrubber:text('{"tokens":["Hello"," world","tok_1234567890abcd"],"keys":[{"id":"a b","v":"AIzaSyA1234567890abe",'
        .. '"token":"x"}]}')))
    assert.equal('{"access_tokens":{"a":"***"}}', (scrubber:text('{"access_tokens":{"a":"AIzaSyA1234567890abf"}}')))
    assert.equal("http://h/?key=age&key=***", scrubber:url("http://h/?key=age&key=AIzaSyA1234567890abd"))
  end)
end)

describe("a scrubber", function()
  local scrubber

  before_each(function() scrubber = secrets.scrubber() end)

  local function scrub(text, options) return (scrubber:text(text, options)) end

  it("replaces members of JSON at any depth, and leaves the bytes between as they are", function()
    assert.equal('{ "a" : [ {"b":{"ws_token" : "***"}} ],\n "password":"***" }',
      scrub'{ "a" : [ {"b":{"ws_token" : "x\\"y\\\\"}} ],\n "password":"hunter" }')
    assert.equal('{"secrets":["***",["***"],{"name":"***","n":1}],"after":"b"}',
      scrub'{"secrets":["a",["b"],{"name":"c","n":1}],"after":"b"}')
    assert.equal('[{"token":"***"},{"token":"***"},"token"]', scrub'[{"token":"a"},{"token":"b"},"token"]')
  end)

  it("leaves numbers, booleans, null and empty texts", function()
    local text = '{"token":7,"secret":null,"password":true,"api_key":"","max_tokens":"all","usage":{"total_tokens":3}}'
    assert.equal(text, scrub(text))
  end)

  it("leaves the predicted tokens of a model's answer", function()
    for _, text in ipairs{'{"content":[{"token":"Hel","logprob":-0.1,"bytes":[1]},{"token": "lo" , "logprob": -2e-5}]}',
      '{"logprob":-0.25,"token":"x"}', '{"text":"{\\"token\\":\\"x\\",\\"logprob\\":-1}"}'} do
      assert.equal(text, scrub(text))
    end
  end)

  it("looks into JSON that is in a string of JSON", function()
    assert.equal([[{"arguments":"{\"api_key\": \"***\", \"q\": \"a\"}"}]],
      scrub[[{"arguments":"{\"api_key\": \"s\\\"x\", \"q\": \"a\"}"}]])
    assert.equal([[{"a":"{\"b\":\"{\\\"token\\\":\\\"***\\\"}\"}","c":"d"}]],
      scrub[[{"a":"{\"b\":\"{\\\"token\\\":\\\"deep\\\"}\"}","c":"d"}]])
    assert.equal([[{"a":"{\n  \"auth\": {\n \"user\": \"***\"}}"}]],
      scrub[[{"a":"{\n  \"auth\": {\n \"user\": \"u\"}}"}]])
  end)

  it("looks into server-sent events, also where JSON goes over several lines", function()
    assert.equal('event: x\ndata: {"token":"***"}\n\ndata: {"token":\ndata: "***"}\n\n',
      scrub'event: x\ndata: {"token":"a b"}\n\ndata: {"token":\ndata: "c"}\n\n')
    assert.equal('data: he said "so\n\ndata: {"token":"***"}\n\n', scrub'data: he said "so\n\ndata: {"token":"a"}\n\n')
  end)

  it("replaces what a stream that was left had of a secret", function()
    assert.equal('data: {"token":"***', scrub'data: {"token":"abc')
    assert.equal('{"secret":["***', scrub'{"secret":["abc')
  end)

  it("looks into forms and URLs", function()
    assert.equal("a=1&password=***&max_tokens=5&api%5Fkey=***",
      scrub("a=1&password=x%20y&max_tokens=5&api%5Fkey=z", {form = true}))
    assert.equal("https://h/p?x=1&token=***&y=2", scrubber:url"https://ann:pw@h/p?x=1&token=abc&y=2#part")
    assert.equal('{"url":"wss://***@h/s?token=***","u":"http:\\/\\/***@h"}',
      scrub'{"url":"wss://ann:pw@h/s?token=abc","u":"http:\\/\\/ann:pw@h"}')
  end)

  it("looks into fragments, names with escapes, and what is said about headers", function()
    assert.equal("to https://h/cb#state=x&access_token=***", scrub"to https://h/cb#state=x&access_token=abc")
    assert.equal('{"pass\\u0077ord":"***"}', scrub'{"pass\\u0077ord":"abc"}')
    assert.equal('["authorization","Bearer ***"], {"value":"Basic ***"}, curl -H "X: bearer ***"',
      scrub('["authorization","Bearer abcdef12"], {"value":"Basic dXNlcjpwYXNzd29yZDEyMw=="}, '
        .. 'curl -H "X: bearer x-1234567"'))
    local harmless = "Basic knowledge of 12345678 bearer bonds; Bearer realm=\"a\""
    assert.equal(harmless, scrub(harmless))
  end)

  it("knows secrets again wherever they are, as they are and as JSON and URLs write them", function()
    scrubber:headers{{"Authorization", 'Bearer sk/live"key'}, {"Cookie", 'a=cookie-one; b="cookie-two"'}}
    assert.equal('no such key: *** or *** or *** or ***; *** ***',
      scrub'no such key: sk/live"key or sk/live\\"key or sk\\/live\\"key or sk%2Flive%22key; cookie-one cookie-two')
    scrubber:url"http://ann:pass%20word@h/"
    assert.equal("*** ***", scrub("pass word " .. require("riverlua.digest").to_base64("ann:pass word")))
    scrubber:headers{{"authorization", "Basic " .. require("riverlua.digest").to_base64("bob:letmein1")}}
    assert.equal("***", scrub"letmein1")
    scrub'{"session_token":"tok_0123456789abcdef"}'
    assert.equal("path/***/x", scrub"path/tok_0123456789abcdef/x")
  end)

  it("keeps headers but for the values of secret ones", function()
    assert.same({{"X-Api-Key", "***"}, {"Accept", "*/*"}, {"X-Ratelimit-Remaining-Tokens", "99"}, {"X-Echo", "***"},
      {"Location", "/x?token=***"}, {"X-Secret", ""}},
      scrubber:headers{{"X-Api-Key", "abcdef"}, {"Accept", "*/*"}, {"X-Ratelimit-Remaining-Tokens", "99"},
        {"X-Echo", "abcdef"}, {"Location", "/x?token=q"}, {"X-Secret", ""}})
  end)

  it("moves the cuts of pieces with the text", function()
    local text = 'data: {"token":"0123456789","x":1}\n\n'
    for cut = 1, #text - 1 do
      local clean, pieces = secrets.scrubber():text(text, {pieces = {cut, #text - cut}})
      assert.equal('data: {"token":"***","x":1}\n\n', clean)
      local sum = 0
      for _, length in ipairs(pieces) do
        assert.is_true(length > 0)
        sum = sum + length
      end
      assert.equal(#clean, sum)
      if cut <= 16 then assert.equal(cut, pieces[1]) end
    end
    local bytes = {}
    for i = 1, #text do bytes[i] = 1 end
    local clean, pieces = scrubber:text(text, {pieces = bytes})
    assert.equal(#clean, #pieces)
  end)

  it("keeps the length of bytes that are no text", function()
    scrubber:know("secret-value")
    assert.equal("\0\1************\2", scrubber:bytes("\0\1secret-value\2"))
  end)

  it("is not slow with what is made to make it so", function()
    local size = 300000
    for _, text in ipairs{('"'):rep(size), ('\\'):rep(size) .. '"token', ('{"token":['):rep(size // 10),
      ('{"tokens":['):rep(size // 10), ('Bearer '):rep(size // 7), ('Bearer a'):rep(size // 7),
      ('://a'):rep(size),
      ('?'):rep(size) .. '"key"', ('a'):rep(size) .. '"key"', ('"a":'):rep(size // 4) .. '"key"',
      ('\\"'):rep(size) .. '"key"'} do
      assert.is_string(scrub(text))
      assert.is_string(scrub(text, {form = true}))
    end
  end)
end)

describe("a recording", function()
  local servers = support.servers
  local stub

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  after_each(support.clean)

  it("holds none of the secrets that went over the wire, and all of the rest", function()
    local folder = support.new_folder()
    local script = [[
      local headers = {Authorization = "Bearer sk-live-bearer99", ["X-Api-Key"] = "xapikey-0001"}
      local client <close> = new_client{headers = headers}
      client:get("/echo?api_key=query-key-01&max_tokens=77", {headers = {Cookie = "sid=cookie-value-1"}})
      client:post("/echo", {json = {password = "body-pass-01", usage = {total_tokens = 123, prompt_tokens = 100},
        list = {{ws_token = "ws-token-0001"}}, note = "my key is sk-live-bearer99"}})
      client:post("/echo", {form = {client_secret = "form-secret-1", max_tokens = 55}})
      local place = base:gsub("://", "://ann:url-password-1@")
      local other <close> = http.Client{base_url = place, proxy = false, decompress = way ~= "plain"}
      other:get("/echo")
      local function raw(lines)
        local bytes = require("riverlua.digest").to_base64("HTTP/1.1 " .. lines .. "\r\n\r\n")
        local query = {base64 = bytes, ["end"] = "fin"}
        show_error(client.get, client, "/raw", {query = query, retries = 0, redirects = 1})
      end
      raw("204 OK\r\nSet-Cookie: sid=set-cookie-9\r\nX-Token: header-token-5")
      raw("302 OK\r\nContent-Length: 0\r\nLocation: /x?token=redirect-token-1")
      local pieces = {'data: {"tok', 'en": "sse-tok', 'en-12345"}\n\n', 'data: {"completion_tokens": 42}\n\n'}
      for i, piece in ipairs(pieces) do pieces[i] = require("riverlua.digest").to_base64(piece) end
      local answer = client:post("/sse", {stream = true, json = {base64 = pieces}})
      for _ in answer:events() do end
      client:get("/status/200?callback=http%3A%2F%2Fh%2F%3Fa%3D1%26token%3Dnested-token-1%26b%3Dshown")
      show_error(client.get, client, "http://ann:err-password-1@nowhere.invalid/?token=err-token-1")
      client:post("/echo", {body = "\0\1 sk-live-bearer99 \2"})
    ]]
    for _, way in ipairs{"libcurl", "plain"} do
      local result = support.run(script, "record", {args = {stub:url(), way}, folder = folder})
      assert.equal(0, result.code, result.err)
    end
    local text = support.text(folder)
    for _, entry in ipairs(support.entries(folder)) do
      for _, part in ipairs{entry.request, entry.answer or {}} do
        text = text .. (part.body_base64 and require("riverlua.digest").from_base64(part.body_base64) or "")
      end
    end
    for _, secret in ipairs{"sk-live-bearer99", "xapikey-0001", "query-key-01", "cookie-value-1", "body-pass-01",
      "ws-token-0001", "form-secret-1", "url-password-1", "YW5uOnVybC1wYXNzd29yZC0x", "set-cookie-9", "header-token-5",
      "sse-tok", "en-12345", "redirect-token-1", "nested-token-1", "err-password-1", "err-token-1"} do
      assert.is_nil(text:find(secret, 1, true), secret)
    end
    for _, kept in ipairs{"max_tokens=77", 'total_tokens\\":123', 'prompt_tokens\\":100', "max_tokens=55",
      'completion_tokens\\": 42', "my key is ***", "b%3Dshown"} do
      assert.truthy(text:find(kept, 1, true), kept)
    end
  end)

  it("is replayed with other secrets, or none", function()
    local folder = support.new_folder()
    local script = [[
      local client <close> = new_client{headers = {Authorization = "Bearer " .. extra}}
      print(client:post("/echo?token=" .. extra, {json = {api_key = extra, text = "about " .. extra}}):json().method)
    ]]
    local recorded = support.run(script, "record", {args = {stub:url(), "plain", "first-secret"}, folder = folder})
    local replayed = support.run(script, "replay", {args = {stub:url(), "plain", "another-one"}, folder = folder})
    assert.equal("POST\n", recorded.out, recorded.err)
    assert.equal("POST\n", replayed.out, replayed.err)
  end)
end)
