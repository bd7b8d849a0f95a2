-- The event-stream parser against the WHATWG rules, whatever the cuts.

local errors = require "riverlua.errors"
local sse = require "riverlua.sse"

local MARK = "\239\187\191"

-- The rules once more, in the plainest way: the whole text at once, line by line.
local function by_the_rules(text)
  if text:sub(1, 3) == MARK then text = text:sub(4) end
  text = text:gsub("\r\n", "\n"):gsub("\r", "\n")
  local events, data, kind, id = {}, {}, "", ""
  for line in text:gmatch("([^\n]*)\n") do
    local name, value = line:match("^([^:]*): ?(.*)$")
    if not name then name, value = line, "" end
    if line == "" then
      if #data > 0 then
        events[#events + 1] = {event = kind ~= "" and kind or "message", data = table.concat(data, "\n"),
          id = id ~= "" and id or nil}
      end
      data, kind = {}, ""
    elseif name == "data" then
      data[#data + 1] = value
    elseif name == "event" then
      kind = value
    elseif name == "id" and not value:find("\0", 1, true) then
      id = value
    end
  end
  return events
end

local function feed_all(parser, pieces)
  local events = {}
  for _, piece in ipairs(pieces) do
    for event in parser:feed(piece) do events[#events + 1] = event end
  end
  return events
end

local function parse(text, ...)
  return feed_all(sse.parser(), {text, ...})
end

local function every(text, step)
  local pieces = {}
  for i = 1, #text, step do pieces[#pieces + 1] = text:sub(i, i + step - 1) end
  return pieces
end

describe("riverlua.sse", function()
  it("reads the plain form", function()
    assert.same({{event = "message", data = "one"}, {event = "message", data = "two"}},
      parse("data: one\n\ndata: two\n\n"))
  end)

  it("takes LF, CR and CRLF as line ends, also mixed", function()
    local wanted = {{event = "note", data = "a\nb"}, {event = "message", data = "c"}}
    for _, ending in ipairs{"\n", "\r", "\r\n"} do
      assert.same(wanted, parse(("event: note\ndata: a\ndata: b\n\ndata: c\n\n"):gsub("\n", ending) .. ""))
    end
    assert.same(wanted, parse("event: note\rdata: a\r\ndata: b\n\r\ndata: c\r\n\r"))
  end)

  it("does not wait for the LF of a CRLF before handing out the event", function()
    local parser = sse.parser()
    assert.same({{event = "message", data = "x"}}, feed_all(parser, {"data: x\r\n\r"}))
    assert.same({{event = "message", data = "y"}}, feed_all(parser, {"\n", "data: y\n\n"}))
  end)

  it("removes one space after the colon, and only one", function()
    assert.same({{event = "message", data = " two"}}, parse("data:  two\n\n"))
    assert.same({{event = "message", data = "none"}}, parse("data:none\n\n"))
    assert.same({{event = "message", data = "\ttab"}}, parse("data:\ttab\n\n"))
    assert.same({{event = "message", data = ""}}, parse("data: \n\n"))
  end)

  it("keeps colons inside a value", function()
    assert.same({{event = "message", data = "a:b: c"}}, parse("data:a:b: c\n\n"))
  end)

  it("treats a field without a colon as one with an empty value", function()
    assert.same({{event = "message", data = ""}}, parse("data\n\n"))
    assert.same({{event = "message", data = "\n"}}, parse("data\ndata\n\n"))
    assert.same({{event = "message", data = "x"}}, parse("event: named\nevent\ndata: x\n\n"))
  end)

  it("ignores comments, unknown fields and names in the wrong case", function()
    assert.same({{event = "message", data = "x"}},
      parse(": hello\n:\nDATA: no\n data: no\ndatax: no\ndat: no\ncolor: red\ndata: x\n\n"))
  end)

  it("does not hand out an event without data, and forgets its type", function()
    assert.same({{event = "message", data = "x"}}, parse("event: lost\n\ndata: x\n\n"))
  end)

  it("drops the event that the end of the stream cuts off", function()
    assert.same({{event = "message", data = "a"}}, parse("data: a\n\ndata: b\n"))
    assert.same({}, parse("data: a"))
    assert.same({}, parse("data: a\n"))
  end)

  it("carries the id on until it changes, also over an event without data", function()
    local parser = sse.parser()
    local events = feed_all(parser, {"id: 1\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\nid\ndata: d\n\n"})
    assert.same({"1", "1", "2"}, {events[1].id, events[2].id, events[3].id})
    assert.is_nil(events[4].id)
    assert.is_nil(parser.last_id)
  end)

  it("ignores an id that holds a NUL", function()
    assert.equal("ok", parse("id: ok\ndata: a\n\nid: b\0d\ndata: x\n\n")[2].id)
  end)

  it("does not take the id of an unfinished event for the last one", function()
    local parser = sse.parser{last_id = "5"}
    feed_all(parser, {"id: 6\ndata: a\n"})
    assert.equal("5", parser.last_id)
    feed_all(parser, {"\n"})
    assert.equal("6", parser.last_id)
  end)

  it("takes retry in milliseconds only when it is all digits", function()
    local parser = sse.parser()
    parser:feed("retry: 1500\n\n"); parser:next()
    assert.equal(1.5, parser.retry)
    for _, bad in ipairs{"1s", "-1", "1.5", "", " 7", "0x10", ("9"):rep(400)} do
      parser:feed("retry: " .. bad .. "\n\n"); parser:next()
      assert.equal(1.5, parser.retry)
    end
    assert.same({}, feed_all(sse.parser(), {"retry: 10\n\n"}))
  end)

  it("skips one byte order mark at the very start only", function()
    assert.same({{event = "message", data = "x"}}, parse(MARK .. "data: x\n\n"))
    assert.same({}, parse(MARK .. MARK .. "data: x\n\n"))
    assert.same({{event = "message", data = "y"}}, parse("data: y\n\n" .. MARK .. "data: x\n\n"))
    assert.same({{event = "message", data = MARK}}, parse("data: " .. MARK .. "\n\n"))
    assert.same({}, parse("\239\187data: x\n\n"))
    for step = 1, 4 do
      assert.same({{event = "message", data = "x"}}, feed_all(sse.parser(), every(MARK .. "data: x\n\n", step)))
    end
  end)

  it("passes UTF-8 and invalid bytes through unharmed", function()
    local text = "grüße 日本 🎉 \255\254"
    assert.same({{event = "message", data = text}}, feed_all(sse.parser(), every("data: " .. text .. "\n\n", 1)))
  end)

  local long = MARK .. ": hi\r\nevent: add\r\ndata: {\"a\": 1,\r\ndata:  \"b\": [2]}\r\nid: 7\r\n\r\nretry: 250\n" ..
    "data\n\n\n\rdata: Zürich\rid: x\0y\r\r\nfoo: bar\nevent:last\ndata:\ndata:::\n\ndata: cut off"

  it("gives the same events cut at every byte", function()
    local wanted = by_the_rules(long)
    assert.equal(4, #wanted)
    assert.same(wanted, parse(long))
    for i = 0, #long do
      assert.same(wanted, parse(long:sub(1, i), long:sub(i + 1)))
    end
  end)

  it("gives the same events cut at every pair of bytes", function()
    local text = MARK .. "id:1\r\ndata: a\r\n\r\nevent:e\rdata:b\r\rdata:ü\n\n"
    local wanted = by_the_rules(text)
    assert.equal(3, #wanted)
    for i = 0, #text do
      for j = i, #text do
        assert.same(wanted, parse(text:sub(1, i), text:sub(i + 1, j), text:sub(j + 1)))
      end
    end
  end)

  it("gives the same events in pieces of every size", function()
    local wanted = by_the_rules(long)
    for step = 1, #long do assert.same(wanted, feed_all(sse.parser(), every(long, step))) end
  end)

  it("agrees with the rules on random streams in random pieces", function()
    local bits = {"data", "data:", "data: ", "event:", "event: ", "id:", "id: ", "retry: ", ":", " ", "x", "yz", "12",
      "\0", "\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", MARK, "ü"}
    math.randomseed(20240607)
    for _ = 1, 2000 do
      local parts = {}
      for i = 1, math.random(0, 40) do parts[i] = bits[math.random(#bits)] end
      local text = table.concat(parts)
      local pieces, at = {}, 1
      while at <= #text do
        local size = math.random(1, 9)
        pieces[#pieces + 1] = text:sub(at, at + size - 1)
        at = at + size
      end
      assert.same(by_the_rules(text), feed_all(sse.parser(), pieces), ("text %q"):format(text))
    end
  end)

  it("keeps events that were not fetched for the next call", function()
    local parser = sse.parser()
    parser:feed("data: 1\n\ndata: 2\n\ndata: 3")
    assert.equal("1", parser:next().data)
    parser:feed("3\n\n")
    assert.equal("2", parser:next().data)
    assert.equal("33", parser:next().data)
    assert.is_nil(parser:next())
  end)

  it("joins very many short data lines", function()
    local lines = {}
    for i = 1, 2000 do lines[i] = tostring(i) end
    local events = parse("data:" .. table.concat(lines, "\ndata:") .. "\n\n")
    assert.equal(table.concat(lines, "\n"), events[1].data)
  end)

  describe("max_event", function()
    local function limit_error(text, step)
      local parser = sse.parser{max_event = 100}
      local seen = 0
      local ok, err = pcall(function()
        for _, piece in ipairs(every(text, step)) do
          for _ in parser:feed(piece) do seen = seen + 1 end
        end
      end)
      return not ok and err, seen, parser
    end

    it("stops a line, an event and a comment that never end, whatever the cuts", function()
      local endless = {"data: " .. ("x"):rep(95) .. "\n\n", ("data: xxxxxxxx\n"):rep(20), ":" .. ("c"):rep(200),
        ("data\n"):rep(101)}
      for _, rest in ipairs(endless) do
        local text = "data: a\n\n" .. rest
        for _, step in ipairs{1, 7, #text} do
          local err, seen = limit_error(text, step)
          assert.is_true(errors.is(err, "limit"), text)
          assert.equal(1, seen)
          assert.matches("100 bytes", err.message, 1, true)
        end
      end
    end)

    it("lets everything up to the limit pass", function()
      local text = ("data: " .. ("x"):rep(94) .. "\n\n"):rep(3)
      for _, step in ipairs{1, 7, #text} do
        local err, seen = limit_error(text, step)
        assert.is_false(err)
        assert.equal(3, seen)
      end
    end)

    it("keeps failing once it has failed", function()
      local err, _, parser = limit_error(("x"):rep(200), 50)
      local ok, again = pcall(parser.feed, parser, "data: x\n\n")
      assert.is_false(ok)
      assert.equal(err, again)
      assert.is_false((pcall(parser.next, parser)))
    end)

    it("holds no more memory than the event needs, even fed byte by byte", function()
      collectgarbage(); collectgarbage()
      local before = collectgarbage("count")
      local parser = sse.parser{max_event = 1 << 20}
      for _ = 1, 200000 do parser:feed("x"); parser:next() end
      collectgarbage(); collectgarbage()
      assert.is_true(collectgarbage("count") - before < 1024)
    end)
  end)

  it("holds nothing back between events", function()
    local parser = sse.parser()
    local chunk = ("data: {\"delta\": \"some words\"}\n\n"):rep(100)
    for _ in parser:feed(chunk) do end
    collectgarbage(); collectgarbage()
    local before = collectgarbage("count")
    for _ = 1, 500 do for _ in parser:feed(chunk) do end end
    collectgarbage(); collectgarbage()
    assert.is_true(collectgarbage("count") - before < 64)
  end)

  it("iterates over a reader of pieces", function()
    local pieces = every("data: 1\n\ndata: 2\n\ndata: lost\n", 4)
    local at = 0
    local got = {}
    for event in sse.events(function() at = at + 1; return pieces[at] end) do got[#got + 1] = event.data end
    assert.same({"1", "2"}, got)
    assert.equal(#pieces + 1, at)
  end)

  it("passes the reader's error on", function()
    local next_event = sse.events(function() errors.raise{kind = "timeout", message = "idle"} end)
    local ok, err = pcall(next_event)
    assert.is_false(ok)
    assert.is_true(errors.is(err, "timeout"))
  end)

  it("names wrong arguments", function()
    local ok, err = pcall(sse.parser, {max_events = 5})
    assert.is_false(ok)
    assert.matches("did you mean 'max_event'", tostring(err), 1, true)
    ok, err = pcall(sse.parser().feed, sse.parser(), nil)
    assert.is_false(ok)
    assert.is_true(errors.is(err, "argument"))
  end)
end)
