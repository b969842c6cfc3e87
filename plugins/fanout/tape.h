/*
 * fanout/tape.h - the streams that history reads, attached when they are first asked for.
 *
 * Shape    tape_of() finds or attaches one; tape_look() tells how it is. Looks that come while one is under way share the next one, so that
 *          any number of readers costs one question a round trip, and each sees a state from after its asking.
 * Bounds   TAPES_MAX; the one that was not used for longest gives way.
 * Threads  The lane.
 */
#ifndef MUSTER_FANOUT_TAPE_H
#define MUSTER_FANOUT_TAPE_H

#include "base/map.h"
#include "fanout/fanout.h"

enum { TAPES_MAX = 2048 };

/* Those who wait for one answer. next is theirs while they wait. */
struct waiter {
    struct waiter *next;
    void (*fn)(struct waiter *w, int code);
};

/* One question at a time: those that come meanwhile share the next. */
struct gate {
    struct waiter *now, *later;
    bool busy;
};
/* True: the question is to be asked now. */
bool gate_enter(struct gate *g, struct waiter *w);
/* Tell those of now. True: somebody waits for the next, which is to be asked. */
bool gate_leave(struct gate *g, int code);

struct tape {
    struct fanout *f;
    char *key;
    uint64_t stream;
    struct muster_stream_info info; /* of the last look */
    struct gate gate;
    unsigned int users; /* channels */
    int64_t used_ns;
    bool attached;
};

struct tapes {
    struct map by_key;
};

/* tenant: of "MSG", otherwise NULL. NULL: no memory, or all are in use. */
struct tape *tape_of(struct fanout *f, struct tapes *tapes, const char *name, const struct muster_tenant *tenant);
/* w->fn gets 0, or MUSTER_E*: MUSTER_ENOTFOUND: there is no such stream. */
void tape_look(struct tape *t, struct waiter *w);
void tapes_done(struct fanout *f, struct tapes *tapes);

#endif
