/*
 * core/logins.h - who logs in with a token: what NATS servers ask in the callout's account, and which instance answers. What
 * stands behind muster.login/1 is host_login.c's.
 *
 * Shape    Made when the first plugin finds muster.login/1. Every broker that has one hears the servers in one queue group; of its
 *          instances that serve, the next one gets the request, on its lane.
 * Bounds   LOGINS_MAX and LOGINS_MAX_BYTES for each instance, from the arrival to the answer. What is over is not answered: the server
 *          refuses the client in its own time, and the client tries again.
 * Threads  Requests arrive on threads of the NATS library, which push them on. [lane] the calling instance's; [any] any thread.
 * Lock     One, over the list of instances that serve; a lane is pushed to while it is held, and nothing else is called.
 */
#ifndef MUSTER_CORE_LOGINS_H
#define MUSTER_CORE_LOGINS_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>

#include "auth/callout.h"
#include "bus/bus.h"

struct broker;
struct instance;
struct logins;
struct metric;

enum { LOGINS_MAX = 16384, LOGINS_MAX_BYTES = 64 << 20 };

/* Whether the configuration has what BUS_CALLOUT needs, and read it. MUSTER_EACCES: no login; MUSTER_EINVAL: a file that is not as
 * expected. why is of BUS_WHY_SIZE bytes. */
int logins_new(struct broker *broker, struct logins **ret_logins, char *why);
void logins_free(struct logins *l); /* accepts NULL, as the next two do */
/* The link came or went. [any] */
void logins_on_link(struct logins *l, bool up, const char *reason);
/* Hear the servers no more: other brokers do. [any] */
void logins_stop(struct logins *l);
/* Logins that wait for an answer. [any] */
size_t logins_open(const struct logins *l);

/* The instance serves from now on, until logins_leave(). [lane] */
int logins_join(struct logins *l, struct instance *in);
void logins_leave(struct logins *l, struct instance *in);

const struct callout_issuer *logins_issuer(const struct logins *l);
/* One login has come to its end, however; n_bytes as with what host_login_take() was given. [any] */
void logins_ended(struct logins *l, struct instance *in, size_t n_bytes);
struct login_metrics {
    struct metric *admitted, *refused, *unanswered, *seconds;
};
const struct login_metrics *logins_metrics(const struct logins *l);

#endif
