/*
 * plugins/tasks: who gets which task. First each rule by itself; then a world that does what it likes, beside a reference that looks at
 * everything each time: what is given out is always the first task that somebody free can do, to one who can, and nothing is left lying.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tasks/match.h"

static const int64_t s = 1000000000, ms = 1000000;
static const struct match_config tiny = {.window = 4, .routes = 100, .sticky_ns = 30 * INT64_C(1000000000), .unroutable_ns = 500 * INT64_C(1000000)};
static const struct match_config small = {.window = 16, .routes = 100, .sticky_ns = 30 * INT64_C(1000000000), .unroutable_ns = 500 * INT64_C(1000000)};

/* ---- short words for the tests of one rule each ---- */

struct desk {
    struct matcher *m;
    struct match_tenant *t;
    int64_t now_ns;
};

static void open_desk(struct desk *d)
{
    d->m = match_new(&small);
    d->t = match_tenant_new(d->m, NULL);
    d->now_ns = 1000 * s;
    (void)match_tick(d->m, d->now_ns);
    match_tenant_settle(d->t);
}

static void present(struct desk *d, const char *agent, uint32_t capacity, const char *capability)
{
    struct worker_spec spec = {.agent = agent, .session = "s1", .capabilities = &capability, .n_capabilities = capability != NULL,
                               .capacity = capacity, .load = NAN, .able = true};

    assert_true(match_present(d->t, &spec));
}

static void queued_for(struct desk *d, const char *task, int64_t pos, const struct route_spec *route)
{
    assert_true(match_queued(d->t, route, &(struct task_spec){.task_id = task, .pos = pos, .seq = 1}));
}

static void queued(struct desk *d, const char *task, int64_t pos, const char *capability)
{
    queued_for(d, task, pos, &(struct route_spec){.id = capability ? capability[0] : 0, .capabilities = &capability, .n_capabilities = capability != NULL});
}

static void in_group(struct desk *d, const char *task, int64_t pos, const char *group)
{
    queued_for(d, task, pos, &(struct route_spec){.id = 1000 + group[0], .group = group});
}

/* "task agent", or "" */
static const char *next(struct desk *d, struct pairing *p)
{
    static char said[64];

    said[0] = '\0';
    if (match_next(d->m, d->now_ns, p))
        (void)snprintf(said, sizeof said, "%s %s", p->task_id, p->agent);
    return said;
}

static const char *given(struct desk *d)
{
    struct pairing p;
    const char *said = next(d, &p);

    if (*said)
        match_assigned(d->t, p.task, 1);
    return said;
}

static void test_order(void **state)
{
    struct desk d;

    (void)state;
    open_desk(&d);
    queued(&d, "late", 30, NULL);
    queued(&d, "early", 10, "x");
    queued(&d, "middle", 20, NULL);
    assert_string_equal(given(&d), "");
    present(&d, "ann", 1, NULL);
    assert_string_equal(given(&d), "middle ann"); /* early asks for x */
    assert_string_equal(given(&d), "");
    present(&d, "bob", 2, "x");
    assert_string_equal(given(&d), "early bob");
    assert_string_equal(given(&d), "late bob");
    match_over(d.t, "middle", 1);
    queued(&d, "b", 50, NULL);
    queued(&d, "a", 50, NULL);
    assert_string_equal(given(&d), "a ann");
    match_free(d.m);
}

static void test_wanted_and_labels(void **state)
{
    static const char *const eu = "zone" "\x1f" "eu", *const us = "zone" "\x1f" "us";
    struct desk d;

    (void)state;
    open_desk(&d);
    present(&d, "ann", 5, NULL);
    assert_true(match_present(d.t, &(struct worker_spec){.agent = "bob", .session = "s", .labels = &eu, .n_labels = 1, .capacity = 5, .able = true}));
    queued_for(&d, "us", 1, &(struct route_spec){.id = 1, .labels = &us, .n_labels = 1});
    queued_for(&d, "eu", 2, &(struct route_spec){.id = 2, .labels = &eu, .n_labels = 1});
    queued_for(&d, "ann-eu", 3, &(struct route_spec){.id = 3, .wanted = "ann", .labels = &eu, .n_labels = 1});
    queued_for(&d, "ann", 4, &(struct route_spec){.id = 4, .wanted = "ann"});
    queued_for(&d, "eve", 5, &(struct route_spec){.id = 5, .wanted = "eve"});
    assert_string_equal(given(&d), "eu bob");
    assert_string_equal(given(&d), "ann ann");
    assert_string_equal(given(&d), "");
    present(&d, "eve", 1, NULL);
    assert_string_equal(given(&d), "eve eve");
    match_free(d.m);
}

