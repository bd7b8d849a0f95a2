--- Exact JSON: what goes out comes back, digit for digit.
--
--     local json = require "riverlua.json"
--     local reply = json.decode('{"id": 1686041011364000000, "tags": [], "loss": 0.1}')
--     print(reply.id, json.is_array(reply.tags), reply.loss)     --> 1686041011364000000  true  0.1
--     print(json.encode({b = 2.0, a = {1, 2}}, {sort = true}))   --> {"a":[1,2],"b":2.0}
--
-- **Numbers.** Integers of 64 bits are exact both ways. A float is written with the fewest digits that read back
-- as the same float, always with a point or an exponent (`1.0`, `1e+16`), so that integers and floats never
-- change places. Longer integers are read as the nearest float, or as a string of digits with `bigint =
-- "string"`.
--
-- **Arrays.** Decoded arrays carry a tag, so that an empty one is written as `[]` again; `json.array{}` tags a
-- table of your own, `json.object{}` forces `{}`. A table without a tag is an array if its keys are integers from
-- 1: holes become null as long as there are no more holes than values (or the array has at most 10 elements). The
-- field `n` that `table.pack` sets gives the length, if it is the only other key; `{n = 3}` alone is an object. A
-- mixture of strings and integers as keys is an error, and so is any key that is neither. An empty table without
-- a tag is `{}`. Metamethods are not called: tables are written as they are. Compact arrays (riverlua.array) are
-- written as arrays too.
--
-- **null** is `json.null`, the same value as `cjson.null`; it prints as `null`. It counts as true in a condition:
-- test `value == json.null`, or decode with `drop_null = true`, where members that are null are just absent
-- (`nil`) and only arrays, whose elements keep their places, still contain `json.null`.
--
-- **Text** is UTF-8 and checked both ways; `utf8 = "replace"` puts U+FFFD in the place of what is not. Of members
-- with the same name the last one counts.
--
-- **Errors** are riverlua errors of kind "json" with the fields `message`, `path` (`$.rewards[17]`, counting from
-- 1 as Lua does) and, from decode, `offset` (of the byte, from 1, as `string.sub` counts), `line` and `column`
-- (in characters, from 1). Wrong options are of kind "argument".
--
-- Nothing here is global: options belong to a call, or to a function made by `json.encoder` or `json.decoder`.

local core = require "riverlua.core.json"

local json = {}

---@class riverlua.json.DecodeOptions
---@field null any what null becomes (default: `json.null`)
---@field drop_null boolean|nil leave out members that are null; a lone null is nil (default: false)
---@field bigint "float"|"string"|nil what integers beyond 64 bits become (default: "float")
---@field nan boolean|nil accept NaN, Infinity and -Infinity, and numbers too large for a double (default: false)
---@field utf8 "error"|"replace"|nil what to do with invalid UTF-8 and lone surrogates (default: "error")
---@field max_depth integer|nil deepest nesting accepted, 1 to 2048 (default: 512)
---@field max_bytes integer|nil longest text accepted (default: no limit)

---@class riverlua.json.EncodeOptions
---@field sort boolean|nil members in the order of their names' bytes (default: false, any order)
---@field pretty boolean|integer|string|nil line breaks, indented by 2 spaces, that many, or that text (default: false)
---@field nan boolean|"null"|"error"|nil write NaN and infinities as null, or true: bare (default: "error")
---@field utf8 "error"|"replace"|nil what to do with invalid UTF-8 (default: "error")
---@field max_depth integer|nil deepest nesting written, 1 to 2048 (default: 512); this is also what stops at cycles
---@field max_bytes integer|nil longest text made (default: no limit)

--- Reads one JSON value, which must be the whole text. Raises kind "json" where the text is not JSON.
---@type fun(text: string, options?: riverlua.json.DecodeOptions): any
json.decode = core.decode

--- Writes a value as JSON. Raises kind "json" for NaN, functions, cycles and whatever else JSON has no place for.
---@type fun(value: any, options?: riverlua.json.EncodeOptions): string
json.encode = core.encode

--- A function like `json.decode` with these options read once: for hot paths.
---@type fun(options?: riverlua.json.DecodeOptions): fun(text: string): any
json.decoder = core.decoder

--- A function like `json.encode` with these options read once: for hot paths.
---@type fun(options?: riverlua.json.EncodeOptions): fun(value: any): string
json.encoder = core.encoder

--- Tags a table, or a new one, as an array and returns it. Raises kind "argument" if it has another metatable.
---@type fun(table?: table): table
json.array = core.array

--- Tags a table, or a new one, as an object and returns it. Raises kind "argument" if it has another metatable.
---@type fun(table?: table): table
json.object = core.object

--- Whether a value is a table tagged as an array, as decoded arrays are.
---@type fun(value: any): boolean
json.is_array = core.is_array

--- JSON's null: `cjson.null`, a light userdata with the address 0.
---@type lightuserdata
json.null = core.null

return json
