/*
 * audit - writes the messages of some subjects to a file, a line of JSON each.
 *
 * Shape    The lane makes a line of each message and puts it into the writer's queue; a thread writes. At the queue's bound the plugin
 *          takes no more messages (on_full: pause), or counts and tells what it drops (on_full: drop).
 * Threads  The lane, and the writer's.
 */
#include "line.h"
#include "writer.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_SUBJECTS = 64, ON_FULL_PAUSE = 0 };
static const int64_t last_writes_ns = 1500000000; /* the broker gives destroy() 2 s */

struct audit_config {
    struct muster_list subjects;
    const char *log_file;
    int64_t max_bytes, keep, queue_bytes;
    int32_t sync, on_full; /* SYNC_*, ON_FULL_* */
};

struct audit {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct audit_config *config;
    struct line_maker lines;
    struct writer_host tools;
    struct writer *writer; /* NULL before start() */
    uint64_t dropped;      /* metric */
    uint64_t subs[MAX_SUBJECTS];
    size_t n_subs;
    uint64_t n_lost; /* dropped since the last line */
    int paused, draining;
};

static const struct muster_option options[] = {
    {.key = "subjects", .help = "What is written: subjects after the tenant, with * and >. One message is written once for each that it matches.",
     .type = MUSTER_T_LIST, .flags = MUSTER_O_RELOADABLE, .def = "evt.>", .min = 1, .max = MAX_SUBJECTS,
     .offset = offsetof(struct audit_config, subjects)},
    {.key = "log_file", .help = "The file. It is opened anew when it was renamed or removed.", .type = MUSTER_T_STRING,
     .flags = MUSTER_O_REQUIRED | MUSTER_O_UNIQUE | MUSTER_O_RELOADABLE, .min = 1, .max = 4000,
     .offset = offsetof(struct audit_config, log_file)},
    {.key = "max_bytes", .help = "The file becomes log_file.1 before it is larger than that.", .type = MUSTER_T_BYTES,
     .flags = MUSTER_O_RELOADABLE, .def = "64MiB", .min = 4096, .max = INT64_C(1) << 40, .offset = offsetof(struct audit_config, max_bytes)},
    {.key = "keep", .help = "How many old files stay.", .type = MUSTER_T_INT, .flags = MUSTER_O_RELOADABLE, .def = "10", .min = 1, .max = 1000,
     .offset = offsetof(struct audit_config, keep)},
    {.key = "sync", .help = "When lines are forced to the disk: never, within a second, or before the next batch is taken.",
     .type = MUSTER_T_ENUM, .flags = MUSTER_O_RELOADABLE, .def = "second", .choices = "never|second|always",
     .offset = offsetof(struct audit_config, sync)},
    {.key = "queue_bytes", .help = "What may wait for the disk.", .type = MUSTER_T_BYTES, .flags = MUSTER_O_RELOADABLE, .def = "8MiB",
     .min = 4096, .max = INT64_C(1) << 30, .offset = offsetof(struct audit_config, queue_bytes)},
    {.key = "on_full", .help = "At that bound: take no more messages until half is written, or drop, with a line that says how many.",
     .type = MUSTER_T_ENUM, .flags = MUSTER_O_RELOADABLE, .def = "pause", .choices = "pause|drop",
     .offset = offsetof(struct audit_config, on_full)},
};

static struct writer_settings writer_settings(const struct audit_config *c)
{
    return (struct writer_settings){
        .path = c->log_file, .max_bytes = c->max_bytes, .keep = c->keep, .queue_bytes = c->queue_bytes, .sync = c->sync};
}

/* ---- messages ---- */

static void drop(struct audit *a)
{
    a->n_lost++;
    a->tools.metrics->add(a->host, a->dropped, NULL, 1);
}

static void tell_loss(struct audit *a)
{
    struct line line;

    if (a->n_lost == 0 || line_of_loss(&a->lines, a->n_lost, &line) != 0)
        return;
    if (writer_put(a->writer, line.data, line.len, true))
        a->n_lost = 0;
    free(line.data);
}

static void pause_if_full(struct audit *a)
{
    if (a->draining || a->paused || a->config->on_full != ON_FULL_PAUSE || !writer_is_full(a->writer))
        return;
    a->paused = 1;
    a->bus->pause(a->host, 1);
}

/* With the policy pause there is room always: one message may pass the bound, then none comes. */
static int on_message(void *self, const struct muster_msg *msg)
{
    struct audit *a = self;
    int force = a->draining || a->config->on_full == ON_FULL_PAUSE;
    struct line line;
    int err;

    if (!force && writer_is_full(a->writer)) {
        drop(a);
        return 0;
    }
    err = line_of_message(&a->lines, msg, &line);
    if (err)
        return err;
    tell_loss(a);
    if (!writer_put(a->writer, line.data, line.len, force))
        err = MUSTER_ENOMEM;
    free(line.data);
    pause_if_full(a);
    return err;
}

/* Posted by the writer. */
static void on_room(void *arg)
{
    struct audit *a = arg;

    if (a->paused)
        a->bus->pause(a->host, 0);
    a->paused = 0;
    tell_loss(a);
}

/* ---- life ---- */

static int audit_check(const struct muster_host *host, const void *config)
{
    const struct audit_config *c = config;

    if (host->n_lanes > 1)
        return host->fail(host, MUSTER_EINVAL, "lanes: %u came, 1 was expected: one thread writes a file", host->n_lanes);
    for (size_t i = 0; i < c->subjects.n; i++)
        if (strncmp(c->subjects.items[i], "rpc.", 4) == 0)
            return host->fail(host, MUSTER_EINVAL, "subjects: %s came: requests are for who answers them", c->subjects.items[i]);
    return 0;
}