static void test_load(void **state)
{
    struct desk d;

    (void)state;
    open_desk(&d);
    present(&d, "big", 4, NULL);
    present(&d, "one", 2, NULL);
    for (int i = 0; i < 6; i++) {
        char name[8];

        (void)snprintf(name, sizeof name, "t%d", i);
        queued(&d, name, i, NULL);
    }
    /* the part of its slots that is taken: 0/4 0/2, then 1/4 1/2 … */
    given(&d);
    given(&d);
    assert_string_equal(given(&d), "t2 big");
    given(&d);
    given(&d);
    given(&d);
    assert_int_equal(match_tenant_counts(d.t).held, 6);
    match_free(d.m);
}

static void test_declined(void **state)
{
    static const char *const ann = "ann";
    struct desk d;
    struct pairing p;
    struct telling tell;

    (void)state;
    open_desk(&d);
    present(&d, "ann", 3, NULL);
    queued(&d, "t", 1, NULL);
    queued(&d, "u", 2, NULL);
    assert_string_equal(given(&d), "t ann");
    /* it comes back as declined, and holds nobody up */
    assert_true(match_queued(d.t, &(struct route_spec){0}, &(struct task_spec){.task_id = "t", .pos = 1, .epoch = 1, .seq = 4, .excluded = &ann, .n_excluded = 1}));
    assert_string_equal(given(&d), "u ann");
    assert_string_equal(given(&d), "");
    assert_int_equal(match_tenant_counts(d.t).aside, 1);
    assert_int_equal(match_tenant_counts(d.t).held, 1);
    assert_false(match_tell_next(d.m, &tell));
    (void)match_tick(d.m, d.now_ns += s);
    assert_true(match_tell_next(d.m, &tell));
    assert_string_equal(tell.task_id, "t");
    assert_int_equal(tell.seq, 4);
    assert_true(tell.unroutable);
    assert_false(match_tell_next(d.m, &tell));
    present(&d, "bob", 1, NULL);
    assert_string_equal(next(&d, &p), "t bob");
    match_put_back(d.t, p.task);
    assert_string_equal(next(&d, &p), "t bob");
    match_forget(d.t, p.task);
    assert_string_equal(given(&d), "");
    match_free(d.m);
}

static void test_crashed(void **state)
{
    static const char *const ann = "ann";
    struct desk d;

    (void)state;
    open_desk(&d);
    present(&d, "ann", 1, NULL);
    present(&d, "bob", 1, NULL);
    for (int i = 0; i < 2; i++) {
        char name[8];

        (void)snprintf(name, sizeof name, "t%d", i);
        assert_true(match_queued(d.t, &(struct route_spec){0}, &(struct task_spec){.task_id = name, .pos = i, .crashed = &ann, .n_crashed = 1}));
    }
    assert_string_equal(given(&d), "t0 bob");
    assert_string_equal(given(&d), "t1 ann"); /* better than nobody */
    match_free(d.m);
}

static void test_group(void **state)
{
    struct desk d;
    struct pairing p;

    (void)state;
    open_desk(&d);
    present(&d, "ann", 1, NULL);
    in_group(&d, "g1", 1, "g");
    in_group(&d, "g2", 2, "g");
    queued(&d, "other", 3, NULL);
    assert_string_equal(next(&d, &p), "g1 ann");
    present(&d, "bob", 1, NULL);
    match_assigned(d.t, p.task, 1);
    assert_string_equal(given(&d), "other bob"); /* g2 waits for ann */
    match_over(d.t, "other", 1);
    assert_string_equal(given(&d), "");
    match_over(d.t, "g1", 1);
    assert_string_equal(given(&d), "g2 ann");
    /* ann has something else to do: it is waited for, and not for ever */
    match_over(d.t, "g2", 1);
    queued_for(&d, "hers", 4, &(struct route_spec){.id = 9, .wanted = "ann"});
    assert_string_equal(given(&d), "hers ann");
    in_group(&d, "g3", 5, "g");
    assert_string_equal(given(&d), "");
    assert_int_equal(match_tick(d.m, d.now_ns), d.now_ns + small.sticky_ns);
    d.now_ns += small.sticky_ns;
    (void)match_tick(d.m, d.now_ns);
    assert_string_equal(given(&d), "g3 bob");
    /* bob dies: somebody else goes on at once */
    in_group(&d, "g4", 6, "g");
    assert_string_equal(given(&d), "");
    match_over(d.t, "hers", 1);
    assert_string_equal(given(&d), "");
    match_absent(d.t, "bob");
    assert_string_equal(given(&d), "g4 ann");
    match_free(d.m);
}

