/*
 * muster agents - who is present, as the plugin presence says it.
 *
 * Each tenant is asked for itself, one after the other, and a list in pages; what is printed is written when all of a page is there.
 * `watch` is muster watch of the events of presence.
 */
#include "cli/agents.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/body.h"
#include "cli/cells.h"
#include "cli/cli.h"
#include "cli/database.h"
#include "cli/service.h"
#include "cli/watch.h"
#include "wire/writer.h"

static const char command[] = "agents";
static const int64_t login_ns = 5 * CLOCK_S;

struct agents {
    const struct cli *cli;
    struct agents_args args;
    struct session *session;
    struct buf out;
    size_t n_shown;
};

/* ---- output ---- */

static int flush(struct agents *a)
{
    if (buf_failed(&a->out))
        return cli_fail(CLI_FAILED, command, "no memory for what is to be shown");
    if (a->out.len && fwrite(a->out.data, 1, a->out.len, stdout) != a->out.len)
        return cli_fail(CLI_FAILED, command, "the output could not be written");
    buf_clear(&a->out);
    return CLI_DONE;
}

/* One element of the array that --json prints. */
static void put_json(struct agents *a, const struct muster_value *v)
{
    struct muster_writer w;

    buf_puts(&a->out, a->n_shown ? ",\n " : "");
    writer_init(&w, MUSTER_JSON, &a->out);
    writer_value(&w, v);
}

static void begin(struct agents *a)
{
    if (a->args.json)
        buf_putc(&a->out, '[');
    else if (a->args.verb == AGENTS_LIST)
        agents_put_head(&a->out);
}

/* ---- of one tenant ---- */

static int ask(struct agents *a, const char *tenant, const char *verb, const char *after, struct muster_value **ret_doc)
{
    struct buf body = {0};
    const struct service_question q = {.command = command,
                                       .tenant = tenant,
                                       .plugin = "presence",
                                       .service = "presence",
                                       .verb = verb,
                                       .body = &body,
                                       .may_miss = a->args.verb == AGENTS_SHOW};
    int code = agents_question(&a->args, after, &body);

    if (code == CLI_DONE)
        code = service_ask(a->session, a->cli->config, &q, ret_doc);
    buf_done(&body);
    return code;
}

static void show_page(struct agents *a, const struct muster_value *agents)
{
    const struct muster_value *agent;

    for (size_t i = 0; (agent = agents ? value_at(agents, i) : NULL); i++, a->n_shown++) {
        if (a->args.json)
            put_json(a, agent);
        else
            agents_put_row(&a->out, agent);
    }
}

static int list_tenant(struct agents *a, const char *tenant)
{
    struct muster_value *page = NULL;
    int code = ask(a, tenant, "list", NULL, &page);

    while (code == CLI_DONE) {
        struct muster_value *last = page;
        const char *next = body_text(last, "next");

        show_page(a, body_get(last, "agents"));
        code = flush(a);
        if (code == CLI_DONE && next)
            code = ask(a, tenant, "list", next, &page);
        value_free(last);
        if (!next)
            break;
    }
    return code;
}

static int show_in_tenant(struct agents *a, const char *tenant)
{
    struct muster_value *agent = NULL;
    int code = ask(a, tenant, "get", NULL, &agent);

    if (code != CLI_DONE || !agent)
        return code;
    if (a->args.json) {
        put_json(a, agent);
    } else {
        buf_puts(&a->out, a->n_shown ? "\n" : "");
        cells_put_all(&a->out, agent);
    }
    a->n_shown++;
    value_free(agent);
    return flush(a);
}

/* {"tenant": …, "count": …, "by_status": {…}} */
static void put_json_count(struct agents *a, const char *tenant, const struct muster_value *answer)
{
    const struct muster_value *count = body_get(answer, "count"), *by = body_get(answer, "by_status");
    struct muster_writer w;

    buf_puts(&a->out, a->n_shown ? ",\n " : "");
    writer_init(&w, MUSTER_JSON, &a->out);
    writer_map(&w, (size_t)1 + !!count + !!by);
    writer_text(&w, "tenant");
    writer_text(&w, tenant);
    if (count) {
        writer_text(&w, "count");
        writer_value(&w, count);
    }
    if (by) {
        writer_text(&w, "by_status");
        writer_value(&w, by);
    }
}

static int count_tenant(struct agents *a, const char *tenant)
{
    struct muster_value *answer = NULL;
    int code = ask(a, tenant, "count", NULL, &answer);

    if (code != CLI_DONE)
        return code;
    if (a->args.json)
        put_json_count(a, tenant, answer);
    else
        agents_put_count(&a->out, tenant, answer);
    a->n_shown++;
    value_free(answer);
    return flush(a);
}

static int ask_tenant(struct agents *a, const char *tenant)
{
    switch (a->args.verb) {
    case AGENTS_SHOW:
        return show_in_tenant(a, tenant);
    case AGENTS_COUNT:
        return count_tenant(a, tenant);
    default:
        return list_tenant(a, tenant);
    }
}

/* ---- of all ---- */

static int find_tenants(struct agents *a, struct sql_rows **ret_rows)
{
    struct sql_admin *admin = NULL;
    int code = database_open(a->cli, command, &admin);

    if (code == CLI_DONE && a->args.tenant)
        code = database_known_tenant(admin, command, a->args.tenant);
    if (code == CLI_DONE) {
        int err = sql_admin_exec(admin, "SELECT name FROM muster.tenants WHERE $1::text IS NULL OR name = $1 ORDER BY name", 1,
                                 &a->args.tenant, ret_rows);

        code = err ? database_fail(admin, command, err) : CLI_DONE;
    }
    sql_admin_close(admin);
    return code;
}

static int end(struct agents *a)
{
    if (a->args.verb == AGENTS_SHOW && !a->n_shown)
        return cli_fail(CLI_FAILED, command, "no agent %s is present%s%s", a->args.name, a->args.tenant ? " in tenant " : "",
                        a->args.tenant ? a->args.tenant : "");
    if (a->args.json)
        buf_puts(&a->out, "]\n");
    return flush(a);
}

static int run(struct agents *a)
{
    char answers[SERVICE_SUBJECT_SIZE], why[SESSION_WHY_SIZE];
    const struct session_options options = {.config = a->cli->config, .name = command, .answers = answers};
    struct sql_rows *rows = NULL;
    int code = find_tenants(a, &rows);

    service_answers(a->cli->config, answers);
    if (code == CLI_DONE && (session_open(&options, &a->session, why) != CLI_DONE || session_wait(a->session, login_ns, why) != CLI_DONE))
        code = cli_fail(CLI_FAILED, command, "NATS: %s; see muster doctor", why);
    if (code == CLI_DONE)
        begin(a);
    for (int i = 0; code == CLI_DONE && i < sql_rows_count(rows); i++)
        code = ask_tenant(a, sql_rows_get(rows, i, 0));
    if (code == CLI_DONE)
        code = end(a);
    session_close(a->session); /* before answers goes */
    sql_rows_free(rows);
    return code;
}

int cmd_agents(const struct cli *cli, int argc, char **argv)
{
    struct agents a = {.cli = cli};
    int code;

    if (argc > 1 && strcmp(argv[1], "watch") == 0)
        return watch_service(cli, command, "presence", argc - 1, argv + 1);
    code = agents_parse(argc, argv, &a.args);
    if (code == CLI_DONE)
        code = run(&a);
    buf_done(&a.out);
    return code;
}
