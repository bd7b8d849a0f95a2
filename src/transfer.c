#include "alpn.h"
#include "net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_IDLE_CONNECTIONS 256L
/* Older ones fail when they reuse a connection that was opened with prior knowledge of HTTP/2. */
#define FIRST_SOUND_HTTP2 0x080000u

/* ---- the ends of a transfer --------------------------------------------------------------------- */

static void release_url(rvl_transfer *t) {
  if (t->url != NULL) t->url->users--;
  t->url = NULL;
}

void rvl_net_unlink(rvl_transfer *t) {
  rvl_net *net = t->net;
  release_url(t);
  if (t->previous != NULL) t->previous->next = t->next;
  else net->transfers = t->next;
  if (t->next != NULL) t->next->previous = t->previous;
  t->previous = t->next = NULL;
  net->stats.in_flight--;
}

/* A handle that only connected or streamed a body is not kept: libcurl does not forget that when told to POST. */
static void give_back(rvl_net *net, CURL *easy, bool special) {
  if (net->pool_count < RVL_MAX_POOLED && !special) net->pool[net->pool_count++] = easy;
  else net->curl->easy_cleanup(easy);
}

void rvl_net_fail(rvl_transfer *t, rvl_failure failure, const char *reason) {
  if (t->failure != RVL_NO_FAILURE) return;
  t->failure = failure;
  t->reason = reason;
}

/* libcurl closes a socket whose connection did not come about without a word to anybody. */
static void drop_attempts(rvl_transfer *t) {
  rvl_net *net = t->net;
  for (size_t i = 0; t->opened && i < net->watch_room; i++)
    if (net->watches[i] != NULL && net->watches[i]->opener == t) rvl_net_drop_watch(net, net->watches[i]);
}

/* Takes the transfer out of libcurl's hands. */
static void detach(rvl_transfer *t) {
  rvl_net *net = t->net;
  CURL *easy = t->easy;
  t->easy = NULL;
  rvl_timer_stop(net->loop, &t->timer);
  rvl_net_unlink(t);
  rvl_pipe_guard g = rvl_pipe_guard_enter(net);
  net->curl->multi_remove_handle(net->multi, easy);
  rvl_pipe_guard_leave(&g);
  drop_attempts(t);
  give_back(net, easy, t->plain || t->request.duplex != NULL || t->request.stream_body);
}

void rvl_net_finish(rvl_transfer *t) {
  t->ended = rvl_now();
  t->phase = RVL_DONE;
  t->notify(t);
}

static rvl_failure classify(CURLcode code, const rvl_transfer *t) {
  switch (code) {
    case CURLE_OK: return RVL_NO_FAILURE;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY: return RVL_FAIL_DNS;
    case CURLE_COULDNT_CONNECT:
      return RVL_FAIL_CONNECT;
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
      return t->receiving ? RVL_FAIL_PROTOCOL : RVL_FAIL_CONNECT;
    case CURLE_GOT_NOTHING:
    case CURLE_PROXY:
    case CURLE_INTERFACE_FAILED: return RVL_FAIL_CONNECT;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR: return RVL_FAIL_TLS;
    case CURLE_OPERATION_TIMEDOUT: return RVL_FAIL_TIMEOUT;
    case CURLE_URL_MALFORMAT: return RVL_FAIL_ARGUMENT;
    case CURLE_UNSUPPORTED_PROTOCOL: 
      return t->connected != 0 ? RVL_FAIL_PROTOCOL : RVL_FAIL_ARGUMENT;   /* an answer in HTTP/0.9; or the URL */
    case CURLE_OUT_OF_MEMORY: return RVL_FAIL_MEMORY;
    default: return RVL_FAIL_PROTOCOL;
  }
}

/* What happened to a lost connection, where libcurl tells of its own calls; NULL: libcurl says it. */
static const char *describe_loss(CURLcode code, const rvl_transfer *t) {
  switch (code) {
    case CURLE_PARTIAL_FILE: return "the answer was cut off: the server closed the connection in the middle";
    case CURLE_GOT_NOTHING: return "the server closed the connection without an answer";
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
      if (t->receiving) return "the answer was cut off: the connection was lost in the middle";
      return t->connected != 0 ? "the connection was lost before the answer" : NULL;
    default: return NULL;
  }
}

