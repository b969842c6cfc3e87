/*
 * What agents are told of their tasks: task_complete, task_cancel, task_input. It comes from the events, of which the brokers share out the hearing,
 * so it is told whoever made the change, a verb, a deadline or plain SQL, and when no broker that took the request is left.
 */
#include <stdlib.h>
#include <string.h>

#include "common/metric_list.h"
#include "common/work/ask.h"
#include "common/work/notice.h"
#include "tasks/tasks.h"

static const char result_sql[] = "SELECT result::text, assigned_to, assigned_by FROM public.agent_tasks"
                                 " WHERE tenant_id = $1 AND task_id = $2 AND status || '' = 'succeeded'";

enum { EVENTS_MAX = 65536, EVENTS_BYTES = 64 << 20, RESULT_MAX = 990000 };

static int tell(struct tasks *t, const struct muster_tenant *tenant, const char *agent, const char *type, const char *reply, const struct buf *json)
{
    int err = notice_send(&t->work, tenant, agent, type, reply, json);

    if (!err)
        t->work.metrics->add(t->work.host, t->m_told, type, 1);
    return err;
}

static void put_text(struct buf *b, const char *key, const char *text)
{
    buf_printf(b, "\"%s\":", key);
    if (text)
        buf_put_json(b, text, strlen(text));
    else
        buf_put_lit(b, "null");
}

/* ---- task_complete ------------------------------------------------------------------------------------------------------ */

static int tell_both(struct tasks *t, const struct muster_tenant *tenant, const char *by, const char *to, const struct buf *json)
{
    int err = to && (!by || strcmp(to, by) != 0) ? tell(t, tenant, to, "task_complete", NULL, json) : 0;

    return err || !by ? err : tell(t, tenant, by, "task_complete", NULL, json);
}

/* One whose result is too long for an event: it is read, and told when there is room for it. */
struct long_result {
    struct tasks *t;
    const struct muster_tenant *tenant;
    struct long_result *next;
    unsigned int tries;
    struct buf json;
    char *by, *to;
    char task_id[];
};

enum { LONG_MAX = 64, TRIES_MAX = 20 };

static void long_free(struct long_result *l)
{
    buf_done(&l->json);
    free(l->by);
    free(l->to);
    free(l);
}

static void untold(struct tasks *t)
{
    t->work.metrics->add(t->work.host, t->m_untold, NULL, 1);
}

/* Told, or given up; false: it waits for room. */
static bool tell_long(struct long_result *l)
{
    int err = tell_both(l->t, l->tenant, l->by, l->to, &l->json);

    if (err == MUSTER_EAGAIN)
        return false;
    if (err)
        untold(l->t);
    long_free(l);
    return true;
}

static void wait_for_room(struct long_result *l)
{
    struct tasks *t = l->t;

    if (t->n_long == LONG_MAX) {
        untold(t);
        long_free(l);
        return;
    }
    l->next = t->longs;
    t->longs = l;
    t->n_long++;
}

void notices_writable(struct tasks *t)
{
    struct long_result *l = t->longs, *next;

    t->longs = NULL;
    t->n_long = 0;
    for (; l; l = next) {
        next = l->next;
        if (!tell_long(l))
            wait_for_room(l);
    }
}

static void free_all(struct long_result *l)
{
    for (struct long_result *next; l; l = next) {
        next = l->next;
        long_free(l);
    }
}

void notices_destroy(struct tasks *t)
{
    free_all(t->longs);
    free_all(t->unseen);
}

static char *copy(const char *text)
{
    return text ? strdup(text) : NULL;
}

static void write_long(struct long_result *l, const struct muster_sql_result *r)
{
    const char *result = r->get(r, 0, 0);

    l->by = copy(r->get(r, 0, 1));
    l->to = copy(r->get(r, 0, 2));
    buf_putc(&l->json, '{');
    put_text(&l->json, "task_id", l->task_id);
    buf_printf(&l->json, ",\"result\":%s,", result && strlen(result) < RESULT_MAX ? result : "null");
    put_text(&l->json, "completed_by", l->by);
    buf_putc(&l->json, '}');
}

/* The event may be heard before others see its transaction. */
static bool look_again(struct long_result *l)
{
    if (++l->tries > TRIES_MAX)
        return false;
    l->next = l->t->unseen;
    l->t->unseen = l;
    return true;
}