static void test_limits(void **state)
{
    struct desk d;

    (void)state;
    open_desk(&d);
    present(&d, "ann", 100, NULL);
    match_tenant_limits(d.t, &(struct match_limits){.weight = 1, .running = 2});
    for (int i = 0; i < 4; i++) {
        char name[8];

        (void)snprintf(name, sizeof name, "t%d", i);
        queued(&d, name, i, NULL);
    }
    assert_string_equal(given(&d), "t0 ann");
    assert_string_equal(given(&d), "t1 ann");
    assert_string_equal(given(&d), "");
    match_finished(d.t, "t0");
    assert_string_equal(given(&d), "t2 ann");
    assert_string_equal(given(&d), "");
    /* two a second */
    match_tenant_limits(d.t, &(struct match_limits){.weight = 1, .rate = 2});
    assert_string_equal(given(&d), "t3 ann");
    queued(&d, "t4", 5, NULL);
    assert_string_equal(given(&d), "");
    (void)match_tick(d.m, d.now_ns += 450 * ms);
    assert_string_equal(given(&d), "t4 ann");
    match_tenant_limits(d.t, &(struct match_limits){.weight = 1, .group_running = 1});
    in_group(&d, "g1", 6, "g");
    in_group(&d, "g2", 7, "g");
    in_group(&d, "h1", 8, "h");
    assert_string_equal(given(&d), "g1 ann");
    assert_string_equal(given(&d), "h1 ann");
    assert_string_equal(given(&d), "");
    match_over(d.t, "g1", 1);
    assert_string_equal(given(&d), "g2 ann");
    match_tenant_pause(d.t, true);
    queued(&d, "t5", 9, NULL);
    assert_string_equal(given(&d), "");
    match_tenant_pause(d.t, false);
    assert_string_equal(given(&d), "t5 ann");
    match_free(d.m);
}

static void test_turns(void **state)
{
    struct matcher *m = match_new(&(struct match_config){.window = 100, .routes = 10});
    struct match_tenant *a = match_tenant_new(m, NULL), *b = match_tenant_new(m, NULL);
    struct worker_spec w = {.agent = "w", .session = "s", .capacity = 1000, .able = true};
    struct pairing p;
    int n[2] = {0};

    (void)state;
    match_tenant_limits(b, &(struct match_limits){.weight = 3});
    assert_true(match_present(a, &w) && match_present(b, &w));
    for (int i = 0; i < 100; i++) {
        char name[8];

        (void)snprintf(name, sizeof name, "t%d", i);
        assert_true(match_queued(a, &(struct route_spec){0}, &(struct task_spec){.task_id = name, .pos = i}));
        assert_true(match_queued(b, &(struct route_spec){0}, &(struct task_spec){.task_id = name, .pos = 1000 + i}));
    }
    for (int i = 0; i < 80; i++) {
        assert_true(match_next(m, s, &p));
        n[p.tenant == b]++;
        assert_true(abs(n[1] - 3 * n[0]) <= 3);
    }
    assert_int_equal(n[0], 20);
    match_free(m);
}

/* A tenant of which so many are on their way to the database waits for one of them; the others do not. */
static void test_assigning(void **state)
{
    struct matcher *m = match_new(&(struct match_config){.window = 100, .routes = 10, .assigning = 3});
    struct match_tenant *loud = match_tenant_new(m, NULL), *quiet = match_tenant_new(m, NULL);
    struct worker_spec w = {.agent = "w", .session = "s", .capacity = 100, .able = true};
    struct pairing p, given[3];

    (void)state;
    assert_true(match_present(loud, &w) && match_present(quiet, &w));
    for (int i = 0; i < 10; i++) {
        char name[8];

        (void)snprintf(name, sizeof name, "t%d", i);
        assert_true(match_queued(loud, &(struct route_spec){0}, &(struct task_spec){.task_id = name, .pos = i}));
    }
    for (int i = 0; i < 3; i++)
        assert_true(match_next(m, s, &given[i]));
    assert_false(match_next(m, s, &p));
    assert_true(match_queued(quiet, &(struct route_spec){0}, &(struct task_spec){.task_id = "q", .pos = 0}));
    assert_true(match_next(m, s, &p) && p.tenant == quiet);
    assert_false(match_next(m, s, &p));
    match_assigned(loud, given[0].task, 1);
    assert_true(match_next(m, s, &p) && p.tenant == loud);
    assert_false(match_next(m, s, &p));
    match_put_back(loud, given[1].task);
    assert_true(match_next(m, s, &p) && p.tenant == loud);
    match_forget(loud, given[2].task);
    assert_true(match_next(m, s, &p) && p.tenant == loud);
    assert_false(match_next(m, s, &p));
    match_free(m);
}

