/*
** The heartbeat of a training session: a thread with a loop and a connection of its own tells the service again and
** again that the session is alive, whatever the thread that started it does meanwhile. No Lua.
**
** All functions are for the thread that started it (or one that has taken its place).
*/
#ifndef RVL_HEARTBEAT_H
#define RVL_HEARTBEAT_H

#include "grpc_channel.h"

#define RVL_HEARTBEAT_TEXT 512

typedef struct rvl_heartbeat rvl_heartbeat;

/* Times in ns. Everything is copied, except `curl`, which must outlive the heartbeat, and the metadata: see start. */
typedef struct rvl_heartbeat_options {
  const rvl_curl_api *curl;
  rvl_profile profile;
  rvl_grpc_options channel;    /* its metadata is not looked at */
  rvl_grpc_metadata metadata;  /* of every request */
  const char *session_id;
  uint64_t interval;           /* from the start of one beat to the start of the next; never two at once */
  uint64_t deadline;           /* of one attempt */
  uint64_t pause;              /* between the first attempt and the second; then twice as long each time */
  unsigned attempts;           /* of one beat, at least 1 */
} rvl_heartbeat_options;

typedef struct rvl_heartbeat_state {
  uint64_t beats, attempts, failures, rejections, connections;
  uint64_t started, last_success;   /* rvl_now; last_success is 0 before the first */
  bool failing;                /* the last beat failed; the rest says how its last attempt did */
  bool refused;                /* the service answered, with success = false */
  int status;                  /* rvl_grpc_code, unless refused */
  char text[RVL_HEARTBEAT_TEXT];
} rvl_heartbeat_state;

/* The answer to a beat. */
typedef struct rvl_heartbeat_reply {
  rvl_grpc_message *message;   /* to be freed with free(); NULL: none */
  uint64_t sequence;           /* of the request, counted when it was sent, from 1 */
  uint64_t arrived;            /* rvl_now */
} rvl_heartbeat_reply;

/*
** Starts beating; the first beat is one interval away. Takes the metadata over (it is empty afterwards) whatever comes
** of it. NULL: `*why` (static) says why not.
*/
rvl_heartbeat *rvl_heartbeat_start(rvl_heartbeat_options *options, const char **why);
void rvl_heartbeat_read(rvl_heartbeat *heartbeat, rvl_heartbeat_state *state);
/* Whether the last beat failed: what a healthy one is asked before every wait. */
bool rvl_heartbeat_is_failing(rvl_heartbeat *heartbeat);
/* The latest good answer that has not been taken. */
rvl_heartbeat_reply rvl_heartbeat_take(rvl_heartbeat *heartbeat);
/* Whether this process was forked from the one that has the thread: then only stop may be called, and does nothing. */
bool rvl_heartbeat_is_forked(const rvl_heartbeat *heartbeat);
/* Ends the thread, whatever it is doing, and frees everything. Does not wait for the network. */
void rvl_heartbeat_stop(rvl_heartbeat *heartbeat);

/*
** The field `success` of a SessionHeartbeatResponse; false: that is no message. What else is in it is only skipped.
*/
bool rvl_heartbeat_read_success(const char *data, size_t length, bool *success);

#endif
