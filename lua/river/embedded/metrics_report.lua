--- The confusion matrix and the classification report: tables to be read, which have no single value.

local base = require "river.embedded.metrics_base"
local python = require "river.embedded.python"
local stats = require "river.embedded.stats"
require "river.embedded.metrics_classification"

local function no_value(self)
  python.raise("NotImplementedError", "%s has no single value: print it", self.name)
end

-- Labels as Python sorts them; numbers before strings where Python would refuse to compare.
local function sorted_classes(cm)
  local keys, names = cm:classes(), cm.names
  local function rank(key)
    local label = names[key]
    if type(label) == "boolean" then label = label and 1 or 0 end
    return label
  end
  table.sort(keys, function(a, b)
    local x, y = rank(a), rank(b)
    if type(x) == type(y) and type(x) ~= "table" then return x < y end
    return type(x) < type(y)
  end)
  return keys
end

local function text_of(label)
  if math.type(label) == "float" then return base.format(label, "plain") end
  return python.str(label)
end

-- Characters, not bytes; bytes where the text is no UTF-8.
local function width_of(text) return utf8.len(text) or #text end

local function pad(text, width, align)
  local missing = math.max(width - width_of(text), 0)
  if align == "right" then return (" "):rep(missing) .. text end
  local left = align == "center" and missing // 2 or 0
  return (" "):rep(left) .. text .. (" "):rep(missing - left)
end

-- Columns under headers, as the library's pretty printer sets them.
local function print_table(headers, columns)
  local widths, lines = {}, {}
  for i, column in ipairs(columns) do
    widths[i] = width_of(headers[i])
    for _, text in ipairs(column) do widths[i] = math.max(widths[i], width_of(text)) end
  end
  local cells = {}
  for i, header in ipairs(headers) do cells[i] = pad(header, widths[i] + 2) end
  lines[1] = table.concat(cells, " ")
  for row = 1, #columns[1] do
    for i, column in ipairs(columns) do cells[i] = pad(pad(column[row], widths[i], "right"), widths[i] + 2) end
    lines[row + 1] = table.concat(cells, " ")
  end
  return table.concat(lines, "\n"), width_of(lines[1])
end

local ConfusionMatrix = base.define_counting("ConfusionMatrix", "multiclass", {needs_cells = true}, no_value)
ConfusionMatrix.get, ConfusionMatrix.bigger_is_better = no_value, nil

--- How often `truth` was predicted to be `guess`.
---@param truth any
---@param guess any
---@return number
function ConfusionMatrix:count(truth, guess)
  return self.cm:cell(python.label_key(truth), python.label_key(guess))
end

ConfusionMatrix.__tostring = function(self)
  local cm = self.cm
  local classes, headers, names = sorted_classes(cm), {""}, {}
  if #classes == 0 then return "" end
  for i, c in ipairs(classes) do
    names[i] = text_of(cm.names[c])
    headers[i + 1] = names[i]
  end
  local columns = {names}
  for i, guess in ipairs(classes) do
    local column = {}
    for j, truth in ipairs(classes) do
      local count = base.format(math.floor(cm:cell(truth, guess)) + 0.0, "number")
      column[j] = count:gsub("%.%d+$", "")
    end
    columns[i + 1] = column
  end
  return (print_table(headers, columns))
end

local ClassificationReport = base.define_counting("ClassificationReport", "multiclass",
  {params = {{"decimals", 2, kind = "integer"}}}, no_value)
ClassificationReport.get = no_value

-- Precision, recall and F1 of one class.
local function of_class(cm, c)
  local tp = cm:true_positives(c)
  local p = stats.ratio(tp, tp + cm:false_positives(c))
  local r = stats.ratio(tp, tp + cm:false_negatives(c))
  return {p, r, stats.ratio(2.0 * p * r, p + r)}
end

-- The same of all classes together, in the three ways.
local function overall(cm)
  local rows = {}
  for i, average in ipairs{"Macro", "Micro", "Weighted"} do
    rows[i] = {}
    for j, score in ipairs{"Precision", "Recall", "F1"} do
      local metric = require("river.embedded.registry").build{class = "river.metrics." .. average .. score}
      metric.cm = cm
      rows[i][j] = metric:get()
    end
  end
  return rows
end

ClassificationReport.__tostring = function(self)
  local cm = self.cm
  local function percent(value) return ("%." .. self.decimals .. "f%%"):format(value * 100) end
  local columns = {{""}, {""}, {""}, {""}, {""}}
  local function add(name, scores, support)
    local cells = {name, scores and percent(scores[1]) or "", scores and percent(scores[2]) or "",
      scores and percent(scores[3]) or "", support or ""}
    for i, cell in ipairs(cells) do columns[i][#columns[i] + 1] = cell end
  end
  for _, c in ipairs(sorted_classes(cm)) do
    local support = base.format(cm.rows[c] or 0.0, "plain"):gsub("0+$", ""):gsub("%.+$", "")
    add(text_of(cm.names[c]), of_class(cm, c), support)
  end
  add("")
  for i, scores in ipairs(overall(cm)) do add(({"Macro", "Micro", "Weighted"})[i], scores) end
  local text, width = print_table({"", "Precision", "Recall", "F1", "Support"}, columns)
  local accuracy = percent(stats.ratio(cm.hits, cm.total)) .. " accuracy"
  return text .. "\n\n" .. pad(accuracy, width, "center")
end
