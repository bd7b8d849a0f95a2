/*
 * Fuzz target: custom losses, from their JSON (lua/training/embedded/graph.lua, src/lua_trainer_graph.c) to their
 * values and gradients for a small example (src/trainer/loss_graph*.c).
 *
 * Whatever the bytes, there is a graph or a refusal in a few words of UTF-8; a graph that is taken has the same value
 * with and without gradients, and reads and writes nothing but what is its own. The first byte chooses between JSON as
 * it is and a graph that is made of the bytes, without which few inputs would get far.
 * Run from the top folder: the Lua files are read from lua/.
 */
#include "fuzz_lua.h"
#include "lua_trainer.h"

#include <math.h>

int rvl_open_array(lua_State *L);
int rvl_open_json(lua_State *L);

enum { TOKENS = 3, VOCABULARY = 5, WIDEST = 8, ROOM = TOKENS * WIDEST };

static void wanted(lua_State *L, bool condition, const char *what) {
  if (!condition) luaL_error(L, "%s", what);
}

static bool is_same(double a, double b) { return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b)); }

/* The columns of the list on top, filled with what their types allow. false: they are too wide to be tried. */
static bool fill_columns(lua_State *L, rvl_column *columns, char names[][40], double memory[][ROOM]) {
  size_t count = lua_rawlen(L, -1);
  for (size_t i = 0; i < count; i++) {
    rvl_column *c = &columns[i];
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    lua_getfield(L, -1, "width");
    lua_getfield(L, -2, "dtype");
    size_t width = (size_t)lua_tointeger(L, -2);
    const char *dtype = lua_tostring(L, -1);
    snprintf(names[i], 40, "__river_loss_column_%zu", i);
    *c = (rvl_column){.name = names[i], .rows = TOKENS, .width = width, .data = memory[i],
                      .dtype = *dtype == 'f' ? RVL_FLOAT32 : strcmp(dtype, "int32") == 0 ? RVL_INT32 : RVL_INT64};
    lua_pop(L, 3);
    c->count = TOKENS * (width > 0 ? width : 1);
    if (c->count > ROOM) return false;
    for (size_t k = 0; k < c->count; k++) {
      int32_t small = (int32_t)((3 * k + i) % VOCABULARY);
      int64_t large = small;
      float number = (float)small - 1.5f;
      char *at = (char *)memory[i] + k * rvl_dtype_size(c->dtype);
      if (c->dtype == RVL_FLOAT32) memcpy(at, &number, sizeof number);
      else if (c->dtype == RVL_INT32) memcpy(at, &small, sizeof small);
      else memcpy(at, &large, sizeof large);
    }
  }
  return true;
}

/* Evaluates with and without gradients, in memory of its own whose bounds the sanitizer knows. */
static void evaluate(lua_State *L, const rvl_graph *graph, const rvl_example *example) {
  double value[2], custom[2][RVL_GRAPH_METRICS];
  for (int gradient = 0; gradient < 2; gradient++) {
    float *logits = malloc(TOKENS * VOCABULARY * sizeof *logits);
    if (logits == NULL) abort();
    for (int i = 0; i < TOKENS * VOCABULARY; i++) logits[i] = (float)(i * i % 7) - 3;
    bool done = rvl_graph_apply(graph, rvl_kernels_pick(), example, VOCABULARY, logits, gradient, &value[gradient],
                                custom[gradient]);
    free(logits);
    wanted(L, done, "it has no memory");
  }
  wanted(L, is_same(value[0], value[1]), "another value with gradients");
  for (size_t i = 0; i < rvl_graph_metrics(graph); i++) {
    wanted(L, is_same(custom[0][i], custom[1][i]), "another metric with gradients");
    wanted(L, strncmp(rvl_graph_metric(graph, i), "custom/", 7) == 0, "a metric without a name");
  }
}

/* apply(graph, columns, text) → whether it could be tried */
static int apply(lua_State *L) {
  static char names[RVL_GRAPH_COLUMNS][40];
  static double memory[RVL_GRAPH_COLUMNS][ROOM];
  static const int64_t ones[TOKENS] = {1, 1, 1};
  rvl_column columns[RVL_GRAPH_COLUMNS + 2];
  const rvl_graph *graph = rvl_check_graph(L, 1);
  size_t length;
  const char *text = luaL_checklstring(L, 3, &length);
  lua_settop(L, 2);
  size_t count = lua_rawlen(L, 2);
  if (!fill_columns(L, columns, names, memory)) {
    lua_pushboolean(L, 0);
    return 1;
  }
  columns[count++] = (rvl_column){.name = "__river_loss_position", .dtype = RVL_INT64, .rows = TOKENS,
                                  .count = TOKENS, .data = ones};
  columns[count++] = (rvl_column){.name = "__river_loss_graph_v1", .dtype = RVL_UINT8, .rows = length,
                                  .count = length, .data = text};
  const rvl_example example = {.length = TOKENS, .columns = columns, .column_count = count};
  char refusal[RVL_GRAPH_REFUSAL];
  if (!rvl_graph_check(graph, &example, VOCABULARY, refusal)) return luaL_error(L, "its own example: %s", refusal);
  evaluate(L, graph, &example);
  lua_pushboolean(L, 1);
  return 1;
}

