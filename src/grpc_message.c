#include "grpc_message.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define FIRST_ROOM (64u * 1024u)   /* what a length alone is trusted with */
#define COST (sizeof(rvl_grpc_message) + 16)   /* of an empty message */

void rvl_grpc_write_prefix(unsigned char out[RVL_GRPC_PREFIX], size_t length) {
  out[0] = 0;
  for (int i = 0; i < 4; i++) out[1 + i] = (unsigned char)(length >> (24 - 8 * i));
}

static bool grow(rvl_grpc_decoder *d, size_t needed) {
  size_t room = d->room == 0 ? FIRST_ROOM : d->room;
  while (room < needed) room *= 2;
  if (room > d->wanted) room = d->wanted;
  rvl_grpc_message *grown = realloc(d->partial, sizeof *grown + room);
  if (grown == NULL) return false;
  if (d->partial == NULL) grown->length = 0;
  d->partial = grown;
  d->room = room;
  return true;
}

static void finish(rvl_grpc_decoder *d) {
  rvl_grpc_message *m = d->partial;
  d->partial = NULL;
  d->prefix_length = 0;
  d->room = 0;
  m->next = NULL;
  m->compressed = d->prefix[0] != 0;
  if (d->first == NULL) d->first = m;
  else *d->last = m;
  d->last = &m->next;
  d->queued += m->length + COST;
  d->count++;
}

/* The five bytes are there. */
static rvl_grpc_verdict begin(rvl_grpc_decoder *d) {
  const unsigned char *p = d->prefix;
  if (p[0] > (d->takes_compressed ? 1 : 0)) return RVL_GRPC_COMPRESSED;
  d->wanted = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | (size_t)p[4];
  if (d->wanted > d->max_message) return RVL_GRPC_TOO_LARGE;
  if (!grow(d, 0)) return RVL_GRPC_NO_MEMORY;
  if (d->wanted == 0) finish(d);
  return RVL_GRPC_GOOD;
}

rvl_grpc_verdict rvl_grpc_decoder_feed(rvl_grpc_decoder *d, const char *data, size_t length) {
  while (length > 0) {
    if (d->partial == NULL) {
      d->prefix[d->prefix_length++] = (unsigned char)*data++;
      length--;
      if (d->prefix_length < RVL_GRPC_PREFIX) continue;
      rvl_grpc_verdict verdict = begin(d);
      if (verdict != RVL_GRPC_GOOD) return verdict;
      continue;
    }
    rvl_grpc_message *m = d->partial;
    size_t missing = d->wanted - m->length, n = length < missing ? length : missing;
    if (m->length + n > d->room && !grow(d, m->length + n)) return RVL_GRPC_NO_MEMORY;
    m = d->partial;
    memcpy(m->data + m->length, data, n);
    m->length += n;
    data += n;
    length -= n;
    if (n == missing) finish(d);
  }
  return RVL_GRPC_GOOD;
}

bool rvl_grpc_decoder_is_clean(const rvl_grpc_decoder *d) { return d->prefix_length == 0; }

rvl_grpc_message *rvl_grpc_decoder_take(rvl_grpc_decoder *d) {
  rvl_grpc_message *m = d->first;
  if (m == NULL) return NULL;
  d->first = m->next;
  d->queued -= m->length + COST;
  return m;
}

void rvl_grpc_decoder_cut(rvl_grpc_decoder *d) {
  free(d->partial);
  d->partial = NULL;
}

void rvl_grpc_decoder_free(rvl_grpc_decoder *d) {
  rvl_grpc_message *m;
  while ((m = rvl_grpc_decoder_take(d)) != NULL) free(m);
  rvl_grpc_decoder_cut(d);
  *d = (rvl_grpc_decoder){.max_message = d->max_message, .takes_compressed = d->takes_compressed};
}

/* ---- compressed ones ---------------------------------------------------------------------------------- */

static uInt at_most(size_t n) { return n < INT_MAX ? (uInt)n : INT_MAX; }

/* Grows the message that `z` writes into; false: no memory. */
static bool make_room(rvl_grpc_message **out, size_t *room, size_t most, z_stream *z) {
  size_t grown = *room == 0 ? FIRST_ROOM : *room * 2;
  if (grown > most) grown = most;
  rvl_grpc_message *m = realloc(*out, sizeof *m + grown);
  if (m == NULL) return false;
  if (*out == NULL) m->length = 0;
  *out = m;
  *room = grown;
  z->next_out = (Bytef *)m->data + m->length;
  z->avail_out = at_most(grown - m->length);
  return true;
}

static rvl_grpc_verdict inflate_all(z_stream *z, const rvl_grpc_message *from, rvl_grpc_message **out,
                                    size_t most) {
  size_t room = 0, left = from->length;
  int status = Z_OK;
  z->next_in = (z_const Bytef *)from->data;
  while (status != Z_STREAM_END) {
    if (z->avail_out == 0) {   /* one byte more than allowed: so that it shows that there are more */
      if (*out != NULL && room == most + 1) return RVL_GRPC_TOO_LARGE;
      bool full = *out == NULL || (*out)->length == room;
      if (full && !make_room(out, &room, most + 1, z)) return RVL_GRPC_NO_MEMORY;
    }
    if (z->avail_in == 0) {
      z->avail_in = at_most(left);
      left -= z->avail_in;
    }
    uInt before = z->avail_out;
    status = inflate(z, Z_NO_FLUSH);
    (*out)->length += before - z->avail_out;
    if (status == Z_MEM_ERROR) return RVL_GRPC_NO_MEMORY;
    if (status != Z_OK && status != Z_STREAM_END && !(status == Z_BUF_ERROR && z->avail_out == 0))
      return RVL_GRPC_DAMAGED;
    if (status == Z_OK && z->avail_in == 0 && left == 0 && z->avail_out > 0) return RVL_GRPC_DAMAGED;
  }
  if (z->avail_in > 0 || left > 0) return RVL_GRPC_DAMAGED;
  return (*out)->length > most ? RVL_GRPC_TOO_LARGE : RVL_GRPC_GOOD;
}

rvl_grpc_verdict rvl_grpc_message_inflate(rvl_grpc_message **message, size_t most) {
  enum { EITHER = 15 + 32 };
  z_stream z = {0};
  rvl_grpc_message *out = NULL;
  if (inflateInit2(&z, EITHER) != Z_OK) return RVL_GRPC_NO_MEMORY;
  rvl_grpc_verdict verdict = inflate_all(&z, *message, &out, most);
  inflateEnd(&z);
  if (verdict != RVL_GRPC_GOOD) {
    free(out);
    return verdict;
  }
  out->compressed = false;
  out->next = NULL;
  free(*message);
  *message = out;
  return RVL_GRPC_GOOD;
}
