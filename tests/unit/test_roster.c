/* roster/roster.h against a plain list of the same agents; what is told of changes; readers beside a writer; memory an agent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <muster/plugin.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "roster/roster.h"

static const struct muster_tenant *const acme = (const struct muster_tenant *)(uintptr_t)0x1000;
static const struct muster_tenant *const zeta = (const struct muster_tenant *)(uintptr_t)0x2000;

struct told {
    char text[65536];
    size_t len;
};

static void on_change(void *arg, const struct muster_roster_change *c)
{
    static const char *const kinds[] = {"", "join", "leave", "status", "suspect", "replaced", "reset"};
    struct told *t = arg;

    assert_int_equal(c->size, sizeof *c);
    t->len += (size_t)snprintf(t->text + t->len, sizeof t->text - t->len, "%s %s %s %s %s\n", kinds[c->kind],
                               c->tenant == acme ? "acme" : c->tenant ? "zeta" : "-", c->agent ? c->agent : "-", c->session ? c->session : "-",
                               c->reason ? c->reason : "-");
}

static struct muster_agent agent(const char *name, const char *session)
{
    return (struct muster_agent){.size = sizeof(struct muster_agent), .status = MUSTER_AGENT_ONLINE, .capacity = 1, .agent = name, .session = session};
}

static int put(struct roster *r, const struct muster_tenant *tenant, uint32_t kind, const struct muster_agent *a)
{
    return roster_put(r, tenant, kind, NULL, a);
}

/* Names in the order shown. */
struct shown {
    char text[4096];
    uint64_t last;
    int stop_after; /* 0: never */
    int n;
};

static int on_shown(void *arg, const struct muster_agent *a)
{
    struct shown *s = arg;

    strcat(strcat(s->text, a->agent), " ");
    assert_true(a->serial > s->last);
    s->last = a->serial;
    return ++s->n == s->stop_after;
}

static void expect(struct roster *r, const struct muster_roster_query *query, const char *names)
{
    struct shown s = {.text = ""};
    int64_t n = roster_find(r, acme, query, on_shown, &s);

    assert_string_equal(s.text, names);
    assert_int_equal(n, s.n);
}

static const struct muster_roster_query all = {.size = sizeof all};

/* ---- what is there ------------------------------------------------------------------------------------------------------------------ */

static int check_a1(void *arg, const struct muster_agent *a)
{
    *(bool *)arg = true;
    assert_int_equal(a->size, sizeof *a);
    assert_int_equal(a->status, MUSTER_AGENT_BUSY);
    assert_int_equal(a->flags, MUSTER_AGENT_PULLS);
    assert_int_equal(a->capacity, 3);
    assert_true(a->load == 0.5);
    assert_string_equal(a->agent, "a1");
    assert_string_equal(a->session, "s1");
    assert_string_equal(a->name, "Ann");
    assert_string_equal(a->task, "t1");
    assert_int_equal(a->n_capabilities, 2); /* each once */
    assert_string_equal(a->capabilities[0], "go");
    assert_string_equal(a->capabilities[1], "c");
    assert_int_equal(a->n_labels, 2);
    assert_string_equal(a->labels[1].name, "zone");
    assert_string_equal(a->labels[1].value, "");
    assert_int_equal(a->metadata.len, 7);
    assert_memory_equal(a->metadata.data, "{\"k\":1}", 8);
    assert_int_equal(a->started_wall_ns, 77);
    return 0;
}

/* Nothing of it is the caller's memory any more. */
static void test_an_agent_is_copied_whole(void **state)
{
    char name[] = "a1", session[] = "s1", shown[] = "Ann", task[] = "t1", go[] = "go", c[] = "c", zone[] = "zone", empty[] = "", data[] = "{\"k\":1}";
    const char *capabilities[] = {go, c, go};
    struct muster_header labels[] = {{go, c}, {zone, empty}};
    struct muster_agent a = {.size = sizeof a, .status = MUSTER_AGENT_BUSY, .flags = MUSTER_AGENT_PULLS, .capacity = 3, .load = 0.5, .serial = 99,
                             .agent = name, .session = session, .name = shown, .task = task, .capabilities = capabilities, .labels = labels,
                             .n_capabilities = 3, .n_labels = 2, .metadata = {data, 7}, .started_wall_ns = 77};
    char *const texts[] = {name, session, shown, task, go, c, zone, data};
    struct roster *r;
    bool seen = false;

    (void)state;
    assert_int_equal(roster_new(NULL, NULL, &r), 0);
    assert_int_equal(put(r, acme, MUSTER_ROSTER_JOIN, &a), 0);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        memset(texts[i], 'X', strlen(texts[i]));
    assert_int_equal(roster_get(r, acme, "a1", check_a1, &seen), 0);
    assert_true(seen);
    assert_int_equal(roster_get(r, acme, "a2", check_a1, &seen), MUSTER_ENOTFOUND);
    assert_int_equal(roster_get(r, zeta, "a1", check_a1, &seen), MUSTER_ENOTFOUND);
    roster_free(r);
}