/* Makes libcurl forget who a handle works for. */
static void disown(rvl_net *net, CURL *easy) {
  const rvl_curl_api *curl = net->curl;
  curl->easy_setopt(easy, CURLOPT_PRIVATE, NULL);
  curl->easy_setopt(easy, CURLOPT_HEADERDATA, NULL);
  curl->easy_setopt(easy, CURLOPT_WRITEDATA, NULL);
  curl->easy_setopt(easy, CURLOPT_READDATA, NULL);
  curl->easy_setopt(easy, CURLOPT_PREREQDATA, NULL);
  curl->easy_setopt(easy, CURLOPT_OPENSOCKETDATA, NULL);
  curl->easy_setopt(easy, CURLOPT_SSL_CTX_DATA, NULL);
  curl->easy_setopt(easy, CURLOPT_ERRORBUFFER, NULL);
  curl->easy_setopt(easy, CURLOPT_CURLU, NULL);
}

/* The connection is open, and not for libcurl to use. */
static void hand_over(rvl_transfer *t) {
  CURL *easy = t->easy;
  t->easy = NULL;
  release_url(t);
  disown(t->net, easy);
  if (t->plain) rvl_http1_adopt(t, easy);
  else rvl_duplex_adopt(t, easy);
  drop_attempts(t);
}

static void complete(rvl_transfer *t, CURLcode code) {
  const rvl_curl_api *curl = t->net->curl;
  bool connects = t->plain || t->request.duplex != NULL;
  if (connects && code == CURLE_OK && t->failure == RVL_NO_FAILURE) {
    hand_over(t);
    return;
  }
  long reconnects = 0;
  curl->easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &reconnects);
  t->reused = reconnects == 0 && t->connected != 0;
  if (t->reused) t->net->stats.reused++;
  detach(t);
  if (code == CURLE_OK && t->status < 200) rvl_net_fail(t, RVL_FAIL_PROTOCOL, "the answer was cut off in its headers");
  if (code == CURLE_OUT_OF_MEMORY && t->receiving && !t->complete_head) {   /* libcurl's own bound */
    t->limit = CURL_MAX_HTTP_HEADER;
    rvl_net_fail(t, RVL_FAIL_LIMIT, "the headers of the answer are too large");
  }
  if (code != CURLE_OK && t->failure == RVL_NO_FAILURE) {
    const char *reason = describe_loss(code, t);
    if (reason == NULL && t->message[0] == '\0') reason = curl->easy_strerror(code);
    rvl_net_fail(t, classify(code, t), reason);
    if (t->failure == RVL_FAIL_TIMEOUT) {
      t->timed_out = "connect";
      t->limit = t->request.connect;
    }
  }
  rvl_net_finish(t);
}

static void release_parked(rvl_net *net, CURL *easy) {
  for (rvl_parked **p = &net->parked; *p != NULL; p = &(*p)->next) {
    if ((*p)->easy != easy) continue;
    rvl_parked *gone = *p;
    *p = gone->next;
    net->curl->multi_remove_handle(net->multi, easy);
    net->curl->easy_cleanup(easy);
    free(gone);
    return;
  }
}

/* Hands finished transfers to their owners. */
void rvl_net_collect(rvl_net *net) {
  CURLMsg *message;
  int left;
  while ((message = net->curl->multi_info_read(net->multi, &left)) != NULL) {
    if (message->msg != CURLMSG_DONE) continue;
    CURL *easy = message->easy_handle;
    CURLcode code = message->data.result;
    rvl_transfer *t = NULL;
    net->curl->easy_getinfo(easy, CURLINFO_PRIVATE, &t);
    if (t != NULL) complete(t, code);
    else release_parked(net, easy);
  }
}

/* ---- deadlines ---------------------------------------------------------------------------------- */

typedef struct deadline {
  uint64_t due, limit;
  const char *name;
} deadline;

static void nearer(deadline *d, const char *name, uint64_t from, uint64_t limit) {
  if (limit == 0) return;
  if (d->due == 0 || from + limit < d->due) *d = (deadline){from + limit, limit, name};
}

