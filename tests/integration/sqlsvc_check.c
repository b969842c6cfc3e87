/*
 * sqlsvc_check - drives the SQL service against a real PostgreSQL, for test_sqlsvc.py, which starts the server and makes the
 * tables and functions used here.
 *
 * sqlsvc_check CHECK DSN; exit code 0 when all held, otherwise a line on stderr says what did not.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "sql/listen.h"
#include "sql/sql.h"

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                             \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { PARAMS_MAX = 4, KILLS_MAX = 15 };

static uv_loop_t loop;
static const char *dsn;

/* One call and what came of it. */
struct call {
    const char *tenant, *key;
    const char *params[PARAMS_MAX];
    uint32_t n_params;
    unsigned int n_answers; /* must end as 1 */
    unsigned int place;     /* among the answers to all */
    int code;
    char sqlstate[6], value[256], error[256];
};

static unsigned int n_open, n_writable, n_answered;
static int links[16]; /* what on_link told first: 1 up, 0 down */
static unsigned int n_links;

static void on_link(void *arg, bool up, const char *reason)
{
    (void)arg;
    if (n_links < sizeof links / sizeof *links)
        links[n_links++] = up;
    printf("%s %s\n", up ? "up" : "down", reason);
    fflush(stdout);
}

static void on_writable(void *arg)
{
    (void)arg;
    n_writable++;
}

static void on_answer(void *arg, const struct muster_sql_result *result)
{
    struct call *call = arg;
    const char *value = result->get(result, 0, 0);

    call->n_answers++;
    call->place = n_answered++;
    CHECK(call->n_answers == 1, "%s was answered twice", call->key);
    call->code = result->code;
    snprintf(call->sqlstate, sizeof call->sqlstate, "%s", result->sqlstate);
    snprintf(call->value, sizeof call->value, "%s", value ? value : "NULL");
    snprintf(call->error, sizeof call->error, "%s", result->error);
    CHECK((result->code == 0) == (*result->error == '\0'), "code %d with error '%s'", result->code, result->error);
    n_open--;
}

static int64_t silence_ns; /* of the services made from now on; 0: the default */

static int try_new(const char *to, unsigned int pool, size_t max_items, int64_t wait_ns,
                   struct sql **ret_sql)
{
    return sql_new(&(struct sql_options){.loop = &loop,
                                         .dsn = to,
                                         .broker_id = "victim",
                                         .area = "check",
                                         .pool = pool,
                                         .max_items = max_items,
                                         .max_bytes = 8u << 20,
                                         .wait_ns = wait_ns,
                                         .silence_ns = silence_ns,
                                         .on_link = on_link,
                                         .on_writable = on_writable},
                   ret_sql);
}

static struct sql *open_sql(unsigned int pool, size_t max_items, int64_t wait_ns)
{
    struct sql *sql = NULL;
    int err = try_new(dsn, pool, max_items, wait_ns, &sql);

    CHECK(err == 0, "sql_new: %d", err);
    return sql;
}

static void close_sql(struct sql *sql)
{
    sql_free(sql);
    uv_run(&loop, UV_RUN_DEFAULT);
}

static uint64_t prepare(struct sql *sql, const char *name, int kind, const char *text)
{
    uint64_t stmt = 0;
    int err = sql_prepare(sql, name, kind, text, &stmt);

    CHECK(err == 0, "sql_prepare %s: %d", name, err);
    return stmt;
}

static int try_call(struct sql *sql, uint64_t stmt, struct call *call)
{
    struct muster_bytes params[PARAMS_MAX];
    int err;

    for (uint32_t i = 0; i < call->n_params; i++)
        params[i] = (struct muster_bytes){call->params[i], call->params[i] ? strlen(call->params[i]) : 0};
    call->n_answers = 0;
    err = sql_exec(sql, &(struct sql_call){.stmt = stmt,
                                           .tenant = call->tenant,
                                           .order_key = call->key,
                                           .params = params,
                                           .n_params = call->n_params,
                                           .fn = on_answer,
                                           .arg = call});
    if (err == 0)
        n_open++;
    return err;
}

static void submit(struct sql *sql, uint64_t stmt, struct call *call)
{
    int err;

    while ((err = try_call(sql, stmt, call)) == MUSTER_EAGAIN)
        uv_run(&loop, UV_RUN_ONCE);
    CHECK(err == 0, "sql_exec: %d", err);
}

static void settle(void)
{
    while (n_open > 0)
        uv_run(&loop, UV_RUN_ONCE);
}

/* Run one statement without parameters and return its first value. */
static const char *ask(struct sql *sql, const char *text)
{
    static struct call call;
    static unsigned int n;
    char name[32];

    snprintf(name, sizeof name, "ask%u", n++);
    call = (struct call){.key = text};
    submit(sql, prepare(sql, name, SQL_READ, text), &call);
    settle();
    CHECK(call.code == 0, "%s: %s", text, call.error);
    return call.value;
}

