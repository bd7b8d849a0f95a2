--- Results of operations: those under way, and those that have ended, which are kept for a while. (RetrieveFuture)

local core = require "riverlua.core.task"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local protobuf = require "riverlua.protobuf"
local refusal = require "training.embedded.refusal"

local futures = {}

local LONGEST_POLL = 20
local MOST_PENDING = 200000
-- Results that were collected are kept in case the answer got lost; those that were not, longer.
local MOST_COLLECTED, MOST_KEPT = 16 << 20, 512 << 20
local OVERHEAD = 512   -- bytes of memory of a result beside itself
local SLACK = 1000     -- entries of a queue that may be void before it is looked through

local RESPONSE = protobuf.training:message("river.api.v1.RetrieveFutureResponse")

---@class training.embedded.Future
---@field id string
---@field model_id string|nil
---@field session table|nil
---@field state "queued"|"running"|"done"
---@field reply any what was made of the result
---@field refused riverlua.Error|nil raised at each retrieval
---@field signal userdata
local Future = {}
Future.__index = Future

---@class training.embedded.Futures
local Futures = {}
Futures.__index = Futures

---@param limits {collected: integer|nil, kept: integer|nil, pending: integer|nil}|nil bytes, and operations
---@return training.embedded.Futures
function futures.new(limits)
  limits = limits or {}
  -- ids of one process mean nothing to the next one
  return setmetatable({limits = {collected = limits.collected or MOST_COLLECTED, kept = limits.kept or MOST_KEPT,
    pending = limits.pending or MOST_PENDING},
    prefix = "req-" .. digest.hex(digest.random(4)), known = {}, count = 0, pending = 0, bytes = 0,
    collected_bytes = 0, number = 0, changed = core.signal(), ended = {first = 1, last = 0},
    collected = {first = 1, last = 0}}, Futures)
end

--- Refuses when there are too many already.
---@param count integer|nil of results that are to be added (default: 1)
function Futures:check_room(count)
  if self.pending + (count or 1) > self.limits.pending then
    refusal.raise("RESOURCE_EXHAUSTED", "%d operations are under way: collect results first", self.pending)
  end
end

--- A result that will be there. Refused when there are too many.
---@param fields {model_id: string|nil, session: table|nil, batch: boolean|nil}
---@return training.embedded.Future
function Futures:add(fields)
  self:check_room()
  self.number = self.number + 1
  local future = setmetatable({id = ("%s-%d"):format(self.prefix, self.number), model_id = fields.model_id,
    session = fields.session, batch = fields.batch or false, state = "queued", owner = self,
    signal = core.signal(), size = 0}, Future)
  self.known[future.id] = future
  self.count, self.pending = self.count + 1, self.pending + 1
  return future
end

local function forget(self, future)
  if self.known[future.id] ~= future then return end
  self.known[future.id] = nil
  self.count = self.count - 1
  self.bytes = self.bytes - future.size
  if future.collected then self.collected_bytes = self.collected_bytes - future.size end
  if future.state ~= "done" then self.pending = self.pending - 1 end
  future.reply = nil
end

local function push(queue, future)
  queue.last = queue.last + 1
  queue[queue.last] = future
end

local function drop_oldest(self, queue)
  local future = queue[queue.first]
  queue[queue.first] = nil
  queue.first = queue.first + 1
  return forget(self, future)
end

-- A queue without what has been forgotten.
local function compacted(self, queue)
  local new = {first = 1, last = 0}
  for i = queue.first, queue.last do
    if self.known[queue[i].id] == queue[i] then push(new, queue[i]) end
  end
  return new
end

