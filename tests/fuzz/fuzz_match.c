/*
 * tasks/match: whatever is told in whatever order, who is given a task is there, has what its route asks for and a slot, and has not declined it. The
 * input's head says what each task is, each byte behind it is something that is told or asked.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "tasks/match.h"

enum { TENANTS = 2, TASKS = 16, AGENTS = 4, PENDING = 32, WINDOW = 4 };

static const char *const agents[AGENTS] = {"a0", "a1", "a2", "a3"};
static const char *const skills[] = {"c", "c++"}; /* one is the other's beginning */
static const char *const labels[] = {"zone\x1f" "eu", "zone\x1f"};

struct input {
    const uint8_t *at, *end;
};
struct about { /* bits: 0, 1 skills; 2, 3 labels; of a route 4 wanted, 5 group */
    uint8_t route, excluded;
};
struct is {
    bool present, able;
    uint8_t has, capacity;
};
struct world {
    struct matcher *m;
    struct match_tenant *t[TENANTS];
    struct about tasks[TASKS];
    struct is is[TENANTS][AGENTS];
    struct {
        struct match_tenant *t;
        struct task *task;
    } given[PENDING];
    struct {
        struct match_tenant *t;
        int64_t route;
    } asked[PENDING];
    size_t n_given, n_asked;
    int64_t now_ns;
};

static uint8_t byte(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static uint32_t some(uint8_t bits, const char *const *from, uint32_t n, const char **out)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < n; i++)
        if (bits >> i & 1)
            out[count++] = from[i];
    return count;
}

static void with_route(const struct world *w, uint8_t task, const char *words[4], struct route_spec *ret)
{
    uint8_t bits = w->tasks[task].route & 63;

    *ret = (struct route_spec){.id = bits, .capabilities = words, .labels = words + 2, .wanted = bits & 16 ? agents[0] : NULL, .group = bits & 32 ? "g" : NULL};
    ret->n_capabilities = some(bits, skills, 2, words);
    ret->n_labels = some(bits >> 2, labels, 2, words + 2);
}

static void with_task(const struct world *w, uint8_t task, struct input *in, char name[8], const char *out[AGENTS], struct task_spec *ret)
{
    (void)snprintf(name, 8, "t%u", task);
    *ret = (struct task_spec){.task_id = name, .pos = byte(in), .epoch = byte(in) & 3, .seq = byte(in) & 7, .excluded = out};
    ret->n_excluded = some(w->tasks[task].excluded, agents, AGENTS, out);
    ret->unroutable = ret->seq == 7;
}

static void tell_queued(struct world *w, struct match_tenant *t, struct input *in, bool seen)
{
    const char *words[4], *out[AGENTS];
    uint8_t task = byte(in) % TASKS;
    struct route_spec route;
    struct task_spec spec;
    char name[8];

    with_route(w, task, words, &route);
    with_task(w, task, in, name, out, &spec);
    if (seen)
        (void)match_route_seen(t, &route, spec.pos, name);
    else
        (void)match_queued(t, &route, &spec);
}

static void be(struct world *w, int tenant, struct input *in)
{
    uint8_t n = byte(in) % AGENTS, bits = byte(in), more = byte(in);
    struct is *is = &w->is[tenant][n];
    const char *words[4];
    struct worker_spec spec = {.agent = agents[n], .session = bits & 128 ? "s1" : "s2", .capabilities = words, .labels = words + 2, .capacity = more & 3,
                               .able = !(bits & 64), .pulls = bits & 32, .asks = bits & 16, .busy = more & 4, .load = more & 8 ? NAN : more / 255.0};

    spec.n_capabilities = some(bits, skills, 2, words);
    spec.n_labels = some(bits >> 2, labels, 2, words + 2);
    *is = (struct is){true, spec.able, bits & 15, spec.capacity ? spec.capacity : 1}; /* of nothing it makes one */
    (void)match_present(w->t[tenant], &spec);
}

static void be_off(struct world *w, int tenant, uint8_t n)
{
    w->is[tenant][n].present = false;
    match_absent(w->t[tenant], agents[n]);
}

static void be_all(struct world *w, int tenant, struct input *in)
{
    for (uint8_t i = 0; i < AGENTS; i++)
        w->is[tenant][i].present = false;
    match_present_begin(w->t[tenant]);
    for (uint8_t n = byte(in) % (AGENTS + 1); n; n--)
        be(w, tenant, in);
    match_present_end(w->t[tenant]);
}

static void hold(const struct world *w, const struct pairing *p)
{
    int tenant = p->tenant == w->t[1], agent = p->agent[1] - '0';
    const struct is *is = &w->is[tenant][agent];
    const struct about *task = &w->tasks[strtoul(p->task_id + 1, NULL, 10)];
    uint8_t needs = task->route & 15;

    ASSERT(is->present && is->able);
    ASSERT((is->has & needs) == needs);
    ASSERT(!(task->route & 16) || agent == 0);
    ASSERT(!(task->excluded >> agent & 1));
    ASSERT(match_holds(p->tenant, p->agent) <= is->capacity);
}

static void give(struct world *w)
{
    struct pairing p;

    if (w->n_given == PENDING || !match_next(w->m, w->now_ns, &p))
        return;
    hold(w, &p);
    w->given[w->n_given].t = p.tenant;
    w->given[w->n_given++].task = p.task;
}

