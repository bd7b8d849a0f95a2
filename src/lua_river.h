/* What the files of the binding riverlua.core.river share. */
#ifndef RVL_LUA_RIVER_H
#define RVL_LUA_RIVER_H

#include <lauxlib.h>
#include <lua.h>

#include "river_linear.h"
#include "river_scale.h"

#define RVL_RIVER_STAGE "riverlua.river.Stage"
#define RVL_RIVER_OPTIMIZER "riverlua.river.Optimizer"

/* Where the features of one set of names are in a stage, and room for as many numbers. */
typedef struct rvl_river_plan {
  const void *keys;        /* identity of the names' table; NULL: no plan */
  bool complete;           /* no feature is unknown */
  size_t n, capacity;
  int32_t *slot;
  double *x, *gradient;
} rvl_river_plan;

typedef enum rvl_river_stage_kind { RVL_STAGE_SCALER, RVL_STAGE_GLM } rvl_river_stage_kind;

/* A userdata. User values: 1 the names; 2 the keys of the plan; and of a linear model 3 its optimizer, 4 a function that
 * gives first weights, or nil. */
typedef struct rvl_river_stage {
  rvl_river_stage_kind kind;
  rvl_river_plan plan;
  double initial;          /* the first weight of a feature */
  union {
    rvl_river_scaler scaler;
    rvl_river_glm glm;
  } u;
} rvl_river_stage;

/* Makes the plan of the stage at index `stage` fit the names at index `keys`; with `learning` new ones get a slot.
 * Raises without memory. */
void rvl_river_stage_plan(lua_State *L, int stage, int keys, bool learning);

/* Whether that is to be done. */
static inline bool rvl_river_stage_needs_plan(const rvl_river_stage *stage, const void *keys, bool learning) {
  return stage->plan.keys != keys || (learning && !stage->plan.complete);
}

/* A number, or a boolean as one; false for anything else. */
bool rvl_river_to_number(lua_State *L, int index, double *value);
/* Pushes what a linear model predicts: the logistic function's ends are integers, as in the library. */
void rvl_river_push_mean(lua_State *L, const rvl_river_loss *loss, double raw);

/* The user value of stages and optimizers that holds the names: each name → slot from 1, and slot → name. */
enum { RVL_RIVER_NAMES = 1 };

/* Raises for the lack of memory. */
int rvl_river_no_memory(lua_State *L);
/* The number in a field of the table at `table`, a boolean being one, or in place i of a list; raises without one. */
double rvl_river_number_field(lua_State *L, int table, const char *name);
double rvl_river_number_at(lua_State *L, int table, size_t i);
/* Pushes a list of numbers; reads n numbers of the list that the table at `table` has at `key`. */
void rvl_river_push_column(lua_State *L, const double *values, size_t n);
void rvl_river_read_column(lua_State *L, int table, lua_Integer key, double *values, size_t n);
/* Pushes the names of the first slots as a list; an empty one where slots have no names. */
void rvl_river_push_names(lua_State *L, int stage, size_t slots);
/* The slot of the name on top of the stack, which is popped; with `learning` a new one, else -1 without one. */
lua_Integer rvl_river_slot_of(lua_State *L, int names, size_t *count, bool learning);
/* Makes room for n features; false without memory. */
bool rvl_river_plan_reserve(rvl_river_plan *plan, size_t n);
void rvl_river_plan_free(rvl_river_plan *plan);
/* The schedule that three arguments from `index` describe: its kind and two numbers. */
rvl_river_schedule rvl_river_check_schedule(lua_State *L, int index);

/* Makes a class of userdata, whose metatable scripts do not get. */
void rvl_river_new_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *metamethods);

/* Add their functions to the module's table on top of the stack. */
void rvl_river_open_stages(lua_State *L);
void rvl_river_open_optimizers(lua_State *L);

#endif