static deadline next_deadline(const rvl_transfer *t) {
  const rvl_request *r = &t->request;
  deadline d = {0};
  if (t->queued) return d;
  nearer(&d, "total", t->turn != 0 ? t->turn : t->started, r->total);
  if (t->connected == 0) {
    nearer(&d, "connect", t->opening, r->connect);
  } else if (!t->receiving) {
    uint64_t from = t->heard > t->connected ? t->heard : t->connected;
    nearer(&d, t->sending ? "idle" : "first_byte", from, t->sending ? r->idle : r->first_byte);
  } else if (!t->receive_paused) {
    nearer(&d, "idle", t->heard, r->idle);
  }
  return d;
}

/* How far libcurl is with a body that it has in one piece. */
void rvl_net_look_at_upload(rvl_transfer *t) {
  if (t->easy == NULL || !t->sending || t->request.stream_body) return;
  curl_off_t sent = 0;
  t->net->curl->easy_getinfo(t->easy, CURLINFO_SIZE_UPLOAD_T, &sent);
  if ((size_t)sent > t->upload_sent) {
    t->upload_sent = (size_t)sent;
    t->heard = rvl_now();
  }
  t->sending = t->upload_sent < t->request.body_length;
}

static void on_deadline(rvl_timer *timer) {
  rvl_transfer *t = (rvl_transfer *)(void *)((char *)timer - offsetof(rvl_transfer, timer));
  rvl_net_look_at_upload(t);
  deadline d = next_deadline(t);
  if (d.due == 0) return;
  if (d.due > rvl_now()) {
    if (!rvl_timer_start(t->net->loop, timer, d.due)) rvl_net_fail(t, RVL_FAIL_MEMORY, "out of memory");
    return;
  }
  t->timed_out = d.name;
  t->limit = d.limit;
  rvl_net_fail(t, RVL_FAIL_TIMEOUT, NULL);
  rvl_transfer_cancel(t);
}

/* Only a deadline that may be nearer than the one set needs a change: later ones are found when it fires. */
void rvl_net_refresh_deadline(rvl_transfer *t) {
  deadline d = next_deadline(t);
  if (d.due == 0) return;
  if (t->timer.slot == 0 || d.due < t->timer.due) {
    if (!rvl_timer_start(t->net->loop, &t->timer, d.due)) rvl_net_fail(t, RVL_FAIL_MEMORY, "out of memory");
  }
}

/* ---- libcurl's callbacks: copy bytes, set flags, notify ------------------------------------------ */

/* Whether the connection is for HTTP/2, of duplex.c and over TLS. */
static bool wants_h2(const rvl_transfer *t) {
  return t->net->profile.alpn_h2 && t->request.duplex != NULL && strncmp(t->request.url, "https:", 6) == 0;
}

/* Whether the TLS that begins is the one with a proxy of https:, which libcurl asks for a tunnel by HTTP/1.1. */
static bool is_of_proxy(const rvl_transfer *t) {
  const char *proxy = t->net->profile.proxy;
  long tunnel = 0;
  if (proxy == NULL || strncasecmp(proxy, "https:", 6) != 0) return false;
  t->net->curl->easy_getinfo(t->easy, CURLINFO_HTTP_CONNECTCODE, &tunnel);
  return tunnel == 0;
}

static CURLcode on_ssl_context(CURL *easy, void *context, void *user) {
  (void)easy;
  rvl_transfer *t = user;
  if (t == NULL) return CURLE_ABORTED_BY_CALLBACK;
  if (is_of_proxy(t)) return CURLE_OK;
  const char *why = rvl_alpn_offer_h2(context);
  if (why == NULL) return CURLE_OK;
  rvl_net_fail(t, RVL_FAIL_UNSUPPORTED, why);
  return CURLE_SSL_CONNECT_ERROR;
}

static bool has_h2(rvl_transfer *t) {
  struct curl_tlssessioninfo *tls = NULL;
  t->net->curl->easy_getinfo(t->easy, CURLINFO_TLS_SSL_PTR, &tls);
  if (tls == NULL || tls->backend != CURLSSLBACKEND_OPENSSL || tls->internals == NULL) return false;
  return rvl_alpn_is_h2(tls->internals);
}

