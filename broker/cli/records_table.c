/* What `muster tasks`, `runs` and `help` print; see records.h. */
#include <inttypes.h>
#include <string.h>

#include "cli/body.h"
#include "cli/cells.h"
#include "cli/records.h"
#include "wire/writer.h"

const struct records_kind records_tasks = {
    .command = "tasks", .what = "task", .service = "task", .id = "task_id", .list = "tasks", .state = "state", .agent = "assigned_to",
    .cancel = "cancel", .retry = "retry",
    .columns = {{"TASK", "task_id", 36, false}, {"STATE", "state", 14, false}, {"PRIORITY", "priority", 8, false},
                {"ASSIGNED TO", "assigned_to", 20, false}, {"UPDATED (UTC)", "updated_at", 19, true}, {"DESCRIPTION", "description", 0, false}},
};

const struct records_kind records_runs = {
    .command = "runs", .what = "run", .service = "run", .id = "run_id", .list = "runs", .state = "status", .agent = "agent_name",
    .cancel = "cancel", .retry = "retry",
    .columns = {{"RUN", "run_id", 36, false}, {"STATUS", "status", 24, false}, {"AGENT", "agent_name", 20, false},
                {"TASK", "task_id", 36, false}, {"UPDATED (UTC)", "updated_at", 19, true}, {"STEP", "current_step", 0, false}},
};

const struct records_kind records_help = {
    .command = "help", .what = "request for help", .service = "help", .id = "help_id", .list = "requests", .state = "state", .agent = "asker",
    .cancel = "withdraw", .retry = "retry",
    .columns = {{"HELP", "help_id", 36, false}, {"STATE", "state", 9, false}, {"ASKER", "asker", 20, false}, {"TASK", "task_id", 36, false},
                {"UPDATED (UTC)", "updated_at", 19, true}, {"PROBLEM", "problem", 0, false}},
};

static const struct records_column history_columns[RECORDS_COLUMNS_MAX] = {
    {"AT (UTC)", "at", 19, true}, {"FROM", "from", 24, false}, {"TO", "to", 24, false}, {"VERB", "verb", 14, false},
    {"ACTOR", "actor", 20, false}, {"ROLE", "role", 8, false}, {"REASON", "reason", 0, false},
};

static const struct records_column *columns_of(const struct records_args *args)
{
    return args->verb == RECORDS_HISTORY ? history_columns : args->kind->columns;
}

/* Those behind the last column. */
static void cut_blanks(struct buf *out)
{
    while (!buf_failed(out) && out->len && ((const char *)out->data)[out->len - 1] == ' ')
        out->len--;
}

void records_put_head(struct buf *out, const struct records_args *args)
{
    const struct records_column *c = columns_of(args);

    cells_put_padded(out, "TENANT", 6, 16);
    for (; c->title; c++)
        cells_put_padded(out, c->title, strlen(c->title), c->width);
    cut_blanks(out);
    buf_putc(out, '\n');
}

void records_put_row(struct buf *out, const struct records_args *args, const char *tenant, const struct muster_value *record)
{
    cells_put_padded(out, tenant, strlen(tenant), 16);
    for (const struct records_column *c = columns_of(args); c->title; c++) {
        if (c->is_time)
            cells_put_time(out, record, c->key);
        else
            cells_put_text(out, record, c->key, c->width);
    }
    cut_blanks(out);
    buf_putc(out, '\n');
}

void records_put_json(struct buf *out, const char *tenant, const struct muster_value *record)
{
    const struct muster_value *v;
    struct muster_writer w;
    const char *key;
    size_t len;

    writer_init(&w, MUSTER_JSON, out);
    writer_map(&w, 1 + body_count(record));
    writer_text(&w, "tenant");
    writer_text(&w, tenant);
    for (size_t i = 0; (v = value_key(record, i, &key, &len)); i++) {
        writer_str(&w, key, len);
        writer_value(&w, v);
    }
}
