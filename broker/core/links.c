/* The links to NATS; see links.h. */
#include "core/links.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/advisories.h"
#include "core/broker.h"
#include "core/connections.h"
#include "core/health.h"
#include "core/instance.h"
#include "core/logins.h"
#include "core/registry.h"
#include "metrics/metrics.h"

enum { OUTBOX_MSGS = 32768 };
static const size_t outbox_bytes = 64u << 20;
static const int64_t flush_ns = 2 * CLOCK_S; /* then the server is asked once more */

/* One sample a link of what the bus counts itself. */
struct bus_metric {
    const char *name, *help;
    int type;
    size_t offset; /* in struct bus_counters */
};
static const struct bus_metric bus_metrics[] = {
    {"muster_bus_reconnects_total", "Connections made to NATS after the first.", MUSTER_COUNTER, offsetof(struct bus_counters, connects)},
    {"muster_bus_sent_messages_total", "Messages sent to NATS.", MUSTER_COUNTER, offsetof(struct bus_counters, sent_msgs)},
    {"muster_bus_sent_bytes_total", "Bytes sent to NATS.", MUSTER_COUNTER, offsetof(struct bus_counters, sent_bytes)},
    {"muster_bus_received_messages_total", "Messages received.", MUSTER_COUNTER, offsetof(struct bus_counters, received_msgs)},
    {"muster_bus_dropped_total", "Messages dropped because NATS was away.", MUSTER_COUNTER, offsetof(struct bus_counters, dropped_away)},
    {"muster_bus_full_total", "Messages refused because the outbox was full.", MUSTER_COUNTER, offsetof(struct bus_counters, refused_full)},
    {"muster_bus_slow_total", "Times that messages came faster than they were taken, so that some were dropped.", MUSTER_COUNTER,
     offsetof(struct bus_counters, slow)},
    {"muster_bus_waiting_messages", "Messages in the outbox.", MUSTER_GAUGE, offsetof(struct bus_counters, waiting_msgs)},
    {"muster_bus_waiting_bytes", "Bytes in the outbox.", MUSTER_GAUGE, offsetof(struct bus_counters, waiting_bytes)},
};
enum { N_BUS_METRICS = sizeof bus_metrics / sizeof *bus_metrics };

struct bus_reader {
    struct links *links;
    const struct bus_metric *metric;
};

struct links {
    struct broker *broker;
    char agent_answers[96], service_answers[96]; /* where agents, and services, answer what a plugin asks them; see host_bus.c */
    char *password, *system_password, *callout_password; /* of a static server, read from their files; wiped at the end */
    struct bus *bus;
    struct bus_reader readers[N_BUS_METRICS];
    struct health_component *health[BUS_SYSTEM]; /* bulk and live */
    atomic_bool up[BUS_N_LINKS], pressed[BUS_N_LINKS];
    pthread_mutex_t lock; /* guards what is below */
    bool telling;         /* false once the instances are being freed */
    bool has_bus;         /* bus_open() has returned */
};

struct bus *links_bus(const struct links *l)
{
    return l->bus;
}

bool links_are_up(const struct links *l)
{
    return atomic_load(&l->up[BUS_BULK]) && atomic_load(&l->up[BUS_LIVE]);
}

bool links_are_pressed(const struct links *l)
{
    return atomic_load(&l->pressed[BUS_BULK]) || atomic_load(&l->pressed[BUS_LIVE]);
}

/* ---- who is told ---------------------------------------------------------------------------------------------------------------- */

/* On the core lane. A late answer that finds the link away again leaves it as it was told. */
static void on_heard(void *arg, int code, const struct bus_msg *msg)
{
    struct links *l = arg;

    (void)msg;
    if (code == MUSTER_ETIME) {
        (void)links_tell_when_heard(l); /* fails when the link is away, which says so */
        return;
    }
    pthread_mutex_lock(&l->lock);
    if (!code && atomic_load(&l->up[BUS_LIVE]))
        health_set(l->health[BUS_LIVE], MUSTER_HEALTH_OK, "ok", "connected to NATS");
    pthread_mutex_unlock(&l->lock);
    registry_heard(broker_registry(l->broker));
}

