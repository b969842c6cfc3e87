/*
 * webhook/hook.h - one receiver: its queue, its attempts, and when the next one is due.
 *
 * Shape    Messages wait in the order in which they came. With a concurrency of 1 only the first is tried, so that order is kept; with
 *          more the first that are due. 2xx is success, 410 puts the hook out of use until its settings change, all else is tried again
 *          until the deadline, not before Retry-After.
 * Owns     The messages and their open requests.
 * Threads  The lane.
 */
#ifndef WEBHOOK_HOOK_H
#define WEBHOOK_HOOK_H

#include "body.h"
#include "http.h"
#include "settings.h"

struct hook_tools {
    const struct muster_host *host;
    const struct muster_timer *timer;
    const struct muster_metrics *metrics;
    const struct muster_bus *bus;
    struct http *http;
    struct body_maker bodies;
    struct {
        uint64_t delivered, failed, dead, dropped, queued, took;
    } counts; /* metrics */
    void (*on_change)(void *arg); /* look again when the next attempt is due, and how the hooks are */
    void *arg;
};

struct delivery;

struct hook {
    struct hook_tools *tools;
    const char *name;
    const struct hook_config *config;
    struct sign_key keys[2];
    struct delivery *first, **end;
    int64_t n_queued, n_bytes, n_open;
    int64_t not_before_ns; /* the receiver said so */
    int64_t n_failures;    /* in a row */
    bool anywhere, gone;
};

void hook_init(struct hook *hook, struct hook_tools *tools, const char *name, const struct hook_config *config);
/* Queue a message of one of the hook's subjects and tenants. 0, also when it was dropped and counted; MUSTER_E*. */
int hook_take(struct hook *hook, const struct muster_msg *msg);
/* Begin what is due. Returns when the next attempt is; INT64_MAX: none waits. */
int64_t hook_run(struct hook *hook);
/* Give all that waits to the hook that takes its place. */
void hook_hand_over(struct hook *from, struct hook *to);
/* Give up all that waits, telling it as dead for that reason. */
void hook_give_up(struct hook *hook, const char *why);
/* Free all that waits, and forget the keys. Returns how many messages that were. */
int64_t hook_done(struct hook *hook);

#endif
