/* hello - answers hello.say {name?} with {greeting, name, count}. */
#include <muster/plugin.h>

#include <stdlib.h>
#include <string.h>

struct hello_config {
    const char *greeting;
};

struct hello {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_codec *codec;
    const struct muster_metrics *metrics;
    const struct hello_config *config; /* borrowed from the broker */
    uint64_t said;                     /* metric */
    int64_t count;                     /* touched on the lane only: no lock */
};

static const struct muster_option options[] = {
    {.key = "greeting", .help = "What comes before the name.", .type = MUSTER_T_STRING, .def = "Hello",
     .min = 1, .max = 100, .offset = offsetof(struct hello_config, greeting)},
};

static void put_text(struct hello *h, struct muster_writer *w, const char *key, const char *text, size_t len)
{
    h->codec->put_str(w, key, strlen(key));
    h->codec->put_str(w, text, len);
}

/* In the encoding of the request. */
static int answer(struct hello *h, const struct muster_msg *msg, const char *name, size_t len)
{
    struct muster_bytes body;
    struct muster_writer *w;
    int err = h->codec->writer_new(h->host, msg->encoding, &w);

    if (err)
        return err;
    h->codec->put_map(w, 3);
    put_text(h, w, "greeting", h->config->greeting, strlen(h->config->greeting));
    put_text(h, w, "name", name, len);
    h->codec->put_str(w, "count", 5);
    h->codec->put_int(w, ++h->count);
    err = h->codec->bytes(w, &body);
    if (!err)
        err = h->bus->reply(h->host, msg->request, body);
    h->codec->writer_free(w);
    h->metrics->add(h->host, h->said, NULL, 1);
    return err;
}

static int on_say(void *self, const struct muster_msg *msg)
{
    struct hello *h = self;
    const struct muster_value *name;
    struct muster_value *doc;
    const char *text = msg->agent;
    size_t len = strlen(text);
    int err;

    if (!msg->request)
        return 0; /* nobody waits for an answer */
    err = h->codec->decode(h->host, msg->encoding, msg->payload, &doc);
    if (err)
        return err; /* answered with the error that goes with it */
    name = h->codec->get(doc, "name");
    if (name)
        text = h->codec->as_str(name, &len); /* the broker has held the body against the definition */
    err = answer(h, msg, text, len);
    h->codec->free_doc(doc);
    return err;
}

static void hello_destroy(void *self)
{
    free(self);
}

static int hello_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct hello *h = calloc(1, sizeof *h);
    int err;

    if (!h)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    h->host = host;
    h->config = config;
    err = host->service(host, MUSTER_BUS, (const void **)&h->bus);
    if (!err)
        err = host->service(host, MUSTER_CODEC, (const void **)&h->codec);
    if (!err)
        err = host->service(host, MUSTER_METRICS, (const void **)&h->metrics);
    if (!err)
        err = h->metrics->make(host, MUSTER_COUNTER, "said_total", "Greetings.", NULL, &h->said);
    if (err) {
        hello_destroy(h);
        return err; /* service() and make() have kept the reason */
    }
    *ret_self = h;
    return 0;
}

static int hello_start(void *self)
{
    struct hello *h = self;
    const struct muster_subscription sub = {.size = sizeof sub,
                                            .overflow = MUSTER_OVERFLOW_REJECT,
                                            .subject = "rpc.*.hello.say",
                                            .queue = 1, /* one broker answers */
                                            .max_msgs = 1000,
                                            .max_bytes = 1 << 20,
                                            .fn = on_say};
    uint64_t id;
    int err = h->bus->subscribe(h->host, &sub, &id);

    if (!err)
        h->host->health(h->host, MUSTER_HEALTH_OK, "ok", "answering");
    return err;
}

static const char definition[] =
    "{\"service\": \"hello\", \"verbs\": {\"say\": {"
    " \"request\": {\"name?\": \"str 1..100 - Who is greeted; the asker, when it is missing.\"},"
    " \"reply\": {\"greeting\": \"str\", \"name\": \"str\", \"count\": \"int 1..\"}}}}";

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "hello", .verbs = "say", .schema = definition},
};

MUSTER_PLUGIN(.name = "hello", .version = "1.0.0", .options = options, .n_options = sizeof options / sizeof *options,
              .config_size = sizeof(struct hello_config), .services = services,
              .n_services = sizeof services / sizeof *services, .create = hello_create, .start = hello_start,
              .destroy = hello_destroy);
