/* The broker and its life; see broker.h. */
#include "core/broker.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "core/admin.h"
#include "core/advisories.h"
#include "core/audit.h"
#include "core/audit_admin.h"
#include "core/certificates.h"
#include "core/check.h"
#include "core/connections.h"
#include "core/departures.h"
#include "core/handover.h"
#include "core/dispatch.h"
#include "core/health.h"
#include "core/host_roster.h"
#include "core/instances.h"
#include "core/links.h"
#include "core/logins.h"
#include "core/peers.h"
#include "core/quotas.h"
#include "core/registry.h"
#include "core/revocation.h"
#include "core/services.h"
#include "core/watch.h"
#include "metrics/metrics.h"
#include "tenant/credentials.h"
#include "tenant/tenant.h"

static const int64_t end_ns = 2 * CLOCK_S; /* that a lane may take to end */

struct broker {
    const struct config *config;
    char id[96];
    struct metrics *metrics;
    struct health *health;
    struct tenants *tenants;
    struct links *links;
    struct lane *lane; /* the core lane: registry, streams, watch */
    struct registry *registry;
    struct audit *audit;
    struct audit_admin *audit_admin;
    struct dispatch *dispatch;
    struct services *services;
    struct advisories *advisories;
    struct departures *departures;
    struct handover *handover;
    struct connections *connections; /* NULL: there is no login in the system account */
    struct revocation *revocation;   /* likewise */
    struct logins *logins;           /* NULL: no plugin wants them */
    struct host_roster *roster;
    struct peers *peers;
    struct quotas *quotas;
    struct watch *watch;
    struct admin *admin;
    struct certificates *certificates;
    bool lane_open; /* what lives on the core lane was started */
    struct instances *instances;
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
    return links_bus(b->links);
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

struct links *broker_links(const struct broker *b)
{
    return b->links;
}

struct registry *broker_registry(const struct broker *b)
{
    return b->registry;
}

struct lane *broker_lane(const struct broker *b)
{
    return b->lane;
}

struct dispatch *broker_dispatch(const struct broker *b)
{
    return b->dispatch;
}

struct credentials *broker_credentials(const struct broker *b)
{
    return dispatch_credentials(b->dispatch);
}

struct revocation *broker_revocation(const struct broker *b)
{
    return b->revocation;
}

struct audit *broker_audit(const struct broker *b)
{
    return b->audit;
}

struct services *broker_services(const struct broker *b)
{
    return b->services;
}

struct advisories *broker_advisories(const struct broker *b)
{
    return b->advisories;
}

struct departures *broker_departures(const struct broker *b)
{
    return b->departures;
}

struct handover *broker_handover(const struct broker *b)
{
    return b->handover;
}

struct host_roster *broker_roster(const struct broker *b)
{
    return b->roster;
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
    if (broker_bus(b)) {
        (void)snprintf(why, BUS_WHY_SIZE, "service " MUSTER_SYS ": its link is opened at the start of the broker only: restart it");
        return MUSTER_EACCES;
    }
    err = connections_new(b, &b->connections);
    if (err)
        (void)snprintf(why, BUS_WHY_SIZE, "connections cannot be followed (error %d)", err);
    return err;
}

struct logins *broker_logins(const struct broker *b)
{
    return b->logins;
}

int broker_want_logins(struct broker *b, char *why)
{
    if (b->logins || !broker_bus(b))
        return b->logins ? 0 : logins_new(b, &b->logins, why);
    (void)snprintf(why, BUS_WHY_SIZE, "service " MUSTER_LOGIN ": its link is opened at the start of the broker only: restart it");
    return MUSTER_EACCES;
}

struct instance *const *broker_instances(const struct broker *b, size_t *ret_n)
{
    return instances_list(b->instances, ret_n);
}

bool broker_is_pressed(const struct broker *b)
{
    return links_are_pressed(b->links);
}

void broker_look_at_certificates(struct broker *b, bool at_once)
{
    certificates_look(b->certificates, at_once);
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

/* One that is declared while the broker runs was not looked for when the tenants were read. */
int broker_declare_limit(struct broker *b, const char *name)
{
    int err = tenants_declare(b->tenants, name);

    return err ? err : registry_read(b->registry);
}

/* ---- the core lane -------------------------------------------------------------------------------------------------------------- */

/* A stream that lets agents forge: no other way than to stop. */
static void on_danger(void *arg, const char *why)
{
    struct broker *b = arg;

    log_error("streams", "%s", why);
    atomic_store(&b->exit_code, 1);
    (void)kill(getpid(), SIGTERM); /* main() drains and ends with the exit code */
}

static int open_lane(void *arg)
{
    struct broker *b = arg;
    int err = registry_open(b->registry);

    if (!err && b->config->postgres.dsn)
        err = audit_admin_open(b->audit_admin);
    if (!err)
        err = dispatch_open(b->dispatch);
    if (!err)
        err = connections_open(b->connections);
    if (!err)
        err = revocation_open(b->revocation);
    if (!err)
        err = peers_open(b->peers);
    if (!err)
        err = quotas_open(b->quotas);
    if (err) {
        log_error("core", "streams, tenants or dispatch cannot be opened (error %d)", err);
        return err;
    }
    registry_start(b->registry);
    b->lane_open = true;
    return 0;
}

static int close_lane(void *arg)
{
    struct broker *b = arg;

    registry_close(b->registry);
    audit_admin_close(b->audit_admin);
    dispatch_close(b->dispatch);
    revocation_close(b->revocation);
    quotas_close(b->quotas);
    peers_close(b->peers);
    connections_close(b->connections);
    return 0;
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
#define LIMIT(id, name, ...) c->limits.name,
    int64_t defaults[TENANT_N_LIMITS] = {TENANT_LIMITS(LIMIT)};
#undef LIMIT
    int err = tenants_new(&b->tenants);

    for (int i = 0; i < TENANT_N_LIMITS; i++)
        defaults[i] = defaults[i] > 0 ? defaults[i] : -1;
    defaults[TENANT_SUBSCRIPTIONS] = -1; /* the servers hold it: it stands in every credential */
    if (!err)
        tenants_set_defaults(b->tenants, defaults);
    return err;
}

static int add_health(struct broker *b)
{
    int err = links_new(b, &b->links);

    b->departures = departures_new();
    if (!err && !b->departures)
        err = MUSTER_ENOMEM;
    if (!err)
        err = handover_new(b->metrics, &b->handover);
    if (!err)
        err = registry_new(b, on_danger, b, &b->registry);
    if (!err)
        err = health_watch(b->health, b->metrics);
    if (!err)
        err = metrics_watch_process(b->metrics);
    return err;
}

static void on_connect(void *arg, const struct sys_client *client)
{
    struct broker *b = arg;

    revocation_saw(b->revocation, client);
    quotas_saw(b->quotas, client);
}

static void on_gone(void *arg, const struct sys_client *client)
{
    struct broker *b = arg;

    quotas_gone(b->quotas, client);
    if (!*client->tenant || client->is_operator)
        departures_note(b->departures, client->server, client->id);
}

static void on_credential(void *arg, const char *tenant, const char *agent, int state)
{
    struct broker *b = arg;

    if (state == CREDENTIAL_LIVE)
        revocation_lift(b->revocation, tenant, agent);
    else
        revocation_cut(b->revocation, tenant, agent);
}

/* Wherever there is a login for it, also when no plugin asks: who is revoked must be cut. */
static int follow_connections(struct broker *b)
{
    char why[BUS_WHY_SIZE];
    int err = broker_want_system(b, why);

    if (err == MUSTER_EACCES)
        return 0; /* there is none */
    if (err == MUSTER_EINVAL) {
        log_warn("core", "connections are not followed, and who is revoked is not cut by this broker: %s", why);
        return 0;
    }
    if (!err)
        err = revocation_new(b, &b->revocation);
    if (!err)
        err = credentials_on_change(broker_credentials(b), on_credential, b);
    if (!err)
        connections_on_connect(b->connections, on_connect, b);
    if (!err)
        connections_on_gone(b->connections, on_gone, b);
    return err;
}

/* What the others stand on. */
static int make_ground(struct broker *b)
{
    int err = look_at_files(b);

    if (!err)
        err = instances_new(b, &b->instances);
    if (!err)
        err = add_health(b);
    if (!err)
        err = advisories_new(b, &b->advisories);
    if (!err)
        err = certificates_new(&(struct certificates_options){b->config, b->health, b->metrics}, &b->certificates);
    if (!err)
        err = make_tenants(b);
    return err ? err : lane_new("core", &b->lane);
}

static int make_parts(struct broker *b)
{
    int err = audit_new(b, &b->audit);

    if (!err)
        err = audit_admin_new(b, &b->audit_admin);
    if (!err)
        err = dispatch_new(b, &b->dispatch);
    if (!err)
        err = services_new(b, &b->services);
    if (!err)
        err = host_roster_new(b, &b->roster);
    if (!err)
        err = instances_load(b->instances);
    if (!err)
        err = follow_connections(b);
    if (!err)
        err = peers_new(b, &b->peers);
    return err ? err : quotas_new(b, b->peers, &b->quotas);
}

int broker_new(const struct config *config, struct broker **ret_broker)
{
    struct broker *b = calloc(1, sizeof *b);
    int err = b ? 0 : MUSTER_ENOMEM;

    if (err)
        return err;
    b->config = config;
    make_id(b);
    b->metrics = metrics_new();
    b->health = health_new(b->id);
    if (!b->metrics || !b->health)
        err = MUSTER_ENOMEM;
    if (!err)
        err = make_ground(b);
    if (!err)
        err = make_parts(b);
    if (err) {
        broker_free(b);
        return err;
    }
    *ret_broker = b;
    return 0;
}

static int open_admin(struct broker *b)
{
    const struct config *c = b->config;
    const struct http_files files = {c->broker.tls_cert, c->broker.tls_key, c->broker.tls_client_ca};
    struct admin_options options = {
        .listen = c->broker.admin, .files = files.cert ? &files : NULL, .health = b->health, .metrics = b->metrics};
    struct config_error fault;
    char why[HTTP_WHY_SIZE];
    int err = admin_open(&options, &b->admin, why);

    if (err) {
        (void)config_fault(b->config, "broker.admin", &fault, "%s", why + strlen("broker.admin: ")); /* it begins with the key */
        log_error("http", "%s", fault.text);
    }
    certificates_serve(b->certificates, b->admin);
    return err;
}

int broker_start(struct broker *b)
{
    int err = open_admin(b);

    if (!err)
        err = links_open(b->links);
    if (!err)
        err = lane_start(b->lane);
    if (!err)
        err = audit_start(b->audit);
    if (!err)
        err = watch_new(b, &b->watch); /* sees a start() that hangs, too */
    if (!err)
        err = instances_start(b->instances);
    if (!err)
        err = lane_call(b->lane, open_lane, b);
    if (!err && !b->config->postgres.dsn)
        err = dispatch_start(b->dispatch);
    if (!err)
        err = services_start(b->services);
    return err;
}

static void drain(struct broker *b, int64_t deadline)
{
    logins_stop(b->logins);
    dispatch_stop(b->dispatch);
    services_stop(b->services);
    instances_drain(b->instances, deadline);
    while ((dispatch_open_requests(b->dispatch) || logins_open(b->logins)) && clock_now_ns() < deadline)
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

int broker_stop(struct broker *b, int64_t timeout_ns)
{
    int err;

    drain(b, clock_now_ns() + timeout_ns);
    err = end_lane(b, clock_now_ns() + end_ns);
    return err ? err : instances_end(b->instances, end_ns);
}

void broker_free(struct broker *b)
{
    if (!b)
        return;
    watch_free(b->watch);
    admin_close(b->admin);
    (void)end_lane(b, INT64_MAX); /* broker_stop() has ended it, or it never hung */
    instances_clear(b->instances);
    audit_stop(b->audit); /* instances answer to their end */
    links_close(b->links);
    services_free(b->services);
    dispatch_free(b->dispatch);
    audit_free(b->audit);
    audit_admin_free(b->audit_admin);
    lane_free(b->lane);
    revocation_free(b->revocation);
    quotas_free(b->quotas);
    peers_free(b->peers);
    connections_free(b->connections);
    departures_free(b->departures);
    handover_free(b->handover);
    logins_free(b->logins);
    advisories_free(b->advisories);
    registry_free(b->registry);
    instances_free(b->instances);
    host_roster_free(b->roster);
    tenants_free(b->tenants);
    certificates_free(b->certificates);
    health_free(b->health);
    metrics_free(b->metrics);
    links_free(b->links);
    free(b);
}
