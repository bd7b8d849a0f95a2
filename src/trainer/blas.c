#include "blas.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char library_name[] = "libopenblas.so.0";
static const char core_variable[] = "OPENBLAS_CORETYPE";
static const char threads_variable[] = "OPENBLAS_NUM_THREADS";

const char *rvl_blas_fitting_core(void) {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    return "SkylakeX";
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
  return NULL;
}

/* Types that OpenBLAS falls back to when it does not know a processor, and that no processor with AVX2 is. */
static bool is_fallback(const char *core) {
  static const char *const old[] = {"Prescott", "Core2", "Katmai", "Coppermine", "Northwood", "Banias", "Generic",
                                    "Nehalem"};
  for (size_t i = 0; i < sizeof old / sizeof *old; i++) {
    if (strcmp(core, old[i]) == 0) return true;
  }
  return false;
}

static void *symbol(void *library, const char *name) { return dlsym(library, name); }

static const char *core_of(void *library) {
  char *(*corename)(void);
  *(void **)&corename = symbol(library, "openblas_get_corename");
  const char *core = corename != NULL ? corename() : NULL;
  return core != NULL ? core : "unknown";
}

/* Loads the library while a variable has another value than the user's, if he gave it none. */
static void *load_with(const char *core) {
  bool set_core = core != NULL && getenv(core_variable) == NULL;
  bool set_threads = getenv(threads_variable) == NULL;   /* each thread of its own would cost memory for nothing */
  if (set_core) setenv(core_variable, core, 1);
  if (set_threads) setenv(threads_variable, "1", 1);
  void *library = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
  if (set_core) unsetenv(core_variable);
  if (set_threads) unsetenv(threads_variable);
  return library;
}

/* Once more with the fitting kernels, if it took this processor for an older one. */
static void *load_fitting(void) {
  void *library = load_with(NULL);
  const char *fitting = rvl_blas_fitting_core();
  bool fits = library == NULL || fitting == NULL || !is_fallback(core_of(library)) || getenv(core_variable) != NULL;
  if (fits) return library;
  dlclose(library);
  return load_with(fitting);
}

static void describe(rvl_blas *blas) {
  char *(*config)(void);
  *(void **)&config = symbol(blas->library, "openblas_get_config");
  const char *text = config != NULL ? config() : "OpenBLAS";
  int length = (int)strcspn(text, " ");
  const char *number = text + length + strspn(text + length, " ");
  snprintf(blas->version, sizeof blas->version, "%.*s %.*s", length, text, (int)strcspn(number, " "), number);
  snprintf(blas->core, sizeof blas->core, "%s", core_of(blas->library));
}

const char *rvl_blas_open(rvl_blas *blas, bool environment) {
  *blas = (rvl_blas){0};
  void *loaded = dlopen(library_name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);   /* it has read the environment */
  void *library = loaded != NULL ? loaded : environment ? load_fitting() : dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return "OpenBLAS (libopenblas.so.0) is not there";
  *(void **)&blas->sgemm = symbol(library, "cblas_sgemm");
  if (blas->sgemm == NULL) {
    dlclose(library);
    return "OpenBLAS has no cblas_sgemm";
  }
  void (*set_threads)(int);
  *(void **)&set_threads = symbol(library, "openblas_set_num_threads");
  if (set_threads != NULL && loaded == NULL) set_threads(1);   /* else its threads are the host's business */
  blas->library = library;       /* stays loaded: threads may be inside it when a runtime ends */
  describe(blas);
  return NULL;
}

void rvl_blas_linear(const rvl_blas *blas, int m, int n, int k, const float *a, const float *b, float beta, float *c) {
  blas->sgemm(RVL_BLAS_ROWS, RVL_BLAS_AS_IS, RVL_BLAS_TRANSPOSED, m, n, k, 1.0f, a, k, b, k, beta, c, n);
}

void rvl_blas_product(const rvl_blas *blas, int m, int n, int k, const float *a, const float *b, float beta, float *c) {
  blas->sgemm(RVL_BLAS_ROWS, RVL_BLAS_AS_IS, RVL_BLAS_AS_IS, m, n, k, 1.0f, a, k, b, n, beta, c, n);
}

void rvl_blas_outer(const rvl_blas *blas, int m, int n, int k, const float *a, const float *b, float beta, float *c) {
  blas->sgemm(RVL_BLAS_ROWS, RVL_BLAS_TRANSPOSED, RVL_BLAS_AS_IS, m, n, k, 1.0f, a, m, b, n, beta, c, n);
}
