--- Areas under curves over the last samples, from the scores themselves instead of a few thresholds.

local base = require "river.embedded.metrics_base"
local python = require "river.embedded.python"

-- Whether a label is the positive one; the library takes both for whole numbers.
local function is_positive(self, y)
  local a, b = base.number(y), base.number(self.pos_val)
  if not a or not b then
    python.raise("TypeError", "int() argument must be a number, not '%s'", python.type_name(a and self.pos_val or y))
  end
  local function whole(x) return x < 0 and math.ceil(x) or math.floor(x) end
  return whole(a) == whole(b)
end

local function score_of(prediction)
  local p = prediction
  if base.is_proba(p) then p = base.probability(p, true) or 0.0 end
  p = base.number(p)
  if not p then
    python.raise("TypeError", "must be real number, not %s", python.type_name(prediction))
  end
  return p + 0.0
end

local function drop(self, place)
  local window = self.window
  if window[place].positive then self.positives = self.positives - 1 end
  for i = place, self.first + 1, -1 do window[i] = window[i - 1] end
  window[self.first] = nil
  self.first = self.first + 1
end

-- The window by score, the lowest first: {score=, positives=, negatives=}.
local function groups(self)
  local entries = table.move(self.window, self.first, self.last, 1, {})
  table.sort(entries, function(a, b) return a.score < b.score end)
  local list, group = {}, nil
  for _, entry in ipairs(entries) do
    if not group or group.score ~= entry.score then
      group = {score = entry.score, positives = 0, negatives = 0}
      list[#list + 1] = group
    end
    local side = entry.positive and "positives" or "negatives"
    group[side] = group[side] + 1
  end
  return list
end

-- `area(groups, positives)` where there are samples of both kinds.
local function define(name, area)
  base.define(name, "binary", {requires_labels = false,
    params = {{"window_size", 1000, kind = "integer"}, {"pos_val", true, kind = "boolean|number"}},
  }, {
    init = function(self) self.window, self.first, self.last, self.positives = {}, 1, 0, 0 end,
    update = function(self, y, prediction)
      local entry = {score = score_of(prediction), positive = is_positive(self, y)}
      if self.last - self.first + 1 == self.window_size then drop(self, self.first) end
      self.last = self.last + 1
      self.window[self.last] = entry
      if entry.positive then self.positives = self.positives + 1 end
    end,
    revert = function(self, y, prediction)
      local score, positive = score_of(prediction), is_positive(self, y)
      for place = self.first, self.last do
        local entry = self.window[place]
        if entry.score == score and entry.positive == positive then return drop(self, place) end
      end
    end,
    get = function(self)
      local positives, total = self.positives, self.last - self.first + 1
      if positives == 0 or positives == total then return 0.0 end
      return area(groups(self), positives, total - positives)
    end,
  })
end

-- How many pairs of a positive and a negative sample are in order. Of pairs with one score half count, rounded down
-- for each negative sample, as in the library.
define("RollingROCAUC", function(list, positives, negatives)
  local above, pairs_in_order = 0, 0
  for i = #list, 1, -1 do
    local group, before = list[i], above
    above = above + group.positives
    pairs_in_order = pairs_in_order + group.negatives * (group.positives > 0 and (above + before) // 2 or above)
  end
  return pairs_in_order / (positives * negatives)
end)

-- Under precision over recall, from all samples taken for positive to none; precision never falls on the way.
define("RollingPRAUC", function(list, positives, negatives)
  local tp, fp, tp_before = positives, negatives, positives
  local precision, area = tp / (tp + fp), 0.0
  for _, group in ipairs(list) do
    local now = math.max(precision, tp / (tp + fp))
    area = area + math.abs(tp - tp_before) * (now + precision) / 2.0
    precision, tp_before = now, tp
    tp, fp = tp - group.positives, fp - group.negatives
  end
  return (area + math.abs(tp - tp_before) * (1.0 + precision) / 2.0) / positives
end)
