/*
 * help - an agent that cannot go on asks, and those who can answer it do: the service help.
 *
 * in   requests rpc.*.help.*; what respond() says to request_help; to.*.*.share_knowledge; evt.help.>; who is present and who leaves
 * out  answers; R.<T>.to.<agent>._muster.request_help, share_knowledge, help_cancel
 *
 * The parts are told in help.h.
 */
#include "help/help.h"

#include <stdlib.h>

#include "base/clock.h"
#include "schemas/help.h"

#define DAY (INT64_C(86400) * CLOCK_S)
#define FIELD(member) .offset = offsetof(struct help_config, member)
#define TIME_OPTION(name, text, otherwise, low, high, member) \
    {.key = name, .help = text, .type = MUSTER_T_DURATION_NS, .def = otherwise, .min = low, .max = high, .flags = MUSTER_O_RELOADABLE, FIELD(member)}
#define COUNT_OPTION(name, text, otherwise, low, high, member) \
    {.key = name, .help = text, .type = MUSTER_T_INT, .def = otherwise, .min = low, .max = high, .flags = MUSTER_O_RELOADABLE, FIELD(member)}

static const struct muster_option options[] = {
    TIME_OPTION("sweep", "How often each broker looks for requests whose round, claim or deadline has ended.", "500ms", 50 * CLOCK_MS, 60 * CLOCK_S, sweep_ns),
    TIME_OPTION("keep", "Requests are deleted that long after they have ended (0s: never).", "30d", 0, 3650 * DAY, keep_ns),
    TIME_OPTION("keep_accepted", "Those with an accepted answer, which is offered to who asks the like, that long (0s: for ever).", "365d", 0, 3650 * DAY,
                keep_accepted_ns),
    TIME_OPTION("timeout", "How long a request waits for an answer where it says nothing else.", "10m", CLOCK_MS, 20 * DAY, timeout_ns),
    TIME_OPTION("offer_for", "How long the experts of a round have before others are asked.", "10s", 100 * CLOCK_MS, DAY, offer_ns),
    TIME_OPTION("claim_for", "How long who has claimed a request has to answer it.", "5m", 100 * CLOCK_MS, DAY, claim_ns),
    TIME_OPTION("verdict_for", "How long the asker has for a verdict.", "5m", 100 * CLOCK_MS, 20 * DAY, verdict_ns),
    {.key = "auto_accept", .help = "Whether an answer without a verdict is accepted; otherwise the request ends unanswered.", .type = MUSTER_T_BOOL, .def = "true",
     .flags = MUSTER_O_RELOADABLE, FIELD(auto_accept)},
    COUNT_OPTION("rounds", "How many times experts are asked, each time twice as many.", "3", 1, 10, rounds),
    COUNT_OPTION("rejections", "How many times answers are rejected before a human is asked.", "3", 0, 100, rejections),
    COUNT_OPTION("depth", "How many requests may stand behind one, each asked to answer the one before.", "4", 0, 64, depth),
    COUNT_OPTION("open", "How many requests one agent may have open.", "100", 1, 100000, quota),
    COUNT_OPTION("prior", "How many accepted answers to alike problems are told to who asks.", "3", 0, 16, prior),
};

static void help_destroy(void *self)
{
    struct help *h = self;

    if (!h)
        return;
    work_destroy(&h->work);
    known_done(&h->known);
    free(h);
}

static int help_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct help *h = calloc(1, sizeof *h);
    int err;

    if (!h)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    h->work = (struct work){.host = host, .service = "help", .verbs = help_verbs, .n_verbs = n_help_verbs};
    h->config = config;
    err = work_create(&h->work);
    if (!err)
        err = host->service(host, MUSTER_ROSTER, (const void **)&h->roster);
    if (!err)
        err = tells_create(h);
    if (!err)
        err = knowledge_create(h);
    if (!err)
        err = jobs_create(h);
    if (err) {
        help_destroy(h);
        return err;
    }
    *ret_self = h;
    return 0;
}

static void on_tick(void *self, int64_t now_ns)
{
    jobs_tick(self, now_ns);
}

static int help_start(void *self)
{
    struct help *h = self;
    uint64_t id;
    int err;

    h->started_ns = h->work.timer->now(h->work.host);
    err = h->work.timer->every(h->work.host, HELP_TICK_NS, on_tick, &id);
    if (!err)
        err = work_start(&h->work);
    if (!err)
        err = respond_start(h);
    return err ? err : knowledge_start(h);
}

static void help_on_writable(void *self)
{
    struct help *h = self;

    work_flush(&h->work);
}

/* Events may have been missed. */
static void help_on_link(void *self, int up)
{
    if (up)
        knowledge_tables(self);
}

static void help_on_tables(void *self)
{
    knowledge_tables(self);
}

static int help_reload(void *self, const void *config)
{
    struct help *h = self;

    h->config = config;
    jobs_set(h);
    return 0;
}

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "help", .verbs = HELP_VERBS, .schema = muster_schema_help},
};

MUSTER_PLUGIN(.name = "help", .version = MUSTER_VERSION, .capabilities = "cross_tenant stream sql", .options = options,
              .n_options = sizeof options / sizeof *options, .config_size = sizeof(struct help_config), .services = services,
              .n_services = sizeof services / sizeof *services, .create = help_create, .start = help_start, .destroy = help_destroy,
              .on_writable = help_on_writable, .on_link = help_on_link, .on_tables = help_on_tables, .reload = help_reload);