/* "task agent", or "" */
static const char *early(struct desk *d, const char *task, const char *capability, struct pairing *p)
{
    const struct route_spec needs = {.capabilities = &capability, .n_capabilities = capability != NULL};
    static char said[64];

    said[0] = '\0';
    if (match_early(d->t, &needs, task, d->now_ns, p))
        (void)snprintf(said, sizeof said, "%s %s", p->task_id, p->agent);
    return said;
}

static void test_early(void **state)
{
    struct desk d;
    struct pairing p, q;

    (void)state;
    open_desk(&d);
    assert_string_equal(early(&d, "a", NULL, &p), "");
    present(&d, "ann", 2, "x");
    assert_string_equal(early(&d, "a", "y", &p), "");
    assert_string_equal(early(&d, "a", "x", &p), "a ann");
    assert_true(p.early);
    queued(&d, "a", 1, "x"); /* its submission is told of meanwhile */
    assert_string_equal(given(&d), "");
    match_assigned(d.t, p.task, 1);
    assert_int_equal(match_tenant_counts(d.t).held, 1);
    assert_string_equal(early(&d, "a", "x", &q), ""); /* such a task is there */
    assert_string_equal(early(&d, "b", NULL, &p), "b ann");
    assert_string_equal(early(&d, "c", NULL, &q), ""); /* her slots are taken */
    match_forget(d.t, p.task); /* it was refused */
    assert_int_equal(match_tenant_counts(d.t).assigning, 0);
    queued(&d, "b", 2, NULL);
    assert_string_equal(early(&d, "c", NULL, &q), ""); /* b is before it */
    assert_string_equal(next(&d, &p), "b ann");
    match_put_back(d.t, p.task);
    match_tenant_pause(d.t, true);
    assert_string_equal(early(&d, "c", NULL, &q), "");
    match_tenant_pause(d.t, false);
    assert_string_equal(given(&d), "b ann");
    match_over(d.t, "b", 1);
    assert_true(match_early(d.t, &(struct route_spec){.wanted = "ann"}, "d", d.now_ns, &p));
    match_over(d.t, "d", 1); /* it was carried out before the answer came */
    match_assigned(d.t, p.task, 1);
    assert_int_equal(match_tenant_counts(d.t).held, 1);
    assert_false(match_early(d.t, &(struct route_spec){.group = "g"}, "e", d.now_ns, &p));
    match_tenant_limits(d.t, &(struct match_limits){.running = 1});
    assert_string_equal(early(&d, "e", NULL, &p), "");
    match_free(d.m);
}

static void test_pulls(void **state)
{
    struct worker_spec w = {.agent = "ann", .session = "s1", .capacity = 3, .able = true, .pulls = true};
    struct desk d;

    (void)state;
    open_desk(&d);
    assert_true(match_present(d.t, &w));
    for (int i = 0; i < 4; i++) {
        char name[8];

        (void)snprintf(name, sizeof name, "t%d", i);
        queued(&d, name, i, NULL);
    }
    assert_string_equal(given(&d), "");
    match_credit(d.t, "ann", 2);
    assert_string_equal(given(&d), "t0 ann");
    assert_string_equal(given(&d), "t1 ann");
    assert_string_equal(given(&d), "");
    match_credit(d.t, "ann", 5);
    assert_string_equal(given(&d), "t2 ann");
    assert_string_equal(given(&d), ""); /* three at once */
    w.session = "s2";
    assert_true(match_present(d.t, &w));
    match_over(d.t, "t0", 1);
    assert_string_equal(given(&d), "");
    match_free(d.m);
}

static void test_unroutable(void **state)
{
    struct desk d;
    struct telling tell;

    (void)state;
    open_desk(&d);
    present(&d, "ann", 1, NULL);
    queued(&d, "t", 1, "x");
    assert_int_equal(match_tick(d.m, d.now_ns), d.now_ns + small.unroutable_ns);
    assert_false(match_tell_next(d.m, &tell));
    (void)match_tick(d.m, d.now_ns += small.unroutable_ns);
    assert_true(match_tell_next(d.m, &tell));
    assert_true(tell.unroutable);
    assert_false(match_tell_next(d.m, &tell));
    queued(&d, "u", 2, "x");
    (void)match_tick(d.m, d.now_ns += small.unroutable_ns);
    assert_true(match_tell_next(d.m, &tell));
    assert_string_equal(tell.task_id, "u");
    /* who has too much to do could do it all the same */
    assert_true(match_present(d.t, &(struct worker_spec){.agent = "bob", .session = "s", .capabilities = &(const char *){"x"}, .n_capabilities = 1, .capacity = 1}));
    (void)match_tick(d.m, d.now_ns);
    assert_true(match_tell_next(d.m, &tell));
    assert_false(tell.unroutable);
    assert_true(match_tell_next(d.m, &tell));
    assert_false(match_tell_next(d.m, &tell));
    /* one that was told of before is told again where somebody could do it */
    assert_true(match_queued(d.t, &(struct route_spec){0}, &(struct task_spec){.task_id = "old", .pos = 3, .unroutable = true}));
    match_tenant_pause(d.t, true);
    (void)match_tick(d.m, d.now_ns += small.unroutable_ns);
    assert_true(match_tell_next(d.m, &tell));
    assert_string_equal(tell.task_id, "old");
    assert_false(tell.unroutable);
    match_free(d.m);
}

