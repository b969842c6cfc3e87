/*
 * core/waiting.h - the room where messages wait for what is not known here yet, while the database is asked: a tenant, or a name in one.
 * Private to core/.
 *
 * Shape    waiting_enter() gives a message in. The first of its key (a tenant, or tenant and agent) has ask() called; waiting_answer() ends
 *          that question, and what waited for it leaves through leave(), in the order it came. A "no" is remembered for
 *          WAITING_REMEMBER_NS and said at once, so that a key costs one question in that time, whatever is sent under it.
 * Bounds   Messages and bytes of all and of each key, and the keys that are asked for or remembered; in a room for names also of a tenant,
 *          which has no more than is left for all others. What finds no room is WAITING_FULL. A message waits WAITING_PATIENCE_NS at most,
 *          as long as waiting_tick() is called. Who is refused is told so WAITING_ANSWERS_PER_S times a second at most, and of one key
 *          a quarter of that.
 * Threads  Any. ask() runs without the lock. leave() runs under it, so that no message passes those of its key that are on
 *          their way out: it must not call back, and nobody may hold a lock that it takes while calling in here.
 */
#ifndef MUSTER_CORE_WAITING_H
#define MUSTER_CORE_WAITING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "wire/text.h"

enum {
    WAITING_MSGS = 1024,
    WAITING_BYTES = 4 << 20,
    WAITING_TENANT_MSGS = WAITING_MSGS / 4,
    WAITING_TENANT_BYTES = WAITING_BYTES / 4, /* a first message of any size has room */
    WAITING_TENANTS = 256,
    /* Of a room for names: a broker that starts among ten thousand agents has all of them wait, each with a few messages, of which some come twice
     * (once more on a subscription of every broker's). One tenant has half of the room. */
    WAITING_NAMES = 32768,
    WAITING_NAMES_MSGS = 131072,
    WAITING_NAMES_BYTES = 64 << 20,
    WAITING_NAME_MSGS = 8192,
    WAITING_NAME_BYTES = WAITING_NAMES_BYTES / 4,
    WAITING_ANSWERS_PER_S = 100,
    WAITING_TENANT_ANSWERS_PER_S = WAITING_ANSWERS_PER_S / 4,
};
#define WAITING_REMEMBER_NS (1 * CLOCK_S)
#define WAITING_PATIENCE_NS (2 * CLOCK_S)

struct waiting;

enum {
    WAITING_IN,      /* it waits; the room has it */
    WAITING_KNOWN,   /* it is known, and nothing of it waits */
    WAITING_UNKNOWN, /* the database has no such thing */
    WAITING_AWAY,    /* the database could not be asked, or gave no answer in time */
    WAITING_FULL,
};

struct waiting_verdict {
    int what;  /* WAITING_… */
    bool tell; /* refused, and there may be an answer */
};

/* Part of what its owner keeps of a message. */
struct waiter {
    struct waiter *next; /* the room's */
    struct text tenant;  /* borrowed from the message */
    struct text agent;   /* in a room for names; likewise */
    size_t n_bytes;
    bool known; /* it is here: the message waits only behind others of its key */
    bool asks;  /* somebody waits for an answer */
};

struct waiting_options {
    bool of_names; /* a room for names, with their bounds; otherwise for tenants */
    /* Ask for a key; waiting_answer() must follow once, from any thread and also at once. The texts are borrowed. */
    void (*ask)(void *arg, struct text tenant, struct text agent);
    /* Takes the waiter. */
    void (*leave)(void *arg, struct waiter *waiter, struct waiting_verdict verdict);
    void *arg;
};

struct waiting *waiting_new(const struct waiting_options *options);
/* What still waits leaves with WAITING_AWAY, untold. Accepts NULL. */
void waiting_free(struct waiting *w);

/* True when something of the key waits: one that is known need not enter otherwise. Takes no lock when nothing waits at all. */
bool waiting_has(struct waiting *w, struct text tenant, struct text agent);
/* WAITING_IN: the waiter is the room's. Otherwise it is still the caller's. */
struct waiting_verdict waiting_enter(struct waiting *w, struct waiter *waiter, int64_t now_ns);
/* The answer to ask(): WAITING_KNOWN, WAITING_UNKNOWN or WAITING_AWAY. */
void waiting_answer(struct waiting *w, struct text tenant, struct text agent, int what, int64_t now_ns);
/* Send out who has waited for too long. False: nobody waits any more. */
bool waiting_tick(struct waiting *w, int64_t now_ns);

#endif
