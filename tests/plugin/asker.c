/*
 * asker - a plugin that asks other plugins' services: asker.ask {subject, body?, timeout_ms?} sends a request and tells what came of it; with
 * publish, and reply?, a message that it does not wait for. asker.last {} tells the respond() that came to asker.took last;
 * asker.hears {agent, subject} what may_hear() says.
 */
#include <muster/plugin.h>
#include <stdlib.h>
#include <string.h>

struct asker {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_codec *codec;
    const struct muster_tenants *tenants;
    const struct muster_msg *took; /* held, or NULL */
};

/* A question under way, and the request that wants to know. */
struct question {
    struct asker *a;
    const struct muster_msg *msg; /* held */
};

static void put_text(struct asker *a, struct muster_writer *w, const char *key, const char *text)
{
    a->codec->put_str(w, key, strlen(key));
    if (text)
        a->codec->put_str(w, text, strlen(text));
    else
        a->codec->put_null(w);
}

static void put_answer(struct asker *a, struct muster_writer *w, int code, const struct muster_msg *msg)
{
    a->codec->put_map(w, msg ? 6 : 1);
    a->codec->put_str(w, "code", 4);
    a->codec->put_int(w, code);
    if (!msg)
        return;
    put_text(a, w, "agent", msg->agent);
    put_text(a, w, "tenant", msg->tenant ? a->tenants->name(msg->tenant) : NULL);
    put_text(a, w, "subject", msg->subject);
    a->codec->put_str(w, "headers", 7);
    a->codec->put_int(w, msg->n_headers);
    a->codec->put_str(w, "text", 4);
    a->codec->put_str(w, msg->payload.data, msg->payload.len);
}

static int tell(struct asker *a, const struct muster_msg *asked, int code, const struct muster_msg *msg)
{
    struct muster_bytes body;
    struct muster_writer *w;
    int err = a->codec->writer_new(a->host, asked->encoding, &w);

    if (err)
        return err;
    put_answer(a, w, code, msg);
    err = a->codec->bytes(w, &body);
    if (!err)
        err = a->bus->reply(a->host, asked->request, body);
    a->codec->writer_free(w);
    return err;
}

static void on_answer(void *arg, int code, const struct muster_msg *msg)
{
    struct question *q = arg;

    (void)tell(q->a, q->msg, code, msg); /* who waits sees that nothing came */
    q->a->bus->drop(q->a->host, q->msg);
    free(q);
}

static int ask(struct asker *a, const struct muster_msg *msg, const struct muster_publication *pub, int64_t timeout_ns)
{
    struct question *q = malloc(sizeof *q);
    int err = q ? a->bus->hold(a->host, msg, &q->msg) : MUSTER_ENOMEM;

    if (err) {
        free(q);
        return err;
    }
    q->a = a;
    err = a->bus->request(a->host, pub, timeout_ns, on_answer, q);
    if (err)
        on_answer(q, err, NULL);
    return 0;
}

static const char *text_in(const struct asker *a, const struct muster_value *args, const char *key, const char *otherwise)
{
    const struct muster_value *v = a->codec->get(args, key);

    return v && a->codec->type(v) == MUSTER_STR ? a->codec->as_str(v, NULL) : otherwise;
}

static int on_ask(void *self, const struct muster_msg *msg)
{
    struct muster_publication pub = {.size = sizeof pub, .tenant = msg->tenant};
    struct asker *a = self;
    const struct muster_value *timeout;
    struct muster_value *args;
    int err = a->codec->decode(a->host, msg->encoding, msg->payload, &args);

    if (err)
        return err;
    timeout = a->codec->get(args, "timeout_ms");
    pub.subject = text_in(a, args, "subject", "");
    pub.payload.data = text_in(a, args, "body", "{}");
    pub.payload.len = strlen(pub.payload.data);
    pub.reply = text_in(a, args, "reply", NULL);
    if (a->codec->get(args, "publish"))
        err = tell(a, msg, a->bus->publish(a->host, &pub), NULL);
    else
        err = ask(a, msg, &pub, (timeout ? a->codec->as_int(timeout) : 5000) * 1000000);
    a->codec->free_doc(args);
    return err;
}

static int on_took(void *self, const struct muster_msg *msg)
{
    struct asker *a = self;

    if (a->took)
        a->bus->drop(a->host, a->took);
    a->took = NULL;
    return a->bus->hold(a->host, msg, &a->took);
}

static int on_last(void *self, const struct muster_msg *msg)
{
    const struct asker *a = self;

    return tell(self, msg, a->took ? 0 : MUSTER_ENOTFOUND, a->took);
}

static int on_hears(void *self, const struct muster_msg *msg)
{
    struct asker *a = self;
    struct muster_value *args;
    int err = a->codec->decode(a->host, msg->encoding, msg->payload, &args);

    if (err)
        return err;
    err = tell(a, msg, a->tenants->may_hear(a->host, msg->tenant, text_in(a, args, "agent", msg->agent), text_in(a, args, "subject", "")), NULL);
    a->codec->free_doc(args);
    return err;
}

static void asker_drain(void *self, int64_t deadline_ns)
{
    struct asker *a = self;

    (void)deadline_ns;
    if (a->took)
        a->bus->drop(a->host, a->took);
    a->took = NULL;
}

static void asker_destroy(void *self)
{
    free(self);
}

static int asker_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct asker *a = calloc(1, sizeof *a);
    int err = a ? host->service(host, MUSTER_BUS, (const void **)&a->bus) : MUSTER_ENOMEM;

    (void)config;
    if (!err)
        err = host->service(host, MUSTER_CODEC, (const void **)&a->codec);
    if (!err)
        err = host->service(host, MUSTER_TENANT, (const void **)&a->tenants);
    if (err) {
        free(a);
        return err;
    }
    a->host = host;
    *ret_self = a;
    return 0;
}

static int subscribe(struct asker *a, const char *subject, muster_msg_fn fn)
{
    const struct muster_subscription sub = {.size = sizeof sub, .subject = subject, .queue = 1, .max_msgs = 1000, .max_bytes = 1 << 20, .fn = fn};
    uint64_t id;

    return a->bus->subscribe(a->host, &sub, &id);
}

static int asker_start(void *self)
{
    struct asker *a = self;
    int err = subscribe(a, "rpc.*.asker.ask", on_ask);

    if (!err)
        err = subscribe(a, "rpc.*.asker.took.*", on_took);
    if (!err)
        err = subscribe(a, "rpc.*.asker.last", on_last);
    if (!err)
        err = subscribe(a, "rpc.*.asker.hears", on_hears);
    if (!err)
        a->host->health(a->host, MUSTER_HEALTH_OK, "ok", "asking");
    return err;
}

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "asker", .verbs = "ask took last hears"}};

MUSTER_PLUGIN(.name = "asker", .version = "0.1.0", .services = services, .n_services = 1, .create = asker_create,
              .start = asker_start, .drain = asker_drain, .destroy = asker_destroy);
