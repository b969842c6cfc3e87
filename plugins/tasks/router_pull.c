/*
 * Agents that ask for their tasks: a long poll. The broker that is asked keeps the request; where another one holds the tenant's shard it asks that
 * one, as a plugin, on "rpc._p_tasks.task.pull.<agent>", which every broker hears and the holder answers. What an agent has missed comes first.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tasks/router_parts.h"

enum { PULL_MAX = 100, PULLS_BYTES = 900000 };
static const int64_t wait_max_ns = 60 * CLOCK_S, over_ns = 4 * CLOCK_S, unspoken_ns = 20 * CLOCK_S, look_ns = CLOCK_S;

/* An agent that waits, with one request or many. */
struct puller {
    struct link pulls;
    uint32_t credit; /* how many tasks they have room for */
    char agent[];
};

/* One request that waits at the holder. */
struct pull {
    struct link link, beside; /* d->pulls, and the agent's */
    struct puller *by;
    struct ask *a;
    uint32_t max, n, under_way; /* tasks that it has, and that are being assigned for it */
    int64_t until_ns, look_ns;
    struct buf tasks;
};

static int64_t number_in(const struct ask *a, const char *key, int64_t otherwise)
{
    const struct muster_value *v = value_in(a->args, key);

    return v && value_type(v) == MUSTER_INT ? value_int(v) : otherwise;
}

static int64_t wait_of(const struct ask *a)
{
    int64_t ns = number_in(a, "wait_ms", 0) * CLOCK_MS;

    return ns < 0 ? 0 : ns > wait_max_ns ? wait_max_ns : ns;
}

/* ---- at the holder ------------------------------------------------------------------------------------------------------ */

static struct pull *pull_in(struct link *l)
{
    return LINK_OF(l, struct pull, link);
}

static struct puller *puller_find(const struct routed *d, const char *agent)
{
    return map_get(&d->pullers, agent, strlen(agent));
}

static struct puller *puller_of(struct routed *d, const char *agent)
{
    size_t len = strlen(agent);
    struct puller *by = puller_find(d, agent);

    if (by)
        return by;
    by = calloc(1, sizeof *by + len + 1);
    if (!by || !map_put(&d->pullers, agent, len, by)) {
        free(by);
        return NULL;
    }
    memcpy(by->agent, agent, len);
    link_init(&by->pulls);
    return by;
}

static void puller_leave(struct routed *d, struct pull *p)
{
    struct puller *by = p->by;

    link_remove(&p->beside);
    by->credit -= p->max - p->n - p->under_way;
    if (link_is_in(&by->pulls))
        return;
    (void)map_take(&d->pullers, by->agent, strlen(by->agent));
    free(by);
}

/* It has so many more, and so many more are being assigned for it. */
static void change(struct pull *p, int n, int under_way)
{
    p->n += (uint32_t)n;
    p->under_way += (uint32_t)under_way;
    p->by->credit -= (uint32_t)(n + under_way);
}

void pull_credit(struct routed *d, const char *agent)
{
    const struct puller *by = puller_find(d, agent);

    match_credit(d->m, agent, by ? by->credit : 0);
}

static void tell_credit(struct routed *d, const char *agent)
{
    pull_credit(d, agent);
    router_soon(d->r);
}

static void finish(struct routed *d, struct pull *p)
{
    struct buf out = {0};

    link_remove(&p->link);
    puller_leave(d, p);
    buf_put_lit(&out, "{\"tasks\":[");
    buf_put(&out, p->tasks.data, p->tasks.len);
    buf_put_lit(&out, "]}");
    if (buf_failed(&out) || buf_failed(&p->tasks))
        ask_failed(p->a, MUSTER_ENOMEM, "the tasks could not be told");
    else
        ask_reply(p->a, out.data, out.len);
    buf_done(&out);
    buf_done(&p->tasks);
    free(p);
}

static void look_for_missed(struct routed *d, const char *agent)
{
    int64_t since_ns = missed_ask(d, agent);

    if (since_ns)
        read_unheard(d, agent, since_ns);
}

/* Now and then: an answer may be lost with a connection, or with the broker that passed it on, and nobody hears of that. */
static void look_for_unspoken(struct routed *d, const char *agent, int64_t now_ns)
{
    if (match_asks_again(d->m, agent, now_ns, unspoken_ns))
        read_unspoken(d, agent);
}

