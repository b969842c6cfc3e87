/* The broker and its life; see broker.h. */
#include "core/broker.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "core/admin.h"
#include "core/check.h"
#include "core/connections.h"
#include "core/dispatch.h"
#include "core/health.h"
#include "core/instance.h"
#include "core/services.h"
#include "core/streams.h"
#include "core/sweep.h"
#include "core/watch.h"
#include "metrics/metrics.h"
#include "sql/fault.h"
#include "tenant/tenant.h"

enum { OUTBOX_MSGS = 32768, CHECK_PERIOD_MS = 60000 };
static const size_t outbox_bytes = 64u << 20;
static const int64_t end_ns = 2 * CLOCK_S; /* that a lane may take to end */
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
    struct broker *broker;
    const struct bus_metric *metric;
};

struct broker {
    const struct config *config;
    char id[96];
    char agent_answers[96], service_answers[96]; /* where agents, and services, answer what a plugin asks them; see host_bus.c */
    char *password, *system_password; /* of a static server, read from their files; wiped at the end */
    struct metrics *metrics;
    struct health *health;
    struct health_component *link_health[BUS_N_LINKS], *postgres_health;
    struct tenants *tenants;
    struct bus *bus;
    struct bus_reader bus_readers[N_BUS_METRICS];
    struct lane *lane; /* the core lane: registry, streams, watch */
    struct streams *streams;
    struct sweep *sweep;
    struct dispatch *dispatch;
    struct services *services;
    struct connections *connections; /* NULL: no plugin wants them */
    struct watch *watch;
    struct admin *admin;
    uv_timer_t check_timer;
    bool lane_open; /* what lives on the core lane was started */
    atomic_bool serving;  /* requests are taken, since the registry was read first; set on the core lane */
    bool registry_up;     /* core lane */
    uint64_t histories; /* core lane: see histories_changed() */
    struct instance **instances;
    size_t n_instances;
    atomic_bool link_up[BUS_N_LINKS], link_pressed[BUS_N_LINKS];
    pthread_mutex_t tell_lock; /* guards telling: held while instances are told from other threads */
    bool telling;              /* false once they are being freed */
    atomic_int exit_code;
};

/* ---- what the others ask ------------------------------------------------------------------------------------------------------ */

const struct config *broker_config(const struct broker *b)
{
    return b->config;
}

const char *broker_id(const struct broker *b)
{
    return b->id;
}

const char *broker_root(const struct broker *b)
{
    return b->config->broker.root;
}

struct bus *broker_bus(const struct broker *b)
{
    return b->bus;
}

struct health *broker_health(const struct broker *b)
{
    return b->health;
}

struct metrics *broker_metrics(const struct broker *b)
{
    return b->metrics;
}

struct tenants *broker_tenants(const struct broker *b)
{
    return b->tenants;
}

struct lane *broker_lane(const struct broker *b)
{
    return b->lane;
}

struct dispatch *broker_dispatch(const struct broker *b)
{
    return b->dispatch;
}

struct services *broker_services(const struct broker *b)
{
    return b->services;
}

struct connections *broker_connections(const struct broker *b)
{
    return b->connections;
}

int broker_want_system(struct broker *b, char *why)
{
    int err = b->connections ? 0 : connections_may(b, why);

    if (err || b->connections)
        return err;
    if (b->bus) {
        (void)snprintf(why, BUS_WHY_SIZE, "service " MUSTER_SYS ": its link is opened at the start of the broker only: restart it");
        return MUSTER_EACCES;
    }
    err = connections_new(b, &b->connections);
    if (err)
        (void)snprintf(why, BUS_WHY_SIZE, "connections cannot be followed (error %d)", err);
    return err;
}

struct instance *const *broker_instances(const struct broker *b, size_t *ret_n)
{
    *ret_n = b->n_instances;
    return b->instances;
}

bool broker_is_pressed(const struct broker *b)
{
    return atomic_load(&b->link_pressed[BUS_BULK]) || atomic_load(&b->link_pressed[BUS_LIVE]);
}

int broker_exit_code(const struct broker *b)
{
    return atomic_load(&b->exit_code);
}

