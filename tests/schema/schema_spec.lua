--- riverlua.schema beyond the official suite: values of scripts, messages, wrong schemas, documents, limits.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local schema = require "riverlua.schema"

local function fits(document, value, options) return (schema.validate(document, value, options)) end

local function described(document, value, options)
  local ok, problems = schema.validate(document, value, options)
  assert.is_false(ok)
  return schema.describe(problems)
end

local function fails(kind, text, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.is(err, kind), tostring(err))
  assert.truthy(tostring(err):find(text, 1, true), tostring(err))
  return err
end

describe("values", function()
  it("are tables of scripts as well as decoded JSON", function()
    local list, map = {type = "array", items = {type = "integer"}}, {type = "object", required = {"a"}}
    assert.is_true(fits(list, {1, 2}))
    assert.is_true(fits(list, json.array{1, 2}))
    assert.is_true(fits(list, json.decode("[1, 2]")))
    assert.is_false(fits(list, {a = 1}))
    assert.is_false(fits(list, {1, a = 2}))
    assert.is_true(fits(map, {a = false}))
    assert.is_false(fits(map, {"a"}))
    assert.is_false(fits(map, {"a", a = 1}))
    assert.is_false(fits(map, json.array{}))
  end)

  it("may be empty tables, which are what the schema wants unless they are tagged or decoded", function()
    local list, map = {type = "array", minItems = 0}, {type = "object"}
    assert.is_true(fits(list, {}))
    assert.is_true(fits(map, {}))
    assert.is_true(fits({anyOf = {list, map}}, {}))
    assert.is_false(fits(list, json.object{}))
    assert.is_false(fits(map, json.array{}))
    assert.is_false(fits(list, {}, {decoded = true}))
    assert.is_false(fits({minItems = 1}, {}))
    assert.is_false(fits({minProperties = 1}, {}))
    assert.is_true(fits({const = {}}, json.array{}))
    assert.is_true(fits({const = json.array{}}, {}))
    assert.is_false(fits({const = json.array{}}, {}, {decoded = true}))
  end)

  it("have null as json.null, nil only as a whole", function()
    assert.is_true(fits({type = "null"}, json.null))
    assert.is_true(fits({type = "null"}, nil))
    assert.is_true(fits({const = json.null}, json.null))
    assert.is_true(fits({enum = {json.null, 1}}, nil))
    assert.is_true(fits({properties = {a = {type = "null"}}, required = {"a"}}, {a = json.null}))
    assert.is_false(fits({required = {"a"}}, {a = nil}))
    assert.is_false(fits({type = "string"}, json.null))
  end)

  it("have integers of any form, exact", function()
    for _, value in ipairs{1, 1.0, -0.0, 1e300, math.maxinteger} do assert.is_true(fits({type = "integer"}, value)) end
    assert.is_false(fits({type = "integer"}, 1.5))
    assert.is_true(fits({const = 1}, 1.0))
    assert.is_true(fits({enum = {1.0}}, 1))
    assert.is_false(fits({uniqueItems = true}, {1, 1.0}))
    assert.is_false(fits({uniqueItems = true}, {{a = {1}}, {a = {1.0}}}))
    assert.is_true(fits({maximum = math.maxinteger}, math.maxinteger))
    assert.is_false(fits({maximum = math.maxinteger - 1}, math.maxinteger))
  end)

  it("are multiples as they are written", function()
    for _, pair in ipairs{{0.3, 0.1}, {1.1, 0.1}, {19.99, 0.01}, {0.0075, 0.0001}, {1e308, 0.5}, {1e22, 10}, {7.0, 7},
      {4.02, 0.01}, {-0.6, 0.2}, {0, 0.3}, {1e-300, 1e-301}, {9007199254740993, 1}, {2500, 1e2}, {1.5e300, 1e299}} do
      assert.is_true(fits({multipleOf = pair[2]}, pair[1]), pair[1] .. " of " .. pair[2])
    end
    for _, pair in ipairs{{0.35, 0.1}, {1.1, 0.2}, {19.999, 0.01}, {1, 3}, {25, 1e2}, {1e-301, 1e-300}, {10, 0.3},
      {9007199254740993, 2}, {1e22, 7}} do
      assert.is_false(fits({multipleOf = pair[2]}, pair[1]), pair[1] .. " of " .. pair[2])
    end
  end)

  it("that JSON has no place for fit nothing", function()
    for _, value in ipairs{print, 0 / 0, math.huge, io.stdout, {a = 1, 2}, coroutine.create(print)} do
      assert.is_false(fits({}, value))
      assert.is_false(fits({type = {"number", "object", "array"}}, value))
      assert.is_true(fits(true, value))
    end
    assert.equal("/a: must be a JSON value, got a function", described({properties = {a = {}}}, {a = print}))
  end)

  it("are read as they are, without metamethods", function()
    local value = setmetatable({}, {__index = function() error("called") end, __len = function() error("called") end})
    assert.is_false(fits({required = {"a"}, properties = {a = {type = "string"}}}, value))
  end)

  it("are text counted in characters; what is not UTF-8 matches no pattern", function()
    assert.is_true(fits({minLength = 2, maxLength = 2}, "é😀"))
    assert.is_false(fits({minLength = 3}, "é😀"))
    assert.is_true(fits({minLength = 4, maxLength = 4}, "a\xff\xffb"))
    assert.is_false(fits({pattern = "a"}, "a\xff"))
    assert.is_true(fits({patternProperties = {["."] = false}}, {["\xff"] = 1}))
  end)
end)

