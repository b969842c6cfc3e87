/*
 * fanout/history.h - message.history: what a channel has stored, from shared reads.
 *
 * Parts    history.c   the verb: who may read what; the answer
 *          spec.c      names of channels
 *          page.c      what one answer tells, and its bytes
 *          channel.c   a channel with its window and its readers
 *          question.c  the one question that is under way for all of them
 *          room.c      those that wait because there is no room, for questions or for answers
 *          place.c     where each reader begins, and whether there is enough for it
 *          run.c       messages of a channel without a gap between two sequences
 *          wide.c      one read for many inboxes of a tenant
 *          tape.h      the streams
 *          stored.h    the messages
 * Sharing  A channel has one question to NATS under way at a time, whatever the number of its readers: each answer goes to all whom it
 *          helps, and stays in the channel's window. So 10,000 agents that come back cost the reads of one, or for inboxes those of one
 *          wide read. The consumers of reads are bounded by the host, 8 an instance.
 *          Who begins elsewhere in what the window has, or behind a place that was searched for another, needs no search of its own.
 * Room     Where the connection has none, questions and readers wait; nobody is refused for it before ROOM_PATIENCE_NS. An answer is not
 *          written before there is room for it. At most TURN of them are given before the lane does something else.
 * Whole    An answer is complete: false unless nothing of what was asked for can be missing, and an error when a read fails.
 * Bounds   Windows share `cache_bytes`, and the one that was not used for longest goes first; that of a channel with readers keeps to a
 *          quarter of it, or to what the reader that is furthest behind needs. Readers are bounded by bus->hold(); each costs a few hundred
 *          bytes, and what it waits for is kept once.
 * Threads  The lane.
 */
#ifndef MUSTER_FANOUT_HISTORY_H
#define MUSTER_FANOUT_HISTORY_H

#include "fanout/ask.h"
#include "fanout/stored.h"
#include "fanout/tape.h"

enum { SPEC_SIZE = 320, READ_MAX = 1000, READ_BYTES_MAX = 8 << 20 };

/* A channel's name, taken apart. */
struct spec {
    bool counted;  /* positions are Muster-Epoch and Muster-Seq, otherwise those of the stream */
    bool own;      /* of the stream MSG, which each tenant has */
    bool mail, presence;
    uint64_t subject_max; /* messages of one subject that the stream keeps; 0: unlimited */
    char stream[80];
    char filter[SPEC_SIZE]; /* subjects in the stream */
    char hears[SPEC_SIZE];  /* subjects on which agents hear it */
};
/* False: there is no such channel. agent: whose "to" and "inbox" it is. */
bool spec_parse(const char *channel, const char *agent, const char *tenant, struct spec *out);
/* The subject, behind the tenant, on which agents hear what is stored under `subject`. */
void spec_heard(const struct spec *s, const char *subject, char out[SPEC_SIZE]);

/* Every message of a channel from sequence `from` up to `upto`. Zero is empty. */
struct run {
    struct stored **items;
    size_t n, cap;
    uint64_t from, upto;
    size_t n_bytes;
    uint64_t whole_from; /* nothing that was ever stored from here to upto is missing; of positions of the stream */
};
bool run_add(struct run *r, struct stored *m); /* takes it; false: no memory */
void run_clear(struct run *r);
bool run_covers(const struct run *r, uint64_t start);
size_t run_find(const struct run *r, uint64_t start); /* the first item from start on */
/* Join `other` to r where they touch; true: other is empty then. */
bool run_join(struct run *r, struct run *other);
void run_cut_before(struct run *r, uint64_t first);

/* One reader. */
struct wish {
    struct waiter waiter; /* first: for the tape */
    struct wish *next;
    struct ask *a;
    struct channel *c;
    uint64_t after_epoch, after_seq;
    int64_t since_ns;
    bool has_after, has_since;
    bool dead;     /* of an inbox what expired before it was acknowledged */
    bool cut;      /* what was asked for is gone, or its epoch is */
    bool oldest;   /* start is the first that is kept */
    bool resolved; /* start is known */
    bool tailed;   /* tail is known */
    uint32_t limit;
    uint64_t start, acked;
    int64_t known_since_ns; /* of an inbox: its name was made then */
    struct muster_stream_info at; /* how the stream was when it was asked */
    struct stored *tail; /* the channel's newest; NULL: it has none */
};

enum { DOING_NOTHING, DOING_LAST, DOING_SEARCH, DOING_READ };

/* What a search has found: nothing before lo is due for `want`, a count or a time; so nor for whoever wants what is later. lo 0: nothing. */
struct found_place {
    uint64_t lo, epoch;
    int64_t want;
    bool oldest; /* lo is where the stream begins */
};

