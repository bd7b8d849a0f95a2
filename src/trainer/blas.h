/*
** OpenBLAS, loaded on first use: products of matrices, one thread each. Its builds take some processors for much
** older ones (a Sapphire Rapids for a Prescott: a quarter of the speed), so the core type is chosen here where it
** is wrong.
*/
#ifndef RVL_BLAS_H
#define RVL_BLAS_H

#include <stdbool.h>

enum { RVL_BLAS_ROWS = 101, RVL_BLAS_AS_IS = 111, RVL_BLAS_TRANSPOSED = 112 };   /* those of cblas.h */

typedef void rvl_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                       const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);

typedef struct rvl_blas {
  void *library;
  rvl_sgemm *sgemm;            /* cblas_sgemm */
  char version[128];           /* "OpenBLAS 0.3.21 …" */
  char core[32];               /* the kind of processor that its kernels are for: "SkylakeX" */
} rvl_blas;

/*
** NULL: loaded. Else what is wrong (static). `environment`: the process is ours alone, and its environment may say for a
** moment which kernels to take; in a host, whose threads may read it meanwhile, OpenBLAS takes those that it likes.
*/
const char *rvl_blas_open(rvl_blas *blas, bool environment);
/* The core type that fits this processor; NULL: OpenBLAS knows better. */
const char *rvl_blas_fitting_core(void);

/* c[m,n] = a[m,k] · b[n,k]ᵀ + beta · c: what a linear map with weights [out, in] does. All are packed rows. */
void rvl_blas_linear(const rvl_blas *blas, int m, int n, int k, const float *a, const float *b, float beta,
                     float *c);
/* c[m,n] = a[m,k] · b[k,n] + beta · c: the gradient of its input. */
void rvl_blas_product(const rvl_blas *blas, int m, int n, int k, const float *a, const float *b, float beta,
                      float *c);
/* c[m,n] = a[k,m]ᵀ · b[k,n] + beta · c: the gradient of its weights. */
void rvl_blas_outer(const rvl_blas *blas, int m, int n, int k, const float *a, const float *b, float beta,
                    float *c);

#endif
