/*
 * bus/bus.h - the broker's NATS links: BUS_BULK for what streams into JetStream, BUS_LIVE for requests, answers and notices, so that
 * an answer never queues behind megabytes of backlog; BUS_SYSTEM, in the system account, and BUS_CALLOUT, in the account that servers ask
 * who may log in, where somebody wants them.
 *
 * Shape    Each link is one connection, one bounded outbox and one thread that alone calls into the NATS library (link.c). Nothing
 *          here blocks its caller. A link that is away is connected again with jitter, for ever; subscriptions come back with it.
 * Threads  Any, where not said otherwise. Subscription functions run on threads of the NATS library, or where they are `direct` on the
 *          link's own, and may only take the message and push it on; completions of calls run on the lane that made them.
 * Errors   MUSTER_ELINK: the link is away. MUSTER_EAGAIN: the outbox is full; on_writable follows.
 */
#ifndef MUSTER_BUS_BUS_H
#define MUSTER_BUS_BUS_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/lane.h"

enum { BUS_BULK, BUS_LIVE, BUS_SYSTEM, BUS_CALLOUT, BUS_N_LINKS };
enum { BUS_N_ANSWERS = 2 };

struct bus;
struct bus_msg; /* a received message; owned by who got it, released by bus_msg_free() */

/* Who a link is. */
struct bus_login {
    const char *creds;           /* path, or NULL */
    const char *user, *password; /* of a static server, or NULL */
};

struct bus_options {
    const char *const *urls; /* one of tls:// makes all of them so. Strings are borrowed until bus_close(), but for the name */
    size_t n_urls;
    const char *name;                      /* of the connections, for people */
    const char *creds;                     /* path, or NULL */
    const char *user, *password;           /* of a static server, or NULL */
    const struct bus_login *system; /* in the system account; NULL: there is no BUS_SYSTEM, and what is sent there gets MUSTER_ELINK */
    const struct bus_login *callout; /* likewise, of BUS_CALLOUT */
    /* Paths. Files that have changed are read again at the next connect; those that cannot be used then change nothing. */
    const char *tls_ca, *tls_cert, *tls_key;
    const char *answers[BUS_N_ANSWERS];    /* patterns of the prefixes that calls may give; NULL: one less */
    bool patient;                          /* the server may be silent for half a minute: so is BUS_CALLOUT made, whatever this says */
    uint32_t max_out_msgs;                 /* an outbox's bounds */
    size_t max_out_bytes;
    void (*on_link)(void *arg, int link, bool up, const char *reason); /* on the link's thread; must not block */
    void (*on_writable)(void *arg, int link);                          /* likewise */
    /* The outbox has become four fifths full; or half of it is free again. Likewise; NULL: nobody wants to know. */
    void (*on_pressure)(void *arg, int link, bool on);
    void *arg;
};

struct bus_counters { /* of one link; monotonic but for waiting */
    uint64_t sent_msgs, sent_bytes, received_msgs, dropped_away, refused_full, connects, slow;
    uint64_t waiting_msgs, waiting_bytes;
};

enum { BUS_WHY_SIZE = 256 };
/* Read the certificates that the options name, and nothing else of them. MUSTER_EINVAL: *ret_key is the configuration's key of the one
 * that cannot be used, why says why. */
int bus_check_tls(const struct bus_options *options, const char **ret_key, char why[BUS_WHY_SIZE]);
/* *ret_bus is there when on_link is called first, and NULL again on failure. */
int bus_open(const struct bus_options *options, struct bus **ret_bus);
/* Send what is queued (at most timeout_ns), then close. Calls still open complete with MUSTER_ELINK. */
void bus_close(struct bus *bus, int64_t timeout_ns);
bool bus_is_up(const struct bus *bus, int link);
/* True while on_writable is due because somebody got MUSTER_EAGAIN. */
bool bus_is_starved(struct bus *bus, int link);
/* Nothing more follows what was sent with `more`. */
void bus_go(struct bus *bus, int link);
void bus_counters(const struct bus *bus, int link, struct bus_counters *ret);
uint64_t bus_connects(const struct bus *bus, int link); /* how often it was made */
enum { BUS_SERVER_SIZE = 64 };
/* Which client of which server a link is. MUSTER_ELINK: it is away. */
int bus_where(const struct bus *bus, int link, char server[BUS_SERVER_SIZE], uint64_t *ret_client);
struct bus_version {
    int major, minor, patch;
};
/* Of "2.10.26", and of what follows it nothing. False: it does not begin so. */
bool bus_version_read(const char *text, struct bus_version *ret_version);
/* Below, at or above 0, as a is older than b, the same or newer. */
int bus_version_compare(const struct bus_version *a, const struct bus_version *b);
/* Of the server that a link is connected to; known before on_link says that it is up. MUSTER_ELINK: it is away. MUSTER_ENOTFOUND: the
 * server does not tell everybody (TLS from the first byte), or somebody else answered in its place. */
