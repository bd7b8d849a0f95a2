/*
 * Fuzz target: the small parsers of gRPC (src/grpc_message.c, src/grpc_status.c): messages in a body, metadata, base64,
 * percent-encoding, statuses, deadlines.
 *
 * However a body is cut, the same messages come out, those that a plain reading of the bytes finds; what was encoded is
 * decoded to what it was.
 */
#include "fuzz_cuts.h"
#include "grpc_message.h"
#include "grpc_status.h"

static void put(rvl_bytes *out, const void *data, size_t length) {
  check(rvl_bytes_append(out, data, length), "no memory");
}

static rvl_grpc_verdict decode(const uint8_t *data, size_t size, size_t max, size_t step, uint32_t seed, rvl_bytes *out,
                               bool *clean) {
  rvl_grpc_decoder d = {.max_message = max};
  rvl_grpc_verdict verdict = RVL_GRPC_GOOD;
  rvl_grpc_message *m;
  for (size_t at = 0; at < size && verdict == RVL_GRPC_GOOD;) {
    size_t piece = step > 0 ? step : next_cut(&seed);
    if (piece > size - at) piece = size - at;
    char *copy = malloc(piece);
    check(copy != NULL, "no memory");
    memcpy(copy, data + at, piece);
    verdict = rvl_grpc_decoder_feed(&d, copy, piece);
    free(copy);
    at += piece;
    check(d.queued <= size + d.count * 64, "more is kept than came");
  }
  while ((m = rvl_grpc_decoder_take(&d)) != NULL) {
    put(out, &m->length, sizeof m->length);
    put(out, m->data, m->length);
    free(m);
  }
  check(d.queued == 0, "the count of what is queued is wrong");
  *clean = rvl_grpc_decoder_is_clean(&d);
  rvl_grpc_decoder_free(&d);
  return verdict;
}

/* The same, as one would read it. */
static rvl_grpc_verdict read_plainly(const uint8_t *p, size_t size, size_t max, rvl_bytes *out, bool *clean) {
  size_t at = 0;
  *clean = true;
  while (size - at >= RVL_GRPC_PREFIX) {
    size_t length = (size_t)p[at + 1] << 24 | (size_t)p[at + 2] << 16 | (size_t)p[at + 3] << 8 | p[at + 4];
    if (p[at] != 0) return RVL_GRPC_COMPRESSED;
    if (length > max) return RVL_GRPC_TOO_LARGE;
    *clean = length <= size - at - RVL_GRPC_PREFIX;
    if (!*clean) return RVL_GRPC_GOOD;
    put(out, &length, sizeof length);
    put(out, p + at + RVL_GRPC_PREFIX, length);
    at += RVL_GRPC_PREFIX + length;
  }
  *clean = at == size;
  return RVL_GRPC_GOOD;
}

static void check_messages(const uint8_t *data, size_t size, size_t max, uint32_t seed) {
  rvl_bytes plain = {0};
  bool clean;
  rvl_grpc_verdict verdict = read_plainly(data, size, max, &plain, &clean);
  for (size_t step = 0; step <= 2; step++) {
    rvl_bytes out = {0};
    bool same_clean;
    rvl_grpc_verdict other = decode(data, size, max, step == 2 ? size + 1 : step, seed, &out, &same_clean);
    check(other == verdict, "another verdict");
    check(same_bytes(out.data, out.length, plain.data, plain.length), "other messages");
    check(verdict != RVL_GRPC_GOOD || clean == same_clean, "ends elsewhere");
    rvl_bytes_free(&out);
  }
  rvl_bytes_free(&plain);
}

static void check_metadata(const uint8_t *data, size_t size) {
  const char *text = (const char *)data;
  size_t name = size / 3;
  rvl_grpc_metadata m = {0};
  rvl_grpc_header h;
  size_t at = 0, n;
  char *bytes = malloc(size * 2 + 1);
  check(bytes != NULL, "no memory");
  check(rvl_grpc_metadata_add(&m, "x-bin", 5, text, size) == NULL, "bytes that are refused");
  check(rvl_grpc_metadata_next(&m, &at, &h) && h.name_length == 5, "no entry");
  check(rvl_grpc_from_base64(bytes, h.value, h.value_length, &n), "base64 that is none");
  check(same_bytes(bytes, n, text, size), "base64 changes bytes");
  if (rvl_grpc_metadata_add(&m, text, name, text + name, size - name) == NULL) {
    check(rvl_grpc_metadata_next(&m, &at, &h), "no entry");
    check(same_bytes(h.name, h.name_length, text, name), "another name");
    for (size_t i = 0; i < h.value_length; i++) check(h.value[i] >= ' ' && h.value[i] <= '~', "a value that splits");
  }
  check(!rvl_grpc_metadata_next(&m, &at, &h), "an entry too many");
  rvl_grpc_metadata_free(&m);
  if (rvl_grpc_from_base64(bytes, text, size, &n)) check(n <= size, "more bytes than letters");
  free(bytes);
}

static void check_texts(const uint8_t *data, size_t size) {
  rvl_bytes out = {0}, encoded = {0};
  check(rvl_grpc_append_decoded(&out, (const char *)data, size), "no memory");
  check(out.length <= size, "longer than it was");
  out.length = 0;
  for (size_t i = 0; i < size; i++) {
    char hex[4];
    snprintf(hex, sizeof hex, "%%%02x", data[i]);
    put(&encoded, hex, 3);
  }
  check(rvl_grpc_append_decoded(&out, encoded.data, encoded.length), "no memory");
  check(same_bytes(out.data, out.length, (const char *)data, size), "percent-encoding changes bytes");
  int status = rvl_grpc_read_status((const char *)data, size);
  check(status >= -1 && status <= RVL_GRPC_UNAUTHENTICATED, "a status that is none");
  rvl_bytes_free(&out);
  rvl_bytes_free(&encoded);
}

static void check_timeout(const uint8_t *data, size_t size) {
  uint64_t ns = 0;
  memcpy(&ns, data, size < sizeof ns ? size : sizeof ns);
  if (ns == 0) return;
  char text[RVL_GRPC_TIMEOUT_SIZE], unit;
  unsigned long long value;
  size_t n = rvl_grpc_write_timeout(text, ns);
  check(n >= 2 && n <= 9 && n == strlen(text), "not a deadline");
  check(sscanf(text, "%llu%c", &value, &unit) == 2, "not a deadline");
  double unit_ns = unit == 'u' ? 1e3 : unit == 'm' ? 1e6 : unit == 'S' ? 1e9 : unit == 'H' ? 3.6e12 : 0;
  double written = (double)value * unit_ns;
  check(written >= (double)ns * (1 - 1e-12), "less than it was");
  check(written <= (double)ns * 1.1 + 1e3 || unit == 'H', "much more than it was");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 3) return 0;
  check_timeout(data, size);
  check_messages(data + 2, size - 2, data[0] * 4u, data[1]);
  check_metadata(data, size);
  check_texts(data, size);
  return 0;
}
