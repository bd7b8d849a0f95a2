/*
 * What the fuzz targets of the HTTP/1.1 parsers share: checks, texts out of pieces, and how a text is cut.
 */
#ifndef RVL_FUZZ_CUTS_H
#define RVL_FUZZ_CUTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "does not hold: %s\n", what);
  abort();
}

static bool same_bytes(const char *a, size_t a_length, const char *b, size_t b_length) {
  return a_length == b_length && (a_length == 0 || memcmp(a, b, a_length) == 0);
}

/* Appends the bytes of `data`, or the pieces that they name when there are any (an empty piece is a zero byte). */
__attribute__((unused)) static void append_text(rvl_bytes *text, const uint8_t *data, size_t size, const char *const *bits, size_t count) {
  for (size_t i = 0; i < size; i++) {
    const char *bit = count > 0 ? bits[data[i] % count] : NULL;
    char byte = (char)data[i];
    check(bit ? rvl_bytes_append(text, bit, *bit == '\0' ? 1 : strlen(bit)) : rvl_bytes_append(text, &byte, 1),
          "no memory");
  }
}

static uint32_t next_cut(uint32_t *seed) {
  *seed = *seed * 1103515245u + 12345u;
  return (*seed >> 16) % 9u + 1u;
}

/* Takes some of a piece into `parser`: how much, and whether it takes more. */
typedef bool fuzz_feed(void *parser, const char *piece, size_t size, size_t *taken);

/* Feeds pieces of `step` bytes, or of sizes that `seed` chooses when `step` is 0; returns what was taken. */
__attribute__((unused)) static size_t feed_all(fuzz_feed *feed, void *parser, const char *data, size_t size, size_t step, uint32_t seed) {
  size_t at = 0;
  bool goes_on = true;
  while (at < size && goes_on) {
    size_t piece = step > 0 ? step : next_cut(&seed), taken = 0;
    if (piece > size - at) piece = size - at;
    char *copy = malloc(piece);   /* a read past the end is seen */
    check(copy != NULL, "no memory");
    memcpy(copy, data + at, piece);
    goes_on = feed(parser, copy, piece, &taken);
    free(copy);
    check(taken <= piece, "more taken than given");
    check(taken == piece || !goes_on, "bytes left in the middle");
    at += taken;
  }
  return at;
}

#endif
