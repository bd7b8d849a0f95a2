#include "heartbeat.h"

#include "protobuf_wire.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define METHOD "/river.api.v1.RiverService/SessionHeartbeat"
/* Fields of SessionHeartbeatRequest and SessionHeartbeatResponse. */
#define SESSION_ID 1u
#define SUCCESS 1u
/* Of address space; what is not touched costs nothing. */
#define STACK_SIZE (512u * 1024u)
/* Some 500 observations of capacity; bad ones would need two hundred times as much as tables of Lua. */
#define REPLY_AT_MOST (64u * 1024u)
/* Before another attempt at what there was no memory for. */
#define STARVED_NS 10000000L

struct rvl_heartbeat {
  /* set before the thread starts */
  rvl_heartbeat_options options;
  rvl_bytes texts;             /* what the options point to */
  rvl_bytes request;           /* the message, which is the same every time */
  rvl_loop loop;
  bool loop_open;
  pthread_mutex_t lock;        /* guards `state` and `reply` */
  pthread_t thread;
  atomic_bool stopping;
  /* shared */
  rvl_heartbeat_state state;   /* only the thread writes */
  rvl_heartbeat_reply reply;
  /* the thread's */
  rvl_net *net;
  rvl_grpc_channel *channel;   /* NULL: to be made */
  uint64_t connections;        /* of this channel that have been counted */
  rvl_grpc_call call;
  bool calling;
  rvl_timer timer;             /* ends the wait for `due` */
  uint64_t due;                /* when the next attempt is made, unless one is under way */
  uint64_t begun;              /* when this beat began; 0: between beats */
  unsigned attempt;            /* of this beat, from 1 */
  uint64_t pause, sequence;
};

/* ---- one attempt --------------------------------------------------------------------------------------- */

/* How an attempt ended. */
typedef struct outcome {
  bool good, refused, transport;   /* transport: it may have been the connection's fault */
  int status;
  const char *text;
  size_t length;
} outcome;

static void on_call(rvl_grpc_call *call) { (void)call; }   /* ends a step of the loop; `turn` looks */
static void on_due(rvl_timer *timer) { (void)timer; }

static outcome failed(int status, const char *text) {
  bool transport = status == RVL_GRPC_UNAVAILABLE || status == RVL_GRPC_DEADLINE_EXCEEDED;
  return (outcome){.status = status, .transport = transport, .text = text, .length = strlen(text)};
}

bool rvl_heartbeat_read_success(const char *data, size_t length, bool *success) {
  const uint8_t *start = (const uint8_t *)data;
  rvl_wire_reader r = {start, start + length};
  *success = false;
  while (rvl_wire_left(&r) > 0) {
    uint32_t number;
    rvl_wire wire;
    uint64_t value;
    if (!rvl_read_tag(&r, &number, &wire)) return false;
    if (number != SUCCESS || wire != RVL_WIRE_VARINT) {
      if (!rvl_skip_value(&r, wire)) return false;
    } else {
      if (!rvl_read_varint(&r, &value)) return false;
      *success = value != 0;
    }
  }
  return true;
}

static outcome judge_message(const rvl_grpc_message *message) {
  if (message == NULL) return failed(RVL_GRPC_INTERNAL, "the answer has no message");
  bool success;
  if (!rvl_heartbeat_read_success(message->data, message->length, &success))
    return failed(RVL_GRPC_INTERNAL, "the answer cannot be read");
  if (success) return (outcome){.good = true};
  outcome o = failed(RVL_GRPC_OK, "the service says that it does not have the session");
  o.refused = true;
  return o;
}

static outcome judge_call(const rvl_grpc_call *call, const rvl_grpc_message *message) {
  if (call->status == RVL_GRPC_OK) return judge_message(message);
  outcome o = failed(call->status, "");
  o.text = call->details.data;
  o.length = call->details.length;
  return o;
}

/* No part of a character stays at the end. */
static void keep_text(rvl_heartbeat_state *state, const char *text, size_t length) {
  if (length >= sizeof state->text) {
    length = sizeof state->text - 1;
    while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) length--;
  }
  if (length > 0) memcpy(state->text, text, length);
  state->text[length] = '\0';
}

static void drop_channel(rvl_heartbeat *h) {
  if (h->channel == NULL) return;
  rvl_grpc_channel_free(h->channel);
  h->channel = NULL;
  h->connections = 0;
}

static void end_beat(rvl_heartbeat *h) {
  uint64_t now = rvl_now(), next = h->begun + h->options.interval;
  h->due = next > now ? next : now;
  h->begun = 0;
}