struct channel {
    struct waiter waiter; /* first: to look at the tape after a read */
    struct history *h;
    char *key;
    const struct muster_tenant *tenant;
    struct tape *tape;
    struct spec spec;
    struct channel *newer, *older; /* in the order of use */
    struct channel *next;          /* of those that wait for a wide read */
    struct run window, reading;
    int64_t created_wall_ns; /* of the stream that the window is of */
    struct wish *waiting, **waiting_end;
    struct channel *next_stalled;
    bool stalled;     /* it has readers, and waits for room */
    bool delayed;     /* one that can be answered waits for it */
    int64_t vain_ns;  /* since when it asks in vain; 0: it does not */
    unsigned int users; /* wishes that will come to wait, too */
    int doing;
    bool working; /* it is being served: nothing of it may go */
    bool single;  /* its read counts as one of an inbox by itself */
    bool ended;   /* what was read reaches to the end */
    bool full;    /* what was read is more than may be kept: the rest is read again */
    int failed;   /* while a question is under way: why its answer is of no use */
    uint64_t must; /* every message up to this one was stored when it was asked */
    struct wish *searcher;
    bool searched; /* the question before was a search */
    struct found_place places[2]; /* of counts, of times */
    uint64_t lo, hi, probed; /* the first that is due is in [lo, hi] */
    bool first_probe;
    struct { /* the answer that was given last: the next reader may want the same */
        struct answer *answer;
        struct stored *first, *last;
        size_t n, n_bytes;
        uint64_t epoch, last_seq;
        uint32_t encoding;
        bool complete;
    } given;
};

/* Nobody is given that answer again. */
void channel_forget_given(struct channel *c);

struct wide;

struct history {
    struct fanout *f;
    struct tapes tapes;
    struct map channels, wides;
    struct channel *newest, *oldest;
    size_t n_bytes;
    unsigned int n_wide;
    bool ending;
    uint64_t gathering; /* the timer of the next wide read; 0: none */
    struct channel *stalled, **stalled_end;
    unsigned int n_turn; /* answers of this turn of the lane */
    uint64_t turning;    /* the timer of the next; 0: none */
    size_t n_readers;
    uint64_t m_reads, m_wide, m_answers, m_shared, m_readers, m_bytes;
};

/* Find or make it; channel_leave() when it is not needed any more. NULL: no memory, or too many streams. */
struct channel *channel_enter(struct history *h, const struct muster_tenant *tenant, const struct spec *spec);
void channel_leave(struct channel *c);
/* w has looked at the tape: let it be served. */
void channel_wait(struct channel *c, struct wish *w);
/* Serve whom it can, while there is room (place.c); true: nobody waits any more. */
bool channel_serve(struct channel *c);
/* Serve, and ask what helps the others. c may be gone then. */
void channel_work(struct channel *c);
/* Nobody of it can be answered. */
void channel_fail(struct channel *c, int code);
/* The count of the wanted beginning, of positions that are counts; whether m is there or behind it. */
uint64_t place_first(const struct wish *w);
bool place_is_due(const struct wish *w, const struct stored *m);
/* It was searched: everything before start is not due. */
void place_set(struct wish *w, uint64_t start);
/* What was found for it may serve others; their wants can be compared. */
void place_keep(const struct wish *w);
int64_t place_want(const struct wish *w);
/* It cannot go on without the channel's newest. */
bool place_needs_tail(const struct wish *w);
/* The channel's newest; NULL: it has none. */
void place_set_tail(struct wish *w, struct stored *tail);
/* The first sequence that somebody waits for who knows his place; UINT64_MAX: nobody does. */
uint64_t channel_lowest(const struct channel *c);
/* Ask what helps the first of those that wait (question.c). 0, or why it cannot be asked; otherwise its answer ends in channel_over(). */
int channel_ask(struct channel *c);
/* The question is over: serve on. code: why those who wait cannot be answered. c may be gone then. */
void channel_over(struct channel *c, int code);
/* The same, of a read: what is in c->reading helps whom it can, and joins the window. */
void channel_read_done(struct channel *c, int code);
/* A read of it is over: 0, MUSTER_ENOTFOUND where there was no more, or why nothing came of it. c may be gone then. */
void channel_read_over(struct channel *c, int code);
/* Find out from where on what was read is whole, of positions of the stream, and go on with channel_read_done(). */
void channel_verify(struct channel *c);
/* A message that was read, into c->reading. */
int channel_take(struct channel *c, const struct muster_msg *msg);
void channels_done(struct history *h);

/* Read c from c->reading.from on: alone, or together with others. 0, or why it cannot be. */
int wide_read(struct channel *c);
/* Begin those for which enough inboxes wait, give up those that do not go on. */
void wides_tick(struct history *h, int64_t now_ns);
/* There may be room for answers again. */
void wides_resume(struct history *h);
/* Nobody waits for one any more. */
void wides_end(struct history *h);
void wides_done(struct history *h);

/* An answer may be written now. */
bool room_is_there(const struct history *h);
/* One was. */
void room_taken(struct history *h);
/* c waits until there is room: for its answers, or, asks, for its question. It may be gone then. */
void room_await(struct channel *c, bool asks);
/* There may be room again. */
void room_resume(struct history *h);
/* Those that wait are told that there is none any more. */
void room_end(struct history *h);

/* history.c: answer one that can be. */
struct found {
    const struct run *run;
    size_t at;
    bool ended; /* the run has all that there is */
};
void history_answer(struct wish *w, const struct found *found);
/* Its bytes, the channel's own; NULL: no memory (page.c). */
struct answer *page_answer(struct wish *w, const struct found *found);
void history_fail(struct wish *w, int code);
/* Whether the message is of the channel as w asks for it: of an inbox those that live, or those that died before they were acknowledged. */
bool history_shows(const struct wish *w, const struct stored *m, int64_t wall_ns);

extern const struct fanout_part history_part;

/* message.history. Takes the ask. */
void history_read(struct ask *a);

#endif
