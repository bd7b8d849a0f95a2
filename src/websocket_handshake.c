#include "websocket_handshake.h"

#include "nettle_digest.h"

#include <nettle/base64.h>
#include <nettle/sha1.h>
#include <string.h>
#include <strings.h>

_Static_assert(BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE) == RVL_WEBSOCKET_ACCEPT_SIZE, "the size of an accept value");

void rvl_websocket_accept(const char *key, size_t length, char accept[RVL_WEBSOCKET_ACCEPT_SIZE]) {
  static const char suffix[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  struct sha1_ctx ctx;
  uint8_t hash[SHA1_DIGEST_SIZE];
  sha1_init(&ctx);
  sha1_update(&ctx, length, (const uint8_t *)key);
  sha1_update(&ctx, sizeof suffix - 1, (const uint8_t *)suffix);
  RVL_END_DIGEST(sha1_digest, &ctx, hash);
  base64_encode_raw(accept, sizeof hash, hash);
}

typedef struct span {
  const char *text;
  size_t length;
} span;

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

static span without_blanks(span s) {
  while (s.length > 0 && is_blank(*s.text)) s.text++, s.length--;
  while (s.length > 0 && is_blank(s.text[s.length - 1])) s.length--;
  return s;
}

/* Takes the part up to a separator off the front; false: nothing is left. */
static bool cut(span *rest, char separator, span *part) {
  if (rest->text == NULL) return false;
  const char *end = memchr(rest->text, separator, rest->length);
  *part = (span){rest->text, end != NULL ? (size_t)(end - rest->text) : rest->length};
  *rest = end != NULL ? (span){end + 1, rest->length - part->length - 1} : (span){0};
  return true;
}

static bool is_word(span s, const char *word) {
  return s.length == strlen(word) && strncasecmp(s.text, word, s.length) == 0;
}

/* Whether a list separated by commas holds a word, in any case. */
static bool lists_word(span list, const char *word) {
  span part;
  while (cut(&list, ',', &part))
    if (is_word(without_blanks(part), word)) return true;
  return false;
}

static bool offers(const char *protocols, span wanted) {
  span list = {protocols, protocols != NULL ? strlen(protocols) : 0}, part;
  while (cut(&list, ',', &part)) {
    part = without_blanks(part);
    if (part.length == wanted.length && memcmp(part.text, wanted.text, part.length) == 0) return true;
  }
  return false;
}

typedef struct found {
  bool upgrade, connection, extensions, folded;
  unsigned accepts, protocols;
  span accept, protocol;
} found;

static void look_at_header(found *f, span name, span value) {
  if (is_word(name, "upgrade")) {
    f->upgrade = f->upgrade || lists_word(value, "websocket");
  } else if (is_word(name, "connection")) {
    f->connection = f->connection || lists_word(value, "upgrade");
  } else if (is_word(name, "sec-websocket-accept")) {
    f->accepts++;
    f->accept = value;
  } else if (is_word(name, "sec-websocket-protocol")) {
    f->protocols++;
    f->protocol = value;
  } else if (is_word(name, "sec-websocket-extensions")) {
    f->extensions = f->extensions || value.length > 0;
  }
}

static found read_head(const rvl_http1 *answer) {
  found f = {0};
  span rest = {answer->head.data, answer->head.length}, line;
  cut(&rest, '\n', &line);   /* the status line */
  while (cut(&rest, '\n', &line)) {
    if (line.length > 0 && line.text[line.length - 1] == '\r') line.length--;
    if (line.length == 0) continue;
    if (is_blank(line.text[0])) f.folded = true;
    span name;
    cut(&line, ':', &name);
    if (line.text != NULL) look_at_header(&f, without_blanks(name), without_blanks(line));
  }
  return f;
}

const char *rvl_websocket_judge_answer(const rvl_http1 *answer, const rvl_websocket_offer *offer, const char **protocol,
                                       size_t *protocol_length) {
  found f = read_head(answer);
  char accept[RVL_WEBSOCKET_ACCEPT_SIZE];
  rvl_websocket_accept(offer->key, strlen(offer->key), accept);
  *protocol = NULL;
  *protocol_length = 0;
  if (f.folded) return "a header of the answer goes on in a second line";
  if (!f.upgrade) return "the answer does not say \"Upgrade: websocket\"";
  if (!f.connection) return "the answer does not say \"Connection: Upgrade\"";
  if (f.accepts != 1 || f.accept.length != sizeof accept || memcmp(f.accept.text, accept, sizeof accept) != 0)
    return "the answer's Sec-WebSocket-Accept does not belong to this request";
  if (f.extensions) return "the server wants an extension that was not offered";
  if (f.protocols > 1 || (f.protocols == 1 && !offers(offer->protocols, f.protocol)))
    return "the server wants a subprotocol that was not offered";
  if (f.protocols == 1) {
    *protocol = f.protocol.text;
    *protocol_length = f.protocol.length;
  }
  return NULL;
}
