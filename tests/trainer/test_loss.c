/* loss.c: gradients against differences of the loss, metrics against numbers made by hand, options. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/loss.h"
#include "trainer/random.h"

enum { T = 6, V = 21, K = 3 };

static const int32_t ids[T] = {3, 20, 0, 7, 7, 11};
static const uint8_t mask[T] = {1, 1, 1, 0, 1, 1};
static const int32_t others[T] = {1, 2, 3, 4, 5, 6};
static const int32_t targets[T * K] = {1, 2, 3, 4, 4, 6, 7, 8, 20, 10, 11, 12, 13, 14, 15, 0, 0, 0};
static const double soft[T * K] = {.5, .25, .25, 1, -.5, 0, 0, 0, 0, 1, 1, 1, .2, .3, .5, 9, 9, 9};
static const double weights[T] = {0, 1, .5, 1, -2, 9};
static const double advantages[T] = {0, 1.5, -.5, 1, -2, 9};
static const double old[T] = {-3, -2.5, -4, -1, 0, -9};
static const double echo[T] = {.5, 0, 2, 1, 0, 9};

static const rvl_example plain = {.length = T, .ids = ids, .weights = weights, .advantages = advantages,
                                  .old_logprobs = old, .echo_weights = echo};

static void fill(float *logits) {
  rvl_random random = rvl_random_of(7);
  for (size_t i = 0; i < T * V; i++) logits[i] = (float)(2 * rvl_random_normal(&random));
}

static rvl_loss loss_of(const char *name, const rvl_loss_option *options, size_t count) {
  rvl_loss loss;
  char refusal[128] = "";
  if (!rvl_loss_parse(name, options, count, &loss, refusal, sizeof refusal)) fail_msg("%s", refusal);
  return loss;
}

static double metric(const rvl_loss *loss, const rvl_loss_sums *sums, const char *name) {
  rvl_metric metrics[RVL_METRICS];
  size_t count = rvl_loss_metrics(loss, sums, metrics);
  for (size_t i = 0; i < count; i++) {
    if (strcmp(metrics[i].name, name) == 0) return metrics[i].value;
  }
  fail_msg("no metric %s", name);
  return 0;
}

static bool has_metric(const rvl_loss *loss, const rvl_loss_sums *sums, const char *name) {
  rvl_metric metrics[RVL_METRICS];
  size_t count = rvl_loss_metrics(loss, sums, metrics), found = 0;
  for (size_t i = 0; i < count; i++) found += strcmp(metrics[i].name, name) == 0;
  return found == 1;
}

static rvl_loss_sums apply(const rvl_loss *loss, const rvl_example *example, const float *logits,
                           float *gradient) {
  float copy[T * V], logprobs[T - 1];
  rvl_loss_sums sums = {0};
  memcpy(copy, logits, sizeof copy);
  assert_true(rvl_loss_apply(loss, rvl_kernels_pick(), example, V, copy, gradient != NULL, logprobs, &sums));
  if (gradient != NULL) memcpy(gradient, copy, sizeof copy);
  for (size_t t = 0; t + 1 < T; t++) {
    double sum = 0;
    for (size_t v = 0; v < V; v++) sum += exp((double)logits[t * V + v] / loss->temperature);
    double want = (double)logits[t * V + (size_t)ids[t + 1]] / loss->temperature - log(sum);
    if (fabs((double)logprobs[t] - want) > 1e-5) fail_msg("logprob %zu: %g, not %g", t, (double)logprobs[t], want);
  }
  return sums;
}

static void is_near(double got, double want, double tolerance, const char *what) {
  if (!(fabs(got - want) <= tolerance * fmax(1, fabs(want)))) fail_msg("%s: %.9g, not %.9g", what, got, want);
}

/* For losses whose value has nothing in it that is held fast. */
static void check_gradient(const rvl_loss *loss, const rvl_example *example, const char *what) {
  float logits[T * V], gradient[T * V];
  const float h = 1.0f / 64;
  fill(logits);
  rvl_loss_sums with = apply(loss, example, logits, gradient), without = apply(loss, example, logits, NULL);
  for (size_t i = 0; i < RVL_SUMS; i++) is_near(with.sum[i], without.sum[i], 0, what);
  for (size_t i = 0; i < T * V; i++) {
    float kept = logits[i];
    logits[i] = kept + h;
    double above = apply(loss, example, logits, NULL).sum[RVL_SUM_LOSS];
    logits[i] = kept - h;
    double below = apply(loss, example, logits, NULL).sum[RVL_SUM_LOSS];
    logits[i] = kept;
    is_near((double)gradient[i], (above - below) / (2 * (double)h), 2e-3, what);
    bool counts = i < (T - 1) * V && (example->mask == NULL || example->mask[i / V] == 1);
    if (!counts && (gradient[i] < 0 || gradient[i] > 0)) fail_msg("%s: a gradient at %zu", what, i);
  }
}

