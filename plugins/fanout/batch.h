/*
 * fanout/batch.h - what waits for one watcher: how much of it, for how long, and what becomes of the rest.
 *
 * Bounds   At most max_bytes wait (one message always may) and go out together, an interval after the first of them came: who asks for less than
 *          there is is slow, and so is one whose messages find no way out. `slow` says what is done then: the oldest give way (drop_old); of
 *          those with one key the latest stays, and the oldest give way where that is not enough (conflate); nothing more is taken until
 *          there is room (pause: the caller reads it from the stream later); the watch ends (cut).
 * Invariant  sent = delivered + the sum of dropped + waiting. What batch_push() refuses was not sent.
 * Memory   Notes are owned by the batch from batch_push() on; their texts are counted, so that a message which waits for a thousand watchers
 *          is kept once. Bounds count it for each. Threads: none, one owner.
 */
#ifndef MUSTER_FANOUT_BATCH_H
#define MUSTER_FANOUT_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/map.h"

enum { SLOW_PAUSE, SLOW_DROP_OLD, SLOW_CONFLATE, SLOW_CUT }; /* what is not said is 0 */

/* Why something was not delivered. */
enum { DROPPED_OLD, DROPPED_CONFLATED, DROPPED_CUT, DROPPED_TOO_LARGE, DROPPED_REASONS };
extern const char *const dropped_words[DROPPED_REASONS];

/* The bytes of a message, for all whom it waits for. */
struct note_text {
    uint32_t refs;
    size_t len;
    size_t key_len; /* what it is conflated by; its first bytes */
    size_t head;    /* the caller's: where its parts begin */
    char data[];
};

struct note {
    struct note *next, *prev;
    struct note_text *text;
    size_t len;       /* of the text */
    uint64_t seq;     /* the caller's */
    const void *from; /* the caller's */
};

struct batch_rules {
    int64_t interval_ns; /* 0: at once */
    size_t max_bytes;
    uint32_t slow;
    bool conflates; /* always, not only where it is slow */
};

struct batch {
    struct batch_rules rules;
    struct note *first, *last;
    size_t n, bytes;
    bool full; /* a note was refused and there has been no room since */
    bool conflating;
    struct map by_key; /* to struct note, while conflating */
    int64_t next_ns;   /* not before */
    uint64_t sent, delivered;
    uint64_t dropped[DROPPED_REASONS], untold[DROPPED_REASONS]; /* untold: since the last batch */
};

void batch_init(struct batch *b, const struct batch_rules *rules);
void batch_done(struct batch *b);
/* A text with room for len bytes, and of one the caller's reference. NULL: no memory. */
struct note_text *note_text_new(size_t len);
void note_text_drop(struct note_text *text); /* accepts NULL */
/* A note of the text, with a reference of its own. NULL: no memory. */
struct note *note_new(struct note_text *text);
void note_free(struct note *note);

enum { BATCH_TAKEN, BATCH_FULL, BATCH_CUT };
/* FULL: it was not taken and is still the caller's; it comes again once batch_has_room(). CUT: nothing waits any more. */
int batch_push(struct batch *b, struct note *note, int64_t now_ns);
bool batch_has_room(const struct batch *b);

/* Whether something may go out now. */
bool batch_is_due(const struct batch *b, int64_t now_ns);
/* Where a batch ends that begins with the first: the first note that is not in it. */
const struct note *batch_end(const struct batch *b);
/* The notes in front of end went out. */
void batch_delivered(struct batch *b, const struct note *end, int64_t now_ns);
/* The first can never go out. */
void batch_drop_first(struct batch *b, int reason);

#endif
