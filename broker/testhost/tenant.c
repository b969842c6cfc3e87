/* muster.tenant/1 of the test host: tenants and rows of muster.tables that the test adds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/roles.h"
#include "base/name.h"
#include "testhost/inside.h"

struct found {
    struct due due;
    char *name;
    muster_tenant_found_fn fn;
    void *arg;
};

bool test_has_capability(const struct muster_test *t, const char *capability)
{
    const char *list = MUSTER_HAS(t->plugin, capabilities) ? t->plugin->capabilities : NULL;
    size_t len = strlen(capability);

    while (list && *list) {
        size_t n = strcspn(list, " ");

        if (n == len && memcmp(list, capability, len) == 0)
            return true;
        list += n + strspn(list + n, " ");
    }
    return false;
}

bool may_cross(const struct muster_test *t)
{
    return test_has_capability(t, "cross_tenant");
}

struct muster_tenant *tenant_named(struct muster_test *t, const char *name, size_t len)
{
    for (size_t i = 0; i < t->tenants.n; i++) {
        struct muster_tenant *tenant = t->tenants.items[i];

        if (strlen(tenant->name) == len && memcmp(tenant->name, name, len) == 0)
            return tenant;
    }
    return NULL;
}

struct muster_tenant *tenant_need(struct muster_test *t, const char *name)
{
    struct muster_tenant *tenant = name ? tenant_named(t, name, strlen(name)) : t->tenants.n ? t->tenants.items[0] : NULL;

    if (!tenant)
        fail_test(t, "the test has no tenant \"%s\": muster_test_tenant() adds one", name ? name : "");
    return tenant;
}

bool tenant_is(struct muster_test *t, int call, const struct muster_tenant *tenant)
{
    for (size_t i = 0; i < t->tenants.n; i++)
        if (t->tenants.items[i] == tenant)
            return true;
    (void)breach(t, call, tenant ? "tenant is no handle of this host" : "tenant is NULL");
    return false;
}

/* The table's name() has no host: a handle knows it. */
static const char *tenant_name(const struct muster_tenant *tenant)
{
    if (!tenant || !tenant->t || tenant->t->magic != TEST_MAGIC) {
        fprintf(stderr, "muster-testhost: tenant.name() was called with a tenant that is none\n");
        abort();
    }
    return call_begin(tenant->t, CALL_TENANT_NAME) == 0 ? tenant->name : "";
}

static int tenant_limits(const struct muster_host *host, const struct muster_tenant *tenant, struct muster_tenant_limits *limits)
{
    struct muster_test *t = test_of(host, CALL_TENANT_LIMITS);
    int err = call_begin(t, CALL_TENANT_LIMITS);
    uint32_t size;

    if (!err && (!tenant_is(t, CALL_TENANT_LIMITS, tenant)))
        err = MUSTER_EINVAL;
    if (!err && (!limits || limits->size < sizeof(uint32_t) || limits->size > 4096))
        err = breach(t, CALL_TENANT_LIMITS, "limits->size is %u: expected that of the caller's struct", limits ? limits->size : 0);
    if (err)
        return err;
    size = limits->size < sizeof *limits ? limits->size : (uint32_t)sizeof *limits;
    memcpy((char *)limits + sizeof size, (const char *)&tenant->limits + sizeof size, size - sizeof size);
    return 0;
}

static struct named_limit *named_of(const struct muster_tenant *tenant, const char *limit)
{
    for (size_t i = 0; i < tenant->named.n; i++) {
        struct named_limit *named = tenant->named.items[i];

        if (strcmp(named->name, limit) == 0)
            return named;
    }
    return NULL;
}

static int64_t tenant_limit(const struct muster_host *host, const struct muster_tenant *tenant, const char *name)
{
    struct muster_test *t = test_of(host, CALL_TENANT_LIMIT);
    const struct named_limit *named;

    if (call_begin(t, CALL_TENANT_LIMIT) != 0 || !tenant_is(t, CALL_TENANT_LIMIT, tenant))
        return -1;
    if (!name) {
        (void)breach(t, CALL_TENANT_LIMIT, "name is NULL");
        return -1;
    }
    named = named_of(tenant, name);
    return named ? named->value : -1;
}

static struct known_agent *agent_of(const struct muster_tenant *tenant, const char *name)
{
    for (size_t i = 0; i < tenant->agents.n; i++) {
        struct known_agent *a = tenant->agents.items[i];

        if (strcmp(a->name, name) == 0)
            return a;
    }
    return NULL;
}