static void test_holds(void **state)
{
    struct desk d;

    (void)state;
    open_desk(&d);
    present(&d, "ann", 2, NULL);
    assert_true(match_held(d.t, "a", "ann", NULL, 3));
    assert_true(match_held(d.t, "b", "gone", "g", 1)); /* of one that is not present */
    assert_int_equal(match_tenant_counts(d.t).held, 2);
    match_over(d.t, "a", 2); /* old */
    assert_int_equal(match_tenant_counts(d.t).held, 2);
    match_finished(d.t, "a");
    assert_true(match_held(d.t, "a", "ann", NULL, 3)); /* told late */
    assert_int_equal(match_tenant_counts(d.t).held, 1);
    match_over(d.t, "a", 3);
    queued(&d, "c", 1, NULL);
    assert_string_equal(given(&d), "c ann");
    match_held_begin(d.t);
    assert_true(match_held(d.t, "c", "ann", NULL, 1));
    queued(&d, "d", 1, NULL);
    assert_string_equal(given(&d), "d ann"); /* meanwhile */
    match_held_end(d.t);
    assert_int_equal(match_tenant_counts(d.t).held, 2);
    match_free(d.m);
}

/* The index of a route among very many: there is room, because those that nobody can serve make it. */
static void test_many_routes(void **state)
{
    struct desk d;

    (void)state;
    open_desk(&d);
    for (int i = 0; i < 300; i++) {
        char name[16], capability[16];
        const char *c = capability;

        (void)snprintf(name, sizeof name, "t%d", i);
        (void)snprintf(capability, sizeof capability, "c%d", i);
        assert_true(match_queued(d.t, &(struct route_spec){.id = i + 1, .capabilities = &c, .n_capabilities = 1}, &(struct task_spec){.task_id = name, .pos = i}));
    }
    assert_int_equal(match_tenant_counts(d.t).routes, small.routes);
    present(&d, "ann", 1, "c299");
    assert_string_equal(given(&d), "t299 ann");
    match_free(d.m);
}

/* ---- the world ---- */

enum { TENANTS = 2, AGENTS = 6, TASKS = 400, EVENTS = 100000, ROUTES = 6 };

enum { NONE, QUEUED, HELD, OVER };
struct row {
    int state, agent, route;
    int64_t pos, epoch;
    unsigned int excluded; /* agents, a bit each */
};
struct agent {
    bool present, able;
    unsigned int capacity, used, skills;
};
struct world {
    struct matcher *m;
    struct match_tenant *t[TENANTS];
    struct row rows[TENANTS][TASKS];
    struct agent agents[TENANTS][AGENTS];
    struct {
        int tenant, row;
    } events[EVENTS];
    int first_event, n_events;
    struct {
        int tenant, n, ids[8];
        int64_t route;
        struct row rows[8];
    } peeks[64];
    int n_peeks;
    int64_t now_ns, clock;
    uint64_t seed;
    long n_given, n_refused, n_checked;
};

static unsigned int dice(struct world *w, unsigned int n)
{
    w->seed = w->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned int)(w->seed >> 33) % n;
}

/* Routes 0 … 3 ask for the skills that the bits say, 4 for agent 2; 5 for skill 1 and is a group. */
static bool can(const struct row *row, int agent, const struct agent *a)
{
    unsigned int skills = row->route < 4 ? (unsigned int)row->route : row->route == 5;

    return (a->skills & skills) == skills && (row->route != 4 || agent == 2) && !(row->excluded >> agent & 1);
}

static bool is_free(const struct agent *a)
{
    return a->present && a->able && a->used < a->capacity;
}

static const char *const skill_names[] = {"one", "two"};
static const char *const agent_names[AGENTS] = {"a0", "a1", "a2", "a3", "a4", "a5"};

static struct route_spec route_of(int route)
{
    static const char *const both[] = {"one", "two"};
    struct route_spec spec = {.id = route};