struct names {
    char tenant[16], id[24];
};

static struct call *calls_new(size_t n, unsigned int n_tenants, struct names **ret_names)
{
    struct call *calls = calloc(n, sizeof *calls);
    struct names *names = calloc(n, sizeof *names);

    CHECK(calls && names, "no memory");
    for (size_t i = 0; i < n; i++) {
        snprintf(names[i].tenant, sizeof names[i].tenant, "t%zu", i * 7919 % n_tenants);
        snprintf(names[i].id, sizeof names[i].id, "id-%zu", i);
        calls[i] = (struct call){.tenant = names[i].tenant,
                                 .key = names[i].id,
                                 .params = {names[i].tenant, names[i].id},
                                 .n_params = 2};
    }
    *ret_names = names;
    return calls;
}

static const char note_text[] = "SELECT public.note($1, $2)";

static void check_writes(void)
{
    enum { N = 10000 };
    struct sql *sql = open_sql(4, 4096, 0);
    uint64_t stmt = prepare(sql, "note", SQL_WRITE, note_text);
    struct names *names;
    struct call *calls = calls_new(N, 200, &names);
    struct sql_stats stats;

    for (size_t i = 0; i < N; i++)
        submit(sql, stmt, &calls[i]);
    settle();
    for (size_t i = 0; i < N; i++)
        CHECK(calls[i].code == 0 && strcmp(calls[i].value, calls[i].tenant) == 0, "%s: %s, tenant %s, ran as %s",
              calls[i].key, calls[i].error, calls[i].tenant, calls[i].value);
    CHECK(strcmp(ask(sql, "SELECT count(*) || '/' || count(DISTINCT id) FROM seen WHERE setting = tenant"), "10000/10000") == 0,
          "rows are missing, or there twice");
    sql_stats(sql, &stats);
    CHECK(stats.batches >= N / 100 && stats.batches < N / 10, "%zu batches", (size_t)stats.batches);
    CHECK(stats.failures == 0 && stats.retries == 0 && stats.waiting == 0 && stats.in_flight == 0, "counters");
    free(calls);
    free(names);
    close_sql(sql);
}

/* Each bad item stands in a batch of 50 good ones. */
static void check_guilty(void)
{
    static const struct {
        const char *how;
        int code;
        const char *sqlstate;
    } bad[] = {
        {"raise", MUSTER_EINVAL, "P0001"},    {"check", MUSTER_EINVAL, "23514"},
        {"deferred", MUSTER_EINVAL, "P0001"}, {"lock", MUSTER_ETIME, "55P03"},
        {"\xff", MUSTER_EINVAL, "22021"},     {"disk", MUSTER_EAGAIN, "53100"},
    };
    struct sql *sql = open_sql(1, 4096, 0);
    uint64_t note = prepare(sql, "note", SQL_WRITE, note_text), guilty = prepare(sql, "bad", SQL_WRITE, "SELECT public.bad($1)");
    uint64_t missing = prepare(sql, "missing", SQL_WRITE, "SELECT public.not_there($1, $2)");

    for (size_t k = 0; k <= sizeof bad / sizeof *bad; k++) {
        bool refused = k == sizeof bad / sizeof *bad;
        struct names *names;
        struct call *calls = calls_new(51, 5, &names);

        if (!refused)
            calls[25] = (struct call){.tenant = "t1", .key = "bad", .params = {bad[k].how}, .n_params = 1};
        for (size_t i = 0; i < 51; i++)
            submit(sql, i != 25 ? note : refused ? missing : guilty, &calls[i]);
        settle();
        for (size_t i = 0; i < 51; i++)
            CHECK(i == 25 || (calls[i].code == 0 && strcmp(calls[i].value, calls[i].tenant) == 0), "%zu: item %zu: %s", k, i,
                  calls[i].error);
        CHECK(calls[25].code == (refused ? MUSTER_EINVAL : bad[k].code) &&
                  strcmp(calls[25].sqlstate, refused ? "42883" : bad[k].sqlstate) == 0,
              "%zu: %d %s %s", k, calls[25].code, calls[25].sqlstate, calls[25].error);
        free(calls);
        free(names);
    }
    CHECK(strcmp(ask(sql, "SELECT count(*) FROM seen"), "350") == 0, "an item was lost, or applied twice");
    CHECK(strcmp(ask(sql, "SELECT count(*) FROM pledges"), "0") == 0, "a refused item left a row");
    close_sql(sql);
}

