/*
 * muster tasks, muster runs, muster help - the records of the three services that keep them: looked at, tried again, called off.
 *
 * Each tenant is asked for itself, one after the other, and a list in pages; what is printed is written when all of a page is there.
 * `watch` is muster watch of the events of the service.
 */
#include "cli/records.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/body.h"
#include "cli/cells.h"
#include "cli/cli.h"
#include "cli/database.h"
#include "cli/service.h"
#include "cli/watch.h"

static const int64_t login_ns = 5 * CLOCK_S;

struct records {
    const struct cli *cli;
    struct records_args args;
    struct session *session;
    struct buf out;
    size_t n_shown;
};

/* ---- output ---- */

static int flush(struct records *r)
{
    if (buf_failed(&r->out))
        return cli_fail(CLI_FAILED, r->args.kind->command, "no memory for what is to be shown");
    if (r->out.len && fwrite(r->out.data, 1, r->out.len, stdout) != r->out.len)
        return cli_fail(CLI_FAILED, r->args.kind->command, "the output could not be written");
    buf_clear(&r->out);
    return CLI_DONE;
}

static bool is_table(const struct records *r)
{
    return r->args.verb == RECORDS_LIST || r->args.verb == RECORDS_HISTORY;
}

static void begin(struct records *r)
{
    if (r->args.json)
        buf_putc(&r->out, '[');
    else if (is_table(r))
        records_put_head(&r->out, &r->args);
}

static void show(struct records *r, const char *tenant, const struct muster_value *record)
{
    if (r->args.json) {
        buf_puts(&r->out, r->n_shown ? ",\n " : "");
        records_put_json(&r->out, tenant, record);
    } else if (is_table(r)) {
        records_put_row(&r->out, &r->args, tenant, record);
    } else {
        buf_puts(&r->out, r->n_shown ? "\n" : "");
        cells_put_padded(&r->out, "tenant", 6, 14);
        buf_printf(&r->out, "%s\n", tenant);
        cells_put_all(&r->out, record);
    }
    r->n_shown++;
}

/* ---- of one tenant ---- */

static const char *verb_of(const struct records_args *args)
{
    switch (args->verb) {
    case RECORDS_SHOW:
        return "get";
    case RECORDS_HISTORY:
        return "history";
    case RECORDS_RETRY:
        return args->kind->retry;
    case RECORDS_CANCEL:
        return args->kind->cancel;
    default:
        return "list";
    }
}

static int ask(struct records *r, const char *tenant, const char *after, int64_t n, struct muster_value **ret_doc)
{
    struct buf body = {0};
    const struct service_question q = {.command = r->args.kind->command,
                                       .tenant = tenant,
                                       .plugin = r->args.kind->command,
                                       .service = r->args.kind->service,
                                       .verb = verb_of(&r->args),
                                       .body = &body,
                                       .may_miss = r->args.verb != RECORDS_LIST};
    int code = records_question(&r->args, after, n, &body);

    if (code == CLI_DONE)
        code = service_ask(r->session, r->cli->config, &q, ret_doc);
    buf_done(&body);
    return code;
}

static int64_t show_page(struct records *r, const char *tenant, const struct muster_value *list, int64_t left)
{
    int64_t n = 0;

    for (const struct muster_value *record; n < left && list && (record = value_at(list, (size_t)n)); n++)
        show(r, tenant, record);
    return n;
}

/* Page by page, until the limit. */
static int list_in_tenant(struct records *r, const char *tenant)
{
    const char *member = r->args.verb == RECORDS_HISTORY ? "history" : r->args.kind->list;
    int64_t left = r->args.verb == RECORDS_LIST && r->args.limit ? r->args.limit : INT64_MAX;
    struct muster_value *page = NULL;
    int code = ask(r, tenant, NULL, left, &page);

    while (code == CLI_DONE && page) {
        struct muster_value *last = page;
        const char *next = body_text(last, "next");

        page = NULL;
        left -= show_page(r, tenant, body_get(last, member), left);
        code = flush(r);
        if (code == CLI_DONE && next && left)
            code = ask(r, tenant, next, left, &page);
        value_free(last);
    }
    return code;
}

static int ask_tenant(struct records *r, const char *tenant)
{
    struct muster_value *record = NULL;
    int code;

    if (is_table(r))
        return list_in_tenant(r, tenant);
    code = ask(r, tenant, NULL, 0, &record);
    if (code != CLI_DONE || !record)
        return code;
    show(r, tenant, record);
    value_free(record);
    return flush(r);
}

/* ---- of all ---- */

