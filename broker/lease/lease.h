/*
 * lease/lease.h - one contender for a named lease, as a state machine without clock, memory or I/O of its own.
 *
 * Shape    The lease is one record of a bucket, changed by compare-and-set on its revision alone. Who drives the machine asks
 *          lease_step() what is to be done, does it, and says what came of it; between two events it sleeps until due_ns.
 * Holding  A tenure is valid for ttl from the SENDING of the last write that is known to have succeeded. A contender takes a record over
 *          when it has seen the very same one for its ttl and a hundredth (clocks may differ in speed by that), each by its own
 *          monotonic clock. So two tenures never overlap, however long messages or processes are held up.
 * Unknown  A write whose outcome nobody knows is followed by a read. A write that comes late finds another revision.
 * Epochs   Each tenure's is larger than all that this contender ever saw, and in a bucket without the record at least the wall clock's
 *          milliseconds.
 * Gone     The record names the holder's connections. Where all of them are heard to have ended, the record is free a moment later: nothing
 *          that the holder sent can come any more, and what it sends on others is held back until its next renewal has succeeded
 *          (lease_is_doubtful()). So the tenures may overlap then, but not what is written in them.
 * Lost     A record that vanished is waited for as if it were held, by whoever had seen it. A contender that comes to a bucket without
 *          one takes it at once: when a bucket is lost while somebody holds, two may hold until the older one's next renewal,
 *          and the epochs tell them apart.
 * Threads  None: one owner.
 */
#ifndef MUSTER_LEASE_LEASE_H
#define MUSTER_LEASE_LEASE_H

#include <stdbool.h>
#include <stdint.h>

enum { LEASE_HOLDER_SIZE = 40, LEASE_SERVER_SIZE = 64, LEASE_N_AT = 2 };

/* A connection of the holder's, as the NATS server names it. */
struct lease_at {
    char server[LEASE_SERVER_SIZE];
    uint64_t client; /* 0: none */
};

/* What stands in the bucket. */
struct lease_record {
    uint64_t revision; /* 0: there is none, and there was none */
    uint64_t epoch;
    int64_t ttl_ns; /* the holder's */
    bool held;      /* false: released */
    char holder[LEASE_HOLDER_SIZE];
    struct lease_at at[LEASE_N_AT];
};

struct lease {
    char me[LEASE_HOLDER_SIZE]; /* no two contenders ever have the same */
    int64_t ttl_ns;

    struct lease_record record; /* as last read or written */
    bool known;                 /* record is what stood there when it was last heard of; otherwise it is read first */
    bool gone;                  /* record has vanished, its revision is what stands in its place */
    int64_t seen_ns;            /* when record was first seen */
    int64_t gone_ns;            /* from when on it is free, because its holder has gone; 0: nothing is known of that */
    uint64_t highest;           /* of all epochs seen */
    struct lease_at at[LEASE_N_AT]; /* the connections that there are now */

    uint64_t epoch; /* 0: not held */
    int64_t until_ns;
    uint64_t told_epoch; /* what lease_event() has told; 0: nothing, or that it was lost */
    uint64_t ended;      /* the epoch of the last tenure that has ended */
    int lost_code;

    bool busy; /* a read or a write is on its way */
    struct lease_record sent;
    int64_t sent_ns;
    int64_t due_ns; /* of the next read or renewal */
    bool heard;     /* a put of somebody else's, since the last write was sent */
    int eager;      /* reads that are to follow soon, because a put was heard */
    bool wrote;     /* a record that is ours may stand in the bucket */
    bool releasing;
    int64_t give_up_ns;
};

enum { LEASE_WAIT, LEASE_READ, LEASE_WRITE, LEASE_DONE };
struct lease_step {
    int what;
    struct lease_record record; /* LEASE_WRITE: what to write, when the key's revision is record.revision */
    int64_t due_ns;             /* LEASE_WAIT: nothing happens before, unless something is said; INT64_MAX: ever */
};

enum { LEASE_NOTHING, LEASE_GOT, LEASE_LOST };
struct lease_event {
    int what;
    uint64_t epoch; /* LEASE_GOT */
    int code;       /* LEASE_LOST: MUSTER_ESTALE or MUSTER_ETIME */
};

void lease_init(struct lease *l, const char *me, int64_t ttl_ns, int64_t now_ns);
/* What the holder is to be told; call it until there is nothing, and before each step. GOT and LOST alternate. */
struct lease_event lease_event(struct lease *l, int64_t now_ns);
/* What is to be done now. A read or write counts as sent at now_ns and must be answered for, once. */
struct lease_step lease_step(struct lease *l, int64_t now_ns, int64_t wall_ns);
/* code 0: record is what stands there. MUSTER_ENOTFOUND: none does; record->revision is that of what was left of it, or 0. Anything
 * else: it could not be read. */
void lease_on_read(struct lease *l, int64_t now_ns, int code, const struct lease_record *record);
/* code 0: written as revision. MUSTER_ESTALE: refused, it had another one. Anything else: nobody knows. */
void lease_on_written(struct lease *l, int64_t now_ns, int code, uint64_t revision);
/* Somebody else has written: read soon. */
void lease_hint(struct lease *l, int64_t now_ns);
/* What was written is most likely the holder's renewal: one look, so that its time is measured from now. */
void lease_hint_renewed(struct lease *l, int64_t now_ns);
/* Who waits looks at due_ns at the latest. */
void lease_look(struct lease *l, int64_t due_ns);
/* The connections that there are now; when the record names others, it is renewed at once. */
void lease_connected(struct lease *l, int64_t now_ns, const struct lease_at at[LEASE_N_AT]);
/* The holder that the record names has gone: it may be taken from free_ns on, unless it changes before. */
void lease_holder_gone(struct lease *l, int64_t free_ns);
/* It is held, but of the connections that the record names none is among `at`: another may have taken it meanwhile. */
bool lease_is_doubtful(const struct lease *l, const struct lease_at at[LEASE_N_AT]);
/* Hold no more, from now on; steps go on until LEASE_DONE, at most for a ttl. */
void lease_release(struct lease *l, int64_t now_ns);
/* 0: not held at now_ns. */
uint64_t lease_epoch(const struct lease *l, int64_t now_ns);

#endif