static void test_counts(void **state)
{
    struct muster_agent a = agent("a1", "s1");
    int64_t by[4];
    struct roster *r;

    (void)state;
    assert_int_equal(roster_new(NULL, NULL, &r), 0);
    assert_int_equal(roster_count(r, acme, by), 0);
    assert_int_equal(by[0] + by[1] + by[2] + by[3], 0);
    assert_int_equal(put(r, acme, 0, &a), 0);
    a.agent = "a2";
    a.flags = MUSTER_AGENT_SUSPECT;
    a.status = MUSTER_AGENT_AWAY;
    assert_int_equal(put(r, acme, 0, &a), 0);
    assert_int_equal(roster_count(r, acme, by), 2);
    assert_int_equal(by[0], 1);
    assert_int_equal(by[MUSTER_AGENT_ONLINE], 1);
    assert_int_equal(by[MUSTER_AGENT_AWAY], 1);
    a.flags = 0;
    a.status = MUSTER_AGENT_BUSY;
    assert_int_equal(put(r, acme, 0, &a), 0);
    assert_int_equal(roster_count(r, acme, by), 2);
    assert_int_equal(by[0] + by[MUSTER_AGENT_AWAY], 0);
    assert_int_equal(by[MUSTER_AGENT_BUSY], 1);
    assert_int_equal(roster_remove(r, acme, "a2", NULL), 0);
    assert_int_equal(roster_remove(r, acme, "a2", NULL), MUSTER_ENOTFOUND);
    assert_int_equal(roster_count(r, acme, NULL), 1);
    assert_int_equal(roster_size(r).agents, 1);
    assert_int_equal(roster_remove(r, acme, "a1", NULL), 0);
    assert_int_equal(roster_size(r).bytes, 0);
    roster_free(r);
}

static void test_who_is_found(void **state)
{
    static const char *const go[] = {"go"}, *const both[] = {"c", "go"}, *const none[] = {"go", "rust"};
    static const struct muster_header eu[] = {{"zone", "eu"}}, us[] = {{"zone", "us"}};
    struct muster_agent a = agent("a1", "s");
    struct muster_roster_query q = {.size = sizeof q, .n_capabilities = 1, .capabilities = go};
    struct roster *r;

    (void)state;
    assert_int_equal(roster_new(NULL, NULL, &r), 0);
    a.capabilities = both;
    a.n_capabilities = 2;
    a.labels = eu;
    a.n_labels = 1;
    assert_int_equal(put(r, acme, 0, &a), 0);
    a.agent = "a2";
    a.capabilities = go;
    a.n_capabilities = 1;
    a.status = MUSTER_AGENT_BUSY;
    assert_int_equal(put(r, acme, 0, &a), 0);
    a.agent = "a3";
    a.n_capabilities = 0;
    a.labels = us;
    a.flags = MUSTER_AGENT_SUSPECT | MUSTER_AGENT_PULLS;
    assert_int_equal(put(r, acme, 0, &a), 0);
    expect(r, &all, "a1 a2 a3 ");
    expect(r, &q, "a1 a2 ");
    q.statuses = 1u << MUSTER_AGENT_BUSY;
    expect(r, &q, "a2 ");
    q = (struct muster_roster_query){.size = sizeof q, .n_capabilities = 2, .capabilities = both};
    expect(r, &q, "a1 ");
    q.capabilities = none;
    expect(r, &q, "");
    expect(r, &(struct muster_roster_query){.size = sizeof q, .without_flags = MUSTER_AGENT_SUSPECT}, "a1 a2 ");
    expect(r, &(struct muster_roster_query){.size = sizeof q, .n_labels = 1, .labels = eu}, "a1 a2 ");
    expect(r, &(struct muster_roster_query){.size = sizeof q, .n_labels = 1, .labels = us}, "a3 ");
    assert_int_equal(roster_find(r, zeta, &all, on_shown, NULL), 0);
    assert_int_equal(roster_find(r, acme, &(struct muster_roster_query){.size = 8}, on_shown, NULL), MUSTER_EINVAL);
    /* What it can no longer do is not found any more; the place in the order stays. */
    a.agent = "a1";
    assert_int_equal(put(r, acme, 0, &a), 0);
    q = (struct muster_roster_query){.size = sizeof q, .n_capabilities = 1, .capabilities = go};
    expect(r, &q, "a2 ");
    expect(r, &all, "a1 a2 a3 ");
    a.capabilities = both;
    a.n_capabilities = 2;
    assert_int_equal(put(r, acme, 0, &a), 0);
    expect(r, &q, "a1 a2 ");
    roster_free(r);
}