static void wait_here(struct routed *d, struct ask *a, const char *agent, int64_t until_ns)
{
    struct pull *p = calloc(1, sizeof *p);
    int64_t max = number_in(a, "max", 1), now_ns = d->r->w->timer->now(d->r->w->host);

    if (p)
        p->by = puller_of(d, agent);
    if (!p || !p->by) {
        free(p);
        ask_failed(a, MUSTER_ENOMEM, "the request could not be kept");
        return;
    }
    p->a = a;
    p->max = (uint32_t)(max < 1 ? 1 : max > PULL_MAX ? PULL_MAX : max);
    p->until_ns = until_ns;
    p->look_ns = now_ns + look_ns;
    link_init(&p->link);
    link_init(&p->beside);
    link_put(&d->pulls, &p->link);
    link_put(&p->by->pulls, &p->beside);
    p->by->credit += p->max;
    look_for_missed(d, agent);
    look_for_unspoken(d, agent, now_ns);
    tell_credit(d, agent);
}

static struct pull *waiting(struct routed *d, const char *agent, bool under_way)
{
    struct puller *by = puller_find(d, agent);

    for (struct link *l = by ? by->pulls.next : NULL; l && l != &by->pulls; l = l->next) {
        struct pull *p = LINK_OF(l, struct pull, beside);

        if (under_way ? p->under_way > 0 : p->n + p->under_way < p->max)
            return p;
    }
    return NULL;
}

void pull_begins(struct routed *d, const char *agent)
{
    struct pull *p = waiting(d, agent, false);

    if (p)
        change(p, 0, 1);
}

/* What was found at once goes together. */
static void finish_if_full(struct routed *d, struct pull *p)
{
    if (p->n && !p->under_way)
        finish(d, p);
}

void pull_fails(struct routed *d, const char *agent)
{
    struct pull *p = waiting(d, agent, true);

    if (!p)
        return;
    change(p, 0, -1);
    finish_if_full(d, p);
    tell_credit(d, agent);
}

static bool put(struct pull *p, const char *body, size_t len)
{
    if (p->n && p->tasks.len + len >= PULLS_BYTES)
        return false;
    buf_puts(&p->tasks, p->n ? "," : "");
    buf_put(&p->tasks, body, len);
    change(p, 1, 0);
    return true;
}

bool pull_takes(struct routed *d, const char *agent, const char *body, size_t len)
{
    struct pull *p = waiting(d, agent, true);
    bool fits = p && put(p, body, len);

    if (!p)
        return false;
    change(p, 0, -1);
    finish_if_full(d, p);
    tell_credit(d, agent);
    return fits;
}

bool pull_hand(struct routed *d, const char *agent, const char *body, size_t len)
{
    struct pull *p = waiting(d, agent, false);

    return p && put(p, body, len);
}

void pull_handed(struct routed *d, const char *agent)
{
    struct puller *by = puller_find(d, agent);
    struct link *next;

    for (struct link *l = by ? by->pulls.next : NULL; l; l = next) {
        next = l->next == &by->pulls ? NULL : l->next; /* by goes with the last */
        finish_if_full(d, LINK_OF(l, struct pull, beside));
    }
    tell_credit(d, agent);
}

void pull_missed(struct routed *d)
{
    for (struct link *l = d->pulls.next; l != &d->pulls; l = l->next)
        look_for_missed(d, pull_in(l)->by->agent);
}

void pull_gone(struct routed *d, const char *agent)
{
    struct puller *by;

    missed_drop(d, agent);
    while ((by = puller_find(d, agent)))
        finish(d, LINK_OF(by->pulls.next, struct pull, beside));
}

void pull_end(struct routed *d)
{
    while (link_is_in(&d->pulls))
        finish(d, pull_in(d->pulls.next));
    map_done(&d->pullers);
}

static void tick(struct routed *d, int64_t now_ns)
{
    struct link *next;

    for (struct link *l = d->pulls.next; l != &d->pulls; l = next) {
        struct pull *p = pull_in(l);
        char agent[128];

        next = l->next;
        if (p->under_way)
            continue;
        if (now_ns < p->until_ns) {
            if (now_ns >= p->look_ns) {
                p->look_ns = now_ns + look_ns;
                look_for_unspoken(d, p->by->agent, now_ns);
            }
            continue;
        }
        (void)snprintf(agent, sizeof agent, "%s", p->by->agent);
        finish(d, p);
        tell_credit(d, agent);
    }
}

void pull_tick(struct router *r, int64_t now_ns)
{
    for (struct link *l = r->routed.next; l != &r->routed; l = l->next)
        tick(LINK_OF(l, struct routed, link), now_ns);
}

/* ---- at the broker that is asked ---------------------------------------------------------------------------------------- */

/* A request of another broker is for a short while, so that it is soon found out when who held the shard is gone. */
static const int64_t slice_ns = CLOCK_S;

struct asking {
    struct router *r;
    struct ask *a;
    int64_t until_ns;
};

static void go_on(struct asking *q);

static void none(struct asking *q)
{
    static const char empty[] = "{\"tasks\":[]}";

    ask_reply(q->a, empty, sizeof empty - 1);
    free(q);
}

static bool has_none(const struct muster_value *answer)
{
    const struct muster_value *tasks = value_in(answer, "tasks");

    return tasks && value_type(tasks) == MUSTER_ARRAY && !value_count(tasks);
}

