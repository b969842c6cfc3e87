/* A timer wheel; see wheel.h. */
#include "presence/wheel.h"

#include <string.h>

void wheel_init(struct wheel *w, int64_t now_ns)
{
    for (size_t i = 0; i < WHEEL_SLOTS; i++)
        w->slots[i].next = w->slots[i].prev = &w->slots[i];
    memset(w->hurried, 0, sizeof w->hurried);
    w->at = now_ns / WHEEL_SLOT_NS;
    w->n = 0;
}

/* The slot after the one in which it is due, so that who looks at a slot finds all of it due. */
static int64_t slot_of(const struct wheel *w, int64_t due_ns)
{
    int64_t slot = due_ns / WHEEL_SLOT_NS + 1;

    if (slot < w->at)
        return w->at;
    return slot < w->at + WHEEL_SLOTS ? slot : w->at + WHEEL_SLOTS - 1;
}

void wheel_drop(struct wheel *w, struct wheel_entry *e)
{
    if (!wheel_has(e))
        return;
    e->prev->next = e->next;
    e->next->prev = e->prev;
    e->next = e->prev = NULL;
    w->n--;
}

void wheel_set(struct wheel *w, struct wheel_entry *e, int64_t due_ns)
{
    struct wheel_entry *head;

    wheel_drop(w, e);
    e->due_ns = due_ns;
    head = &w->slots[slot_of(w, due_ns) % WHEEL_SLOTS];
    e->next = head;
    e->prev = head->prev;
    e->prev->next = head->prev = e;
    w->n++;
}

void wheel_set_earlier(struct wheel *w, struct wheel_entry *e, int64_t due_ns)
{
    if (!wheel_has(e) || due_ns < e->due_ns)
        wheel_set(w, e, due_ns);
}

void wheel_hurry(struct wheel *w, const struct wheel_entry *e)
{
    w->hurried[slot_of(w, e->due_ns) % WHEEL_SLOTS] = true;
}

int64_t wheel_next(const struct wheel *w, int64_t until_ns)
{
    for (int64_t slot = w->at; slot < w->at + WHEEL_SLOTS && slot * WHEEL_SLOT_NS < until_ns; slot++)
        if (w->hurried[slot % WHEEL_SLOTS])
            return slot * WHEEL_SLOT_NS;
    return INT64_MAX;
}

struct wheel_entry *wheel_take(struct wheel *w, int64_t now_ns)
{
    int64_t last = now_ns / WHEEL_SLOT_NS;

    for (; w->at <= last; w->hurried[w->at % WHEEL_SLOTS] = false, w->at++) {
        struct wheel_entry *head = &w->slots[w->at % WHEEL_SLOTS];

        while (head->next != head) {
            struct wheel_entry *e = head->next;

            if (e->due_ns <= now_ns) {
                wheel_drop(w, e);
                return e;
            }
            wheel_set(w, e, e->due_ns); /* it was further away than the wheel reaches */
        }
    }
    return NULL;
}
