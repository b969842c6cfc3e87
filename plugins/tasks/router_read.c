/* What the router asks the database: it believes nothing else for long; see router_parts.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tasks/router_parts.h"

static const int64_t taken_over_ns = 15 * CLOCK_S; /* longer than the tenant was without a router */
static const int64_t just_back_ns = 60 * CLOCK_S;  /* within which leases are there again, and agents */
static const int64_t quiet_ns = 30 * CLOCK_S, unspoken_ns = 180 * CLOCK_S; /* after which, and until when, a task is told again of which nothing was said */
enum { PEEKS_MAX = 8, UNHEARD_PAGE = 1000 };

int reads_create(struct router *r)
{
    const struct {
        const char *name, *sql;
        int kind;
        uint64_t *stmt;
    } wanted[] = {
        {"task_fence", "SELECT muster.fence_raise($1, $2, $3::jsonb)", MUSTER_SQL_WRITE, &r->stmt.fence},
        {"task_tenants", "SELECT * FROM muster.task_tenants()", MUSTER_SQL_READ, &r->stmt.tenants},
        {"task_peek", "SELECT * FROM muster.task_peek($1, $2::bigint, $3::bigint, $4, $5::int)", MUSTER_SQL_READ, &r->stmt.peek},
        {"task_look", "SELECT * FROM muster.task_look($1, $2::text[])", MUSTER_SQL_READ, &r->stmt.look},
        {"task_routes", "SELECT * FROM muster.task_routes($1, $2::bigint, $3::int)", MUSTER_SQL_READ, &r->stmt.routes},
        {"task_held", "SELECT task_id, agent, group_key, epoch, state, session FROM muster.task_held($1, $2, $3::int)", MUSTER_SQL_READ, &r->stmt.held},
        {"task_unheard", "SELECT * FROM muster.task_unheard($1, $2, $3::bigint, $4::bigint, $5, $6::int)", MUSTER_SQL_READ, &r->stmt.unheard},
    };
    int err = 0;

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !err; i++)
        err = r->w->sql->prepare(r->w->host, wanted[i].name, wanted[i].kind, wanted[i].sql, wanted[i].stmt);
    return err;
}

/* ---- rows --------------------------------------------------------------------------------------------------------------- */

uint32_t words_split(char *text, const char *words[WORDS_MAX])
{
    uint32_t n = 0;

    for (char *next; text && *text && n < WORDS_MAX; text = next) {
        next = strchr(text, '\x1e');
        if (next)
            *next++ = '\0';
        words[n++] = text;
    }
    return n;
}

static uint32_t split(struct row_words *of, size_t i, const char *text)
{
    free(of->text[i]);
    of->text[i] = text ? strdup(text) : NULL;
    return words_split(of->text[i], of->words[i]);
}

void row_words_free(struct row_words *of)
{
    for (size_t i = 0; of && i < 4; i++)
        free(of->text[i]);
    free(of);
}

struct task_spec row_task(const struct muster_sql_result *result, uint32_t i, struct row_words *of)
{
    const char *unroutable = field_of(result, i, 4);
    struct task_spec spec = {.task_id = result->get(result, i, 0), .pos = number_of(result, i, 1), .epoch = number_of(result, i, 2),
                             .seq = (int32_t)number_of(result, i, 3), .unroutable = unroutable && *unroutable == 't'};

    spec.n_excluded = split(of, 0, field_of(result, i, 5));
    spec.n_crashed = split(of, 1, field_of(result, i, 6));
    spec.excluded = of->words[0];
    spec.crashed = of->words[1];
    return spec;
}

struct route_spec row_route(const struct muster_sql_result *result, uint32_t i, uint32_t first, struct row_words *of)
{
    struct route_spec spec = {.id = number_of(result, i, first), .wanted = field_of(result, i, first + 1), .group = field_of(result, i, first + 4)};

    spec.n_capabilities = split(of, 2, field_of(result, i, first + 2));
    spec.n_labels = split(of, 3, field_of(result, i, first + 3));
    spec.capabilities = of->words[2];
    spec.labels = of->words[3];
    return spec;
}

/* ---- windows ------------------------------------------------------------------------------------------------------------ */

static void on_peek(void *arg, const struct muster_sql_result *result)
{
    struct question *q = arg;
    struct routed *d = routed_of(q);
    struct row_words *of = d ? calloc(1, sizeof *of) : NULL;

    q->r->n_peeks--;
    if (of && !result->code) {
        for (uint32_t i = 0; i < result->n_rows; i++) {
            struct task_spec spec = row_task(result, i, of);

            match_peeked(d->m, q->route, &spec);
        }
        match_peek_done(d->m, q->route, result->n_rows, PEEK_MAX);
    } else if (d) {
        match_peek_failed(d->m, q->route);
    }
    row_words_free(of);
    if (!result->code)
        router_soon(q->r); /* what failed is asked again with the next tick */
    free(q);
}

