/*
 * bus/js.h - JetStream as the broker uses it: streams made and checked, messages read, fenced appends, small keys.
 *
 * Shape    Requests to $JS.API in JSON, over bus.h, because the library's structs differ between its versions and its calls block.
 *          Request and answer shapes: NATS ADR-1 (JetStream JSON API), ADR-8 (key-value buckets).
 * Threads  Called on a lane; completions run on the same lane.
 * Errors   MUSTER_ENOTFOUND: no such stream, message or key. MUSTER_ESTALE: refused by a fence. MUSTER_EEXIST: a stream with other
 *          settings. MUSTER_ENOMEM: the server's storage is full. MUSTER_EINVAL: refused otherwise. MUSTER_ELINK, MUSTER_ETIME: unknown.
 */
#ifndef MUSTER_BUS_JS_H
#define MUSTER_BUS_JS_H

#include "bus/bus.h"

struct js_config {
    const char *name;
    const char *const *subjects;
    size_t n_subjects;
    const char *republish_src, *republish_dest; /* NULL: none */
    int64_t max_age_ns, max_bytes, max_msgs, max_msgs_per_subject; /* 0: unlimited */
    int64_t max_value; /* of one message; 0: the server's */
    uint32_t replicas;
    bool no_ack, is_kv;
};

struct js_info {
    const char *stream; /* that was asked for. Borrowed */
    struct muster_stream_info state;
    const char *text; /* why code is not 0: one line; "" otherwise. Borrowed */
    bool few;         /* code is not 0, because fewer servers can take a copy than the stream has replicas */
};

struct js_msg {
    const char *subject;
    uint64_t seq;
    const struct muster_header *headers;
    uint32_t n_headers;
    struct muster_bytes data;
    int64_t stored_wall_ns; /* by the server's clock */
};
/* NULL: it has no such header. */
const char *js_msg_header(const struct js_msg *msg, const char *name);

typedef void (*js_info_fn)(void *arg, int code, const struct js_info *info); /* info is never NULL */
typedef void (*js_msg_fn)(void *arg, int code, const struct js_msg *msg);    /* NULL unless code is 0 */
typedef void (*js_done_fn)(void *arg, int code);
typedef void (*js_ack_fn)(void *arg, int code, uint64_t seq);                /* seq: stored, or what the fence said */

struct js_target { /* who asks */
    struct bus *bus;
    struct lane *lane;
    const void *owner;
    int64_t timeout_ns;
};

/* Make the stream, or check the one there is: other subjects, republishing, no_ack or storage are MUSTER_EEXIST; limits and
 * replicas are brought to what config says. */
int js_ensure(const struct js_target *t, const struct js_config *config, js_info_fn fn, void *arg);
int js_get_info(const struct js_target *t, const char *stream, js_info_fn fn, void *arg);
/* The last message under subject, which may hold wildcards. */
int js_last(const struct js_target *t, const char *stream, const char *subject, js_msg_fn fn, void *arg);
/* The first message under subject, which may hold wildcards, from sequence seq (> 0) on. */
int js_next(const struct js_target *t, const char *stream, const char *subject, uint64_t seq, js_msg_fn fn, void *arg);
/* Remove the messages under subject whose sequences are below `below`; fn may be NULL. */
int js_purge(const struct js_target *t, const char *stream, const char *subject, uint64_t below, js_done_fn fn, void *arg);
/* Publish and wait for the PubAck on link. */
int js_append(const struct js_target *t, int link, const struct bus_out *out, js_ack_fn fn, void *arg);

/* One stream of the account, for the check at start. */
struct js_listed {
    const char *name;
    bool no_ack;
    const char *const *subjects;
    size_t n_subjects;
};
typedef void (*js_list_fn)(void *arg, int code, const struct js_listed *streams, size_t n);
/* Every stream of the account, in one completion. */
int js_list(const struct js_target *t, js_list_fn fn, void *arg);

/* Read a PubAck: 0 and the sequence, or the error and, for MUSTER_ESTALE, the sequence that the fence named. MUSTER_ELINK also where the first
 * message with this Nats-Msg-Id is still being stored: try again. */
int js_parse_ack(struct muster_bytes data, uint64_t *ret_seq);

#endif
