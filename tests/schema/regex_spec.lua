--- riverlua.regex: what patterns of ECMA-262 mean, what is refused, searches, and limits.

local errors = require "riverlua.errors"
local regex = require "riverlua.regex"

local function matches(pattern, text, options) return regex.compile(pattern, options):test(text) end

local function fails(kind, text, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.is(err, kind), tostring(err))
  assert.truthy(tostring(err):find(text, 1, true), tostring(err))
  return err
end

describe("regular expressions of ECMA-262", function()
  it("know digits and words of ASCII only, and all white space of Unicode", function()
    assert.is_true(matches("^\\d\\w$", "1a"))
    assert.is_false(matches("^\\d$", "৪"))
    assert.is_false(matches("^\\w$", "é"))
    for _, space in ipairs{" ", "\t", "\n", "\v", "\f", "\r", "\u{a0}", "\u{1680}", "\u{2003}", "\u{2028}",
      "\u{feff}"} do
      assert.is_true(matches("^\\s$", space))
      assert.is_true(matches("^[\\s]$", space))
      assert.is_false(matches("^\\S$", space))
      assert.is_false(matches("^[\\S]$", space))
      assert.is_false(matches("^[^\\s]$", space))
    end
    for _, other in ipairs{"a", "\u{180e}", "\u{200b}", "中", "😀", "\0", "\u{85}"} do
      assert.is_true(matches("^\\S$", other))
      assert.is_true(matches("^[\\S]$", other))
    end
  end)

  it("end at the end, and a dot is no line end", function()
    assert.is_false(matches("^abc$", "abc\n"))
    for _, line_end in ipairs{"\n", "\r", "\u{2028}", "\u{2029}"} do
      assert.is_false(matches("^.$", line_end))
      assert.is_true(matches("^.$", line_end, {flags = "s"}))
    end
    assert.is_true(matches("^.$", "😀"))
  end)

  it("read escapes", function()
    for pattern, text in pairs{["\\x41"] = "A", ["\\u00e9"] = "é", ["\\u{1F600}"] = "😀", ["\\ud83d\\ude00"] = "😀",
      ["\\cA"] = "\1", ["\\0"] = "\0", ["\\v"] = "\v", ["[\\b]"] = "\b", ["\\/\\-\\_\\@"] = "/-_@", ["\\é"] = "é",
      ["[\\]\\\\-]"] = "-", ["\\p{Letter}"] = "é", ["\\p{L}"] = "ж", ["\\P{Lu}"] = "a", ["\\p{Script=Greek}"] = "λ",
      ["\\p{gc=Nd}"] = "৪", ["\\p{Alphabetic}"] = "é"} do
      assert.is_true(matches("^" .. pattern .. "$", text), pattern)
    end
  end)

  it("take what has a meaning in PCRE only as it stands, or not at all", function()
    assert.is_true(matches("^[[:alpha:]]$", ":]"))
    assert.is_false(matches("^[[:alpha:]]$", "b"))
    assert.is_true(matches("^{a}{,3}$", "{a}{,3}"))
    assert.is_true(matches("^a # b$", "a # b"))
    assert.is_true(matches("^[^]$", "\n"))
    assert.is_false(matches("[]", "a"))
    assert.is_true(matches("^(a)|(b)\\1$", "b"))
    for pattern, at in pairs{["\\a"] = 1, ["x\\Z"] = 2, ["a++"] = 3, ["a**"] = 3, ["a{2}{3}"] = 5, ["(?i)a"] = 1,
      ["(?P<n>a)"] = 1, ["(?>a)"] = 1, ["(?R)"] = 1, ["(?1)"] = 1, ["(*FAIL)"] = 2, ["\\Qa\\E"] = 1,
      ["\\p{Nonsense}"] = 12, ["\\p"] = 1, ["\\u{110000}"] = 1, ["\\ud83d"] = 1, ["[a"] = 1, ["(a"] = 3,
      ["a)"] = 2, ["\\1"] = 2, ["é\\"] = 3, ["[z-a]"] = 4, ["[\\1]"] = 2, ["\\k"] = 1, ["*"] = 1,
      ["\\c1"] = 1, ["\\00"] = 1, ["\\x4"] = 1} do
      local err = fails("argument", "regex:", regex.compile, pattern)
      assert.is_true(math.abs(err.offset - at) <= 1, pattern .. ": " .. tostring(err) .. err.offset)
    end
  end)

  it("know groups, names, references and looking around", function()
    assert.same({"2026", "11"}, {regex.compile("^(\\d+)-(\\d+)$"):match("2026-11")})
    assert.is_true(matches("^(?<q>['\"]).*\\k<q>$", "'a'"))
    assert.is_true(matches("^(?:a|b)(?=c)c(?!d)(?<=c)(?<!b)$", "ac"))
    assert.is_true(matches("(?i:A)b", "ab"))
    assert.is_false(matches("(?i:A)b", "aB"))
    assert.is_true(matches("^STRASSE|ÄÖ$", "äö", {flags = "i"}))
    assert.is_true(matches("^b$", "a\nb\nc", {flags = "m"}))
  end)
end)