    if (route == 1 || route == 5)
        spec.capabilities = &skill_names[0], spec.n_capabilities = 1;
    else if (route == 2)
        spec.capabilities = &skill_names[1], spec.n_capabilities = 1;
    else if (route == 3)
        spec.capabilities = both, spec.n_capabilities = 2;
    if (route == 4)
        spec.wanted = "a2";
    if (route == 5)
        spec.group = "g";
    return spec;
}

static void with_spec(const struct row *row, int id, void (*fn)(struct world *, int, const struct row *, const struct task_spec *), struct world *w, int tenant)
{
    const char *excluded[AGENTS];
    char name[16];
    struct task_spec spec = {.task_id = name, .pos = row->pos, .epoch = row->epoch, .seq = 1, .excluded = excluded};

    (void)snprintf(name, sizeof name, "t%d", id);
    for (int i = 0; i < AGENTS; i++)
        if (row->excluded >> i & 1)
            excluded[spec.n_excluded++] = agent_names[i];
    fn(w, tenant, row, &spec);
}

static void tell_queued(struct world *w, int tenant, const struct row *row, const struct task_spec *spec)
{
    struct route_spec route = route_of(row->route);

    assert_true(match_queued(w->t[tenant], &route, spec));
}

static void tell_peeked(struct world *w, int tenant, const struct row *row, const struct task_spec *spec)
{
    match_peeked(w->t[tenant], row->route, spec);
}

static void event(struct world *w, int tenant, int row)
{
    assert_true(w->n_events < EVENTS);
    w->events[w->n_events].tenant = tenant;
    w->events[w->n_events++].row = row;
}

/* What an event leads to: a look at the row as it is then. */
static void hear(struct world *w)
{
    int tenant = w->events[w->first_event].tenant, id = w->events[w->first_event].row;
    struct row *row = &w->rows[tenant][id];
    char name[16];

    w->first_event++;
    (void)snprintf(name, sizeof name, "t%d", id);
    if (row->state == QUEUED)
        with_spec(row, id, tell_queued, w, tenant);
    else if (row->state == OVER)
        match_over(w->t[tenant], name, row->epoch);
    else
        assert_true(match_held(w->t[tenant], name, agent_names[row->agent], row->route == 5 ? "g" : NULL, row->epoch));
}

static int compare_rows(const struct row *a, int a_id, int64_t pos, const char *id)
{
    char name[16];

    (void)snprintf(name, sizeof name, "t%d", a_id);
    return a->pos != pos ? (a->pos < pos ? -1 : 1) : strcmp(name, id);
}

/* The answer is what is there now, and comes when it comes. */
static void ask(struct world *w)
{
    struct peek p;

    while (w->n_peeks < 64 && match_peek_next(w->m, &p)) {
        int at = w->n_peeks++, tenant = p.tenant == w->t[1];
        int64_t pos = p.pos;
        char after[16];

        (void)snprintf(after, sizeof after, "%s", p.task_id);
        w->peeks[at].tenant = tenant;
        w->peeks[at].route = p.route;
        for (w->peeks[at].n = 0; w->peeks[at].n < 3; w->peeks[at].n++) {
            int best = -1;
            char name[16];

            for (int i = 0; i < TASKS; i++) {
                const struct row *row = &w->rows[tenant][i];

                if (row->state != QUEUED || row->route != p.route || compare_rows(row, i, pos, after) <= 0)
                    continue;
                (void)snprintf(name, sizeof name, "t%d", best);
                if (best < 0 || compare_rows(row, i, w->rows[tenant][best].pos, name) < 0)
                    best = i;
            }
            if (best < 0)
                break;
            w->peeks[at].ids[w->peeks[at].n] = best;
            w->peeks[at].rows[w->peeks[at].n] = w->rows[tenant][best];
            pos = w->rows[tenant][best].pos;
            (void)snprintf(after, sizeof after, "t%d", best);
        }
    }
}

static void answer(struct world *w, int at)
{
    int tenant = w->peeks[at].tenant;

    for (int i = 0; i < w->peeks[at].n; i++)
        with_spec(&w->peeks[at].rows[i], w->peeks[at].ids[i], tell_peeked, w, tenant);
    match_peek_done(w->t[tenant], w->peeks[at].route, (uint32_t)w->peeks[at].n, 3);
    w->peeks[at] = w->peeks[--w->n_peeks];
}

static void be(struct world *w, int tenant, int agent)
{
    const struct agent *a = &w->agents[tenant][agent];
    const char *skills[2];
    struct worker_spec spec = {.agent = agent_names[agent], .session = "s", .capabilities = skills, .capacity = a->capacity, .load = NAN, .able = a->able};

    for (unsigned int i = 0; i < 2; i++)
        if (a->skills >> i & 1)
            skills[spec.n_capabilities++] = skill_names[i];
    if (a->present)
        assert_true(match_present(w->t[tenant], &spec));
    else
        match_absent(w->t[tenant], agent_names[agent]);
}