/* Reads and writes of all tenants and of none, mixed on one connection: each sees its own setting and no other, also behind one that changes it. */
static void check_leak(void)
{
    enum { N = 600 };
    static const char setting[] = "SELECT coalesce(current_setting('app.current_tenant', true), 'NULL')";
    struct sql *sql = open_sql(1, 4096, 0);
    uint64_t stmts[] = {prepare(sql, "w", SQL_WRITE, setting), prepare(sql, "r", SQL_READ, setting),
                        prepare(sql, "forbidden", SQL_READ, "SELECT public.note('x', 'x')"),
                        prepare(sql, "evil", SQL_WRITE, "SELECT set_config('app.current_tenant', 'zeta', true)"),
                        prepare(sql, "ours", SQL_WRITE, "SELECT muster.error(current_setting('app.current_tenant', true), '')")};
    char ours[96];
    struct names *names;
    struct call *calls = calls_new(N, 7, &names);

    for (size_t i = 0; i < N; i++) {
        calls[i].n_params = 0;
        if (i % 5 == 0)
            calls[i].tenant = NULL;
        submit(sql, stmts[i % 11 < 4 ? i % 11 : 4], &calls[i]);
    }
    settle();
    for (size_t i = 0; i < N; i++) {
        const char *tenant = calls[i].tenant ? calls[i].tenant : "";

        (void)snprintf(ours, sizeof ours, "{\"error\": {\"code\": \"%s\", \"message\": \"\"}}", tenant);
        if (i % 11 == 3)
            CHECK(calls[i].code == 0 && strcmp(calls[i].value, "zeta") == 0, "tenant %s set %s", tenant, calls[i].value);
        else if (i % 11 > 3)
            CHECK(calls[i].code == 0 && strcmp(calls[i].value, ours) == 0, "tenant %s saw %s", tenant, calls[i].value);
        else if (i % 11 == 2)
            CHECK(calls[i].code == MUSTER_EINVAL && strcmp(calls[i].sqlstate, "25006") == 0, "a read wrote: %s", calls[i].error);
        else
            CHECK(calls[i].code == 0 && strcmp(calls[i].value, tenant) == 0, "tenant %s saw %s", tenant, calls[i].value);
    }
    free(calls);
    free(names);
    close_sql(sql);
}

/* As muster_broker: what an item claims to be another tenant's is refused, and its neighbours in the batch hear nothing of it. */
static void check_walls(void)
{
    enum { N = 200, FORGED = 20 };
    struct sql *sql = open_sql(1, 4096, 0);
    uint64_t writes = prepare(sql, "write", SQL_WRITE,
                              "INSERT INTO public.agent_events (tenant_id, id, agent_id, event_type) VALUES ($1, $2, 'a', 'x')");
    uint64_t takes = prepare(sql, "take", SQL_WRITE, "UPDATE public.agent_events SET tenant_id = current_setting('app.current_tenant')"
                                                     " WHERE tenant_id = $1 AND id = $2 RETURNING id");
    uint64_t reads = prepare(sql, "read", SQL_READ, "SELECT string_agg(DISTINCT tenant_id, ',') FROM public.agent_events"
                                                    " WHERE $1::text = $1 AND $2::text = $2");
    struct names *names;
    struct call *calls = calls_new(N, 4, &names), seen[4] = {0}, taken = {.tenant = "t1", .key = "x", .params = {"t2", "id-2"}, .n_params = 2};

    for (size_t i = 0; i < N; i++) {
        if (i % FORGED == 0)
            calls[i].tenant = calls[i].tenant[1] == '3' ? "t0" : "t3";
        submit(sql, writes, &calls[i]);
    }
    settle();
    for (size_t i = 0; i < N; i++)
        CHECK(strcmp(calls[i].sqlstate, i % FORGED == 0 ? "42501" : "") == 0, "%s as %s: %s", calls[i].params[0], calls[i].tenant, calls[i].error);
    for (size_t i = 0; i < 4; i++) {
        seen[i] = (struct call){.tenant = calls[i + 4].params[0], .key = "x", .params = {"", ""}, .n_params = 2};
        submit(sql, reads, &seen[i]);
    }
    submit(sql, takes, &taken);
    settle();
    for (size_t i = 0; i < 4; i++)
        CHECK(strcmp(seen[i].value, seen[i].tenant) == 0, "%s sees %s", seen[i].tenant, seen[i].value);
    CHECK(taken.code == 0 && strcmp(taken.value, "NULL") == 0, "a row of another tenant was taken: %s", taken.value);
    CHECK(strcmp(ask(sql, "SELECT count(*) FROM public.agent_events"), "0") == 0, "rows are seen while no tenant is served");
    free(calls);
    free(names);
    close_sql(sql);
}

static void on_killed(void *arg, const struct muster_sql_result *result)
{
    CHECK(result->code == 0 || result->code == MUSTER_ELINK, "killing: %s", result->error); /* ELINK: the end */
    *(unsigned int *)arg += (unsigned int)(result->n_rows > 0);
}

static struct listen *killer;
static unsigned int n_kills;

