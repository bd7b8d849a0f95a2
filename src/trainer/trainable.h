/*
** A model that is trained: a base that others may share, adapters over it or weights of its own, their gradient
** and optimizer. What changes it is called by one thread at a time.
*/
#ifndef RVL_TRAINABLE_H
#define RVL_TRAINABLE_H

#include "adamw.h"
#include "blas.h"
#include "lora.h"
#include "model.h"
#include "pass.h"
#include "pool.h"

/* Weights that nobody changes. References are counted by one thread. */
typedef struct rvl_base {
  rvl_model_layout layout;
  float *weights;
  unsigned references;
} rvl_base;

/* Zeroed weights of a configuration that was checked, with one reference. NULL: no memory. */
rvl_base *rvl_base_new(const rvl_model_config *config);
rvl_base *rvl_base_retain(rvl_base *base);
void rvl_base_release(rvl_base *base);

typedef struct rvl_trainable {
  rvl_base *base;
  const rvl_blas *blas;
  bool adapted;                /* LoRA; else all weights are trained */
  rvl_lora lora;
  const rvl_model_layout *layout;   /* of the weights that the transformer works with */
  float *weights;              /* these: merged, or those that are trained themselves */
  float *trained;              /* adapters, or `weights` */
  size_t floats;               /* of what is trained */
  float *gradient;             /* of what is trained */
  float *merged_gradient;      /* of a pass, before it becomes the adapters'; NULL: none yet, or not adapted */
  rvl_adamw_state optimizer;
  rvl_pass *pass;              /* NULL until the first */
  unsigned references;
} rvl_trainable;

/* `lora` (checked, or NULL: full weights), its A drawn from the seed. One reference; NULL: no memory. */
rvl_trainable *rvl_trainable_new(rvl_base *base, const rvl_blas *blas, const rvl_lora_config *lora, uint64_t seed);
rvl_trainable *rvl_trainable_retain(rvl_trainable *model);
void rvl_trainable_release(rvl_trainable *model);

/* A tensor of what is trained. */
typedef struct rvl_trained_tensor {
  const char *name;
  uint32_t rows, columns;      /* columns 0: a vector */
  size_t offset, count;
} rvl_trained_tensor;

size_t rvl_trainable_count(const rvl_trainable *model);
rvl_trained_tensor rvl_trainable_tensor(const rvl_trainable *model, size_t i);

/* After `trained` has changed. */
void rvl_trainable_merge(rvl_trainable *model);

/* A request over examples; with `gradients` the model's gradient grows, or is replaced (`clear`); not when it
   fails. */
rvl_pass_status rvl_trainable_pass(rvl_trainable *model, rvl_pool *pool, const rvl_example *examples, size_t count,
                                   const rvl_loss *loss, bool gradients, bool clear, atomic_bool *cancel,
                                   rvl_pass_result *result);
/* Uses the gradient up, also when it is not finite. */
rvl_adamw_result rvl_trainable_step(rvl_trainable *model, const rvl_adamw_options *options);

#endif
