/*
 * child/proxy.h - the broker's end of a plugin that runs in a child: what stands on the lane in its place.
 *
 * Shape    A proxy is the `self` of an instance, whose functions these are and whose callbacks get it: for the broker it is a plugin like
 *          another, so that fairness, bounds, validation and counters hold without a word. It starts the child, hands it the messages of
 *          its subscriptions, and does what the child asks through the host's own tables, once it has held it against child/policy.h. It
 *          keeps the child alive: one that ends, hangs or breaks the rules is replaced, after a delay that doubles. Changed settings, and
 *          another file, are taken over by a second child beside the first.
 * Loss     Requests that a child had when it ended are answered `unavailable`; messages that nobody waits for and that it was not through
 *          with are given to the next one, oldest first, once. What waits in the broker waits for the next child.
 * Trust    A frame that may not come, or names what the child was not given, ends the child, and the log says what it tried.
 * Bounds   proxy_parts.h names them; a child at its bound of messages under way (512, 8 MiB) pauses the instance's subscriptions. A tenant has
 *          no more of them under way than are left for all others, so that who floods a slow child waits alone.
 * Threads  All on the instance's lane; proxy_new() before it runs.
 */
#ifndef MUSTER_CHILD_PROXY_H
#define MUSTER_CHILD_PROXY_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "child/frame.h"
#include "child/policy.h"
#include "child/spawn.h"

struct proxy;

enum { PROXY_WHY_SIZE = 512 };

/* What the proxy needs of the broker beyond plugin.h. arg is that of the options. */
struct proxy_hooks {
    int (*spawn)(void *arg, struct spawn *ret_child, char why[SPAWN_WHY_SIZE]);
    void (*put_sandbox)(void *arg, struct frame *f);   /* the file, and the walls */
    void (*put_settings)(void *arg, struct frame *f);  /* all fields of FRAME_SETTINGS */
    /* A descriptor as the child says it: 0 when it is the one that this instance was made for; else why. */
    int (*is_same)(void *arg, struct frame_reader *r, char why[PROXY_WHY_SIZE]);
    void (*log)(void *arg, int level, const char *text);
    void (*reason)(void *arg, char *out, size_t size); /* what host->fail() kept last */
    /* The next child is made, or has failed (why is not NULL), and the arg of its options is told. Without why it takes over now: nothing
     * is asked with the options that were before any more. */
    void (*replaced)(void *arg, void *next_arg, const char *why);
    uint64_t (*subscription)(void *arg); /* of the message whose callback runs */
    void (*waits)(void *arg); /* that message waits for a place in the child, as long as it takes; those of other tenants do not */
    void (*go_on)(void *arg); /* such messages come again at once */
    /* The plugin is through with a message that is held, with an error: answer and count as for any plugin. It is dropped after that. */
    void (*failed)(void *arg, const struct muster_msg *msg, int code);
    int (*make_metric)(void *arg, int type, const char *name, const char *help, const char *label, uint64_t *ret_metric); /* at any time */
    int (*merge_metric)(void *arg, uint64_t metric, const uint64_t *counts, size_t n_counts, int64_t sum_ns);
    int64_t (*lease_until)(void *arg, uint64_t lease); /* by clock_boot_ns(); 0: not held */
};

struct proxy_options {
    const struct muster_host *host;
    const struct muster_plugin *plugin;
    struct policy policy;             /* all that it names lives as long as the proxy */
    struct muster_list capabilities;  /* granted */
    struct muster_list tenants;       /* allow.tenants; none: all */
    int64_t delay_ns, max_delay_ns;   /* before it is started again */
    double cpu;                       /* cores that it may use */
    int64_t messages;                 /* that it may send in a second; 0: no limit */
    uv_loop_t *loop;
    const struct proxy_hooks *hooks;
    void *arg;
};

/* Start a child and run create() in it; a failure has its reason by host->fail(). */
int proxy_new(const struct proxy_options *options, struct proxy **ret_proxy);
void *proxy_arg(const struct proxy *p); /* that of its options */
int proxy_start(struct proxy *p);
/* Make another child beside, by other options; once it is created the present one finishes what it has, ends, and the other starts. Until
 * then nothing changes. Its end is told by replaced(), never inside this call. MUSTER_EAGAIN: the last such is not through; MUSTER_ELINK:
 * the instance does not run; else with a reason by host->fail(). */
int proxy_replace(struct proxy *p, const struct proxy_options *options);
/* Have the child take over settings; put is called for the fields of FRAME_RELOAD. Waits for its answer. The plugin's code, with its
 * reason by host->fail(); 0 as well where there is no child now: the next one is told them. */
int proxy_reload(struct proxy *p, void (*put)(void *arg, struct frame *f), void *arg);
void proxy_drain(struct proxy *p, int64_t deadline_ns);
void proxy_destroy(struct proxy *p); /* accepts NULL */
void proxy_on_writable(struct proxy *p);
void proxy_on_link(struct proxy *p, bool up);
void proxy_on_tables(struct proxy *p);
void proxy_on_pause(struct proxy *p, bool on);

#endif
