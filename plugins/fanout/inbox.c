/* The stream MAIL, the verbs send and ack; see inbox.h. */
#include "fanout/inbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "common/peers.h"
#include "fanout/cast.h"
#include "fanout/history.h"

static const int64_t retry_ns = CLOCK_S;
/* With the role of $2, where there is one. */
static const char receivers_sql[] =
    "SELECT r, (SELECT c.role FROM muster.credentials AS c WHERE c.tenant = $1 AND c.agent = $2) FROM muster.message_receivers($1, $2, $3) AS r";
/* The names stand in one parameter: they are names, so a comma is in none. */
static const char cursors_sql[] =
    "SELECT c.agent, i.epoch, i.acked, extract(epoch FROM c.created_at)::bigint FROM muster.credentials AS c"
    " LEFT JOIN muster.inboxes AS i ON i.tenant = c.tenant AND i.agent = c.agent"
    " WHERE c.tenant = $1 AND c.agent = ANY (string_to_array($2, ','))";

/* ---- the stream --------------------------------------------------------------------------------------------------------- */

/* It is opened again, and said anew once it is open. */
static void not_open(struct fanout *f, int code)
{
    struct inbox *in = f->inbox;

    f->stream->close(f->host, in->stream);
    in->stream = 0;
    in->retry_ns = f->timer->now(f->host) + retry_ns;
    f->ready = false;
    if (code == MUSTER_EAGAIN)
        f->host->health(f->host, MUSTER_HEALTH_DOWN, PEERS_FEW, PEERS_FEW_TEXT, "MAIL", (long long)f->config->replicas);
    else if (code != MUSTER_ELINK && code != MUSTER_ETIME)
        f->host->health(f->host, MUSTER_HEALTH_DOWN, code == MUSTER_EEXIST ? "mail_differs" : "mail_missing",
                        "the stream MAIL could not be opened (error %d)", code);
}

static void on_open(void *arg, int code, const struct muster_stream_info *info)
{
    struct fanout *f = arg;
    struct inbox *in = f->inbox;

    in->asked = false;
    if (code) {
        not_open(f, code);
        return;
    }
    in->open = true;
    in->epoch = (uint64_t)(info->created_wall_ns / 1000);
    in->last_seq = info->last_seq;
    fanout_look_ready(f);
    inbox_resume(f);
}

static void open_mail(struct fanout *f)
{
    const struct fanout_config *c = f->config;
    const struct muster_stream_options options = {.size = sizeof options,
                                                  .replicas = (uint32_t)c->replicas,
                                                  .name = "MAIL",
                                                  .subjects = "msg.*",
                                                  .max_age_ns = c->retention_ns,
                                                  .max_bytes = c->max_bytes,
                                                  .max_msgs_per_subject = INBOX_MAX_MSGS};
    struct inbox *in = f->inbox;

    if (in->open || in->asked || !f->link_up || f->draining || f->timer->now(f->host) < in->retry_ns)
        return;
    in->asked = f->stream->open(f->host, &options, on_open, f, &in->stream) == 0; /* if not, the next tick tries again */
}

void inbox_reopen(struct fanout *f)
{
    struct inbox *in = f->inbox;

    if (!in->open)
        return;
    f->stream->close(f->host, in->stream);
    in->stream = 0;
    in->open = false;
}

/* ---- ack ---------------------------------------------------------------------------------------------------------------- */

static void on_acked(void *arg, const struct muster_sql_result *result)
{
    ask_reply_outcome(arg, result);
}

static void move_cursor(struct ask *a)
{
    char args[96];
    int err;

    (void)snprintf(args, sizeof args, "{\"epoch\":%llu,\"seq\":%lld}", (unsigned long long)a->f->inbox->epoch,
                   (long long)ask_int(a, "seq", 0));
    err = ask_once(a, "message_ack", args, on_acked, a);
    if (err)
        ask_failed(a, err, "the cursor could not be moved");
}

static void on_last_known(void *arg, int code, const struct muster_stream_info *info)
{
    struct ask *a = arg;
    struct inbox *in = a->f->inbox;

    if (!code && info->last_seq > in->last_seq)
        in->last_seq = info->last_seq;
    if (code)
        ask_failed(a, code, "the stream of the inboxes could not be asked");
    else if ((uint64_t)ask_int(a, "seq", 0) > in->last_seq)
        ask_error(a, "invalid_argument", "seq", "seq: %lld came, at most %llu was expected, which is the newest",
                  (long long)ask_int(a, "seq", 0), (unsigned long long)in->last_seq);
    else
        move_cursor(a);
}

