/*
 * Reads of channels: one by one, or, where WIDE_FROM inboxes of a tenant are read and as many wait, all that wait in one; see history.h.
 * The lane.
 *
 * A wide read follows the tenant's messages of MAIL, by one consumer, from the lowest place that one of its inboxes wants to the end. An
 * inbox whose place is far before those of the others would make it long for all: it waits for the next. WIDES_MAX tenants have one at a
 * time.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/history.h"

enum { WIDE_FROM = 32, WIDES_MAX = 8, FAR = 4, NEAR = 10000, PART = 1000, WIDE_WINDOW = 4000 };

static const int64_t gather_ns = 20 * CLOCK_MS, away_max_ns = 10 * CLOCK_S;

/* The inboxes of one tenant. */
struct wide {
    struct history *h;
    const struct muster_tenant *tenant;
    struct channel *pending; /* wait for a read */
    size_t n_pending;
    unsigned int n_single; /* that are read by themselves */
    struct channel **who;  /* in the present wide read */
    size_t n;
    struct map by_agent;
    uint64_t at, follow;
    int64_t away_ns; /* since when the flow is away; 0: it is not */
    size_t n_part, n_bytes;
    bool busy;
    bool held; /* the flow waits: those whom it helps cannot be answered now */
};

static void go_on(struct wide *w);

static struct wide *wide_of(struct history *h, const struct muster_tenant *tenant)
{
    struct wide *w = map_get(&h->wides, &tenant, sizeof tenant);

    if (w)
        return w;
    w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->h = h;
    w->tenant = tenant;
    if (!map_put(&h->wides, &tenant, sizeof tenant, w)) {
        free(w);
        return NULL;
    }
    return w;
}

static const char *agent_of(const struct channel *c)
{
    return c->spec.filter + strlen("msg.");
}

/* ---- by itself ---------------------------------------------------------------------------------------------------------- */

/* NULL: it was no inbox. */
static struct wide *leave_single(struct channel *c)
{
    struct wide *w = c->single ? wide_of(c->h, c->tenant) : NULL;

    c->single = false;
    if (w)
        w->n_single--;
    return w;
}

static void on_read(void *arg, int code, const struct muster_msg *msg)
{
    struct channel *c = arg;
    struct wide *w;

    if (msg) {
        if (!c->failed)
            c->failed = channel_take(c, msg);
        return;
    }
    w = leave_single(c);
    channel_read_over(c, c->failed ? c->failed : code);
    if (w)
        go_on(w);
}

static int read_single(struct channel *c)
{
    const struct fanout *f = c->h->f;

    f->metrics->add(f->host, c->h->m_reads, NULL, 1);
    return f->stream->read(f->host, c->tape->stream, c->tenant, c->spec.filter, c->reading.from, READ_MAX, on_read, c);
}

/* ---- together ----------------------------------------------------------------------------------------------------------- */

static void leave(struct wide *w, size_t i, int code)
{
    struct channel *c = w->who[i];

    (void)map_take(&w->by_agent, agent_of(c), strlen(agent_of(c)));
    w->who[i] = w->who[--w->n];
    channel_read_over(c, code);
}

static void go_on_elsewhere(struct history *h);

static void finish(struct wide *w, int code)
{
    struct history *h = w->h;

    if (w->follow)
        h->f->stream->unfollow(h->f->host, w->follow);
    w->follow = 0;
    w->held = false;
    while (w->n)
        leave(w, w->n - 1, code);
    free(w->who);
    w->who = NULL;
    map_done(&w->by_agent);
    w->by_agent = (struct map){0};
    w->busy = false;
    h->n_wide--;
    go_on(w);
    go_on_elsewhere(h);
}

/* It has what its first reader wants, or as much as is kept of one read. */
static bool has_enough(const struct channel *c)
{
    return c->full || c->failed || !c->waiting || c->reading.n >= c->waiting->limit;
}

/* All before `at` was read. What becomes too much is given to those whom it helps; they ask for the rest anew. */
static void on_part(struct wide *w)
{
    bool much = w->n_bytes / 8 > (size_t)w->h->f->config->cache_bytes;

    for (size_t i = w->n; i-- > 0;) {
        struct channel *c = w->who[i];

        if (!c->full && w->at > c->reading.from)
            c->reading.upto = w->at - 1;
        if (has_enough(c) || (much && c->reading.n))
            leave(w, i, c->failed);
    }
    w->n_part = 0;
    if (much)
        w->n_bytes = 0;
}

static void take(struct wide *w, const struct muster_msg *msg)
{
    const char *agent = strchr(msg->subject, '.');
    struct channel *c = agent ? map_get(&w->by_agent, agent + 1, strlen(agent + 1)) : NULL;

    w->at = msg->seq + 1;
    w->n_part++;
    if (!c || msg->seq < c->reading.from || c->failed)
        return;
    c->failed = channel_take(c, msg);
    w->n_bytes += msg->payload.len + 512;
}

static void hold(struct wide *w, bool on)
{
    if (w->held == on || !w->follow)
        return;
    w->held = on;
    w->h->f->stream->hold_back(w->h->f->host, w->follow, on);
}

/* The flow may be away for a while and goes on after it. Of what else ends it before the end of what is stored some is lost, so that nobody
 * would get the whole. */
static void on_wide(void *arg, int code, const struct muster_msg *msg)
{
    struct wide *w = arg;

    w->away_ns = code == MUSTER_ELINK ? w->h->f->timer->now(w->h->f->host) : 0;
    if (code == MUSTER_ELINK)
        return;
    if (code) {
        finish(w, code == MUSTER_EAGAIN ? MUSTER_ENOTFOUND : MUSTER_ELINK);
        return;
    }
    take(w, msg);
    if (w->n_part >= PART)
        on_part(w);
    if (!w->n)
        finish(w, 0);
    else
        hold(w, asks_wait(w->h->f));
}