static int on_connected(void *user, char *a, char *b, int c, int d) {
  (void)a, (void)b, (void)c, (void)d;
  rvl_transfer *t = user;
  if (t == NULL) return CURL_PREREQFUNC_ABORT;
  if (wants_h2(t) && !has_h2(t)) {
    rvl_net_fail(t, RVL_FAIL_TLS, "the server does not speak HTTP/2 over TLS (it did not choose h2)");
    return CURL_PREREQFUNC_ABORT;
  }
  /* libcurl would send it again: the kept connection on which it was sent has been lost */
  if (t->connected != 0 && !t->request.repeatable) {
    rvl_net_fail(t, RVL_FAIL_CONNECT, "the connection was lost before the answer");
    return CURL_PREREQFUNC_ABORT;
  }
  if (t->opened && t->connected == 0) t->net->stats.connections++;
  t->connected = rvl_now();
  t->phase = RVL_SENT;
  t->sending = t->request.stream_body || t->request.body_length > 0;
  rvl_net_refresh_deadline(t);
  return CURL_PREREQFUNC_OK;
}

static size_t on_header(char *data, size_t size, size_t count, void *user) {
  rvl_transfer *t = user;
  size_t length = size * count;
  if (t == NULL || t->failure != RVL_NO_FAILURE) return 0;
  t->heard = rvl_now();
  if (!t->receiving) {
    t->receiving = true;
    rvl_net_refresh_deadline(t);
  }
  bool starts_answer = length >= 5 && memcmp(data, "HTTP/", 5) == 0;
  if (t->complete_head) {
    if (starts_answer && t->body_total == 0) {   /* the one before was 100-continue or a proxy's */
      t->head.length = 0;
      t->complete_head = false;
    } else if (t->trailers == 0) {
      t->trailers = t->head.length;
    }
  }
  if (t->head.length + length > RVL_MAX_HEAD) {
    t->limit = RVL_MAX_HEAD;
    rvl_net_fail(t, RVL_FAIL_LIMIT, "the headers of the answer are too large");
    return 0;
  }
  if (!rvl_bytes_append(&t->head, data, length)) {
    rvl_net_fail(t, RVL_FAIL_MEMORY, "out of memory");
    return 0;
  }
  if (!t->complete_head && length <= 2 && (data[0] == '\r' || data[0] == '\n')) {
    t->complete_head = true;
    t->net->curl->easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &t->status);
    if (t->status >= 200) {
      long version = CURL_HTTP_VERSION_NONE;
      t->net->curl->easy_getinfo(t->easy, CURLINFO_HTTP_VERSION, &version);
      t->http_version = version == CURL_HTTP_VERSION_1_0   ? 10
                        : version == CURL_HTTP_VERSION_1_1 ? 11
                        : version == CURL_HTTP_VERSION_2_0 ? 20
                        : version == CURL_HTTP_VERSION_3   ? 30
                                                           : 0;
      t->phase = RVL_HEADERS;
      if (t->request.stream) t->notify(t);
    }
  }
  return length;
}

static size_t on_body(char *data, size_t size, size_t count, void *user) {
  rvl_transfer *t = user;
  size_t length = size * count;
  if (t == NULL || t->failure != RVL_NO_FAILURE) return 0;
  t->heard = rvl_now();
  if (length > t->request.max_body - t->body_total) {
    t->limit = t->request.max_body;
    rvl_net_fail(t, RVL_FAIL_LIMIT, "the answer is too large");
    return 0;
  }
  if (t->request.stream && t->body.length - t->body_read >= t->request.high_water) {
    t->receive_paused = true;
    return CURL_WRITEFUNC_PAUSE;
  }
  if (!rvl_bytes_append(&t->body, data, length)) {
    rvl_net_fail(t, RVL_FAIL_MEMORY, "out of memory");
    return 0;
  }
  t->body_total += length;
  if (t->request.stream) t->notify(t);
  return length;
}

static size_t on_upload(char *data, size_t size, size_t count, void *user) {
  rvl_transfer *t = user;
  if (t == NULL || t->failure != RVL_NO_FAILURE) return CURL_READFUNC_ABORT;
  size_t unsent = t->upload.length - t->upload_sent;
  if (unsent == 0) {
    if (t->upload_ended) return 0;
    t->send_paused = true;
    return CURL_READFUNC_PAUSE;
  }
  size_t length = size * count < unsent ? size * count : unsent;
  memcpy(data, t->upload.data + t->upload_sent, length);
  t->upload_sent += length;
  t->heard = rvl_now();
  if (t->upload_sent == t->upload.length) t->upload.length = t->upload_sent = 0;
  t->notify(t);
  return length;
}