static void ignore_rows(void *arg, const struct muster_sql_result *result)
{
    (void)arg;
    CHECK(result->code == 0, "%s", result->error);
}

static void on_kill_timer(uv_timer_t *timer)
{
    if (n_kills >= KILLS_MAX) {
        uv_timer_stop(timer);
        return;
    }
    (void)listen_ask(killer, /* while the killer connects it is refused: the next tick tries again */
                     "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'muster victim'"
                     " AND state <> 'idle' LIMIT 1",
                     0, NULL, on_killed, &n_kills);
}

/* Repeat, under the same request_id, what a lost connection left open, as a client would. */
static unsigned int repeat_lost(struct sql *sql, uint64_t stmt, struct call *calls, size_t n)
{
    unsigned int lost = 0;

    for (size_t i = 0; i < n; i++) {
        CHECK(calls[i].n_answers == 1, "%s: %u answers", calls[i].key, calls[i].n_answers);
        CHECK(calls[i].code == 0 || calls[i].code == MUSTER_ELINK, "%s: %d %s", calls[i].key, calls[i].code, calls[i].error);
        if (calls[i].code == 0)
            continue;
        lost++;
        submit(sql, stmt, &calls[i]);
    }
    settle();
    return lost;
}

static void ignore_tick(uv_timer_t *timer)
{
    (void)timer; /* only wakes the loop */
}

/* A few calls at a time until enough connections have been lost and come back, then all that are left. */
static void feed(struct sql *sql, uint64_t stmt, struct call *calls, size_t n)
{
    struct sql_stats stats = {0};
    int64_t next_ns = 0;
    uv_timer_t tick;

    uv_timer_init(&loop, &tick);
    uv_timer_start(&tick, ignore_tick, 2, 2);
    for (size_t i = 0; i < n; i++) {
        if (i % 8 == 0 && stats.reconnects < 3) {
            while (clock_now_ns() < next_ns)
                uv_run(&loop, UV_RUN_ONCE);
            next_ns = clock_now_ns() + 2 * CLOCK_MS;
            sql_stats(sql, &stats);
        }
        submit(sql, stmt, &calls[i]);
    }
    settle();
    uv_close((uv_handle_t *)&tick, NULL);
    uv_run(&loop, UV_RUN_NOWAIT); /* the timer lives on this stack */
}

/* Terminate busy backends all the time while n calls run. */
static void run_under_fire(struct sql *sql, uint64_t stmt, struct call *calls, size_t n)
{
    static const struct listen_query nothing = {"SELECT 1", ignore_rows, NULL};
    struct listen_options options = {
        .loop = &loop, .dsn = dsn, .broker_id = "killer", .area = "check", .queries = &nothing, .n_queries = 1};
    struct sql_stats stats;
    uv_timer_t timer;

    CHECK(listen_new(&options, &killer) == 0, "listen_new");
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, on_kill_timer, 20, 20);
    feed(sql, stmt, calls, n);
    uv_close((uv_handle_t *)&timer, NULL);
    listen_free(killer);
    uv_run(&loop, UV_RUN_NOWAIT); /* the timer lives on this stack */

    sql_stats(sql, &stats);
    CHECK(n_kills >= 3 && stats.reconnects >= 3, "only %u kills, %zu reconnects", n_kills, (size_t)stats.reconnects);
    printf("kills %u reconnects %zu retries %zu\n", n_kills, (size_t)stats.reconnects, (size_t)stats.retries);
}

static void check_kill(void)
{
    enum { N = 6000 };
    struct sql *sql = open_sql(4, 4096, 30 * CLOCK_S);
    uint64_t stmt = prepare(sql, "once", SQL_WRITE,
                            "SELECT muster.once($1, 'a1', 'test.effect', $2, sha256('x'), 'test_effect',"
                            " jsonb_build_object('id', $2::text))");
    struct names *names;
    struct call *calls = calls_new(N, 50, &names);
    unsigned int rounds = 0;

    run_under_fire(sql, stmt, calls, N);
    while (repeat_lost(sql, stmt, calls, N) > 0)
        CHECK(++rounds < 10, "calls are still lost");
    CHECK(strcmp(ask(sql, "SELECT count(*) || '/' || count(DISTINCT id) FROM effects"), "6000/6000") == 0,
          "an item was lost, or applied twice");
    free(calls);
    free(names);
    close_sql(sql);
}

