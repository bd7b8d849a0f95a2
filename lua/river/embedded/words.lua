--- Texts taken apart into words, as the library's vectorizers do: accents off, lower case, then whatever matches
--- `\b\w[\w\-]+\b`.
--
-- Latin, Greek and Cyrillic letters are known here; other scripts count as letters without case or accents. (Python
-- also tells the sigma at the end of a word apart, and unfolds signs such as ½, which are left alone here.)

local words = {}

-- Letters by what is left of them without accents.
local BARE = {
  A = "ÀÁÂÃÄÅĀĂĄǍǞǠǺȀȂȦḀẠẢẤẦẨẪẬẮẰẲẴẶ", B = "ḂḄḆ", C = "ÇĆĈĊČḈ", D = "ĎḊḌḎḐḒ", DZ = "ǄǱ", Dz = "ǅǲ",
  E = "ÈÉÊËĒĔĖĘĚȄȆȨḔḖḘḚḜẸẺẼẾỀỂỄỆ", F = "Ḟ", G = "ĜĞĠĢǦǴḠ", H = "ĤȞḢḤḦḨḪ", I = "ÌÍÎÏĨĪĬĮİǏȈȊḬḮỈỊ", IJ = "Ĳ",
  J = "Ĵ", K = "ĶǨḰḲḴ", L = "ĹĻĽḶḸḺḼ", LJ = "Ǉ", Lj = "ǈ", M = "ḾṀṂ", N = "ÑŃŅŇǸṄṆṈṊ", NJ = "Ǌ", Nj = "ǋ",
  O = "ÒÓÔÕÖŌŎŐƠǑǪǬȌȎȪȬȮȰṌṎṐṒỌỎỐỒỔỖỘỚỜỞỠỢ", P = "ṔṖ", R = "ŔŖŘȐȒṘṚṜṞ", S = "ŚŜŞŠȘṠṢṤṦṨ", T = "ŢŤȚṪṬṮṰ",
  U = "ÙÚÛÜŨŪŬŮŰŲƯǓǕǗǙǛȔȖṲṴṶṸṺỤỦỨỪỬỮỰ", V = "ṼṾ", W = "ŴẀẂẄẆẈ", X = "ẊẌ", Y = "ÝŶŸȲẎỲỴỶỸ", Z = "ŹŻŽẐẒẔ",
  a = "ªàáâãäåāăąǎǟǡǻȁȃȧḁạảấầẩẫậắằẳẵặ", ["aʾ"] = "ẚ", b = "ḃḅḇ", c = "çćĉċčḉ", d = "ďḋḍḏḑḓ", dz = "ǆǳ",
  e = "èéêëēĕėęěȅȇȩḕḗḙḛḝẹẻẽếềểễệ", f = "ḟ", g = "ĝğġģǧǵḡ", h = "ĥȟḣḥḧḩḫẖ", i = "ìíîïĩīĭįǐȉȋḭḯỉị", ij = "ĳ",
  j = "ĵǰ", k = "ķǩḱḳḵ", l = "ĺļľḷḹḻḽ", lj = "ǉ", m = "ḿṁṃ", n = "ñńņňǹṅṇṉṋ", nj = "ǌ",
  o = "ºòóôõöōŏőơǒǫǭȍȏȫȭȯȱṍṏṑṓọỏốồổỗộớờởỡợ", p = "ṕṗ", r = "ŕŗřȑȓṙṛṝṟ", s = "śŝşšſșṡṣṥṧṩẛ", t = "ţťțṫṭṯṱẗ",
  u = "ùúûüũūŭůűųưǔǖǘǚǜȕȗṳṵṷṹṻụủứừửữự", v = "ṽṿ", w = "ŵẁẃẅẇẉẘ", x = "ẋẍ", y = "ýÿŷȳẏẙỳỵỷỹ", z = "źżžẑẓẕ",
  ["Æ"] = "ǢǼ", ["Ø"] = "Ǿ", ["æ"] = "ǣǽ", ["ø"] = "ǿ", ["Ʒ"] = "Ǯ", ["ʒ"] = "ǯ", ["ʹ"] = "ʹ", ["ʼn"] = "ŉ",
  ["Α"] = "Ά", ["Ε"] = "Έ", ["Η"] = "Ή", ["Θ"] = "ϴ", ["Ι"] = "ΊΪ", ["Ο"] = "Ό", ["Σ"] = "Ϲ", ["Υ"] = "ΎΫϒϓϔ",
  ["Ω"] = "Ώ", ["α"] = "ά", ["β"] = "ϐ", ["ε"] = "έϵ", ["η"] = "ή", ["θ"] = "ϑ", ["ι"] = "ΐίϊ", ["κ"] = "ϰ",
  ["μ"] = "µ", ["ο"] = "ό", ["π"] = "ϖ", ["ρ"] = "ϱ", ["ς"] = "ϲ", ["υ"] = "ΰϋύ", ["φ"] = "ϕ", ["ω"] = "ώ",
  ["І"] = "Ї", ["А"] = "ӐӒ", ["Г"] = "Ѓ", ["Е"] = "ЀЁӖ", ["Ж"] = "ӁӜ", ["З"] = "Ӟ", ["И"] = "ЍЙӢӤ",
  ["К"] = "Ќ", ["О"] = "Ӧ", ["У"] = "ЎӮӰӲ", ["Ч"] = "Ӵ", ["Ы"] = "Ӹ", ["Э"] = "Ӭ", ["а"] = "ӑӓ", ["г"] = "ѓ",
  ["е"] = "ѐёӗ", ["ж"] = "ӂӝ", ["з"] = "ӟ", ["и"] = "йѝӣӥ", ["к"] = "ќ", ["о"] = "ӧ", ["у"] = "ўӯӱӳ",
  ["ч"] = "ӵ", ["ы"] = "ӹ", ["э"] = "ӭ", ["і"] = "ї", ["Ѵ"] = "Ѷ", ["ѵ"] = "ѷ", ["Ә"] = "Ӛ", ["ә"] = "ӛ",
  ["Ө"] = "Ӫ", ["ө"] = "ӫ",
  ["1"] = "¹", ["2"] = "²", ["3"] = "³",
}

