/*
 * desk - a plugin of tests/integration/test_admission.py: one verb for each access, and what it hears of messages that are no requests.
 *
 * Every verb answers {"agent", "role", "tenant"} of who asked; `heard` tells how many broadcasts came and the role of the last.
 */
#include <muster/plugin.h>

#include <stdio.h>
#include <stdlib.h>

struct desk {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_tenants *tenants;
    unsigned int n_heard, last_role;
};

static int answer(struct desk *d, const struct muster_msg *msg)
{
    char text[512];
    int n = snprintf(text, sizeof text, "{\"agent\":\"%s\",\"role\":%u,\"tenant\":\"%s\",\"heard\":%u,\"last\":%u}",
                     msg->agent ? msg->agent : "", msg->role, d->tenants->name(msg->tenant), d->n_heard, d->last_role);

    return d->bus->reply(d->host, msg->request, (struct muster_bytes){text, (size_t)n});
}

static int on_request(void *self, const struct muster_msg *msg)
{
    return msg->request ? answer(self, msg) : 0;
}

static int on_said(void *self, const struct muster_msg *msg)
{
    struct desk *d = self;

    d->n_heard++;
    d->last_role = msg->role;
    return 0;
}

static int desk_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct desk *d = calloc(1, sizeof *d);
    int err;

    (void)config;
    if (!d)
        return host->fail(host, MUSTER_ENOMEM, "no memory");
    d->host = host;
    err = host->service(host, MUSTER_BUS, (const void **)&d->bus);
    if (!err)
        err = host->service(host, MUSTER_TENANT, (const void **)&d->tenants);
    if (err) {
        free(d);
        return err;
    }
    *ret_self = d;
    return 0;
}

static int subscribe(struct desk *d, const char *subject, uint32_t queue, muster_msg_fn fn)
{
    const struct muster_subscription sub = {
        .size = sizeof sub, .subject = subject, .max_msgs = 20000, .max_bytes = 64 << 20, .queue = queue, .fn = fn};
    uint64_t id;

    return d->bus->subscribe(d->host, &sub, &id);
}

/* `plain`: as presence hears its requests, each broker by itself. */
static int desk_start(void *self)
{
    struct desk *d = self;
    int err = subscribe(d, "rpc.*.desk.>", 1, on_request);

    if (!err)
        err = subscribe(d, "rpc.*.plain.>", 0, on_request);
    if (!err)
        err = subscribe(d, "all.*.desk", 0, on_said);
    if (!err)
        d->host->health(d->host, MUSTER_HEALTH_OK, "", "at work");
    return err;
}

static void desk_destroy(void *self)
{
    free(self);
}

#define VERB(name, more) "\"" name "\":{\"request\":{\"text?\":\"str\"},\"reply\":\"any{}\"" more "}"
static const char desk_definition[] = "{\"service\":\"desk\",\"verbs\":{" VERB("look", ",\"access\":\"read\"")
    "," VERB("change", "")
    "," VERB("decide", ",\"access\":\"human\"")
    "," VERB("rule", ",\"access\":\"admin\"")
    "," VERB("mine", ",\"access\":\"read\",\"user\":true")
    "," VERB("buy", ",\"user\":true") "}}";
static const char plain_definition[] = "{\"service\":\"plain\",\"verbs\":{" VERB("look", ",\"access\":\"read\"")
    "," VERB("change", "") "}}";

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "desk", .verbs = "look change decide rule mine buy", .schema = desk_definition},
    {.size = sizeof(struct muster_service), .name = "plain", .verbs = "look change", .schema = plain_definition},
};

MUSTER_PLUGIN(.name = "desk", .version = "1.0.0", .source_id = "test", .services = services,
              .n_services = sizeof services / sizeof *services, .create = desk_create, .start = desk_start, .destroy = desk_destroy);
