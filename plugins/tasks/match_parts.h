/*
 * tasks/match_parts.h - what the files of the matcher share: tenants, routes with their windows, what they need, workers, groups.
 *
 * Parts    match.c         tenants, their turns, pairs, time
 *          match_task.c    tasks by their ids
 *          match_queue.c   routes and their windows
 *          match_told.c    what is told of queued tasks, and asked about them
 *          match_need.c    what routes need and who has it; what nobody has
 *          match_worker.c  who is present, and their slots
 *          match_group.c   groups: whom they stick to, how many of them, who waits
 *          match_hold.c    what is held
 *
 * Two heaps of two levels answer who is next: a tenant has the needs that have a task and somebody free, by the least pos; a need has its
 * routes that have a task, and its free workers by how much they have to do.
 */
#ifndef MUSTER_TASKS_MATCH_PARTS_H
#define MUSTER_TASKS_MATCH_PARTS_H

#include "base/map.h"
#include "base/ring.h"
#include "base/table.h"
#include "tasks/heap.h"
#include "tasks/match.h"
#include "tasks/words.h"

/* ---- time ---- */

enum timed_kind { TIMED_TENANT, TIMED_ROUTE, TIMED_NEED };
struct timed {
    struct heap_node node; /* the key is when */
    enum timed_kind kind;
};

/* ---- things ---- */

enum task_state {
    TASK_WAITS,     /* in the window of its route */
    TASK_ASIDE,     /* who is free has declined it */
    TASK_ASSIGNING, /* given out, and the database has not said yes */
    TASK_HELD,
    TASK_ENDED,     /* held no more, and the event that says so is to come */
};

struct task {
    struct route *route;   /* of one that waits, stands aside or is being assigned */
    struct worker *worker; /* of one that is being assigned or held */
    struct group *group;
    int64_t pos, epoch;
    int64_t over_epoch; /* TASK_ASSIGNING: it was said to be over meanwhile */
    int64_t until_ns;   /* TASK_ENDED: it is forgotten then */
    int32_t seq;
    uint8_t state;
    bool unroutable; /* as it was told */
    bool seen;       /* since match_held_begin() */
    struct words *excluded, *crashed;
    struct link link; /* aside, or ended */
    struct link tell;
    struct match_tenant *t;
    char task_id[];
};

struct member {
    struct worker *worker;
    struct need *need;
    struct heap_node node; /* in need->free */
    struct link link;      /* need->members */
};

struct need {
    struct match_tenant *t;
    char *wanted; /* NULL: anybody */
    struct words *capabilities, *labels;
    struct heap routes, free; /* those that have a task; those that have a slot */
    struct heap_node node;    /* in t->needs */
    struct link link;         /* t->all_needs */
    struct link aside;        /* tasks */
    struct link all_routes, members;
    struct link idle; /* t->idle_needs */
    struct timed timed; /* to look whether anybody could */
    size_t n_routes, n_members, n_unroutable;
};

struct route {
    int64_t id;
    struct need *need;
    struct group *group; /* NULL: none */
    struct task **window; /* by (pos, task_id) */
    uint32_t n, cap;
    uint32_t n_tasks;     /* of all states that have a route */
    struct heap_node node; /* in need->routes; not while parked */
    struct link link;      /* need->all_routes */
    struct link parked;    /* in group->parked */
    struct link peek;      /* in r->peeks */
    struct timed timed;
    int64_t since_ns;      /* since when it waits for the worker of its group; 0: it does not */
    int64_t cursor_pos;    /* all that is queued up to here is known, but where more is false: then all is */
    char *cursor_id;       /* NULL: "" */
    bool more, peeking;
    int64_t beyond_pos;
    bool beyond;  /* something came behind the cursor while it was asked what is there */
    bool dropped; /* the cursor went back meanwhile: the answer leaves a hole */
};

struct group {
    struct worker *worker; /* to whom it sticks; NULL: nobody yet */
    uint32_t n_routes, n_held;
    int64_t next_ns; /* of its rate */
    struct link parked;  /* routes that wait for it */
    struct link waiting; /* in worker->waiting */
    struct link idle;    /* in t->idle_groups */
    char key[];
};

struct worker {
    struct match_tenant *t;
    char *session;
    struct words *capabilities, *labels;
    struct member **members;
    uint32_t n_members, cap_members;
    uint32_t capacity, used, credit, refs; /* refs: of groups */
    double load;
    uint64_t turn; /* of the last task that it got */
    int64_t asked_ns; /* match_asks_again() */
    bool present, able, busy, pulls, asks, is_free, seen;
    struct link waiting; /* groups */
    char agent[];
};

