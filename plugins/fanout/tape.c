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

/* The first look comes with the attaching. */
static int look(struct tape *t)
{
    int err;

    if (t->attached)
        return t->f->stream->info(t->f->host, t->stream, on_info, t);
    err = t->f->stream->attach(t->f->host, t->name, t->tenant, on_info, t, &t->stream);
    t->attached = !err;
    return err;
}

static void mark(struct tape *t, bool stalled)
{
    if (stalled == (t->stalled_ns != 0))
        return;
    t->stalled_ns = stalled ? t->f->timer->now(t->f->host) : 0;
    t->all->n_stalled += stalled ? 1 : (size_t)0 - 1; /* unsigned: wraps to the right count */
}

static bool is_patient(const struct tape *t)
{
    return !t->stalled_ns || t->f->timer->now(t->f->host) - t->stalled_ns < TAPE_PATIENCE_NS;
}

static void ask(struct tape *t)
{
    int err = look(t);

    while (err && (err != MUSTER_EAGAIN || !is_patient(t)) && gate_leave(&t->gate, err))
        err = look(t);
    mark(t, err == MUSTER_EAGAIN && t->gate.busy);
}

void tapes_resume(struct fanout *f, struct tapes *tapes)
{
    void *value;

    (void)f;
    for (size_t at = 0; tapes->n_stalled && map_next(&tapes->by_key, &at, NULL, &value);) {
        struct tape *t = value;

        if (t->stalled_ns)
            ask(t);
    }
}

void tape_look(struct tape *t, struct waiter *w)
{
    t->used_ns = t->f->timer->now(t->f->host);
    if (gate_enter(&t->gate, w))
        ask(t);
}

void tapes_end(struct tapes *tapes)
{
    void *value;

    for (size_t at = 0; tapes->n_stalled && map_next(&tapes->by_key, &at, NULL, &value);) {
        struct tape *t = value;

        if (!t->stalled_ns)
            continue;
        while (gate_leave(&t->gate, MUSTER_ELINK))
            ;
        mark(t, false);
    }
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

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
    t->all = tapes;
    t->f = f;
    t->tenant = tenant;
    t->key = strdup(key);
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    if (t->key && map_put(&tapes->by_key, key, strlen(key), t))
        return t;
    tape_free(t);
    return NULL;
}

void tapes_done(struct fanout *f, struct tapes *tapes)
{
    void *value;

    (void)f;
    for (size_t at = 0; map_next(&tapes->by_key, &at, NULL, &value);)
        tape_free(value);
    map_done(&tapes->by_key);
}
