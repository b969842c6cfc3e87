/*
 * core/broker.h - the broker: its configuration, links, registry and instances, and their life from start to drain.
 */
#ifndef MUSTER_CORE_BROKER_H
#define MUSTER_CORE_BROKER_H

#include <stdbool.h>
#include <stdint.h>

#include "bus/bus.h"
#include "config/config.h"

struct broker;
struct health;
struct metrics;
struct tenants;
struct instance;
struct dispatch;
struct services;
struct audit;
struct connections;
struct revocation;
struct credentials;
struct logins;
struct links;
struct host_roster;
struct registry;
struct advisories;
struct departures;
struct handover;

/* Build everything that does not need the outside world; what fails has been logged by name. */
int broker_new(const struct config *config, struct broker **ret_broker);
/* Start links, registry, endpoints and plugins. Returns when they are started, not when they are ready. */
int broker_start(struct broker *broker);
/* Stop taking work, let the instances finish, end them. MUSTER_ETIME: a plugin hangs, and the process can only be left as it is:
 * the broker must not be freed. Also after a start that failed. */
int broker_stop(struct broker *broker, int64_t timeout_ns);
void broker_free(struct broker *broker);
/* True while an outbox that has been four fifths full is not half free again. Any thread. */
bool broker_is_pressed(const struct broker *broker);
/* Take up certificates that have changed, as certificates_look(). Main thread. */
void broker_look_at_certificates(struct broker *broker, bool at_once);
bool broker_is_ready(struct broker *broker, char *why, size_t size);
/* Nonzero: the process has to end with this exit code (a stalled lane, a stream that lets agents forge). */
int broker_exit_code(const struct broker *broker);

const struct config *broker_config(const struct broker *broker);
const char *broker_id(const struct broker *broker);
const char *broker_root(const struct broker *broker);
struct links *broker_links(const struct broker *broker);
struct bus *broker_bus(const struct broker *broker);
struct health *broker_health(const struct broker *broker);
struct metrics *broker_metrics(const struct broker *broker);
struct registry *broker_registry(const struct broker *broker);
struct tenants *broker_tenants(const struct broker *broker);
struct dispatch *broker_dispatch(const struct broker *broker);
struct credentials *broker_credentials(const struct broker *broker); /* the names that are known here */
struct services *broker_services(const struct broker *broker);
struct revocation *broker_revocation(const struct broker *broker); /* NULL as broker_connections() */
struct audit *broker_audit(const struct broker *broker);
struct advisories *broker_advisories(const struct broker *broker);
struct departures *broker_departures(const struct broker *broker);
struct handover *broker_handover(const struct broker *broker);
struct connections *broker_connections(const struct broker *broker); /* NULL: there is no login in the system account */
/* A plugin that is being made wants muster.sys/1: there will be a link to the system account. why tells what the configuration
 * lacks for it; of BUS_WHY_SIZE bytes. */
int broker_want_system(struct broker *broker, char *why);
struct host_roster *broker_roster(const struct broker *broker);
struct logins *broker_logins(const struct broker *broker); /* NULL: no plugin wants them */
/* The same for muster.login/1 and the link to the account that servers ask. */
int broker_want_logins(struct broker *broker, char *why);
/* A service counts objects of a tenant under this name. Errors as tenants_declare(). Any thread. */
int broker_declare_limit(struct broker *broker, const char *name);
/* Fixed once broker_new() has returned. */
struct instance *const *broker_instances(const struct broker *broker, size_t *ret_n);
struct lane *broker_lane(const struct broker *broker); /* the core lane: registry, streams, watch */

#endif
