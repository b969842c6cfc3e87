/* The registry's source: muster.tenants and muster.tables, through the listener; see tenant.h. All on its loop's thread. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "sql/listen.h"
#include "tenant/credentials_parts.h"
#include "tenant/parts.h"

/* Limits come as lines KEY=VALUE, whatever keys there are: which of them mean something the registry knows. */
#define TENANT_COLUMNS                                                                                              \
    "SELECT name, encoding, history, (SELECT string_agg(key || '=' || replace(value, E'\\n', ' '), E'\\n') FROM jsonb_each_text(limits)"  \
    " WHERE key ~ '^[A-Za-z0-9_.-]+$') FROM muster.tenants"

static const char tenants_text[] = TENANT_COLUMNS;
static const char tenant_text[] = TENANT_COLUMNS " WHERE name = $1";
static const char tables_text[] = "SELECT schema_name, table_name, tenant_column, tenant, owner_column, subject_key"
                                  " FROM muster.tables ORDER BY schema_name, table_name";

/* -1: no limit. A value that is none limits nothing: a slip must not shut a tenant out. */
static int64_t limit_of(const char *tenant, const char *line, size_t len)
{
    const char *text = strchr(line, '=') + 1;
    char *end;
    long long value;

    errno = 0;
    value = strtoll(text, &end, 10);
    if (errno == 0 && end == line + len && end != text && value >= 0)
        return value;
    log_warn("tenant", "%s: limit %.*s came, a whole number was expected; there is no limit now", tenant, (int)(len < 160 ? len : 160), line);
    return -1;
}

static void read_limits(const struct tenants *t, struct tenant_row *row, const char *lines)
{
    for (int i = 0; i < TENANT_N_LIMITS + LIMITS_MAX_OBJECTS; i++)
        row->limits[i] = -1;
    for (size_t len; lines && *lines; lines += len + (lines[len] == '\n')) {
        size_t key = strcspn(lines, "=\n");
        int which;

        len = strcspn(lines, "\n");
        which = lines[key] == '=' ? tenants_limit_index(t, lines, key) : -1;
        if (which >= 0)
            row->limits[which] = limit_of(row->name, lines, len);
    }
}

/* off, r1, r3 */
static uint32_t history_of(const char *text)
{
    return text && text[0] == 'r' ? (uint32_t)(text[1] - '0') : 0;
}

static struct tenant_row row_of(const struct tenants *t, const struct muster_sql_result *result, uint32_t i)
{
    const char *name = result->get(result, i, 0), *encoding = result->get(result, i, 1);
    struct tenant_row row = {.name = name, .name_len = strlen(name)};

    row.encoding = strcmp(encoding, "msgpack") == 0 ? MUSTER_MSGPACK : MUSTER_JSON;
    row.history = history_of(result->get(result, i, 2));
    read_limits(t, &row, result->get(result, i, 3));
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
        rows[i] = row_of(arg, result, i);
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

/* ---- notices ---------------------------------------------------------------------------------------------------------------------- */

/* A member of the flat object that muster.tell_change() makes; its strings are words and names, which need no escapes. */
static bool member(const char *payload, const char *key, char out[NAME_MAX_LEN + 1])
{
    char quoted[32];
    const char *at;
    size_t len;

    (void)snprintf(quoted, sizeof quoted, "\"%s\": \"", key);
    at = strstr(payload, quoted);
    if (!at)
        return false;
    at += strlen(quoted);
    len = strcspn(at, "\"\\");
    if (at[len] != '"' || len > NAME_MAX_LEN)
        return false;
    memcpy(out, at, len);
    out[len] = '\0';
    return true;
}

/* A changed credential is read by its name, everything else with the whole state. Any role may send a notice: what is not understood says
 * only that something has changed. */
static bool on_notice(void *arg, const char *payload)
{
    char kind[NAME_MAX_LEN + 1], op[NAME_MAX_LEN + 1] = "", tenant[NAME_MAX_LEN + 1], agent[NAME_MAX_LEN + 1];
    struct tenants *t = arg;
    bool known = member(payload, "kind", kind), named;

    if (known && strcmp(kind, "credential") != 0)
        return true;
    (void)member(payload, "op", op);
    named = member(payload, "tenant", tenant) && member(payload, "agent", agent);
    if (t->on_credential)
        t->on_credential(t->credential_arg, named ? tenant : NULL, named ? agent : NULL, strcmp(op, "insert") == 0);
    return !known;
}

void tenants_on_credential(struct tenants *t, tenants_credential_fn fn, void *arg)
{
    t->on_credential = fn;
    t->credential_arg = arg;
}

int tenants_ask(struct tenants *t, const char *text, size_t n_params, const char *const *params, muster_sql_fn fn, void *arg)
{
    return t->listen ? listen_ask(t->listen, text, n_params, params, fn, arg) : MUSTER_ELINK;
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
                                     .arg = source->arg,
                                     .on_notice = on_notice,
                                     .notice_arg = t};

    return listen_new(&options, &t->listen);
}

void tenants_close(struct tenants *t)
{
    listen_free(t->listen);
    t->listen = NULL;
}

int tenants_read(struct tenants *t)
{
    return t->listen ? listen_ask(t->listen, tenants_text, 0, NULL, on_tenants, t) : MUSTER_ELINK;
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
        struct tenant_row row = row_of(r->tenants, result, 0);

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