local without_accent = {}
for bare, letters in pairs(BARE) do
  for _, code in utf8.codes(letters) do without_accent[code] = bare end
end

-- {first, last, distance to the lower-case letter, step}: with step 2 every second code is a capital.
local CAPITALS = {
  {0xC0, 0xD6, 32, 1}, {0xD8, 0xDE, 32, 1}, {0x100, 0x12E, 1, 2}, {0x132, 0x136, 1, 2}, {0x139, 0x147, 1, 2},
  {0x14A, 0x176, 1, 2}, {0x178, 0x178, -121, 1}, {0x179, 0x17D, 1, 2}, {0x1CD, 0x1DB, 1, 2}, {0x1DE, 0x1EE, 1, 2},
  {0x1F8, 0x1FE, 1, 2}, {0x200, 0x21E, 1, 2}, {0x222, 0x232, 1, 2}, {0x386, 0x386, 38, 1}, {0x388, 0x38A, 37, 1},
  {0x38C, 0x38C, 64, 1}, {0x38E, 0x38F, 63, 1}, {0x391, 0x3A1, 32, 1}, {0x3A3, 0x3AB, 32, 1}, {0x400, 0x40F, 80, 1},
  {0x410, 0x42F, 32, 1}, {0x460, 0x480, 1, 2}, {0x48A, 0x4BE, 1, 2}, {0x4D0, 0x52E, 1, 2}, {0x1E00, 0x1E94, 1, 2},
  {0x1EA0, 0x1EFE, 1, 2},
}

local lower_of = {}
for _, range in ipairs(CAPITALS) do
  for code = range[1], range[2], range[4] do lower_of[code] = code + range[3] end
end

-- Above ASCII: what is no letter or digit.
local SIGNS = {
  {0x80, 0xA9}, {0xAB, 0xB1}, {0xB4, 0xB4}, {0xB6, 0xB8}, {0xBB, 0xBB}, {0xBF, 0xBF}, {0xD7, 0xD7}, {0xF7, 0xF7},
  {0x2C2, 0x2C5}, {0x2D2, 0x2DF}, {0x300, 0x36F}, {0x37E, 0x37E}, {0x384, 0x385}, {0x387, 0x387}, {0x482, 0x489},
  {0x2000, 0x206F}, {0x207A, 0x207E}, {0x208A, 0x208E}, {0x20A0, 0x20FF}, {0x2190, 0x245F}, {0x2500, 0x2775},
  {0x2794, 0x2BFF}, {0x3000, 0x3004}, {0x3008, 0x3020}, {0xFE00, 0xFE6F}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF20},
  {0xFF3B, 0xFF40}, {0xFF5B, 0xFF65}, {0x1F000, 0x1FAFF},
}

local function is_sign(code)
  for _, range in ipairs(SIGNS) do
    if code < range[1] then return false end
    if code <= range[2] then return true end
  end
  return false
end

-- The text with signs beyond ASCII as blanks, and letters made plain as asked for.
local function simplify(text, strip_accents, lowercase)
  local out = {}
  for _, code in utf8.codes(text) do
    local bare = strip_accents and without_accent[code]
    if bare and lowercase then
      bare = utf8.char(lower_of[utf8.codepoint(bare)] or utf8.codepoint(bare)) .. bare:sub(utf8.offset(bare, 2))
    elseif not bare and code >= 0x300 and code <= 0x36F and strip_accents then
      bare = ""
    elseif not bare then
      bare = is_sign(code) and " " or utf8.char(lowercase and lower_of[code] or code)
    end
    out[#out + 1] = bare
  end
  return table.concat(out)
end

--- The words of a text, in order.
---@param text string UTF-8
---@param strip_accents boolean
---@param lowercase boolean
---@return string[]
function words.split(text, strip_accents, lowercase)
  if text:find("[\128-\255]") then
    if not utf8.len(text) then text = text:gsub("[\128-\255]", " ") end
    text = simplify(text, strip_accents, lowercase)
  end
  if lowercase then text = text:lower() end
  local list = {}
  for run in text:gmatch("[%w_%-\128-\255]+") do
    -- A word begins and ends with a letter or digit and has two signs at least.
    local word = run:match("^%-*(.-)%-*$")
    if #word > 1 and utf8.len(word) > 1 then list[#list + 1] = word end
  end
  return list
end

return words