int bus_server_version(const struct bus *bus, int link, struct bus_version *ret_version);

struct bus_out {
    const char *subject, *reply; /* reply may be NULL */
    const struct muster_header *headers;
    uint32_t n_headers;
    struct muster_bytes payload;
    int64_t fence; /* >= 0: header Nats-Expected-Last-Sequence; -1: none */
    bool more;     /* another follows at once: they may travel together; alone it goes out within 100 ms */
    bool answer;   /* may take the room that is kept for answers, which whoever floods the link must not hold up */
};
enum { BUS_MAX_BYTES = 1 << 20 }; /* of a message with its headers, as servers have it by default */
enum { BUS_MAX_HEADERS = 64, BUS_MAX_HEADER_BYTES = 32 << 10 }; /* of a message that is received */
/* Copy and queue a message. MUSTER_EINVAL: it is too large, or a header's name is not one. */
int bus_send(struct bus *bus, int link, const struct bus_out *out);

/* msg is NULL unless code is 0; borrowed. code: 0, MUSTER_ETIME, MUSTER_ELINK, MUSTER_ENOTFOUND (nobody listens). */
typedef void (*bus_reply_fn)(void *arg, int code, const struct bus_msg *msg);
struct bus_call {
    struct lane *lane; /* where fn runs */
    const void *owner; /* for bus_cancel() */
    const char *answers; /* where the answer must come to: a prefix that a pattern of the options matches. The whole subject cannot be
                          * guessed. NULL: the link's own inbox, to which agents may not publish */
    int64_t timeout_ns;
    bool many; /* fn runs for every answer until the deadline, and then once more with MUSTER_ETIME, which is no fault */
    bus_reply_fn fn;
    void *arg;
};
/* Send and wait for one answer, or for many. On success fn runs exactly once with a code or the one answer; on failure not at all.
 * out->reply is ignored. */
int bus_request(struct bus *bus, int link, const struct bus_out *out, const struct bus_call *call);
/* fn runs with 0 when the server has taken whatever was subscribed and sent on this link before. how->answers is NULL. */
int bus_flush(struct bus *bus, int link, const struct bus_call *how);
/* Complete every open call of owner with MUSTER_ELINK; the completions are on the lane when this returns. bus may be NULL. */
void bus_cancel(struct bus *bus, const void *owner);
/* The same for whatever a lane has asked, when it ends. */
void bus_cancel_lane(struct bus *bus, const struct lane *lane);

typedef void (*bus_msg_fn)(void *arg, struct bus_msg *msg); /* takes msg */
struct bus_sub {
    const char *subject, *queue; /* queue NULL: plain */
    bool system, callout;        /* on BUS_SYSTEM, or on BUS_CALLOUT, not on BUS_LIVE */
    /* fn runs on the link's thread, a run of messages at a time: no hop and no wakeup for each. Of what was read at once the plain ones come
     * first, those of a queue group after them, unless more comes for seconds than can be heard: then reading comes first, so that the server
     * does not give up the link, and what finds no room is dropped. */
    bool direct;
    bus_msg_fn fn;
    void (*gone)(void *arg); /* fn will not be called any more: after bus_unsubscribe() or in bus_close(); may be NULL. Any thread */
    void *arg;
};
/* Subscribe, now and after each reconnect; before anything that is sent on the same link from now on. */
int bus_subscribe(struct bus *bus, const struct bus_sub *how, uint64_t *ret_id);
/* Returns at once; fn may still be running, or run for what has arrived, until gone() is called. */
void bus_unsubscribe(struct bus *bus, uint64_t id);

const char *bus_msg_subject(const struct bus_msg *msg);
const char *bus_msg_reply(const struct bus_msg *msg); /* NULL when there is none */
struct muster_bytes bus_msg_data(const struct bus_msg *msg);
/* False: more headers, or longer ones, than a message may have; they are not looked at, because that could take seconds. */
bool bus_msg_headers_fit(const struct bus_msg *msg);
const char *bus_msg_header(const struct bus_msg *msg, const char *name); /* NULL when it is not there, or they do not fit */
/* Up to n headers, borrowed from the message; returns how many were written, 0 when they do not fit. One reader at a time. */
uint32_t bus_msg_headers(const struct bus_msg *msg, struct muster_header *out, uint32_t n);
/* The same for whoever owns the message and asks once: they are cut out of it where they stand, without the library's help and memory. What
 * reads headers of the message later finds none. */
uint32_t bus_msg_take_headers(struct bus_msg *msg, struct muster_header *out, uint32_t n);
/* Bytes of subject, reply subject, headers and body. */
size_t bus_msg_size(const struct bus_msg *msg);
void bus_msg_free(struct bus_msg *msg);
/* What this thread frees from now on is kept, and given back together by bus_msgs_flush(), when it is much, or with the thread: the library wakes its
 * collector for each message that finds it idle. */
void bus_msgs_gather(void);
void bus_msgs_flush(void);

#endif