/* ---- parsed URLs --------------------------------------------------------------------------------- */

static void free_url(const rvl_net *net, rvl_parsed_url *u) {
  if (u->handle != NULL) net->curl->url_cleanup(u->handle);
  free(u->text);
  *u = (rvl_parsed_url){0};
}

/* The parsed form of a URL, or NULL: libcurl shall then take the text and say what is wrong with it. */
static rvl_parsed_url *take_url(rvl_net *net, const char *text) {
  rvl_parsed_url *free_place = NULL;
  for (unsigned i = 0; i < RVL_MAX_URLS; i++) {
    rvl_parsed_url *u = &net->urls[(net->url_hand + i) % RVL_MAX_URLS];
    if (u->text != NULL && strcmp(u->text, text) == 0) {
      net->url_hand = (net->url_hand + i) % RVL_MAX_URLS;
      u->users++;
      return u;
    }
    if (u->users == 0) free_place = u;   /* the last one looked at: least recently asked for */
  }
  if (free_place == NULL) return NULL;
  free_url(net, free_place);
  free_place->handle = net->curl->url();
  free_place->text = strdup(text);
  if (free_place->handle == NULL || free_place->text == NULL ||
      net->curl->url_set(free_place->handle, CURLUPART_URL, text, 0) != CURLUE_OK) {
    free_url(net, free_place);
    return NULL;
  }
  free_place->users = 1;
  return free_place;
}

/* ---- setting a handle up ------------------------------------------------------------------------- */

