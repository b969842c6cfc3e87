/*
 * child/policy.h - what the plugin of a child may name: subjects, streams. Both ends ask it, the child so that a call can say no at once,
 * the parent because it believes no child.
 *
 * Own      Without a word of the configuration a plugin hears the requests of its own services, "rpc.*.<service>.…", and hears and emits
 *          events of them and of its own name, "evt.<service>.…". All else stands in `allow`.
 * allow    A pattern or subject must lie wholly inside one of its patterns. A wildcard there stands for names that a user may choose and
 *          for "_p_<plugin>", the plugin as a sender; another name of the broker's ("_muster") must be written out.
 * Never    Requests to the services of INTERFACE 4, which are of the plugins that come with Muster. What agents believe to come from the
 *          broker alone (box, msg, cdc, audit, log, sub, pres), names that begin with '_', and whatever would let the plugin speak as an
 *          agent.
 * Errors   MUSTER_EINVAL: no legal pattern, subject or name; MUSTER_EACCES; both with a sentence in why that names what was expected.
 * Threads  Any; nothing is kept, and all that the struct names is borrowed.
 */
#ifndef MUSTER_CHILD_POLICY_H
#define MUSTER_CHILD_POLICY_H

#include <muster/plugin.h>
#include <stddef.h>

enum { POLICY_WHY_SIZE = 384 };

struct policy {
    const char *plugin;
    const char *const *services; /* names of those that it declares */
    size_t n_services;
    const char *const *subscribe, *const *publish; /* allow.subscribe, allow.publish */
    size_t n_subscribe, n_publish;
};

int policy_subscribe(const struct policy *p, const char *pattern, char why[POLICY_WHY_SIZE]);
int policy_publish(const struct policy *p, const char *subject, char why[POLICY_WHY_SIZE]);
/* Where the respond() of what it publishes may go: to a service of its own, as the one who is addressed. */
int policy_respond(const struct policy *p, const char *subject, const char *reply, char why[POLICY_WHY_SIZE]);
/* A stream by its name and subjects: both are the plugin's own. */
int policy_stream(const struct policy *p, const char *name, const char *subjects, char why[POLICY_WHY_SIZE]);
/* What is appended to a stream of its. */
int policy_append(const struct policy *p, const char *subject, char why[POLICY_WHY_SIZE]);

#endif
