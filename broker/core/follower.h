/*
 * core/follower.h - every message of a stream from a sequence on, over consumers that come and go.
 *
 * Shape    One consumer at a time (bus/js_pull.h), asked for as much as may wait here. Its messages are numbered: one that is missing, a
 *          server that is silent, and a link that was away each end it, and another is made from the message expected next on. Before a
 *          consumer is trusted the stream is looked at: whether it is still the same, and whether what is expected next is still there.
 *          Of some subjects alone the sequences say nothing of what was lost between two messages: where the flow was not at the end of the
 *          stream all the time, what has arrived waits until the stream has been looked at again.
 * Memory   What this broker appends itself (core/handover.h) is delivered from memory where it goes on at the message expected next, and there
 *          is no consumer while much of it comes: JetStream would send the same again. The first that is missing there, or a pause, ends
 *          that, and a consumer begins at the message expected next.
 * Threads  All on the lane of the target; fn runs there, never inside a call. It may free the follower.
 */
#ifndef MUSTER_CORE_FOLLOWER_H
#define MUSTER_CORE_FOLLOWER_H

#include "bus/js_pull.h"

struct follower;
struct handover;

struct follower_how {
    const char *stream, *subject; /* subject NULL: all messages */
    struct handover *handover;    /* NULL: all comes from JetStream */
    uint64_t from_seq;            /* 0: what comes from now on */
    uint32_t max_msgs;            /* that wait here; > 0 */
    /* As muster_stream_follow_fn; msg NULL unless code is 0. */
    void (*fn)(void *arg, int code, const struct js_msg *msg);
    void *arg;
};

/* What the strings of how say is copied. */
int follower_new(const struct js_target *t, const struct follower_how *how, struct follower **ret_follower);
/* fn is not called any more. NULL is accepted. */
void follower_free(struct follower *f);
void follower_hold(struct follower *f, bool on);

#endif
