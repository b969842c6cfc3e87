/*
 * core/copies.h - the queue group's copies of what every broker hears by a subscription of its own. Private to core/.
 *
 * Shape    NATS brings a message of a plain subscription to each broker, and to one of them a second time by R.*.rpc.*.>, which has to be
 *          there for services that nobody has. Where nobody waits for an answer, that copy is of use only to tell, once in a cluster, that the
 *          message was refused. Beats come by the thousand a second and are hardly ever refused: so the copy is thrown away unread, unless
 *          some message of a plain subscription was not handed on a while ago. What came by the plain one is looked at before (bus.h).
 * Threads  copies_list() under the dispatcher's lock; the rest on any.
 */
#ifndef MUSTER_CORE_COPIES_H
#define MUSTER_CORE_COPIES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"

struct bus_msg;
struct sub;

enum { COPIES_SERVICES = 8 }; /* of more the copies are read */

struct copies {
    _Atomic int64_t doubt_until_ns; /* until then copies are read; 0: nothing is in doubt */
    pthread_rwlock_t lock; /* guards all below */
    char services[COPIES_SERVICES][NAME_TOKEN_SIZE]; /* which only plain subscriptions hear, whatever the verb */
    size_t n;
};

void copies_init(struct copies *copies);
void copies_done(struct copies *copies);
/* The subscriptions have changed: find the services again. */
void copies_list(struct copies *copies, const struct sub *subs);
/* What a plain subscription heard was not handed on, or not yet. */
void copies_doubt(struct copies *copies);
/* True when a message of the queue group need not be looked at. */
bool copies_is_superfluous(struct copies *copies, const struct bus_msg *msg);

#endif
