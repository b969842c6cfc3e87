/*
 * core/waiting.h - the room where messages wait whose tenant the registry does not know, while it asks. Private to core/.
 *
 * Shape    waiting_enter() gives a message in. The first of a tenant has ask() called; waiting_answer() ends that question, and
 *          what waited for it leaves through leave(), in the order it came. A "no" is remembered for WAITING_REMEMBER_NS and said
 *          at once, so that a tenant costs one question in that time, whatever it sends.
 * Bounds   Messages and bytes of all and of each tenant, and the tenants that are asked for or remembered; what finds no room is
 *          WAITING_FULL. A message waits WAITING_PATIENCE_NS at most, as long as waiting_tick() is called. Who is refused is told
 *          so WAITING_ANSWERS_PER_S times a second at most, and one tenant a quarter of that.
 * Threads  Any. ask() runs without the lock. leave() runs under it, so that no message passes those of its tenant that are on
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
    WAITING_ANSWERS_PER_S = 100,
    WAITING_TENANT_ANSWERS_PER_S = WAITING_ANSWERS_PER_S / 4,
};
#define WAITING_REMEMBER_NS (1 * CLOCK_S)
#define WAITING_PATIENCE_NS (2 * CLOCK_S)

struct waiting;

enum {
    WAITING_IN,      /* it waits; the room has it */
    WAITING_KNOWN,   /* the registry knows the tenant, and nothing of it waits */
    WAITING_UNKNOWN, /* the database has no such tenant */
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
    size_t n_bytes;
    bool known; /* the registry has the tenant: it waits only behind others of it */
    bool asks;  /* somebody waits for an answer */
};

struct waiting_options {
    /* Ask for a tenant; waiting_answer() must follow once, from any thread and also at once. name is borrowed. */
    void (*ask)(void *arg, const char *name, size_t len);
    /* Takes the waiter. */
    void (*leave)(void *arg, struct waiter *waiter, struct waiting_verdict verdict);
    void *arg;
};

struct waiting *waiting_new(const struct waiting_options *options);
/* What still waits leaves with WAITING_AWAY, untold. Accepts NULL. */
void waiting_free(struct waiting *w);

/* True when something of the tenant waits: one that is known need not enter otherwise. Takes no lock when nothing waits at all. */
bool waiting_has(struct waiting *w, struct text tenant);
/* WAITING_IN: the waiter is the room's. Otherwise it is still the caller's. */
struct waiting_verdict waiting_enter(struct waiting *w, struct waiter *waiter, int64_t now_ns);
/* The answer to ask(): WAITING_KNOWN, WAITING_UNKNOWN or WAITING_AWAY. */
void waiting_answer(struct waiting *w, struct text tenant, int what, int64_t now_ns);
/* Send out who has waited for too long. False: nobody waits any more. */
bool waiting_tick(struct waiting *w, int64_t now_ns);

#endif
