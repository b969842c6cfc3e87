/*
 * bus/js_pull.h - one pull consumer of a stream, and what it delivers.
 *
 * Shape    js_pull_new() has the server make a consumer that nobody acknowledges, in memory, gone a minute after it was last asked. What
 *          js_pull_next() asks for arrives at an inbox of this consumer alone and waits here: no more than was asked for. Nothing is done
 *          about losses; js_pulled.delivered shows them.
 * Threads  Everything on the lane of the target, but for the arrival, on a thread of the NATS library. fn and made run on the lane, never
 *          inside a call.
 */
#ifndef MUSTER_BUS_JS_PULL_H
#define MUSTER_BUS_JS_PULL_H

#include "bus/js.h"

struct js_pull;

enum { /* of the server's words about a request for messages */
    JS_PULL_IDLE = 100,    /* a sign of life: nothing is there */
    JS_PULL_NOTHING = 404, /* nothing is there, and it was not to wait; the request is over */
    JS_PULL_EXPIRED = 408, /* the request is over */
    JS_PULL_CONFLICT = 409, /* the consumer is gone, or its server ends */
    JS_PULL_NOBODY = 503,  /* there is no such consumer now */
    /* 409 as well, told by its words. */
    JS_PULL_TOO_LARGE = 4091, /* the next message is larger than what is left of max_bytes; the request is over */
    JS_PULL_COMPLETE = 4092,  /* newer servers say so behind the last message of a request */
};

struct js_pulled {
    struct js_pulled *next;
    int status;          /* 0: a message; otherwise what the server says */
    struct bus_msg *msg; /* owned */
    uint64_t seq, delivered, n_pending; /* in the stream; in the consumer, from 1 (JS_PULL_IDLE: of the last one); how many that match follow */
    int64_t stored_wall_ns;
};
void js_pulled_free(struct js_pulled *got); /* NULL is accepted */
/* The same for one of p's, which keeps the room for another. */
void js_pull_spend(struct js_pull *p, struct js_pulled *got);
/* headers has room for n. Borrowed from got. Once. */
void js_pulled_msg(const struct js_pulled *got, struct muster_header *headers, uint32_t n, struct js_msg *ret_msg);

struct js_pull_how {
    const char *stream, *subject; /* subject NULL: all messages */
    uint64_t from_seq;            /* > 0 */
    /* The consumer is there, and n_pending messages match; or code, with why. MUSTER_ENOTFOUND: there is no such stream. Once. */
    void (*made)(void *arg, int code, const char *why, uint64_t n_pending);
    bool rests;            /* fn runs at once, and then not for 2 ms: where much comes, few wakings of the lane are paid for */
    void (*fn)(void *arg); /* something can be taken */
    void *arg;
};
/* On failure nothing is called back. */
int js_pull_new(const struct js_target *t, const struct js_pull_how *how, struct js_pull **ret_pull);
/* Calls nothing back any more, and removes the consumer. NULL is accepted. */
void js_pull_free(struct js_pull *p);

struct js_pull_request {
    uint32_t batch;
    size_t max_bytes;                 /* 0: any number */
    int64_t expires_ns, heartbeat_ns; /* 0: do not wait for what is not there */
};
int js_pull_next(struct js_pull *p, const struct js_pull_request *request);
/* The oldest that has arrived; NULL: none. */
struct js_pulled *js_pull_take(struct js_pull *p);
/* Have fn called again, after what else the lane has to do. */
void js_pull_again(struct js_pull *p);
/* Have fn called again after so many milliseconds, and not for what arrives until then; where it rests. */
void js_pull_rest(struct js_pull *p, uint32_t ms);
/* When something arrived last, by clock_now_ns(); 0: nothing yet. */
int64_t js_pull_heard_ns(const struct js_pull *p);

#endif