static uint64_t new_connections(rvl_heartbeat *h) {
  if (h->channel == NULL) return 0;
  uint64_t before = h->connections;
  h->connections = rvl_grpc_channel_stats(h->channel)->connections;
  return h->connections - before;
}

/* Another attempt, or the end of the beat. */
static void go_on(rvl_heartbeat *h, const outcome *o) {
  uint64_t connections = new_connections(h);
  bool over = o->good || h->attempt >= h->options.attempts;
  pthread_mutex_lock(&h->lock);
  rvl_heartbeat_state *s = &h->state;
  s->attempts++;
  s->connections += connections;
  if (o->refused) s->rejections++;
  if (over) {
    s->beats++;
    s->failing = !o->good;
  }
  if (o->good) {
    s->last_success = rvl_now();
  } else if (over) {
    s->failures++;
    s->refused = o->refused;
    s->status = o->status;
    keep_text(s, o->text, o->length);
  }
  pthread_mutex_unlock(&h->lock);
  if (over) {
    end_beat(h);
  } else {
    h->due = rvl_now() + h->pause;
    h->pause *= 2;
  }
}

static void offer_reply(rvl_heartbeat *h, rvl_grpc_message *message) {
  pthread_mutex_lock(&h->lock);
  rvl_grpc_message *old = h->reply.message;
  h->reply = (rvl_heartbeat_reply){message, h->sequence, rvl_now()};
  pthread_mutex_unlock(&h->lock);
  free(old);
}

static void end_attempt(rvl_heartbeat *h) {
  rvl_grpc_message *message = rvl_grpc_call_take(&h->call);
  outcome o = judge_call(&h->call, message);
  if (o.good) offer_reply(h, message);
  else free(message);
  go_on(h, &o);
  rvl_grpc_call_free(&h->call);
  h->calling = false;
  if (o.transport) drop_channel(h);
}

static void begin_attempt(rvl_heartbeat *h) {
  if (h->begun == 0) {
    h->begun = rvl_now();
    h->attempt = 0;
    h->pause = h->options.pause;
  }
  h->attempt++;
  if (h->channel == NULL) h->channel = rvl_grpc_channel_new(h->net, &h->options.channel);
  if (h->channel == NULL) {
    outcome o = failed(RVL_GRPC_UNAVAILABLE, "not enough memory");
    go_on(h, &o);
    return;
  }
  h->sequence++;
  h->call = (rvl_grpc_call){0};
  h->calling = true;
  rvl_grpc_request request = {
      .method = METHOD,
      .data = h->request.data,
      .length = h->request.length,
      .timeout = h->options.deadline,
      .max_message = REPLY_AT_MOST,
  };
  rvl_grpc_call_start(h->channel, &h->call, &request, on_call);
}

/* ---- the thread ---------------------------------------------------------------------------------------- */

static void turn(rvl_heartbeat *h) {
  while (!atomic_load(&h->stopping) && (h->calling ? h->call.done : rvl_now() >= h->due)) {
    if (h->calling) end_attempt(h);
    else begin_attempt(h);
  }
}

static void wait_for_more(rvl_heartbeat *h) {
  bool armed = h->calling || rvl_timer_start(&h->loop, &h->timer, h->due);
  rvl_loop_step(&h->loop, armed);
  if (!armed) nanosleep(&(struct timespec){.tv_nsec = STARVED_NS}, NULL);
}

static void *run(void *heartbeat) {
  rvl_heartbeat *h = heartbeat;
  while (!atomic_load(&h->stopping)) {
    turn(h);
    if (!atomic_load(&h->stopping)) wait_for_more(h);   /* a wake-up from here on ends the wait */
  }
  return NULL;
}

/* The host's signals are for its own threads; only what a fault of this thread raises comes here. */
static int start_thread(rvl_heartbeat *h) {
  static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
  sigset_t blocked, old;
  sigfillset(&blocked);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&blocked, faults[i]);
  pthread_attr_t attributes;
  int err = pthread_attr_init(&attributes);
  if (err != 0) return err;
  pthread_attr_setstacksize(&attributes, STACK_SIZE);
  pthread_sigmask(SIG_SETMASK, &blocked, &old);
  err = pthread_create(&h->thread, &attributes, run, h);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_attr_destroy(&attributes);
  return err;
}

/* ---- starting and stopping ----------------------------------------------------------------------------- */

