--- SWINN: a graph over a window of samples in which each one knows its nearest neighbors, searched by going from
--- neighbor to neighbor (Mastelini et al., 2022, after the NN-descent of Dong, Moses and Li, 2011).
--
-- With a seed the graph is the library's, edge for edge: that takes Python's random numbers, the order of its sets of
-- whole numbers (hash_order.lua) and the order of its dictionaries.

local hash_order = require "river.embedded.hash_order"
local python = require "river.embedded.python"
local random = require "river.embedded.random"
local registry = require "river.embedded.registry"
local search = require "river.embedded.neighbors_search"

local None, huge = python.None, math.huge

-- ---------------------------------------------------------------------------------- dictionaries that keep an order

local function new_dict() return {keys = {}, values = {}} end

local function put(dict, key, value)
  if dict.values[key] == nil then dict.keys[#dict.keys + 1] = key end
  dict.values[key] = value
end

local function take(dict, key)
  if dict.values[key] == nil then python.raise("KeyError", "%s", tostring(key)) end
  dict.values[key] = nil
  local keys = dict.keys
  for i = 1, #keys do
    if keys[i] == key then return table.remove(keys, i) end
  end
end

local function is_empty(dict) return #dict.keys == 0 end

-- ------------------------------------------------------------------------------------------------------- vertices

-- A vertex: its sample {x=, y=}, its place `id`, edges to its neighbors and back from those it is a neighbor of
-- (place → distance), which edges are new (`flags`), and the place of the farthest neighbor.
local function new_vertex(item, id)
  return {x = item.x, y = item.y, id = id, edges = new_dict(), back = new_dict(), flags = {}}
end

local function is_isolated(vertex) return is_empty(vertex.edges) and is_empty(vertex.back) end

local function fill(vertex, neighbors, distances)
  for i, neighbor in ipairs(neighbors) do
    put(vertex.edges, neighbor.id, distances[i])
    vertex.flags[neighbor.id] = true
    put(neighbor.back, vertex.id, distances[i])
  end
  vertex.worst = neighbors[#neighbors].id
end

local function add_edge(vertex, neighbor, distance)
  put(vertex.edges, neighbor.id, distance)
  vertex.flags[neighbor.id] = true
  put(neighbor.back, vertex.id, distance)
  if not vertex.worst or vertex.edges.values[vertex.worst] < distance then vertex.worst = neighbor.id end
end

local function remove_edge(self, vertex, neighbor)
  local edges = vertex.edges
  take(edges, neighbor.id)
  take(neighbor.back, vertex.id)
  vertex.flags[neighbor.id] = nil
  if is_empty(edges) then
    vertex.worst = nil
    if is_empty(vertex.back) then self.isolated:add(vertex.id) end
  elseif neighbor.id == vertex.worst then
    local worst
    for _, key in ipairs(edges.keys) do
      if not worst or edges.values[key] > edges.values[worst] then worst = key end
    end
    vertex.worst = worst
  end
end

local function are_neighbors(a, b) return a.edges.values[b.id] ~= nil or a.back.values[b.id] ~= nil end

-- Makes `neighbor` one of the vertex's, in place of a farther one; 1 if it did.
local function push_edge(self, vertex, neighbor, distance)
  if are_neighbors(vertex, neighbor) or vertex.id == neighbor.id then return 0 end
  if #vertex.edges.keys >= self.graph_k then
    local worst = vertex.worst
    if not worst or (vertex.edges.values[worst] or huge) <= distance then return 0 end
    remove_edge(self, vertex, self.data[worst + 1])
  end
  add_edge(vertex, neighbor, distance)
  return 1
end

-- Drops edges to vertices that can be reached through a nearer neighbor.
local function prune(self, vertex)
  if self.prune_prob == 0 or #vertex.edges.keys + #vertex.back.keys <= self.candidates then return end
  local pool = {}
  for kind, dict in ipairs{vertex.edges, vertex.back} do
    for _, key in ipairs(dict.keys) do pool[#pool + 1] = {dict.values[key], key, kind == 1 and 1 or 0} end
  end
  table.sort(pool, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] elseif a[2] ~= b[2] then return a[2] < b[2] end
    return a[3] < b[3]
  end)
  local data, selected = self.data, {pool[1][2]}
  for i = 2, #pool do
    local distance, id, is_direct = pool[i][1], pool[i][2], pool[i][3] == 1
    local candidate, discarded = data[id + 1], false
    for _, other_id in ipairs(selected) do
      local other = data[other_id + 1]
      if are_neighbors(other, candidate) and self.rng:random() < self.prune_prob then
        local from, to = other, candidate
        if other.edges.values[id] == nil then from, to = candidate, other end
        if from.edges.values[to.id] < distance then
          if is_direct then remove_edge(self, vertex, candidate) else remove_edge(self, candidate, vertex) end
          discarded = true
          break
        end
        remove_edge(self, from, to)
      end
    end
    if not discarded then selected[#selected + 1] = id end
  end
end

-- ---------------------------------------------------------------------------------------------------------- heaps

-- A heap of vertices, the first by `before` on top.
local function push(heap, entry, before)
  local i = #heap + 1
  while i > 1 do
    local parent = i // 2
    if not before(entry, heap[parent]) then break end
    heap[i] = heap[parent]
    i = parent
  end
  heap[i] = entry
end

local function pop(heap, before)
  local top, count = heap[1], #heap
  local entry = heap[count]
  heap[count] = nil
  count = count - 1
  if count == 0 then return top end
  local i = 1
  while true do
    local child = 2 * i
    if child > count then break end
    if child < count and before(heap[child + 1], heap[child]) then child = child + 1 end
    if not before(heap[child], entry) then break end
    heap[i] = heap[child]
    i = child
  end
  heap[i] = entry
  return top
end

local function nearer(a, b)
  if a[1] ~= b[1] then return a[1] < b[1] end
  return a[2].id < b[2].id
end

local function farther(a, b)
  if a[1] ~= b[1] then return a[1] > b[1] end
  return a[2].id < b[2].id
end

-- --------------------------------------------------------------------------------------------------------- SWINN

---@class river.embedded.SWINN
---@field data table<integer, table> vertices, one more than their place
---@field next_id integer place of the next sample
---@field ready boolean whether there is a graph
local SWINN = registry.class{class = "river.neighbors.SWINN", role = "engine", restless = true, params = {
  {"graph_k", 20, kind = "integer"},
  search.PARAMETER,
  {"maxlen", 1000, kind = "integer"},
  {"warm_up", 500, kind = "integer"},
  {"max_candidates", None, kind = "integer", optional = true},
  {"delta", 0.0001, kind = "number"},
  {"prune_prob", 0.0, kind = "number"},
  {"n_iters", 10, kind = "integer"},
  {"seed", None, kind = "integer", optional = true},
}}

function SWINN:init()
  search.check_distance(self.dist_func)
  self.candidates = self.max_candidates
  if self.candidates == None then self.candidates = math.min(50, math.max(50, self.graph_k)) end
  self.data, self.count, self.next_id, self.ready = {}, 0, 0, false
  self.rng = random.new(self.seed)
  self.isolated = hash_order.set()
end

-- A vertex to start a search from.
local function random_start(self, exclude)
  while true do
    local vertex = self.data[self.rng:randint(0, self.count - 1) + 1]
    if vertex and not is_isolated(vertex) and not (exclude and exclude[vertex.id]) then return vertex end
  end
end

-- The nearest vertices that can be reached, nearest first, and their distances.
local function find(self, x, count, epsilon, start, exclude)
  local data = self.data
  local distance, p = search.distance(self.dist_func)
  local scale, bound = 1 + epsilon, huge
  start = start or random_start(self, exclude)
  local visited = {[start.id] = true}
  for id in pairs(exclude or {}) do visited[id] = true end
  local current = {distance(x, start.x, p), start}
  local pool, result = {}, {current}
  while current[1] < bound do
    local vertex = current[2]
    local reachable = hash_order.united(vertex.edges.keys, vertex.back.keys, visited)
    for i = 1, #reachable do
      local id = reachable[i]
      local candidate = data[id + 1]
      local d = distance(x, candidate.x, p)
      visited[id] = true
      local full = #result >= count
      if not full or d < result[1][1] then
        local entry = {d, candidate}
        if full then pop(result, farther) end
        push(result, entry, farther)
        push(pool, entry, nearer)
        bound = scale * result[1][1]
      end
    end
    if #pool == 0 then break end
    current = pop(pool, nearer)
  end
  local neighbors, distances = {}, {}
  for i = #result, 1, -1 do
    local entry = pop(result, farther)
    neighbors[i], distances[i] = entry[2], entry[1]
  end
  return neighbors, distances
end

local EPSILON = 0.1

local function connect(self, vertex, start, exclude)
  fill(vertex, find(self, vertex.x, self.graph_k, EPSILON, start, exclude))
end

-- A random graph to begin with.
local function init_graph(self)
  local count, k = self.count, self.graph_k
  local ids, unknown = hash_order.set(), {}
  for id = 0, count - 1 do ids:add(id) end
  for i = 1, k do unknown[i] = huge end
  for id = 0, count - 1 do
    ids:discard(id)
    local neighbors = {}
    for i, other in ipairs(self.rng:sample(ids:items(), k)) do neighbors[i] = self.data[other + 1] end
    fill(self.data[id + 1], neighbors, unknown)
    ids:add(id)
  end
end

-- Values by place, made when they are first asked for.
local function by_place(make)
  return setmetatable({}, {__index = function(self, id)
    local value = make()
    rawset(self, id, value)
    return value
  end})
end

local function new_table() return {} end

-- For each vertex the old and the new edges that it has part in; the ends of all of them are marked as tried.
local function collect(self, ids, tried)
  local new, old = by_place(hash_order.set), by_place(hash_order.set)
  for _, id in ipairs(ids) do
    local vertex, tried_here = self.data[id + 1], tried[id]
    for _, neighbor in ipairs(vertex.edges.keys) do
      tried_here[neighbor], tried[neighbor][id] = true, true
      local kind = vertex.flags[neighbor] and new or old
      kind[id]:add(neighbor)
      kind[neighbor]:add(id)
    end
  end
  return new, old
end

-- No more than the allowed number of them.
local function limited(self, set)
  local items = set:items()
  if #items > self.candidates then return self.rng:sample(items, self.candidates) end
  return items
end

-- Tries edges between a vertex and others that share a neighbor with it; returns how many edges changed.
local function join(self, a, others, tried_here, tried, distance, p)
  local data, changes, a_id = self.data, 0, a.id
  local edges, back = a.edges.values, a.back.values
  for i = 1, #others do
    local b_id = others[i]
    if not tried_here[b_id] and a_id ~= b_id and not edges[b_id] and not back[b_id] then
      local b = data[b_id + 1]
      local d = distance(a.x, b.x, p)
      changes = changes + push_edge(self, a, b, d) + push_edge(self, b, a, d)
      tried_here[b_id], tried[b_id][a_id] = true, true
    end
  end
  return changes
end

-- One round of joins; returns how many edges changed.
local function refine_once(self, ids, tried)
  local data, changes = self.data, 0
  local distance, p = search.distance(self.dist_func)
  local new_sets, old_sets = collect(self, ids, tried)
  local new, old = {}, {}
  for _, id in ipairs(ids) do
    new[id] = limited(self, new_sets[id])
    old[id] = limited(self, old_sets[id])
    local flags = data[id + 1].flags
    for _, neighbor in ipairs(new[id]) do flags[neighbor] = nil end
  end
  for _, id in ipairs(ids) do
    for _, a_id in ipairs(new[id]) do
      local a, tried_here = data[a_id + 1], tried[a_id]
      changes = changes + join(self, a, new[id], tried_here, tried, distance, p)
      changes = changes + join(self, a, old[id], tried_here, tried, distance, p)
    end
  end
  return changes
end

-- Neighbors of neighbors may be nearer ones: joins them until little changes.
local function refine(self, ids)
  local enough, tried = self.delta * self.graph_k * #ids, by_place(new_table)
  for _ = 1, self.n_iters do
    if refine_once(self, ids, tried) <= enough then break end
  end
  for _, id in ipairs(ids) do prune(self, self.data[id + 1]) end
  for _, id in ipairs(self.isolated:items()) do
    if is_isolated(self.data[id + 1]) then connect(self, self.data[id + 1]) end
  end
  self.isolated = hash_order.set()
end

local function without(set, removed)
  for _, id in ipairs(removed:items()) do set:discard(id) end
  return set:items()
end

-- Takes the oldest sample out and gives new neighbors to those that had no other.
local function remove(self, id)
  local data = self.data
  local vertex = data[id + 1]
  local back = table.move(vertex.back.keys, 1, #vertex.back.keys, 1, {})
  local edges = table.move(vertex.edges.keys, 1, #vertex.edges.keys, 1, {})
  for _, other in ipairs(back) do remove_edge(self, data[other + 1], vertex) end
  for _, other in ipairs(edges) do remove_edge(self, vertex, data[other + 1]) end
  self.isolated:discard(id)
  local without_edges, without_back = hash_order.set(), hash_order.set()
  for _, other in ipairs(back) do
    if is_empty(data[other + 1].edges) then without_edges:add(other) end
  end
  for _, other in ipairs(edges) do
    if is_empty(data[other + 1].back) then without_back:add(other) end
  end
  local affected = without_edges:union(without_back):items()
  local alone = without_edges:intersection(without_back)
  for _, other in ipairs(alone:items()) do connect(self, data[other + 1]) end
  local starts = without(without_back, alone)
  for _, other in ipairs(without(without_edges, alone)) do
    local start = #starts > 0 and data[self.rng:choice(starts) + 1] or nil
    connect(self, data[other + 1], start, {[other] = true})
  end
  data[id + 1] = false
  refine(self, affected)
end

--- Adds a sample; the oldest one leaves a full window.
---@param point river.embedded.Point
---@param y any
function SWINN:append(point, y)
  local vertex = new_vertex({x = point, y = y}, self.next_id)
  if self.ready then search.check_numbers(point) end
  self.next_id = self.next_id < self.maxlen - 1 and self.next_id + 1 or 0
  if not self.ready then
    if self.count == self.maxlen then table.remove(self.data, 1) else self.count = self.count + 1 end
    self.data[self.count] = vertex
    if self.count >= self.warm_up then
      init_graph(self)
      local ids = {}
      for i = 1, self.count do ids[i] = self.data[i].id end
      refine(self, ids)
      self.ready = true
    end
    return
  end
  if self.count == self.maxlen then remove(self, vertex.id) end
  local neighbors, distances = find(self, point, self.graph_k, EPSILON)
  if self.count < self.maxlen then self.count = self.count + 1 end
  self.data[vertex.id + 1] = vertex
  fill(vertex, neighbors, distances)
end

--- The nearest samples and their distances; all of the window is looked through until there is a graph.
---@param query river.embedded.Point
---@param count integer
---@return table[] items {x = point, y = label}
---@return number[] distances
function SWINN:search(query, count)
  if self.count <= self.warm_up then return search.scan(self, query, self.data, 1, self.count, count) end
  search.check_numbers(query)
  return find(self, query, count, EPSILON)
end

--- The labels in the window.
---@return any[]
function SWINN:refresh_targets()
  local labels = {}
  for _, vertex in ipairs(self.data) do
    if vertex and vertex.y ~= None then labels[#labels + 1] = vertex.y end
  end
  return labels
end

return SWINN
