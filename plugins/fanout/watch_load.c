/*
 * The watches of a shard whose lease has come here: their rows, then their streams, then how far each stream was told to them; see watch.h.
 *
 * All of them go into the index in one step, at which the shard begins to read each stream from where it was.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/doc.h"
#include "fanout/ask.h"
#include "fanout/watch.h"

enum { PAGE = 500, UNKNOWN_TRIES = 5, DOUBLINGS = 5 };
static const int64_t retry_ns = 250 * CLOCK_MS; /* the first time; doubled up to 8 s */

/* A page of a shard, behind a tenant and an id; each table is looked at once. */
const char watch_rows_sql[] =
    "WITH page AS MATERIALIZED ("
    " SELECT w.tenant, w.id, w.agent, w.role, w.spec, w.position FROM muster.watches AS w"
    " WHERE w.shard = $1::smallint AND (w.tenant, w.id) > ($2, $3) ORDER BY w.tenant, w.id LIMIT $4::int),"
    " tables AS MATERIALIZED ("
    " SELECT t.*, muster.watch_table(t.tenant, t.schema, t.name) AS info"
    " FROM (SELECT DISTINCT tenant::text AS tenant, spec ->> 'schema' AS schema, spec ->> 'table' AS name FROM page WHERE spec ? 'table') AS t)"
    " SELECT p.tenant, p.id, p.agent, p.role, p.spec, p.position, t.info"
    " FROM page AS p LEFT JOIN tables AS t ON t.tenant = p.tenant AND t.schema = p.spec ->> 'schema' AND t.name = p.spec ->> 'table'"
    " ORDER BY p.tenant, p.id";

struct loaded {
    struct loaded *next;
    struct watch *w;
    struct muster_value *positions; /* of the row; NULL: none */
    bool has_gaps; /* one of its streams has told them */
};

struct feed_at {
    struct feed *feed;
    struct kept *kept;
    bool asked, known;
};

struct load {
    struct watch_shard *s;
    bool dead;
    uint32_t pending; /* callbacks still due */
    char tenant[WATCH_ID_SIZE], id[WATCH_ID_SIZE]; /* the last of the page before */
    struct loaded *list, **end;
    struct feed_at *feeds;
    size_t n_feeds;
    bool read; /* all rows are */
    size_t unknown; /* rows of tenants that this broker has not heard of yet */
};

/* ---- the end --------------------------------------------------------------------------------------------------------------------- */

static void load_free(struct load *l)
{
    while (l->list) {
        struct loaded *one = l->list;

        l->list = one->next;
        value_free(one->positions);
        free(one);
    }
    for (size_t i = 0; i < l->n_feeds; i++)
        kept_free(l->feeds[i].kept);
    free(l->feeds);
    free(l);
}

/* The watches are freed by shard_drop(), as all of the shard are. */
void load_stop(struct watch_shard *s)
{
    struct load *l = s->load;

    if (!l)
        return;
    s->load = NULL;
    s->retry_ns = 0;
    l->dead = true;
    if (!l->pending)
        load_free(l);
}

/* True: it is no longer wanted. */
static bool came_back(struct load *l)
{
    l->pending--;
    if (l->dead && !l->pending)
        load_free(l);
    return l->dead;
}

static void drop_watches(struct watch_shard *s)
{
    void *value;

    for (size_t at = 0; map_next(&s->ws->by_id, &at, NULL, &value);)
        if (((struct watch *)value)->shard == s->n)
            watch_free(value);
}

static void again(struct watch_shard *s)
{
    load_stop(s);
    drop_watches(s);
    s->retry_ns = s->ws->f->timer->now(s->ws->f->host) + (retry_ns << (s->tries < DOUBLINGS ? s->tries : DOUBLINGS));
    s->tries++;
}

/* ---- into the index -------------------------------------------------------------------------------------------------------------- */

static struct feed_at *feed_at_of(const struct load *l, const struct feed *feed)
{
    for (size_t i = 0; i < l->n_feeds; i++)
        if (l->feeds[i].feed == feed)
            return &l->feeds[i];
    return NULL;
}

static uint64_t row_position(const struct loaded *one, const struct feed *feed)
{
    return (uint64_t)doc_int(doc_get(one->positions, feed->name));
}

/* Who opened it may have died before it was kept where the watch is. */
static bool is_kept(const struct loaded *one, const struct feed_at *at)
{
    return at->kept && kept_knows(at->kept, (uint64_t)doc_int(doc_get(one->positions, "epoch")), (uint64_t)doc_int(doc_get(one->positions, "number")));
}

static bool is_of_this_stream(const struct feed_at *at)
{
    return at->kept && kept_created_us(at->kept) == at->feed->created_us;
}