static int find_tenants(struct records *r, struct sql_rows **ret_rows)
{
    const char *command = r->args.kind->command;
    struct sql_admin *admin = NULL;
    int code = database_open(r->cli, command, &admin);

    if (code == CLI_DONE && r->args.tenant)
        code = database_known_tenant(admin, command, r->args.tenant);
    if (code == CLI_DONE) {
        int err = sql_admin_exec(admin, "SELECT name FROM muster.tenants WHERE $1::text IS NULL OR name = $1 ORDER BY name", 1,
                                 &r->args.tenant, ret_rows);

        code = err ? database_fail(admin, command, err) : CLI_DONE;
    }
    sql_admin_close(admin);
    return code;
}

/* What is written is one record of one tenant: without --tenant that of the only one which has it. */
static int find_owner(struct records *r, const struct sql_rows *rows)
{
    const struct records_kind *kind = r->args.kind;
    const enum records_verb verb = r->args.verb;
    int code = CLI_DONE;
    const char *reason = r->args.reason, *found = NULL;

    r->args.verb = RECORDS_SHOW;
    r->args.reason = NULL;
    for (int i = 0; code == CLI_DONE && i < sql_rows_count(rows); i++) {
        const char *tenant = sql_rows_get(rows, i, 0);
        struct muster_value *record = NULL;

        code = ask(r, tenant, NULL, 0, &record);
        if (record && found)
            code = cli_fail(CLI_USAGE, kind->command, "%s: --tenant was expected: %s and %s have a %s %s", records_verbs[verb], found, tenant,
                            kind->what, r->args.id);
        found = record ? tenant : found;
        value_free(record);
    }
    r->args.verb = verb;
    r->args.reason = reason;
    if (code == CLI_DONE && !found)
        return cli_fail(CLI_FAILED, kind->command, "there is no %s %s", kind->what, r->args.id);
    r->args.tenant = found;
    return code;
}

static int ask_tenants(struct records *r, const struct sql_rows *rows)
{
    int code = r->args.verb >= RECORDS_RETRY && !r->args.tenant ? find_owner(r, rows) : CLI_DONE;

    if (code == CLI_DONE)
        begin(r);
    if (code == CLI_DONE && r->args.tenant)
        return ask_tenant(r, r->args.tenant);
    for (int i = 0; code == CLI_DONE && i < sql_rows_count(rows); i++)
        code = ask_tenant(r, sql_rows_get(rows, i, 0));
    return code;
}

static int end(struct records *r)
{
    const struct records_args *a = &r->args;

    if (a->verb != RECORDS_LIST && !r->n_shown)
        return cli_fail(CLI_FAILED, a->kind->command, "there is no %s %s%s%s", a->kind->what, a->id, a->tenant ? " in tenant " : "",
                        a->tenant ? a->tenant : "");
    if (a->json)
        buf_puts(&r->out, "]\n");
    return flush(r);
}

static int run(struct records *r)
{
    char answers[SERVICE_SUBJECT_SIZE], why[SESSION_WHY_SIZE];
    const struct session_options options = {.config = r->cli->config, .name = r->args.kind->command, .answers = answers};
    struct sql_rows *rows = NULL;
    int code = find_tenants(r, &rows);

    service_answers(r->cli->config, answers);
    if (code == CLI_DONE && (session_open(&options, &r->session, why) != CLI_DONE || session_wait(r->session, login_ns, why) != CLI_DONE))
        code = cli_fail(CLI_FAILED, r->args.kind->command, "NATS: %s; see muster doctor", why);
    if (code == CLI_DONE)
        code = ask_tenants(r, rows);
    if (code == CLI_DONE)
        code = end(r);
    session_close(r->session); /* before answers goes */
    sql_rows_free(rows);
    return code;
}

static int records(const struct cli *cli, const struct records_kind *kind, int argc, char **argv)
{
    struct records r = {.cli = cli, .args.kind = kind};
    int code;

    if (argc > 1 && strcmp(argv[1], "watch") == 0)
        return watch_service(cli, kind->command, kind->service, argc - 1, argv + 1);
    code = records_parse(argc, argv, &r.args);
    if (code == CLI_DONE)
        code = run(&r);
    buf_done(&r.out);
    return code;
}

int cmd_tasks(const struct cli *cli, int argc, char **argv)
{
    return records(cli, &records_tasks, argc, argv);
}

int cmd_runs(const struct cli *cli, int argc, char **argv)
{
    return records(cli, &records_runs, argc, argv);
}

int cmd_help(const struct cli *cli, int argc, char **argv)
{
    return records(cli, &records_help, argc, argv);
}