static void gradients_are_the_losses_slopes(void **state) {
  (void)state;
  const rvl_loss_option temperature = {"logprob_temperature", 0.7};
  const rvl_loss_option ppo[] = {temperature, {"clip_low", .4}, {"clip_high", .6}};
  const rvl_loss_option perfect[] = {temperature, {"use_perfect_ratio", 1}, {"echo_coef", .3}};
  const rvl_loss_option dro[] = {temperature, {"beta", .4}};
  const struct {
    const char *name;
    const rvl_loss_option *options;
    size_t count;
  } cases[] = {{"cross_entropy", NULL, 0},
               {"cross_entropy", &temperature, 1},
               {"importance_sampling", NULL, 0},
               {"importance_sampling", &temperature, 1},
               {"ppo", NULL, 0},
               {"ppo", ppo, 3},
               {"cispo", perfect, 2},
               {"echo_cispo", perfect, 3},
               {"dro", NULL, 0},
               {"dro", dro, 2}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rvl_loss loss = loss_of(cases[i].name, cases[i].options, cases[i].count);
    rvl_example example = plain;
    check_gradient(&loss, &example, cases[i].name);
    example.targets = others;
    check_gradient(&loss, &example, cases[i].name);
    example.mask = mask;
    check_gradient(&loss, &example, cases[i].name);
    if (loss.kind != RVL_LOSS_CROSS_ENTROPY) continue;
    example.targets = targets;
    example.weights = soft;
    example.targets_width = example.weights_width = K;
    check_gradient(&loss, &example, "soft targets");
  }
}

/* Weights are held fast: Σ c · (1 at the token - p). */
static void cispo_holds_its_weights_fast(void **state) {
  (void)state;
  const rvl_loss_option options[] = {{"eps_max", .8}, {"logprob_temperature", 2}};
  rvl_loss loss = loss_of("cispo", options, 2);
  float logits[T * V], gradient[T * V];
  fill(logits);
  rvl_loss_sums sums = apply(&loss, &plain, logits, gradient);
  double value = 0;
  for (size_t t = 0; t + 1 < T; t++) {
    double sum = 0;
    for (size_t v = 0; v < V; v++) sum += exp((double)logits[t * V + v] / 2);
    double lp = (double)logits[t * V + (size_t)ids[t + 1]] / 2 - log(sum);
    double c = -advantages[t] * fmin(exp(lp - old[t]), .8);
    value += c * lp;
    for (size_t v = 0; v < V; v++) {
      double p = exp((double)logits[t * V + v] / 2) / sum;
      is_near((double)gradient[t * V + v], c * ((v == (size_t)ids[t + 1]) - p) / 2, 1e-5, "gradient");
    }
  }
  is_near(sums.sum[RVL_SUM_LOSS], value, 1e-6, "loss");
}