static void answer(struct world *w, struct input *in)
{
    size_t i = w->n_given ? byte(in) % w->n_given : 0;
    uint8_t what = byte(in);

    if (!w->n_given)
        return;
    if (what & 128)
        match_forget(w->given[i].t, w->given[i].task);
    else if (what & 64)
        match_put_back(w->given[i].t, w->given[i].task);
    else
        match_assigned(w->given[i].t, w->given[i].task, what & 3);
    w->given[i] = w->given[--w->n_given];
}

static void ask(struct world *w)
{
    struct peek p;

    if (w->n_asked == PENDING || !match_peek_next(w->m, &p))
        return;
    w->asked[w->n_asked].t = p.tenant;
    w->asked[w->n_asked++].route = p.route;
}

/* What comes is of the route, and may be anything of it. */
static void peeked(struct world *w, struct input *in)
{
    size_t i = w->n_asked ? byte(in) % w->n_asked : 0;
    uint8_t n = byte(in) % (WINDOW + 1), came = 0;

    if (!w->n_asked)
        return;
    for (uint8_t task = 0; task < TASKS && came < n; task++) {
        const char *out[AGENTS];
        struct task_spec spec;
        char name[8];

        if ((w->tasks[task].route & 63) != w->asked[i].route)
            continue;
        with_task(w, task, in, name, out, &spec);
        match_peeked(w->asked[i].t, w->asked[i].route, &spec);
        came++;
    }
    if (n == 0 && byte(in) & 1)
        match_peek_failed(w->asked[i].t, w->asked[i].route);
    else
        match_peek_done(w->asked[i].t, w->asked[i].route, came, WINDOW);
    w->asked[i] = w->asked[--w->n_asked];
}

static void tell_held(struct match_tenant *t, struct input *in, uint8_t what)
{
    char name[8];
    uint8_t agent = byte(in);

    (void)snprintf(name, sizeof name, "t%u", byte(in) % TASKS);
    if (what == 0)
        (void)match_held(t, name, agents[agent % AGENTS], agent & 128 ? "g" : NULL, byte(in) & 3);
    else if (what == 1)
        match_over(t, name, byte(in) & 3);
    else
        match_finished(t, name);
}

static void read_held(struct match_tenant *t, struct input *in)
{
    match_held_begin(t);
    for (uint8_t n = byte(in) & 3; n; n--)
        tell_held(t, in, 0);
    match_held_end(t);
}

static void bound(struct match_tenant *t, struct input *in)
{
    uint8_t bits = byte(in);
    const struct match_limits limits = {.weight = 1 + (bits & 3), .running = bits >> 2 & 3, .group_running = bits >> 4 & 1, .rate = bits >> 5 & 3,
                                        .group_rate = bits >> 7};

    match_tenant_limits(t, &limits);
}

/* All that is told of it is over with it. */
static void renew(struct world *w, int tenant)
{
    struct match_tenant *old = w->t[tenant];

    for (size_t i = w->n_given; i-- > 0;)
        if (w->given[i].t == old)
            w->given[i] = w->given[--w->n_given];
    for (size_t i = w->n_asked; i-- > 0;)
        if (w->asked[i].t == old)
            w->asked[i] = w->asked[--w->n_asked];
    memset(w->is[tenant], 0, sizeof w->is[tenant]);
    match_tenant_end(old);
    w->t[tenant] = match_tenant_new(w->m, NULL);
    ASSERT(w->t[tenant]);
}

static void step(struct world *w, struct input *in)
{
    uint8_t op = byte(in);
    int tenant = op >> 7;
    struct match_tenant *t = w->t[tenant];
    struct telling told;

    switch (op & 31) {
    case 0: case 1: case 2: tell_queued(w, t, in, false); break;
    case 3: tell_queued(w, t, in, true); break;
    case 4: case 5: be(w, tenant, in); break;
    case 6: be_off(w, tenant, byte(in) % AGENTS); break;
    case 7: be_all(w, tenant, in); break;
    case 8: case 9: case 10: case 11: give(w); break;
    case 12: case 13: case 14: answer(w, in); break;
    case 15: case 16: ask(w); break;
    case 17: case 18: peeked(w, in); break;
    case 19: case 20: case 21: tell_held(t, in, (op & 31) - 19); break;
    case 22: read_held(t, in); break;
    case 23: match_credit(t, agents[byte(in) % AGENTS], byte(in) & 3); break;
    case 24: bound(t, in); break;
    case 25: match_tenant_pause(t, byte(in) & 1); break;
    case 26: match_tenant_settle(t); break;
    case 27: (void)match_tell_next(w->m, &told); break;
    case 28: renew(w, tenant); break;
    default:
        w->now_ns += INT64_C(10000000) << (byte(in) & 15);
        (void)match_tick(w->m, w->now_ns);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct match_config config = {.window = WINDOW, .routes = 8, .sticky_ns = 30 * INT64_C(1000000000), .unroutable_ns = 500 * INT64_C(1000000)};
    struct input in = {data, data + size};
    struct world w = {.m = match_new(&config), .now_ns = INT64_C(1000000000)};

    ASSERT(w.m);
    for (size_t i = 0; i < TASKS; i++)
        w.tasks[i] = (struct about){byte(&in), byte(&in) & 15};
    for (size_t i = 0; i < TENANTS; i++) {
        w.t[i] = match_tenant_new(w.m, NULL);
        ASSERT(w.t[i]);
    }
    (void)match_tick(w.m, w.now_ns);
    while (in.at < in.end)
        step(&w, &in);
    match_free(w.m);
    return 0;
}