static void test_pages(void **state)
{
    struct muster_roster_query q = {.size = sizeof q, .limit = 2};
    struct shown s = {.text = ""};
    struct roster *r;

    (void)state;
    assert_int_equal(roster_new(NULL, NULL, &r), 0);
    for (int i = 0; i < 5; i++) {
        char name[8];
        struct muster_agent a = agent(name, "s");

        (void)snprintf(name, sizeof name, "a%d", i);
        assert_int_equal(put(r, acme, 0, &a), 0);
    }
    assert_int_equal(roster_find(r, acme, &q, on_shown, &s), 2);
    q.after = s.last;
    assert_int_equal(roster_remove(r, acme, "a1", NULL), 0); /* the last one that was seen */
    assert_int_equal(roster_remove(r, acme, "a2", NULL), 0);
    assert_int_equal(roster_find(r, acme, &q, on_shown, &s), 2);
    assert_string_equal(s.text, "a0 a1 a3 a4 ");
    q.after = s.last;
    assert_int_equal(roster_find(r, acme, &q, on_shown, &s), 0);
    q.after = UINT64_MAX;
    assert_int_equal(roster_find(r, acme, &q, on_shown, &s), 0);
    s = (struct shown){.stop_after = 1};
    assert_int_equal(roster_find(r, acme, &all, on_shown, &s), 1);
    /* Serials go on where the room was empty meanwhile. */
    roster_clear(r, acme);
    assert_int_equal(put(r, acme, 0, &(struct muster_agent){.size = sizeof(struct muster_agent), .status = 1, .agent = "b", .session = "s"}), 0);
    q = (struct muster_roster_query){.size = sizeof q, .after = s.last};
    s = (struct shown){.last = q.after};
    assert_int_equal(roster_find(r, acme, &q, on_shown, &s), 1);
    roster_free(r);
}

static void test_what_is_told(void **state)
{
    static struct told t;
    struct muster_agent a = agent("a1", "s1");
    struct roster *r;

    (void)state;
    t = (struct told){.len = 0};
    assert_int_equal(roster_new(on_change, &t, &r), 0);
    assert_int_equal(put(r, acme, MUSTER_ROSTER_JOIN, &a), 0);
    assert_int_equal(put(r, acme, 0, &a), 0); /* in silence */
    a.status = MUSTER_AGENT_BUSY;
    assert_int_equal(put(r, acme, MUSTER_ROSTER_STATUS, &a), 0);
    assert_int_equal(roster_put(r, acme, MUSTER_ROSTER_SUSPECT, "node", &a), 0);
    a.session = "s2";
    assert_int_equal(put(r, acme, MUSTER_ROSTER_REPLACED, &a), 0);
    assert_int_equal(roster_remove(r, acme, "a1", "timeout"), 0);
    assert_int_equal(roster_remove(r, acme, "a1", "timeout"), MUSTER_ENOTFOUND);
    assert_int_equal(put(r, zeta, MUSTER_ROSTER_JOIN, &a), 0);
    roster_clear(r, zeta);
    roster_clear(r, NULL);
    assert_string_equal(t.text, "join acme a1 s1 -\nstatus acme a1 s1 -\nsuspect acme a1 s1 node\nreplaced acme a1 s1 -\nleave acme a1 s2 timeout\n"
                                "join zeta a1 s2 -\nreset zeta - - -\nreset - - - -\n");
    roster_free(r);
}

