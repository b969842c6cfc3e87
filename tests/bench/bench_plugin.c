/* bench - the least that a plugin can do: bench.say gives back what it got, bench.count tells how many notes ("all.*.note") it has heard. */
#include <muster/plugin.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bench {
    const struct muster_host *host;
    const struct muster_bus *bus;
    uint64_t n_notes;
};

static int on_say(void *self, const struct muster_msg *msg)
{
    struct bench *b = self;

    return msg->request ? b->bus->reply(b->host, msg->request, msg->payload) : 0;
}

static int on_count(void *self, const struct muster_msg *msg)
{
    struct bench *b = self;
    char body[64];
    int n = snprintf(body, sizeof body, "{\"notes\":%llu}", (unsigned long long)b->n_notes);

    return msg->request ? b->bus->reply(b->host, msg->request, (struct muster_bytes){body, (size_t)n}) : 0;
}

static int on_note(void *self, const struct muster_msg *msg)
{
    struct bench *b = self;

    (void)msg;
    b->n_notes++;
    return 0;
}

static int bench_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct bench *b = calloc(1, sizeof *b);
    int err;

    (void)config;
    if (!b)
        return MUSTER_ENOMEM;
    b->host = host;
    err = host->service(host, MUSTER_BUS, (const void **)&b->bus);
    if (err) {
        free(b);
        return err;
    }
    *ret_self = b;
    return 0;
}

static int bench_start(void *self)
{
    struct bench *b = self;
    struct muster_subscription subs[] = {{.subject = "rpc.*.bench.say", .queue = 1, .fn = on_say},
                                         {.subject = "rpc.*.bench.count", .queue = 1, .fn = on_count},
                                         {.subject = "all.*.note", .overflow = MUSTER_OVERFLOW_DROP_NEW, .fn = on_note}};
    uint64_t id;
    int err = 0;

    for (size_t i = 0; i < sizeof subs / sizeof *subs && !err; i++) {
        subs[i].size = sizeof subs[i];
        subs[i].max_msgs = 8192;
        subs[i].max_bytes = 16u << 20;
        err = b->bus->subscribe(b->host, &subs[i], &id);
    }
    if (!err)
        b->host->health(b->host, MUSTER_HEALTH_OK, "ok", "serving");
    return err;
}

static void bench_destroy(void *self)
{
    free(self);
}

/* What reads is not told to the audit, which is no part of what is measured. */
static const char definition[] = "{\"service\":\"bench\",\"verbs\":{\"say\":{\"access\":\"read\",\"request\":\"any{}\",\"reply\":\"any{}\"},"
                                 "\"count\":{\"access\":\"read\",\"request\":\"any{}\",\"reply\":\"any{}\"}}}";

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "bench", .verbs = "say count", .schema = definition}};

MUSTER_PLUGIN(.name = "bench", .version = "1", .services = services, .n_services = 1, .create = bench_create, .start = bench_start,
              .destroy = bench_destroy);
