/*
 * presence/stats.c - stats.hub: the tenant at a glance, answered by the broker that leads.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "presence/agent.h"
#include "presence/presence.h"

enum { HUB_AGENTS = 1000, HUB_BYTES = 900000 };

struct hub {
    struct tenancy *tenancy;
    struct buf *b;
    bool any;
};

static void put_time(struct buf *b, const char *name, int64_t wall_ns)
{
    char at[CLOCK_RFC3339_SIZE];

    clock_rfc3339(wall_ns, at);
    buf_printf(b, ",\"%s\":\"%s\"", name, at);
}

/* Under the roster's lock. */
static int put_agent(void *arg, const struct muster_agent *agent)
{
    struct hub *hub = arg;
    const struct agent *known = agent_find(hub->tenancy, agent->agent);

    buf_printf(hub->b, "%s{\"agent_id\":\"%s\",\"tenant_id\":\"%s\",\"status\":\"%s\",\"suspect\":%s,\"task\":", hub->any ? "," : "", agent->agent,
               hub->tenancy->name, status_name(agent->status), agent->flags & MUSTER_AGENT_SUSPECT ? "true" : "false");
    if (agent->task)
        buf_put_json(hub->b, agent->task, strlen(agent->task));
    else
        buf_puts(hub->b, "null");
    put_time(hub->b, "started_at", agent->started_wall_ns);
    put_time(hub->b, "last_heartbeat", known && known->beat_wall_ns ? known->beat_wall_ns : agent->started_wall_ns);
    buf_putc(hub->b, '}');
    hub->any = true;
    return hub->b->len >= HUB_BYTES;
}

static void put_agents(struct tenancy *t, struct buf *b)
{
    const struct presence *p = t->p;
    const struct muster_roster_query all = {.size = sizeof all, .limit = HUB_AGENTS};
    struct hub hub = {.tenancy = t, .b = b};

    buf_puts(b, ",\"agents\":[");
    (void)p->roster->find(p->host, t->tenant, &all, put_agent, &hub); /* what cannot be read is not in the list */
    buf_putc(b, ']');
}

/* As the libraries read it: anything but "false". */
static bool syncs_memory(void)
{
    const char *word = getenv("FEDERATION_MEMORY_SYNC");

    return !word || strcmp(word, "false") != 0;
}

static int on_hub(void *self, const struct muster_msg *msg)
{
    struct presence *p = self;
    struct tenancy *t = tenancy_of(p, msg->tenant);
    struct buf b = {0};
    int err;

    if (!t || !tenancy_leads(t) || !msg->request)
        return 0; /* who leads answers */
    buf_printf(&b, "{\"tenant_id\":\"%s\",\"agent_id\":\"%s\",\"active_agents\":%zu", t->name, msg->agent, t->agents.n);
    put_agents(t, &b);
    buf_printf(&b, ",\"channels\":[\"all\",\"to\",\"inbox\",\"evt.presence\"],\"heartbeat_interval\":%lld,\"memory_sync\":%s",
               (long long)(p->config->heartbeat_ns / CLOCK_MS), syncs_memory() ? "true" : "false");
    put_time(&b, "timestamp", p->timer->wall_now(p->host));
    buf_putc(&b, '}');
    err = buf_failed(&b) ? MUSTER_ENOMEM : reply_json(p, msg, &b);
    buf_done(&b);
    return err;
}

int stats_start(struct presence *p)
{
    const struct muster_subscription sub = {.size = sizeof sub, .subject = "rpc.*.stats.hub", .max_msgs = 4096, .max_bytes = 8 << 20,
                                            .overflow = MUSTER_OVERFLOW_REJECT, .fn = on_hub};
    uint64_t id;

    return p->bus->subscribe(p->host, &sub, &id);
}