static int peek(const struct peek *p)
{
    const struct routed *d = match_tenant_user(p->tenant);
    struct work *w = d->r->w;
    struct question *q = question_new(d);
    char route[24], pos[24], limit[24];
    int err;

    if (!q)
        return MUSTER_ENOMEM;
    q->route = p->route;
    err = w->sql->exec(w->host, d->r->stmt.peek, d->tenant, NULL, 5,
                       (struct muster_bytes[]){ask_param(d->name), number_param(p->route, route), number_param(p->pos, pos), ask_param(p->task_id),
                                               number_param(PEEK_MAX, limit)},
                       on_peek, q);
    if (err)
        free(q);
    return err;
}

void read_peeks(struct router *r)
{
    struct peek p;

    while (r->n_peeks < PEEKS_MAX && match_peek_next(r->matcher, &p)) {
        if (peek(&p) != 0) {
            match_peek_failed(p.tenant, p.route);
            return;
        }
        r->n_peeks++;
    }
}

/* ---- routes ------------------------------------------------------------------------------------------------------------- */

static void on_routes(void *arg, const struct muster_sql_result *result)
{
    struct question *q = arg;
    struct routed *d = routed_of(q);
    struct row_words *of = d ? calloc(1, sizeof *of) : NULL;

    if (d)
        d->reading_routes = false;
    for (uint32_t i = 0; of && !result->code && i < result->n_rows; i++) {
        struct route_spec route = row_route(result, i, 0, of);

        (void)match_route_seen(d->m, &route, number_of(result, i, 5), result->get(result, i, 6));
        d->routes_after = route.id;
    }
    if (d && !result->code && result->n_rows < ROUTES_PAGE)
        d->routes_after = INT64_MIN; /* from the first again, the next time */
    else if (of && !result->code)
        read_routes(d);
    row_words_free(of);
    router_soon(q->r);
    free(q);
}

void read_routes(struct routed *d)
{
    struct work *w = d->r->w;
    struct question *q = d->reading_routes ? NULL : question_new(d);
    char after[24], limit[24];

    if (!q)
        return;
    d->reading_routes = w->sql->exec(w->host, d->r->stmt.routes, d->tenant, NULL, 3,
                                     (struct muster_bytes[]){ask_param(d->name), number_param(d->routes_after, after), number_param(ROUTES_PAGE, limit)},
                                     on_routes, q) == 0;
    if (!d->reading_routes)
        free(q);
}

/* ---- what is held ------------------------------------------------------------------------------------------------------- */

static void read_held_page(struct routed *d);

static void note_unheard(struct routed *d, int64_t since_ns)
{
    if (!d->unheard_ns || since_ns < d->unheard_ns)
        d->unheard_ns = since_ns > 0 ? since_ns : 1;
}

static void on_held_done(struct routed *d)
{
    d->reading_held = false;
    if (d->held_failed) {
        routed_again(d);
        return;
    }
    match_held_end(d->m);
    if (!d->ready) {
        d->ready = true;
        match_tenant_pause(d->m, false);
        read_routes(d);
        note_unheard(d, d->shard->got_ns - taken_over_ns);
        note_unheard(d, unheard_from(d->r, taken_over_ns));
        d->unheard_all = true;
    }
    if (d->unheard_ns)
        read_unheard(d, NULL, d->unheard_ns);
}

/* A question outlives the session that asked it; a slot of the agent's next one it does not take. */
static bool is_left_over(const struct routed *d, const struct muster_sql_result *result, uint32_t i)
{
    const char *state = field_of(result, i, 4), *session = field_of(result, i, 5);

    return state && session && strcmp(state, "input_required") == 0 && feed_has_other_session(d, field_of(result, i, 1), session);
}

static void on_held(void *arg, const struct muster_sql_result *result)
{
    struct question *q = arg;
    struct routed *d = routed_of(q);
    const char *last = NULL;

    free(q);
    if (!d)
        return;
    d->held_failed = result->code != 0;
    for (uint32_t i = 0; !d->held_failed && i < result->n_rows; i++) {
        last = result->get(result, i, 0);
        if (!field_of(result, i, 1) || is_left_over(d, result, i))
            continue;
        if (!match_held(d->m, last, field_of(result, i, 1), field_of(result, i, 2), number_of(result, i, 3)))
            d->held_failed = true;
    }
    free(d->held_after);
    d->held_after = last ? strdup(last) : NULL;
    if (d->held_failed || result->n_rows < HELD_PAGE || !d->held_after)
        on_held_done(d);
    else
        read_held_page(d);
    router_soon(d->r);
}

static void read_held_page(struct routed *d)
{
    struct work *w = d->r->w;
    struct question *q = question_new(d);
    char limit[24];

    if (q && w->sql->exec(w->host, d->r->stmt.held, d->tenant, NULL, 3,
                          (struct muster_bytes[]){ask_param(d->name), ask_param(d->held_after ? d->held_after : ""), number_param(HELD_PAGE, limit)},
                          on_held, q) == 0)
        return;
    free(q);
    d->held_failed = true;
    on_held_done(d);
}

