/* Which NATS servers there are; see servers.h. */
#include "core/servers.h"

#include <stdio.h>
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
    bool answered, lost;
};

struct servers {
    struct broker *broker;
    struct servers_hooks tell;
    struct known all[SERVERS_MAX];
    uint32_t n;
    bool asking, is_new;
    bool settled; /* a round has ended: who is new now was not there before */
};

static struct known *find(struct servers *s, const char *id)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (strcmp(s->all[i].id, id) == 0)
            return &s->all[i];
    return NULL;
}

/* Room for one more, if need be that of one which is lost. NULL: there are too many. */
static struct known *add(struct servers *s, const char *id)
{
    uint32_t i = 0;

    if (s->n < SERVERS_MAX)
        i = s->n++;
    else
        while (i < SERVERS_MAX && !s->all[i].lost)
            i++;
    if (i == SERVERS_MAX)
        return NULL;
    s->all[i] = (struct known){.n_silent = 0};
    (void)snprintf(s->all[i].id, sizeof s->all[i].id, "%s", id);
    return &s->all[i];
}

static void note(struct servers *s, const char *id)
{
    struct known *server = find(s, id);

    if (!server) {
        server = add(s, id);
        s->is_new |= server && s->settled;
    } else if (server->lost) {
        server->lost = false;
        log_info("bus", "NATS server %s answers again", id);
        s->tell.on_server(s->tell.arg, MUSTER_SYS_SERVER_BACK, id);
    }
    if (server)
        server->answered = true;
}

static void lose(struct servers *s, struct known *server, const char *why)
{
    server->lost = true;
    log_warn("bus", "NATS server %s %s", server->id, why);
    s->tell.on_server(s->tell.arg, MUSTER_SYS_SERVER_LOST, server->id);
}

void servers_stopped(struct servers *s, const char *id)
{
    struct known *server = find(s, id);

    if (!server)
        server = add(s, id);
    if (server && !server->lost)
        lose(s, server, "has been stopped");
}

static void judge(struct servers *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        struct known *server = &s->all[i];

        server->n_silent = server->answered ? 0 : server->n_silent + 1;
        server->answered = false;
        if (server->n_silent >= MAX_SILENT && !server->lost)
            lose(s, server, "does not answer any more");
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
    if (s->is_new)
        s->tell.on_new(s->tell.arg);
    s->is_new = false;
}

void servers_ask(struct servers *s)
{
    const struct bus_out out = {.subject = "$SYS.REQ.SERVER.PING", .fence = -1};
    struct bus_call call = {
        .lane = broker_lane(s->broker), .owner = s, .timeout_ns = round_ns, .many = true, .fn = on_answer, .arg = s};

    if (!s->asking)
        s->asking = bus_request(broker_bus(s->broker), BUS_SYSTEM, &out, &call) == 0;
}

/* Who does not answer now has gone meanwhile, and who is new was told with the link. */
void servers_begin(struct servers *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        s->all[i].n_silent = 0;
    s->settled = false;
}

void servers_close(struct servers *s)
{
    bus_cancel(broker_bus(s->broker), s);
}

int servers_new(struct broker *broker, const struct servers_hooks *tell, struct servers **ret_servers)
{
    struct servers *s = calloc(1, sizeof *s);

    if (!s)
        return MUSTER_ENOMEM;
    s->broker = broker;
    s->tell = *tell;
    *ret_servers = s;
    return 0;
}

void servers_free(struct servers *s)
{
    free(s);
}