static int hears(const struct muster_tenant *tenant, const char *agent, const char *subject)
{
    const struct known_agent *known = agent_of(tenant, agent);
    uint32_t role = known ? known->role : MUSTER_ROLE_AGENT;
    const struct role_narrowing narrowing = {known ? known->groups : NULL, known ? known->tables : NULL};
    bool is_alias = subject_is_operator(text_of(agent));
    const struct role_names names = {TEST_ROOT, is_alias ? "_" : tenant->name, is_alias ? "_" : agent, agent};
    char full[SUBJECT_MAX + 1];
    int n = snprintf(full, sizeof full, TEST_ROOT ".%s.%s", tenant->name, subject);

    if (n > SUBJECT_MAX)
        return MUSTER_EINVAL;
    if (role == MUSTER_ROLE_NONE)
        return MUSTER_ENOTFOUND;
    return role_covers((int)role - 1, ROLE_SUB, &names, &narrowing, full) ? 0 : MUSTER_EACCES;
}

static int tenant_may_hear(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, const char *subject)
{
    struct muster_test *t = test_of(host, CALL_TENANT_MAY_HEAR);
    int err = call_begin(t, CALL_TENANT_MAY_HEAR);

    if (!err && (!tenant_is(t, CALL_TENANT_MAY_HEAR, tenant) || is_stale(t, CALL_TENANT_MAY_HEAR, "agent", agent) ||
                 is_stale(t, CALL_TENANT_MAY_HEAR, "subject", subject)))
        err = MUSTER_EINVAL;
    if (!err && (!agent || !subject || !subject_is_pattern(subject, strlen(subject))))
        err = breach(t, CALL_TENANT_MAY_HEAR, "agent \"%s\", subject \"%s\": expected a name, and what follows R.T.", agent ? agent : "NULL",
                     subject ? subject : "NULL");
    if (err || subject_is_plugin(text_of(agent)))
        return err;
    return hears(tenant, agent, subject);
}

static int refuse(struct muster_test *t)
{
    return test_fail(t, MUSTER_EACCES, "the capability \"cross_tenant\" is missing in the plugin's descriptor");
}

static const struct muster_tenant *tenant_find(const struct muster_host *host, const char *name, size_t len)
{
    struct muster_test *t = test_of(host, CALL_TENANT_FIND);

    if (call_begin(t, CALL_TENANT_FIND) != 0 || is_stale(t, CALL_TENANT_FIND, "name", name))
        return NULL;
    if (!name) {
        (void)breach(t, CALL_TENANT_FIND, "name is NULL");
        return NULL;
    }
    return may_cross(t) ? tenant_named(t, name, len) : NULL;
}

static int by_name(const void *a, const void *b)
{
    const struct muster_tenant *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static int tenant_each(const struct muster_host *host, muster_tenant_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_TENANT_EACH);
    int err = call_begin(t, CALL_TENANT_EACH);

    if (!err && !fn)
        err = breach(t, CALL_TENANT_EACH, "fn is NULL");
    if (!err && !may_cross(t))
        err = refuse(t);
    if (err)
        return err;
    if (t->tenants.n)
        qsort(t->tenants.items, t->tenants.n, sizeof *t->tenants.items, by_name);
    for (size_t i = 0; i < t->tenants.n; i++)
        fn(arg, t->tenants.items[i]); /* inside the callback that called */
    return 0;
}

static void run_found(struct muster_test *t, struct due *d, int code)
{
    struct found *f = (struct found *)d;
    const struct muster_tenant *tenant = code ? NULL : tenant_named(t, f->name, strlen(f->name));

    if (!code && !tenant)
        code = MUSTER_ENOTFOUND;
    DURING(t, "tenant", f->name, f->fn(f->arg, code, tenant));
    free(f->name);
    free(f);
}

static int tenant_refresh(const struct muster_host *host, const char *name, size_t len, muster_tenant_found_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_TENANT_REFRESH);
    int err = call_begin(t, CALL_TENANT_REFRESH);
    struct found *f;

    if (!err && is_stale(t, CALL_TENANT_REFRESH, "name", name))
        err = MUSTER_EINVAL;
    if (!err && (!fn || !name))
        err = breach(t, CALL_TENANT_REFRESH, "%s is NULL", fn ? "name" : "fn");
    if (!err && !may_cross(t))
        err = refuse(t);
    if (!err && len > NAME_MAX_LEN)
        err = MUSTER_EINVAL;
    if (err)
        return err;
    f = must_alloc(sizeof *f);
    *f = (struct found){.due = {.kind = DUE_LOCAL, .callback = CALL_TENANT_REFRESH_CB, .run = run_found},
                        .name = must_alloc(len + 1),
                        .fn = fn,
                        .arg = arg};
    memcpy(f->name, name, len);
    due_add(t, &f->due, t->now_ns);
    return 0;
}

