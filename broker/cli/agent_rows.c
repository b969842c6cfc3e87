/*
 * Rows of muster.credentials; see agent_rows.h.
 *
 * Names and keys travel as array literals: two thousand agents are one statement and one round
 * trip. The table's triggers tell the brokers.
 */
#include "cli/agent_rows.h"

#include <inttypes.h>
#include <muster/plugin.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/map.h"
#include "cli/database.h"
#include "auth/roles.h"

static const char command[] = "agent";

enum { PARAMS_N = 7 };

/* The values as array literals and texts, in the order $1 tenant, $2 agents, $3 keys, $4 role, $5
 * expires, $6 ids of tokens, $7 hashes. */
struct params {
    struct buf agents, keys, token_ids, hashes, expires;
    const char *values[PARAMS_N];
};

static void put_element(struct buf *b, const char *text)
{
    buf_putc(b, b->len > 1 ? ',' : ' ');
    if (*text)
        buf_printf(b, "\"%s\"", text); /* in quotes: an agent may be called NULL */
    else
        buf_put_lit(b, "NULL");
}

/* One member of every row as an array. */
static void put_array(struct buf *b, const struct agent_rows *r,
                      const char *(*get)(const struct agent_row *row))
{
    buf_putc(b, '{');
    for (size_t i = 0; i < r->n; i++)
        put_element(b, get(&r->rows[i]));
    buf_putc(b, '}');
}

static const char *agent_of(const struct agent_row *row)
{
    return row->agent;
}

static const char *key_of(const struct agent_row *row)
{
    return row->key;
}

static const char *token_id_of(const struct agent_row *row)
{
    return row->token_id;
}

static const char *hash_of(const struct agent_row *row)
{
    return row->secret_hash;
}

static int make_params(const struct agent_rows *r, struct params *p)
{
    put_array(&p->agents, r, agent_of);
    put_array(&p->keys, r, key_of);
    put_array(&p->token_ids, r, token_id_of);
    put_array(&p->hashes, r, hash_of);
    buf_printf(&p->expires, "%" PRId64, r->rows[0].expires);
    if (buf_failed(&p->agents) || buf_failed(&p->keys) || buf_failed(&p->token_ids) ||
        buf_failed(&p->hashes) || buf_failed(&p->expires))
        return cli_fail(CLI_FAILED, command, "out of memory");
    p->values[0] = r->tenant;
    p->values[1] = p->agents.data;
    p->values[2] = p->keys.data;
    p->values[3] = role_name(r->rows[0].role);
    p->values[4] = r->rows[0].expires ? p->expires.data : NULL;
    p->values[5] = p->token_ids.data;
    p->values[6] = p->hashes.data;
    return CLI_DONE;
}

static void params_done(struct params *p)
{
    buf_done(&p->agents);
    buf_done(&p->keys);
    buf_done(&p->token_ids);
    buf_done(&p->hashes);
    buf_done(&p->expires);
}

/* The foreign key would refuse it too, in words that say nothing of what to do. */
static int check_tenant(const struct agent_rows *r)
{
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(r->admin, "SELECT 1 FROM muster.tenants WHERE name = $1", 1,
                             &r->tenant, &rows);
    bool known = !err && sql_rows_count(rows) == 1;

    sql_rows_free(rows);
    if (err)
        return database_fail(r->admin, command, err);
    if (!known)
        return cli_fail(CLI_FAILED, command,
                        "there is no tenant %s; make it with `muster tenant add %s`", r->tenant,
                        r->tenant);
    return CLI_DONE;
}

/* Who stands in the way: a live credential of the name here, or an operator of the name anywhere,
 * because operators go by one name in all tenants. */
static int find_conflict(const struct agent_rows *r, const struct params *p)
{
    static const char sql[] = "SELECT tenant, agent, role FROM muster.credentials WHERE agent = "
                              "ANY ($2::text[]) AND revoked_at IS NULL"
                              " AND (tenant = $1 OR role = 'operator' AND $3 = 'operator') ORDER "
                              "BY tenant <> $1, agent LIMIT 1";
    const char *params[] = {r->tenant, p->values[1], p->values[3]};
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(r->admin, sql, 3, params, &rows);
    int code = err ? database_fail(r->admin, command, err) : CLI_DONE;

    if (!err && sql_rows_count(rows) > 0)
        code =
            cli_fail(CLI_FAILED, command,
                     "already_exists: %s has the role %s in tenant %s; a name has one role. "
                     "`muster agent rotate` makes new "
                     "credentials for it, `muster agent revoke` frees the name",
                     sql_rows_get(rows, 0, 1), sql_rows_get(rows, 0, 2), sql_rows_get(rows, 0, 0));
    sql_rows_free(rows);
    return code;
}

/* Run a statement that must touch every row. */
static int exec_all(const struct agent_rows *r, const char *sql, int n, const char *const *params)
{
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(r->admin, sql, n, params, &rows);
    /* Fewer rows: a name was taken or revoked between our look and our write. */
    bool all = !err && (size_t)sql_rows_count(rows) == r->n;

    sql_rows_free(rows);
    if (err)
        return database_fail(r->admin, command, err);
    if (!all)
        return cli_fail(CLI_FAILED, command,
                        "somebody else changed one of the agents at the same time; nothing was "
                        "done, try again");
    return CLI_DONE;
}