describe("regular expressions of Perl", function()
  it("have its syntax and Unicode's classes", function()
    assert.is_true(matches("(?i)^\\w++\\z", "É", {syntax = "perl"}))
    assert.is_true(matches("^ a  b $ # two", "ab", {syntax = "perl", flags = "x"}))
    assert.is_true(matches("\\\\G", "\\G", {syntax = "perl"}))
  end)

  it("have no verbs and nothing that looks at single bytes", function()
    for _, pattern in ipairs{"a(*SKIP)b", "(*UTF)a", "\\Ga", "\\C"} do
      fails("argument", "regex:", regex.compile, pattern, {syntax = "perl"})
    end
  end)
end)

describe("searching", function()
  it("gives places in bytes, and groups", function()
    local one = regex.compile("(é)(x)?")
    assert.same({2, 3, "é"}, {one:find("aé")})
    assert.same({2, 3, "é", nil}, {one:find("aéb")})
    assert.equal(4, select("#", one:find("aé")))
    assert.is_nil(one:find("aé", 3))
    assert.same({4, 5, "é"}, {one:find("aéé", 4)})
    assert.same({4, 5, "é"}, {one:find("aéé", -2)})
    assert.same({2, 3, "é"}, {one:find("aé", -100)})
    assert.is_nil(one:find("aé", 100))
    assert.same({3, 2}, {regex.compile("$"):find("é")})
    assert.equal("é", one:match("aé"))
    assert.equal("b", regex.compile("b"):match("abc"))
    assert.is_nil(one:match("abc"))
  end)

  it("goes through all matches, empty ones too", function()
    local found = {}
    for text in regex.compile("x*"):gmatch("axxbé") do found[#found + 1] = text end
    assert.same({"", "xx", "", "", ""}, found)
    found = {}
    for key, value in regex.compile("(\\w+)=(\\w+)?"):gmatch("a=1 b= c=3") do
      found[#found + 1] = key .. tostring(value)
    end
    assert.same({"a1", "bnil", "c3"}, found)
    found = {}
    for first in regex.compile("(a)|b"):gmatch("ab") do found[#found + 1] = first end
    assert.same({"a", false}, found)
  end)

  it("replaces", function()
    local word = regex.compile("(\\w)(\\w*)")
    assert.same({"[b|a0] %", 1}, {regex.compile("(a)(b)"):gsub("ab %", "[%2|%10]")})
    assert.same({"<ab> <c>", 2}, {word:gsub("ab c", "<%0>")})
    assert.same({"100% c", 1}, {word:gsub("ab c", "100%%", 1)})
    assert.same({"Xb c", 1}, {regex.compile("a"):gsub("ab c", {a = "X"})})
    assert.same({"ba c", 2}, {word:gsub("ab c", function(a, b) return b ~= "" and b .. a end)})
    assert.same({"-a--b-é-", 5}, {regex.compile("x*"):gsub("axxbé", "-")})
    assert.same({"", 0}, {word:gsub("", "x")})
    fails("argument", "replacement", word.gsub, word, "a", "%x")
    fails("argument", "replace", word.gsub, word, "a", 1)
  end)

  it("wants UTF-8", function()
    for _, text in ipairs{"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80"} do
      fails("argument", "not UTF-8", matches, "a", text)
      fails("argument", "not UTF-8", regex.compile, text)
    end
  end)

  it("is the same on long texts, which are searched in windows", function()
    local long = ("é"):rep(200000)
    assert.same({400001, 400003}, {regex.compile("aéb?"):find(long .. "aé")})
    assert.is_nil(regex.compile("aéb"):find(long .. "aé"))
    assert.same({1, 400003}, {regex.compile("^é+a.$"):find(long .. "aé")})
    assert.equal(90000, #regex.compile("<a>(.*?)</a>", {flags = "s"}):match("<a>" .. ("x"):rep(90000) .. "</a>"))
    assert.equal(200000, select(2, regex.compile("é"):gsub(long, "e")))
  end)
end)

describe("limits of regular expressions", function()
  it("end searches that would take for ever", function()
    local text = ("a"):rep(5000)
    for _, pattern in ipairs{"(a+)+$", "^(a|a)*$", "(a*)*b$", "^(([a-z])+.)+[A-Z]([a-z])+$", "(?=(a+)+b)", "(.*)*=y"} do
      fails("limit", "too many steps", matches, pattern, text .. "!=!1yb!")
    end
    fails("limit", "too many steps", matches, "(a?){50}a{50}$", ("a"):rep(49) .. "b")
    fails("limit", "too many steps", matches, "(?:a+b|a)*c(?!$)", ("a"):rep(200000) .. "c")
  end)

  it("bound patterns, texts and groups", function()
    fails("limit", "65536 bytes", regex.compile, ("a"):rep(65537))
    fails("argument", "too large", regex.compile, "(?:" .. ("[a-z]é?"):rep(500) .. "){60}")
    fails("limit", "1048576 bytes", matches, "a", ("a"):rep(1048577))
    fails("argument", "nested", regex.compile, ("("):rep(200) .. (")"):rep(200))
    assert.is_true(matches(("(a)"):rep(200), ("a"):rep(200)))
    assert.equal(202, select("#", regex.compile(("(a)"):rep(200)):find(("a"):rep(200))))
  end)

  it("refuse what they do not know", function()
    fails("argument", "flag 'x'", regex.compile, "a", {flags = "x"})
    fails("argument", "did you mean 'flags'", regex.compile, "a", {flag = "i"})
    fails("argument", "syntax", regex.compile, "a", {syntax = "python"})
    fails("argument", "pattern", regex.compile, nil)
  end)
end)
