/*
 * tasks/router.h - who gets which task, when: windows of what is queued, who is free, assignment and its delivery, pull.
 *
 * Shape    tasks.c calls these on the lane. The router may use everything in struct tasks; its own state is behind t->router. What it assigns it
 *          tells agents with notice_send() and a reply subject whose ref notice_ref() makes, "rpc.<agent>.task.accept.<ref>"; verbs.c has what
 *          respond() says there. A verb of its own (pull) is a line in verbs.c with a look() that takes the ask over.
 */
#ifndef MUSTER_TASKS_ROUTER_H
#define MUSTER_TASKS_ROUTER_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

struct tasks;
struct ask;
struct muster_value;

int router_create(struct tasks *t); /* statements, metrics */
int router_start(struct tasks *t);  /* subscriptions, leases, timers */
void router_drain(struct tasks *t);
void router_destroy(struct tasks *t); /* also after a create() that failed, or was not reached */
void router_tick(struct tasks *t, int64_t now_ns); /* every TASKS_TICK_NS */
void router_link(struct tasks *t, bool up);
void router_tables(struct tasks *t); /* tenants changed */
void router_writable(struct tasks *t);

/* A request of a verb that changes something is committed, and is answered behind this: a hint, since the event of it comes as well. a->verb, a->args
 * and a->msg tell what it was; ok (JSON, len bytes) is the answer, more what the outcome has beside it. */
void router_done(struct tasks *t, const struct ask *a, const char *ok, size_t len, const struct muster_value *more);

/* look() of the verb submit: what can be queued and assigned in one transaction is. */
bool router_submits(struct ask *a);
/* look() of the verb pull. */
bool pull_look(struct ask *a);

#endif
