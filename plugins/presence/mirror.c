/*
 * presence/mirror.c - the mirror of sessions in public.agent_sessions: what was stored as an event is written there a moment later.
 *
 * Order    A tenant has one statement under way, so that what is written later is what happened later. What waits of one session is one
 *          row, which says the last state. Joins and leaves go at once; what changes in between may wait a while, for what follows it.
 * Bounds   STORE_ROWS and STORE_BYTES of all tenants; of more nothing is kept, and counted. While PostgreSQL is away events go on.
 * Fence    Each row has the epoch of its shard: what a broker writes that has lost it is refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "presence/presence.h"

enum { STORE_ROWS = 131072, BATCH_ROWS = 100, BATCH_BYTES = 512 * 1024, UNDER_WAY = 16 };
static const size_t store_bytes = 64u << 20;
static const int64_t lazy_ns = 5 * CLOCK_S, retry_ns = CLOCK_S;

/* What waits to be written of one session. */
struct session_row {
    struct session_row *next, *prev; /* of the tenancy's ring */
    char agent[NAME_MAX_LEN + 1], session[SESSION_MAX + 1];
    const char *status, *reason; /* literals */
    bool begins, alone;          /* alone: it may be what the server refused */
    uint64_t epoch;
    int64_t at_wall_ns, due_ns;
    char *body; /* NULL: none */
    size_t len;
};

/* One statement under way. */
struct batch {
    struct batch *next, *prev;
    struct presence *p;
    struct tenancy *tenancy; /* NULL: it was freed meanwhile */
    struct session_row *rows[BATCH_ROWS];
    size_t n;
};

struct session_store {
    uint64_t record;
    uint64_t written, refused, dropped, waiting; /* metrics */
    size_t n, bytes, n_under_way;
    size_t shown; /* as the metric has it */
    struct batch *batches;
    bool hurry; /* drain: nothing is lazy */
};

/* ---- rows --------------------------------------------------------------------------------------------------------------------- */

static size_t row_key(char out[NAME_MAX_LEN + SESSION_MAX + 2], const char *session, const char *agent)
{
    return (size_t)snprintf(out, NAME_MAX_LEN + SESSION_MAX + 2, "%s.%s", agent, session);
}

static void row_free(struct session_store *store, struct session_row *r)
{
    store->n--;
    store->bytes -= r->len;
    free(r->body);
    free(r);
}

static void unlink_row(struct tenancy *t, struct session_row *r)
{
    char key[NAME_MAX_LEN + SESSION_MAX + 2];

    (void)map_take(&t->death.by_session, key, row_key(key, r->session, r->agent));
    if (r->next == r) {
        t->death.rows = NULL;
        return;
    }
    if (t->death.rows == r)
        t->death.rows = r->next;
    r->prev->next = r->next;
    r->next->prev = r->prev;
}

static bool link_row(struct tenancy *t, struct session_row *r)
{
    char key[NAME_MAX_LEN + SESSION_MAX + 2];
    struct session_row *first = t->death.rows;

    if (!map_put(&t->death.by_session, key, row_key(key, r->session, r->agent), r))
        return false;
    if (!first) {
        t->death.rows = r->next = r->prev = r;
        return true;
    }
    r->next = first;
    r->prev = first->prev;
    r->prev->next = first->prev = r;
    return true;
}

static struct session_row *find_row(const struct tenancy *t, const char *session, const char *agent)
{
    char key[NAME_MAX_LEN + SESSION_MAX + 2];

    return map_get(&t->death.by_session, key, row_key(key, session, agent));
}

static struct session_row *row_new(struct tenancy *t, const char *session, const char *agent)
{
    struct session_store *store = t->p->death.store;
    struct session_row *r = store->n < STORE_ROWS ? calloc(1, sizeof *r) : NULL;

    if (!r)
        return NULL;
    store->n++;
    (void)snprintf(r->agent, sizeof r->agent, "%s", agent);
    (void)snprintf(r->session, sizeof r->session, "%s", session);
    if (link_row(t, r))
        return r;
    row_free(store, r);
    return NULL;
}

