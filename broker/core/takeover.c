/*
 * An instance takes over changed settings; see instance_reload() in instance.h.
 *
 * The caller is the main thread, which a lane that hangs must not hold up: it waits until its deadline. Both share the takeover; its
 * state says who has the last word.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "core/instance.h"
#include "metrics/metrics.h"

enum {
    WAITS,   /* for the lane */
    RUNS,    /* reload() does */
    DONE,    /* code is there */
    GIVEN_UP /* the caller is gone; reload() is not called, or told of by the lane */
};

struct takeover {
    struct instance *in;
    struct plugin_settings next; /* after a success: what was in force before */
    atomic_int state, refs;
    int code; /* once DONE */
};

static void unref(struct takeover *t)
{
    if (atomic_fetch_sub(&t->refs, 1) != 1)
        return;
    settings_done(&t->next);
    free(t);
}

/* Only the main thread begins a takeover: what it sees while there is none stays. */
const struct plugin_settings *instance_settings(const struct instance *in)
{
    return atomic_load(&in->reloading) ? NULL : &in->in_force;
}

static int call_plugin(struct takeover *t)
{
    struct instance *in = t->in;
    int err;

    pthread_mutex_lock(&in->lock);
    in->reason[0] = '\0'; /* of an earlier failure */
    pthread_mutex_unlock(&in->lock);
    if (!in->started || in->ending)
        return in->host.fail(&in->host, MUSTER_ELINK, "the instance does not run");
    in->taking = &t->next;
    instance_enter(in, "reload", NULL);
    err = in->plugin->reload(in->self, t->next.values);
    instance_leave(in);
    in->taking = NULL;
    return err;
}

/* What was in force goes when the last of the two lets the takeover go: reload() has returned. */
static void put_in_force(struct takeover *t)
{
    struct plugin_settings before = t->in->in_force;

    t->in->in_force = t->next;
    t->next = before;
}

static void tell_late(struct takeover *t)
{
    if (t->code)
        log_error(t->in->area, "reload() has returned at last and failed (%d): it goes on with the settings it had", t->code);
    else
        log_warn(t->in->area, "reload() has returned at last: the changed settings are taken over");
}

/* On the lane; gives up its share of the takeover. */
static int call_reload(void *arg)
{
    struct takeover *t = arg;
    int state = WAITS;

    if (atomic_compare_exchange_strong(&t->state, &state, RUNS)) {
        t->code = call_plugin(t);
        if (!t->code)
            put_in_force(t);
        if (atomic_exchange(&t->state, DONE) == GIVEN_UP)
            tell_late(t);
    }
    atomic_store(&t->in->reloading, false);
    unref(t);
    return 0;
}

static int why_not(char why[INSTANCE_WHY_SIZE], int code, const char *text)
{
    (void)snprintf(why, INSTANCE_WHY_SIZE, "%.*s", INSTANCE_WHY_SIZE - 1, text);
    return code;
}

/* The lane was waited for in vain. */
static int give_up(struct takeover *t, char why[INSTANCE_WHY_SIZE])
{
    switch (atomic_exchange(&t->state, GIVEN_UP)) {
    case WAITS:
        return why_not(why, MUSTER_ETIME, "its lane hangs, and nothing was changed");
    case RUNS:
        return why_not(why, MUSTER_ETIME, "reload() has not returned in time; what becomes of it will be told");
    default: /* just now */
        return t->code;
    }
}

static void put_reason(struct instance *in, int code, char why[INSTANCE_WHY_SIZE])
{
    pthread_mutex_lock(&in->lock);
    (void)snprintf(why, INSTANCE_WHY_SIZE, "reload() failed (%d): %s", code, in->reason[0] ? in->reason : "it gave no reason");
    pthread_mutex_unlock(&in->lock);
}

/* Takes t. */
static int carry_out(struct instance *in, struct takeover *t, int64_t deadline_ns, char why[INSTANCE_WHY_SIZE])
{
    int err = lane_call_until(in->lane, call_reload, t, deadline_ns);

    if (err == MUSTER_ENOMEM) { /* not called, and never will be */
        atomic_store(&in->reloading, false);
        unref(t);
        err = why_not(why, err, "no memory");
    } else if (err == MUSTER_ETIME) {
        err = give_up(t, why);
        if (err != MUSTER_ETIME && err)
            put_reason(in, err, why);
    } else {
        err = t->code;
        if (err)
            put_reason(in, err, why);
    }
    unref(t);
    return err;
}

int instance_reload(struct instance *in, const struct config *config, const struct config_plugin *how, int64_t deadline_ns,
                    char why[INSTANCE_WHY_SIZE])
{
    struct takeover *t;
    struct config_error fault;
    int err;

    if (!MUSTER_HAS(in->plugin, reload) || !in->plugin->reload)
        return why_not(why, MUSTER_EABI, "it has no reload()");
    if (atomic_exchange(&in->reloading, true))
        return why_not(why, MUSTER_EAGAIN, "an earlier reload() is not through");
    t = calloc(1, sizeof *t);
    err = t ? settings_new(config, how, in->plugin, &t->next, &fault) : MUSTER_ENOMEM;
    if (err) {
        atomic_store(&in->reloading, false);
        free(t);
        return why_not(why, err, err == MUSTER_ENOMEM ? "no memory" : fault.text);
    }
    t->in = in;
    atomic_store(&t->refs, 2);
    err = carry_out(in, t, deadline_ns, why);
    if (err && err != MUSTER_EABI)
        metric_add(in->reload_failures, NULL, 1);
    return err;
}