/* Copies what the options point to. */
static bool keep_texts(rvl_heartbeat *h) {
  rvl_heartbeat_options *o = &h->options;
  const char **const fields[] = {&o->profile.proxy, &o->profile.ca_file, &o->profile.unix_socket, &o->channel.url,
                                 &o->channel.authority, &o->channel.user_agent, &o->session_id};
  size_t total = 0, count = sizeof fields / sizeof *fields;
  for (size_t i = 0; i < count; i++) total += *fields[i] != NULL ? strlen(*fields[i]) + 1 : 0;
  if (!rvl_bytes_reserve(&h->texts, total)) return false;   /* so that nothing moves from here on */
  for (size_t i = 0; i < count; i++) {
    if (*fields[i] == NULL) continue;
    size_t at = h->texts.length;
    if (!rvl_bytes_append(&h->texts, *fields[i], strlen(*fields[i]) + 1)) return false;
    *fields[i] = h->texts.data + at;
  }
  return true;
}

static bool make_request(rvl_heartbeat *h) {
  const char *id = h->options.session_id;
  size_t length = strlen(id);
  if (!rvl_bytes_reserve(&h->request, 1 + RVL_VARINT_MAX + length)) return false;
  if (length == 0) return true;   /* what is empty is left out */
  uint8_t *start = (uint8_t *)h->request.data;
  uint8_t *out = rvl_put_varint(start, SESSION_ID << 3 | RVL_WIRE_BYTES);
  out = rvl_put_varint(out, length);
  h->request.length = (size_t)(out - start);
  return rvl_bytes_append(&h->request, id, length);
}

static void destroy(rvl_heartbeat *h) {
  if (h->calling) rvl_grpc_call_free(&h->call);
  drop_channel(h);
  if (h->net != NULL) rvl_net_free(h->net);
  if (h->loop_open) rvl_loop_close(&h->loop);
  rvl_grpc_metadata_free(&h->options.metadata);
  rvl_bytes_free(&h->texts);
  rvl_bytes_free(&h->request);
  free(h->reply.message);
  free(h);
}

static const char *prepare(rvl_heartbeat *h) {
  h->options.channel.metadata = &h->options.metadata;
  h->timer.fire = on_due;
  h->state.started = rvl_now();
  h->due = h->state.started + h->options.interval;
  if (!keep_texts(h) || !make_request(h)) return "not enough memory";
  if (rvl_loop_init(&h->loop) != 0) return "no event loop can be opened";
  h->loop_open = true;
  h->net = rvl_net_new(&h->loop, h->options.curl, &h->options.profile);
  return h->net == NULL ? "not enough memory" : NULL;
}

rvl_heartbeat *rvl_heartbeat_start(rvl_heartbeat_options *options, const char **why) {
  rvl_heartbeat *h = calloc(1, sizeof *h);
  *why = "not enough memory";
  if (h == NULL) {
    rvl_grpc_metadata_free(&options->metadata);
    return NULL;
  }
  h->options = *options;
  options->metadata = (rvl_grpc_metadata){0};
  atomic_init(&h->stopping, false);
  *why = prepare(h);
  if (*why == NULL && pthread_mutex_init(&h->lock, NULL) != 0) *why = "no lock can be made";
  if (*why != NULL) {
    destroy(h);
    return NULL;
  }
  if (start_thread(h) != 0) {
    *why = "no thread can be started";
    pthread_mutex_destroy(&h->lock);
    destroy(h);
    return NULL;
  }
  return h;
}

bool rvl_heartbeat_is_forked(const rvl_heartbeat *h) { return rvl_loop_is_forked(&h->loop); }

void rvl_heartbeat_stop(rvl_heartbeat *h) {
  if (rvl_heartbeat_is_forked(h)) return;   /* all of it is the parent's */
  atomic_store(&h->stopping, true);
  rvl_loop_wake(&h->loop);
  pthread_join(h->thread, NULL);
  pthread_mutex_destroy(&h->lock);
  destroy(h);
}

/* ---- what it tells ------------------------------------------------------------------------------------- */

void rvl_heartbeat_read(rvl_heartbeat *h, rvl_heartbeat_state *state) {
  pthread_mutex_lock(&h->lock);
  *state = h->state;
  pthread_mutex_unlock(&h->lock);
}

bool rvl_heartbeat_is_failing(rvl_heartbeat *h) {
  pthread_mutex_lock(&h->lock);
  bool failing = h->state.failing;
  pthread_mutex_unlock(&h->lock);
  return failing;
}

rvl_heartbeat_reply rvl_heartbeat_take(rvl_heartbeat *h) {
  pthread_mutex_lock(&h->lock);
  rvl_heartbeat_reply reply = h->reply;
  h->reply.message = NULL;
  pthread_mutex_unlock(&h->lock);
  return reply;
}