static bool set_body(struct session_store *store, struct session_row *r, struct muster_bytes body)
{
    char *copy;

    if (!body.len)
        return true;
    copy = store->bytes + body.len <= store_bytes ? malloc(body.len) : NULL;
    if (!copy)
        return false;
    memcpy(copy, body.data, body.len);
    store->bytes += body.len - r->len;
    free(r->body);
    r->body = copy;
    r->len = body.len;
    return true;
}

/* ---- what happened ------------------------------------------------------------------------------------------------------------ */

struct said_row {
    const char *session, *agent, *status, *reason;
    struct muster_bytes body;
    uint64_t epoch;
    int64_t wait_ns;
    bool begins;
};

static void keep(struct tenancy *t, const struct said_row *said)
{
    struct presence *p = t->p;
    struct session_row *r = find_row(t, said->session, said->agent);
    int64_t due_ns = p->timer->now(p->host) + said->wait_ns;
    bool is_new = !r;

    if (is_new)
        r = row_new(t, said->session, said->agent);
    if (!r || !set_body(p->death.store, r, said->body)) {
        p->metrics->add(p->host, p->death.store->dropped, NULL, 1);
        return;
    }
    r->status = said->status;
    r->reason = said->reason;
    r->begins |= said->begins;
    r->epoch = said->epoch;
    r->at_wall_ns = p->timer->wall_now(p->host);
    if (is_new || due_ns < r->due_ns)
        r->due_ns = due_ns;
}

/* The word as a literal: what the event has is borrowed. */
static const char *reason_of(const char *reason)
{
    static const char *const words[] = {"bye", "disconnected", "timeout", "kicked"};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (reason && strcmp(reason, words[i]) == 0)
            return words[i];
    return NULL;
}

void sessions_stored(struct presence *p, const struct session_event *event)
{
    struct said_row said = {.session = event->session, .agent = event->agent, .status = "active", .body = event->body, .epoch = event->epoch};

    if (p->death.done)
        return;
    if (event->kind == KIND_JOIN && event->replaced && strcmp(event->replaced, event->session) != 0)
        keep(event->tenancy, &(struct said_row){.session = event->replaced, .agent = event->agent, .status = "completed",
                                                .reason = "replaced", .epoch = event->epoch});
    said.begins = event->kind == KIND_JOIN;
    if (event->kind == KIND_LEAVE) {
        said.reason = reason_of(event->reason);
        said.status = said.reason && strcmp(said.reason, "bye") == 0 ? "completed" : "failed";
    } else if (event->kind != KIND_JOIN) {
        said.wait_ns = lazy_ns;
    }
    keep(event->tenancy, &said);
}

/* ---- writing ------------------------------------------------------------------------------------------------------------------ */

static void write_row(struct buf *b, const struct session_row *r)
{
    char at[CLOCK_RFC3339_SIZE];

    clock_rfc3339(r->at_wall_ns, at);
    buf_puts(b, "{\"session\":");
    buf_put_json(b, r->session, strlen(r->session));
    buf_printf(b, ",\"agent\":\"%s\",\"status\":\"%s\",\"begins\":%s,\"epoch\":%llu,\"at\":\"%s\"", r->agent, r->status,
               r->begins ? "true" : "false", (unsigned long long)r->epoch, at);
    if (r->reason)
        buf_printf(b, ",\"reason\":\"%s\"", r->reason);
    if (r->body) {
        buf_puts(b, ",\"state\":");
        buf_put(b, r->body, r->len);
    }
    buf_putc(b, '}');
}

/* A newer row of the same session says all but that it began. */
static void put_back(struct tenancy *t, struct session_row *r, int64_t now_ns)
{
    struct session_store *store = t->p->death.store;
    struct session_row *newer = find_row(t, r->session, r->agent);

    if (newer) {
        newer->begins |= r->begins;
        if (!newer->body && r->body) {
            newer->body = r->body;
            newer->len = r->len;
            r->body = NULL;
            r->len = 0;
        }
    }
    r->due_ns = now_ns;
    if (newer || !link_row(t, r))
        row_free(store, r);
}

