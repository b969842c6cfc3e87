/*
 * @NAME@ - answers @NAME@.next {series?} with the next number of that series: 1, 2, 3 … by tenant, whichever broker is asked.
 *
 * Shape    A request is held while its counter is read from muster.kv/1 and written back, on the condition that nobody else has written
 *          since; where somebody has, it is read again.
 * Threads  The lane: no lock anywhere. What is called here, muster/plugin.h tells.
 */
#include <muster/plugin.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON(...) #__VA_ARGS__

enum { MAX_ATTEMPTS = 20 }; /* to write before others do */

struct settings {
    const char *prefix;
};

struct plugin {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_kv *kv;
    const struct muster_codec *codec;
    const struct muster_metrics *metrics;
    const struct settings *settings; /* borrowed from the broker */
    uint64_t issued;                 /* metric */
    struct asked *unsent;            /* answers that found no room */
    int draining;
};

/* A request that is held. */
struct asked {
    struct plugin *plugin;
    const struct muster_msg *msg; /* held */
    struct asked *next;           /* in plugin->unsent */
    int64_t number;
    int attempts;
    char key[80];
};

static const struct muster_option options[] = {
    {.key = "prefix", .help = "What comes before the number in a label.", .type = MUSTER_T_STRING, .flags = MUSTER_O_RELOADABLE, .def = "No. ",
     .max = 100, .offset = offsetof(struct settings, prefix)},
};

/* ---- the answer ---- */

static void finish(struct asked *a)
{
    a->plugin->bus->drop(a->plugin->host, a->msg);
    free(a);
}

static void refuse(struct asked *a, const char *code, const char *message)
{
    (void)a->plugin->bus->reply_error(a->plugin->host, a->msg->request, code, NULL, message); /* where it fails drop() answers */
    finish(a);
}

static int write_answer(struct asked *a, struct muster_writer *w)
{
    const struct muster_codec *codec = a->plugin->codec;
    struct muster_bytes body;
    char label[160];
    int len = snprintf(label, sizeof label, "%s%" PRId64, a->plugin->settings->prefix, a->number);
    int err;

    codec->put_map(w, 2);
    codec->put_str(w, "number", 6);
    codec->put_int(w, a->number);
    codec->put_str(w, "label", 5);
    codec->put_str(w, label, (size_t)len);
    err = codec->bytes(w, &body);
    return err ? err : a->plugin->bus->reply(a->plugin->host, a->msg->request, body);
}

/* In the encoding of the request. */
static void answer(struct asked *a)
{
    struct plugin *p = a->plugin;
    struct muster_writer *w;
    int err = p->codec->writer_new(p->host, a->msg->encoding, &w);

    if (!err) {
        err = write_answer(a, w);
        p->codec->writer_free(w);
    }
    if (err == MUSTER_EAGAIN) { /* on_writable() tries again */
        a->next = p->unsent;
        p->unsent = a;
        return;
    }
    if (err) {
        refuse(a, "internal", "the answer could not be written");
        return;
    }
    p->metrics->add(p->host, p->issued, NULL, 1);
    finish(a);
}

/* ---- the counter ---- */

static void read_counter(struct asked *a);

static void on_written(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct asked *a = arg;

    (void)value, (void)revision; /* of no use: the next request reads again */
    if (code == 0)
        answer(a);
    else if (code == MUSTER_ESTALE && ++a->attempts < MAX_ATTEMPTS)
        read_counter(a);
    else
        refuse(a, "unavailable", "the counter could not be written");
}

static void on_read(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct asked *a = arg;
    char text[24] = "";
    struct muster_kv_put put = {
        .size = sizeof put, .tenant = a->msg->tenant, .key = a->key, .revision = revision, .fn = on_written, .arg = a};

    if (code && code != MUSTER_ENOTFOUND) {
        refuse(a, "unavailable", "the counter could not be read");
        return;
    }
    if (value.len > 0 && value.len < sizeof text)
        memcpy(text, value.data, value.len);
    a->number = strtoll(text, NULL, 10) + 1;
    put.value = (struct muster_bytes){text, (size_t)snprintf(text, sizeof text, "%" PRId64, a->number)};
    if (a->plugin->kv->put(a->plugin->host, &put) != 0)
        refuse(a, "unavailable", "the counter could not be written");
}

static void read_counter(struct asked *a)
{
    if (a->plugin->kv->get(a->plugin->host, a->msg->tenant, a->key, on_read, a) != 0)
        refuse(a, "unavailable", "the counter could not be read");
}

/* ---- the request ---- */

