/* The arithmetic of src/river_linear.c and src/river_scale.c, and wrong calls of the binding. The numbers come
 * from the Python library river 0.26.1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <lauxlib.h>
#include <lualib.h>
#include <math.h>
#include <stdlib.h>

#include "river_linear.h"
#include "river_scale.h"
#include "runtime.h"

static bool equal(double a, double b) {
  return a <= b && a >= b;
}

static void losses_have_the_library_s_kinks(void **state) {
  (void)state;
  const struct {
    rvl_river_loss loss;
    double y, prediction, gradient;
  } cases[] = {
      {{RVL_LOSS_ABSOLUTE, 0, 0}, 1, 2, 1},        {{RVL_LOSS_ABSOLUTE, 0, 0}, 2, 2, -1},
      {{RVL_LOSS_HINGE, 1, 0}, 1, 1, -1},          {{RVL_LOSS_HINGE, 1, 0}, 1, 1.5, 0},
      {{RVL_LOSS_HINGE, 1, 0}, 0, .2, 1},          {{RVL_LOSS_INSENSITIVE, .1, 0}, 1, 1.05, 0},
      {{RVL_LOSS_INSENSITIVE, .1, 0}, 1, 1.2, 1},  {{RVL_LOSS_INSENSITIVE, .1, 0}, 1, .5, -1},
      {{RVL_LOSS_HUBER, .1, 0}, 1, 1.05, 1.05 - 1}, {{RVL_LOSS_HUBER, .1, 0}, 1, -4, -.1},
      {{RVL_LOSS_QUANTILE, .5, 0}, 1, 3, .5},      {{RVL_LOSS_QUANTILE, .5, 0}, 3, 1, -.5},
      {{RVL_LOSS_SQUARED, 0, 0}, -4, 5, 18},       {{RVL_LOSS_LOG, 1, 1}, 1, -20, -1},
      {{RVL_LOSS_LOG, 2, 1}, 0, 20, 1},            {{RVL_LOSS_LOG, 2, 3}, 0, 0, 1.5},
      {{RVL_LOSS_POISSON, 0, 0}, 3, 0, -2},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    double gradient = rvl_river_loss_gradient(&cases[i].loss, cases[i].y, cases[i].prediction);
    if (!equal(gradient, cases[i].gradient)) fail_msg("case %zu: %.17g", i, gradient);
  }
  assert_true(equal(rvl_river_sigmoid(31), 1) && equal(rvl_river_sigmoid(-31), 0) && equal(rvl_river_sigmoid(0), .5));
}

static void schedules_follow_their_formulas(void **state) {
  (void)state;
  rvl_river_schedule inverse = {RVL_SCHEDULE_INVERSE, 1, .5}, optimal = {RVL_SCHEDULE_OPTIMAL, .5, 2};
  assert_true(equal(rvl_river_schedule_get(&inverse, 3), .5));
  assert_true(equal(rvl_river_schedule_get(&optimal, 2), .5));
}

/* Nesterov on {a: 1}, {a: 1, b: 2}, {b: 2}, all with y = 1. */
static void nesterov_moves_weights_to_and_fro(void **state) {
  (void)state;
  rvl_river_optimizer optimizer = {.kind = RVL_OPTIMIZER_NESTEROV, .lr = {RVL_SCHEDULE_CONSTANT, .1, 0}, .p = {.9}};
  rvl_river_glm glm = {.loss = {RVL_LOSS_SQUARED, 0, 0}, .intercept_lr = {RVL_SCHEDULE_CONSTANT, .01, 0},
                       .optimizer = &optimizer, .clip_gradient = 1e12};
  assert_true(rvl_river_optimizer_grow(&optimizer, 2) && rvl_river_glm_grow(&glm, 2, 0));
  const int32_t plan[] = {0, 1};
  const double x[] = {1, 2};
  double gradient[2];
  rvl_river_glm_learn(&glm, plan, x, gradient, 1, 1, 1);
  rvl_river_glm_learn(&glm, plan, x, gradient, 2, 1, 1);
  rvl_river_glm_learn(&glm, plan + 1, x + 1, gradient, 1, 1, 1);
  assert_true(equal(glm.weights[0], .5) && fabs(glm.weights[1] - .4784) < 1e-15);
  assert_int_equal(optimizer.n_iterations, 3);
  rvl_river_glm_free(&glm);
  rvl_river_optimizer_free(&optimizer);
}

static void unknown_features_weigh_nothing(void **state) {
  (void)state;
  double weights[] = {2};
  const rvl_river_glm glm = {.weights = weights, .slots = 1, .intercept = .5};
  const int32_t plan[] = {-1, 0};
  const double x[] = {7, 3};
  assert_true(equal(rvl_river_glm_raw(&glm, plan, x, 2), 6.5));
  assert_true(isnan(rvl_river_glm_raw(&glm, plan, (const double[]){NAN, 3}, 2)));
}

static void windows_forget_the_oldest(void **state) {
  (void)state;
  rvl_river_scaler scaler = {.kind = RVL_SCALER_MIN_MAX, .windowed = true, .window_size = 3};
  const int32_t plan[] = {0};
  assert_true(rvl_river_scaler_grow(&scaler, 1));
  for (int i = 0; i < 100; i++) {
    double value = i, out = 0;
    assert_int_equal(rvl_river_scaler_learn(&scaler, plan, &value, 1), RVL_SCALE_DONE);
    value = i - .5;
    assert_int_equal(rvl_river_scaler_transform(&scaler, plan, &value, &out, 1), RVL_SCALE_DONE);
    if (i >= 2) assert_true(equal(out, .75));
  }
  rvl_river_scaler_free(&scaler);
  rvl_river_scaler empty = {.kind = RVL_SCALER_MAX_ABS, .windowed = true};
  assert_true(rvl_river_scaler_grow(&empty, 1));
  assert_int_equal(rvl_river_scaler_learn(&empty, plan, (const double[]){1}, 1), RVL_SCALE_EMPTY_WINDOW);
  rvl_river_scaler_free(&empty);
}

