/* muster.tenant/1 of a child: handles of those tenants that the parent has told; see host.h. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "child/host.h"

/* Rows of muster.tables with one serial; their texts are in memory. */
struct child_tables {
    uint64_t serial;
    struct arena memory;
    struct muster_table *rows;
    size_t n, cap;
};

static const struct child_tenant *of_handle(const struct muster_tenant *tenant)
{
    return (const struct child_tenant *)(const void *)tenant;
}

static const struct muster_tenant *handle_of(const struct child_tenant *t)
{
    return (const struct muster_tenant *)(const void *)t;
}

/* ---- what the parent tells -------------------------------------------------------------------------------------------------------- */

struct child_tenant *tenant_of_id(struct child *c, uint64_t id)
{
    struct child_tenant *t = idmap_get(&c->tenants, id);

    if (id && !t)
        child_confused("a tenant that it has not told");
    return t;
}

uint64_t tenant_id(const struct muster_tenant *tenant)
{
    return tenant ? of_handle(tenant)->id : 0;
}

static struct child_tenant *tenant_new(struct child *c, uint64_t id, const char *name)
{
    struct child_tenant *t = calloc(1, sizeof *t);
    size_t len = strlen(name);

    if (!t || !name_is_legal(name, len))
        child_confused("a tenant without a legal name, or more of them than there is memory for");
    t->id = id;
    memcpy(t->name, name, len + 1);
    if (!idmap_put(&c->tenants, id, t) || !map_put(&c->tenants_by_name, name, len, t))
        child_confused("more tenants than there is memory for");
    return t;
}

static void forget_roster(struct child *c)
{
    free(c->roster);
    c->roster = NULL;
}

static void read_named(struct child *c, struct frame_reader *r, struct child_tenant *t)
{
    if (frame_get_count(r, sizeof(int64_t)) != c->limits.n)
        child_confused("limits of a tenant that are not those of the plugin");
    for (size_t i = 0; i < c->limits.n; i++)
        atomic_store(&t->named[i], frame_get_i64(r));
}

void tenant_told(struct child *c, struct frame_reader *r)
{
    struct child_tenant *t = idmap_get(&c->tenants, r->id);
    const char *name = frame_get_str(r);
    uint32_t encoding = frame_get_u32(r);
    int64_t requests_per_s = frame_get_i64(r), burst = frame_get_i64(r);
    bool known = frame_get_u8(r);

    if (r->bad || !name || !r->id)
        child_confused("a tenant without number or name");
    if (!t)
        t = tenant_new(c, r->id, name);
    read_named(c, r, t);
    atomic_store(&t->encoding, encoding);
    atomic_store(&t->requests_per_s, requests_per_s);
    atomic_store(&t->burst, burst);
    if (t->known != known)
        forget_roster(c);
    t->known = known;
}

static struct child_tables *tables_new(uint64_t serial)
{
    struct child_tables *t = calloc(1, sizeof *t);

    if (!t)
        child_confused("more tables than there is memory for");
    t->serial = serial;
    return t;
}

static void tables_free(struct child_tables *t)
{
    if (!t)
        return;
    arena_done(&t->memory);
    free(t->rows);
    free(t);
}

static struct muster_table *add_row(struct child_tables *t)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 16;
        struct muster_table *more = realloc(t->rows, cap * sizeof *more);

        if (!more)
            child_confused("more tables than there is memory for");
        t->rows = more;
        t->cap = cap;
    }
    return &t->rows[t->n++];
}

void tenant_table(struct child *c, struct frame_reader *r)
{
    uint64_t serial = frame_get_u64(r);
    struct muster_table row = {.size = sizeof row};
    struct child_tables *t;

    if (c->next_tables && c->next_tables->serial != serial) {
        tables_free(c->next_tables);
        c->next_tables = NULL;
    }
    if (!c->next_tables)
        c->next_tables = tables_new(serial);
    t = c->next_tables;
    row.schema = arena_strdup(&t->memory, frame_get_str(r));
    row.table = arena_strdup(&t->memory, frame_get_str(r));
    row.tenant_column = arena_strdup(&t->memory, frame_get_str(r));
    row.tenant = arena_strdup(&t->memory, frame_get_str(r));
    row.owner_column = arena_strdup(&t->memory, frame_get_str(r));
    row.subject_key = frame_get_u32(r);
    if (!row.schema || !row.table)
        child_confused("a table without a name");
    *add_row(t) = row;
}

/* A new serial without rows: there are none any more. */
void tenant_tables_told(struct child *c, uint64_t serial)
{
    struct child_tables *next = c->next_tables;

    if (!serial || (c->tables && c->tables->serial == serial))
        return;
    if (!next || next->serial != serial) {
        tables_free(next);
        next = tables_new(serial);
    }
    tables_free(c->tables);
    c->tables = next;
    c->next_tables = NULL;
}

void tenant_forget_all(struct child *c)
{
    void *t;

    while ((t = idmap_first(&c->tenants))) {
        (void)idmap_take(&c->tenants, ((struct child_tenant *)t)->id);
        free(t);
    }
    idmap_done(&c->tenants);
    map_done(&c->tenants_by_name);
    forget_roster(c);
    tables_free(c->tables);
    tables_free(c->next_tables);
}

/* ---- the table -------------------------------------------------------------------------------------------------------------------- */

