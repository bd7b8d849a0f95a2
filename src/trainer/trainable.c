#include "trainable.h"

#include <stdlib.h>
#include <string.h>

rvl_base *rvl_base_new(const rvl_model_config *config) {
  rvl_base *base = calloc(1, sizeof *base);
  if (base == NULL) return NULL;
  base->references = 1;
  if (rvl_model_layout_init(&base->layout, config)) base->weights = rvl_model_floats(base->layout.floats);
  if (base->weights != NULL) return base;
  rvl_base_release(base);
  return NULL;
}

rvl_base *rvl_base_retain(rvl_base *base) {
  base->references++;
  return base;
}

void rvl_base_release(rvl_base *base) {
  if (base == NULL || --base->references > 0) return;
  rvl_model_layout_free(&base->layout);
  rvl_model_free(base->weights);
  free(base);
}

static bool take_adapters(rvl_trainable *model, const rvl_lora_config *config, uint64_t seed) {
  if (!rvl_lora_init(&model->lora, &model->base->layout, config)) return false;
  model->adapted = true;
  model->layout = &model->lora.effective;
  model->floats = model->lora.floats;
  model->trained = rvl_model_floats(model->floats);
  model->weights = rvl_model_floats(model->layout->floats);
  if (model->trained == NULL || model->weights == NULL) return false;
  rvl_lora_initialise(&model->lora, seed, model->trained);
  rvl_trainable_merge(model);
  return true;
}

static bool take_weights(rvl_trainable *model) {
  model->layout = &model->base->layout;
  model->floats = model->layout->floats;
  model->weights = model->trained = rvl_model_floats(model->floats);
  if (model->weights != NULL) memcpy(model->weights, model->base->weights, model->floats * sizeof(float));
  return model->weights != NULL;
}

rvl_trainable *rvl_trainable_new(rvl_base *base, const rvl_blas *blas, const rvl_lora_config *lora,
                                 uint64_t seed) {
  rvl_trainable *model = calloc(1, sizeof *model);
  if (model == NULL) return NULL;
  model->references = 1;
  model->base = rvl_base_retain(base);
  model->blas = blas;
  if (lora != NULL ? take_adapters(model, lora, seed) : take_weights(model)) {
    model->gradient = rvl_model_floats(model->floats);
    if (model->gradient != NULL && rvl_adamw_init(&model->optimizer, model->floats)) return model;
  }
  rvl_trainable_release(model);
  return NULL;
}

rvl_trainable *rvl_trainable_retain(rvl_trainable *model) {
  model->references++;
  return model;
}

void rvl_trainable_release(rvl_trainable *model) {
  if (model == NULL || --model->references > 0) return;
  rvl_pass_free(model->pass);
  rvl_adamw_free(&model->optimizer);
  rvl_model_free(model->merged_gradient);
  rvl_model_free(model->gradient);
  if (model->trained != model->weights) rvl_model_free(model->trained);
  rvl_model_free(model->weights);
  rvl_lora_free(&model->lora);
  rvl_base_release(model->base);
  free(model);
}

size_t rvl_trainable_count(const rvl_trainable *model) {
  return model->adapted ? model->lora.count : model->layout->count;
}

rvl_trained_tensor rvl_trainable_tensor(const rvl_trainable *model, size_t i) {
  if (model->adapted) {
    const rvl_lora_tensor *t = &model->lora.tensors[i];
    return (rvl_trained_tensor){t->name, t->rows, t->columns, t->offset, t->count};
  }
  const rvl_tensor *t = &model->layout->tensors[i];
  return (rvl_trained_tensor){t->name, t->rows, t->columns, t->offset, t->count};
}

void rvl_trainable_merge(rvl_trainable *model) {
  if (model->adapted)
    rvl_lora_merge(&model->lora, model->blas, model->base->weights, model->trained, model->weights);
}

/* The gradient that a pass adds to: the model's own, or one of merged weights. */
static float *gradient_for(rvl_trainable *model) {
  if (!model->adapted) return model->gradient;
  if (model->merged_gradient == NULL) model->merged_gradient = rvl_model_floats(model->layout->floats);
  return model->merged_gradient;
}

rvl_pass_status rvl_trainable_pass(rvl_trainable *model, rvl_pool *pool, const rvl_example *examples, size_t count,
                                   const rvl_loss *loss, bool gradients, bool clear, atomic_bool *cancel,
                                   rvl_pass_result *result) {
  if (model->pass == NULL) model->pass = rvl_pass_new(model->layout, model->blas, pool);
  if (model->pass == NULL) return RVL_PASS_NO_MEMORY;
  rvl_pass_request request = {.weights = model->weights, .examples = examples, .count = count, .loss = loss,
                              .wanted = model->adapted ? model->lora.wanted : NULL,
                              .clear = clear || model->adapted, .cancel = cancel};
  if (gradients && (request.gradient = gradient_for(model)) == NULL) return RVL_PASS_NO_MEMORY;
  rvl_pass_status status = rvl_pass_run(model->pass, &request, result);
  if (status == RVL_PASS_DONE && gradients && model->adapted) {
    if (clear) memset(model->gradient, 0, model->floats * sizeof(float));
    rvl_lora_project(&model->lora, model->blas, model->trained, model->merged_gradient, model->gradient);
  }
  return status;
}

rvl_adamw_result rvl_trainable_step(rvl_trainable *model, const rvl_adamw_options *options) {
  rvl_adamw_result result = rvl_adamw_step(&model->optimizer, rvl_kernels_pick(), options, model->gradient,
                                           model->trained);
  memset(model->gradient, 0, model->floats * sizeof(float));
  if (result.finite) rvl_trainable_merge(model);
  return result;
}
