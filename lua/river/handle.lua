--- What `client:predict` returns: the server's answer, and a handle to label it later.
--
--     local answer = cli:predict("spam", x, {identifier = true})
--     print(answer.prediction[true], answer.likeliest)
--     answer:label(false)          -- when the truth is known; once
--
-- `answer.likeliest` is the label with the highest probability and `answer.probabilities` the probabilities by label,
-- both with the types that this client's labels have; see `river.labels`. `answer.prediction` is what the server sent.

local check = require "river.check"
local errors = require "riverlua.errors"
local labels = require "river.labels"

local handle = {}

---@class river.Answer
---@field model string
---@field prediction any regression: a number; binary: probabilities by label's name; multiclass: the label, nil: none
---@field identifier string|number|nil when one was asked for
---@field likeliest any the label with the highest probability, as it was sent; nil before any learning
---@field probabilities table<any, number>|nil by label, as it was sent
---@field label fun(self: river.Answer, label: any): string teaches the model what was right; works once

local function fail(message, hint)
  errors.raise{kind = "argument", message = message, hint = hint}
end

-- What a server takes for no label at all.
local function is_falsy(label)
  return label == false or label == "" or label == 0 or type(label) == "table" and next(label) == nil
end

-- The server takes the features that it kept, but insists on some.
local function label_by_learning(client, model, identifier, label)
  client._internal.send_learn(client, model,
    {model = model, features = {_ = 0}, ground_truth = label, identifier = identifier})
  return "Successful label."
end

--- Sends a label.
---@param client river.Client
---@param model string
---@param identifier string|number
---@param label any
---@param unpredicted boolean|nil whether the prediction was null
---@return string text "Successful label."
function handle.label(client, model, identifier, label, unpredicted)
  local internal = client._internal
  check.name("label", model)
  internal.check_identifier("label", identifier)
  if label == nil or type(label) == "userdata" then
    fail(("label '%s': the label is missing"):format(model), "client:label(name, identifier, label)")
  end
  check.label("label", "label", label)
  if unpredicted or is_falsy(label) then return label_by_learning(client, model, identifier, label) end
  local req = {method = "POST", path = client._root .. "/label/", headers = internal.json_headers,
    timeout = client._timeout, json = {model = model, identifier = identifier, label = label}}
  local res = internal.in_turn(client, model, req)
  -- the prediction that was kept is null, as an untrained classifier's is
  if res.status == 400 and (res.body or ""):find("Missing one of features", 1, true) then
    return label_by_learning(client, model, identifier, label)
  end
  local answer = internal.finish(client, "label", model, req, res)
  internal.note_learned(client, model, label)
  return answer
end

local function label_answer(client, labelled, answer, y)
  if rawget(answer, "identifier") == nil then
    fail(("label: the server has kept nothing of this prediction of '%s'"):format(tostring(answer.model)),
      "client:predict(name, x, {identifier = true}) lets it")
  end
  if labelled[answer] then
    fail(("label: this answer of '%s' has been labelled already"):format(tostring(answer.model)),
      "an identifier serves once; client:learn(name, x, y) teaches the same sample again")
  end
  labelled[answer] = true
  local ok, result = pcall(handle.label, client, answer.model, answer.identifier, y,
    answer.prediction == nil)
  if not ok then
    labelled[answer] = nil
    error(result, 0)
  end
  return result
end

--- The metatable of a client's answers.
---@param client river.Client
---@return table
function handle.metatable(client)
  local labelled = setmetatable({}, {__mode = "k"})
  local meta = {__name = "river.Answer"}
  local function label(answer, ...)
    if getmetatable(answer) ~= meta then fail("label: call it with a colon: answer:label(y)") end
    if select("#", ...) == 0 then fail("label: the label is missing", "answer:label(y)") end
    return label_answer(client, labelled, answer, (...))
  end
  function meta.__index(answer, name)
    if name == "label" then return label end
    if name ~= "likeliest" and name ~= "probabilities" then return nil end
    local model = rawget(answer, "model")
    local known, binary = client._labels[model], client._flavors[model] == "binary"
    return labels[name](known, rawget(answer, "prediction"), binary)
  end
  return meta
end

return handle
