/*
 * presence/wheel.h - deadlines of many agents: a timer wheel, where setting and dropping one costs the same however many there are.
 *
 * Shape    Entries stand in a struct of their owner's. One that is further away than the wheel reaches stands in its last slot and is put
 *          anew from there, so that a deadline may be as far as it likes. Nothing is ever early; late by a slot at most.
 * Memory   Entries are borrowed; nothing is allocated.
 * Threads  None: one owner.
 */
#ifndef MUSTER_PLUGINS_PRESENCE_WHEEL_H
#define MUSTER_PLUGINS_PRESENCE_WHEEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WHEEL_SLOTS = 4096 };
#define WHEEL_SLOT_NS INT64_C(10000000) /* 41 s in all */

struct wheel_entry {
    struct wheel_entry *next, *prev; /* NULL: not in a wheel */
    int64_t due_ns;
};

struct wheel {
    struct wheel_entry slots[WHEEL_SLOTS]; /* heads of rings */
    bool hurried[WHEEL_SLOTS];             /* something in it is not to wait for the next look */
    int64_t at; /* the slot that is looked at next, counted from the beginning of the clock */
    size_t n;
};

void wheel_init(struct wheel *w, int64_t now_ns);
/* Set the deadline of an entry, or move it. */
void wheel_set(struct wheel *w, struct wheel_entry *e, int64_t due_ns);
/* As wheel_set(), where the entry is not set already or is set later: earlier ones stay. */
void wheel_set_earlier(struct wheel *w, struct wheel_entry *e, int64_t due_ns);
void wheel_drop(struct wheel *w, struct wheel_entry *e); /* one that is not in it: no effect */
/* One that is set is not to wait for the next look: wheel_next() tells when it can be taken. */
void wheel_hurry(struct wheel *w, const struct wheel_entry *e);
/* When the first of those can be taken, where that is before `until_ns`; otherwise INT64_MAX. */
int64_t wheel_next(const struct wheel *w, int64_t until_ns);
/* Take one entry that is due, NULL when there is none left. */
struct wheel_entry *wheel_take(struct wheel *w, int64_t now_ns);

static inline bool wheel_has(const struct wheel_entry *e)
{
    return e->next != NULL;
}

#endif
