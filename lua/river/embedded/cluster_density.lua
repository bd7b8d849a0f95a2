--- Clustering by density: many small clusters that fade with time, joined to large ones when a prediction is asked for.
--- And k-means in chunks. The numbers are the library's.

local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local row_module = require "river.embedded.row"
local KMeans = require("river.embedded.cluster").KMeans

local exp, huge, sqrt = math.exp, math.huge, math.sqrt
local None = python.None

-- ------------------------------------------------------------------------------------------------ ordered dictionaries

local function new_dict() return {keys = {}, values = {}} end

local function put(dict, key, value)
  if dict.values[key] == nil then dict.keys[#dict.keys + 1] = key end
  dict.values[key] = value
end

local function drop(dict, key)
  if dict.values[key] == nil then return end
  dict.values[key] = nil
  for i, present in ipairs(dict.keys) do
    if present == key then return table.remove(dict.keys, i) end
  end
end

-- A sample or a center is such a dictionary, of names and numbers.
local function point_of(row)
  local point = new_dict()
  for i = 1, row.keys.n do
    local value = row[i]
    if type(value) ~= "number" then
      python.raise("TypeError", "must be real number, not %s", python.type_name(value))
    end
    point.keys[i] = row.keys[i]
    point.values[row.keys[i]] = value + 0.0
  end
  return point
end

-- The Euclidean distance, added up in the order of the first point's names and then of those that only b has.
local function distance(a, b)
  local sum, mine, yours, shared = 0.0, a.values, b.values, 0
  local names = a.keys
  for i = 1, #names do
    local y = yours[names[i]]
    if y then shared = shared + 1 else y = 0.0 end
    local d = mine[names[i]] - y
    sum = sum + d * d
  end
  names = b.keys
  if shared < #names then
    for i = 1, #names do
      if not mine[names[i]] then sum = sum + yours[names[i]] * yours[names[i]] end
    end
  end
  return sqrt(sum)
end

local function define(name, params)
  local class = registry.class{class = "river.cluster." .. name, role = "estimator", supervised = false,
    params = params}
  class.check_target = KMeans.check_target
  return class
end

-- ----------------------------------------------------------------------------------------------------- DBSTREAM

--- Micro clusters of a fixed radius that are joined where they share many samples (Hahsler and Bolaños, 2016).
---@class river.embedded.DBSTREAM
---@field micro table<integer, table> id → {center=, weight=, updated=}
---@field ids integer[] of `micro`, ascending
---@field shared table dictionary of id → dictionary of higher id → {weight, time}: samples that both are near to
local DBSTREAM = define("DBSTREAM", {
  {"clustering_threshold", 1.0, kind = "number"},
  {"fading_factor", 0.01, kind = "number"},
  {"cleanup_interval", 2, kind = "number"},
  {"intersection_factor", 0.3, kind = "number"},
  {"minimum_weight", 1.0, kind = "number"},
})

function DBSTREAM:init()
  self.time, self.micro, self.ids, self.shared = 0, {}, {}, new_dict()
  self.centers, self.up_to_date = {}, false
end

local function fading(self, since) return 2.0 ^ (-self.fading_factor * (self.time - since)) end

-- Another sample that two micro clusters share.
local function share(self, i, j)
  local row = self.shared.values[i]
  if not row then
    row = new_dict()
    put(self.shared, i, row)
  end
  local entry = row.values[j]
  put(row, j, {entry and entry[1] * fading(self, entry[2]) + 1 or 1, self.time})
end

-- Moves the micro clusters near to a sample towards it, unless two of them would fall together.
local function move(self, near, x)
  local threshold, before = self.clustering_threshold, {}
  local sigma = threshold / 3
  for a, i in ipairs(near) do
    local micro = self.micro[i]
    local center = micro.center
    before[i] = center
    micro.weight = micro.weight * fading(self, micro.updated) + 1
    local d = distance(x, center)
    local h = exp(-(d * d) / (2 * (sigma * sigma)))
    local moved = new_dict()
    for _, name in ipairs(center.keys) do
      local c = center.values[name]
      if x.values[name] then put(moved, name, c + h * (x.values[name] - c)) end
    end
    micro.center, micro.updated = moved, self.time
    for b = a + 1, #near do share(self, i, near[b]) end
  end
  for a, i in ipairs(near) do
    for b = a + 1, #near do
      local one, other = self.micro[i], self.micro[near[b]]
      if distance(one.center, other.center) < threshold then
        one.center, other.center = before[i], before[near[b]]
      end
    end
  end
end

-- Drops what has faded.
local function clean_up(self)
  local weak = 2.0 ^ (-self.fading_factor * self.cleanup_interval)
  local kept, shared = {}, self.shared
  for _, i in ipairs(self.ids) do
    local micro = self.micro[i]
    if micro.weight * fading(self, micro.updated) >= weak then
      kept[#kept + 1] = i
    else
      self.micro[i] = nil
      drop(shared, i)
      -- The library stops at the first higher number, wherever it stands.
      for _, j in ipairs(shared.keys) do
        if j >= i then break end
        drop(shared.values[j], i)
      end
    end
  end
  self.ids = kept
  local limit = self.intersection_factor * weak
  for _, i in ipairs(shared.keys) do
    for _, entry in pairs(shared.values[i].values) do
      if entry[1] * fading(self, entry[2]) < limit then entry[1], entry[2] = 0, 0 end
    end
  end
end

---@param row river.embedded.Row
function DBSTREAM:learn_one(row)
  local x, near = point_of(row), {}
  for _, i in ipairs(self.ids) do
    if distance(self.micro[i].center, x) < self.clustering_threshold then near[#near + 1] = i end
  end
  if #near == 0 then
    local id = #self.ids > 0 and self.ids[#self.ids] + 1 or 0
    self.ids[#self.ids + 1] = id
    self.micro[id] = {center = x, weight = 1, updated = self.time}
  else
    move(self, near, x)
  end
  self.time = self.time + 1
  if self.time % self.cleanup_interval == 0 then clean_up(self) end
  self.up_to_date = false
end

-- Micro clusters that are joined to one of a lower number.
local function joined(self, i)
  local list, one, row = {}, self.micro[i], self.shared.values[i]
  if not row or not one or one.weight <= self.minimum_weight then return list end
  for _, j in ipairs(row.keys) do
    local other = self.micro[j]
    if other and other.weight > self.minimum_weight
      and row.values[j][1] / ((one.weight + other.weight) / 2) > self.intersection_factor then
      list[#list + 1] = j
    end
  end
  return list
end

-- Lists of ids that belong together, in the order of their first ones.
local function groups(self)
  local label_of, count = {}, 0
  for _, id in ipairs(self.ids) do
    if not label_of[id] and self.micro[id].weight >= self.minimum_weight then
      count = count + 1
      label_of[id] = count
      local queue, first = joined(self, id), 1
      while queue[first] do
        local next_id = queue[first]
        if label_of[next_id] then
          first = first + 1
        else
          label_of[next_id] = count
          for _, further in ipairs(joined(self, next_id)) do
            if not label_of[further] then queue[#queue + 1] = further end
          end
        end
      end
    end
  end
  local lists = {}
  for i = 1, count do lists[i] = {} end
  for _, id in ipairs(self.ids) do
    local list = label_of[id] and lists[label_of[id]]
    if list then list[#list + 1] = id end
  end
  return lists
end

-- The center of several micro clusters, weighted.
local function center_of(self, ids)
  local first = self.micro[ids[1]]
  local center, weight = first.center, first.weight
  for i = 2, #ids do
    local other, merged = self.micro[ids[i]], new_dict()
    for _, name in ipairs(center.keys) do
      put(merged, name, (center.values[name] * weight + (other.center.values[name] or 0.0) * other.weight)
        / (weight + other.weight))
    end
    center, weight = merged, weight + other.weight
  end
  return center
end

--- The number of the nearest cluster, from 0; 0 while there is none.
---@param row river.embedded.Row
---@return integer
function DBSTREAM:predict_one(row)
  if not self.up_to_date then
    if #self.ids > 0 then
      self.centers = {}
      for i, ids in ipairs(groups(self)) do self.centers[i] = center_of(self, ids) end
    end
    self.up_to_date = true
  end
  local best, nearest, x = 1, huge, point_of(row)
  for i, center in ipairs(self.centers) do
    local d = distance(center, x)
    if d < nearest then best, nearest = i, d end
  end
  return best - 1
end

-- ---------------------------------------------------------------------------------------------------- DenStream

--- Micro clusters that are dense or may become so (Cao, Ester, Qian and Zhou, 2006).
---@class river.embedded.DenStream
---@field dense table dictionary of number → micro cluster
---@field outlying table dictionary of number → micro cluster
local DenStream = define("DenStream", {
  {"decaying_factor", 0.25, kind = "number"},
  {"beta", 0.75, kind = "number"},
  {"mu", 2, kind = "number"},
  {"epsilon", 0.02, kind = "number"},
  {"n_samples_init", 1000, kind = "integer"},
  {"stream_speed", 100, kind = "integer"},
})
DenStream.restless = true

function DenStream:init()
  local product = self.mu * self.beta
  if product == 1 then python.raise("ZeroDivisionError", "float division by zero") end
  if product / (product - 1) <= 0 then python.raise("ValueError", "math domain error") end
  if not (self.beta > 0 and self.beta <= 1) then
    python.raise("ValueError", "The value of `beta` (currently %s) must be within the range (0,1].",
      tostring(self.beta))
  end
  self.period = math.ceil(1 / self.decaying_factor * math.log(product / (product - 1)))
  self.time, self.seen, self.buffer = -1, 0, {}
  self.dense, self.outlying = new_dict(), new_dict()
end

-- ----- micro clusters: count, sums and sums of squares by name, and when they began and changed

local function new_micro(x, time)
  local micro = {n = 1, created = time, edited = time, sums = new_dict(), squares = {}}
  for _, name in ipairs(x.keys) do
    put(micro.sums, name, x.values[name])
    micro.squares[name] = x.values[name] * x.values[name]
  end
  return micro
end

local function add_sums(micro, names, values, squares)
  for _, name in ipairs(names) do
    local sum = micro.sums.values[name]
    put(micro.sums, name, sum and sum + values[name] or values[name])
    micro.squares[name] = sum and micro.squares[name] + squares[name] or squares[name]
  end
  micro.center = nil
end

local function insert(micro, x, time)
  local squares = {}
  for name, value in pairs(x.values) do squares[name] = value * value end
  micro.n, micro.edited = micro.n + 1, time
  add_sums(micro, x.keys, x.values, squares)
end

local function micro_center(micro)
  if not micro.center then
    local center, inverse = new_dict(), 1.0 / micro.n
    for _, name in ipairs(micro.sums.keys) do put(center, name, micro.sums.values[name] * inverse) end
    micro.center = center
  end
  return micro.center
end

local function weight_of(self, micro)
  return micro.n * 2.0 ^ (-self.decaying_factor * (self.time - micro.edited))
end

local function radius(sums, squares, n)
  local inverse = 1.0 / n
  local difference = sqrt(squares) * inverse - sums * inverse * inverse
  return difference > 0 and sqrt(difference) or 0.0
end

local function radius_of(micro)
  local sums, squares = 0.0, 0.0
  for _, name in ipairs(micro.sums.keys) do
    local sum, square = micro.sums.values[name], micro.squares[name]
    sums, squares = sums + sum * sum, squares + square * square
  end
  return radius(sums, squares, micro.n)
end

-- The radius that the micro cluster would have with a sample more.
local function radius_with(micro, x)
  local sums, squares = 0.0, 0.0
  for _, name in ipairs(x.keys) do
    local value = x.values[name]
    local sum = (micro.sums.values[name] or 0.0) + value
    local square = (micro.squares[name] or 0.0) + value * value
    sums, squares = sums + sum * sum, squares + square * square
  end
  for _, name in ipairs(micro.sums.keys) do
    if not x.values[name] then
      local sum, square = micro.sums.values[name], micro.squares[name]
      sums, squares = sums + sum * sum, squares + square * square
    end
  end
  return radius(sums, squares, micro.n + 1)
end

local function nearest_key(x, dict)
  local best, nearest = -1, huge
  for _, key in ipairs(dict.keys) do
    local d = distance(micro_center(dict.values[key]), x)
    if d < nearest then best, nearest = key, d end
  end
  return best
end

-- ----- learning

-- The first micro clusters, out of all samples that came so far.
local function begin(self)
  local buffer = self.buffer
  for _, item in ipairs(buffer) do
    if not item.covered then
      item.covered = true
      local near = {}
      for _, other in ipairs(buffer) do
        if not other.covered and distance(item.x, other.x) < self.epsilon then near[#near + 1] = other end
      end
      if #near > self.mu then
        local micro = new_micro(item.x, self.time)
        for _, other in ipairs(near) do
          other.covered = true
          insert(micro, other.x, self.time)
        end
        put(self.dense, #self.dense.keys, micro)
      else
        item.covered = false
      end
    end
  end
  self.buffer = nil
end

local function merge(self, x)
  local dense, outlying = self.dense, self.outlying
  if #dense.keys > 0 then
    local micro = dense.values[nearest_key(x, dense)]
    if radius_with(micro, x) <= self.epsilon then return insert(micro, x, self.time) end
  end
  if #outlying.keys == 0 then return put(outlying, 0, new_micro(x, self.time)) end
  local key = nearest_key(x, outlying)
  local micro = outlying.values[key]
  if radius_with(micro, x) > self.epsilon then return put(outlying, #outlying.keys, new_micro(x, self.time)) end
  insert(micro, x, self.time)
  if weight_of(self, micro) > self.mu * self.beta then
    drop(outlying, key)
    put(dense, #dense.keys, micro)
  end
end

-- Drops micro clusters that are dense no more, or have not become so in time.
local function thin_out(self)
  local function drop_where(dict, is_weak)
    for _, key in ipairs(table.move(dict.keys, 1, #dict.keys, 1, {})) do
      if is_weak(dict.values[key]) then drop(dict, key) end
    end
  end
  drop_where(self.dense, function(micro) return weight_of(self, micro) < self.mu * self.beta end)
  local factor, period = self.decaying_factor, self.period
  drop_where(self.outlying, function(micro)
    local xi = (2.0 ^ (-factor * (self.time - micro.created + period)) - 1) / (2.0 ^ (-factor * period) - 1)
    return weight_of(self, micro) < xi
  end)
end

---@param row river.embedded.Row
function DenStream:learn_one(row)
  local x = point_of(row)
  self.seen = self.seen + 1
  if self.seen % self.stream_speed == 0 then self.time = self.time + 1 end
  if self.buffer then
    self.buffer[#self.buffer + 1] = {x = x, covered = false}
    if #self.buffer == self.n_samples_init then begin(self) end
    return
  end
  merge(self, x)
  if self.time > 0 and self.time % self.period == 0 then thin_out(self) end
end

-- ----- predicting

-- The other dense micro clusters that touch one.
local function touching(self, micro)
  local list = {}
  if weight_of(self, micro) <= self.mu then return list end
  for _, key in ipairs(self.dense.keys) do
    local other = self.dense.values[key]
    if other ~= micro and weight_of(self, other) > self.mu then
      local d = distance(micro_center(micro), micro_center(other))
      if d < 2 * self.epsilon and d <= radius_of(micro) + radius_of(other) then list[#list + 1] = other end
    end
  end
  return list
end

-- Lists of micro clusters that belong together.
local function connected(self)
  local label_of, lists = {}, {}
  for _, key in ipairs(self.dense.keys) do
    local micro = self.dense.values[key]
    if not label_of[micro] then
      lists[#lists + 1] = {}
      label_of[micro] = #lists
      -- The library means to go on from those, and goes on only to others that have a label already.
      for _, other in ipairs(touching(self, micro)) do label_of[other] = label_of[other] or #lists end
    end
  end
  for _, key in ipairs(self.dense.keys) do
    local micro = self.dense.values[key]
    local list = lists[label_of[micro]]
    list[#list + 1] = micro
  end
  return lists
end

-- The library copies the first micro cluster without its sums, so that joining the others changes those of the first
-- one, too; its center stays as it was until its next sample.
local function join(micros)
  local first = micros[1]
  local whole = {n = first.n, created = first.created, edited = first.edited, sums = first.sums,
    squares = first.squares, center = first.center}
  for i = 2, #micros do
    local other = micros[i]
    whole.n = whole.n + other.n
    add_sums(whole, other.sums.keys, other.sums.values, other.squares)
    if whole.edited < other.created then whole.edited = other.created end
  end
  return whole
end

--- The number of the nearest cluster, from 0; -1 when there is none, 0 before the beginning.
---@param row river.embedded.Row
---@return integer
function DenStream:predict_one(row)
  if self.buffer then return 0 end
  local clusters = new_dict()
  for i, micros in ipairs(connected(self)) do put(clusters, i - 1, join(micros)) end
  return nearest_key(point_of(row), clusters)
end

-- ------------------------------------------------------------------------------------------------- STREAMKMeans

--- K-means in chunks: each chunk gets centers of its own, from which the lasting ones learn (O'Callaghan et al., 2002).
local STREAMKMeans = define("STREAMKMeans", {
  {"chunk_size", 10, kind = "integer"},
  {"n_clusters", 2, kind = "integer"},
  {"halflife", 0.5, kind = "number"},
  {"mu", 0, kind = "number"},
  {"sigma", 1, kind = "number"},
  {"p", 2, kind = "number"},
  {"seed", None, kind = "integer", optional = true},
})
STREAMKMeans.restless = true

local function fresh_kmeans(self)
  return registry.build{class = "river.cluster.KMeans", kwargs = {n_clusters = self.n_clusters,
    halflife = self.halflife, mu = self.mu, sigma = self.sigma, p = self.p, seed = self.seed}}
end

function STREAMKMeans:init()
  self.kmeans, self.chunk, self.time = fresh_kmeans(self), {}, 0
end

-- A center as a sample.
local function center_row(kmeans, cluster)
  local row = {keys = row_module.keys(kmeans.names[cluster])}
  for i, name in ipairs(kmeans.names[cluster]) do row[i] = kmeans.centers[cluster][name] end
  return row
end

---@param row river.embedded.Row
function STREAMKMeans:learn_one(row)
  local copy = {keys = row.keys, other = row.other}
  for i = 1, row.keys.n do copy[i] = row[i] end
  self.time = self.time + 1
  local place = (self.time - 1) % self.chunk_size + 1
  if place == 1 then self.chunk = {} end
  self.chunk[place] = copy
  if place < self.chunk_size then return end
  local own = fresh_kmeans(self)
  for _, sample in ipairs(self.chunk) do own:learn_one(sample) end
  for cluster = 1, self.n_clusters do self.kmeans:learn_one(center_row(own, cluster)) end
end

--- The number of the nearest center, from 0.
---@param row river.embedded.Row
---@return integer
function STREAMKMeans:predict_one(row)
  if self.time == 0 then python.raise("ValueError", "min() arg is an empty sequence") end
  local x, best, nearest = point_of(row), nil, nil
  for cluster = 1, self.n_clusters do
    local d = distance({keys = self.kmeans.names[cluster], values = self.kmeans.centers[cluster]}, x)
    if not best or d < nearest then best, nearest = cluster, d end
  end
  return best - 1
end

return {DBSTREAM = DBSTREAM, DenStream = DenStream, STREAMKMeans = STREAMKMeans}