static void on_result(void *arg, const struct muster_sql_result *r)
{
    struct long_result *l = arg;

    if (!r->code && !r->n_rows && look_again(l))
        return;
    if (r->code || !r->n_rows) {
        untold(l->t);
        long_free(l);
        return;
    }
    write_long(l, r);
    if (!tell_long(l))
        wait_for_room(l);
}

static int read_long(struct long_result *l)
{
    struct work *w = &l->t->work;

    return w->sql->exec(w->host, l->t->result, l->tenant, NULL, 2, (struct muster_bytes[]){ask_param(w->tenants->name(l->tenant)), ask_param(l->task_id)},
                        on_result, l);
}

void notices_tick(struct tasks *t)
{
    struct long_result *l = t->unseen;

    t->unseen = NULL;
    for (struct long_result *next; l; l = next) {
        next = l->next;
        if (read_long(l) == 0)
            continue;
        untold(t);
        long_free(l);
    }
}

static int read_result(struct tasks *t, const struct muster_tenant *tenant, const char *task_id)
{
    struct long_result *l = calloc(1, sizeof *l + strlen(task_id) + 1);
    int err;

    if (!l)
        return MUSTER_ENOMEM;
    l->t = t;
    l->tenant = tenant;
    memcpy(l->task_id, task_id, strlen(task_id));
    err = read_long(l);
    if (err)
        long_free(l);
    return err;
}

static int on_succeeded(struct tasks *t, const struct muster_msg *msg, const struct muster_value *event)
{
    const char *by = text_in(event, "assigned_to");
    struct buf json = {0};
    int err;

    if (value_get(event, "omitted"))
        return read_result(t, msg->tenant, text_in(event, "task_id"));
    buf_putc(&json, '{');
    put_text(&json, "task_id", text_in(event, "task_id"));
    buf_put_lit(&json, ",\"result\":");
    notice_put_value(&json, value_get(event, "result"));
    buf_putc(&json, ',');
    put_text(&json, "completed_by", by);
    buf_putc(&json, '}');
    err = tell_both(t, msg->tenant, by, text_in(event, "assigned_by"), &json);
    buf_done(&json);
    return err;
}

/* ---- task_cancel -------------------------------------------------------------------------------------------------------- */

static bool is_one_of(const char *word, const char *const *words)
{
    for (; word && *words; words++)
        if (strcmp(word, *words) == 0)
            return true;
    return false;
}

static int tell_stop(struct tasks *t, const struct muster_msg *msg, const struct muster_value *event, uint64_t epoch)
{
    const char *holder = text_in(event, "assigned_to"), *task_id = text_in(event, "task_id");
    struct buf json = {0}, reply = {0};
    int err;

    if (!holder)
        return 0;
    buf_putc(&json, '{');
    put_text(&json, "task_id", task_id);
    buf_printf(&json, ",\"epoch\":%llu,", (unsigned long long)epoch);
    put_text(&json, "reason", text_in(event, "reason"));
    buf_putc(&json, '}');
    buf_printf(&reply, "rpc.%s.task.cancelled.", holder);
    notice_ref(&reply, task_id, epoch);
    err = buf_failed(&reply) ? MUSTER_ENOMEM : tell(t, msg->tenant, holder, "task_cancel", reply.data, &json);
    buf_done(&json);
    buf_done(&reply);
    return err;
}

static uint64_t epoch_of(const struct muster_value *event)
{
    const struct muster_value *v = value_get(event, "epoch");

    return v ? (uint64_t)value_int(v) : 0;
}

static int on_cancelling(struct tasks *t, const struct muster_msg *msg, const struct muster_value *event)
{
    return tell_stop(t, msg, event, epoch_of(event));
}

/* Who was told to stop before is not told that he has. */
static int on_cancelled(struct tasks *t, const struct muster_msg *msg, const struct muster_value *event)
{
    static const char *const held[] = {"offered", "input_required", NULL};

    return is_one_of(text_in(event, "from"), held) ? tell_stop(t, msg, event, epoch_of(event)) : 0;
}