static void test_faults(void **state)
{
    static char long_text[ROSTER_MAX_BYTES + 2];
    static const char *many[ROSTER_MAX_LIST + 1];
    struct muster_agent a = agent("a1", "s1");
    struct roster *r;

    (void)state;
    memset(long_text, 'x', sizeof long_text - 1);
    assert_int_equal(roster_new(NULL, NULL, &r), 0);
#define FAULT(member, value, words)                                                            \
    do {                                                                                       \
        struct muster_agent bad = a;                                                           \
        bad.member = value;                                                                    \
        assert_int_equal(put(r, acme, MUSTER_ROSTER_JOIN, &bad), MUSTER_EINVAL);               \
        assert_non_null(strstr(roster_fault(&bad), words));                                    \
    } while (0)
    FAULT(size, 8, "size");
    FAULT(agent, NULL, "agent");
    FAULT(agent, "a.1", "agent");
    FAULT(session, NULL, "session");
    FAULT(session, long_text, "session");
    FAULT(status, 0, "status");
    FAULT(status, 4, "status");
    FAULT(n_labels, 1, "NULL");
    FAULT(task, long_text, "16384");
    for (size_t i = 0; i < ROSTER_MAX_LIST + 1; i++)
        many[i] = "x";
    a.capabilities = many;
    FAULT(n_capabilities, ROSTER_MAX_LIST + 1, "at most 64");
    many[3] = NULL;
    FAULT(n_capabilities, 5, "NULL");
    assert_int_equal(roster_size(r).agents, 0);
    assert_null(roster_fault(&a));
    roster_free(r);
}

/* ---- beside a plain list ------------------------------------------------------------------------------------------------------------ */

enum { NAMES = 300, CAPABILITIES = 6, STEPS = 60000 };

struct plain {
    uint64_t serial; /* 0: not present */
    unsigned int capabilities; /* bits */
    uint32_t status, flags;
    int zone;
};

static const char *const capability_names[CAPABILITIES] = {"c0", "c1", "c2", "c3", "c4", "c5"};
static const char *const zones[] = {"eu", "us"};

