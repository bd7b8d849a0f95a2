-- Structured errors, option checks with hints, and what must never be shown.

local errors = require "riverlua.errors"
local http = require "riverlua.http"
local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local url = require "riverlua.url"

local error_of = servers.error_of

describe("riverlua.errors", function()
  it("makes errors that print as one clear line", function()
    local e = errors.new{kind = "http", message = "no such model"}
    assert.equal("http: no such model", tostring(e))
    e = errors.new{kind = "http", message = "no such model", hint = "models() lists them"}
    assert.equal("http: no such model (hint: models() lists them)", tostring(e))
    assert.equal("nil: nil", tostring(errors.new{}))
  end)

  it("raises the table itself, with all its fields", function()
    local cause = {}
    local e = error_of(errors.raise, {kind = "http", message = "m", status = 503, retry_after = 1.5, cause = cause})
    assert.same({"http", "m", 503, 1.5}, {e.kind, e.message, e.status, e.retry_after})
    assert.equal(cause, e.cause)
    assert.is_nil(e.hint)
  end)

  it("tells errors from other values, and their kinds apart", function()
    local e = errors.new{kind = "http", message = "m"}
    assert.is_true(errors.is(e))
    assert.is_true(errors.is(e, "http"))
    assert.is_false(errors.is(e, "timeout"))
    for _, value in ipairs{"http", 1, true, {kind = "http"}, print} do
      assert.is_false(errors.is(value))
      assert.is_false(errors.is(value, "http"))
    end
    assert.is_false(errors.is(nil))
  end)

  it("raised by C are the same kind of error", function()
    local core = require "riverlua.core.task"
    local e = error_of(function() core.signal():wait() end)
    assert.is_true(errors.is(e, "deadlock"))
    assert.matches("^deadlock: .* %(hint: .*%)$", tostring(e))
    assert.is_nil(tostring(e):find("\n"))
  end)

  describe("suggest", function()
    local names = {max_tokens = true, temperature = true, top_p = true, stop = true}

    it("finds what was meant", function()
      assert.equal("max_tokens", errors.suggest("max_token", names))
      assert.equal("max_tokens", errors.suggest("maxtokens", names))
      assert.equal("max_tokens", errors.suggest("Max_Tokens", names))
      assert.equal("temperature", errors.suggest("temprature", names))
      assert.equal("temperature", errors.suggest("temperatuer", names))
      assert.equal("stop", errors.suggest("sotp", names))
      assert.equal("learn", errors.suggest("lern", {"learn", "predict"}))
      -- more or fewer words
      assert.equal("predict_one", errors.suggest("predict", {"predict_proba_one", "predict_one", "learn_one"}))
      assert.equal("predict", errors.suggest("predict_one", {"predict", "predict_many"}))
      assert.is_nil(errors.suggest("a", {"a_b"}))
    end)

    it("stays silent when nothing is near", function()
      assert.is_nil(errors.suggest("colour", names))
      assert.is_nil(errors.suggest("", names))
      assert.is_nil(errors.suggest("x", {}))
    end)

    it("prefers the nearest, and does not depend on the order of the table", function()
      assert.equal("aab", errors.suggest("aac", {"aab", "abb", "bbb"}))
      for _ = 1, 20 do
        assert.equal("name_a", errors.suggest("name_x", {name_c = true, name_a = true, name_b = true}))
      end
    end)
  end)

  describe("check_options", function()
    it("lets known options pass, whatever their values", function()
      errors.check_options("f", {a = false, b = 1}, {a = true, b = true, c = true})
      errors.check_options("f", {}, {})
    end)

    it("names the unknown option, the call and what was meant", function()
      local e = error_of(errors.check_options, "client:generate", {max_token = 1}, {max_tokens = true, stop = true})
      assert.is_true(errors.is(e, "argument"))
      assert.equal("client:generate: unknown option 'max_token'; did you mean 'max_tokens'?", e.message)
    end)

    it("lists what is known when nothing is near", function()
      local e = error_of(errors.check_options, "f", {colour = 1}, {stop = true, max_tokens = true})
      assert.equal("f: unknown option 'colour'; known: max_tokens, stop", e.message)
    end)

    it("refuses options given by position", function()
      local e = error_of(errors.check_options, "f", {"stray"}, {stop = true})
      assert.matches("unknown option '1'", e.message)
    end)
  end)

  describe("expect", function()
    it("returns the value", function()
      assert.equal("x", errors.expect("f", "name", "x", "string"))
      assert.equal(1.5, errors.expect("f", "n", 1.5, "number"))
      assert.equal(3, errors.expect("f", "n", 3, "integer"))
      assert.is_nil(errors.expect("f", "n", nil, "string|nil"))
      assert.equal(print, errors.expect("f", "n", print, "callable"))
      local callable = setmetatable({}, {__call = function() end})
      assert.equal(callable, errors.expect("f", "n", callable, "callable"))
    end)

    it("says what was wanted and what came", function()
      local e = error_of(errors.expect, "river.Client", "prefix", 7, "string")
      assert.is_true(errors.is(e, "argument"))
      assert.equal("river.Client: 'prefix' must be a string, got number", e.message)
      assert.matches("got nothing", error_of(errors.expect, "f", "n", nil, "string").message)
      assert.matches("must be a string or a table", error_of(errors.expect, "f", "n", 1, "string|table").message)
      assert.equal("argument", error_of(errors.expect, "f", "n", 1.5, "integer").kind)
      assert.equal("argument", error_of(errors.expect, "f", "n", {}, "callable").kind)
    end)
  end)
end)

