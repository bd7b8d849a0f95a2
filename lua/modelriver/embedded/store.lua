--- What outlives a request, and the client that made it: jobs and the one-time tokens of their WebSockets. One for the
-- process, so that a job can be taken up by another client.

local digest = require "riverlua.digest"
local task = require "riverlua.task"

local store = {}

-- Ended jobs that are remembered; the oldest go first.
local MOST_ENDED = 1000

---@class modelriver.embedded.Store
---@field jobs table<string, modelriver.embedded.Job> by channel_id
---@field awaiting table jobs that wait, or waited, for a callback, from `first` to `last`
local Store = {}
Store.__index = Store

--- Adds a job.
---@param job modelriver.embedded.Job
function Store:add(job) self.jobs[job.id] = job end

--- A job has ended: from here on it may be forgotten.
---@param job modelriver.embedded.Job
function Store:ended(job)
  self.last = self.last + 1
  self.order[self.last] = job
  if self.last - self.first >= MOST_ENDED then
    local oldest = self.order[self.first]
    self.jobs[oldest.id], self.order[self.first] = nil, nil
    self.first = self.first + 1
  end
end

-- Those that nobody used in time, in the order in which they were made.
local function drop_expired(self)
  local now = task.now()
  while self.tokens_first <= self.tokens_last do
    local entry = self.token_order[self.tokens_first]
    if self.tokens[entry.token] and entry.due > now then return end
    self.tokens[entry.token], self.token_order[self.tokens_first] = nil, nil
    self.tokens_first = self.tokens_first + 1
  end
end

--- A token for one WebSocket.
---@param project_id string
---@param seconds number its life
---@return string
function Store:issue(project_id, seconds)
  drop_expired(self)
  local token = "wst_" .. digest.hex(digest.random(24))
  local entry = {token = token, project_id = project_id, due = task.now() + seconds}
  self.tokens_last = self.tokens_last + 1
  self.tokens[token], self.token_order[self.tokens_last] = entry, entry
  return token
end

--- Spends a token: the project it is for, or nil when it is not known (any more).
---@param token string
---@return string|nil
function Store:spend(token)
  local entry = self.tokens[token]
  self.tokens[token] = nil
  return entry and entry.due > task.now() and entry.project_id or nil
end

--- Forgets the jobs that have ended.
function Store:forget()
  for i = self.first, self.last do self.jobs[self.order[i].id] = nil end
  self.order, self.first, self.last = {}, 1, 0
end

--- An empty store.
---@return modelriver.embedded.Store
function store.new()
  return setmetatable({jobs = {}, order = {}, first = 1, last = 0, awaiting = {first = 1, last = 0},
    tokens = {}, token_order = {}, tokens_first = 1, tokens_last = 0}, Store)
end

return store