static void refuse_row(struct batch *batch, const char *error)
{
    struct presence *p = batch->p;

    p->host->log(p->host, MUSTER_LOG_ERROR, "session %s of agent %s is not in agent_sessions: %s", batch->rows[0]->session,
                 batch->rows[0]->agent, error);
    p->metrics->add(p->host, p->death.store->dropped, NULL, 1);
    row_free(p->death.store, batch->rows[0]);
}

static void failed(struct batch *batch, const struct muster_sql_result *result)
{
    struct presence *p = batch->p;
    int64_t now_ns = p->timer->now(p->host);

    if (result->code == MUSTER_EINVAL && batch->n == 1) {
        refuse_row(batch, result->error);
        return;
    }
    for (size_t i = 0; i < batch->n; i++) {
        batch->rows[i]->alone |= result->code == MUSTER_EINVAL;
        put_back(batch->tenancy, batch->rows[i], now_ns);
    }
    batch->tenancy->death.not_before_ns = now_ns + retry_ns;
}

static int64_t number_of(const char *outcome, const char *name)
{
    const char *at = outcome ? strstr(outcome, name) : NULL;

    at = at ? strchr(at, ':') : NULL;
    return at ? strtoll(at + 1, NULL, 10) : 0;
}

static void written(struct batch *batch, const struct muster_sql_result *result)
{
    struct presence *p = batch->p;
    const char *outcome = result->n_rows ? result->get(result, 0, 0) : NULL;

    p->metrics->add(p->host, p->death.store->written, NULL, number_of(outcome, "\"stored\""));
    p->metrics->add(p->host, p->death.store->refused, NULL, number_of(outcome, "\"refused\""));
    for (size_t i = 0; i < batch->n; i++)
        row_free(p->death.store, batch->rows[i]);
}

static void batch_end(struct batch *batch)
{
    struct session_store *store = batch->p->death.store;

    if (batch->prev)
        batch->prev->next = batch->next;
    else
        store->batches = batch->next;
    if (batch->next)
        batch->next->prev = batch->prev;
    store->n_under_way--;
    free(batch);
}

static void on_written(void *arg, const struct muster_sql_result *result)
{
    struct batch *batch = arg;

    if (batch->tenancy) {
        batch->tenancy->death.writing = false;
        if (result->code)
            failed(batch, result);
        else
            written(batch, result);
    }
    batch_end(batch);
}

/* ---- what is due -------------------------------------------------------------------------------------------------------------- */

static bool is_due(const struct session_store *store, const struct session_row *r, int64_t now_ns)
{
    return store->hurry || r->due_ns <= now_ns;
}

static void collect(struct batch *batch, struct buf *b, int64_t now_ns)
{
    struct tenancy *t = batch->tenancy;
    struct session_store *store = batch->p->death.store;
    struct session_row *r = t->death.rows, *last = r->prev, *next;

    buf_putc(b, '[');
    for (bool more = true; more && batch->n < BATCH_ROWS && b->len < BATCH_BYTES; r = next) {
        next = r->next;
        more = r != last;
        if (!is_due(store, r, now_ns) || (r->alone && batch->n))
            continue;
        if (batch->n)
            buf_putc(b, ',');
        write_row(b, r);
        unlink_row(t, r);
        batch->rows[batch->n++] = r;
        if (r->alone)
            break;
    }
    buf_putc(b, ']');
}

static void enter(struct session_store *store, struct batch *batch)
{
    batch->next = store->batches;
    if (store->batches)
        store->batches->prev = batch;
    store->batches = batch;
    store->n_under_way++;
    batch->tenancy->death.writing = true;
}