static bool is_quiet(struct world *w)
{
    ask(w);
    return w->first_event == w->n_events && !w->n_peeks;
}

/* The first task that somebody free can do; of the group nobody knows, because it waits. */
static int first_of(const struct world *w, int tenant, int64_t below)
{
    for (int i = 0; i < TASKS; i++) {
        const struct row *row = &w->rows[tenant][i];

        if (row->state != QUEUED || row->route == 5 || row->pos >= below)
            continue;
        for (int k = 0; k < AGENTS; k++)
            if (is_free(&w->agents[tenant][k]) && can(row, k, &w->agents[tenant][k]))
                return i;
    }
    return -1;
}

/* False: there was none. */
static bool give(struct world *w, bool quiet)
{
    struct pairing p;
    struct row *row;
    struct agent *a;
    int tenant, agent;
    bool found = match_next(w->m, w->now_ns, &p);

    quiet = quiet && is_quiet(w); /* what was put aside may have left a window empty */
    if (!found) {
        for (int i = 0; quiet && i < TENANTS; i++)
            assert_int_equal(first_of(w, i, INT64_MAX), -1);
        return false;
    }
    tenant = p.tenant == w->t[1];
    row = &w->rows[tenant][atoi(p.task_id + 1)];
    agent = p.agent[1] - '0';
    a = &w->agents[tenant][agent];
    assert_true(a->present && a->able);
    if (row->state != QUEUED || row->excluded >> agent & 1) { /* what is known is old: the database says so */
        w->n_refused++;
        match_forget(p.tenant, p.task);
        return true;
    }
    assert_true(can(row, agent, a));
    if (quiet) {
        w->n_checked++;
        assert_true(a->used < a->capacity);
        assert_int_equal(first_of(w, tenant, row->pos), -1);
    }
    if (dice(w, 20) == 0) { /* the database is away */
        match_put_back(p.tenant, p.task);
        return true;
    }
    *row = (struct row){HELD, agent, row->route, row->pos, row->epoch + 1, row->excluded};
    a->used++;
    w->n_given++;
    event(w, tenant, atoi(p.task_id + 1));
    match_assigned(p.tenant, p.task, row->epoch);
    return true;
}

/* The holder's word; sometimes it is heard of before the event. */
static void finish(struct world *w, int tenant, int id)
{
    struct row *row = &w->rows[tenant][id];
    char name[16];

    (void)snprintf(name, sizeof name, "t%d", id);
    w->agents[tenant][row->agent].used--;
    if (dice(w, 4) == 0) {
        row->state = QUEUED;
        row->excluded |= dice(w, 2) ? 1u << row->agent : 0;
    } else {
        row->state = OVER;
        if (dice(w, 2))
            match_finished(w->t[tenant], name);
    }
    event(w, tenant, id);
}

/* One by chance that is in the state, if there is any. */
static int any_row(struct world *w, int tenant, int state)
{
    int from = (int)dice(w, TASKS);

    for (int i = 0; i < TASKS; i++)
        if (w->rows[tenant][(from + i) % TASKS].state == state)
            return (from + i) % TASKS;
    return from;
}

static void step(struct world *w)
{
    unsigned int what = dice(w, 8);
    int tenant = (int)dice(w, TENANTS), agent = (int)dice(w, AGENTS);
    int id = any_row(w, tenant, what < 3 ? NONE : what < 5 ? HELD : QUEUED);
    struct row *row = &w->rows[tenant][id];
    struct agent *a = &w->agents[tenant][agent];

    w->now_ns += dice(w, 2000) * ms;
    switch (what) {
    case 0: case 1: case 2:
        if (row->state == NONE || (row->state == OVER && w->first_event == w->n_events)) {
            *row = (struct row){QUEUED, 0, (int)dice(w, ROUTES), ++w->clock - dice(w, 4) * 50, row->epoch, 0};
            event(w, tenant, id);
        }
        break;
    case 3: case 4:
        if (row->state == HELD)
            finish(w, tenant, id);
        break;
    case 5:
        if (row->state == QUEUED && dice(w, 4) == 0) {
            row->state = OVER;
            row->epoch++;
            event(w, tenant, id);
        }
        break;
    case 6:
        a->present = dice(w, 4) != 0;
        a->able = dice(w, 5) != 0;
        a->capacity = 1 + dice(w, 4);
        a->skills = dice(w, 4);
        be(w, tenant, agent);
        break;
    default:
        (void)match_tick(w->m, w->now_ns);
        break;
    }
}