/* The broker has held the body against the definition: series is a name, where it is there. */
static int read_series(struct plugin *p, const struct muster_msg *msg, char *out, size_t size)
{
    const struct muster_value *series;
    struct muster_value *doc;
    size_t len = 0;
    const char *text;
    int err = p->codec->decode(p->host, msg->encoding, msg->payload, &doc);

    if (err)
        return err;
    series = p->codec->get(doc, "series");
    text = series ? p->codec->as_str(series, &len) : NULL;
    (void)snprintf(out, size, "series.%.*s", text ? (int)len : 7, text ? text : "default");
    p->codec->free_doc(doc);
    return 0;
}

/* An error that is returned answers the request. MUSTER_EAGAIN brings the message again in a moment. */
static int on_next(void *self, const struct muster_msg *msg)
{
    struct plugin *p = self;
    struct asked *a;
    int err;

    if (!msg->request)
        return 0; /* nobody waits for an answer */
    if (p->draining)
        return p->bus->reply_error(p->host, msg->request, "unavailable", NULL, "this broker is ending; ask again");
    a = calloc(1, sizeof *a);
    if (!a)
        return MUSTER_ENOMEM;
    a->plugin = p;
    err = read_series(p, msg, a->key, sizeof a->key);
    if (!err)
        err = p->bus->hold(p->host, msg, &a->msg);
    if (err) {
        free(a);
        return err;
    }
    read_counter(a);
    return 0;
}

/* ---- life ---- */

static void plugin_destroy(void *self)
{
    struct plugin *p = self;

    while (p && p->unsent) { /* what was read or written has completed before */
        struct asked *a = p->unsent;

        p->unsent = a->next;
        finish(a);
    }
    free(p);
}

static int find_services(struct plugin *p)
{
    int err = p->host->service(p->host, MUSTER_BUS, (const void **)&p->bus);

    if (!err)
        err = p->host->service(p->host, MUSTER_KV, (const void **)&p->kv);
    if (!err)
        err = p->host->service(p->host, MUSTER_CODEC, (const void **)&p->codec);
    if (!err)
        err = p->host->service(p->host, MUSTER_METRICS, (const void **)&p->metrics);
    return err;
}

static int plugin_create(const struct muster_host *host, const void *settings, void **ret_self)
{
    struct plugin *p = calloc(1, sizeof *p);
    int err;

    if (!p)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    p->host = host;
    p->settings = settings;
    err = find_services(p);
    if (!err)
        err = p->metrics->make(host, MUSTER_COUNTER, "issued_total", "Numbers given out.", NULL, &p->issued);
    if (err) {
        free(p);
        return err; /* service() and make() have kept the reason */
    }
    *ret_self = p;
    return 0;
}

static int plugin_start(void *self)
{
    struct plugin *p = self;
    const struct muster_subscription sub = {.size = sizeof sub,
                                            .overflow = MUSTER_OVERFLOW_REJECT,
                                            .subject = "rpc.*.@NAME@.next",
                                            .queue = 1, /* one broker answers */
                                            .max_msgs = 1000,
                                            .max_bytes = 1 << 20,
                                            .fn = on_next};
    uint64_t id;
    int err = p->bus->subscribe(p->host, &sub, &id);

    if (!err)
        p->host->health(p->host, MUSTER_HEALTH_OK, "ok", "answering");
    return err;
}

static int plugin_reload(void *self, const void *settings)
{
    struct plugin *p = self;

    p->settings = settings;
    return 0;
}

/* Requests that are held are answered still; the broker waits for them. */
static void plugin_drain(void *self, int64_t deadline_ns)
{
    struct plugin *p = self;

    (void)deadline_ns; /* a counter takes milliseconds */
    p->draining = 1;
}

static void plugin_on_writable(void *self)
{
    struct plugin *p = self;
    struct asked *list = p->unsent, *next;

    p->unsent = NULL;
    for (; list; list = next) {
        next = list->next;
        answer(list);
    }
}

static const char definition[] =
#include "@NAME@.schema.h"
    ;

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "@NAME@", .verbs = "next", .schema = definition},
};

MUSTER_PLUGIN(.name = "@NAME@", .version = MUSTER_PLUGIN_VERSION, .options = options, .n_options = sizeof options / sizeof *options,
              .config_size = sizeof(struct settings), .services = services, .n_services = sizeof services / sizeof *services,
              .create = plugin_create, .start = plugin_start, .reload = plugin_reload, .drain = plugin_drain, .destroy = plugin_destroy,
              .on_writable = plugin_on_writable);
