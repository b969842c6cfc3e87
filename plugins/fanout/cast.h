/*
 * fanout/cast.h - message.cast: one message to all who are present and have what is said, and who of them has taken it.
 *
 * Shape    The names come from the roster (and the group's rows); each gets R.T.to.<B>.<A>.<type> as if the caller had published it, with
 *          Muster-Cast and, where receipts are wanted, a reply subject of this broker. A respond() comes back as B's request to
 *          message.receipt, so it proves who gave it; the ref says which cast of which broker, and nobody can guess it. Who gives it by a
 *          request is answered by that broker.
 * Bounds   `cast_max` wait at one time, each at most 60 s; CAST_NAMES_MAX names; bodies of receipts RECEIPTS_BYTES_MAX together.
 * Threads  The lane.
 */
#ifndef MUSTER_FANOUT_CAST_H
#define MUSTER_FANOUT_CAST_H

#include "base/clock.h"
#include "base/map.h"
#include "base/name.h"
#include "fanout/ask.h"
#include "fanout/roll.h"

enum { CAST_NAMES_MAX = 100000, CAST_REF_SIZE = 48, CAST_HEADERS = 3 };

struct receipt {
    const char *agent; /* one of the names */
    struct buf body;
    size_t omitted;
    int64_t wall_ns;
};

struct cast {
    struct cast *next, **link, *next_stalled; /* of those that wait; of those that found no room */
    struct casts *all;
    struct ask *a;
    char id[CLOCK_UUID_SIZE], ref[CAST_REF_SIZE];
    struct buf payload;
    struct muster_header headers[CAST_HEADERS];
    uint32_t n_headers;
    char behind_to[2 * NAME_MAX_LEN + 4]; /* ".<from>.<type>": of the subject, behind the receiver's name */
    char behind_rpc[CAST_REF_SIZE + 24];  /* ".message.receipt.<ref>": of the reply subject */
    size_t behind_to_len, behind_rpc_len;
    roll_name *names;
    size_t n, cap, sent;
    struct roll roll; /* of the names, while receipts are waited for */
    bool once, waits, too_many;
    struct receipt *receipts;
    size_t n_receipts, wanted, n_bytes;
    int64_t until_ns;
};

struct casts {
    struct fanout *f;
    char tag[20]; /* this broker's, of this start */
    struct map by_ref;
    struct cast *stalled, *waiting;
    uint64_t n_open, next;
    uint64_t m_casts, m_messages, m_receipts, m_late;
};

/* Find the names of those who get it, then cast_begin() or cast_fail() (cast_names.c). */
void cast_find(struct cast *c);
/* The names are there: send it. */
void cast_begin(struct cast *c);
void cast_fail(struct cast *c, int code, const char *what);
void cast_free(struct cast *c);
/* No receipt reaches it any more. */
void cast_forget(struct cast *c);

/* Answer it with the receipts that came (cast_receipts.c). */
void cast_finish(struct cast *c);
int cast_on_receipt(void *self, const struct muster_msg *msg);
/* Answer those whose time is over. */
void cast_on_due(void *self, int64_t now_ns);

extern const struct fanout_part cast_part;

/* Takes the ask. */
void cast_send(struct ask *a);

#endif