struct match_tenant {
    struct matcher *r;
    void *user;
    struct match_limits limits;
    struct table tasks, routes, by_need;
    struct map workers, groups;
    struct heap needs;
    struct link all_needs, idle_needs, idle_groups, ended;
    struct link ring; /* in r->ring: it may have something */
    struct link link; /* in r->tenants */
    struct timed timed;
    size_t n_queued, n_aside, n_assigning, n_held, n_idle, n_idle_needs, n_present;
    int64_t credit;  /* tasks left of its turn */
    int64_t next_ns; /* of its rate */
    bool paused, settled, reading_held;
};

struct matcher {
    struct match_config config;
    struct link tenants, ring, peeks, tell;
    struct heap timed;
    int64_t now_ns;
    uint64_t turns;
};

/* ---- match.c ---- */

/* It may have something to give out now, or has not. */
void tenant_update(struct match_tenant *t);
void timed_set(struct matcher *r, struct timed *timed, int64_t at_ns);
void timed_clear(struct matcher *r, struct timed *timed);
/* A token bucket as the time from which on the next one may go; a tenth of a second's may go at once. */
bool rate_allows(int64_t next_ns, int64_t rate, int64_t now_ns);

/* ---- match_task.c ---- */

struct task *task_find(const struct match_tenant *t, const char *task_id);
struct task *task_new(struct match_tenant *t, const char *task_id); /* NULL: no memory */
void task_free(struct task *task);
bool task_set(struct task *task, const struct task_spec *spec); /* false: no memory */

/* ---- match_queue.c ---- */

struct route *route_find(const struct match_tenant *t, int64_t id);
struct route *route_new(struct match_tenant *t, const struct route_spec *spec); /* NULL: no memory, or no room */
struct route *route_get(struct match_tenant *t, const struct route_spec *spec); /* found or made */
void route_tidy(struct route *route); /* ends it where nothing needs it any more */
void route_attach(struct route *route, struct task *task);
bool route_is_behind(const struct route *route, int64_t pos, const char *task_id); /* the cursor */
bool route_set_cursor(struct route *route, int64_t pos, const char *task_id);
void route_ask(struct route *route); /* for more, where few are left */
void route_pass_over(struct route *route, int64_t pos);
/* Into the window of its route. What is behind the cursor is freed, since it comes from there. False: no memory; it is freed. */
bool window_put(struct route *route, struct task *task);
void window_take(struct route *route, struct task *task);
/* Its place among those of its need may have changed. */
void route_update(struct route *route);
void route_detach(struct task *task); /* from its route, which may end by that */
void route_end(struct route *route);  /* with all that waits there */

/* ---- match_need.c ---- */

struct need *need_of(struct match_tenant *t, const struct route_spec *spec); /* found or made; NULL: no memory */
void need_end(struct need *need);
void need_rest(struct need *need); /* it has no route, and may soon have one again */
void need_wake(struct need *need);
void need_update(struct need *need);
bool need_takes(const struct need *need, const struct worker *w);
bool need_join(struct need *need, struct worker *w);
void need_leave(struct need *need, struct worker *w);
struct member *member_of(const struct need *need, const struct worker *w);
/* The free one with the least to do that has neither declined it nor crashed with it; else who has only crashed. NULL: none. */
struct worker *need_choose(const struct need *need, const struct task *task);
/* Whether somebody who is present could do it. */
bool need_has_somebody(const struct need *need, const struct task *task);
/* Look soon, or at once. */
void need_look_later(struct need *need);
void need_look(struct need *need);
/* Who stands aside and would be taken by this one waits again. */
void need_recall(struct need *need, const struct worker *w);

/* ---- match_worker.c ---- */

struct worker *worker_get(struct match_tenant *t, const char *agent, bool make);
/* After any change: it is free or not, and has its place among the free ones. */
void worker_update(struct worker *w);
int64_t worker_key(const struct worker *w); /* its place among the free ones */
void worker_tidy(struct worker *w); /* ends it where nothing knows it any more */
void workers_done(struct match_tenant *t);

/* ---- match_group.c ---- */

struct group *group_get(struct match_tenant *t, const char *key);
void group_stick(struct group *g, struct worker *w);
void group_unpark(struct group *g);
void group_tidy(struct match_tenant *t, struct group *g);
void groups_done(struct match_tenant *t);
void route_unpark(struct route *route);
enum choice { CHOICE_TAKE, CHOICE_ASIDE, CHOICE_PARKED };
enum choice route_choose(struct route *route, struct worker **ret_worker);

/* ---- match_hold.c ---- */

/* A slot of the worker, and one of the group. */
void hold_take(struct task *task, struct worker *w, struct group *g);
void hold_release(struct task *task);
void ended_purge(struct match_tenant *t, int64_t now_ns);

#endif
