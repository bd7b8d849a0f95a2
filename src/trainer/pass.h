/*
** A whole forward or forward/backward request over many examples, by the threads of a pool. Examples are packed
** into micro-batches, these into chunks, by their lengths alone; a chunk's gradient is summed by one thread, and
** chunks are added in their order. So all numbers are the same, bit for bit, whatever the number of threads.
*/
#ifndef RVL_PASS_H
#define RVL_PASS_H

#include "blas.h"
#include "example.h"
#include "loss.h"
#include "model.h"
#include "pool.h"

#include <stdatomic.h>

/* Its memory: one transformer and one gradient a thread. One request at a time. */
typedef struct rvl_pass rvl_pass;

/* Layout, blas and pool must outlive it. What threads need is allocated when they first work. NULL: no memory. */
rvl_pass *rvl_pass_new(const rvl_model_layout *layout, const rvl_blas *blas, rvl_pool *pool);
void rvl_pass_free(rvl_pass *pass);

typedef struct rvl_pass_request {
  const float *weights;        /* of the layout: merged ones, if there are adapters */
  const rvl_example *examples;
  size_t count;
  const rvl_loss *loss;
  const bool *wanted;          /* by index of layout->tensors: whose gradient is needed; NULL: all */
  float *gradient;             /* of the layout; added to, when all went well. NULL: no gradients */
  bool clear;                  /* what is in `gradient` before does not count */
  atomic_bool *cancel;         /* looked at between micro-batches; NULL: nobody cancels */
} rvl_pass_request;

typedef struct rvl_pass_result {
  float *logprobs;             /* example i's, length - 1, begin at starts[i] */
  size_t *starts;              /* [count + 1] */
  rvl_loss_sums sums;          /* for rvl_loss_metrics; its tokens and datums count all */
} rvl_pass_result;

typedef enum rvl_pass_status { RVL_PASS_DONE, RVL_PASS_CANCELLED, RVL_PASS_NO_MEMORY } rvl_pass_status;

/* Except when DONE the gradient is unchanged and there is no result to free. */
rvl_pass_status rvl_pass_run(rvl_pass *pass, const rvl_pass_request *request, rvl_pass_result *result);
void rvl_pass_result_free(rvl_pass_result *result);

#endif
