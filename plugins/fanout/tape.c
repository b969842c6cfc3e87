/* Streams of others; see tape.h. */
#include "fanout/tape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- gates -------------------------------------------------------------------------------------------------------------- */

bool gate_enter(struct gate *g, struct waiter *w)
{
    struct waiter **list = g->busy ? &g->later : &g->now;
    bool first = !g->busy;

    w->next = *list;
    *list = w;
    g->busy = true;
    return first;
}

bool gate_leave(struct gate *g, int code)
{
    struct waiter *w = g->now, *next;

    g->now = NULL; /* busy is still set: who asks from within fn comes with the next */
    for (; w; w = next) {
        next = w->next;
        w->fn(w, code);
    }
    g->now = g->later;
    g->later = NULL;
    g->busy = g->now != NULL;
    return g->busy;
}

/* ---- looking ------------------------------------------------------------------------------------------------------------ */

static void ask(struct tape *t);

static void answered(struct tape *t, int code)
{
    if (gate_leave(&t->gate, code))
        ask(t);
}

static void on_info(void *arg, int code, const struct muster_stream_info *info)
{
    struct tape *t = arg;

    if (!code)
        t->info = *info;
    answered(t, code);
}

static int look(struct tape *t)
{
    if (t->attached)
        return t->f->stream->info(t->f->host, t->stream, on_info, t);
    return MUSTER_EABI;
}

static void ask(struct tape *t)
{
    int err = look(t);

    while (err && gate_leave(&t->gate, err))
        err = look(t);
}

void tape_look(struct tape *t, struct waiter *w)
{
    t->used_ns = t->f->timer->now(t->f->host);
    if (gate_enter(&t->gate, w))
        ask(t);
}

/* ---- attaching ---------------------------------------------------------------------------------------------------------- */

static void tape_free(struct tape *t)
{
    if (t->attached)
        t->f->stream->close(t->f->host, t->stream);
    free(t->key);
    free(t);
}

static bool make_room(struct tapes *tapes)
{
    struct tape *oldest = NULL;
    void *value;

    for (size_t at = 0; tapes->by_key.n >= TAPES_MAX && map_next(&tapes->by_key, &at, NULL, &value);) {
        struct tape *t = value;

        if (!t->users && !t->gate.busy && (!oldest || t->used_ns < oldest->used_ns))
            oldest = t;
    }
    if (oldest) {
        (void)map_take(&tapes->by_key, oldest->key, strlen(oldest->key));
        tape_free(oldest);
    }
    return tapes->by_key.n < TAPES_MAX;
}

/* The first look comes with it. */
static bool attach(struct tape *t, const char *name, const struct muster_tenant *tenant)
{
    if (t->f->stream->attach(t->f->host, name, tenant, on_info, t, &t->stream) != 0)
        return false;
    t->attached = true;
    t->gate.busy = true;
    return true;
}

struct tape *tape_of(struct fanout *f, struct tapes *tapes, const char *name, const struct muster_tenant *tenant)
{
    char key[160];
    struct tape *t;

    (void)snprintf(key, sizeof key, "%s/%s", name, tenant ? f->tenants->name(tenant) : "");
    t = map_get(&tapes->by_key, key, strlen(key));
    if (t)
        return t;
    t = make_room(tapes) ? calloc(1, sizeof *t) : NULL;
    if (!t)
        return NULL;
    t->f = f;
    t->key = strdup(key);
    if (!t->key || !map_put(&tapes->by_key, key, strlen(key), t)) {
        tape_free(t);
        return NULL;
    }
    if (!attach(t, name, tenant)) {
        (void)map_take(&tapes->by_key, key, strlen(key));
        tape_free(t);
        return NULL;
    }
    return t;
}

void tapes_done(struct fanout *f, struct tapes *tapes)
{
    void *value;

    (void)f;
    for (size_t at = 0; map_next(&tapes->by_key, &at, NULL, &value);)
        tape_free(value);
    map_done(&tapes->by_key);
}