/* Without request_id: what the service itself tries again must be what was certainly undone. */
static void check_kill_plain(void)
{
    enum { N = 20000 };
    struct sql *sql = open_sql(4, 4096, 30 * CLOCK_S);
    uint64_t stmt = prepare(sql, "note", SQL_WRITE, note_text);
    struct names *names;
    struct call *calls = calls_new(N, 50, &names);
    long done = 0, rows, ids;

    run_under_fire(sql, stmt, calls, N);
    for (size_t i = 0; i < N; i++) {
        CHECK(calls[i].code == 0 || calls[i].code == MUSTER_ELINK, "%s: %d %s", calls[i].key, calls[i].code, calls[i].error);
        done += calls[i].code == 0;
    }
    rows = strtol(ask(sql, "SELECT count(*) FROM seen"), NULL, 10);
    ids = strtol(ask(sql, "SELECT count(DISTINCT id) FROM seen"), NULL, 10);
    CHECK(rows == ids, "%ld rows for %ld items", rows, ids);
    CHECK(rows >= done && rows <= N, "%ld answered as done, %ld rows", done, rows);
    printf("done %ld of %d, rows %ld\n", done, N, rows);
    free(calls);
    free(names);
    close_sql(sql);
}

/* Load until the link has gone down and come up again, then nothing but success. The server is restarted from outside. */
/* A server that is being stopped may let one more in: up is what lasts. */
static void check_restart(void)
{
    struct sql *sql = open_sql(2, 4096, 500 * CLOCK_MS);
    uint64_t stmt = prepare(sql, "note", SQL_WRITE, note_text);
    int64_t end = clock_now_ns() + 60 * CLOCK_S;
    unsigned int n_failed = 0, n_since = 0;

    while (n_links < 3 || n_since < 500) {
        struct call call = {.tenant = "t1", .key = "k", .params = {"t1", "k"}, .n_params = 2};

        CHECK(clock_now_ns() < end, "no down and up within 60 s");
        submit(sql, stmt, &call);
        settle();
        CHECK(call.code == 0 || call.code == MUSTER_ELINK, "%d %s", call.code, call.error);
        n_failed += call.code != 0;
        n_since = call.code == 0 ? n_since + 1 : 0;
    }
    for (unsigned int i = 0; i < n_links; i++)
        CHECK(links[i] == (i % 2 == 0), "up and down in turns were expected");
    CHECK(n_links % 2 == 1, "up was expected in the end");
    CHECK(n_failed > 0, "nothing failed while the server was away");
    close_sql(sql);
}

/* A server that takes everything and answers nothing: from outside the backend is stopped after "ready" and before the line that
 * comes back, while it rests: one that works may hold a lock which all need. */
static void check_stall(void)
{
    silence_ns = 2 * CLOCK_S;

    struct sql *sql = open_sql(1, 100, 0);
    uint64_t stmt = prepare(sql, "note", SQL_WRITE, note_text);
    struct call call = {.tenant = "t1", .key = "k", .params = {"t1", "k"}, .n_params = 2};
    int64_t sent;

    submit(sql, stmt, &call);
    settle();
    CHECK(call.code == 0, "%s", call.error);
    puts("ready");
    fflush(stdout);
    CHECK(getchar() == '\n', "no line on stdin");
    sent = clock_now_ns();
    submit(sql, stmt, &call);
    settle();
    CHECK(call.code == MUSTER_ELINK, "%d %s", call.code, call.error);
    CHECK(clock_now_ns() - sent > silence_ns && clock_now_ns() - sent < 2 * silence_ns, "given up after %lld ms",
          (long long)((clock_now_ns() - sent) / CLOCK_MS));
    submit(sql, stmt, &call);
    settle();
    CHECK(call.code == 0, "on the next connection: %s", call.error);
    close_sql(sql);
}

static void run_batch(struct sql *sql, uint64_t stmt, unsigned int n, const char *seconds)
{
    struct names *names;
    struct call *calls = calls_new(n, 5, &names);

    for (size_t i = 0; i < n; i++) {
        calls[i].params[calls[i].n_params++] = seconds;
        submit(sql, stmt, &calls[i]);
    }
    settle();
    for (size_t i = 0; i < n; i++)
        CHECK(calls[i].code == 0, "%s s each: %s: %s", seconds, calls[i].key, calls[i].error);
    free(calls);
    free(names);
}

/* Batches that take twice and three times as long as the server may be silent, though none of their items does: the first ones
 * where nothing is known of the server yet, then after many fast ones. */
static void check_slow(void)
{
    silence_ns = CLOCK_S;

    struct sql *sql = open_sql(1, 100, 0);
    uint64_t stmt = prepare(sql, "slow", SQL_WRITE, "SELECT public.note($1, $2) FROM pg_sleep($3::text::float8)");
    struct sql_stats stats;

    run_batch(sql, stmt, 15, "0.2");
    for (int i = 0; i < 10; i++)
        run_batch(sql, stmt, 50, "0");
    run_batch(sql, stmt, 100, "0.02");
    run_batch(sql, stmt, 15, "0.2");
    sql_stats(sql, &stats);
    CHECK(stats.batches == 13 && stats.retries == 0 && stats.reconnects == 0, "%zu batches, %zu retries, %zu reconnects",
          (size_t)stats.batches, (size_t)stats.retries, (size_t)stats.reconnects);
    close_sql(sql);
}

