/*
 * Fuzz target: the answers to heartbeats (src/heartbeat.c looks for `success`, lua/training/capacity.lua takes what
 * riverlua.protobuf reads).
 *
 * What Lua can read the thread can read too, and both see the same success. Whatever the observations, the list that
 * comes of them has states and workloads that the client knows, and a hint is one printable line.
 */
#include "fuzz_lua.h"

#include "heartbeat.h"

void rvl_open_searcher(lua_State *L);

/* read(bytes) → success as the heartbeat's thread sees it; nil: it cannot be read */
static int read_success(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  bool success;
  if (rvl_heartbeat_read_success(bytes, length, &success)) lua_pushboolean(L, success);
  else lua_pushnil(L);
  return 1;
}

/* Also lets the chunk require all of riverlua. */
static int open_reader(lua_State *L) {
  rvl_open_searcher(L);
  lua_pushcfunction(L, read_success);
  return 1;
}

static const char check_source[] =
    "local read = require 'fuzz.read'\n"
    "local capacity = require 'training.capacity'\n"
    "local reply = require('riverlua.protobuf').training:message('river.api.v1.SessionHeartbeatResponse')\n"
    "local STATES = {ready = 1, scaling_up = 1, preparing = 1, waiting = 1, at_limit = 1, unavailable = 1}\n"
    "local WORKLOADS = {training = 1, inference = 1}\n"
    "local texts = {'ready', 'waiting', 'at_limit', 'preparing', 'scaling_up', 'odd', 'training', 'inference',\n"
    "  'run\\27'}\n"
    "local now = 0\n"
    "local monitor = capacity.new{hints = true, clock = function() return now end,\n"
    "  wall = function() return 1000 + now end,\n"
    "  write = function(line) assert(line:find('^river: %C+\\n$'), 'a hint is not one printable line') end}\n"
    "local sequence = 0\n"
    "local function take(bytes)\n"
    "  local ok, message = pcall(reply.decode, reply, bytes)\n"
    "  local success = read(bytes)\n"
    "  if not ok then return end\n"
    "  assert(success == message.success, 'they see different answers')\n"
    "  sequence = sequence + 1\n"
    "  assert(monitor:update(message.capacity_status, sequence))\n"
    "  for _, one in ipairs(monitor:status()) do\n"
    "    assert(STATES[one.state] and WORKLOADS[one.workload])\n"
    "    assert(type(one.capacity_wait) == 'boolean' and type(one.training_run_id) == 'string')\n"
    "    assert(one.state ~= 'unavailable' or not one.capacity_wait)\n"
    "    local date = one.observed_at\n"
    "    assert(date == nil or date == date and date >= 1000 + now - 31 and date <= 1000 + now + 6)\n"
    "  end\n"
    "end\n"
    "return function(input)\n"
    "  take(input)\n"
    "  now = now + 3\n"
    /* and as a message made of it: six bytes for each observation */
    "  local list = {}\n"
    "  for i = 1, #input - 5, 6 do\n"
    "    local run, workload, state, wait, age, nanos = input:byte(i, i + 5)\n"
    "    list[#list + 1] = {training_run_id = texts[run % #texts + 1], workload = texts[workload % #texts + 1],\n"
    "      state = texts[state % #texts + 1], capacity_wait = wait % 2 == 1,\n"
    "      observed_at = age < 200 and {seconds = 1000 + math.floor(now) - age + 8, nanos = nanos} or nil}\n"
    "  end\n"
    "  local bytes = reply:encode{success = #input % 2 == 1, capacity_status = list}\n"
    "  assert(read(bytes) == (#input % 2 == 1), 'the thread cannot read it')\n"
    "  take(bytes)\n"
    "end\n";

static const luaL_Reg modules[] = {{"fuzz.read", open_reader}, {NULL, NULL}};

static const fuzz_lua target = {
    .name = "fuzz_heartbeat", .source = check_source, .memory = (size_t)64 << 20, .modules = modules};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