static void answer(struct asking *q, const struct muster_msg *msg)
{
    struct muster_value *doc = NULL;
    struct wire_error why;
    const struct muster_value *error = value_decode(msg->encoding, msg->payload, &doc, &why) == 0 ? value_in(doc, "error") : NULL;

    if (has_none(doc) && !q->r->draining && q->r->w->timer->now(q->r->w->host) < q->until_ns) {
        go_on(q);
    } else if (text_in(error, "code")) {
        ask_error(q->a, text_in(error, "code"), text_in(error, "field"), "%s", text_in(error, "message") ? text_in(error, "message") : "");
        free(q);
    } else {
        ask_reply(q->a, msg->payload.data, msg->payload.len);
        free(q);
    }
    value_free(doc);
}

static void on_answer(void *arg, int code, const struct muster_msg *msg)
{
    struct asking *q = arg;

    if (!code)
        answer(q, msg);
    else if (code == MUSTER_ETIME && !q->r->draining && q->r->w->timer->now(q->r->w->host) < q->until_ns)
        go_on(q); /* somebody else holds it by now */
    else
        none(q);
}

static int forward(struct asking *q, int64_t left_ns)
{
    struct work *w = q->r->w;
    int64_t wait_ns = left_ns < slice_ns ? left_ns : slice_ns;
    char subject[128];
    struct buf body = {0};
    struct muster_publication pub = {.size = sizeof pub, .tenant = q->a->msg->tenant, .subject = subject};
    int err;

    (void)snprintf(subject, sizeof subject, "rpc._p_tasks.task.pull.%s", q->a->msg->agent);
    buf_printf(&body, "{\"max\":%lld,\"wait_ms\":%lld}", (long long)number_in(q->a, "max", 1), (long long)(wait_ns / CLOCK_MS));
    pub.payload = (struct muster_bytes){body.data, body.len};
    err = buf_failed(&body) ? MUSTER_ENOMEM : w->bus->request(w->host, &pub, wait_ns + over_ns, on_answer, q);
    buf_done(&body);
    return err;
}

static void go_on(struct asking *q)
{
    struct routed *d = routed_find(q->r, q->a->msg->tenant);
    int64_t left_ns = q->until_ns - q->r->w->timer->now(q->r->w->host);
    struct ask *a = q->a;

    if (q->r->draining) { /* what was waiting to be taken when that began */
        none(q);
    } else if (d) {
        wait_here(d, a, a->msg->agent, q->until_ns);
        free(q);
    } else if (forward(q, left_ns > 0 ? left_ns : 0) != 0) {
        none(q);
    }
}

static int on_agent(void *arg, const struct muster_agent *agent)
{
    *(bool *)arg = agent->flags & MUSTER_AGENT_PULLS;
    return 0;
}

static bool pulls(const struct router *r, const struct muster_tenant *tenant, const char *agent)
{
    bool found = false;

    return r->roster->get(r->w->host, tenant, agent, on_agent, &found) == 0 && found;
}

bool pull_does(const struct routed *d, const char *agent)
{
    return pulls(d->r, d->tenant, agent);
}

bool pull_look(struct ask *a)
{
    struct router *r = ((struct tasks *)a->w)->router;
    struct asking *q;

    if (!pulls(r, a->msg->tenant, a->msg->agent)) {
        ask_error(a, "failed_precondition", NULL, "%s is not present as one that pulls: say hello with delivery: pull", a->msg->agent);
        return false;
    }
    q = malloc(sizeof *q);
    if (!q) {
        ask_failed(a, MUSTER_ENOMEM, "the request could not be kept");
        return false;
    }
    *q = (struct asking){r, a, a->w->timer->now(a->w->host) + wait_of(a)};
    go_on(q);
    return false;
}

/* Of another broker, which alone may ask for an agent; who does not serve the tenant says nothing. */
static int on_pull(void *self, const struct muster_msg *msg)
{
    struct tasks *t = self;
    struct routed *d = routed_find(t->router, msg->tenant);
    const char *agent = strrchr(msg->subject, '.');
    struct ask *a;
    int err;

    if (!d || !msg->agent || strcmp(msg->agent, "_p_tasks") != 0 || !agent || t->router->draining)
        return 0;
    err = ask_new(&t->work, msg, NULL, &a);
    if (!err)
        wait_here(d, a, agent + 1, t->work.timer->now(t->work.host) + wait_of(a));
    return err;
}

int pull_start(struct router *r)
{
    const struct muster_subscription sub = {.size = sizeof sub, .subject = "rpc.*.task.pull.*", .overflow = MUSTER_OVERFLOW_REJECT, .max_msgs = 16384,
                                            .max_bytes = 8 << 20, .fn = on_pull};
    uint64_t id;

    return r->w->bus->subscribe(r->w->host, &sub, &id);
}