/* In the order of agent_rows_lock(): two commands with the same names wait for each other, and do not meet head on. */
int agent_rows_insert(const struct agent_rows *r)
{
    static const char sql[] =
        "INSERT INTO muster.credentials AS c (tenant, agent, role, public_key, expires_at, "
        "token_id, secret_hash)"
        " SELECT $1, u.agent, $4, u.key, to_timestamp($5::float8), u.token_id, u.hash"
        " FROM unnest($2::text[], $3::text[], $6::text[], $7::text[]) AS u(agent, key, token_id, "
        "hash) ORDER BY u.agent"
        " ON CONFLICT (tenant, agent) DO UPDATE SET role = excluded.role, public_key = "
        "excluded.public_key,"
        " token_id = excluded.token_id, secret_hash = excluded.secret_hash,"
        " expires_at = excluded.expires_at, revoked_at = NULL, created_at = excluded.created_at"
        " WHERE c.revoked_at IS NOT NULL RETURNING 1";
    struct params p = {0};
    int code = check_tenant(r);

    if (code == CLI_DONE)
        code = make_params(r, &p);
    if (code == CLI_DONE)
        code = find_conflict(r, &p);
    if (code == CLI_DONE)
        code = exec_all(r, sql, PARAMS_N, p.values);
    params_done(&p);
    return code;
}

/* Copy one result row to the row of its name. */
static bool take_row(const struct sql_rows *rows, int i, const struct map *by_name)
{
    const char *agent = sql_rows_get(rows, i, 0), *key = sql_rows_get(rows, i, 2),
               *expires = sql_rows_get(rows, i, 3), *token_id = sql_rows_get(rows, i, 4);
    struct agent_row *row = map_get(by_name, agent, strlen(agent));

    if (!row)
        return false;
    row->role = role_find(sql_rows_get(rows, i, 1));
    row->expires = expires ? strtoll(expires, NULL, 10) : 0;
    row->key[0] = '\0';
    if (key && strlen(key) < sizeof row->key)
        memcpy(row->key, key, strlen(key) + 1);
    if (token_id && strlen(token_id) == TOKEN_ID_LEN)
        memcpy(row->token_id, token_id, sizeof row->token_id);
    return row->role >= 0;
}

/* by_name loses the name. */
static int take_found(const struct agent_rows *r, const struct sql_rows *rows, int i, bool live, struct map *by_name)
{
    const char *agent = sql_rows_get(rows, i, 0);

    if (live && strcmp(sql_rows_get(rows, i, 5), "t") == 0)
        return cli_fail(CLI_FAILED, command, "%s in tenant %s was revoked: `muster agent add %s %s` makes it anew", agent, r->tenant,
                        r->tenant, agent);
    if (!take_row(rows, i, by_name))
        return cli_fail(CLI_FAILED, command,
                        "%s has the role %s, which this version does not know", agent,
                        sql_rows_get(rows, i, 1));
    (void)map_take(by_name, agent, strlen(agent)); /* borrowed: nothing to free */
    return CLI_DONE;
}

/* Every name must have got its row; what by_name has left was not found. */
static int take_rows(const struct agent_rows *r, const struct sql_rows *rows, bool live)
{
    struct map by_name = {0};
    int code = CLI_DONE;

    for (size_t i = 0; i < r->n && code == CLI_DONE; i++)
        if (!map_put(&by_name, r->rows[i].agent, strlen(r->rows[i].agent), &r->rows[i]))
            code = cli_fail(CLI_FAILED, command, "out of memory");
    for (int i = 0; i < sql_rows_count(rows) && code == CLI_DONE; i++)
        code = take_found(r, rows, i, live, &by_name);
    for (size_t i = 0; i < r->n && code == CLI_DONE; i++)
        if (map_get(&by_name, r->rows[i].agent, strlen(r->rows[i].agent)))
            code = cli_fail(CLI_FAILED, command,
                            "there is no such agent: %s in tenant %s; see `muster agent list %s`",
                            r->rows[i].agent, r->tenant, r->tenant);
    map_done(&by_name);
    return code;
}

int agent_rows_lock(struct agent_rows *r, bool live)
{
    static const char sql[] = "SELECT agent, role, public_key, extract(epoch FROM "
                              "expires_at)::bigint, token_id, revoked_at IS NOT NULL FROM muster.credentials"
                              " WHERE tenant = $1 AND agent = ANY ($2::text[]) ORDER BY agent FOR UPDATE";
    struct params p = {0};
    struct sql_rows *rows = NULL;
    int code = make_params(r, &p);

    if (code == CLI_DONE) {
        const char *params[] = {r->tenant, p.values[1]};
        int err = sql_admin_exec(r->admin, sql, 2, params, &rows);
        code = err ? database_fail(r->admin, command, err) : take_rows(r, rows, live);
    }
    sql_rows_free(rows);
    params_done(&p);
    return code;
}

int agent_rows_update(const struct agent_rows *r)
{
    static const char sql[] =
        "UPDATE muster.credentials c SET public_key = u.key, expires_at = to_timestamp($4::float8),"
        " token_id = u.token_id, secret_hash = u.hash"
        " FROM unnest($2::text[], $3::text[], $5::text[], $6::text[]) AS u(agent, key, token_id, "
        "hash)"
        " WHERE c.tenant = $1 AND c.agent = u.agent AND c.revoked_at IS NULL RETURNING 1";
    struct params p = {0};
    int code = make_params(r, &p);

    if (code == CLI_DONE) {
        const char *params[] = {p.values[0], p.values[1], p.values[2],
                                p.values[4], p.values[5], p.values[6]};
        code = exec_all(r, sql, 6, params);
    }
    params_done(&p);
    return code;
}

int agent_rows_revoke(const struct agent_rows *r)
{
    static const char sql[] =
        "UPDATE muster.credentials SET revoked_at = coalesce(revoked_at, clock_timestamp())"
        " WHERE tenant = $1 AND agent = ANY ($2::text[]) RETURNING 1";
    struct params p = {0};
    int code = make_params(r, &p);

    if (code == CLI_DONE)
        code = exec_all(r, sql, 2, p.values);
    params_done(&p);
    return code;
}
