-- libcurl and the plain connections read the same answers: 200 that are made up, always the same ones.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")

-- not math.random: the answers must not depend on who else uses it
local function generator(seed)
  local state = seed
  return function(from, to)
    state = (state * 6364136223846793005 + 1442695040888963407)
    return from + (state >> 33) % (to - from + 1)
  end
end

local function one_of(random, list) return list[random(1, #list)] end

local function text(random, longest, from, to)
  local out = {}
  for i = 1, random(0, longest) do out[i] = string.char(random(from, to)) end
  return table.concat(out)
end

local function header_value(random)
  local value = one_of(random, {"", "1", "a, b", "x;q=0.5", "gr\195\188n", "\255\254", "\"quo,ted\"", "a:b: c", "a\t b",
    text(random, 40, 33, 126), text(random, 2000, 33, 126)})
  return one_of(random, {"", " ", "\t", "  "}) .. value .. one_of(random, {"", " ", "\t "})
end

local function headers(random, lines)
  for _ = 1, random(0, 12) do
    local name = one_of(random, {"X-A", "x-a", "Set-Cookie", "ETag", "Vary", "Server", "X_1.~!", "Content-Type",
      "X-" .. random(1, 99)})
    lines[#lines + 1] = name .. ":" .. header_value(random)
  end
end

local function chunks(random, body, newline)
  local out, at = {}, 1
  while at <= #body do
    local size = math.min(random(1, 3) == 1 and random(1, 5000) or random(1, 50), #body - at + 1)
    out[#out + 1] = (one_of(random, {"%x", "%X", "0%x"}):format(size)) ..
      one_of(random, {"", "", ";x", ";name=\"va lue\""}) .. newline .. body:sub(at, at + size - 1) .. newline
    at = at + size
  end
  out[#out + 1] = one_of(random, {"0", "000", "0;last"}) .. newline
  if random(1, 2) == 1 then out[#out + 1] = "X-Sum: " .. random(1, 1000) .. newline end
  out[#out + 1] = newline
  return table.concat(out)
end

-- An answer, and how its connection ends: "keep" or "fin".
local function make_answer(random, for_head)
  local newline = random(1, 8) == 1 and "\n" or "\r\n"
  local interim = {}
  for _ = 1, random(1, 5) == 1 and random(1, 3) or 0 do
    interim[#interim + 1] = "HTTP/1.1 " .. one_of(random, {"100 Continue", "102 x", "103 Early Hints\r\nLink: </x>"}) ..
      "\r\n\r\n"
  end
  local status = one_of(random, {200, 200, 201, 204, 206, 300, 304, 400, 404, 418, 500, 503, 599})
  local version = random(1, 6) == 1 and "1.0" or "1.1"
  local lines = {("HTTP/%s %d%s"):format(version, status, one_of(random, {"", " ", " OK", " Not \195\164 word"}))}
  headers(random, lines)
  local keeps = version == "1.1"
  if random(1, 6) == 1 then
    lines[#lines + 1] = "Connection: close"
    keeps = false
  elseif random(1, 6) == 1 then
    lines[#lines + 1] = one_of(random, {"Connection: keep-alive", "connection:Keep-Alive"})
    keeps = true
  end
  local body = random(1, 10) == 1 and text(random, 100000, 0, 255) or text(random, 300, 0, 255)
  local no_body = for_head or status == 204 or status == 304
  local framing = random(1, version == "1.0" and 2 or 3)
  if framing == 1 then
    lines[#lines + 1] = one_of(random, {"Content-Length: ", "content-length:"}) .. #body
  elseif framing == 3 and status ~= 204 then
    lines[#lines + 1] = one_of(random, {"Transfer-Encoding: chunked", "transfer-encoding:chunked"})
    body = chunks(random, body, newline)
  elseif not no_body then
    keeps = false
  end
  headers(random, lines)
  lines[#lines + 1] = newline
  if no_body then body = "" end
  return table.concat(interim) .. table.concat(lines, newline) .. body, keeps and "keep" or "fin"
end

local base64_digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(bytes)
  return (bytes:gsub("..?.?", function(three)
    local a, b, c = three:byte(1, 3)
    local n = a << 16 | (b or 0) << 8 | (c or 0)
    local out = {}
    for i = 1, #three + 1 do
      local digit = (n >> (24 - 6 * i)) & 63
      out[i] = base64_digits:sub(digit + 1, digit + 1)
    end
    return table.concat(out) .. ("="):rep(3 - #three)
  end))
end

describe("both ways of http.Client", function()
  local stub, clients

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  before_each(function()
    clients = {}
    for name, way in pairs(servers.ways) do
      -- libcurl keeps what it was not asked to decompress: no answer here names a coding
      clients[name] = way.Client{base_url = stub:url(), proxy = false, retries = 0, redirects = 0}
    end
  end)
  after_each(function()
    for _, client in pairs(clients) do client:close() end
  end)

  local function outcome(client, method, query, body)
    local res = client:request{method = method, url = "/raw", query = query, body = body}
    local out = {status = res.status, version = res.http_version, body = res.body, trailers = res.trailers}
    out.headers = {}
    for name, value in pairs(res.headers) do out.headers[name] = value end
    out.kept = client:get("/").reused
    return out
  end

  local function compare(number, method, query, body, answer)
    local libcurl = outcome(clients.libcurl, method, query, body)
    local plain = outcome(clients.plain, method, query, body)
    if libcurl.body ~= plain.body then
      error(("answer %d: bodies of %d and %d bytes differ: %q"):format(number, #libcurl.body, #plain.body, answer))
    end
    assert.same(libcurl, plain, ("answer %d: %q"):format(number, answer))
  end

  it("read the same from 200 answers", function()
    local random = generator(20240607)
    for number = 1, 200 do
      local answer, ending = make_answer(random, false)
      local step = #answer < 3000 and random(1, 4) == 1 and random(1, 40) or random(500, 100000)
      compare(number, one_of(random, {"POST", "PUT", "DELETE"}), {["end"] = ending, step = step}, answer, answer)
    end
  end)

  it("read the same from 50 answers to HEAD", function()
    local random = generator(4711)
    for number = 1, 50 do
      local answer, ending = make_answer(random, true)
      compare(number, "HEAD", {["end"] = ending, base64 = base64(answer)}, nil, answer)
    end
  end)
end)