static void run_note(struct sql *sql, uint64_t stmt)
{
    struct call call = {.tenant = "t1", .key = "k", .params = {"t1", "k"}, .n_params = 2};

    submit(sql, stmt, &call);
    settle();
    CHECK(call.code == 0, "%s", call.error);
}

/* The first of two hosts never answers: it costs one attempt, and none when a link that has lasted is made anew. */
static void check_hosts(void)
{
    struct sql *sql = open_sql(1, 100, 30 * CLOCK_S);
    uint64_t note = prepare(sql, "note", SQL_WRITE, note_text);
    uint64_t end = prepare(sql, "end", SQL_WRITE, /* the link that has lasted, not the next one, where it is tried again */
                           "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                           " WHERE pid = pg_backend_pid() AND backend_start < now() - interval '1 s'");
    struct call call = {.key = "end"};
    struct sql_stats stats;
    int64_t up;

    run_note(sql, note);
    for (up = clock_now_ns(); clock_now_ns() - up < 1200 * CLOCK_MS;)
        run_note(sql, note);
    up = clock_now_ns();
    submit(sql, end, &call);
    settle();
    sql_stats(sql, &stats);
    CHECK(call.code == 0 && stats.reconnects == 1, "%zu reconnects, %s", (size_t)stats.reconnects, call.error);
    CHECK(clock_now_ns() - up < 3 * CLOCK_S, "back after %lld ms", (long long)((clock_now_ns() - up) / CLOCK_MS));
    close_sql(sql);
}

/* What is refused before anything connects; and a service that is freed before it was started. */
static void check_new(void)
{
    struct sql *sql = NULL;
    uint64_t stmt = 0, again = 0;

    CHECK(try_new("secret without a key", 1, 1, 0, &sql) == MUSTER_EINVAL, "a connection string that is none");
    CHECK(try_new(dsn, 0, 1, 0, &sql) == MUSTER_EINVAL, "a pool of 0");
    CHECK(try_new(dsn, 1, 0, 0, &sql) == MUSTER_EINVAL, "a queue of 0");
    CHECK(sql == NULL && try_new(dsn, 1, 1, 0, &sql) == 0, "a good one");
    CHECK(sql_prepare(sql, "note", 7, note_text, &stmt) == MUSTER_EINVAL, "a kind that is none");
    CHECK(sql_prepare(sql, "note", SQL_WRITE, note_text, &stmt) == 0 && stmt != 0, "a good statement");
    CHECK(sql_prepare(sql, "note", SQL_WRITE, note_text, &again) == 0 && again == stmt, "the same statement is another");
    CHECK(sql_prepare(sql, "note", SQL_READ, note_text, &again) == MUSTER_EEXIST, "one name for two statements");
    sql_free(sql);
}

/* Bounds: MUSTER_EAGAIN at the hundredth item, on_writable once below half, nothing queued by what was refused. */
static void check_full(void)
{
    static struct call calls[300];
    struct sql *sql = open_sql(1, 100, 0);
    uint64_t stmt = prepare(sql, "note", SQL_WRITE, note_text);
    static char big[(8 << 20) + 1];
    struct muster_bytes params[] = {{"a\0b", 3}, {"x", 1}};
    struct sql_stats stats;
    unsigned int n;

    for (n = 0; n < 300; n++) {
        calls[n] = (struct call){.tenant = "t1", .key = "k", .params = {"t1", "k"}, .n_params = 2};
        if (try_call(sql, stmt, &calls[n]) != 0)
            break;
    }
    CHECK(n == 100 && try_call(sql, stmt, &calls[n]) == MUSTER_EAGAIN, "%u went in", n);
    CHECK(n_writable == 0, "writable before anything was sent");
    settle();
    CHECK(n_writable == 1 && calls[99].code == 0 && calls[100].n_answers == 0, "writable %u", n_writable);

    memset(big, 'x', sizeof big - 1);
    calls[0].params[0] = big;
    CHECK(try_call(sql, stmt, &calls[0]) == MUSTER_EINVAL, "an item above all bounds went in");
    CHECK(sql_exec(sql, &(struct sql_call){.stmt = stmt, .params = params, .n_params = 2, .fn = on_answer}) == MUSTER_EINVAL,
          "a NUL went in");
    CHECK(sql_exec(sql, &(struct sql_call){.stmt = stmt + 1, .fn = on_answer}) == MUSTER_EINVAL, "an unknown statement");

    sql_stats(sql, &stats);
    CHECK(stats.waiting == 0 && stats.waiting_bytes == 0 && stats.in_flight == 0, "something is left");
    close_sql(sql);
}

enum { LOUD = 2000, GROUP = 100 };

/* One tenant has thousands waiting; what another asks then is in the next group that is sent, and is not behind them. */
static void check_turns(void)
{
    struct sql *sql = open_sql(1, 4096, 60 * CLOCK_S);
    uint64_t stmt = prepare(sql, "note", SQL_WRITE, note_text), read = prepare(sql, "setting", SQL_READ, "SELECT current_setting('app.current_tenant')");
    struct call *loud = calloc(LOUD, sizeof *loud), *louder = calloc(LOUD, sizeof *louder), quiet = {.tenant = "quiet", .key = "k"}, reader = quiet;
    struct sql_stats stats;

    CHECK(loud && louder, "no memory");
    for (size_t i = 0; i < LOUD; i++) {
        loud[i] = (struct call){.tenant = "loud", .key = "k", .params = {"loud", "k"}, .n_params = 2};
        louder[i] = (struct call){.tenant = "loud", .key = "k"};
        submit(sql, stmt, &loud[i]);
    }
    while (loud[0].n_answers == 0)
        uv_run(&loop, UV_RUN_ONCE);
    sql_stats(sql, &stats);
    CHECK(stats.batches == 1 && stats.batch_items == GROUP, "one tenant alone has whole groups: %zu in %zu", (size_t)stats.batch_items,
          (size_t)stats.batches);
    quiet.params[0] = "quiet";
    quiet.params[1] = "k";
    quiet.n_params = 2;
    submit(sql, stmt, &quiet);
    settle();
    CHECK(quiet.code == 0 && quiet.place < 2 * GROUP, "place %u of %d: %s", quiet.place, LOUD, quiet.error);
    for (size_t i = 1; i < LOUD; i++)
        CHECK(loud[i].place > loud[i - 1].place, "%zu: place %u, the one before %u", i, loud[i].place, loud[i - 1].place);

    n_answered = 0;
    for (size_t i = 0; i < LOUD; i++)
        submit(sql, read, &louder[i]);
    submit(sql, read, &reader);
    settle();
    CHECK(reader.code == 0 && reader.place <= GROUP, "a read: place %u of %d: %s", reader.place, LOUD, reader.error);
    free(loud);
    free(louder);
    close_sql(sql);
}

/* While one tenant's group holds a lock up, another's goes by the other connection. */
static void check_beside(void)
{
    struct sql *sql = open_sql(4, 4096, 60 * CLOCK_S);
    uint64_t slow = prepare(sql, "slow", SQL_WRITE, "SELECT public.note($1, $2) FROM pg_sleep(0.02)"), note = prepare(sql, "note", SQL_WRITE, note_text);
    struct call loud[3 * GROUP], quiet[8];
    struct sql_stats stats;

    for (size_t i = 0; i < 3 * GROUP; i++) {
        loud[i] = (struct call){.tenant = "loud", .key = "k", .params = {"loud", "k"}, .n_params = 2};
        submit(sql, slow, &loud[i]);
    }
    do {
        uv_run(&loop, UV_RUN_ONCE);
        sql_stats(sql, &stats);
    } while (stats.batches == 0);
    for (size_t i = 0; i < 8; i++) { /* one after the other, each as a tenant of its own */
        static char names[8][8];

        (void)snprintf(names[i], sizeof names[i], "q%zu", i);
        quiet[i] = (struct call){.tenant = names[i], .key = "k", .params = {names[i], "k"}, .n_params = 2};
        submit(sql, note, &quiet[i]);
        while (quiet[i].n_answers == 0)
            uv_run(&loop, UV_RUN_ONCE);
        CHECK(quiet[i].code == 0 && loud[0].n_answers == 0, "%s waited for the other tenant: %s", names[i], quiet[i].error);
    }
    settle();
    close_sql(sql);
}

/* One tenant has all that it may; another one's still goes in. */
static void check_share(void)
{
    static struct call loud[200], quiet[100];
    struct sql *sql = open_sql(1, 100, 0);
    uint64_t stmt = prepare(sql, "note", SQL_WRITE, note_text);
    unsigned int n, more;
    struct sql_stats stats;

    for (n = 0; n < 200; n++) {
        loud[n] = (struct call){.tenant = "loud", .key = "k", .params = {"loud", "k"}, .n_params = 2};
        if (try_call(sql, stmt, &loud[n]) != 0)
            break;
    }
    for (more = 0; more < 100; more++) {
        quiet[more] = (struct call){.tenant = "quiet", .key = "k", .params = {"quiet", "k"}, .n_params = 2};
        if (try_call(sql, stmt, &quiet[more]) != 0)
            break;
    }
    sql_stats(sql, &stats);
    CHECK(n == 100 && more == 50 && stats.refused == 2, "%u of one, %u of another, %zu refused", n, more, (size_t)stats.refused);
    CHECK(n_writable == 0, "writable before anything was sent");
    settle();
    CHECK(n_writable > 0, "nobody was told that there is room");
    close_sql(sql);
}

/* No server at all: items end with MUSTER_ELINK at their deadline, or when the service is freed; once each. */
static void check_away(void)
{
    static struct call calls[20];
    struct sql *sql = open_sql(2, 100, 400 * CLOCK_MS);
    uint64_t stmts[] = {prepare(sql, "note", SQL_WRITE, note_text), prepare(sql, "read", SQL_READ, "SELECT 1")};
    int64_t start = clock_now_ns();

    CHECK(sql_start(sql) == 0, "sql_start");
    for (size_t i = 0; i < 10; i++)
        submit(sql, stmts[i % 2], &calls[i]);
    settle();
    CHECK(clock_now_ns() - start > 390 * CLOCK_MS && clock_now_ns() - start < 1500 * CLOCK_MS, "the deadline was not kept");
    for (size_t i = 10; i < 20; i++)
        submit(sql, stmts[i % 2], &calls[i]);
    CHECK(n_links == 1 && links[0] == 0, "the link is not told as away");
    close_sql(sql);
    for (size_t i = 0; i < 20; i++)
        CHECK(calls[i].n_answers == 1 && calls[i].code == MUSTER_ELINK, "item %zu: %d", i, calls[i].code);
    CHECK(n_open == 0, "callbacks are missing");
}

/* A statement whose result type changes under a prepared plan is prepared anew, and nobody notices. */
static void check_replan(void)
{
    struct sql *sql = open_sql(1, 100, 0);
    uint64_t read = prepare(sql, "shape", SQL_READ, "SELECT * FROM shape"), write = prepare(sql, "shape2", SQL_WRITE, "SELECT * FROM shape");
    uint64_t alter = prepare(sql, "alter", SQL_WRITE, "ALTER TABLE shape ADD COLUMN more int");
    struct call calls[] = {{.key = "r"}, {.key = "w"}, {.key = "alter"}, {.key = "r"}, {.key = "w"}, {.key = "w2"}};
    uint64_t stmts[] = {read, write, alter, read, write, write};

    for (size_t i = 0; i < 6; i++) {
        submit(sql, stmts[i], &calls[i]);
        if (i != 4)
            settle();
        CHECK(i == 4 || calls[i].code == 0, "%zu: %s %s", i, calls[i].sqlstate, calls[i].error);
    }
    CHECK(calls[4].code == 0, "%s", calls[4].error);
    close_sql(sql);
}

static double rate_of(unsigned int pool, size_t n, size_t window)
{
    struct sql *sql = open_sql(pool, window, 60 * CLOCK_S);
    uint64_t stmt = prepare(sql, "note", SQL_WRITE, note_text);
    struct names *names;
    struct call *calls = calls_new(n, 200, &names);
    struct sql_stats stats;
    int64_t start;

    ask(sql, "SELECT 1"); /* connected */
    start = clock_now_ns();
    for (size_t i = 0; i < n; i++) {
        submit(sql, stmt, &calls[i]);
        while (n_open >= window)
            uv_run(&loop, UV_RUN_ONCE);
    }
    settle();

    double seconds = (double)(clock_now_ns() - start) / 1e9;

    sql_stats(sql, &stats);
    CHECK(stats.failures == 0, "%zu failures", (size_t)stats.failures);
    printf("pool %u, %zu at once: %.0f items/s, mean batch %.1f\n", pool, window, (double)n / seconds,
           (double)stats.batch_items / (double)stats.batches);
    free(calls);
    free(names);
    close_sql(sql);
    n_links = 0;
    return (double)n / seconds;
}

/* Group commit against one statement at a time in its own transaction, on the same server. */
static void check_bench(void)
{
    double single = rate_of(1, 2000, 1), grouped = rate_of(2, 20000, 1000);

    rate_of(4, 20000, 1000);
    printf("group commit %.1f times single statements\n", grouped / single);
    CHECK(grouped > 2 * single, "group commit is not faster");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } checks[] = {{"writes", check_writes}, {"guilty", check_guilty},   {"leak", check_leak},     {"walls", check_walls},
                  {"kill", check_kill},
                  {"kill_plain", check_kill_plain},
                  {"full", check_full},     {"turns", check_turns},     {"beside", check_beside}, {"share", check_share}, {"restart", check_restart}, {"replan", check_replan}, {"away", check_away},
                  {"stall", check_stall},   {"slow", check_slow},     {"hosts", check_hosts},
                  {"new", check_new},       {"bench", check_bench}};

    if (argc != 3) {
        fprintf(stderr, "usage: sqlsvc_check CHECK DSN\n");
        return 2;
    }
    dsn = argv[2];
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        if (strcmp(checks[i].name, argv[1]) != 0)
            continue;
        uv_loop_init(&loop);
        checks[i].run();
        CHECK(uv_loop_close(&loop) == 0, "handles were left open");
        return 0;
    }
    fprintf(stderr, "sqlsvc_check: no check %s\n", argv[1]);
    return 2;
}
