/*
 * core/handover.h - what this broker appends to a stream, handed to its own followers from memory: JetStream would send it straight back.
 *
 * Shape    Appends that name the last sequence which the stream must have are copied as they are sent, in runs that end with one that asks for an
 *          acknowledgement. Its acknowledgement says where all of the run stand (plugin.h, struct muster_append); then the run, which nobody changes
 *          any more, is given to each follower on its lane. What is not acknowledged so is given up, and followers are told that something
 *          is missing here. In what order and whether it is of use they judge by the sequences (core/follower.h), which are all that counts.
 * Bounds   HANDOVER_MAX_MSGS and HANDOVER_MAX_BYTES that wait for an acknowledgement, and as much again before each follower. What is more is
 *          not handed over, and counted.
 * Threads  A handover_out on the lane that appends, a handover_in on the lane that follows; handover_new() and _free() before and after lanes.
 * Lock     One, over the list and the queues; never held during a callback.
 */
#ifndef MUSTER_CORE_HANDOVER_H
#define MUSTER_CORE_HANDOVER_H

#include "bus/js.h"

struct handover;
struct handover_out; /* who appends to one stream */
struct handover_in;  /* who follows it */
struct handed;       /* a run of messages whose sequences follow one another */
struct metrics;

enum { HANDOVER_MAX_MSGS = 8192, HANDOVER_MAX_BYTES = 8 << 20 };

int handover_new(struct metrics *metrics, struct handover **ret_handover);
void handover_free(struct handover *h); /* NULL is accepted */

/* ---- who appends ---- */

/* One reference is the caller's. NULL: no memory. */
struct handover_out *handover_open(struct handover *h, const char *stream);
struct handover_out *handover_ref(struct handover_out *out);
void handover_unref(struct handover_out *out); /* NULL is accepted */
/* When the stream that it opened was made; before that is said nothing is handed over. */
void handover_is_of(struct handover_out *out, int64_t created_wall_ns);
/* msg, with a fence, was queued. connects: how often its link was made so far. What its acknowledgement is told with: another number begins where
 * the sequences do not go on. */
uint64_t handover_sent(struct handover_out *out, const struct bus_out *msg, bool asks, uint64_t connects);
/* One that asked is stored under seq, as its fence said. What was sent before the sequences began again says nothing of what was sent since. */
void handover_acked(struct handover_out *out, uint64_t life, uint64_t seq);
/* One that asked is not, or nobody knows; or nothing more is appended. */
void handover_failed(struct handover_out *out);

/* ---- who follows ---- */

struct handover_how {
    const char *stream;
    struct lane *lane;
    void (*fn)(void *arg); /* something can be taken, or is missing; on the lane, never inside a call */
    void *arg;
};
/* Nothing is kept for it before handover_want(). */
int handover_follow(struct handover *h, const struct handover_how *how, struct handover_in **ret_in);
void handover_unfollow(struct handover_in *in); /* calls nothing back. NULL is accepted */
/* False: what waits is freed, and no more of it is kept. */
void handover_want(struct handover_in *in, bool wanted);
/* Have fn called again, after what else the lane has to do. */
void handover_again(struct handover_in *in);
/* How many messages were acknowledged here since follow(). */
uint64_t handover_count(struct handover_in *in);
/* Free what ends before sequence from, or is of another stream than was made then. The first sequence of what is left; 0: nothing is. */
uint64_t handover_trim(struct handover_in *in, uint64_t from, int64_t created_wall_ns);
/* The oldest run, now the caller's; NULL: none. */
struct handed *handover_take(struct handover_in *in);
/* So many messages were delivered from here. */
void handover_told(struct handover_in *in, uint64_t n);
/* True once after something was not handed over. Nothing that comes behind it is, before this was asked. */
bool handover_missed(struct handover_in *in);

/* Where a reader of a run is. All zero: nowhere. */
struct handed_cursor {
    struct handed *run; /* owned */
    size_t at;
    uint64_t seq; /* of what comes next */
};
int64_t handed_created(const struct handed *run); /* when its stream was made */
struct handed_cursor handed_begin(struct handed *run);
/* The next message, borrowed from the run; headers has room for n. False: there is none. */
bool handed_next(struct handed_cursor *c, struct muster_header *headers, uint32_t n, struct js_msg *ret_msg);
void handed_end(struct handed_cursor *c);

#endif