static void tell_gaps(struct loaded *one, const struct kept *kept)
{
    size_t before = one->w->n_gaps;

    if (!one->has_gaps)
        kept_gaps(kept, one->w);
    one->has_gaps = one->has_gaps || one->w->n_gaps > before;
}

static void place_tap(struct load *l, struct loaded *one, struct tap *tap)
{
    struct feed_at *at = feed_at_of(l, tap->feed);
    uint64_t row = row_position(one, tap->feed), own;

    if (!tap->feed->ready)
        return;
    if (tap == one->w->taps && !is_kept(one, at) && doc_get(one->positions, "cut"))
        outlet_gap(one->w, "retention", one->w->channel, 0, 0);
    if (!is_of_this_stream(at)) {
        if (at->kept)
            outlet_gap(one->w, "stream", "", 0, 0);
        tap->pos = at->kept ? 0 : row;
        return;
    }
    tell_gaps(one, at->kept);
    own = is_kept(one, at) ? kept_pos(at->kept, one->w->id) : row;
    if (own != kept_pos(at->kept, NULL) && tap_apart(tap, own > row ? own : row))
        tap_go(tap);
    else
        tap->pos = row;
}

/* Behind it the first of the watches that are not apart begins. */
static uint64_t least_row(const struct load *l, const struct feed *feed)
{
    uint64_t least = UINT64_MAX;

    for (const struct loaded *one = l->list; one; one = one->next)
        for (size_t i = 0; i < one->w->n_taps; i++)
            if (one->w->taps[i].feed == feed && !one->w->taps[i].reader && row_position(one, feed) < least)
                least = row_position(one, feed);
    return least == UINT64_MAX ? 0 : least;
}

/* From where the shard reads it: what is kept, but nothing that was there before the earliest of its watches. */
static uint64_t begin_of(const struct load *l, const struct feed_at *at)
{
    uint64_t least = least_row(l, at->feed), kept = is_of_this_stream(at) ? kept_pos(at->kept, NULL) : 0;

    if (at->kept && !is_of_this_stream(at))
        return 0;
    return least > kept ? least : kept;
}

static void finish(struct load *l)
{
    struct watch_shard *s = l->s;

    for (struct loaded *one = l->list; one; one = one->next) {
        if (!watch_link(one->w))
            outlet_gap(one->w, "no_memory", "", 0, 0);
        for (size_t i = 0; i < one->w->n_taps; i++)
            place_tap(l, one, &one->w->taps[i]);
    }
    for (size_t i = 0; i < l->n_feeds; i++)
        if (l->feeds[i].feed->ready)
            feed_catch(l->feeds[i].feed, s->n, begin_of(l, &l->feeds[i]));
    s->load = NULL;
    load_free(l);
    shard_loaded(s);
}

/* ---- streams --------------------------------------------------------------------------------------------------------------------- */

static void on_kept_read(void *arg, int code, struct kept *kept)
{
    struct load *l = arg;

    if (came_back(l)) {
        kept_free(kept);
        return;
    }
    if (code && code != MUSTER_ENOTFOUND) {
        kept_free(kept);
        again(l->s);
        return;
    }
    for (size_t i = 0; i < l->n_feeds; i++) /* in the order that they were asked for */
        if (l->feeds[i].asked && !l->feeds[i].known) {
            l->feeds[i].kept = kept;
            l->feeds[i].known = true;
            break;
        }
    load_tick(l->s);
}

/* One at a time. True: something is under way. */
static bool ask_next(struct load *l)
{
    for (size_t i = 0; i < l->n_feeds; i++) {
        struct feed_at *at = &l->feeds[i];

        if (at->known || !at->feed->ready)
            continue;
        if (at->asked)
            return true;
        at->asked = true;
        l->pending++;
        if (kept_read(at->feed, l->s->n, on_kept_read, l) == 0)
            return true;
        l->pending--;
        again(l->s);
        return true;
    }
    return false;
}

void load_tick(struct watch_shard *s)
{
    struct load *l = s->load;

    if (!l || !l->read || l->pending)
        return;
    for (size_t i = 0; i < l->n_feeds; i++)
        if (!l->feeds[i].feed->ready && !l->feeds[i].feed->missing)
            return;
    if (!ask_next(l))
        finish(l);
}

static bool need_feed(struct load *l, struct feed *feed)
{
    struct feed_at *grown;

    if (feed_at_of(l, feed))
        return true;
    grown = realloc(l->feeds, (l->n_feeds + 1) * sizeof *grown);
    if (!grown)
        return false;
    l->feeds = grown;
    grown[l->n_feeds++] = (struct feed_at){.feed = feed};
    return true;
}