/* Who is told that the broker is ready may ask it at once: what it listens to must have reached the server by then. */
int links_tell_when_heard(struct links *l)
{
    return bus_flush(l->bus, BUS_LIVE,
                     &(struct bus_call){.lane = broker_lane(l->broker), .owner = l->broker, .timeout_ns = flush_ns, .fn = on_heard, .arg = l});
}

/* A link may be up before bus_open() has returned, and whoever is told of it asks the bus: say_links() tells it then. */
static void say_link(struct links *l, int link, bool up, const char *reason)
{
    if (up && !l->has_bus)
        return;
    if (up)
        advisories_on_link(broker_advisories(l->broker), link);
    if (link == BUS_CALLOUT) {
        logins_on_link(broker_logins(l->broker), up, reason);
        return;
    }
    connections_on_link(broker_connections(l->broker), link, up, reason);
    if (link == BUS_SYSTEM)
        return; /* it was said there */
    if (up && link == BUS_LIVE && registry_is_serving(broker_registry(l->broker)) && links_tell_when_heard(l) == 0)
        return; /* it is said then */
    if (up)
        health_set(l->health[link], MUSTER_HEALTH_OK, "ok", "connected to NATS");
    else
        health_set(l->health[link], MUSTER_HEALTH_DOWN, "nats_away", "NATS is away: %s", reason);
}

/* Plugins hear of one NATS: it is there when bulk and live are. A link that goes once the instances have ended is one that the broker
 * closes, and no fault. On a link's thread. */
static void on_link(void *arg, int link, bool up, const char *reason)
{
    struct links *l = arg;
    struct instance *const *instances;
    size_t n;
    bool both;

    pthread_mutex_lock(&l->lock);
    if (l->telling)
        say_link(l, link, up, reason);
    atomic_store(&l->up[link], up);
    both = links_are_up(l);
    instances = broker_instances(l->broker, &n);
    for (size_t i = 0; i < n && l->telling && link < BUS_SYSTEM && (both || !up); i++)
        instance_tell_link(instances[i], both);
    pthread_mutex_unlock(&l->lock);
    if (both && link < BUS_SYSTEM)
        registry_check(broker_registry(l->broker));
}

static void say_links(struct links *l)
{
    pthread_mutex_lock(&l->lock);
    l->has_bus = true;
    for (int link = 0; link < BUS_N_LINKS; link++)
        if (atomic_load(&l->up[link]))
            say_link(l, link, true, "");
    pthread_mutex_unlock(&l->lock);
}

void links_tell(struct links *l, void (*tell)(struct instance *in))
{
    struct instance *const *instances;
    size_t n;

    pthread_mutex_lock(&l->lock);
    instances = broker_instances(l->broker, &n);
    for (size_t i = 0; i < n && l->telling; i++)
        tell(instances[i]);
    pthread_mutex_unlock(&l->lock);
}

void links_silence(struct links *l)
{
    pthread_mutex_lock(&l->lock);
    l->telling = false;
    pthread_mutex_unlock(&l->lock);
}

static void on_writable(void *arg, int link)
{
    (void)link;
    links_tell(arg, instance_tell_writable);
}

/* The outboxes are shared, so all instances are told. */
static void on_pressure(void *arg, int link, bool on)
{
    struct links *l = arg;

    atomic_store(&l->pressed[link], on);
    links_tell(l, instance_tell_pressure);
}

/* ---- what the bus counts ---------------------------------------------------------------------------------------------------------- */

static void read_bus(void *arg, struct metrics_out *out)
{
    static const char *const links[] = {"bulk", "live", "system", "callout"};
    struct bus_reader *r = arg;
    struct bus_counters counters;
    uint64_t value;

    for (int link = 0; link < BUS_N_LINKS && r->links->bus; link++) {
        struct metric_label label = {"link", links[link]};

        if ((link == BUS_SYSTEM && !broker_connections(r->links->broker)) || (link == BUS_CALLOUT && !broker_logins(r->links->broker)))
            continue;
        bus_counters(r->links->bus, link, &counters);
        memcpy(&value, (const char *)&counters + r->metric->offset, sizeof value);
        if (r->metric == &bus_metrics[0] && value > 0)
            value--; /* the first connection is no reconnect */
        metrics_emit(out, &label, 1, (double)value);
    }
}