void read_held(struct routed *d)
{
    if (d->reading_held)
        return;
    d->reading_held = true;
    free(d->held_after);
    d->held_after = NULL;
    match_held_begin(d->m);
    read_held_page(d);
}

/* ---- what may not have arrived ------------------------------------------------------------------------------------------ */

struct unheard {
    struct question q;
    int64_t since_ns, quiet_ns; /* of the last quiet_ns nothing */
    bool all; /* of all agents */
    bool any; /* whatever they hold; else what is known to be missed */
    char agent[];
};

static void read_unheard_page(struct unheard *u, const struct routed *d, const char *after);

int64_t unheard_from(const struct router *r, int64_t ago_ns)
{
    int64_t now_ns = r->w->timer->now(r->w->host), from_ns = now_ns - ago_ns;
    bool was_away = !r->link_up || now_ns - r->back_ns < just_back_ns;

    return was_away && r->away_ns - taken_over_ns < from_ns ? r->away_ns - taken_over_ns : from_ns;
}

void unheard_since(struct routed *d, int64_t since_ns)
{
    note_unheard(d, since_ns);
    routed_again(d);
}

static void unheard_fails(struct unheard *u)
{
    struct routed *d = routed_of(&u->q);

    if (d && u->all) {
        d->unheard_all |= u->any;
        unheard_since(d, u->since_ns);
    } else if (d && !pull_does(d, u->agent)) { /* who pulls asks again, or waits until it is looked for again */
        returned_note(d->r, d->tenant, u->agent);
    }
    free(u);
}

static void tell_again(struct routed *d, const struct unheard *u, const struct muster_sql_result *result, uint32_t i)
{
    const char *task_id = result->get(result, i, 0), *agent = result->get(result, i, 1), *body = result->get(result, i, 4);

    if (!missed_take(d, agent, task_id) && !u->any)
        return;
    if (!pull_does(d, agent))
        deliver(d->r, d->tenant, agent, task_id, (uint64_t)number_of(result, i, 3), body, strlen(body), true);
    else if (!u->all && pull_hand(d, agent, body, strlen(body)))
        d->r->w->metrics->add(d->r->w->host, d->r->m.resent, NULL, 1);
    else
        (void)missed_note(d, agent, task_id, u->since_ns);
}

static void on_unheard(void *arg, const struct muster_sql_result *result)
{
    struct unheard *u = arg;
    struct routed *d = routed_of(&u->q);
    bool more = !result->code && result->n_rows > 0; /* a page of long ones is short */

    if (result->code) {
        unheard_fails(u);
        return;
    }
    for (uint32_t i = 0; d && i < result->n_rows; i++)
        if (field_of(result, i, 1))
            tell_again(d, u, result, i);
    if (d && more) {
        read_unheard_page(u, d, result->get(result, result->n_rows - 1, 0));
        return;
    }
    if (d) {
        if (missed_end(d, u->all ? NULL : u->agent) && u->all)
            unheard_since(d, u->since_ns);
        if (u->all)
            pull_missed(d);
        else
            pull_handed(d, u->agent);
    }
    free(u);
}

static void read_unheard_page(struct unheard *u, const struct routed *d, const char *after)
{
    struct work *w = d->r->w;
    char ms[24], quiet_ms[24], limit[24];

    if (w->sql->exec(w->host, d->r->stmt.unheard, d->tenant, NULL, 6,
                     (struct muster_bytes[]){ask_param(d->name), ask_param(u->all ? NULL : u->agent),
                                             number_param((w->timer->now(w->host) - u->since_ns) / CLOCK_MS + 1000, ms),
                                             number_param(u->quiet_ns / CLOCK_MS, quiet_ms), ask_param(after), number_param(UNHEARD_PAGE, limit)},
                     on_unheard, u) != 0)
        unheard_fails(u);
}

static struct unheard *unheard_new(const struct routed *d, const char *agent, int64_t since_ns, bool any)
{
    size_t size = agent ? strlen(agent) + 1 : 1;
    struct unheard *u = malloc(sizeof *u + size);

    if (!u)
        return NULL;
    *u = (struct unheard){.q = {.r = d->r, .tenant = d->tenant, .life = d->life}, .since_ns = since_ns, .all = !agent, .any = any};
    memcpy(u->agent, agent ? agent : "", size);
    return u;
}

void read_unspoken(struct routed *d, const char *agent)
{
    struct unheard *u = unheard_new(d, agent, d->r->w->timer->now(d->r->w->host) - unspoken_ns, true);

    if (!u)
        return;
    u->quiet_ns = quiet_ns;
    read_unheard_page(u, d, "");
}

void read_unheard(struct routed *d, const char *agent, int64_t since_ns)
{
    int64_t missed_ns = missed_ask(d, agent);
    struct unheard *u = unheard_new(d, agent, missed_ns && missed_ns < since_ns ? missed_ns : since_ns, agent ? !pull_does(d, agent) : d->unheard_all);

    if (!u) {
        unheard_since(d, since_ns);
        return;
    }
    if (!agent) {
        d->unheard_ns = 0;
        d->unheard_all = false;
    }
    read_unheard_page(u, d, "");
}