/* What holds for all transfers of a client. */
static CURLcode set_up_handle(rvl_net *net, CURL *easy) {
  const rvl_curl_api *curl = net->curl;
  static const long versions[] = {
      [RVL_HTTP_AUTO] = CURL_HTTP_VERSION_2TLS,
      [RVL_HTTP_1_1] = CURL_HTTP_VERSION_1_1,
      [RVL_HTTP_2] = CURL_HTTP_VERSION_2_0,
      [RVL_HTTP_2_PRIOR] = CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE,
  };
  const rvl_profile *profile = &net->profile;
  CURLcode err = CURLE_OK;
#define SET(option, value) \
  if (err == CURLE_OK) err = curl->easy_setopt(easy, option, value)
  SET(CURLOPT_NOSIGNAL, 1L);
  SET(CURLOPT_HEADERFUNCTION, on_header);
  SET(CURLOPT_WRITEFUNCTION, on_body);
  SET(CURLOPT_READFUNCTION, on_upload);
  SET(CURLOPT_PREREQFUNCTION, on_connected);
  SET(CURLOPT_OPENSOCKETFUNCTION, rvl_net_on_open);
  SET(CURLOPT_CLOSESOCKETFUNCTION, rvl_net_on_close);
  SET(CURLOPT_CLOSESOCKETDATA, net);
#if LIBCURL_VERSION_NUM >= 0x075500
  SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
  SET(CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
  SET(CURLOPT_HTTP_VERSION, versions[profile->http_version]);
  if (profile->http_version == RVL_HTTP_2_PRIOR) {
    if (curl->version_info(CURLVERSION_NOW)->version_num >= FIRST_SOUND_HTTP2) {
      SET(CURLOPT_PIPEWAIT, 1L);
    } else {
      SET(CURLOPT_FRESH_CONNECT, 1L);
      SET(CURLOPT_FORBID_REUSE, 1L);
    }
  }
  SET(CURLOPT_CONNECTTIMEOUT_MS, 86400000L);   /* our own deadline ends it; libcurl's default is 300 s */
  SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  if (profile->proxy != NULL) SET(CURLOPT_PROXY, profile->proxy);
  if (profile->ca_file != NULL) SET(CURLOPT_CAINFO, profile->ca_file);
  if (profile->unix_socket != NULL) SET(CURLOPT_UNIX_SOCKET_PATH, profile->unix_socket);
  if (profile->decompress) SET(CURLOPT_ACCEPT_ENCODING, "");
  if (!profile->verify) {
    SET(CURLOPT_SSL_VERIFYPEER, 0L);
    SET(CURLOPT_SSL_VERIFYHOST, 0L);
  }
  return err;
}

/* Whether the system's authorities are in one file (and not only in a folder). */
static bool has_bundle(const rvl_curl_api *curl) {
  const curl_version_info_data *v = curl->version_info(CURLVERSION_NOW);
  return v->age >= CURLVERSION_SEVENTH && v->cainfo != NULL;
}

/* For a connection that is handed over: there may be many, open for hours. */
static CURLcode set_up_duplex(rvl_net *net, rvl_transfer *t) {
  const rvl_curl_api *curl = net->curl;
  CURL *easy = t->easy;
  CURLcode err = CURLE_OK;
  SET(CURLOPT_CONNECT_ONLY, 1L);
  SET(CURLOPT_HTTPPROXYTUNNEL, 1L);
  SET(CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);   /* what TLS offers */
  if (wants_h2(t)) {
    const char *why = rvl_alpn_check(curl->version_info(CURLVERSION_NOW)->ssl_version);
    if (why != NULL) {   /* another library's contexts must not come to on_ssl_context */
      rvl_net_fail(t, RVL_FAIL_UNSUPPORTED, why);
      return CURLE_NOT_BUILT_IN;
    }
    SET(CURLOPT_SSL_ENABLE_ALPN, 0L);
    SET(CURLOPT_SSL_CTX_FUNCTION, on_ssl_context);
    SET(CURLOPT_SSL_CTX_DATA, t);
  }
  SET(CURLOPT_BUFFERSIZE, 1024L);
  /*
  ** libcurl keeps the authorities of a file for all connections, but reads those of a folder for each: 0.8 MB. Not all
  ** TLS libraries know folders.
  */
  if (net->profile.ca_file != NULL || has_bundle(curl)) curl->easy_setopt(easy, CURLOPT_CAPATH, NULL);
  return err;
}

static CURLcode set_up_request(rvl_net *net, rvl_transfer *t) {
  const rvl_curl_api *curl = net->curl;
  const rvl_request *r = &t->request;
  CURL *easy = t->easy;
  CURLcode err = CURLE_OK;
  SET(CURLOPT_PRIVATE, t);
  SET(CURLOPT_HEADERDATA, t);
  SET(CURLOPT_WRITEDATA, t);
  SET(CURLOPT_READDATA, t);
  SET(CURLOPT_PREREQDATA, t);
  SET(CURLOPT_OPENSOCKETDATA, t);
  SET(CURLOPT_ERRORBUFFER, t->message);
  t->url = take_url(net, r->url);
  SET(CURLOPT_CURLU, t->url != NULL ? t->url->handle : NULL);
  if (t->url == NULL) SET(CURLOPT_URL, r->url);
  if (r->headers != NULL) SET(CURLOPT_HTTPHEADER, r->headers->list);
  if (t->plain) {
    SET(CURLOPT_CONNECT_ONLY, 1L);
  } else if (r->duplex != NULL) {
    if (err == CURLE_OK) err = set_up_duplex(net, t);
  } else if (r->stream_body) {
    SET(CURLOPT_UPLOAD, 1L);
    SET(CURLOPT_INFILESIZE_LARGE, (curl_off_t)r->stream_length);
  } else if (r->body != NULL || rvl_http1_expects_body(r->method)) {
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_length);
    SET(CURLOPT_POSTFIELDS, r->body != NULL ? r->body : "");
  } else if (strcmp(r->method, "HEAD") == 0) {
    SET(CURLOPT_NOBODY, 1L);
  } else {
    SET(CURLOPT_HTTPGET, 1L);
  }
  if (!t->plain && r->duplex == NULL) SET(CURLOPT_CUSTOMREQUEST, r->method);
#undef SET
  return err;
}

/* ---- the interface ------------------------------------------------------------------------------- */

static bool refuse(rvl_transfer *t, rvl_failure failure, const char *reason) {
  rvl_net_fail(t, failure, reason);
  t->phase = RVL_DONE;
  t->ended = rvl_now();
  return false;
}

