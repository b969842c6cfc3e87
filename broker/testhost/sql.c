/* muster.sql/1 of the test host: the test says what a statement gives. Lane only. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "testhost/inside.h"

enum { MAX_PARAMS = 100 };

struct muster_test_rows {
    struct muster_sql_result result; /* first: get() finds the rows behind it */
    struct list cells;               /* of char *, NULL for SQL NULL */
    char error[300], sqlstate[8];
};

struct exec {
    struct due due;
    const struct statement *statement;
    char *tenant, *order_key;
    struct muster_bytes *params;
    uint32_t n_params;
    muster_sql_fn fn;
    void *arg;
};

static struct statement *find(struct muster_test *t, const char *name)
{
    for (size_t i = 0; i < t->statements.n; i++) {
        struct statement *s = t->statements.items[i];

        if (strcmp(s->name, name) == 0)
            return s;
    }
    return NULL;
}

static int sql_prepare(const struct muster_host *host, const char *name, int kind, const char *statement, uint64_t *ret_stmt)
{
    const int call = CALL_SQL_PREPARE;
    struct muster_test *t = test_of(host, call);
    int err = call_begin(t, call);
    struct statement *s;

    if (err)
        return err;
    if (!name || !*name || !statement || !*statement || !ret_stmt)
        return breach(t, call, "expected a name, a statement and ret_stmt");
    if (kind != MUSTER_SQL_READ && kind != MUSTER_SQL_WRITE)
        return breach(t, call, "%s: kind %d: expected MUSTER_SQL_READ or MUSTER_SQL_WRITE", name, kind);
    s = find(t, name);
    if (s && (s->kind != kind || strcmp(s->text, statement) != 0))
        return breach(t, call, "%s: the same name has another statement already", name);
    if (!s) {
        s = must_alloc(sizeof *s);
        *s = (struct statement){must_copy(name), must_copy(statement), kind};
        list_add(&t->statements, s);
    }
    *ret_stmt = (uint64_t)(uintptr_t)s;
    return 0;
}

/* ---- results ------------------------------------------------------------------------------------------------------------------- */

void muster_test_row(struct muster_test_rows *rows, uint32_t n_columns, const char *const *values)
{
    ASSERT(!rows->result.n_rows || rows->result.n_columns == n_columns);
    rows->result.n_columns = n_columns;
    rows->result.n_rows++;
    for (uint32_t i = 0; i < n_columns; i++)
        list_add(&rows->cells, must_copy(values[i]));
}

void muster_test_sql_error(struct muster_test_rows *rows, const char *sqlstate, const char *text)
{
    (void)snprintf(rows->sqlstate, sizeof rows->sqlstate, "%s", sqlstate ? sqlstate : "");
    (void)snprintf(rows->error, sizeof rows->error, "%s", text ? text : "");
}

struct shown { /* the result as it is lent */
    struct muster_sql_result result; /* first */
    const char *const *cells;
};

static const char *get(const struct muster_sql_result *result, uint32_t row, uint32_t column)
{
    const struct shown *s = (const struct shown *)result;

    return row < result->n_rows && column < result->n_columns ? s->cells[(size_t)row * result->n_columns + column] : NULL;
}

static struct shown *lend(struct muster_test_rows *rows, int code, struct arena **ret_arena)
{
    size_t n = rows->cells.n, room = sizeof(struct shown) + n * sizeof(char *) + 2048;
    struct arena *a;
    const char **cells;
    struct shown *s;

    for (size_t i = 0; i < n; i++)
        room += rows->cells.items[i] ? strlen(rows->cells.items[i]) + 32 : 0;
    *ret_arena = a = arena_new(room);
    s = arena_take(a, sizeof *s);
    cells = arena_take(a, n * sizeof *cells);
    for (size_t i = 0; i < n; i++)
        cells[i] = arena_text(a, rows->cells.items[i]);
    s->result = rows->result;
    s->result.size = sizeof s->result;
    s->result.code = code;
    if (code)
        s->result.n_rows = 0;
    s->result.error = code ? arena_text(a, rows->error[0] ? rows->error : "a fault of the test") : "";
    s->result.sqlstate = arena_text(a, code ? rows->sqlstate : "");
    s->result.get = get;
    s->cells = cells;
    return s;
}

static const struct sql_script *script_for(struct muster_test *t, const char *name)
{
    const struct sql_script *other = NULL;

    for (size_t i = t->sql_scripts.n; i-- > 0;) { /* the newest counts */
        const struct sql_script *s = t->sql_scripts.items[i];

        if (s->name && strcmp(s->name, name) == 0)
            return s->fn ? s : NULL;
        if (!s->name && !other)
            other = s;
    }
    return other && other->fn ? other : NULL;
}

static int answer(struct muster_test *t, const struct exec *e, struct muster_test_rows *rows)
{
    const struct sql_script *script = script_for(t, e->statement->name);
    const struct muster_test_statement statement = {.name = e->statement->name,
                                                    .text = e->statement->text,
                                                    .tenant = e->tenant,
                                                    .order_key = e->order_key,
                                                    .n_params = e->n_params,
                                                    .params = e->params};
    static const char *const empty[] = {"{}"};

    if (script)
        return script->fn(script->arg, &statement, rows);
    if (e->statement->kind == MUSTER_SQL_WRITE)
        muster_test_row(rows, 1, empty);
    return 0;
}

