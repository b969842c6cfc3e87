/*
 * cdc/sink.h - the fenced stream: appends with the expected last sequence, the window of what is not acknowledged, and the frontier.
 *
 * Fence    Every append names the sequence that the stream must have as its last. So an acknowledgement of sequence n proves that all
 *          before n is stored: it is asked for only at the end of a burst, and at least every SINK_ACK_EVERY messages.
 * Holding  One message is held back until another is ready to take its place or the burst is over: so the last of a burst, and the
 *          one that fills the window, always ask for the acknowledgement. Its bytes are a draft of the pump's.
 * Bursts   The server sends rows one by one, and a reader that is woken for each spends more on waking than on the row. So when a
 *          burst is over while SINK_BURSTS are under way, the link is not read before the first of them is acknowledged: under
 *          load the acknowledgements set the pace and bursts grow; a lone row never waits.
 * Frontier A ring of commits with the sequence that must be acknowledged before their end_lsn may be confirmed.
 */
#ifndef MUSTER_CDC_SINK_H
#define MUSTER_CDC_SINK_H

#include <stdbool.h>
#include <stdint.h>

struct cdc;
struct muster_append;

enum { SINK_ACK_EVERY = 64, SINK_BURSTS = 2, SINK_RING = 16384 };

/* A position in the log: Muster-Lsn. */
struct position {
    uint64_t lsn;
    uint32_t ordinal, part;
};

struct sink_commit {
    uint64_t end_lsn, seq; /* may be confirmed when seq is acknowledged */
    int64_t received_ns;
};

struct sink_mark { /* an append that asked for its acknowledgement */
    uint64_t seq, bytes; /* bytes: all that were sent up to and with it */
};

struct sink {
    uint64_t stream;     /* handle; 0: not open */
    uint64_t sent, acked; /* sequences */
    uint64_t sent_bytes, acked_bytes;
    uint64_t unmarked;   /* appends since the last that asked */
    struct sink_commit *commits; /* ring of SINK_RING */
    uint32_t commit_head, n_commits;
    struct sink_mark *marks; /* ring of SINK_RING */
    uint32_t mark_head, n_marks;
    bool held;
    struct position tail;   /* of the last stored message; skip what is not past it */
    uint64_t frontier;      /* LSN up to which everything is acknowledged */
};

int sink_new(struct cdc *c);
void sink_done(struct cdc *c);
void sink_reset(struct cdc *c);
/* The stream's last sequence is seq, the last message's position tail. */
void sink_start(struct cdc *c, uint64_t seq, struct position tail);
bool sink_is_full(const struct cdc *c);
/* True when SINK_BURSTS acknowledgements are awaited. */
bool sink_is_busy(const struct cdc *c);
/* True when the message at p is in the stream already. */
bool sink_has(const struct cdc *c, struct position p);
/* Hold a message whose subject, headers and payload stay where they are until sink_flush(). The window has room. */
void sink_hold(struct cdc *c, const struct muster_append *append, struct position p);
/* Send what is held; `last`: nothing follows at once. MUSTER_EAGAIN: the outbox is full. MUSTER_ELINK. */
int sink_flush(struct cdc *c, bool last);
/* The transaction that ends at end_lsn is handled. */
void sink_commit(struct cdc *c, uint64_t end_lsn, int64_t received_ns);
/* Nothing is open: the server's position may be confirmed too. */
bool sink_is_idle(const struct cdc *c);

/* NATS has no room: a fault. */
void sink_full(struct cdc *c);

/* "0/16B3748/3/0". False when it is not one. */
bool position_parse(const char *text, struct position *ret);
int position_compare(struct position a, struct position b);

#endif
