-- The files of recordings: what they are called, their order, several processes at once, and files that are broken.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local servers = support.servers
local recording = require "riverlua.recording"
local secrets = require "riverlua.recording.secrets"

local ERROR_SCRIPT = [[show_error(function() new_client():get("/a") end)]]

local function write_file(path, text)
  local file <close> = assert(io.open(path, "wb"))
  file:write(text)
end

describe("the files of recordings", function()
  local stub

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  after_each(support.clean)

  local function record(script, folder, options)
    options = options or {}
    options.args, options.folder = {stub:url()}, folder
    local result = support.run(script, "record", options)
    assert.equal(0, result.code, result.err)
    return result
  end

  it("are JSON Lines, with the number and name of the script, in a folder that is made", function()
    local folder = support.new_folder()
    record([[new_client():get("/status/200?body=hi", {headers = {B = "2"}})]], folder .. "/deep/er")
    local names = support.files(folder .. "/deep/er")
    assert.equal(1, #names)
    assert.matches("^001%-lua_%w+%.jsonl$", names[1])
    local lines = {}
    for line in io.lines(folder .. "/deep/er/" .. names[1]) do lines[#lines + 1] = line end
    assert.equal('{"type":"recording","version":1}', lines[1])
    assert.matches('^{"type":"http","request":{"headers":%[%["B","2"%],.*"method":"GET","url":"http://127.0.0.1:%d+/sta'
      .. 'tus/200%?body=hi"},"answer":{"body":"hi","headers":%[.*%],"status":200,"version":"1.1"}}$', lines[2])
    assert.equal(2, #lines)
  end)

  it("are the same when the same is recorded again", function()
    local texts = {}
    for i = 1, 2 do
      stub:reset()
      local folder = support.new_folder()
      record([[
        local client <close> = new_client{decompress = false}
        client:get("/chunked")
        task.map({1, 2, 3, 4, 5, 6}, function(i) client:get("/status/200?body=" .. i) end)
        client:post("/status/404", {json = {b = 1, a = {c = 2}}})
        client:get("/flaky?times=1&retry_after=0")
      ]], folder)
      texts[i] = support.text(folder)
    end
    assert.equal(texts[1], texts[2])
  end)

  it("are in the order in which requests began, also when the answers came in another", function()
    local folder = support.new_folder()
    record([[
      local client <close> = new_client()
      task.gather(function() return client:get("/barrier?n=2&key=a&x=1") end,
        function()
          client:get("/status/200?body=second")
          client:get("/barrier?n=2&key=a&x=3")
        end)
    ]], folder)
    local paths = {}
    for i, entry in ipairs(support.entries(folder)) do
      paths[i] = entry.request.url:match("%d/(.*)$")
      assert.is_nil(entry.n)
    end
    assert.same({"barrier?n=2&key=a&x=1", "status/200?body=second", "barrier?n=2&key=a&x=3"}, paths)
  end)

  it("are written entry by entry: a process that is killed loses only what it had not finished", function()
    local folder = support.new_folder()
    local result = support.run([[
      local client = new_client()
      task.spawn(function() client:get("/hold?key=killed") end)
      task.sleep(0)
      for i = 1, 3 do client:get("/status/200?body=" .. i) end
      local stat = io.open("/proc/self/stat"):read("a")
      os.execute("kill -9 " .. stat:match("^%d+"))
    ]], "record", {args = {stub:url()}, folder = folder})
    assert.not_equal(0, result.code)
    local entries = support.entries(folder)
    assert.equal(3, #entries)
    assert.same({2, 3, 4}, {entries[1].n, entries[2].n, entries[3].n})
    local read = recording.read_folder(folder)
    assert.equal("1", read[1].answer.body)
    -- and cut in the middle of the last line
    local path = folder .. "/" .. support.files(folder)[1]
    write_file(path, servers.read_file(path):sub(1, -20))
    assert.equal(2, #recording.read_folder(folder))
  end)

  it("are one for each process, however many record into the folder at once", function()
    local folder = support.new_folder()
    local script = os.tmpname()
    write_file(script, [[
      local client <close> = require("riverlua.http").Client{base_url = arg[1], proxy = false}
      client:get("/barrier?n=8&key=processes")
      for i = 1, 20 do client:get("/status/200?body=" .. arg[2] .. "." .. i) end
    ]])
    local words = {}
    for i = 1, 8 do
      words[i] = ("RIVERLUA_RECORD=%s %s %s %s %d &"):format(servers.quote(folder), servers.quote(servers.riverlua),
        servers.quote(script), stub:url(), i)
    end
    assert.is_true(os.execute(table.concat(words, " ") .. " wait"))
    os.remove(script)
    local names = support.files(folder)
    assert.equal(8, #names)
    local numbers, seen = {}, 0
    for _, name in ipairs(names) do
      local number = name:match("^(%d+)%-.*%.jsonl$")
      assert.is_nil(numbers[number])
      numbers[number] = true
      local entries = recording.read_file(folder .. "/" .. name)
      assert.equal(21, #entries)
      local who = entries[2].answer.body:match("^(%d+)%.")
      for i = 1, 20 do assert.equal(who .. "." .. i, entries[i + 1].answer.body) end
      seen = seen + tonumber(who)
    end
    assert.equal(36, seen)
  end)

  it("are added to by the next process, and read by their numbers, those of the script first", function()
    local folder = support.write({support.entry("GET", "http://localhost/", "first")}, "001-aaa.jsonl")
    record([[new_client():get("/status/200?body=second")]], folder)
    local names = support.files(folder)
    assert.equal("001-aaa.jsonl", names[1])
    assert.matches("^002%-", names[2])
    os.rename(folder .. "/" .. names[2], folder .. "/002-zzz.jsonl")
    local read = recording.read_folder(folder)
    assert.same({"first", "second"}, {read[1].answer.body, read[2].answer.body})
    local script = os.tmpname() .. "_zzz.lua"
    os.rename(folder .. "/002-zzz.jsonl", folder .. "/002-" .. script:match("([^/]*)%.lua$") .. ".jsonl")
    write_file(script, [[
      for i, entry in ipairs(require("riverlua.recording").read_folder(os.getenv("FOLDER"))) do
        print(i, entry.answer.body)
      end
    ]])
    local pipe = assert(io.popen("FOLDER=" .. servers.quote(folder) .. " " .. servers.riverlua .. " " .. script))
    assert.equal("1\tsecond\n2\tfirst\n", pipe:read("a"))
    pipe:close()
    os.remove(script)
  end)

  it("are not changed by replays", function()
    local folder = support.write{support.entry("GET", "http://localhost/a", "1")}
    local before = support.text(folder)
    local result = support.run([[print(new_client():get("/a").body)]], "replay",
      {args = {"http://127.0.0.1:9"}, folder = folder})
    assert.equal("1\n", result.out)
    assert.equal(before, support.text(folder))
    assert.equal(1, #support.files(folder))
  end)

  it("leave out bodies that are too large, and say so in a replay", function()
    local folder = support.new_folder()
    local script = [[
      local client <close> = new_client()
      local ok, err = pcall(client.get, client, "/big?bytes=40000000")
      print(ok and #err.body or err)
      ok, err = pcall(function()
        local size = 0
        for bytes in client:get("/big?bytes=40000000", {stream = true}):chunks() do size = size + #bytes end
        return size
      end)
      print(err)
      print(client:post("/upload", {body = ("x"):rep(40000000)}):json().length)
    ]]
    assert.equal("40000000\n40000000\n40000000\n", record(script, folder).out)
    local entries = support.entries(folder)
    assert.is_true(entries[1].answer.omitted)
    assert.is_true(entries[2].answer.omitted)
    assert.equal(40000000, entries[3].request.omitted)
    local out = support.run(script, "replay", {args = {stub:url()}, folder = folder}).out
    assert.matches("^replay: .-too large to be recorded.-\nreplay: .-too large to be recorded.-\n", out)
  end)

  it("are needed one way or the other: both variables are an error", function()
    local result = support.run(ERROR_SCRIPT, "replay", {args = {stub:url()}, folder = "/a",
      environment = {RIVERLUA_RECORD = "/b"}})
    assert.matches("^argument\t.*RIVERLUA_RECORD and RIVERLUA_REPLAY are both set", result.out)
  end)

  it("are an error where there is no such folder, or none can be made", function()
    local folder = support.new_folder()
    local result = support.run(ERROR_SCRIPT, "replay", {args = {stub:url()}, folder = folder})
    assert.matches("^storage\t", result.out)
    assert.matches("cannot replay: " .. folder .. ": No such file or directory", result.out, 1, true)
    write_file(folder, "")
    result = support.run(ERROR_SCRIPT, "record", {args = {stub:url()}, folder = folder})
    assert.matches("^storage\t", result.out)
    assert.matches("cannot record: " .. folder .. ": ", result.out, 1, true)
    result = support.run(ERROR_SCRIPT, "record", {args = {stub:url()}, folder = folder .. "/x"})
    assert.matches("^storage\t", result.out)
  end)

  it("do not disturb the script when they can no longer be written", function()
    local folder = support.new_folder()
    local result = record([[
      local client <close> = new_client()
      for i = 1, 100 do client:get("/big?bytes=2000") end
      print("done")
    ]], folder, {prefix = "env --ignore-signal=XFSZ prlimit --fsize=20000"})
    assert.equal("done\n", result.out)
    assert.equal(1, select(2, result.err:gsub("nothing more is recorded", "")))
  end)

  it("are an error with file and line where they are damaged", function()
    local good = '{"type":"http","request":{"method":"GET","url":"http://h/","headers":[]},"answer":'
      .. '{"status":200,"headers":[],"body":"x"}}'
    for bad, what in pairs{
      ["{nonsense"] = "expected", ["[]"] = "an object with a type", ['{"type":1}'] = "an object with a type",
      ['{"type":"http"}'] = "request must have", [good:gsub('"GET"', "5")] = "request must have",
      [good:gsub('"headers":%[%]', '"headers":[["a"]]', 1)] = "request.headers must hold",
      [good:gsub('"headers":%[%]', '"headers":[["a","b\\r\\nc"]]', 1)] = "request.headers must hold",
      [good:gsub("200", "2")] = "answer.status", [good:gsub('"x"', "7")] = "answer.body must be text",
      [good:gsub('"body":"x"', '"body_base64":"%%"')] = "body_base64 is none",
      [good:gsub('"body":"x"', '"body":"x","pieces":[2]')] = "pieces must be lengths",
      [good:gsub('"body":"x"', '"body":"xyz","pieces":[1,1]')] = "pieces add up to 2 bytes, and the body has 3",
      [good:gsub('"answer".*', '"failure":{"kind":"magic"}}')] = "failure.kind",
      [good:gsub('"answer".*', '"failure":{"kind":"timeout","phase":"x"}}')] = "failure.phase",
      [good:gsub('"answer".*', '"failure":{"kind":"limit"}}')] = "failure.limit",
      [good:gsub(',"answer".*', "}")] = "neither answer nor failure",
      [("["):rep(100) .. ("]"):rep(100)] = "deep",
    } do
      local folder = support.write{good, bad, good}
      local err = servers.error_of(recording.read_folder, folder)
      assert.equal("storage", err.kind, bad)
      assert.equal(3, err.line, bad)
      assert.equal(folder .. "/001-made.jsonl", err.file)
      assert.matches(what, err.message, 1, true)
      assert.matches("001-made.jsonl:3: ", err.message, 1, true)
    end
    local folder = support.write{}
    for text, what in pairs{["{}\n"] = "the first line must be",
      ['{"type":"recording","version":9}\n'] = "version 9"} do
      write_file(folder .. "/001-made.jsonl", text)
      local err = servers.error_of(recording.read_folder, folder)
      assert.equal(1, err.line)
      assert.matches(what, err.message, 1, true)
    end
  end)

  it("may be written by hand, with failures that say no more than their kind", function()
    local folder = support.write{'{"type":"http","request":{"method":"GET","url":"http://127.0.0.1/","headers":[]},'
      .. '"answer":{"status":200,"headers":[],"body":"x"},"failure":{"kind":"protocol"}}'}
    local result = support.run([[
      local client <close> = new_client{retries = 0}
      local res = client:get("/", {stream = true})
      print(res:read())
      show_error(res.read, res)
    ]], "replay", {args = {"http://127.0.0.1"}, folder = folder})
    assert.matches("^x\nprotocol\t", result.out, 1, result.err)
  end)

  it("are read in bounded memory", function()
    local folder = support.write{}
    local block, count = ("x"):rep(1 << 20), 0
    local err = servers.error_of(recording.parse, function()
      count = count + 1
      return count < 1000 and block or nil
    end, "endless")
    assert.matches("endless:1: a line has more than 75497472 bytes", err.message, 1, true)
    assert.is_true(count < 80)
    assert.is_true(os.execute("truncate -s 2G " .. servers.quote(folder .. "/002-sparse.jsonl")))
    err = servers.error_of(recording.read_folder, folder)
    assert.matches("has more than 1073741824 bytes", err.message, 1, true)
  end)

  it("are written and read by what other recorders share", function()
    local folder = support.new_folder()
    local scrubber, writer = secrets.scrubber(), recording.writer(folder)
    local first, second = writer:begin(), writer:begin()
    local request = recording.request(scrubber, "GET", "ws://localhost:1/s?token=abc", {{"Origin", "x"}})
    writer:append{type = "semaphore", n = second, request = request, frames = {{"in", "b"}}}
    writer:append{type = "semaphore", n = first, request = request, frames = {{"in", "a"}}}
    local tape = require("riverlua.recording.tape").open(folder)
    assert.equal("a", tape:take(request, "semaphore").frames[1][2])
    assert.equal("b", tape:take(request, "semaphore").frames[1][2])
    assert.equal("replay", servers.error_of(tape.take, tape, request, "semaphore").kind)
  end)
end)
