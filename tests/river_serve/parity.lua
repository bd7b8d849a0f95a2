-- The requests and recorded answers of tests/river_embedded, for a service on the network: parity(send) with
-- send(method, path, body) → {status, body}.

local assert = require "luassert"
local json = require "riverlua.json"
local pickle = require "river.pickle"
local MODELS = dofile("tests/river_embedded/parity_models.lua")

-- What is answered where the real server fails without a word.
local BETTER = {["/predict/"] = 500, ["/learn/"] = 400}

local function read(name)
  local file <close> = assert(io.open("tests/river_embedded/" .. name, "rb"))
  return json.decode(file:read("a"))
end

local function body_of(request)
  if request.model then return pickle.dumps(MODELS[request.model]()) end
  return request.json ~= nil and json.encode(request.json) or request.body
end

return function(send)
  local requests, answers = read("requests.json"), read("answers.json")
  assert.equal(#requests, #answers)
  for i, request in ipairs(requests) do
    local res, status, body = send(request.method, request.path, body_of(request)), answers[i][1], answers[i][2]
    local title = ("%d: %s %s %s"):format(i, request.method, request.path, res.body or "")
    if status == 500 then
      assert.equal(BETTER[request.path], res.status, title)
    else
      assert.equal(status, res.status, title)
      if body == json.null then assert.equal("", res.body, title)
      else assert.equal(json.encode(body, {sort = true}), res.body, title) end
    end
  end
end
