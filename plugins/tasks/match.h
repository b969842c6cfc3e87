/*
 * tasks/match.h - who gets which task next: the part that thinks. It knows neither NATS nor PostgreSQL; whoever has it tells what is queued,
 * who is present and what is held, and asks for pairs.
 *
 * Order    A route is a queue: the tasks that the same ones can do, by (pos, task). Of a tenant the task with the least pos goes first that
 *          somebody free can do. Tenants take turns, as many tasks a turn as their weight (deficit round robin).
 * Windows  Of each route at most `window` tasks are known, the next ones; what is behind them is asked for when few are left
 *          (match_peek_next). A task that its agents have all declined stands aside and holds nobody up.
 * Truth    All of this may be wrong or old: the database decides whether a task is assigned. What is told twice or late does no harm.
 * Memory   Everything is owned here; pointers that are handed out live until the tenant or the task is over.
 * Threads  None: one owner. Times are monotonic nanoseconds.
 */
#ifndef MUSTER_TASKS_MATCH_H
#define MUSTER_TASKS_MATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct matcher;
struct match_tenant;
struct task;

struct match_limits {
    int64_t weight;                    /* tasks a turn, at least 1 */
    int64_t running, group_running;    /* held at once; 0: any number */
    int64_t rate, group_rate;          /* given out a second; 0: any number */
};

struct match_config {
    uint32_t window;          /* tasks of a route; at least 1 */
    uint32_t routes;          /* of a tenant */
    uint32_t assigning;       /* of a tenant, given out and not yet answered; 0: any number */
    int64_t sticky_ns;        /* how long a group waits for an agent that works for others */
    int64_t unroutable_ns;    /* how long nobody has been there when it is told */
};

/* Strings are copied. */
struct route_spec {
    int64_t id;
    const char *wanted, *group; /* NULL: none */
    const char *const *capabilities, *const *labels; /* a label as in words.h */
    uint32_t n_capabilities, n_labels;
};
struct task_spec {
    const char *task_id;
    int64_t pos, epoch;
    int32_t seq; /* 0: not known */
    bool unroutable;
    const char *const *excluded, *const *crashed; /* agents; NULL, 0: none */
    uint32_t n_excluded, n_crashed;
};
struct worker_spec {
    const char *agent, *session;
    const char *const *capabilities, *const *labels;
    uint32_t n_capabilities, n_labels;
    uint32_t capacity;
    double load;  /* NaN: it said none */
    bool able;    /* false: present, but it gets nothing now */
    bool busy;    /* it gets what others do not take */
    bool pulls;   /* it gets what it has asked for: match_credit() */
    bool asks;    /* it is offered, and accepts by itself */
};

/* A task and who gets it. Borrowed until the next call. */
struct pairing {
    struct match_tenant *tenant;
    struct task *task;
    const char *task_id, *agent, *session;
    int32_t seq;
    bool asks, pulls;
    bool early; /* of match_early() */
};
struct peek {
    struct match_tenant *tenant;
    int64_t route, pos; /* what stands behind (pos, task_id) is wanted */
    const char *task_id;
};
struct telling {
    struct match_tenant *tenant;
    const char *task_id;
    int32_t seq;
    bool unroutable;
};

struct matcher *match_new(const struct match_config *config);
void match_free(struct matcher *r);

/* ---- tenants. All that is told of one that was ended is forgotten. ---- */

struct match_tenant *match_tenant_new(struct matcher *r, void *user);
void *match_tenant_user(const struct match_tenant *t);
void match_tenant_end(struct match_tenant *t);
void match_tenant_limits(struct match_tenant *t, const struct match_limits *limits);
void match_tenant_pause(struct match_tenant *t, bool paused);
/* From now on it may be told that nobody can do something: it is known who is there. */
void match_tenant_settle(struct match_tenant *t);

struct match_counts {
    size_t queued, aside, assigning, held, routes, workers;
};
struct match_counts match_tenant_counts(const struct match_tenant *t);

/* ---- what is queued. False: no memory, or no room for a route; look again later. ---- */

bool match_queued(struct match_tenant *t, const struct route_spec *route, const struct task_spec *task);
/* Something is queued on the route, this first. What is not known is asked for. */
bool match_route_seen(struct match_tenant *t, const struct route_spec *route, int64_t pos, const char *task_id);
/* The next question; false: there is none. It is answered by peeked() for each task, then by peek_done(); n: how many there were. */
bool match_peek_next(struct matcher *r, struct peek *ret_peek);
void match_peeked(struct match_tenant *t, int64_t route, const struct task_spec *task);
void match_peek_done(struct match_tenant *t, int64_t route, uint32_t n, uint32_t limit);
/* The question had no answer: it is asked again. */
void match_peek_failed(struct match_tenant *t, int64_t route);
/* True: it is known here as queued, being assigned, or held. */
bool match_knows(const struct match_tenant *t, const char *task_id);
/* Whether it is not known yet that it was queued, with this epoch. */
bool match_is_news(const struct match_tenant *t, const char *task_id, int64_t epoch);

/* ---- who is present. ---- */

bool match_present(struct match_tenant *t, const struct worker_spec *worker); /* new, or changed. False: no memory */
void match_absent(struct match_tenant *t, const char *agent);
/* Every agent that is not said to be present before the end is absent. */
void match_present_begin(struct match_tenant *t);
void match_present_end(struct match_tenant *t);
/* How many more tasks an agent that pulls gets. */
void match_credit(struct match_tenant *t, const char *agent, uint32_t n);

/* ---- what is held. ---- */

bool match_held(struct match_tenant *t, const char *task_id, const char *agent, const char *group, int64_t epoch);
/* It is held by nobody and not queued: ended, or put off. Of an older epoch than is known: no effect. */
void match_over(struct match_tenant *t, const char *task_id, int64_t epoch);
uint32_t match_holds(const struct match_tenant *t, const char *agent); /* how many the agent holds */
/* It holds something, and this was not asked within every_ns: true, and asked. */
bool match_asks_again(struct match_tenant *t, const char *agent, int64_t now_ns, int64_t every_ns);
/* Its holder has said that it is over: the slot is free before the event comes. */
void match_finished(struct match_tenant *t, const char *task_id);
/* Every hold that is not told of before the end is over, but those given out meanwhile. */
void match_held_begin(struct match_tenant *t);
void match_held_end(struct match_tenant *t);

/* ---- pairs. ---- */

/* The next pair; its slot is taken. False: there is none now. Each is answered by one of the three below. */
bool match_next(struct matcher *r, int64_t now_ns, struct pairing *ret_pairing);
/* Likewise of a task that is about to be queued, where somebody is free for it and nobody is before it: then it can be queued and assigned at once. What
 * becomes of it otherwise is told by match_queued(), before or after; what is not assigned is forgotten. */
bool match_early(struct match_tenant *t, const struct route_spec *needs, const char *task_id, int64_t now_ns, struct pairing *ret_pairing);
void match_assigned(struct match_tenant *t, struct task *task, int64_t epoch);
void match_put_back(struct match_tenant *t, struct task *task); /* it was not possible: again */
void match_forget(struct match_tenant *t, struct task *task);   /* it is not what was known of it */

/* Next to be told of as unroutable, or as that no more; told once. */
bool match_tell_next(struct matcher *r, struct telling *ret_telling);

/* What time brings. Returns when it has to be called again; INT64_MAX: not before something is told. */
int64_t match_tick(struct matcher *r, int64_t now_ns);

#endif