static void exec_free(struct exec *e)
{
    for (uint32_t i = 0; i < e->n_params; i++)
        free((void *)(uintptr_t)e->params[i].data);
    free(e->params);
    free(e->tenant);
    free(e->order_key);
    free(e);
}

static void run_exec(struct muster_test *t, struct due *d, int code)
{
    struct exec *e = (struct exec *)d;
    struct muster_test_rows rows = {0};
    struct arena *a;
    const struct shown *s;

    if (!code)
        code = answer(t, e, &rows);
    s = lend(&rows, code, &a);
    DURING(t, "sql result", e->statement->name, e->fn(e->arg, &s->result));
    arena_end(a, "the result of a statement");
    for (size_t i = 0; i < rows.cells.n; i++)
        free(rows.cells.items[i]);
    list_done(&rows.cells);
    exec_free(e);
}

/* The highest $n of a statement; what is in quotes is not looked for. */
static uint32_t count_params(const char *text)
{
    uint32_t highest = 0;
    bool quoted = false;

    for (; *text; text++) {
        if (*text == '\'')
            quoted = !quoted;
        if (!quoted && text[0] == '$' && isdigit((unsigned char)text[1])) {
            uint32_t n = (uint32_t)strtoul(text + 1, NULL, 10);

            highest = n > highest ? n : highest;
        }
    }
    return highest;
}

static const struct statement *statement_of(struct muster_test *t, uint64_t stmt)
{
    for (size_t i = 0; i < t->statements.n; i++)
        if ((uint64_t)(uintptr_t)t->statements.items[i] == stmt)
            return t->statements.items[i];
    return NULL;
}

static int check_exec(struct muster_test *t, const struct statement *s, const struct muster_tenant *tenant, uint32_t n_params,
                      const struct muster_bytes *params)
{
    const int call = CALL_SQL_EXEC;

    if (!s)
        return breach(t, call, "the statement is none that prepare() gave");
    if (n_params != count_params(s->text) || n_params > MAX_PARAMS)
        return breach(t, call, "%s: %u parameters, the statement has %u", s->name, n_params, count_params(s->text));
    if (n_params && !params)
        return breach(t, call, "%s: params is NULL", s->name);
    for (uint32_t i = 0; i < n_params; i++) {
        if (is_stale(t, call, "a parameter", params[i].data))
            return MUSTER_EINVAL;
        if (params[i].data && memchr(params[i].data, 0, params[i].len))
            return breach(t, call, "%s: parameter %u holds a NUL", s->name, i + 1);
    }
    if (tenant)
        return tenant_is(t, call, tenant) ? 0 : MUSTER_EINVAL;
    return may_cross(t) ? 0 : test_fail(t, MUSTER_EACCES, "a statement without a tenant needs the capability \"cross_tenant\"");
}

static int sql_exec(const struct muster_host *host, uint64_t stmt, const struct muster_tenant *tenant, const char *order_key,
                    uint32_t n_params, const struct muster_bytes *params, muster_sql_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_SQL_EXEC);
    int err = call_begin(t, CALL_SQL_EXEC);
    const struct statement *s = statement_of(t, stmt);
    struct exec *e;

    if (!err)
        err = check_exec(t, s, tenant, n_params, params);
    if (!err && !fn)
        err = breach(t, CALL_SQL_EXEC, "%s: fn is NULL", s->name);
    if (!err && is_stale(t, CALL_SQL_EXEC, "order_key", order_key))
        err = MUSTER_EINVAL;
    if (err)
        return err;
    e = must_alloc(sizeof *e);
    *e = (struct exec){.due = {.kind = DUE_LOCAL, .callback = CALL_SQL_EXEC_CB, .run = run_exec},
                       .statement = s,
                       .tenant = must_copy(tenant ? tenant->name : NULL),
                       .order_key = must_copy(order_key),
                       .params = must_alloc(n_params * sizeof *e->params),
                       .n_params = n_params,
                       .fn = fn,
                       .arg = arg};
    for (uint32_t i = 0; i < n_params; i++)
        e->params[i] = params[i].data ? must_copy_bytes(params[i]) : (struct muster_bytes){NULL, 0};
    due_add(t, &e->due, t->now_ns);
    return 0;
}

const struct muster_sql test_sql = {.size = sizeof test_sql, .prepare = sql_prepare, .exec = sql_exec};

void muster_test_sql(struct muster_test *t, const char *name, muster_test_sql_fn fn, void *arg)
{
    struct sql_script *s = must_alloc(sizeof *s);

    *s = (struct sql_script){must_copy(name), fn, arg};
    list_add(&t->sql_scripts, s);
}

void sql_free_all(struct muster_test *t)
{
    for (size_t i = 0; i < t->statements.n; i++) {
        struct statement *s = t->statements.items[i];

        free(s->name);
        free(s->text);
        free(s);
    }
    for (size_t i = 0; i < t->sql_scripts.n; i++) {
        struct sql_script *s = t->sql_scripts.items[i];

        free(s->name);
        free(s);
    }
    list_done(&t->statements);
    list_done(&t->sql_scripts);
}