static bool may(const struct muster_host *host)
{
    return instance_has_capability(instance_of(host), "cross_tenant");
}

static int refuse(const struct muster_host *host)
{
    return host->fail(host, MUSTER_EACCES, "the capability \"cross_tenant\" is missing in the plugin's descriptor");
}

static const char *tenant_name(const struct muster_tenant *tenant)
{
    return of_handle(tenant)->name;
}

static int tenant_limits(const struct muster_host *host, const struct muster_tenant *tenant, struct muster_tenant_limits *limits)
{
    const struct child_tenant *t = of_handle(tenant);
    struct muster_tenant_limits all = {.size = limits->size,
                                       .encoding = atomic_load(&t->encoding),
                                       .requests_per_s = atomic_load(&t->requests_per_s),
                                       .burst = atomic_load(&t->burst)};

    (void)host;
    if (!MUSTER_HAS(limits, encoding))
        return MUSTER_EINVAL;
    memcpy(limits, &all, limits->size < sizeof all ? limits->size : sizeof all);
    return 0;
}

static int64_t tenant_limit(const struct muster_host *host, const struct muster_tenant *tenant, const char *name)
{
    int i = child_limits_find(&child_of(host)->limits, name);

    return i < 0 ? -1 : atomic_load(&of_handle(tenant)->named[i]);
}

/* The names that are known are the parent's. */
static int tenant_may_hear(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, const char *subject)
{
    (void)tenant;
    (void)agent;
    (void)subject;
    return host->fail(host, MUSTER_EABI, "may_hear() is not there in a process of its own");
}

static const struct muster_tenant *tenant_find(const struct muster_host *host, const char *name, size_t len)
{
    struct child *c = child_of(host);
    const struct child_tenant *t = ON_LANE(&c->in) && may(host) ? map_get(&c->tenants_by_name, name, len) : NULL;

    return t && t->known ? handle_of(t) : NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct child_tenant *const *)a)->name, (*(struct child_tenant *const *)b)->name);
}

static bool make_roster(struct child *c)
{
    struct child_tenant *t;

    if (c->roster)
        return true;
    c->roster = calloc(c->tenants.n + 1, sizeof(struct child_tenant *));
    if (!c->roster)
        return false;
    c->n_roster = 0;
    for (size_t at = 0; (t = idmap_next(&c->tenants, &at));)
        if (t->known)
            c->roster[c->n_roster++] = t;
    qsort(c->roster, c->n_roster, sizeof(struct child_tenant *), by_name);
    return true;
}

/* No frame is read meanwhile, so nothing changes. */
static int tenant_each(const struct muster_host *host, muster_tenant_fn fn, void *arg)
{
    struct child *c = child_of(host);

    if (!ON_LANE(&c->in))
        return MUSTER_EINVAL;
    if (!may(host))
        return refuse(host);
    if (!make_roster(c))
        return MUSTER_ENOMEM;
    for (size_t i = 0; i < c->n_roster; i++)
        fn(arg, handle_of(c->roster[i]));
    return 0;
}

static int tenant_tables(const struct muster_host *host, muster_table_fn fn, void *arg, uint64_t *ret_serial)
{
    struct child *c = child_of(host);

    if (!ON_LANE(&c->in))
        return MUSTER_EINVAL;
    if (!may(host))
        return refuse(host);
    for (size_t i = 0; c->tables && i < c->tables->n; i++)
        fn(arg, &c->tables->rows[i]);
    if (ret_serial)
        *ret_serial = c->tables ? c->tables->serial : 0;
    return 0;
}

static void end_refresh(struct child *c, struct child_call *call, int code)
{
    instance_enter(&c->in, "tenant", NULL);
    call->fn.found(call->arg, code, NULL);
    instance_leave(&c->in);
}

static int tenant_refresh(const struct muster_host *host, const char *name, size_t len, muster_tenant_found_fn fn, void *arg)
{
    struct child *c = child_of(host);
    char copy[NAME_MAX_LEN + 1] = "";
    struct child_call *call;
    struct frame f;
    int err = MAY_CALL(c);

    if (err)
        return err;
    if (!may(host))
        return refuse(host);
    if (!fn || len > NAME_MAX_LEN)
        return MUSTER_EINVAL;
    call = call_new(c, FRAME_FOUND, end_refresh, arg);
    if (!call)
        return MUSTER_ENOMEM;
    call->fn.found = fn;
    memcpy(copy, name, len);
    f = pipe_begin(c->pipe, FRAME_REFRESH, call->id);
    frame_put_str(&f, copy);
    return call_send(c, call, &f);
}

void tenant_found(struct child *c, struct frame_reader *r)
{
    struct child_call *call = call_answered(c, r, true);
    int code = frame_get_i32(r);
    const struct child_tenant *t = tenant_of_id(c, frame_get_u64(r));

    if (!call || r->bad)
        return;
    instance_enter(&c->in, "tenant", NULL);
    call->fn.found(call->arg, code, code ? NULL : handle_of(t));
    instance_leave(&c->in);
    free(call);
}

const struct muster_tenants child_tenants = {.size = sizeof child_tenants,
                                             .name = tenant_name,
                                             .limits = tenant_limits,
                                             .find = tenant_find,
                                             .each = tenant_each,
                                             .refresh = tenant_refresh,
                                             .tables = tenant_tables,
                                             .limit = tenant_limit,
                                             .may_hear = tenant_may_hear};