/* The epoch is another's already. */
static int on_expired(struct tasks *t, const struct muster_msg *msg, const struct muster_value *event)
{
    static const char *const held[] = {"offered", "running", "input_required", "cancelling", NULL};

    return is_one_of(text_in(event, "from"), held) ? tell_stop(t, msg, event, epoch_of(event) - 1) : 0;
}

/* ---- task_input --------------------------------------------------------------------------------------------------------- */

/* What is too long for the event is left to `get`. */
static int tell_input(struct tasks *t, const struct muster_msg *msg, const char *holder, const char *task_id, uint64_t epoch,
                      const struct muster_value *event)
{
    const struct muster_value *input = value_get(event, "input");
    struct buf json = {0}, reply = {0};
    int err;

    buf_putc(&json, '{');
    put_text(&json, "task_id", task_id);
    buf_printf(&json, ",\"epoch\":%llu,\"input\":", (unsigned long long)epoch);
    notice_put_value(&json, input);
    buf_puts(&json, !input && value_get(event, "omitted") ? ",\"omitted\":[\"input\"]}" : "}");
    buf_printf(&reply, "rpc.%s.task.accept.", holder);
    notice_ref(&reply, task_id, epoch);
    err = buf_failed(&reply) ? MUSTER_ENOMEM : tell(t, msg->tenant, holder, "task_input", reply.data, &json);
    buf_done(&json);
    buf_done(&reply);
    return err;
}

static int on_running(struct tasks *t, const struct muster_msg *msg, const struct muster_value *event)
{
    const char *from = text_in(event, "from"), *holder = text_in(event, "assigned_to");

    if (!from || strcmp(from, "input_required") != 0 || !holder)
        return 0;
    return tell_input(t, msg, holder, text_in(event, "task_id"), epoch_of(event), event);
}

/* ---- the events --------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *subject, *needs; /* needs: what the event has in it where somebody is told; NULL: always */
    int (*tell)(struct tasks *t, const struct muster_msg *msg, const struct muster_value *event);
} kinds[] = {
    {"evt.task.succeeded.*", NULL, on_succeeded}, {"evt.task.cancelling.*", NULL, on_cancelling}, {"evt.task.cancelled.*", NULL, on_cancelled},
    {"evt.task.expired.*", NULL, on_expired},     {"evt.task.running.*", "input_required", on_running},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static int hear(struct tasks *t, const struct muster_msg *msg, size_t kind)
{
    struct muster_value *event;
    struct wire_error error;
    int err;

    if (kinds[kind].needs && !memmem(msg->payload.data, msg->payload.len, kinds[kind].needs, strlen(kinds[kind].needs)))
        return 0;
    err = value_decode(msg->encoding, msg->payload, &event, &error);
    if (err)
        return err;
    err = text_in(event, "task_id") ? kinds[kind].tell(t, msg, event) : MUSTER_EINVAL;
    value_free(event);
    return err;
}

static int on_event(void *self, const struct muster_msg *msg)
{
    for (size_t i = 0; i < KINDS; i++)
        if (strncmp(msg->subject, kinds[i].subject, strlen(kinds[i].subject) - 1) == 0)
            return hear(self, msg, i);
    return 0;
}

int notices_create(struct tasks *t)
{
    const struct wanted_metric wanted[] = {
        {MUSTER_COUNTER, "told_total", "What agents were told of their tasks.", "type", &t->m_told},
        {MUSTER_COUNTER, "untold_total", "Results too long for an event that could not be told.", NULL, &t->m_untold},
    };
    int err = metric_list_make(t->work.host, t->work.metrics, wanted, sizeof wanted / sizeof *wanted);

    return err ? err : t->work.sql->prepare(t->work.host, "task_result", MUSTER_SQL_READ, result_sql, &t->result);
}

int notices_start(struct tasks *t)
{
    int err = 0;

    for (size_t i = 0; i < KINDS && !err; i++) {
        const struct muster_subscription sub = {.size = sizeof sub, .subject = kinds[i].subject, .queue = 1, .overflow = MUSTER_OVERFLOW_DROP_NEW,
                                                .max_msgs = EVENTS_MAX, .max_bytes = EVENTS_BYTES, .fn = on_event};
        uint64_t id;

        err = t->work.bus->subscribe(t->work.host, &sub, &id);
    }
    return err;
}
