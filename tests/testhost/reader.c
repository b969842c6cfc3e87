/*
 * reader - a plugin that reads streams: it keeps one of its own, heard elsewhere than it is stored, and follows one of others. What it is told
 * stands in its log. "all.<agent>.do" has it do something: "append <subject>", "follow <from>", "some <from>", "hold <0|1>", "unfollow".
 */
#include <muster/plugin.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_stream *stream;
    const struct muster_timer *timer;
    uint64_t own, others, follow;
};

static void on_told(void *arg, int code, const struct muster_msg *msg)
{
    const struct reader *r = arg;

    if (msg)
        r->host->log(r->host, MUSTER_LOG_INFO, "told %llu %s %s", (unsigned long long)msg->seq, msg->subject, msg->stored_wall_ns > 0 ? "" : "never");
    else
        r->host->log(r->host, MUSTER_LOG_INFO, "told of %d", code);
}

static void on_info(void *arg, int code, const struct muster_stream_info *info)
{
    const struct reader *r = arg;

    r->host->log(r->host, MUSTER_LOG_INFO, "stream %d with %d", code, info ? (int)info->n_msgs : -1);
}

static void on_acked(void *arg, int code, uint64_t seq)
{
    const struct reader *r = arg;

    r->host->log(r->host, MUSTER_LOG_INFO, "acked %d %llu", code, (unsigned long long)seq);
}

static int append(struct reader *r, uint64_t stream, const struct muster_msg *msg, const char *subject)
{
    const struct muster_append a = {.size = sizeof a,
                                    .tenant = msg->tenant,
                                    .subject = subject,
                                    .payload = {"{}", 2},
                                    .expected_seq = MUSTER_UNFENCED,
                                    .acked = on_acked,
                                    .arg = r};

    return r->stream->append(r->host, stream, &a);
}

static int on_do(void *self, const struct muster_msg *msg)
{
    struct reader *r = self;
    char text[100] = "", *rest;

    memcpy(text, msg->payload.data, msg->payload.len < sizeof text ? msg->payload.len : sizeof text - 1);
    rest = strchr(text, ' ');
    rest = rest ? rest + 1 : text;
    if (strncmp(text, "append", 6) == 0)
        return append(r, r->own, msg, rest);
    if (strncmp(text, "meddle", 6) == 0)
        return append(r, r->others, msg, rest) == MUSTER_EACCES ? 0 : MUSTER_EINVAL;
    r->stream->unfollow(r->host, strncmp(text, "hold", 4) == 0 ? 0 : r->follow);
    if (strncmp(text, "hold", 4) == 0)
        r->stream->hold_back(r->host, r->follow, (uint32_t)atoi(rest));
    if (strncmp(text, "follow", 6) == 0)
        return r->stream->follow(r->host, r->others, NULL, NULL, (uint64_t)atoi(rest), 0, on_told, r, &r->follow);
    if (strncmp(text, "some", 4) == 0)
        return r->stream->follow(r->host, r->others, msg->tenant, "kept.some", (uint64_t)atoi(rest), 0, on_told, r, &r->follow);
    return 0;
}

static int on_event(void *self, const struct muster_msg *msg)
{
    const struct reader *r = self;

    for (uint32_t i = 0; i < msg->n_headers; i++)
        if (strcmp(msg->headers[i].name, "Nats-Sequence") == 0)
            r->host->log(r->host, MUSTER_LOG_INFO, "heard %s@%s", msg->subject, msg->headers[i].value);
    return 0;
}

static int reader_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct reader *r = calloc(1, sizeof *r);
    int err;

    (void)config;
    if (!r)
        return host->fail(host, MUSTER_ENOMEM, "no memory");
    r->host = host;
    err = host->service(host, MUSTER_BUS, (const void **)&r->bus);
    if (!err)
        err = host->service(host, MUSTER_STREAM, (const void **)&r->stream);
    if (err)
        free(r);
    else
        *ret_self = r;
    return err;
}

static int subscribe(struct reader *r, const char *subject, muster_msg_fn fn)
{
    const struct muster_subscription sub = {
        .size = sizeof sub, .overflow = MUSTER_OVERFLOW_DROP_NEW, .subject = subject, .max_msgs = 100, .max_bytes = 1 << 20, .fn = fn};
    uint64_t id;

    return r->bus->subscribe(r->host, &sub, &id);
}

static int reader_start(void *self)
{
    const struct muster_stream_options own = {
        .size = sizeof own, .name = "OWN", .subjects = "shelf.3.>", .republish = "evt.reader.>", .max_msgs = 3, .max_msgs_per_subject = 2};
    struct reader *r = self;
    int err = subscribe(r, "all.*.do", on_do);

    if (!err)
        err = subscribe(r, "evt.reader.>", on_event);
    if (!err)
        err = r->stream->open(r->host, &own, on_info, r, &r->own);
    if (!err)
        err = r->stream->attach(r->host, "KEPT", NULL, on_info, r, &r->others);
    return err;
}

static void reader_destroy(void *self)
{
    free(self);
}

MUSTER_PLUGIN(.name = "reader", .version = "1.0.0", .capabilities = "cross_tenant stream", .create = reader_create, .start = reader_start,
              .destroy = reader_destroy);