/* The sampler's logprobs are those of `logits` / 1, of all tokens, at every position. */
static rvl_example centred(const float *sampler, int32_t *tokens, double *logprobs, size_t count) {
  for (size_t t = 0; t < T; t++) {
    double sum = 0;
    for (size_t v = 0; v < V; v++) sum += exp((double)sampler[t * V + v]);
    for (size_t k = 0; k < count; k++) {
      tokens[t * count + k] = (int32_t)((k * 5 + t) % V);
      logprobs[t * count + k] = (double)sampler[t * V + (size_t)tokens[t * count + k]] - log(sum);
    }
  }
  rvl_example example = plain;
  example.sampler_ids = tokens;
  example.sampler_logprobs = logprobs;
  example.sampler_width = count;
  return example;
}

/* Under the sampler's policy the expected gradient is zero, whatever the policy is now: all tokens are known. */
static void centring_makes_the_expected_score_zero(void **state) {
  (void)state;
  const rvl_loss_option options[] = {{"score_centering", 1}, {"eps_max", 1.2}, {"use_perfect_ratio", 1}};
  for (size_t count = 2; count <= 3; count++) {
    rvl_loss loss = loss_of("cispo", options, count);
    float sampler[T * V], logits[T * V], gradient[T * V];
    int32_t tokens[T * V], own[T];
    double logprobs[T * V], of_own[T], expected[T * V] = {0}, one[T] = {1, 1, 1, 1, 1, 1};
    fill(sampler);
    for (size_t i = 0; i < T * V; i++) logits[i] = sampler[i] + (float)(i % 5) * .3f;
    rvl_example example = centred(sampler, tokens, logprobs, V);
    example.advantages = one;
    example.old_logprobs = of_own;
    example.targets = own;
    for (size_t k = 0; k < V; k++) {
      for (size_t t = 0; t < T; t++) {
        own[t] = tokens[t * V + k];
        of_own[t] = logprobs[t * V + k];
      }
      apply(&loss, &example, logits, gradient);
      for (size_t i = 0; i < T * V; i++) expected[i] += exp(of_own[i / V]) * (double)gradient[i];
    }
    for (size_t i = 0; i < T * V; i++) is_near(expected[i], 0, 1e-6, "expected gradient");
  }
}

static void centring_changes_nothing_on_policy(void **state) {
  (void)state;
  const rvl_loss_option options[] = {{"score_centering", 1}, {"use_perfect_ratio", 1}};
  float sampler[T * V], with[T * V], without[T * V];
  int32_t tokens[T * 4];
  double logprobs[T * 4];
  rvl_loss loss = loss_of("echo_cispo", options, 2), simple = loss_of("echo_cispo", options + 1, 1);
  fill(sampler);
  rvl_example example = centred(sampler, tokens, logprobs, 4);
  tokens[4] = tokens[5];                   /* one that is there twice counts once, as does one that is none */
  logprobs[4] = logprobs[5];
  tokens[8] = -1;
  apply(&loss, &example, sampler, with);
  apply(&simple, &plain, sampler, without);
  for (size_t i = 0; i < T * V; i++) is_near((double)with[i], (double)without[i], 1e-5, "gradient");
}

/* With the ratio taken as 1 nothing is held fast but the sampler's numbers. */
static void centring_has_the_gradient_of_its_value(void **state) {
  (void)state;
  const rvl_loss_option options[] = {{"score_centering", 1}, {"use_perfect_ratio", 1},
                                     {"logprob_temperature", .8}};
  rvl_loss loss = loss_of("cispo", options, 3);
  float sampler[T * V];
  int32_t tokens[T * 4];
  double logprobs[T * 4];
  fill(sampler);
  for (size_t i = 0; i < T * V; i++) sampler[i] *= (float)(1 + i % 3) / 3;
  rvl_example example = centred(sampler, tokens, logprobs, 4);
  check_gradient(&loss, &example, "score_centering");
}

