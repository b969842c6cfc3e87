/* Which NATS servers there are; see servers.h. */
#include "core/servers.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/sys.h"
#include "core/broker.h"

enum { MAX_SILENT = 2 };
static const int64_t round_ns = 1800 * CLOCK_MS; /* over before two seconds are */

struct known {
    char id[SYS_SERVER_SIZE];
    uint32_t n_silent; /* rounds since it answered */
    bool answered;
};

struct servers {
    struct broker *broker;
    void (*on_change)(void *arg);
    void *arg;
    struct known all[SERVERS_MAX];
    uint32_t n;
    bool asking, changed;
    bool settled; /* a round has ended: who is new now was not there before */
};

static void note(struct servers *s, const char *id)
{
    uint32_t i = 0;

    while (i < s->n && strcmp(s->all[i].id, id) != 0)
        i++;
    if (i == SERVERS_MAX)
        return;
    if (i == s->n) {
        s->all[s->n++] = (struct known){.n_silent = 0};
        memcpy(s->all[i].id, id, strlen(id) + 1);
        s->changed = s->settled;
    }
    s->all[i].answered = true;
}

static void judge(struct servers *s)
{
    for (uint32_t i = s->n; i-- > 0;) {
        struct known *server = &s->all[i];

        server->n_silent = server->answered ? 0 : server->n_silent + 1;
        server->answered = false;
        if (server->n_silent < MAX_SILENT)
            continue;
        log_warn("bus", "NATS server %s does not answer any more", server->id);
        *server = s->all[--s->n];
        s->changed = true;
    }
    s->settled = true;
}

static void on_answer(void *arg, int code, const struct bus_msg *msg)
{
    struct servers *s = arg;
    struct sys_server server;

    if (!code && sys_read_server(bus_msg_data(msg), &server) == 0)
        note(s, server.id);
    if (!code)
        return;
    s->asking = false;
    if (code == MUSTER_ETIME) /* else the link went, and nothing is known */
        judge(s);
    if (s->changed)
        s->on_change(s->arg);
    s->changed = false;
}

void servers_ask(struct servers *s)
{
    const struct bus_out out = {.subject = "$SYS.REQ.SERVER.PING", .fence = -1};
    struct bus_call call = {
        .lane = broker_lane(s->broker), .owner = s, .timeout_ns = round_ns, .many = true, .fn = on_answer, .arg = s};

    if (!s->asking)
        s->asking = bus_request(broker_bus(s->broker), BUS_SYSTEM, &out, &call) == 0;
}

void servers_forget(struct servers *s)
{
    s->n = 0;
    s->settled = false;
}

void servers_close(struct servers *s)
{
    bus_cancel(broker_bus(s->broker), s);
}

int servers_new(struct broker *broker, void (*on_change)(void *arg), void *arg, struct servers **ret_servers)
{
    struct servers *s = calloc(1, sizeof *s);

    if (!s)
        return MUSTER_ENOMEM;
    s->broker = broker;
    s->on_change = on_change;
    s->arg = arg;
    *ret_servers = s;
    return 0;
}

void servers_free(struct servers *s)
{
    free(s);
}
