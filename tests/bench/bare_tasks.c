/*
 * bare_tasks - the rows that a task leaves (its own, and four of history) by raw SQL: insert, take, complete. No queue, no events, nobody is told.
 *
 * Shape    --count tasks, --window a commit: each step of so many tasks is one pipeline in one transaction, acknowledged before the next step
 *          begins. With 1 each step is one statement, which commits by itself. --source is what the names of its tasks begin with.
 * Output   "rate=N", lifecycles a second.
 */
#include <inttypes.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "common.h"

#define HISTORY "INSERT INTO muster.task_history (tenant, task_id, seq, at, from_state, to_state, epoch, holder, actor, role, verb)"
enum { N_STEPS = 3, NAME_SIZE = 64 };

/* A step is one statement: its row and the history of it. */
static const char *const steps[N_STEPS] = {
    "WITH task AS (INSERT INTO public.agent_tasks (tenant_id, id, task_id, assigned_by, description, payload, status, seq, pos)"
    " VALUES ('acme', $1, $1, 'boss', 'Resize a picture', '{\"kind\":\"resize\",\"url\":\"https://example.org/pictures/1.png\",\"w\":640,\"h\":480}', 'queued', 1,"
    " (extract(epoch FROM clock_timestamp()) * 1e6)::bigint)) " HISTORY
    " VALUES ('acme', $1, 1, clock_timestamp(), '', 'queued', 0, NULL, 'boss', 'any', 'submit')",
    "WITH task AS (UPDATE public.agent_tasks SET status = 'running', assigned_to = 'w1', session_id = 's1', epoch = epoch + 1, seq = 3, attempt = 1,"
    " started_at = clock_timestamp(), updated_at = clock_timestamp() WHERE tenant_id = 'acme' AND task_id = $1 AND status || '' = 'queued') " HISTORY
    " VALUES ('acme', $1, 2, clock_timestamp(), 'queued', 'offered', 1, 'w1', '_muster', 'engine', 'assign'),"
    " ('acme', $1, 3, clock_timestamp(), 'offered', 'running', 1, 'w1', 'w1', 'holder', 'accept')",
    "WITH task AS (UPDATE public.agent_tasks SET status = 'succeeded', result = '{\"ok\": true}', seq = 4, completed_at = clock_timestamp(),"
    " updated_at = clock_timestamp() WHERE tenant_id = 'acme' AND task_id = $1 AND status || '' = 'running' AND epoch = 1) " HISTORY
    " VALUES ('acme', $1, 4, clock_timestamp(), 'running', 'succeeded', 1, NULL, 'w1', 'holder', 'complete')"};
static const char *const step_names[N_STEPS] = {"submit", "take", "complete"};

static struct args args;
static PGconn *conn;

static void must(PGresult *r)
{
    ExecStatusType s = PQresultStatus(r);

    if (s != PGRES_COMMAND_OK && s != PGRES_TUPLES_OK && s != PGRES_PIPELINE_SYNC)
        fail("%s", PQerrorMessage(conn));
    PQclear(r);
}

static void send_step(int step, uint64_t task)
{
    char name[NAME_SIZE];
    const char *values[] = {name};

    (void)snprintf(name, sizeof name, "%s-%08" PRIu64, args.source, task);
    if (!PQsendQueryPrepared(conn, step_names[step], 1, values, NULL, NULL, 0))
        fail("%s", PQerrorMessage(conn));
}

static void say(const char *sql)
{
    if (!PQsendQueryParams(conn, sql, 0, NULL, NULL, NULL, NULL, 0))
        fail("%s", PQerrorMessage(conn));
}

/* n results, each followed by its end, and that of the sync. */
static void take_results(uint64_t n)
{
    if (!PQpipelineSync(conn))
        fail("%s", PQerrorMessage(conn));
    for (uint64_t i = 0; i < n; i++) {
        must(PQgetResult(conn));
        if (PQgetResult(conn))
            fail("more than one result");
    }
    must(PQgetResult(conn));
}

static void run_group(int step, uint64_t first, uint64_t n)
{
    if (n > 1)
        say("BEGIN");
    for (uint64_t i = 0; i < n; i++)
        send_step(step, first + i);
    if (n > 1)
        say("COMMIT");
    take_results(n > 1 ? n + 2 : 1);
}

static void open_connection(void)
{
    conn = PQconnectdb(args.dsn);
    if (PQstatus(conn) != CONNECTION_OK)
        fail("%s", PQerrorMessage(conn));
    must(PQexec(conn, "SET ROLE muster_owner"));
    must(PQexec(conn, "SELECT set_config('app.current_tenant', 'acme', false)"));
    for (int i = 0; i < N_STEPS; i++)
        must(PQprepare(conn, step_names[i], steps[i], 0, NULL));
    if (!PQenterPipelineMode(conn))
        fail("%s", PQerrorMessage(conn));
}

int main(int argc, char **argv)
{
    int64_t begin;

    args.window = 1;
    args_parse(&args, argc, argv);
    if (!args.dsn || !args.source || args.window == 0 || args.count % args.window)
        fail("expected --dsn, --source, and --count as a multiple of --window");
    open_connection();
    begin = clock_now_ns();
    for (uint64_t at = 0; at < args.count; at += args.window)
        for (int step = 0; step < N_STEPS; step++)
            run_group(step, at, args.window);
    (void)printf("rate=%.0f\n", (double)args.count / ((double)(clock_now_ns() - begin) / 1e9));
    PQfinish(conn);
    return 0;
}
