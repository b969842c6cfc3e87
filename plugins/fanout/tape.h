/*
 * fanout/tape.h - the streams that history reads, attached when they are first asked for.
 *
 * Shape    tape_of() finds or attaches one; tape_look() tells how it is. Looks that come while one is under way share the next one, so that
 *          any number of readers costs one question a round trip, and each sees a state from after its asking. A look for which there is no
 *          room waits for it, for TAPE_PATIENCE_NS at most: tapes_resume().
 * Bounds   TAPES_MAX; the one that was not used for longest gives way.
 * Threads  The lane.
 */
#ifndef MUSTER_FANOUT_TAPE_H
#define MUSTER_FANOUT_TAPE_H

#include "base/clock.h"
#include "base/map.h"
#include "fanout/fanout.h"

enum { TAPES_MAX = 2048 };
#define TAPE_PATIENCE_NS (30 * CLOCK_S)

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
    struct tapes *all;
    struct fanout *f;
    char *key;
    char name[80];
    const struct muster_tenant *tenant;
    uint64_t stream;
    struct muster_stream_info info; /* of the last look */
    struct gate gate;
    unsigned int users; /* channels */
    int64_t used_ns;
    int64_t stalled_ns; /* since when there is no room for its question; 0: there is */
    bool attached;
};

struct tapes {
    struct map by_key;
    size_t n_stalled;
};

/* tenant: of "MSG", otherwise NULL. NULL: no memory, or all are in use. */
struct tape *tape_of(struct fanout *f, struct tapes *tapes, const char *name, const struct muster_tenant *tenant);
/* w->fn gets 0, or MUSTER_E*: MUSTER_ENOTFOUND: there is no such stream. */
void tape_look(struct tape *t, struct waiter *w);
/* There may be room again. */
void tapes_resume(struct fanout *f, struct tapes *tapes);
/* There will be none any more: those that wait for it are told. */
void tapes_end(struct tapes *tapes);
void tapes_done(struct fanout *f, struct tapes *tapes);

#endif
