/*
** One datum of a forward/backward request: read from the bytes that a client sent (NEST), checked whole, its
** columns in the types that the losses compute with. Index t of a column describes the prediction of the token
** after t; the last one counts for nothing.
*/
#ifndef RVL_EXAMPLE_H
#define RVL_EXAMPLE_H

#include "dtype.h"
#include "model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rvl_loss rvl_loss;

/* An array as it lies in the datum's bytes, which must outlive the example. */
typedef struct rvl_column {
  const char *name;            /* ends with a zero */
  rvl_dtype dtype;
  size_t rows, width;          /* of [T, K]; a vector has width 0 */
  size_t count;                /* elements */
  const void *data;            /* not aligned: memcpy, or rvl_column_integer and rvl_column_number */
} rvl_column;

typedef struct rvl_example {
  size_t length;               /* T > 0 */
  const int32_t *ids;          /* [T] */
  const uint8_t *mask;         /* [T], attention_mask; NULL: ones */
  /* What the datum has not is NULL. Widths: K of [T, K], 0 of a vector. */
  const double *weights;
  size_t weights_width;
  const int32_t *targets;      /* target_tokens */
  size_t targets_width;
  const double *old_logprobs, *advantages, *echo_weights;
  const int32_t *sampler_ids;  /* [T, sampler_width], below 0: no token */
  const double *sampler_logprobs;
  size_t sampler_width;
  const rvl_column *columns;   /* all but model_input, in the datum's order; of a name given twice the last */
  size_t column_count;
  void *memory;                /* all of the above but rvl_column.data */
} rvl_example;

enum {
  RVL_EXAMPLE_REFUSAL = 256,   /* bytes that a refusal may need */
  RVL_EXAMPLE_COLUMNS = 64,    /* that a datum may have */
  RVL_EXAMPLE_TOP_K = 256      /* of sampler_topk_* */
};

typedef enum rvl_example_result { RVL_EXAMPLE_OK, RVL_EXAMPLE_REFUSED, RVL_EXAMPLE_NO_MEMORY } rvl_example_result;

/*
** Reads the bytes of a datum for a loss and a model. Refused is what the service refuses, tokens that are not in
** the vocabulary, more of them than the context holds, and images: `refusal` then says what and where,
** "advantages[17] is nan", without the datum's number. Except when OK nothing is to be freed.
*/
rvl_example_result rvl_example_read(const uint8_t *nest, size_t length, const rvl_loss *loss,
                                    const rvl_model_config *model, rvl_example *example,
                                    char refusal[RVL_EXAMPLE_REFUSAL]);
void rvl_example_free(rvl_example *example);

/* How many bytes of a name a refusal shows: whole characters of UTF-8. */
int rvl_example_shown(const char *name, size_t length);

/* NULL: there is none. */
const rvl_column *rvl_example_column(const rvl_example *example, const char *name);
/* Element i < count: of a column of integers (what is above INT64_MAX as that); of any column. */
int64_t rvl_column_integer(const rvl_column *column, size_t i);
double rvl_column_number(const rvl_column *column, size_t i);

#endif
