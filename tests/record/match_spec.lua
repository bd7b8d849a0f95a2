-- Which recorded answer a request gets in a replay, and what is said when there is none.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local entry = support.entry

describe("a replay", function()
  after_each(support.clean)

  local function replay(entries, script, base)
    local folder = type(entries) == "string" and entries or support.write(entries)
    local result = support.run([[
      local replay = require "riverlua.replay"
      local client <close> = new_client()
      local function get(path, options) return client:get(path, options).body end
      local function post(value, options)
        options = options or {}
        options.json = value
        return client:post("/p", options).body
      end
    ]] .. script, "replay", {args = {base or "http://127.0.0.1:9"}, folder = folder})
    assert.equal(0, result.code, result.err)
    return result.out, folder
  end

  it("takes all names and ports of this machine for one", function()
    local entries = {entry("GET", "http://localhost:41234/a", "1"), entry("GET", "http://127.0.0.1/a", "2"),
      entry("GET", "http://[::1]:8000/a", "3"), entry("GET", "http://127.0.0.2:1/a", "4")}
    assert.equal("1234\n", (replay(entries, [[
      print(get("http://127.0.0.1:5/a") .. get("http://localhost/a") .. get("/a") .. get("http://[::1]:6/a"))]])))
  end)

  it("compares the ports of this machine when it is told to", function()
    local entries = {entry("GET", "http://localhost:41234/a", "1"), entry("GET", "http://127.0.0.1:5/a", "2")}
    local out = replay(entries, [[
      replay.match{ports = true}
      print(get("http://127.0.0.1:5/a"), get("http://127.0.0.1:41234/a"))
      show_error(get, "http://127.0.0.1:7/a")]])
    assert.matches("^2\t1\n", out)
    assert.matches('the host is "localhost:7"', out, 1, true)
  end)

  it("compares other hosts with scheme and port", function()
    local entries = {entry("GET", "https://api.example.com/a", "1"), entry("GET", "https://api.example.com:444/a", "2")}
    local out = replay(entries, [[
      print(get("https://API.example.com:444/a"), get("https://api.example.com:443/a"))
      show_error(get, "http://api.example.com/a")]])
    assert.matches("^2\t1\nreplay\t", out)
  end)

  it("follows recorded redirects to where the server was then", function()
    local entries = {entry("GET", "http://127.0.0.1:41234/old",
      {status = 302, headers = {{"Location", "http://127.0.0.1:41234/new?token=***"}}}),
      entry("GET", "http://127.0.0.1:41234/new?token=***", "there")}
    assert.equal("there\n", (replay(entries, [[print(get("/old"))]])))
    -- to the server itself: what only it may have goes with the request
    for i = 1, 2 do entries[i].request.headers = {{"X-Own", "1"}} end
    assert.equal("there\n", (replay(entries, [[
      replay.match{headers = {"X-Own"}}
      print(get("/old", {headers = {["X-Own"] = "1"}}))]])))
  end)

  it("compares JSON by value, in any order and spelling of numbers", function()
    local json_headers = {{"Content-Type", "application/json"}}
    local recorded = entry("POST", "http://localhost/p", "same", '{ "b":[1,2.50,{"x":null}], "a":100.0, "c":"\\u00fc"}')
    recorded.request.headers = json_headers
    local out = replay({recorded}, [[
      print(client:post("/p", {body = '{"c":"ü","a":1e2,"b":[1.0,2.5,{"x":null}]}'}).body)]])
    assert.equal("same\n", out)
    out = replay({recorded}, [[show_error(post, {a = 100, b = {1, 2.5, {}}, c = "ü"})]])
    assert.matches("body $.b[3].x is nothing, recorded is null", out, 1, true)
  end)

  it("compares queries and forms by their fields", function()
    local form = entry("POST", "http://localhost/p?b=2&a=1", "form", "y=2&x=a+b&y=1")
    form.request.headers = {{"content-type", "application/x-www-form-urlencoded"}}
    local out = replay({form}, [[
      print(client:post("/p?a=1&b=2", {form = {x = "a b", y = {"2", "1"}}}).body)]])
    assert.equal("form\n", out)
    out = replay({form}, [[show_error(client.post, client, "/p?a=1&b=2", {form = {x = "a b", y = {"1", "2"}}})]])
    assert.matches("the body from byte", out, 1, true)
  end)

  it("gives equal requests their answers in order, each once", function()
    local entries = {entry("GET", "http://localhost/n", "1"), entry("GET", "http://localhost/other", "x"),
      entry("GET", "http://localhost/n", "2")}
    local out = replay(entries, [[
      print(get("/other"), get("/n"), get("/n"))
      show_error(get, "/n")
      replay.match{repeats = true}
      print(get("/n"), get("/n"))]])
    assert.matches("^x\t1\t2\nreplay\tnil\tnil\tnil\tnil\tfalse\t", out)
    assert.matches("have 2 answers to this request, and all have been given", out, 1, true)
    assert.matches("repeats = true", out, 1, true)
    assert.matches("\n2\t2\n$", out)
  end)

  it("shares one tape among all clients of a script", function()
    local entries = {entry("GET", "http://localhost/n", "1"), entry("GET", "http://localhost/n", "2")}
    assert.equal("1\t2\n", (replay(entries, [[
      local second <close> = new_client()
      print(get("/n"), second:get("/n").body)]])))
  end)

  it("leaves out of the comparison what the script says", function()
    local one = entry("POST", "http://localhost/p?at=1&x=1", "ok",
      '{"id":"a","meta":{"at":1,"kept":[{"id":"b","t":5}]},"v":1}')
    local script = [[
      replay.match{ignore = {"id", "at", "$.meta.kept[1].t"}}
      local function send(v)
        return client:post("/p?at=2&x=1", {json = {id = "z", meta = {at = 9, kept = {{id = 3, t = 6}}}, v = v}}).body
      end
      print(send(1))
      show_error(send, 2)]]
    local out = replay({one}, script)
    assert.matches("^ok\n", out)
    assert.matches("body $.v is 2, recorded is 1", out, 1, true)
    assert.not_matches("id is", out, 1, true)
  end)

  it("leaves out what is made anew for every run", function()
    local body = '{"x":1,"idempotency_key":"a"}'
    local out = replay({entry("POST", "http://localhost/a?idempotency_key=1", "yes", body)}, [[
      local res = new_client():post("/a?idempotency_key=2", {json = {x = 1, idempotency_key = "b"},
        headers = {["Idempotency-Key"] = "c"}})
      print(res.body)
    ]])
    assert.equal("yes\n", out)
  end)

  it("compares headers only when it is told to", function()
    local german, english = entry("GET", "http://localhost/h", "guten Tag"), entry("GET", "http://localhost/h", "hello")
    german.request.headers = {{"Accept-Language", "de"}}
    english.request.headers = {{"accept-language", "en"}}
    local script = [[
      replay.match{headers = extra and {"Accept-Language"} or nil}
      print(get("/h", {headers = {["Accept-Language"] = "en"}}), get("/h", {headers = {["Accept-Language"] = "de"}}))
      show_error(get, "/h", {headers = {["Accept-Language"] = "fr"}})]]
    assert.matches("^guten Tag\thello\n", (replay({german, english}, script)))
    local out = replay({german, english}, "extra = true\n" .. script)
    assert.matches("^hello\tguten Tag\n", out)
    assert.matches('the header accept%-language is "fr", recorded is', out)
  end)

  it("refuses settings that there are not", function()
    local out = replay({}, [[
      show_error(replay.match, {ingore = {}})
      show_error(replay.match, {ignore = "id"})
      show_error(replay.match, {ignore = {1}})
      show_error(replay.match)]])
    assert.matches("unknown option 'ingore'; did you mean 'ignore'?", out, 1, true)
    assert.equal(4, select(2, out:gsub("argument\t", "")))
  end)

  it("names the request, the nearest recorded one, what differs, and what to do", function()
    local entries = {entry("GET", "http://localhost/items", "1"),
      entry("POST", "http://localhost/items", "2", '{"name":"pen","price":{"value":3,"unit":"EUR"}}'),
      entry("POST", "http://localhost/items", "3", '{"name":"ink","price":{"value":9,"unit":"EUR"}}')}
    local out, folder = replay(entries, [[
      local ok, err = pcall(client.post, client, "/items", {json = {name = "ink", price = {value = 8, unit = "EUR"}}})
      print(err.kind, err.line, err.message, err.hint)
      print(err.file, err.differences[1], err.method, err.url)
      show_error(client.put, client, "/items/7")
      show_error(get, "/items?page=2")
      show_error(client.post, client, "/items", {body = "abc"})]])
    assert.matches("replay\t4\tPOST http://HERE/items: not in the recordings; the nearest is POST http://localhost/it",
      out, 1, true)
    assert.matches("001-made.jsonl:4): body $.price.value is 8, recorded is 9\t", out, 1, true)
    assert.matches("record again: RIVERLUA_RECORD=" .. folder, out, 1, true)
    assert.matches(folder .. "/001-made.jsonl\tbody $.price.value is 8, recorded is 9\tPOST\t", out, 1, true)
    assert.matches('the path is "/items/7", recorded is "/items"', out, 1, true)
    assert.matches('the query is "page=2", recorded is ""', out, 1, true)
    assert.matches('the body is "abc", recorded is', out, 1, true)
  end)

  it("shows no secrets in what it says", function()
    local out = replay({entry("GET", "http://localhost/a?token=***", "1")}, [[
      show_error(get, "http://ann:pass-word-1@localhost/b?token=query-token-1",
        {headers = {Authorization = "Bearer bearer-token-1"}})]])
    for _, secret in ipairs{"pass-word-1", "query-token-1", "bearer-token-1"} do
      assert.is_nil(out:find(secret, 1, true))
    end
  end)

  it("says so when nothing was recorded, and is not tried again", function()
    local out = replay({}, [[
      show_error(get, "/a")
      print(client:stats().requests, client:stats().retries)]])
    assert.matches("holds no recordings", out, 1, true)
    assert.matches("\n0\t0\n$", out)
  end)

  it("takes the entries of other types for requests of their own", function()
    local socket = entry("GET", "http://localhost/s", "1")
    socket.type, socket.answer = "semaphore", nil
    local out = replay({socket}, [[
      show_error(get, "/s")
      local recording, tape = require "riverlua.recording", require("riverlua.recording").session().tape
      local scrubber = recording.session().scrubber
      print(tape:take(recording.request(scrubber, "GET", "ws://localhost/s", {}), "semaphore").type)]])
    assert.matches('the type is "http", recorded is "semaphore"', out, 1, true)
    assert.matches("\nsemaphore\n$", out)
  end)
end)