static int make_metrics(struct audit *a)
{
    const struct {
        int type;
        const char *name, *help;
        uint64_t *ret;
    } metrics[] = {
        {MUSTER_COUNTER, "lines_total", "Lines written.", &a->tools.lines},
        {MUSTER_COUNTER, "bytes_total", "Bytes written.", &a->tools.bytes},
        {MUSTER_COUNTER, "failures_total", "Attempts to open, write, sync or rotate that failed.", &a->tools.failures},
        {MUSTER_COUNTER, "rotations_total", "Files that were full.", &a->tools.rotations},
        {MUSTER_GAUGE, "queued_bytes", "What waits for the disk.", &a->tools.queued},
        {MUSTER_COUNTER, "dropped_total", "Messages that found no room.", &a->dropped},
    };
    int err = 0;

    for (size_t i = 0; i < sizeof metrics / sizeof *metrics && !err; i++)
        err = a->tools.metrics->make(a->host, metrics[i].type, metrics[i].name, metrics[i].help, NULL, metrics[i].ret);
    return err;
}

static int find_services(struct audit *a)
{
    const struct muster_host *host = a->host;
    int err = host->service(host, MUSTER_BUS, (const void **)&a->bus);

    if (!err)
        err = host->service(host, MUSTER_CODEC, (const void **)&a->lines.codec);
    if (!err)
        err = host->service(host, MUSTER_TENANT, (const void **)&a->lines.tenants);
    if (!err)
        err = host->service(host, MUSTER_TIMER, (const void **)&a->lines.timer);
    if (!err)
        err = host->service(host, MUSTER_METRICS, (const void **)&a->tools.metrics);
    return err;
}

static int audit_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct audit *a = calloc(1, sizeof *a);
    int err;

    if (!a)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    a->host = a->lines.host = a->tools.host = host;
    a->config = config;
    a->tools.on_room = on_room;
    a->tools.arg = a;
    err = find_services(a);
    if (!err)
        err = make_metrics(a);
    if (err) {
        free(a);
        return err;
    }
    *ret_self = a;
    return 0;
}

static int subscribe(struct audit *a, const char *subject, uint64_t *ret_sub)
{
    const struct muster_subscription sub = {.size = sizeof sub,
                                            .overflow = MUSTER_OVERFLOW_DROP_NEW,
                                            .subject = subject,
                                            .queue = 1, /* one of the brokers writes it */
                                            .max_msgs = 10000,
                                            .max_bytes = 16 << 20,
                                            .fn = on_message};

    return a->bus->subscribe(a->host, &sub, ret_sub);
}

/* All or none. */
static int subscribe_all(struct audit *a, const struct muster_list *subjects)
{
    uint64_t subs[MAX_SUBJECTS];
    size_t n = 0;
    int err = 0;

    while (n < subjects->n && !err) {
        err = subscribe(a, subjects->items[n], &subs[n]);
        n += !err;
    }
    if (err) {
        while (n > 0)
            a->bus->unsubscribe(a->host, subs[--n]);
        return a->host->fail(a->host, err, "subjects: one of them could not be subscribed");
    }
    while (a->n_subs > 0)
        a->bus->unsubscribe(a->host, a->subs[--a->n_subs]);
    memcpy(a->subs, subs, n * sizeof *subs);
    a->n_subs = n;
    return 0;
}

static int audit_start(void *self)
{
    struct audit *a = self;
    const struct writer_settings settings = writer_settings(a->config);
    int err = writer_new(&a->tools, &settings, &a->writer);

    if (err)
        return a->host->fail(a->host, err, "the writer's thread could not be started");
    return subscribe_all(a, &a->config->subjects);
}

static int same_list(const struct muster_list *a, const struct muster_list *b)
{
    size_t i = 0;

    while (i < a->n && i < b->n && strcmp(a->items[i], b->items[i]) == 0)
        i++;
    return a->n == b->n && i == a->n;
}

static int audit_reload(void *self, const void *config)
{
    struct audit *a = self;
    const struct audit_config *c = config;
    const struct writer_settings settings = writer_settings(c);
    int err = same_list(&c->subjects, &a->config->subjects) ? 0 : subscribe_all(a, &c->subjects);

    if (!err)
        err = writer_set(a->writer, &settings);
    if (err)
        return a->host->fail(a->host, err, "the settings could not be taken over");
    a->config = c;
    if (a->paused && (c->on_full != ON_FULL_PAUSE || !writer_is_full(a->writer)))
        on_room(a);
    return 0;
}

/* What has come and waits is written as well, also beyond the bound. */
static void audit_drain(void *self, int64_t deadline_ns)
{
    struct audit *a = self;

    (void)deadline_ns; /* destroy() has a time of its own */
    a->draining = 1;
    writer_quiet(a->writer);
    a->bus->pause(a->host, 0);
    tell_loss(a);
}

static void audit_destroy(void *self)
{
    struct audit *a = self;
    uint64_t lost;

    if (!a)
        return;
    lost = writer_free(a->writer, last_writes_ns);
    if (lost)
        a->host->log(a->host, MUSTER_LOG_ERROR, "%llu lines could not be written to %s and are lost", (unsigned long long)lost,
                     a->config->log_file);
    free(a);
}

MUSTER_PLUGIN(.name = "audit", .version = MUSTER_PLUGIN_VERSION, .options = options, .n_options = sizeof options / sizeof *options,
              .config_size = sizeof(struct audit_config), .check = audit_check, .create = audit_create, .start = audit_start,
              .reload = audit_reload, .drain = audit_drain, .destroy = audit_destroy);
