/*
 * task.stats: it reads every task of the tenant, so one statement a tenant runs at a time, and who asks meanwhile shares the next: what is answered was
 * counted after it was asked for.
 */
#include <stdlib.h>

#include "common/work/ask.h"
#include "tasks/tasks.h"

struct count {
    struct tasks *t;
    const struct muster_tenant *tenant;
    struct ask *asked, *waiting; /* of the statement under way, and of the next */
    struct count *next;
};

static void answer_all(struct ask *a, const struct muster_sql_result *result)
{
    for (struct ask *next; a; a = next) {
        next = a->next;
        ask_outcome(a, result);
    }
}

static void fail_all(struct ask *a, int code)
{
    for (struct ask *next; a; a = next) {
        next = a->next;
        ask_failed(a, code, "the database could not be asked");
    }
}

static void count_free(struct count *c)
{
    struct count **at = &c->t->counts;

    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    free(c);
}

static void on_counted(void *arg, const struct muster_sql_result *result);

static int run(struct count *c, const struct ask *a)
{
    struct work *w = &c->t->work;

    return w->sql->exec(w->host, w->stmts[a->verb - w->verbs], c->tenant, NULL, 3,
                        (struct muster_bytes[]){ask_param(ask_tenant(a)), ask_param(a->msg->agent), ask_param("{}")}, on_counted, c);
}

/* The next ones' turn. */
static void on_counted(void *arg, const struct muster_sql_result *result)
{
    struct count *c = arg;
    struct ask *asked = c->asked;
    int err;

    c->asked = c->waiting;
    c->waiting = NULL;
    answer_all(asked, result);
    if (!c->asked) {
        count_free(c);
        return;
    }
    err = run(c, c->asked);
    if (err) {
        fail_all(c->asked, err);
        count_free(c);
    }
}

static struct count *find(const struct tasks *t, const struct muster_tenant *tenant)
{
    struct count *c = t->counts;

    while (c && c->tenant != tenant)
        c = c->next;
    return c;
}

static int begin(struct tasks *t, struct ask *a)
{
    struct count *c = calloc(1, sizeof *c);
    int err;

    if (!c)
        return MUSTER_ENOMEM;
    *c = (struct count){.t = t, .tenant = a->msg->tenant, .asked = a, .next = t->counts};
    t->counts = c;
    err = run(c, a);
    if (err)
        count_free(c);
    return err;
}

bool stats_look(struct ask *a)
{
    struct tasks *t = (struct tasks *)a->w;
    struct count *c = find(t, a->msg->tenant);
    int err;

    a->next = NULL;
    if (c) {
        a->next = c->waiting;
        c->waiting = a;
        return false;
    }
    err = begin(t, a);
    if (err)
        ask_failed(a, err, "the database could not be asked");
    return false;
}
