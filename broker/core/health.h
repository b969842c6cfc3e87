/*
 * core/health.h - how the parts of this broker are: the truth behind /readyz, muster_health and the
 * service manager's status line.
 *
 * Shape    A component (a link, a stream, a plugin instance, a lane, postgres) is added by who owns
 *          it and says by health_set() how it is. The broker is ready when every required component
 *          has reported and none of them is down; before the first one is added it is not.
 * Log      A change of state or code is logged once: ok and standby as info, degraded as warning,
 *          down as error. Saying the same again, also in other words, is not.
 * Threads  Any, for every call; one lock, never held while something is written or waited for.
 * Memory   A component lives until health_remove() or health_free(). Texts are copied, at most
 *          HEALTH_TEXT_SIZE - 1 bytes.
 */
#ifndef MUSTER_CORE_HEALTH_H
#define MUSTER_CORE_HEALTH_H

#include <muster/plugin.h>
#include <stdarg.h>
#include <stdbool.h>

#include "base/buf.h"
#include "metrics/metrics.h"

struct health;
struct health_component;

enum {
    HEALTH_MAX = 4096, /* components */
    HEALTH_CODE_SIZE = 49,
    HEALTH_TEXT_SIZE = 513,
};

#define HEALTH_LINK "link"
#define HEALTH_SERVER "server"
#define HEALTH_STREAM "stream"
#define HEALTH_PLUGIN "plugin"
#define HEALTH_LANE "lane"
#define HEALTH_POSTGRES "postgres"
#define HEALTH_CERTIFICATE "certificate"
#define HEALTH_QUOTA "quota"

/* NULL: no memory. broker is this broker's id. */
struct health *health_new(const char *broker);
void health_free(struct health *h);
/* Make muster_health{kind,name}, the state's number, and muster_ready; m is scraped no longer than
 * h lives. */
int health_watch(struct health *h, struct metrics *m);

/* Add a component that has not reported yet. MUSTER_EEXIST: there is one of this kind and name.
 * MUSTER_EAGAIN: HEALTH_MAX. */
int health_add(struct health *h, const char *kind, const char *name, bool required,
               struct health_component **ret_component);
/* Forget it, when what it stood for is gone (a tenant's stream, say); accepts NULL. */
void health_remove(struct health_component *c);

/* Say how it is: state is MUSTER_HEALTH_*, code a short stable word ("slot_missing"; NULL: "ok"),
 * then a sentence that helps. A state that is none is asserted: check a plugin's. A NULL component
 * is accepted: who could not add one works on. */
void health_set(struct health_component *c, int state, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void health_vset(struct health_component *c, int state, const char *code, const char *fmt,
                 va_list ap) __attribute__((format(printf, 4, 0)));

bool health_is_ready(struct health *h);
/* Append the body of /readyz; returns whether it says ready. */
bool health_put_json(struct health *h, struct buf *out);
/* Append one line for people: "ready", or what is missing; then what is degraded. */
void health_put_line(struct health *h, struct buf *out);

#endif