static void need_streams(struct load *l)
{
    bool there = true;

    for (struct loaded *one = l->list; one; one = one->next)
        for (size_t i = 0; i < one->w->n_taps; i++)
            there = need_feed(l, one->w->taps[i].feed) && there;
    if (!there) {
        again(l->s);
        return;
    }
    l->read = true;
    for (size_t i = 0; i < l->n_feeds; i++)
        feed_ensure(l->feeds[i].feed);
    load_tick(l->s);
}

/* ---- rows ------------------------------------------------------------------------------------------------------------------------ */

static uint32_t role_of(const char *word)
{
    static const char *const words[] = {"none", "agent", "observer", "user", "human", "admin", "operator"};
    uint32_t i = MUSTER_ROLE_AGENT;

    while (i < sizeof words / sizeof *words && strcmp(word, words[i]) != 0)
        i++;
    return i;
}

static bool compile(struct watch *w, const char *json, struct complaint *c)
{
    struct table_info info;
    bool is;

    if (w->spec.sources)
        return true;
    if (!json || table_info_read(json, &info) != 0)
        return false;
    is = watch_compile(w, &info, c);
    table_info_done(&info);
    return is;
}

static void keep_row(struct load *l, struct watch *w, const char *positions)
{
    struct loaded *one = calloc(1, sizeof *one);
    struct wire_error error;

    if (!one) { /* it is loaded by whoever has the shard next */
        watch_free(w);
        return;
    }
    one->w = w;
    if (positions && value_decode(MUSTER_JSON, (struct muster_bytes){positions, strlen(positions)}, &one->positions, &error) != 0)
        one->positions = NULL;
    *l->end = one;
    l->end = &one->next;
}

static void take_row(struct load *l, const struct muster_sql_result *r, uint32_t i)
{
    struct watches *ws = l->s->ws;
    const char *tenant_name = r->get(r, i, 0), *id = r->get(r, i, 1);
    const struct muster_tenant *tenant = ws->f->tenants->find(ws->f->host, tenant_name, strlen(tenant_name));
    struct complaint c;
    struct watch *w;
    char *spec;

    if (!tenant) {
        l->unknown++;
        return;
    }
    spec = strdup(r->get(r, i, 4));
    w = spec ? watch_new(ws, tenant, r->get(r, i, 2), role_of(r->get(r, i, 3)), spec, &c) : NULL;
    if (!w || !watch_taps(w, &c) || !watch_register(w, id)) {
        ws->f->host->log(ws->f->host, MUSTER_LOG_WARN, "watch %s of tenant %s cannot be served: %s", id, tenant_name, w && c.code ? c.text : "");
        watch_free(w);
    } else if (!compile(w, r->get(r, i, 6), &c)) {
        watch_end(w, "table_changed");
    } else {
        keep_row(l, w, r->get(r, i, 5));
    }
}

static void ask_page(struct load *l);

static void on_rows(void *arg, const struct muster_sql_result *r)
{
    struct load *l = arg;

    if (came_back(l))
        return;
    if (r->code) {
        again(l->s);
        return;
    }
    for (uint32_t i = 0; i < r->n_rows; i++)
        take_row(l, r, i);
    if (l->unknown && l->s->tries < UNKNOWN_TRIES) {
        again(l->s);
    } else if (r->n_rows == PAGE) {
        (void)snprintf(l->tenant, sizeof l->tenant, "%s", r->get(r, PAGE - 1, 0));
        (void)snprintf(l->id, sizeof l->id, "%s", r->get(r, PAGE - 1, 1));
        ask_page(l);
    } else {
        need_streams(l);
    }
}

static void ask_page(struct load *l)
{
    struct fanout *f = l->s->ws->f;
    char shard[16], page[16];
    const char *texts[4] = {shard, l->tenant, l->id, page};
    struct muster_bytes params[4];

    (void)snprintf(shard, sizeof shard, "%u", l->s->n);
    (void)snprintf(page, sizeof page, "%d", PAGE);
    for (size_t i = 0; i < 4; i++)
        params[i] = (struct muster_bytes){texts[i], strlen(texts[i])};
    l->pending++;
    if (f->sql->exec(f->host, l->s->ws->stmt_rows, NULL, NULL, 4, params, on_rows, l) == 0)
        return;
    l->pending--;
    again(l->s);
}

void shard_load(struct watch_shard *s)
{
    struct load *l = calloc(1, sizeof *l);

    s->retry_ns = 0;
    if (!l) {
        again(s);
        return;
    }
    l->s = s;
    l->end = &l->list;
    s->load = l;
    ask_page(l);
}