local function trim(self)
  local collected = self.collected
  while self.collected_bytes > self.limits.collected and collected.first < collected.last do   -- the newest stays
    drop_oldest(self, collected)
  end
  while self.bytes > self.limits.kept and self.count - self.pending > 1 do   -- one may be larger than that
    drop_oldest(self, self.collected_bytes > 0 and collected or self.ended)
  end
  -- what has been forgotten by the other queue: one that nobody collects would hold up all that come after it
  local ended = self.ended
  if ended.last - ended.first > 2 * self.count + SLACK then self.ended = compacted(self, ended) end
end

local function settle(self, reply, refused, size)
  if self.state == "done" then return end
  local owner = self.owner
  self.state = "done"
  if owner.known[self.id] == self then   -- else its session has ended
    self.reply, self.refused, self.size = reply, refused, size + OVERHEAD
    owner.pending = owner.pending - 1
    owner.bytes = owner.bytes + self.size
    push(owner.ended, self)
    trim(owner)
  end
  self.signal:fire()
  owner.changed:fire()
end

--- The work begins.
function Future:begin()
  if self.state == "queued" then self.state = "running" end
end

--- The operation has ended well. Its result is kept in the form in which it will be sent; one of a batch as it is.
---@param response table RetrieveFutureResponse, or of a batch SamplingResult without its request_id
function Future:finish(response)
  if self.batch then
    response.request_id = self.id
    local bytes = self.batch:encode(response)
    return settle(self, bytes, nil, #bytes)
  end
  local bytes = RESPONSE:encode(response)
  settle(self, bytes, nil, #bytes)
end

--- The operation has failed.
---@param err any what it raised
function Future:fail(err)
  if self.state == "done" then return end
  local refused, failed = refusal.outcome(err)
  if refused and self.batch then
    return self:finish{error = {code = refused.status, message = refused.details}}
  elseif refused then
    return settle(self, nil, refused, 0)
  end
  self:finish{failed = failed}
end

--- What came of it, which counts as collected.
---@return string bytes
function Futures:collect(future)
  local refused, reply = future.refused, future.reply
  if not future.collected then
    future.collected = true
    self.collected_bytes = self.collected_bytes + future.size
    push(self.collected, future)
    trim(self)
  end
  if refused then error(refused, 0) end
  return reply
end

--- The result by its id.
---@param id string
---@return training.embedded.Future
function Futures:find(id)
  local future = self.known[id]
  if not future then refusal.raise("NOT_FOUND", "no request %s", id) end
  return future
end

--- Forgets what belongs to a session.
---@param session table
function Futures:forget_session(session)
  local gone = {}
  for _, future in pairs(self.known) do
    if future.session == session then gone[#gone + 1] = future end
  end
  for _, future in ipairs(gone) do
    forget(self, future)
    future.signal:fire()
  end
  self.ended, self.collected = compacted(self, self.ended), compacted(self, self.collected)
end

--- Wakes everybody who waits.
function Futures:wake()
  for _, future in pairs(self.known) do future.signal:fire() end
  self.changed:fire()
end

--- Seconds that a call may be held until there is something to say: it has to be answered before its time is up.
---@param timeout number|nil
---@return number
function futures.patience(timeout) return timeout and math.min(LONGEST_POLL, timeout * 0.9) or LONGEST_POLL end

futures.methods = {}

function futures.methods.RetrieveFuture(service, request, call)
  local future = service.futures:find(request.request_id)
  if future.batch then
    refusal.wrong("%s is a sample of a batch: RetrieveSamplingResults gives it", request.request_id)
  end
  if request.model_id and request.model_id ~= future.model_id then
    refusal.wrong("%s is asked for with the model %s, %s is right", request.request_id, request.model_id,
      future.model_id or "none")
  end
  if future.state ~= "done" then future.signal:wait(futures.patience(call.timeout)) end
  if service.closed then errors.raise{kind = "closed", message = "this embedded service has been closed"} end
  service.futures:find(request.request_id)   -- its session may have ended meanwhile
  if future.state == "done" then return service.futures:collect(future) end
  return {try_again = {request_id = request.request_id, queue_state = future.state}}
end

return futures