bool broker_is_ready(struct broker *b, char *why, size_t size)
{
    struct buf line = {0};
    bool ready = health_is_ready(b->health);

    health_put_line(b->health, &line);
    (void)snprintf(why, size, "%s", line.data ? line.data : "");
    buf_done(&line);
    return ready;
}

static void say_registry(struct broker *b)
{
    health_set(b->postgres_health, MUSTER_HEALTH_OK, "ok", "following muster.tenants and muster.tables");
}

static int tell_when_heard(struct broker *b);

/* ---- links ---------------------------------------------------------------------------------------------------------------------- */

struct link_change {
    struct lane_item item;
    struct broker *broker;
};

static void check_streams(struct lane_item *item)
{
    struct link_change *change = (struct link_change *)item;

    if (change->broker->streams)
        streams_check(change->broker->streams);
    free(change);
}

static void drop_change(struct lane_item *item)
{
    free(item);
}

static void ask_for_check(struct broker *b)
{
    struct link_change *change = malloc(sizeof *change);

    if (!change)
        return; /* the minute's check makes it good */
    *change = (struct link_change){.item = {.run = check_streams, .drop = drop_change}, .broker = b};
    lane_push(b->lane, &change->item);
}

/* On the core lane. A late answer that finds the link away again leaves it as it was told. */
static void on_heard(void *arg, int code, const struct bus_msg *msg)
{
    struct broker *b = arg;

    (void)msg;
    if (code == MUSTER_ETIME) {
        tell_when_heard(b);
        return;
    }
    pthread_mutex_lock(&b->tell_lock);
    if (!code && atomic_load(&b->link_up[BUS_LIVE]))
        health_set(b->link_health[BUS_LIVE], MUSTER_HEALTH_OK, "ok", "connected to NATS");
    pthread_mutex_unlock(&b->tell_lock);
    if (b->registry_up)
        say_registry(b);
}

/* Who is told that the broker is ready may ask it at once: what it listens to must have reached the server by then. */
static int tell_when_heard(struct broker *b)
{
    return bus_flush(b->bus, BUS_LIVE, &(struct bus_call){.lane = b->lane, .owner = b, .timeout_ns = flush_ns, .fn = on_heard, .arg = b});
}

static void say_link(struct broker *b, int link, bool up, const char *reason)
{
    connections_on_link(b->connections, link, up, reason);
    if (link == BUS_SYSTEM)
        return; /* it was said there */
    if (up && link == BUS_LIVE && atomic_load(&b->serving) && tell_when_heard(b) == 0)
        return; /* it is said then */
    if (up)
        health_set(b->link_health[link], MUSTER_HEALTH_OK, "ok", "connected to NATS");
    else
        health_set(b->link_health[link], MUSTER_HEALTH_DOWN, "nats_away", "NATS is away: %s", reason);
}

/* Plugins hear of one NATS: it is there when bulk and live are. A link that goes once the instances have ended is one that the broker
 * closes, and no fault. On a link's thread. */
static void on_link(void *arg, int link, bool up, const char *reason)
{
    struct broker *b = arg;
    bool both;

    pthread_mutex_lock(&b->tell_lock); /* so that what is told last is how it is */
    if (b->telling)
        say_link(b, link, up, reason);
    atomic_store(&b->link_up[link], up);
    both = atomic_load(&b->link_up[BUS_BULK]) && atomic_load(&b->link_up[BUS_LIVE]);
    for (size_t i = 0; i < b->n_instances && b->telling && link != BUS_SYSTEM && (both || !up); i++)
        instance_tell_link(b->instances[i], both);
    pthread_mutex_unlock(&b->tell_lock);
    if (both && link != BUS_SYSTEM)
        ask_for_check(b);
}

static void on_writable(void *arg, int link)
{
    struct broker *b = arg;

    (void)link;
    pthread_mutex_lock(&b->tell_lock);
    for (size_t i = 0; i < b->n_instances && b->telling; i++)
        instance_tell_writable(b->instances[i]);
    pthread_mutex_unlock(&b->tell_lock);
}

/* The outboxes are shared, so all instances are told. */
static void on_pressure(void *arg, int link, bool on)
{
    struct broker *b = arg;

    atomic_store(&b->link_pressed[link], on);
    pthread_mutex_lock(&b->tell_lock);
    for (size_t i = 0; i < b->n_instances && b->telling; i++)
        instance_tell_pressure(b->instances[i]);
    pthread_mutex_unlock(&b->tell_lock);
}