static void give_back(struct batch *batch, int64_t now_ns)
{
    for (size_t i = 0; i < batch->n; i++)
        put_back(batch->tenancy, batch->rows[i], now_ns);
    if (batch->n)
        batch->tenancy->death.not_before_ns = now_ns + retry_ns;
    free(batch);
}

static void write_some(struct tenancy *t, int64_t now_ns)
{
    struct presence *p = t->p;
    struct batch *batch = calloc(1, sizeof *batch);
    struct buf b = {0};
    struct muster_bytes param;

    if (!batch)
        return;
    *batch = (struct batch){.p = p, .tenancy = t};
    collect(batch, &b, now_ns);
    param = (struct muster_bytes){b.data, b.len};
    if (!batch->n || buf_failed(&b) ||
        p->death.sql->exec(p->host, p->death.store->record, t->tenant, t->name, 1, &param, on_written, batch) != 0)
        give_back(batch, now_ns);
    else
        enter(p->death.store, batch);
    buf_done(&b);
}

void mirror_tick(struct presence *p, int64_t now_ns)
{
    struct session_store *store = p->death.store;
    struct tenancy *t;

    if (store->n != store->shown)
        p->metrics->set(p->host, store->waiting, NULL, (int64_t)store->n);
    store->shown = store->n;
    if (store->n == 0)
        return;
    for (size_t i = 0; tenancy_next(p, &i, &t) && store->n_under_way < UNDER_WAY;)
        if (t->death.rows && !t->death.writing && now_ns >= t->death.not_before_ns)
            write_some(t, now_ns);
}

/* ---- life --------------------------------------------------------------------------------------------------------------------- */

int mirror_prepare(struct presence *p)
{
    struct session_store *store = calloc(1, sizeof *store);
    int err;

    if (!store)
        return MUSTER_ENOMEM;
    p->death.store = store;
    err = p->death.sql->prepare(p->host, "record_sessions", MUSTER_SQL_WRITE, "SELECT muster.record_sessions($1::jsonb)", &store->record);
    if (!err)
        err = p->metrics->make(p->host, MUSTER_COUNTER, "sessions_written_total", "Rows of agent_sessions written.", NULL, &store->written);
    if (!err)
        err = p->metrics->make(p->host, MUSTER_COUNTER, "sessions_refused_total",
                               "Rows not written, because another broker leads or the session is another agent's.", NULL, &store->refused);
    if (!err)
        err = p->metrics->make(p->host, MUSTER_COUNTER, "sessions_dropped_total", "Rows given up, for want of room or because PostgreSQL refused them.",
                               NULL, &store->dropped);
    return err ? err : p->metrics->make(p->host, MUSTER_GAUGE, "sessions_waiting", "Rows of agent_sessions that wait to be written.", NULL,
                                        &store->waiting);
}

void sessions_drain(struct presence *p)
{
    p->death.store->hurry = true;
    mirror_tick(p, p->timer->now(p->host));
}

static void drop_rows(struct tenancy *t)
{
    while (t->death.rows) {
        struct session_row *r = t->death.rows;

        unlink_row(t, r);
        row_free(t->p->death.store, r);
    }
    map_done(&t->death.by_session);
}

static void abandon(struct batch *batch)
{
    for (size_t i = 0; i < batch->n; i++)
        row_free(batch->p->death.store, batch->rows[i]);
    batch->n = 0;
    batch->tenancy = NULL;
}

void sessions_forget(struct tenancy *t)
{
    if (!t->p->death.store)
        return;
    for (struct batch *batch = t->p->death.store->batches; batch; batch = batch->next)
        if (batch->tenancy == t)
            abandon(batch);
    t->death.writing = false;
    drop_rows(t);
}

void mirror_done(struct presence *p)
{
    struct session_store *store = p->death.store;
    struct tenancy *t;

    if (!store)
        return;
    for (size_t i = 0; tenancy_next(p, &i, &t);)
        sessions_forget(t);
    while (store->batches)
        batch_end(store->batches);
    free(store);
    p->death.store = NULL;
}
