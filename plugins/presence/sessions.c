/*
 * presence/sessions.c - the roster as public.agent_sessions has it, for a shard that nobody knows; and the service session.
 *
 * A load asks tenant by tenant, a few at a time, page by page. What ends before it does is noticed by the shard's generation.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "presence/presence.h"

enum { LOAD_PAGE = 500, LOAD_AT_ONCE = 8 };

/* One shard that is loaded. */
struct load {
    struct shard *shard;
    uint32_t generation;
    const struct muster_tenant **tenants;
    size_t n, cap, begun, open;
    int code; /* the first failure */
};

/* One tenant of it. */
struct load_page {
    struct load *load;
    const struct muster_tenant *tenant;
    char after[SESSION_MAX * 6 + 1]; /* ids that SQL users write may be longer than ours; they are cut, and then read twice */
};

static void take_tenant(void *arg, const struct muster_tenant *tenant)
{
    struct load *load = arg;
    struct presence *p = load->shard->p;
    const struct muster_tenant **more;

    if (load->code || shard_of(p->tenants->name(tenant)) != load->shard->n)
        return;
    if (load->n == load->cap) {
        load->cap = load->cap ? 2 * load->cap : 64;
        more = realloc(load->tenants, load->cap * sizeof(struct muster_tenant *));
        if (!more) {
            load->code = MUSTER_ENOMEM;
            return;
        }
        load->tenants = more;
    }
    load->tenants[load->n++] = tenant;
}

static void load_free(struct load *load)
{
    free(load->tenants);
    free(load);
}

static void load_end(struct load *load)
{
    struct shard *shard = load->shard;
    bool is_wanted = shard->generation == load->generation && !shard->p->death.done;
    int code = load->code;

    if (!code)
        shard->p->load_fault[0] = '\0';
    load_free(load);
    if (is_wanted)
        shard_loaded(shard, code);
}

static int ask_page(struct load_page *page);

static bool is_void(const struct load *load)
{
    return load->code || load->shard->generation != load->generation || load->shard->p->death.done;
}

static int begin_tenant(struct load *load)
{
    struct load_page *page = calloc(1, sizeof *page);
    int err;

    if (!page)
        return MUSTER_ENOMEM;
    *page = (struct load_page){.load = load, .tenant = load->tenants[load->begun++]};
    err = ask_page(page);
    if (err)
        free(page);
    else
        load->open++;
    return err;
}

/* Begin some more, or end. */
static void load_on(struct load *load)
{
    while (!is_void(load) && load->begun < load->n && load->open < LOAD_AT_ONCE) {
        int err = begin_tenant(load);

        if (err)
            load->code = err;
    }
    if (load->open == 0)
        load_end(load);
}

static void restore(struct load_page *page, const struct muster_sql_result *result)
{
    for (uint32_t i = 0; i < result->n_rows && !is_void(page->load); i++) {
        const char *state = result->get(result, i, 1);

        agent_restore(page->load->shard, page->tenant, (struct muster_bytes){state, strlen(state)});
        (void)snprintf(page->after, sizeof page->after, "%s", result->get(result, i, 0));
    }
}

static void on_page(void *arg, const struct muster_sql_result *result)
{
    struct load_page *page = arg;
    struct load *load = page->load;
    int err = result->code;

    if (!err && !is_void(load))
        restore(page, result);
    if (!err && !is_void(load) && result->n_rows == LOAD_PAGE) {
        err = ask_page(page);
        if (!err)
            return;
    }
    if (err && !load->code)
        load->code = err;
    if (result->code)
        (void)snprintf(load->shard->p->load_fault, sizeof load->shard->p->load_fault, "%s", result->error);
    free(page);
    load->open--;
    load_on(load);
}

static int ask_page(struct load_page *page)
{
    struct presence *p = page->load->shard->p;
    char limit[16];
    struct muster_bytes params[2] = {{page->after, strlen(page->after)}, {limit, 0}};

    params[1].len = (size_t)snprintf(limit, sizeof limit, "%d", LOAD_PAGE);
    return p->death.sql->exec(p->host, p->death.present, page->tenant, NULL, 2, params, on_page, page);
}

static void no_table(void *arg, const struct muster_table *table)
{
    (void)arg;
    (void)table;
}

/* Who has not heard yet which tenants there are would find nobody. */
static bool knows_tenants(struct presence *p)
{
    uint64_t serial;

    return p->tenants->tables(p->host, no_table, NULL, &serial) == 0 && serial != 0;
}

void sessions_load(struct shard *s)
{
    struct presence *p = s->p;
    struct load *load = knows_tenants(p) ? calloc(1, sizeof *load) : NULL;
    int err;

    if (!load) {
        shard_loaded(s, MUSTER_EAGAIN);
        return;
    }
    *load = (struct load){.shard = s, .generation = s->generation};
    err = p->tenants->each(p->host, take_tenant, load);
    if (err && !load->code)
        load->code = err;
    load_on(load);
}

/* ---- life --------------------------------------------------------------------------------------------------------------------- */

int sessions_prepare(struct presence *p)
{
    int err = mirror_prepare(p);

    if (!err)
        err = p->death.sql->prepare(p->host, "sessions_present", MUSTER_SQL_READ, "SELECT * FROM muster.sessions_present($1, $2::int)",
                                    &p->death.present);
    if (!err)
        err = answers_prepare(p);
    if (!err)
        err = retention_prepare(p);
    return err ? err : session_verbs_prepare(p);
}

int sessions_start(struct presence *p)
{
    return session_verbs_start(p);
}

void sessions_tick(struct presence *p, int64_t now_ns)
{
    mirror_tick(p, now_ns);
    retention_tick(p, now_ns);
}

void sessions_done(struct presence *p)
{
    mirror_done(p);
}