static void slots_grow_with_their_first_values(void **state) {
  (void)state;
  rvl_river_scaler scaler = {.kind = RVL_SCALER_MIN_MAX};
  rvl_river_optimizer optimizer = {.kind = RVL_OPTIMIZER_AMSGRAD};
  rvl_river_glm glm = {.optimizer = &optimizer, .l1 = .1};
  for (size_t n = 1; n < 300; n += 7) {
    assert_true(rvl_river_scaler_grow(&scaler, n) && rvl_river_optimizer_grow(&optimizer, n));
    assert_true(rvl_river_glm_grow(&glm, n, .25));
    assert_true(isinf(scaler.column[0][n - 1]) && isinf(scaler.column[1][n - 1]));
    assert_true(equal(optimizer.column[2][n - 1], 0) && equal(glm.weights[n - 1], .25) && equal(glm.cum_l1[n - 1], 0));
  }
  rvl_river_scaler_free(&scaler);
  rvl_river_glm_free(&glm);
  rvl_river_optimizer_free(&optimizer);
}

/* Wrong calls of the binding raise and leave nothing behind. */
static void binding_refuses_what_makes_no_sense(void **state) {
  (void)state;
  static const char script[] =
      "local core = ...\n"
      "local function bad(f, ...) if pcall(f, ...) then error('not refused', 2) end end\n"
      "bad(core.scaler, 'nope', {}) bad(core.scaler, 'standard', {}) bad(core.scaler, 'min_max', {}, -1)\n"
      "bad(core.optimizer, 'SGD', {}, 'constant') bad(core.optimizer, 'SGD', {'x'}, 'constant', 1)\n"
      "local function sgd() return core.optimizer('SGD', {}, 'constant', 0.01) end\n"
      "local options = {l1 = 0, l2 = 0, clip_gradient = 1, intercept = 0, initial = 0}\n"
      "bad(core.linear, {}, sgd(), 'Squared', 0, 0, 'constant', 1)\n"
      "local linear = core.linear(options, sgd(), 'Squared', 0, 0, 'constant', 1)\n"
      "local scaler = core.scaler('standard', {with_std = true})\n"
      "local keys = {'a', n = 1, index = {a = 1}}\n"
      "bad(scaler.learn, scaler, {'x'}, keys) bad(scaler.learn, scaler, {1}) bad(linear.learn, linear, {1}, keys, {})\n"
      "bad(scaler.transform, linear, {1}, keys, {}) bad(linear.predict, scaler, {1}, keys)\n"
      "bad(linear.learn, linear, {1}, {print, n = 1}, 1)\n"
      "bad(scaler.set, scaler, {names = {'a'}, {1}, {'x'}, {1}, {1}})\n"
      "bad(linear.set, linear, {names = {5}, intercept = 0})\n"
      "local adam = core.optimizer('Adam', {.9, .999, 1e-8}, 'constant', .1)\n"
      "bad(adam.step, adam, {1}, {0}, {1}, 1) bad(adam.step, adam, {1}, {1}, {1}, -1)\n"
      "bad(adam.step, adam, {}, {1}, {1}, 1) bad(adam.set, adam, {n_iterations = 0, names = {'a'}})\n"
      "local reader = core.reader(function() return {'a', n = 1, index = {a = 1}} end)\n"
      "assert(core.pipeline(reader, {}) == nil and core.pipeline(reader, {linear, linear}) == nil)\n"
      "assert(core.pipeline(reader, {scaler}) == nil)\n"
      "local window = core.scaler('max_abs', {}, 3)\n"
      "assert(core.pipeline(reader, {window, linear}) == nil)\n"
      "bad(core.pipeline, reader, {1}) bad(core.reader)\n"
      "local lying = core.reader(function() return {'b', n = 1, index = {}} end)\n"
      "assert(lying:read({a = 1}) == nil)\n"
      "local learn, predict = core.pipeline(reader, {linear})\n"
      "assert(learn(1, 1) == nil and learn({a = 1}, 'x') == nil and predict(nil) == nil)\n"
      "assert(learn({a = 1}, 1) == 0.0 and predict({a = 1}) > 0)\n"
      "collectgarbage()\n";
  lua_State *L = luaL_newstate();
  assert_non_null(L);
  luaL_openlibs(L);
  if (luaL_loadstring(L, script) != LUA_OK) fail_msg("%s", lua_tostring(L, -1));
  lua_pushcfunction(L, rvl_open_river);
  lua_call(L, 0, 1);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) fail_msg("%s", lua_tostring(L, -1));
  lua_close(L);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(losses_have_the_library_s_kinks),  cmocka_unit_test(schedules_follow_their_formulas),
      cmocka_unit_test(nesterov_moves_weights_to_and_fro), cmocka_unit_test(unknown_features_weigh_nothing),
      cmocka_unit_test(windows_forget_the_oldest),        cmocka_unit_test(slots_grow_with_their_first_values),
      cmocka_unit_test(binding_refuses_what_makes_no_sense),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