static int watch_bus(struct links *l)
{
    int err = 0;

    for (size_t i = 0; i < N_BUS_METRICS && !err; i++) {
        const struct bus_metric *m = &bus_metrics[i];
        struct metric_spec spec = {.type = m->type, .name = m->name, .help = m->help};

        l->readers[i] = (struct bus_reader){l, m};
        err = metrics_watch(broker_metrics(l->broker), &spec, read_bus, &l->readers[i]);
    }
    return err;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------ */

/* key: the configuration's, where path stands; it may be NULL. */
static int read_password(const struct links *l, const char *key, const char *path, char **ret_password)
{
    struct config_error err;
    char line[512];
    FILE *f;

    if (!path)
        return 0;
    f = fopen(path, "re");
    if (!f || !fgets(line, sizeof line, f)) {
        (void)config_fault(broker_config(l->broker), key, &err, "%s: %s", path, f ? "is empty" : "cannot be read");
        log_error("bus", "%s", err.text);
        if (f)
            (void)fclose(f);
        return MUSTER_EINVAL;
    }
    (void)fclose(f);
    line[strcspn(line, "\r\n")] = '\0';
    *ret_password = strdup(line);
    explicit_bzero(line, sizeof line);
    return *ret_password ? 0 : MUSTER_ENOMEM;
}

int links_new(struct broker *broker, struct links **ret_links)
{
    struct links *l = calloc(1, sizeof *l);
    int err;

    if (!l)
        return MUSTER_ENOMEM;
    l->broker = broker;
    l->telling = true;
    ASSERT(pthread_mutex_init(&l->lock, NULL) == 0);
    err = health_add(broker_health(broker), HEALTH_LINK, "bulk", true, &l->health[BUS_BULK]);
    if (!err)
        err = health_add(broker_health(broker), HEALTH_LINK, "live", true, &l->health[BUS_LIVE]);
    if (err) {
        links_free(l);
        return err;
    }
    *ret_links = l;
    return 0;
}

int links_open(struct links *l)
{
    const struct config *c = broker_config(l->broker);
    char name[128];
    struct bus_options options = {.urls = c->nats.urls,
                                  .n_urls = c->nats.n_urls,
                                  .name = name,
                                  .creds = c->nats.creds,
                                  .user = c->nats.user,
                                  .tls_ca = c->nats.tls_ca,
                                  .tls_cert = c->nats.tls_cert,
                                  .tls_key = c->nats.tls_key,
                                  .answers = {l->agent_answers, l->service_answers},
                                  .max_out_msgs = OUTBOX_MSGS,
                                  .max_out_bytes = outbox_bytes,
                                  .on_link = on_link,
                                  .on_writable = on_writable,
                                  .on_pressure = on_pressure,
                                  .arg = l};
    struct bus_login system = {.creds = c->nats.system_creds, .user = c->nats.system_user};
    struct bus_login callout = {.creds = c->nats.callout_creds, .user = c->nats.callout_user};
    int err = read_password(l, "nats.password_file", c->nats.password_file, &l->password);

    (void)snprintf(name, sizeof name, "muster %s", broker_id(l->broker));
    (void)snprintf(l->agent_answers, sizeof l->agent_answers, "%s.*.to._muster.*", broker_root(l->broker));
    (void)snprintf(l->service_answers, sizeof l->service_answers, "%s.*.box.*", broker_root(l->broker));
    options.password = l->password;
    if (!err && broker_connections(l->broker)) {
        err = read_password(l, "nats.system_password_file", c->nats.system_password_file, &l->system_password);
        system.password = l->system_password;
        options.system = &system;
    }
    if (!err && broker_logins(l->broker)) {
        err = read_password(l, "nats.callout_password_file", c->nats.callout_password_file, &l->callout_password);
        callout.password = l->callout_password;
        options.callout = &callout;
    }
    if (!err)
        err = bus_open(&options, &l->bus);
    if (!err)
        say_links(l);
    return err ? err : watch_bus(l);
}

static void wipe(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

void links_close(struct links *l)
{
    if (l)
        bus_close(l->bus, CLOCK_S);
}

void links_free(struct links *l)
{
    if (!l)
        return;
    wipe(l->password);
    wipe(l->system_password);
    wipe(l->callout_password);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}
