/* The registry's source: muster.tenants and muster.tables, through the listener; see tenant.h. All on its loop's thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "sql/listen.h"
#include "tenant/parts.h"

/* In the order of TENANT_REQUESTS_PER_S and so on; the columns after name and encoding; history comes last. */
static const char *const limit_names[TENANT_N_LIMITS] = {"requests_per_s", "burst", "queued_messages", "queued_bytes",
                                                         "watches"};
#define TENANT_COLUMNS                                                                                              \
    "SELECT name, encoding, limits->>'requests_per_s', limits->>'burst', limits->>'queued_messages',"               \
    " limits->>'queued_bytes', limits->>'watches', history FROM muster.tenants"

static const char tenants_text[] = TENANT_COLUMNS;
static const char tenant_text[] = TENANT_COLUMNS " WHERE name = $1";
static const char tables_text[] = "SELECT schema_name, table_name, tenant_column, tenant, owner_column, subject_key"
                                  " FROM muster.tables ORDER BY schema_name, table_name";

/* -1: no limit of its own. A value that is none limits nothing: a slip must not shut a tenant out. */
static int64_t limit_of(const char *tenant, int which, const char *text)
{
    char *end;
    long long value;

    if (!text)
        return -1;
    errno = 0;
    value = strtoll(text, &end, 10);
    if (errno == 0 && *end == '\0' && end != text && value >= 0)
        return value;
    log_warn("tenant", "%s: limit %s: %.32s came, a whole number was expected; there is no limit now", tenant,
             limit_names[which], text);
    return -1;
}

/* off, r1, r3 */
static uint32_t history_of(const char *text)
{
    return text && text[0] == 'r' ? (uint32_t)(text[1] - '0') : 0;
}

static struct tenant_row row_of(const struct muster_sql_result *result, uint32_t i)
{
    const char *name = result->get(result, i, 0), *encoding = result->get(result, i, 1);
    struct tenant_row row = {.name = name, .name_len = strlen(name)};

    row.encoding = strcmp(encoding, "msgpack") == 0 ? MUSTER_MSGPACK : MUSTER_JSON;
    row.history = history_of(result->get(result, i, TENANT_N_LIMITS + 2));
    for (int k = 0; k < TENANT_N_LIMITS; k++)
        row.limits[k] = limit_of(name, k, result->get(result, i, (uint32_t)k + 2));
    return row;
}

/* A failed reading changes nothing; the listener logs it and reads again. */
static void on_tenants(void *arg, const struct muster_sql_result *result)
{
    struct tenant_row *rows;

    if (result->code != 0)
        return;
    rows = calloc(result->n_rows > 0 ? result->n_rows : 1, sizeof *rows);
    for (uint32_t i = 0; rows && i < result->n_rows; i++)
        rows[i] = row_of(result, i);
    if (!rows || tenants_set(arg, rows, result->n_rows) != 0)
        log_error("tenant", "no memory for the tenants; those known before stay");
    free(rows);
}

/* The texts are borrowed from the result; tenants_set_tables() copies them. */
static void on_tables(void *arg, const struct muster_sql_result *result)
{
    struct muster_table *rows;

    if (result->code != 0)
        return;
    rows = calloc(result->n_rows > 0 ? result->n_rows : 1, sizeof *rows);
    for (uint32_t i = 0; rows && i < result->n_rows; i++)
        rows[i] = (struct muster_table){
            .size = sizeof rows[i],
            .schema = result->get(result, i, 0),
            .table = result->get(result, i, 1),
            .tenant_column = result->get(result, i, 2),
            .tenant = result->get(result, i, 3),
            .owner_column = result->get(result, i, 4),
            .subject_key = *result->get(result, i, 5) == 't',
        };
    if (!rows || tenants_set_tables(arg, rows, result->n_rows) != 0)
        log_error("tenant", "no memory for the settings of tables; those known before stay");
    free(rows);
}

/* Both are read anew as a whole after a notice: that costs less than getting a difference wrong. */
int tenants_open(struct tenants *t, const struct tenants_source *source)
{
    const struct listen_query queries[] = {{tenants_text, on_tenants, t}, {tables_text, on_tables, t}};
    struct listen_options options = {.loop = source->loop,
                                     .dsn = source->dsn,
                                     .broker_id = source->broker_id,
                                     .area = "tenant",
                                     .queries = queries,
                                     .n_queries = sizeof queries / sizeof *queries,
                                     .on_link = source->on_link,
                                     .arg = source->arg};

    return listen_new(&options, &t->listen);
}

void tenants_close(struct tenants *t)
{
    listen_free(t->listen);
    t->listen = NULL;
}

struct refresh {
    struct tenants *tenants;
    muster_tenant_found_fn fn;
    void *arg;
};

/* The registry has the tenant before fn is called, so that finding it right afterwards agrees. */
static void on_tenant(void *arg, const struct muster_sql_result *result)
{
    struct refresh *r = arg;
    const struct muster_tenant *found = NULL;
    int err = result->code;

    if (err == 0 && result->n_rows > 0) {
        struct tenant_row row = row_of(result, 0);

        err = tenants_put(r->tenants, &row);
        found = tenants_find(r->tenants, row.name, row.name_len);
    }
    if (found)
        r->fn(r->arg, 0, found);
    else
        r->fn(r->arg, err == 0 ? MUSTER_ENOTFOUND : MUSTER_ELINK, NULL);
    free(r);
}

/* On the registry's own connection, one after the other: the answer is never older than what was told before. */
int tenants_refresh(struct tenants *t, const char *name, size_t len, muster_tenant_found_fn fn, void *arg)
{
    char text[NAME_MAX_LEN + 1] = {0};
    const char *const params[] = {text};
    struct refresh *r;
    int err;

    if (!name_is_public(name, len))
        return MUSTER_ENOTFOUND;
    if (!t->listen)
        return MUSTER_ELINK;
    r = malloc(sizeof *r);
    if (!r)
        return MUSTER_ENOMEM;
    *r = (struct refresh){t, fn, arg};
    memcpy(text, name, len);
    err = listen_ask(t->listen, tenant_text, 1, params, on_tenant, r);
    if (err)
        free(r);
    return err;
}
