#include "grpc_status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- codes ------------------------------------------------------------------------------------------- */

static const char *const code_names[] = {
    "OK",           "CANCELLED",     "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",   "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",   "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL",     "UNAVAILABLE",       "DATA_LOSS",          "UNAUTHENTICATED"};

const char *rvl_grpc_code_name(int code) {
  bool known = code >= 0 && code <= RVL_GRPC_UNAUTHENTICATED;
  return code_names[known ? code : RVL_GRPC_UNKNOWN];
}

int rvl_grpc_read_status(const char *value, size_t length) {
  int code = 0;
  if (length == 0 || length > 9) return -1;
  for (size_t i = 0; i < length; i++) {
    if (value[i] < '0' || value[i] > '9') return -1;
    code = code * 10 + (value[i] - '0');
  }
  return code <= RVL_GRPC_UNAUTHENTICATED ? code : RVL_GRPC_UNKNOWN;
}

rvl_grpc_code rvl_grpc_code_of_http(int status) {
  switch (status) {
    case 400: return RVL_GRPC_INTERNAL;
    case 401: return RVL_GRPC_UNAUTHENTICATED;
    case 403: return RVL_GRPC_PERMISSION_DENIED;
    case 404: return RVL_GRPC_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504: return RVL_GRPC_UNAVAILABLE;
    default: return RVL_GRPC_UNKNOWN;
  }
}

rvl_grpc_code rvl_grpc_code_of_reset(uint32_t error) {
  switch (error) {
    case 7: return RVL_GRPC_UNAVAILABLE;           /* REFUSED_STREAM */
    case 8: return RVL_GRPC_CANCELLED;             /* CANCEL */
    case 11: return RVL_GRPC_RESOURCE_EXHAUSTED;   /* ENHANCE_YOUR_CALM */
    default: return RVL_GRPC_INTERNAL;
  }
}

/* ---- deadlines --------------------------------------------------------------------------------------- */

/* Rounded, so that calls with the same timeout send the same text. */
size_t rvl_grpc_write_timeout(char out[RVL_GRPC_TIMEOUT_SIZE], uint64_t ns) {
  static const struct { uint64_t below, step, unit; char letter; } rules[] = {
      {UINT64_C(10000000), 1000, 1000, 'u'},                                  /* 10 ms */
      {UINT64_C(10000000000), 1000000, 1000000, 'm'},                         /* 10 s */
      {UINT64_C(100000000000), 10000000, 1000000, 'm'},
      {UINT64_C(1000000000000), 100000000, 1000000, 'm'},
      {UINT64_C(90000000000000000), 1000000000, 1000000000, 'S'},
      {UINT64_MAX, UINT64_C(3600000000000), UINT64_C(3600000000000), 'H'}};
  size_t i = 0;
  while (ns >= rules[i].below && rules[i].below != UINT64_MAX) i++;
  uint64_t steps = ns / rules[i].step + (ns % rules[i].step != 0);
  uint64_t value = steps * (rules[i].step / rules[i].unit);
  char letter = rules[i].letter;
  if (letter == 'm' && value % 1000 == 0) {
    value /= 1000;
    letter = 'S';
  }
  return (size_t)snprintf(out, RVL_GRPC_TIMEOUT_SIZE, "%llu%c", (unsigned long long)value, letter);
}

bool rvl_grpc_read_timeout(const char *value, size_t length, uint64_t *ns) {
  static const struct { char letter; uint64_t unit; } units[] = {
      {'n', 1}, {'u', 1000}, {'m', 1000000}, {'S', 1000000000}, {'M', UINT64_C(60000000000)},
      {'H', UINT64_C(3600000000000)}};
  uint64_t number = 0;
  if (length < 2 || length > 9) return false;
  for (size_t i = 0; i < length - 1; i++) {
    if (value[i] < '0' || value[i] > '9') return false;
    number = number * 10 + (uint64_t)(value[i] - '0');
  }
  for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
    if (units[i].letter != value[length - 1]) continue;
    *ns = number <= UINT64_MAX / units[i].unit ? number * units[i].unit : UINT64_MAX;
    return true;
  }
  return false;
}

/* ---- percent-encoding -------------------------------------------------------------------------------- */

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool rvl_grpc_append_decoded(rvl_bytes *out, const char *text, size_t length) {
  if (!rvl_bytes_reserve(out, length)) return false;
  for (size_t i = 0; i < length; i++) {
    char c = text[i];
    if (c == '%' && length - i > 2) {
      int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
      if (high >= 0 && low >= 0) {
        c = (char)(high * 16 + low);
        i += 2;
      }
    }
    out->data[out->length++] = c;
  }
  return true;
}

bool rvl_grpc_append_encoded(rvl_bytes *out, const char *text, size_t length, size_t most) {
  static const char hex[] = "0123456789ABCDEF";
  size_t whole = out->length, start = out->length;   /* up to where the characters are whole */
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    bool plain = c >= ' ' && c <= '~' && c != '%';
    if ((c & 0xc0) != 0x80) whole = out->length;
    if (out->length - start + (plain ? 1 : 3) > most) {
      out->length = whole;
      return true;
    }
    char escaped[3] = {'%', hex[c >> 4], hex[c & 15]};
    if (!rvl_bytes_append(out, plain ? &text[i] : escaped, plain ? 1 : 3)) return false;
  }
  return true;
}

