/* Part of riverlua.core.trainer: the graphs of custom losses, as lua/training/embedded/graph.lua has read them. */
#include "lua_trainer.h"

#include <string.h>

typedef struct graph_box { rvl_graph *graph; } graph_box;

rvl_graph *rvl_check_graph(lua_State *L, int index) {
  graph_box *box = luaL_checkudata(L, index, RVL_TRAINER_GRAPH);
  return box->graph;
}

static int graph_gc(lua_State *L) {
  graph_box *box = luaL_checkudata(L, 1, RVL_TRAINER_GRAPH);
  rvl_graph_release(box->graph);
  box->graph = NULL;
  return 0;
}

/* The list that the table on top has under a name is pushed; returns its length. */
static size_t open_list(lua_State *L, const char *name, size_t most) {
  if (lua_getfield(L, -1, name) != LUA_TTABLE) luaL_error(L, "'%s' is not a list", name);
  size_t count = lua_rawlen(L, -1);
  if (count > most) luaL_error(L, "'%s' has more than %d elements", name, (int)most);
  return count;
}

static void open_element(lua_State *L, size_t i) {
  if (lua_rawgeti(L, -1, (lua_Integer)i + 1) != LUA_TTABLE) luaL_error(L, "an element is not a table");
}

static lua_Integer index_field(lua_State *L, const char *name, size_t below) {
  lua_getfield(L, -1, name);
  lua_Integer index = luaL_checkinteger(L, -1);
  lua_pop(L, 1);
  if (index < 0 || (size_t)index >= below) luaL_error(L, "'%s' is not below %d", name, (int)below);
  return index;
}

static void read_columns(lua_State *L, rvl_graph_plan *plan) {
  static const char *const names[] = {"int32", "int64", "float32", NULL};
  static const rvl_dtype dtypes[] = {RVL_INT32, RVL_INT64, RVL_FLOAT32};
  plan->column_count = open_list(L, "columns", RVL_GRAPH_COLUMNS);
  for (size_t i = 0; i < plan->column_count; i++) {
    open_element(L, i);
    lua_getfield(L, -1, "dtype");
    plan->columns[i].dtype = dtypes[luaL_checkoption(L, -1, NULL, names)];
    lua_getfield(L, -2, "width");
    lua_Integer width = luaL_optinteger(L, -1, 0);
    if (width < 0 || width > RVL_GRAPH_WIDTH)
      luaL_error(L, "a column's width is not between 1 and %d", RVL_GRAPH_WIDTH);
    plan->columns[i].width = (size_t)width;
    lua_pop(L, 3);
  }
  lua_pop(L, 1);
}

/* The node on top, of which there are `at` before it. */
static void read_node(lua_State *L, rvl_graph_plan *plan, size_t at) {
  rvl_graph_node *node = &plan->nodes[at];
  lua_getfield(L, -1, "op");
  node->op = rvl_graph_op_named(luaL_checkstring(L, -1));
  if (node->op == RVL_OPS) luaL_error(L, "node %d: there is no op '%s'", (int)at, lua_tostring(L, -1));
  lua_getfield(L, -2, "correction");
  node->correction = luaL_optnumber(L, -1, 1);
  lua_pop(L, 2);
  if (node->op == RVL_OP_INPUT) node->column = (unsigned)index_field(L, "column", plan->column_count);
  size_t wanted = rvl_graph_arguments(node->op);
  if (wanted == 0) return;
  if (open_list(L, "args", wanted) < wanted) luaL_error(L, "node %d: arguments are missing", (int)at);
  for (size_t i = 0; i < wanted; i++) {
    open_element(L, i);
    rvl_graph_argument *argument = &node->arguments[i];
    argument->node = -1;
    if (lua_getfield(L, -1, "node") != LUA_TNIL) {
      lua_pop(L, 1);
      argument->node = (int)index_field(L, "node", at);
    } else {
      lua_getfield(L, -2, "constant");
      argument->constant = luaL_checknumber(L, -1);
      lua_pop(L, 2);
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void read_metrics(lua_State *L, rvl_graph_plan *plan) {
  plan->metric_count = open_list(L, "metrics", RVL_GRAPH_METRICS);
  for (size_t i = 0; i < plan->metric_count; i++) {
    open_element(L, i);
    lua_getfield(L, -1, "name");
    size_t length;
    const char *name = lua_pushfstring(L, "custom/%s", luaL_checklstring(L, -1, &length));
    length = strlen(name);
    if (length >= RVL_GRAPH_NAME) luaL_error(L, "a metric's name is too long");
    memcpy(plan->metrics[i], name, length + 1);
    lua_pop(L, 2);
    plan->metric_nodes[i] = (unsigned)index_field(L, "node", plan->node_count);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/*
** graph{columns={{dtype=, width=}, …}, nodes={{op=, args={{node=} | {constant=}, …}, column=, correction=}, …},
** loss=, metrics={{name=, node=}, …}, text=} → for model:pass; nodes count from 0. Raises "refused" when it makes
** no sense.
*/
int rvl_trainer_graph(lua_State *L) {
  rvl_runtime_check_open(L, rvl_upvalue_runtime(L));
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  graph_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  box->graph = NULL;
  luaL_setmetatable(L, RVL_TRAINER_GRAPH);
  rvl_graph_plan *plan = lua_newuserdatauv(L, sizeof *plan, 0);
  memset(plan, 0, sizeof *plan);
  lua_pushvalue(L, 1);
  read_columns(L, plan);
  size_t count = open_list(L, "nodes", RVL_GRAPH_NODES);
  for (size_t i = 0; i < count; i++) {
    open_element(L, i);
    read_node(L, plan, i);
    plan->node_count++;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  plan->loss = (unsigned)index_field(L, "loss", plan->node_count);
  read_metrics(L, plan);
  lua_getfield(L, -1, "text");
  size_t length;
  const char *text = luaL_checklstring(L, -1, &length);
  char refusal[RVL_GRAPH_REFUSAL];
  box->graph = rvl_graph_new(plan, text, length, refusal);
  if (box->graph == NULL && refusal[0] == '\0') return luaL_error(L, "not enough memory");
  if (box->graph == NULL) return rvl_raise(L, "refused", NULL, "loss graph: %s", refusal);
  lua_settop(L, 2);
  return 1;
}

void rvl_trainer_add_graphs(lua_State *L) {
  static const luaL_Reg methods[] = {{NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", graph_gc}, {NULL, NULL}};
  rvl_new_class(L, RVL_TRAINER_GRAPH, methods, meta);
}
