/* Narrowed credentials; see narrowing.h. */
#include "cli/narrowing.h"

#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "base/name.h"
#include "cli/database.h"

static const char command[] = "agent";

enum { WORDS_MAX = 64 };

/* ---- words ------------------------------------------------------------------------------------------------------------------- */

static bool is_group(struct buf *out, const char *word, size_t len)
{
    buf_put(out, word, len);
    return name_is_public(word, len);
}

/* Whatever a table is called, its token is what stands in subjects. */
static void put_token(struct buf *out, const char *name, size_t len)
{
    char token[NAME_TOKEN_SIZE];

    buf_put(out, token, name_token(name, len, token));
}

/* Who writes a wildcard anywhere else means one, and would get a table of that name, which is not there. */
static bool has_wildcard(const char *s, size_t len)
{
    return memchr(s, '*', len) || memchr(s, '>', len);
}

static bool is_table(struct buf *out, const char *word, size_t len)
{
    const char *dot = memchr(word, '.', len);
    size_t schema = dot ? (size_t)(dot - word) : 0, table = dot ? len - schema - 1 : 0;

    bool whole = table == 1 && dot[1] == '*';

    if (schema == 0 || table == 0 || memchr(dot + 1, '.', table))
        return false;
    if (has_wildcard(word, schema) || (!whole && has_wildcard(dot + 1, table)))
        return false;
    put_token(out, word, schema);
    buf_putc(out, '.');
    if (whole)
        buf_putc(out, '*');
    else
        put_token(out, dot + 1, table);
    return true;
}

static bool is_verb(struct buf *out, const char *word, size_t len)
{
    const char *dot = memchr(word, '.', len);
    size_t service = dot ? (size_t)(dot - word) : 0, verb = dot ? len - service - 1 : 0;

    buf_put(out, word, len);
    return name_is_public(word, service) && ((verb == 1 && dot[1] == '*') || name_is_public(dot ? dot + 1 : "", verb));
}

static const struct kind {
    const char *option, *expected;
    bool (*take)(struct buf *out, const char *word, size_t len); /* appends the word as it is kept; false: it is none */
} kinds[] = {
    {"groups", "names [A-Za-z0-9_-]{1,64} without _ in front", is_group},
    {"tables", "SCHEMA.TABLE or SCHEMA.*", is_table},
    {"verbs", "SERVICE.VERB or SERVICE.*", is_verb},
};

static struct buf *words_of(struct narrowing *n, size_t kind)
{
    struct buf *const words[] = {&n->groups, &n->tables, &n->verbs};

    return words[kind];
}

int narrowing_take(struct narrowing *n, const char *option, const char *value)
{
    size_t kind = option[0] == 'g' ? 0 : option[0] == 't' ? 1 : 2, count = 0;
    struct buf *out = words_of(n, kind);

    for (const char *at = value;; count++) {
        size_t len = strcspn(at, ",");

        if (out->len)
            buf_putc(out, ',');
        if (!kinds[kind].take(out, at, len) || count == WORDS_MAX)
            return cli_fail(CLI_USAGE, command, "--%s: \"%.*s\" came, at most %d %s with commas between were expected", option, (int)len, at,
                            WORDS_MAX, kinds[kind].expected);
        if (!at[len])
            break;
        at += len + 1;
    }
    return buf_failed(out) ? cli_fail(CLI_FAILED, command, "out of memory") : CLI_DONE;
}

void narrowing_done(struct narrowing *n)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        buf_done(words_of(n, i));
}

const struct role_narrowing *narrowing_of_role(struct narrowing *n)
{
    n->role = (struct role_narrowing){n->groups.len ? n->groups.data : NULL, n->tables.len ? n->tables.data : NULL};
    return n->role.groups || n->role.tables ? &n->role : NULL;
}

/* ---- rows ---------------------------------------------------------------------------------------------------------------------- */

static int put_agents(const struct agent_rows *r, struct buf *out)
{
    buf_putc(out, '{');
    for (size_t i = 0; i < r->n; i++)
        buf_printf(out, "%s\"%s\"", i ? "," : "", r->rows[i].agent);
    buf_putc(out, '}');
    return buf_failed(out) ? cli_fail(CLI_FAILED, command, "out of memory") : CLI_DONE;
}

/* Also where nothing is narrowed: a name that was revoked and is given anew must not keep what it was. */
int narrowing_write(const struct agent_rows *r, const struct narrowing *n)
{
    static const char sql[] = "UPDATE muster.credentials SET groups = string_to_array($3, ','), tables = string_to_array($4, ','),"
                              " verbs = string_to_array($5, ',') WHERE tenant = $1 AND agent = ANY ($2::text[])"
                              " AND (groups, tables, verbs) IS DISTINCT FROM"
                              " (string_to_array($3, ','), string_to_array($4, ','), string_to_array($5, ','))";
    const struct buf *const words[] = {&n->groups, &n->tables, &n->verbs};
    const char *params[5] = {r->tenant};
    struct sql_rows *rows = NULL;
    struct buf agents = {0};
    int code = put_agents(r, &agents);

    params[1] = agents.data;
    for (size_t i = 0; i < 3; i++)
        params[i + 2] = words[i]->len ? words[i]->data : NULL;
    if (code == CLI_DONE) {
        int err = sql_admin_exec(r->admin, sql, 5, params, &rows);
        code = err ? database_fail(r->admin, command, err) : CLI_DONE;
    }
    sql_rows_free(rows);
    buf_done(&agents);
    return code;
}

static void take_row(const struct sql_rows *rows, int i, struct narrowing *n)
{
    for (int k = 0; k < 3; k++) {
        const char *words = sql_rows_get(rows, i, k + 1);

        if (words)
            buf_puts(words_of(n, (size_t)k), words);
    }
}

static int take_rows(const struct agent_rows *r, const struct sql_rows *rows, struct narrowing *narrowings)
{
    struct map by_name = {0};
    bool ok = true;

    for (size_t i = 0; i < r->n && ok; i++)
        ok = map_put(&by_name, r->rows[i].agent, strlen(r->rows[i].agent), &narrowings[i]);
    for (int i = 0; i < sql_rows_count(rows) && ok; i++) {
        const char *agent = sql_rows_get(rows, i, 0);
        struct narrowing *n = map_get(&by_name, agent, strlen(agent));

        if (n)
            take_row(rows, i, n);
        ok = !n || (!buf_failed(&n->groups) && !buf_failed(&n->tables) && !buf_failed(&n->verbs));
    }
    map_done(&by_name);
    return ok ? CLI_DONE : cli_fail(CLI_FAILED, command, "out of memory");
}

int narrowing_read(const struct agent_rows *r, struct narrowing *narrowings)
{
    static const char sql[] = "SELECT agent, array_to_string(groups, ','), array_to_string(tables, ','), array_to_string(verbs, ',')"
                              " FROM muster.credentials WHERE tenant = $1 AND agent = ANY ($2::text[])";
    struct sql_rows *rows = NULL;
    struct buf agents = {0};
    int code = put_agents(r, &agents);

    if (code == CLI_DONE) {
        const char *params[] = {r->tenant, agents.data};
        int err = sql_admin_exec(r->admin, sql, 2, params, &rows);
        code = err ? database_fail(r->admin, command, err) : take_rows(r, rows, narrowings);
    }
    sql_rows_free(rows);
    buf_done(&agents);
    return code;
}