/* ---- base64 ------------------------------------------------------------------------------------------ */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+' || c == '-') return 62;
  if (c == '/' || c == '_') return 63;
  return -1;
}

bool rvl_grpc_from_base64(char *out, const char *text, size_t length, size_t *written) {
  for (int pads = 0; pads < 2 && length > 0 && text[length - 1] == '='; pads++) length--;
  if (length % 4 == 1) return false;
  uint32_t bits = 0;
  unsigned count = 0;
  *written = 0;
  for (size_t i = 0; i < length; i++) {
    int digit = base64_digit(text[i]);
    if (digit < 0) return false;
    bits = bits << 6 | (uint32_t)digit;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out[(*written)++] = (char)(bits >> count & 0xff);
  }
  return true;
}

/* Without padding, as gRPC sends it; there is room for it. */
static size_t write_base64(char *out, const char *data, size_t length) {
  char *at = out;
  for (size_t i = 0; i < length; i += 3) {
    size_t n = length - i < 3 ? length - i : 3;
    uint32_t bits = 0;
    for (size_t j = 0; j < 3; j++) bits = bits << 8 | (j < n ? (uint32_t)(unsigned char)data[i + j] : 0);
    for (size_t j = 0; j <= n; j++) *at++ = digits[bits >> (18 - 6 * j) & 63];
  }
  return (size_t)(at - out);
}

bool rvl_grpc_is_binary(const char *name, size_t length) {
  return length > 4 && memcmp(name + length - 4, "-bin", 4) == 0;
}

/* ---- metadata ---------------------------------------------------------------------------------------- */

typedef struct lengths {
  uint32_t name, value;
} lengths;

static rvl_grpc_header *append_entry(rvl_grpc_metadata *m, rvl_grpc_header *h, size_t room) {
  lengths l = {(uint32_t)h->name_length, (uint32_t)h->value_length};
  if (h->name_length > UINT32_MAX || room > UINT32_MAX) return NULL;
  if (!rvl_bytes_reserve(&m->text, sizeof l + h->name_length + room)) return NULL;
  rvl_bytes_append(&m->text, (const char *)&l, sizeof l);
  rvl_bytes_append(&m->text, h->name, h->name_length);
  m->count++;
  return h;
}

bool rvl_grpc_metadata_put(rvl_grpc_metadata *m, const char *name, size_t name_length, const char *value,
                           size_t value_length) {
  rvl_grpc_header h = {name, value, name_length, value_length};
  return append_entry(m, &h, value_length) != NULL && rvl_bytes_append(&m->text, value, value_length);
}

static bool is_name(const char *name, size_t length) {
  for (size_t i = 0; i < length; i++) {
    char c = name[i];
    bool good = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
    if (!good) return false;
  }
  return length > 0;
}

static bool is_text(const char *value, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (value[i] < ' ' || value[i] > '~') return false;
  return length == 0 || (value[0] != ' ' && value[length - 1] != ' ');
}

static bool is_ours(const char *name, size_t length) {
  static const char *const ours[] = {"te", "content-type", "user-agent", "content-length", "connection", "host",
                                     "transfer-encoding", "upgrade", "keep-alive", "proxy-connection"};
  for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
    if (strlen(ours[i]) == length && memcmp(ours[i], name, length) == 0) return true;
  return length >= 5 && memcmp(name, "grpc-", 5) == 0;
}

const char *rvl_grpc_metadata_add(rvl_grpc_metadata *m, const char *name, size_t name_length, const char *value,
                                  size_t value_length) {
  if (!is_name(name, name_length)) return "a name has lower-case letters, digits, '-', '_' and '.' only";
  if (is_ours(name, name_length)) return "this name belongs to gRPC itself";
  if (value_length > 1024u * 1024u) return "the value is too long";
  if (!rvl_grpc_is_binary(name, name_length)) {
    if (!is_text(value, value_length))
      return "a value is printable ASCII without spaces at its ends (bytes go under a name that ends in -bin)";
    return rvl_grpc_metadata_put(m, name, name_length, value, value_length) ? NULL : "not enough memory";
  }
  rvl_grpc_header h = {name, value, name_length, (value_length * 4 + 2) / 3};
  if (append_entry(m, &h, h.value_length) == NULL) return "not enough memory";
  m->text.length += write_base64(m->text.data + m->text.length, value, value_length);
  return NULL;
}

bool rvl_grpc_metadata_next(const rvl_grpc_metadata *m, size_t *at, rvl_grpc_header *h) {
  lengths l;
  if (*at >= m->text.length) return false;
  memcpy(&l, m->text.data + *at, sizeof l);
  h->name = m->text.data + *at + sizeof l;
  h->name_length = l.name;
  h->value = h->name + l.name;
  h->value_length = l.value;
  *at += sizeof l + l.name + l.value;
  return true;
}

bool rvl_grpc_metadata_find(const rvl_grpc_metadata *m, const char *name, rvl_grpc_header *h) {
  size_t length = strlen(name), at = 0;
  while (rvl_grpc_metadata_next(m, &at, h))
    if (h->name_length == length && memcmp(h->name, name, length) == 0) return true;
  return false;
}

void rvl_grpc_metadata_free(rvl_grpc_metadata *m) {
  rvl_bytes_free(&m->text);
  m->count = 0;
}