describe("problems", function()
  local order = {type = "object", required = {"id", "price"}, additionalProperties = false, properties = {
    id = {type = "integer", minimum = 1}, price = {type = "number"}, note = {type = {"string", "null"}},
    size = {enum = {"small", "large"}},
    items = {type = "array", items = {type = "object", properties = {["a/b~c"] = {type = "string", maxLength = 2}}}},
  }}

  it("name the place, the keyword and the place in the schema", function()
    local ok, problems = schema.compile(order):validate{id = 1, price = 1, items = {{}, {["a/b~c"] = "abc"}}}
    assert.is_false(ok)
    assert.same({{path = "/items/1/a~1b~0c", keyword = "maxLength",
      schema_path = "/properties/items/items/properties/a~1b~0c/maxLength",
      message = 'must have at most 2 characters, got 3: "abc"'}}, problems)
    local nested = {["$ref"] = "#/$defs/x", ["$defs"] = {x = {allOf = {{type = "null"}}}}}
    local problem = select(2, schema.validate(nested, 1))[1]
    assert.equal("/$ref/allOf/0/type", problem.schema_path)
    assert.equal("", problem.path)
  end)

  it("are all there, in the same order every time, in plain words", function()
    assert.equal([[
(root): must have the member "price"; did you mean it by "prise"?
/id: must be at least 1, got 0
/items/1: must be an object, got true
/note: must be a string or null, got an array of 1 element
/size: must be one of "small" or "large", got "smal"; did you mean "small"?
/prise: is not allowed; did you mean "price"?]]
      , described(order, {id = 0, prise = 3, note = {1}, size = "smal", items = {{}, true}}))
  end)

  it("say what each keyword wants", function()
    for _, case in ipairs{
      {{type = "number"}, "12", 'must be a number, got "12"'},
      {{type = {"string", "integer", "null"}}, true, "must be a string, an integer or null, got true"},
      {{const = {a = {1}}}, 2, 'must be {"a":[1]}, got 2'},
      {{enum = {1}}, json.null, "must be 1, got null"},
      {{exclusiveMinimum = 0}, 0, "must be above 0, got 0"},
      {{exclusiveMaximum = 0.5}, 2, "must be below 0.5, got 2"},
      {{maximum = 1}, 1.5, "must be at most 1, got 1.5"},
      {{multipleOf = 0.1}, 0.25, "must be a multiple of 0.1, got 0.25"},
      {{minLength = 1}, "", 'must have at least 1 character, got ""'},
      {{pattern = "^\\d+$"}, "x\n", 'must match ^\\d+$, got "x\\n"'},
      {{minItems = 2}, {1}, "must have at least 2 elements, got 1"},
      {{maxItems = 0}, {1}, "must have at most 0 elements, got 1"},
      {{uniqueItems = true}, {1, "a", "a"}, 'must not have equal elements, but those at 1 and 2 are both "a"'},
      {{items = false}, {1}, "must have no elements, got 1"},
      {{prefixItems = {true}, items = false}, {1, 2}, "must have at most 1 element, got 2"},
      {{contains = {type = "null"}}, {1}, "must contain at least 1 element that fits 'contains', got 0"},
      {{minProperties = 1}, json.object{}, "must have at least 1 member, got 0"},
      {{dependentRequired = {a = {"b"}}}, {a = 1}, 'must have the member "b" because it has "a"'},
      {{propertyNames = {maxLength = 1}}, {ab = 1},
        'must not have a member named "ab": the name must have at most 1 character, got 2: "ab"'},
      {{["not"] = {type = "string"}}, "", 'must not be a string, got ""'},
      {{oneOf = {{minimum = 1}, {minimum = 2}}}, 3, "must fit exactly one of 2 alternatives, but fits numbers 1 and 2"},
      {{anyOf = {{type = "string"}, {type = "null"}}}, 3, "must be a string or null, got 3"},
      {false, 1, "is not allowed"},
      {{format = "date"}, "2026-02-30", 'must be a date such as "2026-01-31", got "2026-02-30"'},
    } do
      assert.equal("(root): " .. case[3], described(case[1], case[2], {formats = "assertion"}))
    end
    local closed = {properties = {b = true}, additionalProperties = false}
    assert.equal('/a: is not allowed; known: b', described(closed, {a = 1}))
    assert.equal('/a: is not allowed', described({unevaluatedProperties = false}, {a = 1}))
  end)

  it("of alternatives are those of the nearest", function()
    local shapes = {oneOf = {
      {type = "object", required = {"r"}, properties = {kind = {const = "circle"}, r = {type = "number"}}},
      {type = "object", required = {"w", "h"}, properties = {kind = {const = "box"}, w = {type = "number"}}},
      {type = "string"},
    }}
    assert.equal('(root): must fit one of 3 alternatives; number 2 comes nearest\n(root): must have the member "h"\n'
      .. '/w: must be a number, got "1"', described(shapes, {kind = "box", w = "1"}))
    assert.equal("(root): must fit one of 3 alternatives; number 1 comes nearest\n/r: must be a number, got null",
      described(shapes, {kind = "circle", r = json.null}))
    local _, problems = schema.validate(shapes, {kind = "circle", r = "1"})
    assert.equal("/oneOf/0/properties/r/type", problems[2].schema_path)
  end)

  it("cut what is long, and stay UTF-8", function()
    local text = described({type = "null"}, ("é"):rep(1000))
    assert.is_true(#text < 120)
    assert.truthy(utf8.len(text))
    assert.truthy(utf8.len(described({type = "null"}, ("\xff"):rep(10))))
  end)

  it("are at most a hundred, or as many as wanted", function()
    local list = {}
    for i = 1, 1000 do list[i] = "x" end
    assert.equal(100, #select(2, schema.validate({items = {type = "null"}}, list)))
    assert.equal(3, #select(2, schema.validate({items = {type = "null"}}, list, {max_problems = 3})))
    assert.equal("", schema.describe{})
  end)
end)

describe("wrong schemas", function()
  it("are named by the place that is wrong", function()
    for _, case in ipairs{
      {{properties = {a = {type = "strin"}}}, "/properties/a/type", "must be one or more of array, boolean"},
      {{items = {minLength = -1}}, "/items/minLength", "must be a whole number from 0, got -1"},
      {{required = "a"}, "/required", 'must be an array of strings, got "a"'},
      {{anyOf = {}}, "/anyOf", "must be an array of at least one schema"},
      {{anyOf = {true, 3}}, "/anyOf", "must be an array of at least one schema"},
      {{multipleOf = 0}, "/multipleOf", "must be a number above 0"},
      {{["not"] = "x"}, "/not", "must be a schema"},
      {{allOf = {{pattern = "a("}}}, "/allOf/0/pattern", "missing closing parenthesis"},
      {{patternProperties = {["[/"] = true}}, "/patternProperties/[~1", "not closed"},
      {{["$ref"] = "#/$defs/adress", ["$defs"] = {address = true}}, "/$ref", "did you mean 'address'?"},
      {{["$ref"] = "#nowhere"}, "/$ref", "where there is nothing"},
      {{["$ref"] = "https://example.com/x.json#/a"}, "/$ref", "nothing is fetched"},
      {{["$ref"] = "#/type", type = "string"}, "/type", "must be a schema"},
      {{["$ref"] = "#"}, "", "leads back to itself"},
      {{["$ref"] = "#/$defs/a", ["$defs"] = {a = {allOf = {{["$ref"] = "#/$defs/b"}}}, b = {["$ref"] = "#/$defs/a"}}},
        nil, "leads back to itself"},
      {{["$id"] = "a.json#x"}, "/$id", "must have no fragment"},
      {{["$defs"] = {a = {["$anchor"] = "x"}, b = {["$anchor"] = "x"}}}, nil, 'the anchor "x" too'},
      {{["$defs"] = {a = {["$id"] = "x"}, b = {["$id"] = "x"}}}, nil, 'the $id "x" too'},
    } do
      local err = fails("argument", case[3], schema.compile, case[1])
      if case[2] then assert.equal(case[2], err.path) end
    end
    fails("argument", "json.decode makes a table", schema.compile, '{"type": "string"}')
    fails("argument", "got null", schema.compile, nil)
    fails("argument", "did you mean 'formats'", schema.compile, {}, {format = "assertion"})
    fails("argument", "'formats' must be", schema.compile, {}, {formats = true})
    fails("argument", "'max_work'", schema.compile, {}, {max_work = 0})
    fails("argument", "document", schema.compile, {}, {schemas = {x = 1}})
  end)

  it("may not contain themselves as tables, but tables may be shared", function()
    local circle = {type = "object"}
    circle.properties = {self = circle}
    fails("argument", "deeper than 256", schema.compile, circle)
    local text = {type = "string", ["$ref"] = "#/$defs/short"}
    local shared = {properties = {a = text, b = text}, items = text, ["$defs"] = {short = {maxLength = 1}}}
    assert.is_true(fits(shared, {a = "x", b = "y"}))
    assert.is_false(fits(shared, {a = "x", b = "yz"}))
    local level = {type = "string"}
    for _ = 1, 100 do level = {anyOf = {level, level}} end
    assert.is_true(fits(level, "x"))
  end)

  it("of later drafts ignore what they do not know", function()
    assert.is_true(fits({requird = {"a"}, ["x-order"] = print, title = "T"}, {}))
    assert.is_false(fits({["$schema"] = "http://json-schema.org/draft-07/schema#", items = {{type = "null"}},
      additionalItems = false}, {json.null, 1}))
    assert.is_true(fits({["$schema"] = "http://json-schema.org/draft-07/schema#", ["$ref"] = "#/definitions/a",
      type = "null", definitions = {a = {type = "string"}}}, "x"))
    assert.is_false(fits({dependencies = {a = json.array{"b"}, c = {maxProperties = 1}}}, {a = 1}))
    assert.is_false(fits({dependencies = {a = json.array{"b"}, c = {maxProperties = 1}}}, {c = 1, d = 1}))
    fails("argument", "is not supported", schema.compile, {["$schema"] = "https://json-schema.org/draft/2019-09/schema",
      items = {["$recursiveRef"] = "#"}})
  end)
end)

describe("documents", function()
  it("are given by URI", function()
    local options = {schemas = {["item.json"] = {type = "object", required = {"id"}, properties = {
      id = {["$ref"] = "types.json#/$defs/id"}}}, ["types.json"] = {["$defs"] = {id = {type = "integer"}}}}}
    local list = {items = {["$ref"] = "item.json"}}
    assert.is_true(fits(list, {{id = 1}}, options))
    assert.equal('/1/id: must be an integer, got "x"', described(list, {{id = 1}, {id = "x"}}, options))
    local err = fails("argument", "integer", schema.compile, list, {schemas = {["item.json"] = {maximum = "integer"}}})
    assert.equal("item.json#/maximum", err.path)
  end)

  it("include the schema of schemas", function()
    local meta = {["$ref"] = "https://json-schema.org/draft/2020-12/schema"}
    assert.is_true(fits(meta, {type = "object", properties = {a = {items = {}}}}))
    assert.is_false(fits(meta, {properties = {a = {type = "strin"}}}))
    assert.is_false(fits(meta, {allOf = json.array{}}))
    assert.is_false(fits(meta, 3))
  end)
end)

describe("limits", function()
  it("end schemas that lead back to themselves", function()
    local loop = schema.compile{["if"] = {type = "string"}, ["then"] = {["$ref"] = "#"}}
    assert.is_true(loop:validate(1))
    fails("limit", "does a $ref lead back to itself?", loop.validate, loop, "x")
    assert.is_true(loop:validate(1))
  end)

  it("bound the nesting of values, and values that contain themselves", function()
    local tree = schema.compile{type = "object", properties = {x = {["$ref"] = "#"}}}
    local function nested(depth)
      local value = {x = {}}
      for _ = 1, depth do value = {x = value} end
      return value
    end
    assert.is_true(tree:validate(nested(2048)))
    fails("limit", "nested deeper", tree.validate, tree, nested(10000))
    local circle = {}
    circle.x = circle
    fails("limit", "nested deeper", tree.validate, tree, circle)
    fails("limit", "nested deeper", schema.validate, {const = circle}, {x = {x = nested(10000)}})
    local long, list = {items = {["$ref"] = "#"}}, {}
    for _ = 1, 200 do long = {allOf = {long}} end
    for _ = 1, 100 do list = {list} end
    fails("limit", "nested deeper", schema.validate, long, list)
  end)

  it("bound the work", function()
    local document = {["$defs"] = {}, ["$ref"] = "#/$defs/1"}
    for i = 1, 40 do
      local next_one = {["$ref"] = "#/$defs/" .. (i + 1)}
      document["$defs"][tostring(i)] = {anyOf = {{allOf = {next_one, false}}, next_one}}
    end
    document["$defs"]["41"] = {type = "null"}
    fails("limit", "max_work", schema.validate, document, 1, {max_work = 100000})
    local list, same = {}, {}
    for i = 1, 2000 do list[i], same[i] = {i}, {i} end
    fails("limit", "1000 steps", schema.validate, {uniqueItems = true}, list, {max_work = 1000})
    assert.is_true(fits({uniqueItems = true}, list))
    fails("limit", "1000 steps", schema.validate, {const = same}, list, {max_work = 1000})
  end)

  it("bound patterns that backtrack", function()
    fails("limit", "too many steps", schema.validate, {pattern = "^(a|a)*$"}, ("a"):rep(100) .. "!")
    fails("limit", "too many steps", schema.validate, {patternProperties = {["^(a|a)*$"] = true}},
      {[("a"):rep(100) .. "!"] = 1})
  end)

  it("bound the time of many patterns together", function()
    local Run = require "riverlua.schema.run"
    local list, objects, usual = {}, {}, Run.most_seconds
    for i = 1, 1000 do list[i] = ("a"):rep(120) end   -- each takes a while, and ends
    for i = 1, 1000 do objects[i] = {[list[i]] = 1} end
    Run.most_seconds = 0.05
    local ok, err = pcall(fails, "limit", "with its patterns takes more than 0.05 seconds", schema.validate,
      {items = {pattern = "[^b]*[^b]*[bc][bd]*$|a$"}}, list)
    local same, names_err = pcall(fails, "limit", "with its patterns", schema.validate,
      {items = {patternProperties = {["[^b]*[^b]*[bc][bd]*$"] = true}}}, objects)
    Run.most_seconds = usual
    assert.is_true(ok, tostring(err))
    assert.is_true(same, tostring(names_err))
    assert.is_true(fits({items = {pattern = "^a*$"}}, list))
  end)

  it("bound the text of problems", function()
    local value = {}
    for i = 1, 100 do value[i] = 1 end
    for i = 1, 20 do value = {[("k"):rep(10000) .. i] = value} end
    local text = {anyOf = {{type = "object", additionalProperties = {["$ref"] = "#"}},
      {type = "array", items = {type = "string"}}}}
    fails("limit", "100000 steps", schema.validate, text, value, {max_work = 100000})
    local ok, problems = schema.validate(text, value, {max_problems = 10})
    assert.same({false, 10}, {ok, #problems})
  end)

  it("bound the size of schemas", function()
    local deep = true
    for _ = 1, 255 do deep = {["not"] = deep} end
    assert.is_false(fits(deep, 1))
    for _ = 1, 10 do deep = {["not"] = deep} end
    fails("argument", "deeper than 256", schema.compile, deep)
    local wide = {}
    for i = 1, 100001 do wide[i] = {minimum = i} end
    fails("limit", "more than 100000 parts", schema.compile, {prefixItems = wide})
  end)

  it("leave long chains of references alone", function()
    local document = {["$defs"] = {["3000"] = {type = "integer"}}, items = {["$ref"] = "#/$defs/1"}}
    for i = 1, 2999 do document["$defs"][tostring(i)] = {["$ref"] = "#/$defs/" .. (i + 1)} end
    assert.is_true(fits(document, {1}))
    assert.is_false(fits(document, {"x"}))
  end)
end)