static void read_bus(void *arg, struct metrics_out *out)
{
    static const char *const links[] = {"bulk", "live", "system"};
    struct bus_reader *r = arg;
    struct bus_counters counters;
    uint64_t value;

    for (int link = 0; link < (r->broker->connections ? BUS_N_LINKS : BUS_SYSTEM) && r->broker->bus; link++) {
        struct metric_label label = {"link", links[link]};

        bus_counters(r->broker->bus, link, &counters);
        memcpy(&value, (const char *)&counters + r->metric->offset, sizeof value);
        if (r->metric == &bus_metrics[0] && value > 0)
            value--; /* the first connection is no reconnect */
        metrics_emit(out, &label, 1, (double)value);
    }
}

static int watch_bus(struct broker *b)
{
    int err = 0;

    for (size_t i = 0; i < N_BUS_METRICS && !err; i++) {
        const struct bus_metric *m = &bus_metrics[i];
        struct metric_spec spec = {.type = m->type, .name = m->name, .help = m->help};

        b->bus_readers[i] = (struct bus_reader){b, m};
        err = metrics_watch(b->metrics, &spec, read_bus, &b->bus_readers[i]);
    }
    return err;
}

/* key: the configuration's, where path stands; it may be NULL. */
static int read_password(const struct broker *b, const char *key, const char *path, char **ret_password)
{
    struct config_error err;
    char line[512];
    FILE *f;

    if (!path)
        return 0;
    f = fopen(path, "re");
    if (!f || !fgets(line, sizeof line, f)) {
        (void)config_fault(b->config, key, &err, "%s: %s", path, f ? "is empty" : "cannot be read");
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

static int open_bus(struct broker *b)
{
    const struct config *c = b->config;
    char name[128];
    struct bus_options options = {.urls = c->nats.urls,
                                  .n_urls = c->nats.n_urls,
                                  .name = name,
                                  .creds = c->nats.creds,
                                  .user = c->nats.user,
                                  .tls_ca = c->nats.tls_ca,
                                  .tls_cert = c->nats.tls_cert,
                                  .tls_key = c->nats.tls_key,
                                  .answers = {b->agent_answers, b->service_answers},
                                  .max_out_msgs = OUTBOX_MSGS,
                                  .max_out_bytes = outbox_bytes,
                                  .on_link = on_link,
                                  .on_writable = on_writable,
                                  .on_pressure = on_pressure,
                                  .arg = b};
    struct bus_login system = {.creds = c->nats.system_creds, .user = c->nats.system_user};
    int err = read_password(b, "nats.password_file", c->nats.password_file, &b->password);

    (void)snprintf(name, sizeof name, "muster %s", b->id);
    (void)snprintf(b->agent_answers, sizeof b->agent_answers, "%s.*.to._muster.*", broker_root(b));
    (void)snprintf(b->service_answers, sizeof b->service_answers, "%s.*.box.*", broker_root(b));
    options.password = b->password;
    if (!err && b->connections) {
        err = read_password(b, "nats.system_password_file", c->nats.system_password_file, &b->system_password);
        system.password = b->system_password;
        options.system = &system;
    }
    if (!err)
        err = bus_open(&options, &b->bus);
    return err ? err : watch_bus(b);
}

/* ---- the core lane -------------------------------------------------------------------------------------------------------------- */

static void on_postgres(void *arg, const struct sql_fault *fault, const char *reason)
{
    struct broker *b = arg;

    b->registry_up = !fault;
    if (!fault && !atomic_load(&b->serving)) /* not before: other brokers know the tenants, and would be asked less */
        atomic_store(&b->serving, dispatch_start(b->dispatch) == 0);
    if (!fault && tell_when_heard(b) != 0)
        say_registry(b); /* the link says that it is away */
    if (fault)
        health_set(b->postgres_health, MUSTER_HEALTH_DOWN, fault->code, "%s; %s", reason, fault->help);
}

/* A number that is another when a tenant comes or goes, or its history changes. */
static void add_history(void *arg, const struct muster_tenant *tenant)
{
    uint64_t *sum = arg;

    *sum += tenant->hash * (tenants_history(tenant) + 1);
}

static bool histories_changed(struct broker *b)
{
    uint64_t before = b->histories;

    b->histories = 0;
    tenants_each(b->tenants, add_history, &b->histories);
    return b->histories != before;
}

static void on_tenants(void *arg, unsigned int what)
{
    struct broker *b = arg;

    pthread_mutex_lock(&b->tell_lock);
    for (size_t i = 0; i < b->n_instances && b->telling; i++)
        instance_tell_tables(b->instances[i]);
    pthread_mutex_unlock(&b->tell_lock);
    if (what & TENANTS_CHANGED)
        connections_tenants_changed(b->connections);
    if (what & TENANTS_CHANGED && histories_changed(b)) /* each stream is asked about */
        streams_check(b->streams);
}

/* A stream that lets agents forge: no other way than to stop. */
static void on_danger(void *arg, const char *why)
{
    struct broker *b = arg;

    log_error("streams", "%s", why);
    atomic_store(&b->exit_code, 1);
    (void)kill(getpid(), SIGTERM); /* main() drains and ends with the exit code */
}

static void on_check(uv_timer_t *timer)
{
    struct broker *b = timer->data;

    streams_check(b->streams);
}

static int open_registry(struct broker *b)
{
    struct tenants_source source = {
        .loop = lane_loop(b->lane), .dsn = b->config->postgres.dsn, .broker_id = b->id, .on_link = on_postgres, .arg = b};
    struct config_error why;
    int err = tenants_open(b->tenants, &source);

    if (err == MUSTER_EINVAL) {
        (void)config_fault(b->config, "postgres.dsn", &why, "is no connection string that PostgreSQL's library can read");
        log_error("postgres", "%s", why.text);
    }
    return err ? err : sweep_new(b, &b->sweep);
}

static int open_lane(void *arg)
{
    struct broker *b = arg;
    int err = streams_new(b, on_danger, b, &b->streams);

    if (!err)
        err = tenants_on_change(b->tenants, on_tenants, b);
    if (!err && b->config->postgres.dsn)
        err = open_registry(b);
    if (!err)
        err = dispatch_open(b->dispatch);
    if (!err)
        err = connections_open(b->connections);
    if (err) {
        log_error("core", "streams, tenants or dispatch cannot be opened (error %d)", err);
        return err;
    }
    ASSERT(uv_timer_init(lane_loop(b->lane), &b->check_timer) == 0);
    b->check_timer.data = b;
    ASSERT(uv_timer_start(&b->check_timer, on_check, CHECK_PERIOD_MS, CHECK_PERIOD_MS) == 0);
    b->lane_open = true;
    streams_check(b->streams);
    return 0;
}

static int close_lane(void *arg)
{
    struct broker *b = arg;

    streams_close(b->streams);
    tenants_close(b->tenants);
    dispatch_close(b->dispatch);
    connections_close(b->connections);
    sweep_free(b->sweep);
    uv_close((uv_handle_t *)&b->check_timer, NULL);
    return 0;
}

/* ---- plugins -------------------------------------------------------------------------------------------------------------------- */

static int add_instance(struct broker *b, const struct muster_plugin *plugin, const struct config_plugin *how, uint32_t lane)
{
    struct instance **more = realloc(b->instances, (b->n_instances + 1) * sizeof(struct instance *));
    int err;

    if (!more)
        return MUSTER_ENOMEM;
    b->instances = more;
    err = instance_new(b, plugin, how, lane, &more[b->n_instances]);
    if (!err)
        b->n_instances++;
    return err;
}

static void tell_not_loaded(struct broker *b, const struct config_plugin *how, const char *why)
{
    struct health_component *component;

    if (health_add(b->health, HEALTH_PLUGIN, how->instance, how->required, &component) == 0)
        health_set(component, MUSTER_HEALTH_DOWN, "not_loaded", "%s", why);
    else
        log_error("loader", "%s", why);
}

/* A plugin that is not required may be missing; what it said stays in /readyz. */
static int load_plugin(struct broker *b, const struct config_plugin *how)
{
    const struct muster_plugin *plugin;
    struct config_error why;
    int err = check_load(b->config, how, &plugin, &why);

    if (err) {
        tell_not_loaded(b, how, why.text);
        return err;
    }
    for (uint32_t lane = 0; !err && lane < (uint32_t)how->lanes; lane++)
        err = add_instance(b, plugin, how, lane);
    return err;
}

/* What will be opened later is looked at first: a mistake is told with its place in the configuration. */
static int look_at_files(const struct broker *b)
{
    struct config_error why;
    int err = check_files(b->config, &why);

    if (err)
        log_error("config", "%s", why.text);
    return err;
}

static int load_plugins(struct broker *b)
{
    for (size_t i = 0; i < b->config->n_plugins; i++) {
        const struct config_plugin *how = &b->config->plugins[i];
        int err = load_plugin(b, how);

        if (err && how->required)
            return err;
    }
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------ */

static void make_id(struct broker *b)
{
    char host[32] = "broker";

    if (strcmp(b->config->broker.id, "auto") != 0) {
        (void)snprintf(b->id, sizeof b->id, "%s", b->config->broker.id);
        return;
    }
    (void)gethostname(host, sizeof host - 1); /* the default stands when it fails */
    host[strcspn(host, ".")] = '\0';
    (void)snprintf(b->id, sizeof b->id, "%s-%d-%llx", host, (int)getpid(),
                   (unsigned long long)(clock_wall_ns() / CLOCK_S));
}

static int make_tenants(struct broker *b)
{
    const struct config *c = b->config;
    const int64_t limits[TENANT_N_LIMITS] = {[TENANT_REQUESTS_PER_S] = c->limits.requests_per_s,
                                             [TENANT_BURST] = c->limits.burst,
                                             [TENANT_QUEUED_MESSAGES] = c->limits.queued_messages,
                                             [TENANT_QUEUED_BYTES] = c->limits.queued_bytes,
                                             [TENANT_WATCHES] = c->limits.watches};
    int64_t defaults[TENANT_N_LIMITS];
    int err = tenants_new(&b->tenants);

    for (int i = 0; i < TENANT_N_LIMITS; i++)
        defaults[i] = limits[i] > 0 ? limits[i] : -1;
    if (!err)
        tenants_set_defaults(b->tenants, defaults);
    return err;
}

static int add_health(struct broker *b)
{
    int err = health_add(b->health, HEALTH_LINK, "bulk", true, &b->link_health[BUS_BULK]);

    if (!err)
        err = health_add(b->health, HEALTH_LINK, "live", true, &b->link_health[BUS_LIVE]);
    if (!err && b->config->postgres.dsn)
        err = health_add(b->health, HEALTH_POSTGRES, "registry", true, &b->postgres_health);
    if (!err)
        err = health_watch(b->health, b->metrics);
    if (!err)
        err = metrics_watch_process(b->metrics);
    return err;
}

int broker_new(const struct config *config, struct broker **ret_broker)
{
    struct broker *b = calloc(1, sizeof *b);
    int err = b ? 0 : MUSTER_ENOMEM;

    if (err)
        return err;
    b->config = config;
    b->telling = true;
    ASSERT(pthread_mutex_init(&b->tell_lock, NULL) == 0);
    make_id(b);
    b->metrics = metrics_new();
    b->health = health_new(b->id);
    if (!b->metrics || !b->health)
        err = MUSTER_ENOMEM;
    if (!err)
        err = look_at_files(b);
    if (!err)
        err = add_health(b);
    if (!err)
        err = make_tenants(b);
    if (!err)
        err = lane_new("core", &b->lane);
    if (!err)
        err = dispatch_new(b, &b->dispatch);
    if (!err)
        err = services_new(b, &b->services);
    if (!err)
        err = load_plugins(b);
    if (err) {
        broker_free(b);
        return err;
    }
    *ret_broker = b;
    return 0;
}

static int open_admin(struct broker *b)
{
    struct admin_options options = {.listen = b->config->broker.admin, .health = b->health, .metrics = b->metrics};
    struct config_error fault;
    char why[HTTP_WHY_SIZE];
    int err = admin_open(&options, &b->admin, why);

    if (err) {
        (void)config_fault(b->config, "broker.admin", &fault, "%s", why + strlen("broker.admin: ")); /* it begins with the key */
        log_error("http", "%s", fault.text);
    }
    return err;
}

static int start_instances(struct broker *b)
{
    for (size_t i = 0; i < b->n_instances; i++) {
        int err = instance_start(b->instances[i]);

        if (err && b->instances[i]->how->required)
            return err;
        /* The links may have come up before it could be told. Told twice does no harm. */
        if (!err && atomic_load(&b->link_up[BUS_BULK]) && atomic_load(&b->link_up[BUS_LIVE]))
            instance_tell_link(b->instances[i], true);
    }
    return 0;
}

int broker_start(struct broker *b)
{
    int err = open_admin(b);

    if (!err)
        err = open_bus(b);
    if (!err)
        err = lane_start(b->lane);
    if (!err)
        err = watch_new(b, &b->watch); /* sees a start() that hangs, too */
    if (!err)
        err = start_instances(b);
    if (!err)
        err = lane_call(b->lane, open_lane, b);
    if (!err && !b->config->postgres.dsn)
        err = dispatch_start(b->dispatch);
    if (!err)
        err = services_start(b->services);
    return err;
}

/* A plugin that has used up the time of all leaves the others a little. */
static int64_t no_less_than(int64_t deadline_ns, int64_t ns)
{
    int64_t least = clock_now_ns() + ns;

    return deadline_ns > least ? deadline_ns : least;
}

static void drain(struct broker *b, int64_t deadline)
{
    dispatch_stop(b->dispatch);
    services_stop(b->services);
    for (size_t i = 0; i < b->n_instances; i++)
        (void)instance_drain(b->instances[i], no_less_than(deadline, CLOCK_S / 2)); /* what hangs is told below */
    while (dispatch_open_requests(b->dispatch) && clock_now_ns() < deadline)
        (void)usleep(2000); /* requests that are held finish, or the deadline passes */
}

/* The core lane first: what it still owes the instances comes while they live. */
static int end_lane(struct broker *b, int64_t deadline_ns)
{
    int err = b->lane_open ? lane_call_until(b->lane, close_lane, b, deadline_ns) : 0;

    b->lane_open = false;
    if (!err)
        err = lane_stop_until(b->lane, deadline_ns);
    if (err)
        log_error("core", "the broker's own lane does not end: it hangs");
    return err;
}

static int end_instances(struct broker *b, int64_t each_ns)
{
    int result = 0;

    pthread_mutex_lock(&b->tell_lock);
    b->telling = false;
    pthread_mutex_unlock(&b->tell_lock);
    for (size_t i = 0; i < b->n_instances; i++) {
        struct instance *in = b->instances[i];
        struct lane_crumb who = {.callback = ""};
        int err = instance_end(in, no_less_than(0, each_ns));

        if (!err)
            continue;
        result = err;
        (void)lane_busy(in->lane, &who);
        log_error(in->area, "plugin %s %s does not end: it hangs in its callback \"%s\"%s%s", in->plugin->name, in->plugin->version,
                  who.callback, who.subject[0] ? " on " : "", who.subject);
    }
    return result;
}

int broker_stop(struct broker *b, int64_t timeout_ns)
{
    int err;

    drain(b, clock_now_ns() + timeout_ns);
    err = end_lane(b, clock_now_ns() + end_ns);
    return err ? err : end_instances(b, end_ns);
}

static void wipe(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

void broker_free(struct broker *b)
{
    if (!b)
        return;
    watch_free(b->watch);
    admin_close(b->admin);
    (void)end_lane(b, INT64_MAX); /* broker_stop() has ended it, or it never hung */
    for (size_t i = 0; i < b->n_instances; i++)
        instance_free(b->instances[i]);
    bus_close(b->bus, CLOCK_S);
    services_free(b->services);
    dispatch_free(b->dispatch);
    lane_free(b->lane);
    connections_free(b->connections);
    streams_free(b->streams);
    free(b->instances);
    tenants_free(b->tenants);
    health_free(b->health);
    metrics_free(b->metrics);
    wipe(b->password);
    wipe(b->system_password);
    (void)pthread_mutex_destroy(&b->tell_lock);
    free(b);
}