/* Hands the transfer to libcurl; false: it would not have it, see failure. */
static bool begin(rvl_transfer *t) {
  rvl_net *net = t->net;
  bool ready = net->pool_count > 0;
  t->easy = ready ? net->pool[--net->pool_count] : net->curl->easy_init();
  CURLcode err = t->easy == NULL ? CURLE_OUT_OF_MEMORY : ready ? CURLE_OK : set_up_handle(net, t->easy);
  if (err == CURLE_OK) err = set_up_request(net, t);
  bool may_be_proxied = net->profile.proxy == NULL || net->profile.proxy[0] != '\0';
  if (may_be_proxied || strncmp(t->request.url, "http:", 5) != 0) net->tls = true;
  if (err == CURLE_OK && net->curl->multi_add_handle(net->multi, t->easy) != CURLM_OK) err = CURLE_OUT_OF_MEMORY;
  if (err == CURLE_OK) {
    /* sends at once when a connection is open */
    rvl_net_socket_action(net, CURL_SOCKET_TIMEOUT, 0);
    rvl_net_collect(net);
    return true;
  }
  net->curl->easy_cleanup(t->easy);
  t->easy = NULL;
  rvl_net_fail(t, classify(err, t), t->message[0] == '\0' ? net->curl->easy_strerror(err) : NULL);
  return false;
}

bool rvl_net_connect(rvl_transfer *t) { return begin(t); }

void rvl_net_disconnect(rvl_net *net, CURL *easy) {
  net->curl->multi_remove_handle(net->multi, easy);
  net->curl->easy_cleanup(easy);
}

bool rvl_transfer_start(rvl_net *net, rvl_transfer *t, const rvl_request *request,
                        void (*notify)(rvl_transfer *)) {
  t->net = net;
  t->request = *request;
  t->notify = notify;
  t->timer.fire = on_deadline;
  t->phase = RVL_CONNECTING;
  t->started = t->opening = rvl_now();
  if (rvl_loop_is_forked(net->loop))
    return refuse(t, RVL_FAIL_ARGUMENT,
                  "this process was forked from the one that opened the connections; make a new runtime in it");
  t->next = net->transfers;
  if (t->next != NULL) t->next->previous = t;
  net->transfers = t;
  net->stats.requests++;
  net->stats.in_flight++;
  rvl_net_refresh_deadline(t);
  t->plain = request->duplex == NULL && rvl_http1_suits(t);
  if (t->plain ? rvl_http1_start(t) : begin(t)) return true;
  rvl_timer_stop(net->loop, &t->timer);
  rvl_net_unlink(t);
  return refuse(t, RVL_FAIL_MEMORY, "out of memory");
}

static void resume(rvl_transfer *t) {
  rvl_net *net = t->net;
  rvl_pipe_guard g = rvl_pipe_guard_enter(net);
  net->curl->easy_pause(t->easy, (t->send_paused ? CURLPAUSE_SEND : 0) | (t->receive_paused ? CURLPAUSE_RECV : 0));
  rvl_pipe_guard_leave(&g);
}

bool rvl_transfer_write(rvl_transfer *t, const char *data, size_t length) {
  if (!rvl_bytes_append(&t->upload, data, length)) return false;
  if (t->send_paused && t->easy != NULL) {
    t->send_paused = false;
    t->heard = rvl_now();
    resume(t);
  }
  return true;
}

void rvl_transfer_end_body(rvl_transfer *t) {
  t->upload_ended = true;
  t->sending = false;
  t->heard = rvl_now();
  if (t->easy == NULL) return;
  rvl_net_refresh_deadline(t);
  if (t->send_paused) {
    t->send_paused = false;
    resume(t);
  }
}

size_t rvl_transfer_unsent(const rvl_transfer *t) { return t->upload.length - t->upload_sent; }

void rvl_transfer_consume(rvl_transfer *t, size_t length) {
  t->body_read += length;
  if (t->body_read == t->body.length) {
    t->body.length = t->body_read = 0;
  } else if (t->body_read > t->body.length / 2) {
    memmove(t->body.data, t->body.data + t->body_read, t->body.length - t->body_read);
    t->body.length -= t->body_read;
    t->body_read = 0;
  }
  if (t->receive_paused && t->easy != NULL && t->body.length - t->body_read < t->request.high_water) {
    t->receive_paused = false;
    t->heard = rvl_now();
    rvl_net_refresh_deadline(t);
    resume(t);
  }
}