describe("secrets", function()
  it("are taken out of URLs", function()
    local cases = {
      {"http://user:secret@host/path", "http://host/path"},
      {"https://token@host:8443/p?q=1", "https://host:8443/p?q=1"},
      {"http://a@b@host/", "http://host/"},
      {"http://user:p%40ss@[::1]:80/x", "http://[::1]:80/x"},
      {"http://host/path@not/userinfo", "http://host/path@not/userinfo"},
      {"http://host?x=a@b", "http://host?x=***"},
      {"http://host/?session=" .. ("a"):rep(40), "http://host/?session=***"},
      {"http://host/?api_key=abc&x=1", "http://host/?api_key=***&x=1"},
      {"http://host/?x=1&access_token=abc", "http://host/?x=1&access_token=***"},
      {"http://host/?API_KEY=abc", "http://host/?API_KEY=***"},
      {"http://host/?password=a&Passwd=b&client_secret=c&Signature=d&x-auth=e",
       "http://host/?password=***&Passwd=***&client_secret=***&Signature=***&x-auth=***"},
      {"http://host/?token=abc#fragment", "http://host/?token=***#fragment"},
      {"http://host/?token=", "http://host/?token=***"},
      {"http://host/?model=river&page=2", "http://host/?model=river&page=2"},
      {"/relative?key=abc", "/relative?key=***"},
      {"", ""},
    }
    for _, case in ipairs(cases) do assert.equal(case[2], url.redact(case[1])) end
  end)

  it("are taken out of URLs in the middle of a text", function()
    local text = url.redact("cannot reach http://user:hunter2@host/path?token=abc today")
    assert.is_nil(text:find("hunter2", 1, true))
    assert.is_nil(text:find("abc", 1, true))
  end)

  it("do not hide behind percent-encoded names", function()
    assert.is_nil(url.redact("http://host/?api%5Fkey=abc"):find("abc", 1, true))
    assert.is_nil(url.redact("http://host/?%74oken=abc"):find("abc", 1, true))
  end)

  it("do not show in errors, answers or the client's text", function()
    local secret = "hunter2"
    local client <close> = http.Client{base_url = "http://user:" .. secret .. "@127.0.0.1:1", proxy = false,
      retries = 0, headers = {Authorization = "Bearer " .. secret}}
    local function check(value, seen)
      seen = seen or {}
      if type(value) == "string" then assert.is_nil(value:find(secret, 1, true), value) end
      if type(value) ~= "table" or seen[value] then return end
      seen[value] = true
      for key, inner in next, value do
        check(key, seen)
        check(inner, seen)
      end
    end
    local e = error_of(client.get, client, "/x?api_key=" .. secret)
    assert.equal("connect", e.kind)
    check(e)
    check(tostring(e))
    check(tostring(client))
    check(error_of(client.get, client, "http://user:" .. secret .. "@host name/"))
    check(error_of(client.get, client, "ftp://user:" .. secret .. "@127.0.0.1/"))
    check(error_of(client.get, client, "http://user:" .. secret .. "@[bad/?token=" .. secret))
  end)
end)