/* Two tokens of equal logits: every log-probability is -log 2. */
static void metrics_are_the_service_s(void **state) {
  (void)state;
  const int32_t few[4] = {0, 1, 1, 0};
  const double a[4] = {0, 1, -1, 5}, o[4] = {0, -.5, -1, -1}, w[4] = {1, 0, 3, 5}, e[4] = {1, 2, 0, 5};
  const rvl_example example = {.length = 4, .ids = few, .advantages = a, .old_logprobs = o, .weights = w,
                               .echo_weights = e};
  const double lp = -log(2), up = exp(lp + 1), down = exp(lp + .5);
  const rvl_kernels *kernels = rvl_kernels_pick();
  const char *const names[] = {"cross_entropy", "ppo", "echo_cispo", "dro"};
  rvl_loss_sums sums[4];
  memset(sums, 0, sizeof sums);
  rvl_loss loss[4];
  for (size_t i = 0; i < 4; i++) {
    loss[i] = loss_of(names[i], &(rvl_loss_option){"eps_max", 1}, i == 2);
    for (size_t k = 0; k < 2; k++) {
      float logits[8] = {0};
      rvl_loss_sums one = {0};
      assert_true(rvl_loss_apply(&loss[i], kernels, &example, 2, logits, true, NULL, &one));
      rvl_loss_sums_add(&sums[i], &one);
    }
    is_near(metric(&loss[i], &sums[i], "num_tokens"), 8, 0, "num_tokens");
    is_near(metric(&loss[i], &sums[i], "micro_batches"), 1, 0, "micro_batches");
    is_near(metric(&loss[i], &sums[i], "loss"), sums[i].sum[RVL_SUM_LOSS] / 2, 1e-12, "loss");
    assert_int_equal(sums[i].tokens, 8);
    assert_int_equal(sums[i].datums, 2);
  }
  is_near(metric(&loss[0], &sums[0], "loss_sum"), -8 * lp, 1e-6, "loss_sum");
  is_near(metric(&loss[0], &sums[0], "ce_loss_sum"), -8 * lp, 1e-6, "ce_loss_sum");
  is_near(metric(&loss[0], &sums[0], "loss_mean"), -lp, 1e-6, "loss_mean");
  is_near(metric(&loss[0], &sums[0], "weight_sum"), 8, 1e-6, "weight_sum");
  is_near(metric(&loss[0], &sums[0], "num_ce_tokens"), 4, 0, "num_ce_tokens");
  is_near(metric(&loss[1], &sums[1], "num_response"), 4, 0, "num_response");
  is_near(metric(&loss[1], &sums[1], "mean_ratio"), (up + down) / 2, 1e-6, "mean_ratio");
  is_near(metric(&loss[1], &sums[1], "kl"), lp + .75, 1e-6, "kl");
  is_near(metric(&loss[1], &sums[1], "entropy"), -lp, 1e-6, "entropy");
  is_near(metric(&loss[1], &sums[1], "clip_count"), 0, 0, "clip_count");
  is_near(metric(&loss[1], &sums[1], "policy_loss_sum"), 2 * (up - down), 1e-6, "policy_loss_sum");
  is_near(metric(&loss[2], &sums[2], "trunc_count"), 2, 0, "trunc_count");
  is_near(metric(&loss[2], &sums[2], "truncation_frac"), .5, 0, "truncation_frac");
  is_near(metric(&loss[2], &sums[2], "echo_loss_sum"), -6 * lp, 1e-6, "echo_loss_sum");
  is_near(metric(&loss[2], &sums[2], "echo_penalty_sum"), -.3 * lp, 1e-6, "echo_penalty_sum");
  is_near(metric(&loss[2], &sums[2], "echo_weight_sum"), 6, 0, "echo_weight_sum");
  is_near(metric(&loss[2], &sums[2], "num_echo_tokens"), 4, 0, "num_echo_tokens");
  is_near(metric(&loss[2], &sums[2], "echo_policy_overlap_count"), 2, 0, "echo_policy_overlap_count");
  double squares = (lp + 1) * (lp + 1) + (lp + .5) * (lp + .5);
  is_near(metric(&loss[3], &sums[3], "quad_penalty"), .025 * squares / 2, 1e-6, "quad_penalty");
  assert_false(has_metric(&loss[0], &sums[0], "num_response"));
  assert_false(has_metric(&loss[1], &sums[1], "trunc_count"));
  assert_false(has_metric(&loss[3], &(rvl_loss_sums){0}, "kl"));
  assert_true(has_metric(&loss[2], &sums[2], "policy_loss_sum"));
}