static int by_place(const void *a, const void *b)
{
    const struct channel *const *x = a, *const *y = b;

    return (*x)->reading.from < (*y)->reading.from ? -1 : (*x)->reading.from > (*y)->reading.from;
}

/* Those that are not too far before the one in the middle; the others wait again. */
static void pick(struct wide *w)
{
    uint64_t middle, reach, last = 0;
    size_t first = 0;

    qsort(w->who, w->n, sizeof(struct channel *), by_place);
    for (size_t i = 0; i < w->n; i++)
        last = w->who[i]->must > last ? w->who[i]->must : last;
    middle = w->who[w->n / 2]->reading.from;
    reach = FAR * (last > middle ? last - middle : 0) + NEAR;
    while (last - w->who[first]->reading.from > reach && w->who[first]->reading.from < last)
        first++;
    for (size_t i = 0; i < first; i++) {
        w->who[i]->next = w->pending;
        w->pending = w->who[i];
    }
    w->n_pending = first;
    w->n -= first;
    memmove(w->who, w->who + first, w->n * sizeof(struct channel *));
}

static bool gather(struct wide *w)
{
    struct channel *c = w->pending;
    bool ok = true;

    w->who = malloc(w->n_pending * sizeof(struct channel *));
    if (!w->who)
        return false;
    for (w->n = 0; c; c = c->next)
        w->who[w->n++] = c;
    w->pending = NULL;
    pick(w);
    for (size_t i = 0; i < w->n; i++)
        ok = map_put(&w->by_agent, agent_of(w->who[i]), strlen(agent_of(w->who[i])), w->who[i]) && ok;
    return ok;
}

static void fail_pending(struct wide *w, int code)
{
    while (w->pending) {
        struct channel *c = w->pending;

        w->pending = c->next;
        w->n_pending--;
        channel_read_over(c, code);
    }
}

static void start(struct wide *w)
{
    struct history *h = w->h;
    int err;

    if (h->n_wide >= WIDES_MAX)
        return;
    h->n_wide++;
    w->busy = true;
    w->away_ns = 0;
    w->n_part = w->n_bytes = 0;
    err = gather(w) ? 0 : MUSTER_ENOMEM;
    if (!err) {
        w->at = w->who[0]->reading.from;
        h->f->metrics->add(h->f->host, h->m_wide, NULL, 1);
        err = h->f->stream->follow(h->f->host, w->who[0]->tape->stream, w->tenant, "msg.*", w->at, WIDE_WINDOW, on_wide, w, &w->follow);
    }
    if (!err)
        return;
    fail_pending(w, err);
    finish(w, err);
}

static void go_on_elsewhere(struct history *h)
{
    void *value;

    for (size_t at = 0; h->n_wide < WIDES_MAX && map_next(&h->wides, &at, NULL, &value);)
        go_on(value);
}

static int begin_single(struct wide *w, struct channel *c)
{
    int err = read_single(c);

    c->single = !err;
    w->n_single += !err;
    return err;
}

/* Those that wait: all in one where they are many, otherwise as many as may be read by themselves. */
static void go_on(struct wide *w)
{
    if (w->busy || w->h->ending || asks_wait(w->h->f))
        return;
    if (w->n_pending >= WIDE_FROM)
        start(w);
    while (w->pending && !w->busy && w->n_single < WIDE_FROM) {
        struct channel *c = w->pending;
        int err;

        w->pending = c->next;
        w->n_pending--;
        err = begin_single(w, c);
        if (err)
            channel_read_over(c, err);
    }
}

static void begin(struct history *h)
{
    h->gathering = 0;
    go_on_elsewhere(h);
}

void wides_resume(struct history *h)
{
    void *value;

    for (size_t at = 0; h->n_wide && map_next(&h->wides, &at, NULL, &value);)
        hold(value, asks_wait(h->f));
    if (!h->gathering)
        go_on_elsewhere(h);
}

void wides_tick(struct history *h, int64_t now_ns)
{
    void *value;

    for (size_t at = 0; h->n_wide && map_next(&h->wides, &at, NULL, &value);) {
        struct wide *w = value;

        if (w->busy && w->away_ns && now_ns - w->away_ns > away_max_ns)
            finish(w, MUSTER_ELINK);
    }
    begin(h);
}

static void on_gathered(void *self, int64_t now_ns)
{
    struct fanout *f = self;

    (void)now_ns;
    begin(f->history);
}

/* Those who come back together come within a moment: one pass for all of them is worth it. */
static void gather_more(struct history *h)
{
    if (!h->gathering)
        (void)h->f->timer->once(h->f->host, gather_ns, on_gathered, &h->gathering); /* if not, the next tick begins */
}

int wide_read(struct channel *c)
{
    struct wide *w = c->spec.mail ? wide_of(c->h, c->tenant) : NULL;

    if (!w)
        return read_single(c);
    if (!w->pending && !w->busy && w->n_single < WIDE_FROM)
        return begin_single(w, c);
    c->next = w->pending;
    w->pending = c;
    w->n_pending++;
    if (!w->busy && w->n_pending >= WIDE_FROM)
        gather_more(c->h);
    return 0;
}

void wides_end(struct history *h)
{
    void *value;

    h->ending = true;
    for (size_t at = 0; map_next(&h->wides, &at, NULL, &value);) {
        struct wide *w = value;

        if (w->busy)
            finish(w, MUSTER_ELINK);
        fail_pending(w, MUSTER_ELINK);
    }
}

void wides_done(struct history *h)
{
    void *value;

    for (size_t at = 0; map_next(&h->wides, &at, NULL, &value);)
        free(value);
    map_done(&h->wides);
}
