--- What concerns the endpoint and sessions: health, capabilities, heartbeats, manifests of training data, images.

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local protobuf = require "riverlua.protobuf"
local refusal = require "training.embedded.refusal"

local sessions = {}

-- What can be asked for here. Not: session_image_handles_v1 (the models see no images).
local FEATURES = {"sampling_batch_v1", "policy_versions_v1", "sampling_policy_pinning_v1",
  "sampling_latest_snapshot_v1", "gradient_scale_v1", "temporary_checkpoints_v1"}
-- Not: retained_kv_v1, bounded_kv_v1 (no cache outlives its request).
local MODEL_FEATURES = {"prompt_token_echo_v1", "full_weight_rl_v1"}

local SESSION_SECONDS = 1800
-- A client that has left says so by unloading its models: its session may go when room is wanted, if it is silent for
-- so long. Heartbeats come every 2 s.
local SILENT_SECONDS = 60
local MOST_SESSIONS, MOST_TAGS, LONGEST_NAME, LONGEST_VALUE = 1000, 64, 128, 1024
local MOST_ATTESTATIONS = 1000

---@class training.embedded.Session
---@field id string
---@field tags table<string, string>
---@field last number when something was last heard of it, on riverlua.clock
---@field models training.embedded.Model[]
---@field attestations table<string, true>

--- The session by its id.
---@return training.embedded.Session
function sessions.find(service, id)
  local session = service.sessions[id]
  if not session then refusal.raise("NOT_FOUND", "no session %s", id) end
  return session
end

local function check_tags(tags)
  local count = 0
  for name, value in pairs(tags) do
    count = count + 1
    if #name > LONGEST_NAME or #value > LONGEST_VALUE then
      refusal.wrong("the tag '%s' has %d bytes of name and %d of value; at most %d and %d are taken",
        name:sub(1, LONGEST_NAME), #name, #value, LONGEST_NAME, LONGEST_VALUE)
    end
  end
  if count > MOST_TAGS then refusal.wrong("%d tags; at most %d are taken", count, MOST_TAGS) end
end

--- Ends a session: its models, and all results of theirs.
function sessions.close(service, session, reason)
  if service.sessions[session.id] ~= session then return end
  service.sessions[session.id] = nil
  service.session_count = service.session_count - 1
  for _, model in ipairs(session.models) do service:end_model(model, reason) end
  service.lane:drop(function(operation) return operation.session == session end,
    errors.new{kind = "cancelled", message = reason})
  service.futures:forget_session(session)
end

--- Ends the sessions that have not been heard of for half an hour.
---@param now number on riverlua.clock
---@return integer count
function sessions.reap(service, now)
  local late = {}
  for _, session in pairs(service.sessions) do
    if now - session.last > SESSION_SECONDS then late[#late + 1] = session end
  end
  for _, session in ipairs(late) do
    sessions.close(service, session, ("session %s has expired"):format(session.id))
  end
  return #late
end

local function is_left(session, now)
  if now - session.last <= SILENT_SECONDS then return false end
  for _, model in ipairs(session.models) do
    if not model.unloaded then return false end
  end
  return true
end

-- Ends the sessions that nobody seems to use any more.
local function make_room(service)
  local left, now = {}, clock.now()
  for _, session in pairs(service.sessions) do
    if is_left(session, now) then left[#left + 1] = session end
  end
  for _, session in ipairs(left) do
    sessions.close(service, session, ("session %s was left"):format(session.id))
  end
end

local methods = {}
sessions.methods = methods

function methods.HealthCheck() return {status = "ok"} end

function methods.GetServerCapabilities(service, request)
  local models = {}
  local names = service:base_names()
  if request.model_name ~= "" then
    service:check_base(request.model_name)
    names = {request.model_name}
  end
  for i, name in ipairs(names) do models[i] = {model_name = name, features = MODEL_FEATURES} end
  return {supported_models = models, features = FEATURES}
end

function methods.CreateSession(service, request)
  check_tags(request.tags)
  if service.session_count >= MOST_SESSIONS then make_room(service) end
  if service.session_count >= MOST_SESSIONS then
    refusal.raise("RESOURCE_EXHAUSTED", "there are %d sessions already: close some", MOST_SESSIONS)
  end
  local session = {id = "sess-" .. digest.uuid(), tags = request.tags, last = clock.now(), models = {},
    model_seqs = {}, last_model_seq = 0, attestations = {}, attestation_count = 0}
  service.sessions[session.id] = session
  service.session_count = service.session_count + 1
  return {session_id = session.id}
end

function methods.SessionHeartbeat(service, request)
  local session = service.sessions[request.session_id]
  if not session then return {success = false} end
  session.last = clock.now()
  local observed, status = protobuf.timestamp(os.time()), {}
  for _, model in ipairs(session.models) do
    if not model.unloaded then
      for _, workload in ipairs{"training", "inference"} do
        status[#status + 1] = {training_run_id = model.run_id, workload = workload, state = "ready",
          observed_at = observed}
      end
    end
  end
  return {success = true, capacity_status = status}
end

function methods.CreateTrainingDataAttestation(service, request)
  local session = sessions.find(service, request.session_id)
  if #request.artifacts == 0 then refusal.wrong("no artifacts") end
  if session.attestation_count >= MOST_ATTESTATIONS then
    refusal.raise("RESOURCE_EXHAUSTED", "session %s has %d manifests already", session.id, MOST_ATTESTATIONS)
  end
  local artifacts = {}
  for i, artifact in ipairs(request.artifacts) do
    if artifact.name == "" then refusal.wrong("artifacts[%d] has no name", i - 1) end
    local sha256 = digest.hex(digest.sha256(artifact.content))
    if artifact.expected_sha256 ~= "" and artifact.expected_sha256:lower() ~= sha256 then
      refusal.wrong("%s has the SHA-256 %s, %s was expected", artifact.name, sha256, artifact.expected_sha256)
    end
    artifacts[i] = {name = artifact.name, sha256 = sha256, size_bytes = #artifact.content}
  end
  local id = "att-" .. digest.uuid()
  session.attestations[id] = true
  session.attestation_count = session.attestation_count + 1
  return {training_data_attestation_id = id, artifacts = artifacts}
end

local BLIND = "the models of this service see no images (session_image_handles_v1)"

function methods.UploadImage() refusal.raise("UNIMPLEMENTED", BLIND) end

function methods.ReleaseImage(service, request)
  sessions.find(service, request.session_id)
  if request.close_session and request.image_handle == "" and request.idempotency_key == "" then return {} end
  refusal.raise("UNIMPLEMENTED", BLIND)
end

return sessions
