/*
 * old - a plugin that is built against each released header in turn and must load for as long as ABI.md promises. It uses what the first
 * of them has: old.say {text} is answered with {text, ticks}, and with the role of who asks from 0.3 on.
 */
#include <muster/plugin.h>

#include <stdlib.h>
#include <string.h>

struct old_config {
    int64_t period_ns;
};

struct old {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_codec *codec;
    const struct muster_timer *timer;
    const struct old_config *config;
    int64_t ticks;
};

static const struct muster_option options[] = {
    {.key = "period", .help = "Between ticks.", .def = "10ms", .type = MUSTER_T_DURATION_NS, .offset = offsetof(struct old_config, period_ns)},
};

static void on_tick(void *self, int64_t now_ns)
{
    struct old *o = self;

    (void)now_ns;
    o->ticks++;
}

static int answer(const struct old *o, const struct muster_msg *msg, const struct muster_value *text)
{
    struct muster_writer *w;
    struct muster_bytes body;
    int err = o->codec->writer_new(o->host, msg->encoding, &w);

    if (err)
        return err;
    o->codec->put_map(w, MUSTER_ABI_MINOR >= 3 ? 3 : 2);
    o->codec->put_str(w, "text", 4);
    o->codec->put_value(w, text);
    o->codec->put_str(w, "ticks", 5);
    o->codec->put_int(w, o->ticks);
#if MUSTER_ABI_MINOR >= 3
    o->codec->put_str(w, "role", 4);
    o->codec->put_int(w, MUSTER_HAS(msg, role) ? msg->role : -1);
#endif
    err = o->codec->bytes(w, &body);
    if (!err)
        err = o->bus->reply(o->host, msg->request, body);
    o->codec->writer_free(w);
    return err;
}

static int on_say(void *self, const struct muster_msg *msg)
{
    struct old *o = self;
    struct muster_value *doc;
    int err = o->codec->decode(o->host, msg->encoding, msg->payload, &doc);

    if (err)
        return err;
    err = answer(o, msg, o->codec->get(doc, "text"));
    o->codec->free_doc(doc);
    return err;
}

static void old_destroy(void *self)
{
    free(self);
}

static int old_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct old *o = calloc(1, sizeof *o);
    int err = o ? 0 : MUSTER_ENOMEM;

    if (!err)
        *o = (struct old){.host = host, .config = config};
    if (!err)
        err = host->service(host, MUSTER_BUS, (const void **)&o->bus);
    if (!err)
        err = host->service(host, MUSTER_CODEC, (const void **)&o->codec);
    if (!err)
        err = host->service(host, MUSTER_TIMER, (const void **)&o->timer);
    if (err)
        old_destroy(o);
    else
        *ret_self = o;
    return err;
}

static int old_start(void *self)
{
    struct old *o = self;
    const struct muster_subscription sub = {
        .size = sizeof sub, .subject = "rpc.*.old.say", .queue = 1, .max_msgs = 100, .max_bytes = 1 << 20, .fn = on_say};
    uint64_t id;
    int err = o->bus->subscribe(o->host, &sub, &id);

    if (!err)
        err = o->timer->every(o->host, o->config->period_ns, on_tick, &id);
    if (!err)
        o->host->health(o->host, MUSTER_HEALTH_OK, "ok", "answering");
    return err;
}

static const char definition[] = "{\"service\": \"old\", \"verbs\": {\"say\": {\"request\": {\"text\": \"str\"},"
                                 " \"reply\": {\"text\": \"str\", \"ticks\": \"int\", \"role?\": \"int\"}}}}";
static const struct muster_service services[] = {{.size = sizeof(struct muster_service), .name = "old", .verbs = "say", .schema = definition}};

MUSTER_PLUGIN(.name = "old", .version = "1.0.0", .options = options, .n_options = 1, .config_size = sizeof(struct old_config),
              .services = services, .n_services = 1, .create = old_create, .start = old_start, .destroy = old_destroy);
