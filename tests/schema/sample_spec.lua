--- schema.sample: small values that fit; python_spec.lua has random schemas.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local schema = require "riverlua.schema"

local function sample(document, options)
  local value = schema.sample(document, options)
  assert.is_true(schema.validate(document, value, options))
  return json.encode(value, {sort = true})
end

describe("a sample", function()
  it("is what the schema names: const, default, an example, the first of enum", function()
    assert.equal("3", sample{const = 3})
    assert.equal('"x"', sample{type = "string", default = "x", examples = {"y"}})
    assert.equal('"y"', sample{type = "string", default = 3, examples = {"y"}, enum = {"z", "y"}})
    assert.equal('"z"', sample{enum = {"z", "y"}})
    assert.equal("null", sample{const = json.null})
    assert.equal("false", sample{type = "boolean"})
  end)

  it("is the least that is asked for", function()
    assert.equal("{}", sample{type = "object", properties = {a = {type = "string"}}})
    assert.equal('{"a":"","c":0}', sample{properties = {a = {type = "string"}, b = true, c = {type = "number"}},
      required = {"a", "c"}})
    assert.equal("[]", sample{type = "array", items = {type = "string"}})
    assert.equal('[1,"",null]', sample{minItems = 3, prefixItems = {{const = 1}, {type = "string"}},
      items = {type = "null"}})
    assert.equal("[false]", sample{type = "array", contains = {type = "boolean"}})
    assert.equal('{"member1":1,"member2":1}', sample{type = "object", minProperties = 2,
      additionalProperties = {const = 1}})
    assert.equal('{"a":1,"b":""}', sample{type = "object", required = {"a"}, properties = {a = {const = 1}},
      dependentRequired = {a = {"b"}}})
    assert.equal('""', sample{})
  end)

  it("keeps to bounds", function()
    assert.equal("5", sample{type = "integer", minimum = 4.5})
    assert.equal("0.5", sample{type = "number", exclusiveMinimum = 0.25, maximum = 0.5})
    assert.equal("-1", sample{type = "integer", exclusiveMaximum = 0})
    assert.equal("12", sample{type = "integer", minimum = 10, multipleOf = 4})
    assert.equal('"aaa"', sample{type = "string", minLength = 3, maxLength = 3})
    assert.equal("[0,1,2]", sample{type = "array", items = {type = "integer"}, minItems = 3, uniqueItems = true})
    assert.equal('["a","b"]', sample{type = "array", items = {enum = {"a", "b"}}, minItems = 2, uniqueItems = true})
  end)

  it("matches patterns and formats", function()
    for _, pattern in ipairs{"^[A-Z]{3}-\\d{4}$", "^(foo|bar)\\.[^.]{2,}$", "^\\p{Lu}\\w+ [^a-z]+$",
      "x(?=y)y", "^\\u00e9*$",
      "^(?<name>[\\w.]+)@[a-z]+\\.(com|org)$", "^#[0-9a-fA-F]{6}$", "^v?\\d+(\\.\\d+){2}$",
      "^\\S+\\s\\S+$", "[^\\]]\\]"} do
      sample{type = "string", pattern = pattern}
      sample{type = "string", pattern = pattern, minLength = 2}
    end
    for _, format in ipairs{"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid",
      "regex", "json-pointer", "uri-template"} do
      sample({type = "string", format = format}, {formats = "assertion"})
    end
  end)

  it("follows references and takes the first alternative that works, the flattest first", function()
    assert.equal('{"next":null,"value":1}', sample{["$ref"] = "#/$defs/node", ["$defs"] = {node = {type = "object",
      required = {"value", "next"}, properties = {value = {type = "integer", minimum = 1},
        next = {anyOf = {{["$ref"] = "#/$defs/node"}, {type = "null"}}}}}}})
    assert.equal('{"kind":"b"}', sample{oneOf = {{properties = {kind = false}, required = {"kind"}},
      {required = {"kind"}, properties = {kind = {const = "b"}}}}})
    assert.equal('{"a":1,"b":""}', sample{required = {"a"}, properties = {a = {const = 1}},
      ["if"] = {properties = {a = {const = 1}}}, ["then"] = {required = {"b"}}, type = "object"})
    assert.equal('{"a":"q"}', sample{allOf = {{type = "object", required = {"a"}},
      {properties = {a = {enum = {"q"}}}}}})
  end)

  it("is refused where none is found", function()
    for _, document in ipairs{false, {type = "string", maxLength = 0, minLength = 1}, {["not"] = {}},
      {type = "object", required = {"x"}, properties = {x = {["$ref"] = "#"}}}} do
      local ok, err = pcall(schema.sample, document)
      assert.is_false(ok)
      assert.is_true(errors.is(err, "unsupported"), tostring(err))
    end
    assert.is_true(errors.is(select(2, pcall(schema.sample, {type = "strin"})), "argument"))
  end)
end)