static uint32_t next_random(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static uint32_t list_of(unsigned int bits, const char *out[CAPABILITIES])
{
    uint32_t n = 0;

    for (int i = 0; i < CAPABILITIES; i++)
        if (bits & 1u << i)
            out[n++] = capability_names[i];
    return n;
}

static int keep_serial(void *arg, const struct muster_agent *a)
{
    *(uint64_t *)arg = a->serial;
    return 0;
}

static void put_random(struct roster *r, struct plain *p, int i, uint64_t *seed)
{
    const char *names[CAPABILITIES];
    struct muster_header zone = {"zone", zones[p->zone = (int)(next_random(seed) & 1)]};
    char name[16];
    struct muster_agent a = agent(name, "s");

    (void)snprintf(name, sizeof name, "n%d", i);
    p->capabilities = next_random(seed) & next_random(seed) & 63;
    p->status = a.status = 1 + next_random(seed) % 3;
    p->flags = a.flags = next_random(seed) & 7;
    a.capabilities = names;
    a.n_capabilities = list_of(p->capabilities, names);
    a.labels = &zone;
    a.n_labels = 1;
    assert_int_equal(put(r, acme, 0, &a), 0);
    assert_int_equal(roster_get(r, acme, name, keep_serial, &p->serial), 0);
}

struct check {
    const struct plain *plain;
    bool seen[NAMES];
    uint64_t last;
};

static int note(void *arg, const struct muster_agent *a)
{
    struct check *c = arg;
    int i = atoi(a->agent + 1);

    assert_true(a->serial > c->last);
    assert_int_equal(a->serial, c->plain[i].serial);
    c->last = a->serial;
    c->seen[i] = true;
    return 0;
}

static void compare(struct roster *r, const struct plain *plain, uint64_t *seed)
{
    unsigned int wanted = next_random(seed) & next_random(seed) & 63, statuses = next_random(seed) & 15 & ~1u, without = next_random(seed) & next_random(seed) & 7;
    int zone = (int)(next_random(seed) % 3) - 1;
    struct muster_header label = {"zone", zone < 0 ? "" : zones[zone]};
    const char *names[CAPABILITIES];
    struct muster_roster_query q = {.size = sizeof q, .statuses = statuses, .without_flags = without, .capabilities = names,
                                    .n_labels = zone >= 0, .labels = &label};
    struct check c = {.plain = plain};
    int64_t n = 0;

    q.n_capabilities = list_of(wanted, names);
    for (int i = 0; i < NAMES; i++)
        n += plain[i].serial && (plain[i].capabilities & wanted) == wanted && (!statuses || statuses & 1u << plain[i].status) &&
             !(plain[i].flags & without) && (zone < 0 || zone == plain[i].zone);
    assert_int_equal(roster_find(r, acme, &q, note, &c), n);
    for (int i = 0; i < NAMES; i++)
        assert_int_equal(c.seen[i], plain[i].serial && (plain[i].capabilities & wanted) == wanted && (!statuses || statuses & 1u << plain[i].status) &&
                                        !(plain[i].flags & without) && (zone < 0 || zone == plain[i].zone));
}

static void test_as_a_plain_list(void **state)
{
    static struct plain plain[NAMES];
    uint64_t seed = 20250117;
    struct roster *r;

    (void)state;
    assert_int_equal(roster_new(NULL, NULL, &r), 0);
    for (int step = 0; step < STEPS; step++) {
        int i = (int)(next_random(&seed) % NAMES);
        bool leaves = next_random(&seed) % 100 < (step / 5000 % 2 ? 70 : 30); /* it fills and empties in turns */
        char name[16];

        (void)snprintf(name, sizeof name, "n%d", i);
        if (leaves) {
            assert_int_equal(roster_remove(r, acme, name, NULL), plain[i].serial ? 0 : MUSTER_ENOTFOUND);
            plain[i].serial = 0;
        } else {
            uint64_t before = plain[i].serial;

            put_random(r, &plain[i], i, &seed);
            assert_true(!before || before == plain[i].serial);
        }
        if (step % 50 == 0)
            compare(r, plain, &seed);
    }
    roster_free(r);
}

/* ---- many, and several threads ------------------------------------------------------------------------------------------------------ */

static struct muster_agent typical(char name[24], char session[24], int i)
{
    static const char *const capabilities[] = {"python", "code-review", "sql"};
    static const struct muster_header labels[] = {{"region", "eu-west-1"}, {"team", "platform"}};
    struct muster_agent a = agent(name, session);

    (void)snprintf(name, 24, "agent-%06d", i);
    (void)snprintf(session, 24, "session-%012d", i);
    a.name = "A helpful agent";
    a.capabilities = capabilities;
    a.n_capabilities = 3;
    a.labels = labels;
    a.n_labels = 2;
    a.metadata = (struct muster_bytes){"{\"version\":\"1.4.2\",\"host\":\"worker-17.internal\"}", 48};
    return a;
}

static void test_many_are_small(void **state)
{
    enum { MANY = 20000 };
    char name[24], session[24];
    struct roster *r;

    (void)state;
    assert_int_equal(roster_new(NULL, NULL, &r), 0);
    for (int i = 0; i < MANY; i++) {
        struct muster_agent a = typical(name, session, i);

        assert_int_equal(put(r, acme, 0, &a), 0);
    }
    assert_int_equal(roster_find(r, acme, &all, NULL, NULL), MANY); /* in several turns */
    assert_true(roster_size(r).bytes / MANY < 512);
    roster_free(r);
}

struct crowd {
    struct roster *r;
    atomic_bool over;
};

static int same_session(void *arg, const struct muster_agent *a)
{
    (void)arg;
    assert_string_equal(a->session + strlen("session-000000"), a->agent + strlen("agent-")); /* never half of one and half of another */
    return 0;
}

static void *read_on(void *arg)
{
    static const char *const sql[] = {"sql"};
    const struct muster_roster_query q = {.size = sizeof q, .n_capabilities = 1, .capabilities = sql};
    struct crowd *c = arg;

    while (!atomic_load(&c->over)) {
        assert_true(roster_find(c->r, acme, &q, same_session, NULL) >= 0);
        (void)roster_get(c->r, acme, "agent-000003", same_session, NULL);
        (void)roster_count(c->r, acme, NULL);
    }
    return NULL;
}

static void test_readers_beside_the_writer(void **state)
{
    struct crowd c = {0};
    char name[24], session[24];
    pthread_t readers[2];

    (void)state;
    assert_int_equal(roster_new(NULL, NULL, &c.r), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_on, &c), 0);
    for (int i = 0; i < 20000; i++) {
        struct muster_agent a = typical(name, session, i % 500);

        if (i % 3 == 2)
            (void)roster_remove(c.r, acme, name, NULL);
        else
            assert_int_equal(put(c.r, acme, 0, &a), 0);
        if (i % 5000 == 4999)
            roster_clear(c.r, acme);
    }
    atomic_store(&c.over, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(readers[i], NULL), 0);
    roster_free(c.r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_agent_is_copied_whole), cmocka_unit_test(test_counts),
        cmocka_unit_test(test_who_is_found),             cmocka_unit_test(test_pages),
        cmocka_unit_test(test_what_is_told),             cmocka_unit_test(test_faults),
        cmocka_unit_test(test_as_a_plain_list),          cmocka_unit_test(test_many_are_small),
        cmocka_unit_test(test_readers_beside_the_writer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