static int open_trainer(lua_State *L) {
  static rvl_runtime open;     /* there is none here: of it only that it is not closed is looked at */
  static const luaL_Reg functions[] = {{"graph", rvl_trainer_graph}, {"apply", apply}, {NULL, NULL}};
  rvl_trainer_add_graphs(L);
  luaL_newlibtable(L, functions);
  lua_pushlightuserdata(L, &open);
  luaL_setfuncs(L, functions, 1);
  return 1;
}

/* A node takes four bytes: what it does, its arguments, and what kinds these are. Most are made fit for what they
 * are arguments of: bytes that are used as they are would seldom name one of the kind that is wanted. */
static const char check_source[] =
    "local core, graph = require 'riverlua.core.trainer', require 'training.embedded.graph'\n"
    "local errors, json = require 'riverlua.errors', require 'riverlua.json'\n"
    "local OPS = {'ce', 'gather', 'add', 'sub', 'mul', 'div', 'minimum', 'maximum', 'clamp_min', 'clamp_max',\n"
    "  'neg', 'exp', 'expm1', 'log', 'sqrt', 'detach', 'float', 'sum', 'mean', 'amin', 'amax', 'logsumexp',\n"
    "  'var', 'std', 'sum_candidates', 'log_softmax', 'logits', 'input', 'other'}\n"
    "local BINARY = 10\n"
    "local CONSTANTS = {0, 1, -1, 0.5, 1e-300, 1e300, -2, 3}\n"
    "local COLUMNS = {{'int64'}, {'float32'}, {'int32', 3}, {'float32', 3}, {'int64', 1}, {'float32', 7}}\n"
    "local function argument(at, byte, kind)\n"
    "  if kind % 4 == 0 then return {constant = CONSTANTS[byte % #CONSTANTS + 1]} end\n"
    "  return {node = kind % 4 == 1 and byte or byte % at}\n"
    "end\n"
    "local function make(input)\n"
    "  local mask, at, made = input:byte(2) or 1, 3, {version = 2, columns = {}, nodes = {{op = 'logits'}}}\n"
    "  for i, column in ipairs(COLUMNS) do\n"
    "    if mask >> (i - 1) & 1 == 1 then\n"
    "      local index = #made.columns\n"
    "      made.columns[index + 1] = {name = 'c' .. i, dtype = column[1], layout = 'token', width = column[2]}\n"
    "      made.nodes[#made.nodes + 1] = {op = 'input', column = index}\n"
    "    end\n"
    "  end\n"
    "  while at + 3 <= #input and #made.nodes < 200 do\n"
    "    local op, first, second, kind = input:byte(at, at + 3)\n"
    "    local count, which = #made.nodes, op % #OPS + 1\n"
    "    local node = {op = OPS[which], args = {argument(count, first, kind)},\n"
    "      correction = kind >> 4 & 3 == 3 and kind >> 6 or nil}\n"
    "    if which <= BINARY or kind == 255 then node.args[2] = argument(count, second, kind >> 2) end\n"
    "    if which <= 2 and op < 200 then\n"
    "      node.args[2] = {node = 1 + second % math.max(1, #made.columns)}\n"
    "      node.args[1] = {node = 0}\n"
    "      if which == 2 then\n"
    "        made.nodes[count + 1] = {op = 'log_softmax', args = {{node = 0}}}\n"
    "        node.args[1], count = {node = count}, count + 1\n"
    "      end\n"
    "    end\n"
    "    made.nodes[count + 1] = node\n"
    "    at = at + 4\n"
    "  end\n"
    "  local last = #made.nodes - 1\n"
    "  made.loss, made.metrics = last, {a = mask % (last + 1), b = last}\n"
    "  if mask & 64 == 0 and last > 0 then\n"
    "    made.nodes[last + 2], made.loss = {op = 'sum', args = {{node = last}}}, last + 1\n"
    "    made.metrics = {a = last + 1}\n"
    "  end\n"
    "  return json.encode(made)\n"
    "end\n"
    "return function(input)\n"
    "  local text = input:sub(2)\n"
    "  if (input:byte(1) or 0) % 4 ~= 0 then text = make(input) end\n"
    "  local ok, found = pcall(graph.compile, text)\n"
    "  if not ok then\n"
    "    assert(errors.is(found) and found.kind == 'refused', tostring(found))\n"
    "    assert(#found.message < 1000, 'a long message: ' .. #found.message)\n"
    "    assert(utf8.len(found.message), 'a message that is no text: ' .. found.message)\n"
    "    return\n"
    "  end\n"
    "  core.apply(found, json.decode(text).columns, text)\n"
    "end\n";

static const luaL_Reg modules[] = {{"riverlua.core.array", rvl_open_array},
                                   {"riverlua.core.json", rvl_open_json},
                                   {"riverlua.core.trainer", open_trainer},
                                   {NULL, NULL}};

static const fuzz_lua target = {.name = "fuzz_loss_graph", .source = check_source, .memory = (size_t)64 << 20,
                                .modules = modules};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