static void settle(struct world *w)
{
    do {
        while (w->first_event < w->n_events)
            hear(w);
        ask(w);
        while (w->n_peeks)
            answer(w, w->n_peeks - 1);
        ask(w);
    } while (!is_quiet(w));
    w->first_event = w->n_events = 0;
    for (int tenant = 0; tenant < TENANTS; tenant++) {
        size_t n_held = 0;

        for (int i = 0; i < TASKS; i++)
            n_held += w->rows[tenant][i].state == HELD;
        assert_int_equal(match_tenant_counts(w->t[tenant]).held, n_held);
    }
}

/* All are there and can do everything: nothing may be left. */
static void work_off(struct world *w)
{
    for (int tenant = 0; tenant < TENANTS; tenant++) {
        for (int i = 0; i < AGENTS; i++) {
            w->agents[tenant][i] = (struct agent){true, true, 3, w->agents[tenant][i].used, 3};
            be(w, tenant, i);
        }
        for (int i = 0; i < TASKS; i++)
            if (w->rows[tenant][i].state == QUEUED && w->rows[tenant][i].excluded) {
                w->rows[tenant][i].excluded = 0;
                w->rows[tenant][i].epoch++;
                event(w, tenant, i);
            }
    }
    for (int left = 1, rounds = 0; left; rounds++) {
        assert_true(rounds < 100000);
        settle(w);
        w->now_ns += 60 * s;
        (void)match_tick(w->m, w->now_ns);
        while (give(w, w->first_event == w->n_events)) /* its own events tell nothing new */
            settle(w);
        left = 0;
        for (int tenant = 0; tenant < TENANTS; tenant++)
            for (int i = 0; i < TASKS; i++) {
                struct row *row = &w->rows[tenant][i];

                left += row->state == QUEUED || row->state == HELD;
                if (row->state != HELD)
                    continue;
                w->agents[tenant][row->agent].used--;
                row->state = OVER;
                event(w, tenant, i);
            }
    }
    settle(w);
    (void)match_tick(w->m, w->now_ns + 120 * s);
    for (int tenant = 0; tenant < TENANTS; tenant++) {
        struct match_counts n = match_tenant_counts(w->t[tenant]);

        assert_int_equal(n.queued + n.aside + n.assigning + n.held + n.routes, 0);
    }
}

static void run_world(uint64_t seed, int n_steps, long sums[3])
{
    struct world *w = calloc(1, sizeof *w);

    assert_non_null(w);
    w->seed = seed;
    w->clock = 1000000;
    w->now_ns = 1000 * s;
    w->m = match_new(&tiny);
    for (int i = 0; i < TENANTS; i++) {
        w->t[i] = match_tenant_new(w->m, NULL);
        match_tenant_settle(w->t[i]);
    }
    for (int i = 0; i < n_steps; i++) {
        struct telling tell;

        step(w);
        if (dice(w, 3) == 0 && w->first_event < w->n_events)
            hear(w);
        if (dice(w, 3) == 0)
            ask(w);
        if (dice(w, 3) == 0 && w->n_peeks)
            answer(w, (int)dice(w, (unsigned int)w->n_peeks));
        if (dice(w, 10) == 0)
            settle(w);
        while (match_tell_next(w->m, &tell))
            ;
        for (unsigned int n = dice(w, 3); n && give(w, is_quiet(w)); n--)
            if (dice(w, 2))
                settle(w);
    }
    work_off(w);
    sums[0] += w->n_given;
    sums[1] += w->n_checked;
    sums[2] += w->n_refused;
    match_free(w->m);
    free(w);
}

static void test_world(void **state)
{
    const char *seeds = getenv("MUSTER_MATCH_SEEDS");
    int n = seeds ? atoi(seeds) : 40;
    long sums[3] = {0};

    (void)state;
    for (int i = 1; i <= n; i++)
        run_world((uint64_t)i, 3000, sums);
    print_message("%ld given out, %ld of them looked at whole, %ld refused as old\n", sums[0], sums[1], sums[2]);
    assert_true(sums[0] > n * 100 && sums[1] > n * 50 && sums[2] > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),      cmocka_unit_test(test_wanted_and_labels), cmocka_unit_test(test_load),
        cmocka_unit_test(test_declined),   cmocka_unit_test(test_crashed),           cmocka_unit_test(test_group),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_turns),             cmocka_unit_test(test_assigning),
        cmocka_unit_test(test_early),      cmocka_unit_test(test_pulls),
        cmocka_unit_test(test_unroutable), cmocka_unit_test(test_holds),             cmocka_unit_test(test_many_routes),
        cmocka_unit_test(test_world),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