/* Whether removing the transfer could have to wait for a resolver thread. */
static bool is_resolving(const rvl_transfer *t) {
  return !t->opened && t->connected == 0 && t->net->profile.unix_socket == NULL;
}

void rvl_transfer_cancel(rvl_transfer *t) {
  if (t->phase == RVL_DONE) return;
  rvl_net *net = t->net;
  rvl_net_fail(t, RVL_FAIL_CANCELLED, "it was closed before it was done");
  if (rvl_loop_is_forked(net->loop)) {   /* the connection, and libuv's epoll, are the parent's too */
    t->easy = NULL;
    t->http1 = NULL;
    rvl_net_finish(t);
    return;
  }
  rvl_parked *p = t->easy != NULL && is_resolving(t) ? malloc(sizeof *p) : NULL;
  if (p != NULL) {
    *p = (rvl_parked){net->parked, t->easy};
    net->parked = p;
    disown(net, t->easy);
    t->easy = NULL;
    rvl_timer_stop(net->loop, &t->timer);
    rvl_net_unlink(t);
  } else if (t->easy != NULL) {
    detach(t);
  } else {
    if (t->http1 != NULL) rvl_http1_abandon(t);
    rvl_timer_stop(net->loop, &t->timer);
    rvl_net_unlink(t);
  }
  rvl_net_finish(t);
}

void rvl_transfer_drop_body(rvl_transfer *t) { rvl_bytes_free(&t->body); }

void rvl_transfer_free(rvl_transfer *t) {
  if (t->net != NULL) rvl_transfer_cancel(t);
  rvl_bytes_free(&t->head);
  rvl_bytes_free(&t->body);
  rvl_bytes_free(&t->upload);
}

rvl_net *rvl_net_new(rvl_loop *loop, const rvl_curl_api *curl, const rvl_profile *profile) {
  rvl_net *net = calloc(1, sizeof *net);
  if (net == NULL) return NULL;
  net->loop = loop;
  net->curl = curl;
  net->profile = *profile;
  net->timer.fire = rvl_net_on_curl_due;
  net->multi = curl->multi_init();
  if (net->multi == NULL) {
    free(net);
    return NULL;
  }
  net->curl->multi_setopt(net->multi, CURLMOPT_SOCKETFUNCTION, rvl_net_on_curl_socket);
  net->curl->multi_setopt(net->multi, CURLMOPT_SOCKETDATA, net);
  net->curl->multi_setopt(net->multi, CURLMOPT_TIMERFUNCTION, rvl_net_on_curl_timer);
  net->curl->multi_setopt(net->multi, CURLMOPT_TIMERDATA, net);
  net->curl->multi_setopt(net->multi, CURLMOPT_MAXCONNECTS, MAX_IDLE_CONNECTIONS);
  return net;
}

void rvl_net_free(rvl_net *net) {
  if (rvl_loop_is_forked(net->loop)) return;   /* everything in it is the parent's */
  while (net->transfers != NULL) rvl_transfer_cancel(net->transfers);
  rvl_http1_close_all(net);
  rvl_duplex_close_all(net);
  rvl_timer_stop(net->loop, &net->timer);
  for (size_t i = 0; i < net->pool_count; i++) net->curl->easy_cleanup(net->pool[i]);
  for (size_t i = 0; i < RVL_MAX_URLS; i++) free_url(net, &net->urls[i]);
  if (net->parked == NULL) {
    rvl_pipe_guard g = rvl_pipe_guard_enter(net);
    net->curl->multi_cleanup(net->multi);
    rvl_pipe_guard_leave(&g);
    for (size_t i = 0; i < net->watch_room; i++)
      if (net->watches[i] != NULL) rvl_net_drop_watch(net, net->watches[i]);
    free(net->watches);
    free(net);
    return;
  }
  /*
  ** A name is still being resolved: cleaning up would wait for it, possibly for minutes, and libcurl would call
  ** back later. The handles are given up (the process is ending, or the loss is one resolver's worth).
  */
  for (size_t i = 0; i < net->watch_room; i++)
    if (net->watches[i] != NULL) rvl_net_drop_watch(net, net->watches[i]);
}

const rvl_net_stats *rvl_net_stats_of(const rvl_net *net) { return &net->stats; }