static void ratios_end_and_nan_shows(void **state) {
  (void)state;
  float logits[T * V], gradient[T * V];
  const double far[T] = {0, -1000, -1000, -1000, -1000, 0};
  rvl_loss loss = loss_of("importance_sampling", NULL, 0);
  rvl_example example = plain;
  example.old_logprobs = far;
  fill(logits);
  is_near(apply(&loss, &example, logits, gradient).sum[RVL_SUM_RATIO], 4 * exp(40), 1e-9, "ratios");
  float copy[T * V];
  memcpy(copy, logits, sizeof copy);
  copy[2 * V + 3] = NAN;
  rvl_loss_sums sums = {0};
  float logprobs[T - 1];
  assert_true(rvl_loss_apply(&loss, rvl_kernels_pick(), &plain, V, copy, true, logprobs, &sums));
  assert_true(isnan(sums.sum[RVL_SUM_LOSS]) && isnan(logprobs[2]) && isnan(copy[2 * V]) && !isnan(copy[V]));
}

static void wrong_options_are_refused(void **state) {
  (void)state;
  const struct {
    const char *name;
    rvl_loss_option option;
    const char *refusal;
  } cases[] = {{"nll", {"x", 0}, "no loss is called 'nll'"},
               {"ppo", {"beta", 1}, "loss_fn_config: ppo knows no beta"},
               {"ppo", {"clip_low", NAN}, "loss_fn_config: clip_low is not finite"},
               {"dro", {"logprob_temperature", 0}, "loss_fn_config: logprob_temperature is not positive"},
               {"cispo", {"eps_max", -1}, "loss_fn_config: eps_max is not positive"},
               {"cispo", {"echo_coef", 1}, "loss_fn_config: cispo knows no echo_coef"},
               {"loss_graph_v1", {"beta", 1}, "loss_fn_config: loss_graph_v1 knows no beta"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rvl_loss loss;
    char refusal[128] = "";
    assert_false(rvl_loss_parse(cases[i].name, &cases[i].option, 1, &loss, refusal, sizeof refusal));
    assert_string_equal(refusal, cases[i].refusal);
  }
  rvl_loss loss = loss_of("cispo", (rvl_loss_option[]){{"use_perfect_ratio", 0}, {"score_centering", 2}}, 2);
  assert_true(!loss.use_perfect_ratio && loss.score_centering && loss.kind == RVL_LOSS_CISPO);
  assert_string_equal(rvl_loss_name(RVL_LOSS_ECHO_CISPO), "echo_cispo");
}

static void one_token_has_no_loss(void **state) {
  (void)state;
  float logits[V] = {1, 2, 3};
  rvl_example example = plain;
  example.length = 1;
  rvl_loss loss = loss_of("cross_entropy", NULL, 0);
  rvl_loss_sums sums = {0};
  assert_true(rvl_loss_apply(&loss, rvl_kernels_pick(), &example, V, logits, true, logits, &sums));
  for (size_t v = 0; v < V; v++) assert_true(logits[v] <= 0 && logits[v] >= 0);
  assert_false(has_metric(&loss, &sums, "loss_mean"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gradients_are_the_losses_slopes),
      cmocka_unit_test(cispo_holds_its_weights_fast),
      cmocka_unit_test(centring_makes_the_expected_score_zero),
      cmocka_unit_test(centring_changes_nothing_on_policy),
      cmocka_unit_test(centring_has_the_gradient_of_its_value),
      cmocka_unit_test(metrics_are_the_service_s),
      cmocka_unit_test(ratios_end_and_nan_shows),
      cmocka_unit_test(wrong_options_are_refused),
      cmocka_unit_test(one_token_has_no_loss),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
