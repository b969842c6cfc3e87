/* The verbs of the service task. What they mean is the database's (schemas/sql/016_tasks.sql). */
#include <stdio.h>
#include <string.h>

#include "common/work/ask.h"
#include "common/work/notice.h"
#include "tasks/tasks.h"

/* ---- after -------------------------------------------------------------------------------------------------------------- */

static void done(struct ask *a, const char *ok, size_t len, const struct muster_value *more)
{
    struct tasks *t = (struct tasks *)a->w;

    if (value_get(more, "settle"))
        sweeps_settle(t);
    router_done(t, a, ok, len, more);
}

const struct work_verb task_verbs[] = {
    {"submit", "task_submit", 0, NULL, router_submits, done},
    {"submit_many", "task_submit_many", 0, NULL, NULL, done},
    {"accept", "task_accept", 0, "task_id", NULL, done},
    {"decline", "task_decline", 0, "task_id", NULL, done},
    {"progress", "task_progress", 0, "task_id", NULL, NULL},
    {"complete", "task_complete", 0, "task_id", NULL, done},
    {"fail", "task_fail", 0, "task_id", NULL, done},
    {"need_input", "task_need_input", 0, "task_id", NULL, done},
    {"provide_input", "task_provide_input", WORK_ROLE, "task_id", NULL, done},
    {"cancel", "task_cancel", WORK_ROLE, "task_id", NULL, done},
    {"cancelled", "task_cancelled", 0, "task_id", NULL, done},
    {"retry", "task_retry", WORK_ROLE, "task_id", NULL, done},
    {"pause", "task_pause", 0, NULL, NULL, done},
    {"resume", "task_resume", 0, NULL, NULL, done},
    {"get", "task_get", WORK_READS, NULL, NULL, NULL},
    {"list", "task_list", WORK_READS | WORK_PAGED, NULL, NULL, NULL},
    {"history", "task_history", WORK_READS | WORK_PAGED, NULL, NULL, NULL},
    {"stats", "task_stats", WORK_READS, NULL, stats_look, NULL},
    {"pull", NULL, 0, NULL, pull_look, NULL},
};
const size_t n_task_verbs = sizeof task_verbs / sizeof *task_verbs;

/* ---- what respond() says ------------------------------------------------------------------------------------------------ */

/* Any body accepts; {"decline": true} does not. */
static const char *read_body(const struct muster_msg *msg, struct buf *args)
{
    struct muster_value *body = notice_body(msg);
    bool declines = notice_says(body, "decline", true);

    if (declines)
        notice_put_reason(body, args);
    value_free(body);
    return declines ? "decline" : "accept";
}

/* verb NULL: accept or decline, as the body says. */
static int on_respond(struct tasks *t, const struct muster_msg *msg, const char *verb)
{
    struct buf id = {0}, args = {0};
    uint64_t epoch;
    int err = 0;

    if (!notice_read_ref(msg->subject, &id, &epoch)) {
        err = msg->request ? t->work.bus->reply_error(t->work.host, msg->request, "invalid_argument", NULL,
                                                      "ref: the end of a reply subject that came with a message was expected")
                           : 0;
    } else {
        buf_put_lit(&args, "{\"task_id\":");
        buf_put_json(&args, id.data, id.len);
        buf_printf(&args, ",\"epoch\":%llu", (unsigned long long)epoch);
        if (!verb)
            verb = read_body(msg, &args);
        buf_putc(&args, '}');
        err = buf_failed(&args) ? MUSTER_ENOMEM : work_answer(&t->work, msg, verb, args.data);
    }
    buf_done(&id);
    buf_done(&args);
    return err;
}

static int on_accept(void *self, const struct muster_msg *msg)
{
    return on_respond(self, msg, NULL);
}

static int on_cancelled(void *self, const struct muster_msg *msg)
{
    return on_respond(self, msg, "cancelled");
}

int verbs_start(struct tasks *t)
{
    struct muster_subscription sub = {.size = sizeof sub, .queue = 1, .overflow = MUSTER_OVERFLOW_REJECT, .max_msgs = 16384, .max_bytes = 16 << 20};
    uint64_t id;
    int err;

    sub.subject = "rpc.*.task.accept.*";
    sub.fn = on_accept;
    err = t->work.bus->subscribe(t->work.host, &sub, &id);
    if (err)
        return err;
    sub.subject = "rpc.*.task.cancelled.*";
    sub.fn = on_cancelled;
    return t->work.bus->subscribe(t->work.host, &sub, &id);
}