static int tenant_tables(const struct muster_host *host, muster_table_fn fn, void *arg, uint64_t *ret_serial)
{
    struct muster_test *t = test_of(host, CALL_TENANT_TABLES);
    int err = call_begin(t, CALL_TENANT_TABLES);

    if (!err && !fn)
        err = breach(t, CALL_TENANT_TABLES, "fn is NULL");
    if (!err && !may_cross(t))
        err = refuse(t);
    if (err)
        return err;
    for (size_t i = 0; i < t->tables.n; i++)
        fn(arg, t->tables.items[i]);
    if (ret_serial)
        *ret_serial = t->tables_serial;
    return 0;
}

const struct muster_tenants test_tenants = {.size = sizeof test_tenants,
                                            .name = tenant_name,
                                            .limits = tenant_limits,
                                            .find = tenant_find,
                                            .each = tenant_each,
                                            .refresh = tenant_refresh,
                                            .tables = tenant_tables,
                                            .limit = tenant_limit,
                                            .may_hear = tenant_may_hear};

const struct muster_tenant *muster_test_tenant(struct muster_test *t, const char *name)
{
    struct muster_tenant *tenant = tenant_named(t, name, strlen(name));

    if (tenant)
        return tenant;
    if (!name_is_public(name, strlen(name))) {
        fail_test(t, "muster_test_tenant(): \"%s\" is no name of a tenant", name);
        return NULL;
    }
    tenant = must_alloc(sizeof *tenant);
    *tenant = (struct muster_tenant){
        .t = t, .name = must_copy(name), .limits = {.size = sizeof tenant->limits, .encoding = MUSTER_JSON}};
    list_add(&t->tenants, tenant);
    return tenant;
}

void muster_test_tenant_limits(struct muster_test *t, const char *name, const struct muster_tenant_limits *limits)
{
    struct muster_tenant *tenant = tenant_need(t, name);

    if (tenant)
        tenant->limits = *limits;
}

void muster_test_tenant_limit(struct muster_test *t, const char *name, const char *limit, int64_t value)
{
    struct muster_tenant *tenant = tenant_need(t, name);
    struct named_limit *named = tenant ? named_of(tenant, limit) : NULL;

    if (tenant && !named) {
        named = must_alloc(sizeof *named);
        named->name = must_copy(limit);
        list_add(&tenant->named, named);
    }
    if (named)
        named->value = value;
}

static void agent_forget(struct known_agent *a)
{
    free(a->name);
    free(a->groups);
    free(a->tables);
    free(a);
}

void muster_test_agent(struct muster_test *t, const char *tenant_name, const char *agent, uint32_t role, const char *groups,
                       const char *tables)
{
    struct muster_tenant *tenant = tenant_need(t, tenant_name);
    struct known_agent *a = tenant ? agent_of(tenant, agent) : NULL;

    if (!tenant)
        return;
    if (!a) {
        a = must_alloc(sizeof *a);
        a->name = must_copy(agent);
        list_add(&tenant->agents, a);
    }
    free(a->groups);
    free(a->tables);
    a->role = role;
    a->groups = must_copy(groups);
    a->tables = must_copy(tables);
}

void muster_test_table(struct muster_test *t, const struct muster_table *table)
{
    struct muster_table *copy = must_alloc(sizeof *copy);

    *copy = (struct muster_table){.size = sizeof *copy,
                                  .subject_key = table->subject_key,
                                  .schema = must_copy(table->schema),
                                  .table = must_copy(table->table),
                                  .tenant_column = must_copy(table->tenant_column),
                                  .tenant = must_copy(table->tenant),
                                  .owner_column = must_copy(table->owner_column)};
    list_add(&t->tables, copy);
}

void tenant_free_all(struct muster_test *t)
{
    for (size_t i = 0; i < t->tables.n; i++) {
        struct muster_table *table = t->tables.items[i];
        const char *const texts[] = {table->schema, table->table, table->tenant_column, table->tenant, table->owner_column};

        for (size_t j = 0; j < sizeof texts / sizeof *texts; j++)
            free((char *)(uintptr_t)texts[j]);
        free(table);
    }
    for (size_t i = 0; i < t->tenants.n; i++) {
        struct muster_tenant *tenant = t->tenants.items[i];

        for (size_t j = 0; j < tenant->named.n; j++) {
            struct named_limit *named = tenant->named.items[j];

            free(named->name);
            free(named);
        }
        list_done(&tenant->named);
        for (size_t j = 0; j < tenant->agents.n; j++)
            agent_forget(tenant->agents.items[j]);
        list_done(&tenant->agents);
        free(tenant->name);
        free(tenant);
    }
    list_done(&t->tables);
    list_done(&t->tenants);
}
