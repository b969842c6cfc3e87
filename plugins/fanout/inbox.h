/*
 * fanout/inbox.h - the inboxes: one stream, MAIL, with a subject an agent, and in PostgreSQL how far each was read.
 *
 * Owns     The handle of MAIL, which every broker has open; no writer is alone there, so nothing is fenced.
 * Positions Sequences of MAIL. Their epoch is when it was made, in microseconds: in a stream that was made anew a cursor of before means
 *          nothing.
 * Threads  The lane.
 */
#ifndef MUSTER_FANOUT_INBOX_H
#define MUSTER_FANOUT_INBOX_H

#include "base/map.h"
#include "fanout/ask.h"

enum { INBOX_MAX_MSGS = 10000 };

struct inbox {
    uint64_t stream;
    bool asked, open;
    int64_t retry_ns; /* not before is it opened again */
    uint64_t epoch;    /* while it is open */
    uint64_t last_seq; /* the stream has at least that */
    uint64_t receivers, cursors; /* statements */
    uint64_t m_stored, m_failed;
    struct map lines; /* of each sender that has sends (send_line.c) */
    struct send *stalled, *last_stalled; /* the outbox had no room, or the stream did not answer; the last is set while there is a first */
    struct send *crowded, *last_crowded; /* too much of others is under way */
    size_t under_way;     /* appends, of all */
    uint64_t m_under_way;
    struct lookup *gathering; /* cursors that are asked for next */
    bool looking;
};

extern const struct fanout_part inbox_part;

/* message.send (send.c). Takes the ask. */
void inbox_send(struct ask *a);
/* Go on with what found no room. */
void inbox_resume(struct fanout *f);
void inbox_drop_stalled(struct fanout *f);
/* The stream answered that it is gone: open it again. */
void inbox_reopen(struct fanout *f);

/* How far an inbox was read. known is false for a name of no agent; acked is 0 where the cursor is of another stream. */
struct cursor {
    bool known;
    uint64_t acked;
    int64_t since_wall_ns; /* when the name was made: it has nothing older */
};
typedef void (*cursor_fn)(void *arg, int code, const struct cursor *cursor);
/* Many are asked for in one statement. fn runs exactly once when this gave 0 (cursor.c). */
int cursor_find(struct fanout *f, const struct muster_tenant *tenant, const char *agent, cursor_fn fn, void *arg);
/* There may be room for a statement again. */
void cursors_resume(struct fanout *f);
/* Those that wait are told MUSTER_ELINK. */
void cursors_end(struct fanout *f);

/* The payload of send and cast as it is stored and sent: bytes of MessagePack as they are, all else in the encoding of the request. */
int payload_write(const struct ask *a, struct buf *out);

#endif
