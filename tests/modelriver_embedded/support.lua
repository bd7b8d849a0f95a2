--- What the specs of the embedded service share. They load this file with dofile.

local embedded = require "modelriver.embedded"
local json = require "riverlua.json"

local support = {}

support.messages = {{role = "system", content = "Be brief."}, {role = "user", content = "hello world"}}

--- A request to the synchronous API (or `path`), with messages unless there are some.
function support.ask(transport, fields, path, more)
  local body = {messages = support.messages}
  for name, value in pairs(fields) do body[name] = value end
  local req = {method = "POST", path = path or "/v1/ai", headers = {}, json = body, stream = body.stream}
  for name, value in pairs(more or {}) do req[name] = value end
  return transport:request(req)
end

--- The decoded answer, which must have the status.
function support.answer(transport, fields, path, status, more)
  local res = support.ask(transport, fields, path, more)
  if res.status ~= (status or 200) then error(("status %d: %s"):format(res.status, res.body or res:text()), 2) end
  return res:json(), res
end

--- The chunks of a streamed answer, decoded; the last one is "[DONE]" when it came.
function support.chunks(transport, fields, path)
  fields.stream = true
  local res <close> = support.ask(transport, fields, path)
  local list = {}
  for event in res:events() do
    list[#list + 1] = event.data == "[DONE]" and event.data or json.decode(event.data, {drop_null = true})
  end
  return list, res
end

--- The text of chunks.
function support.text(chunks)
  local pieces = {}
  for _, chunk in ipairs(chunks) do
    local choice = type(chunk) == "table" and chunk.choices and chunk.choices[1] or nil
    pieces[#pieces + 1] = choice and choice.delta.content
  end
  return table.concat(pieces)
end

--- Starts a job and returns the answer.
function support.start(transport, fields, status)
  return (support.answer(transport, fields, "/v1/ai/async", status))
end

--- The address of a job's WebSocket.
function support.address(details, token)
  return ("%s/websocket?token=%s&vsn=2.0.0"):format(details.websocket_url, token or details.ws_token)
end

--- Opens a job's WebSocket and joins its channel; the reply has been received.
function support.join(transport, details, topic)
  local peer = transport:websocket(support.address(details))
  topic = topic or details.websocket_channel
  support.send(peer, "1", "1", topic, "phx_join")
  return peer, support.receive(peer)
end

--- Sends a frame.
function support.send(peer, join_ref, ref, topic, event, payload)
  peer:send(json.encode{join_ref or json.null, ref or json.null, topic, event, json.object(payload or {})})
end

--- The next frame as {join_ref=, ref=, topic=, event=, payload=}.
function support.receive(peer, seconds)
  local text = peer:receive(seconds or 10)
  if text == nil then return nil end
  local frame = json.decode(text)
  local function plain(value) return value ~= json.null and value or nil end
  return {join_ref = plain(frame[1]), ref = plain(frame[2]), topic = frame[3], event = frame[4], payload = frame[5]}
end

--- The payload of the next frame, which must be a response.
function support.response(peer)
  local frame = support.receive(peer)
  assert(frame and frame.event == "response", frame and frame.event)
  return frame.payload
end

--- The error that a call raises.
function support.error_of(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then error("no error was raised", 2) end
  return err
end

--- Calls `fn(transport)` with a transport that is closed afterwards.
function support.with(options, fn)
  local transport <close> = embedded.new(options)
  return fn(transport)
end

return support