/* What lies in the future would be lost: it must be a sequence that the stream has given already. */
static void ack(struct ask *a)
{
    struct fanout *f = a->f;
    int err = 0;

    if (ask_is_foreign(a))
        ask_error(a, "failed_precondition", NULL, "only names of this tenant have an inbox");
    else if (!f->inbox->open)
        ask_failed(a, MUSTER_ELINK, "the stream of the inboxes is away");
    else if ((uint64_t)ask_int(a, "seq", 0) <= f->inbox->last_seq)
        move_cursor(a);
    else
        err = f->stream->info(f->host, f->inbox->stream, on_last_known, a);
    if (err)
        ask_failed(a, err, "the stream of the inboxes could not be asked");
}

/* ---- the part ----------------------------------------------------------------------------------------------------------- */

int payload_write(const struct ask *a, struct buf *out)
{
    const struct muster_value *payload = value_get(a->args, "payload");
    struct muster_writer w;
    size_t len;

    if (a->msg->encoding == MUSTER_MSGPACK && value_type(payload) == MUSTER_BIN) {
        const char *bytes = value_str(payload, &len);

        buf_put(out, bytes, len);
        return buf_failed(out) ? MUSTER_ENOMEM : 0;
    }
    writer_init(&w, a->msg->encoding, out);
    writer_value(&w, payload);
    return writer_finish(&w, NULL);
}

static int on_request(void *self, const struct muster_msg *msg)
{
    static const struct {
        const char *verb;
        void (*fn)(struct ask *a);
    } verbs[] = {{"send", inbox_send}, {"ack", ack}, {"history", history_read}, {"cast", cast_send}};
    struct ask *a;
    int err = ask_new(self, msg, &a);

    if (err)
        return err;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(msg->verb, verbs[i].verb) == 0) {
            verbs[i].fn(a);
            return 0;
        }
    ask_error(a, "invalid_argument", NULL, "message.receipt is where respond() to a cast goes, and is asked by nobody");
    return 0;
}

static int inbox_create(struct fanout *f)
{
    struct inbox *in = calloc(1, sizeof *in);
    int err;

    if (!in)
        return f->host->fail(f->host, MUSTER_ENOMEM, "no memory for an instance");
    f->inbox = in;
    err = f->sql->prepare(f->host, "message_receivers", MUSTER_SQL_READ, receivers_sql, &in->receivers);
    if (!err)
        err = f->sql->prepare(f->host, "message_cursors", MUSTER_SQL_READ, cursors_sql, &in->cursors);
    if (!err)
        err = f->metrics->make(f->host, MUSTER_COUNTER, "stored_total", "Messages that inboxes have.", NULL, &in->m_stored);
    if (!err)
        err = f->metrics->make(f->host, MUSTER_COUNTER, "not_stored_total", "Messages that could not be stored in an inbox.", NULL, &in->m_failed);
    return err ? err : f->metrics->make(f->host, MUSTER_GAUGE, "under_way", "Messages on their way into inboxes.", NULL, &in->m_under_way);
}

static int inbox_start(struct fanout *f)
{
    const struct muster_subscription sub = {
        .size = sizeof sub, .subject = "rpc.*.message.*", .queue = 1, .max_msgs = 16384, .max_bytes = 32 << 20, .fn = on_request};
    uint64_t id;

    return f->bus->subscribe(f->host, &sub, &id);
}

static void inbox_on_link(struct fanout *f, bool up)
{
    f->inbox->retry_ns = 0;
    if (up)
        open_mail(f);
    else
        inbox_reopen(f);
}

static void inbox_tick(struct fanout *f, int64_t now_ns)
{
    (void)now_ns;
    open_mail(f);
    inbox_resume(f);
}

static void inbox_destroy(struct fanout *f)
{
    if (f->inbox) {
        inbox_drop_stalled(f);
        map_done(&f->inbox->lines);
    }
    free(f->inbox);
    f->inbox = NULL;
}

static bool inbox_is_ready(struct fanout *f)
{
    return f->inbox->open;
}

const struct fanout_part inbox_part = {.create = inbox_create,
                                       .start = inbox_start,
                                       .destroy = inbox_destroy,
                                       .on_link = inbox_on_link,
                                       .on_writable = inbox_resume,
                                       .tick = inbox_tick,
                                       .is_ready = inbox_is_ready};
