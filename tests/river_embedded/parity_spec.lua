-- The embedded service answers as the real server did (record_answers.py): same statuses, same bodies.

local json = require "riverlua.json"
local support = dofile("tests/river_embedded/support.lua")
local MODELS = dofile("tests/river_embedded/parity_models.lua")

-- What is said where the server fails with a 500 and no word.
local BETTER = {
  ["/predict/"] = {500, "diverged"},
  ["/learn/"] = {400, "unhashable type: 'list'"},
}

local function describe_request(i, request)
  return ("%d: %s %s %s"):format(i, request.method, request.path, request.json and json.encode(request.json) or "")
end

describe("an answer of the embedded service", function()
  local requests = json.decode(support.read_file("tests/river_embedded/requests.json"))
  local answers = json.decode(support.read_file("tests/river_embedded/answers.json"))

  it("is the server's, request by request", function()
    local service = support.open{prefix = "api"}
    assert.equal(#requests, #answers)
    for i, request in ipairs(requests) do
      local given = {json = request.json, body = request.body, model = request.model and MODELS[request.model]()}
      local ours, status, body = service.send(request.method, request.path, given), answers[i][1], answers[i][2]
      local title = describe_request(i, request)
      if status == 500 then
        assert.equal(BETTER[request.path][1], ours.status, title)
        assert.truthy(ours.body:find(BETTER[request.path][2], 1, true), title)
      else
        assert.equal(status, ours.status, title)
        if body == json.null then
          assert.equal("", ours.body, title)
        else
          assert.same(body, json.decode(ours.body), title)
          assert.equal(json.encode(body, {sort = true}), ours.body, title)
        end
      end
    end
  end)
end)
