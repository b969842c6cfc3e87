/*
 * The fuzz of `muster plugin check`: lives of a plugin in which anything comes in any order, made from a seed. Run number i has the
 * seed of the command plus i, and is the same each time.
 */
#include <stdio.h>
#include <string.h>

#include "cli/plugin_check.h"

enum { N_EVENTS = 150 };

struct life {
    struct plugin_check *c;
    struct muster_test *t;
    uint64_t seed, state;
    int sql; /* SQL_*: how statements are answered now */
    uint64_t next_client, last_client;
};

static uint64_t draw(struct life *l)
{
    uint64_t z = (l->state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t below(struct life *l, uint64_t n)
{
    return n ? draw(l) % n : 0;
}

static void tell(struct life *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tell(struct life *l, const char *fmt, ...)
{
    char text[300];
    va_list ap;

    if (!l->c->tell_events)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    check_note("%s", text);
}

/* ---- events -------------------------------------------------------------------------------------------------------------------- */

static void do_traffic(struct life *l)
{
    uint64_t seed = draw(l);
    int broken = below(l, 4) == 0;

    tell(l, "%s traffic %llu", broken ? "broken" : "valid", (unsigned long long)seed);
    check_traffic(l->t, seed, broken);
}

static void do_clock(struct life *l)
{
    static const int64_t steps[] = {MUSTER_TEST_MS,     20 * MUSTER_TEST_MS, MUSTER_TEST_S,       3 * MUSTER_TEST_S,
                                    30 * MUSTER_TEST_S, 600 * MUSTER_TEST_S, 3600 * MUSTER_TEST_S};
    int64_t ns = steps[below(l, sizeof steps / sizeof *steps)];

    tell(l, "the clock goes %lld ms", (long long)(ns / MUSTER_TEST_MS));
    muster_test_advance(l->t, ns);
}

static void do_wall(struct life *l)
{
    int64_t ns = ((int64_t)below(l, 7200) - 3600) * MUSTER_TEST_S;

    tell(l, "the wall clock jumps %lld s", (long long)(ns / MUSTER_TEST_S));
    muster_test_jump_wall(l->t, ns);
}

static void do_fault(struct life *l)
{
    const struct muster_test_function *f;
    size_t n, codes = 0;
    uint32_t first = 1 + (uint32_t)below(l, 4), count = (uint32_t)below(l, 4);

    f = muster_test_functions(&n);
    f += below(l, n);
    while (f->codes[codes])
        codes++;
    codes = below(l, codes);
    tell(l, "%s gives %s from call %u on, %u times (0: always)", f->name, check_code(f->codes[codes]), first, count);
    muster_test_fault(l->t, f->name, f->codes[codes], first, count);
}

static void do_no_faults(struct life *l)
{
    tell(l, "faults end");
    muster_test_no_faults(l->t);
}

static void do_link(struct life *l)
{
    int up = (int)below(l, 3) > 0;

    tell(l, "the link is %s", up ? "up" : "down");
    muster_test_link(l->t, up);
}

static void do_room(struct life *l)
{
    int what = (int)below(l, 3);

    tell(l, "%s", what == 0 ? "there is room" : what == 1 ? "there is little room" : "there is room again");
    if (what == 0)
        muster_test_writable(l->t);
    else
        muster_test_pressure(l->t, what == 1);
}

static void do_tables(struct life *l)
{
    static const char *const names[] = {"acme", "zeta", "nova", "orbit"};
    const struct muster_table table = {
        .size = sizeof table, .schema = "public", .table = "orders", .tenant_column = "tenant_id", .subject_key = 1};

    (void)muster_test_tenant(l->t, names[below(l, sizeof names / sizeof *names)]);
    if (below(l, 4) == 0)
        muster_test_table(l->t, &table);
    tell(l, "tenants and tables change");
    muster_test_tables_changed(l->t);
}

static void do_lease(struct life *l)
{
    bool give = below(l, 2);

    tell(l, "leases are %s", give ? "given" : "taken");
    if (give)
        (void)muster_test_lease_give(l->t, NULL);
    else
        (void)muster_test_lease_take(l->t, NULL, below(l, 2) ? MUSTER_ESTALE : MUSTER_ETIME);
}

static void do_connection(struct life *l)
{
    char agent[8];

    if (below(l, 8) == 0) {
        tell(l, "events of connections were missed");
        muster_test_gap(l->t);
    } else if (below(l, 2) && l->last_client < l->next_client) {
        tell(l, "client %llu goes", (unsigned long long)l->last_client + 1);
        muster_test_disconnect(l->t, NULL, ++l->last_client, "Client Closed");
    } else {
        (void)snprintf(agent, sizeof agent, "a%u", (unsigned int)below(l, 3));
        tell(l, "client %llu comes", (unsigned long long)l->next_client + 1);
        muster_test_connect(l->t, "acme", agent, NULL, ++l->next_client);
    }
}

static void do_reload(struct life *l)
{
    int err = muster_test_reload(l->t, l->c->config);

    tell(l, "reload: %d", err);
}

enum { SQL_PLAIN, SQL_EMPTY, SQL_BROKEN, N_SQL };

/* Rows are the database's, which the plugin may trust; failures are anybody's. */
static int answer_sql(void *arg, const struct muster_test_statement *s, struct muster_test_rows *rows)
{
    static const int codes[] = {MUSTER_EINVAL, MUSTER_ETIME, MUSTER_EAGAIN, MUSTER_ELINK};
    struct life *l = arg;

    (void)s;
    if (l->sql == SQL_EMPTY)
        return 0;
    muster_test_sql_error(rows, "57014", "canceling statement due to a fault of the test");
    return codes[below(l, sizeof codes / sizeof *codes)];
}

static void answer_statements(struct life *l, int how)
{
    l->sql = how;
    muster_test_sql(l->t, NULL, how == SQL_PLAIN ? NULL : answer_sql, l);
}

static void do_sql(struct life *l)
{
    static const char *const ways[] = {"plainly", "without rows", "with errors"};
    int how = (int)below(l, N_SQL);

    tell(l, "statements are answered %s", ways[how]);
    answer_statements(l, how);
}

static int answer_question(void *arg, const struct muster_test_sent *asked, const char **ret_json)
{
    static const char *const bodies[] = {"{}", "", "not json", "{\"error\": {\"code\": \"internal\", \"message\": \"x\"}}", "[]", "\xff"};
    static const int codes[] = {0, 0, 0, MUSTER_ETIME, MUSTER_ENOTFOUND, MUSTER_ELINK};
    struct life *l = arg;

    (void)asked;
    *ret_json = bodies[below(l, sizeof bodies / sizeof *bodies)];
    return codes[below(l, sizeof codes / sizeof *codes)];
}

static const struct {
    void (*run)(struct life *l);
    unsigned int weight;
} events[] = {{do_traffic, 30}, {do_clock, 20},  {do_wall, 2},       {do_fault, 8},  {do_no_faults, 6}, {do_link, 6},
              {do_room, 4},     {do_tables, 3},  {do_connection, 6}, {do_reload, 3}, {do_sql, 4},       {do_lease, 6}};

static void do_event(struct life *l)
{
    unsigned int sum = 0, at;

    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        sum += events[i].weight;
    at = (unsigned int)below(l, sum);
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        if (at < events[i].weight) {
            events[i].run(l);
            return;
        }
        at -= events[i].weight;
    }
}

/* ---- lives --------------------------------------------------------------------------------------------------------------------- */

static void live(struct life *l)
{
    size_t n = 1 + below(l, N_EVENTS);

    muster_test_answer_by(l->t, ">", answer_question, l);
    for (size_t i = 0; i < n; i++)
        do_event(l);
    if (below(l, 4) == 0)
        return; /* it ends in the middle */
    answer_statements(l, SQL_PLAIN);
    tell(l, "all is well again");
    check_settle(l->t, "after all was well again");
    tell(l, "drain");
    muster_test_drain(l->t, 30 * MUSTER_TEST_S);
}

void check_fuzz(struct plugin_check *c)
{
    for (uint32_t i = 0; i < c->runs; i++) {
        struct life l = {.c = c, .t = check_begin(c), .seed = c->seed + i, .state = c->seed + i};
        size_t failed;

        if (!l.t)
            return;
        check_seed(l.seed);
        live(&l);
        muster_test_destroy(l.t);
        failed = muster_test_failures(l.t);
        check_end(c, l.t);
        if (failed) {
            check_failed("in the life of seed %llu", (unsigned long long)l.seed);
            return;
        }
    }
    check_note("%u lives from seed %llu on", c->runs, (unsigned long long)c->seed);
}
