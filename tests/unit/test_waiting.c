/* core/waiting.h: one question a tenant, the order of arrival, what is remembered, and every bound; the clock is the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/waiting.h"

static const struct text no_agent;

struct message {
    struct waiter waiter;
    int n;
};

/* What came out, in order, and what was asked. */
struct seen {
    int left[WAITING_NAMES], what[WAITING_NAMES];
    size_t n_left;
    uint32_t n_told;
    char asked[80];
    uint32_t n_asked;
};

static void on_ask(void *arg, struct text tenant, struct text agent)
{
    struct seen *s = arg;

    (void)snprintf(s->asked, sizeof s->asked, "%.*s%s%.*s", (int)tenant.len, tenant.s, agent.s ? "." : "", (int)agent.len, agent.s ? agent.s : "");
    s->n_asked++;
}

static void on_leave(void *arg, struct waiter *waiter, struct waiting_verdict verdict)
{
    struct message *m = (struct message *)waiter;
    struct seen *s = arg;

    s->left[s->n_left] = m->n;
    s->what[s->n_left++] = verdict.what;
    s->n_told += verdict.tell;
    free(m);
}

static struct waiting *room(struct seen *seen)
{
    struct waiting *w;

    memset(seen, 0, sizeof *seen);
    w = waiting_new(&(struct waiting_options){.ask = on_ask, .leave = on_leave, .arg = seen});
    assert_non_null(w);
    return w;
}

static struct message *message(const char *tenant, int n)
{
    struct message *m = calloc(1, sizeof *m);

    assert_non_null(m);
    *m = (struct message){.waiter = {.tenant = text_of(tenant), .n_bytes = 100, .asks = true},
                          .n = n};
    return m;
}

/* What is not taken is the caller's: freed here. */
static struct waiting_verdict put(struct waiting *w, struct message *m, int64_t now_ns)
{
    struct waiting_verdict verdict = waiting_enter(w, &m->waiter, now_ns);

    if (verdict.what != WAITING_IN)
        free(m);
    return verdict;
}

static int enter(struct waiting *w, const char *tenant, int n, int64_t now_ns)
{
    return put(w, message(tenant, n), now_ns).what;
}

static int enter_known(struct waiting *w, const char *tenant, int n, int64_t now_ns)
{
    struct message *m = message(tenant, n);

    m->waiter.known = true;
    return put(w, m, now_ns).what;
}

static int enter_sized(struct waiting *w, const char *tenant, size_t n_bytes, int64_t now_ns)
{
    struct message *m = message(tenant, 0);

    m->waiter.n_bytes = n_bytes;
    return put(w, m, now_ns).what;
}

static void test_one_question_and_then_all_in_order(void **state)
{
    struct seen seen;
    struct waiting *w = room(&seen);

    (void)state;
    assert_false(waiting_has(w, text_of("acme"), no_agent));
    for (int i = 0; i < 5; i++)
        assert_int_equal(enter(w, "acme", i, i), WAITING_IN);
    assert_int_equal(seen.n_asked, 1);
    assert_string_equal(seen.asked, "acme");
    assert_true(waiting_has(w, text_of("acme"), no_agent));

    waiting_answer(w, text_of("acme"), no_agent, WAITING_KNOWN, 6);
    assert_int_equal(seen.n_left, 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(seen.left[i], i);
        assert_int_equal(seen.what[i], WAITING_KNOWN);
    }
    assert_int_equal(seen.n_told, 0);
    assert_false(waiting_has(w, text_of("acme"), no_agent));
    waiting_free(w);
}

static void test_of_a_known_tenant_nothing_passes_what_waits(void **state)
{
    struct seen seen;
    struct waiting *w = room(&seen);

    (void)state;
    assert_int_equal(enter_known(w, "acme", 0, 0), WAITING_KNOWN);
    assert_int_equal(enter(w, "acme", 1, 0), WAITING_IN);
    assert_false(waiting_has(w, text_of("zeta"), no_agent));
    assert_int_equal(enter_known(w, "zeta", 2, 0), WAITING_KNOWN);
    assert_int_equal(enter_known(w, "acme", 3, 0), WAITING_IN);
    waiting_answer(w, text_of("acme"), no_agent, WAITING_KNOWN, 1);
    assert_int_equal(seen.left[0], 1);
    assert_int_equal(seen.left[1], 3);
    assert_int_equal(enter_known(w, "acme", 4, 1), WAITING_KNOWN);
    assert_int_equal(seen.n_asked, 1);
    waiting_free(w);
}

static void test_tenants_wait_for_themselves(void **state)
{
    struct seen seen;
    struct waiting *w = room(&seen);

    (void)state;
    assert_int_equal(enter(w, "a", 1, 0), WAITING_IN);
    assert_int_equal(enter(w, "b", 2, 0), WAITING_IN);
    assert_int_equal(enter(w, "ab", 3, 0), WAITING_IN);
    assert_int_equal(seen.n_asked, 3);
    waiting_answer(w, text_of("b"), no_agent, WAITING_UNKNOWN, 1);
    assert_int_equal(seen.n_left, 1);
    assert_int_equal(seen.left[0], 2);
    waiting_answer(w, text_of("ab"), no_agent, WAITING_KNOWN, 1);
    assert_int_equal(seen.left[1], 3);
    assert_int_equal(seen.what[1], WAITING_KNOWN);
    waiting_free(w); /* with one inside and a question out */
    assert_int_equal(seen.left[2], 1);
    assert_int_equal(seen.what[2], WAITING_AWAY);
    waiting_free(NULL);
}

static void test_a_no_is_remembered_for_a_while(void **state)
{
    static const int no[] = {WAITING_UNKNOWN, WAITING_AWAY};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct seen seen;
        struct waiting *w = room(&seen);

        assert_int_equal(enter(w, "acme", 1, 0), WAITING_IN);
        waiting_answer(w, text_of("acme"), no_agent, no[i], CLOCK_S);
        assert_int_equal(seen.what[0], no[i]);
        assert_int_equal(enter(w, "acme", 2, CLOCK_S + WAITING_REMEMBER_NS - 1), no[i]);
        assert_int_equal(enter_known(w, "acme", 3, CLOCK_S + 1),
                         WAITING_KNOWN); /* the registry has it by now */
        assert_int_equal(seen.n_asked, 1);
        assert_int_equal(enter(w, "acme", 4, CLOCK_S + WAITING_REMEMBER_NS), WAITING_IN);
        assert_int_equal(seen.n_asked, 2);
        waiting_free(w);
    }
}

static void test_patience_ends(void **state)
{
    struct seen seen;
    struct waiting *w = room(&seen);

    (void)state;
    assert_false(waiting_tick(w, 0));
    assert_int_equal(enter(w, "acme", 1, 0), WAITING_IN);
    assert_int_equal(enter(w, "acme", 2, CLOCK_S), WAITING_IN);
    assert_true(waiting_tick(w, WAITING_PATIENCE_NS - 1));
    assert_int_equal(seen.n_left, 0);
    (void)waiting_tick(w, WAITING_PATIENCE_NS);
    assert_int_equal(seen.n_left, 2);
    assert_int_equal(seen.what[1], WAITING_AWAY);
    assert_false(waiting_has(w, text_of("acme"), no_agent));
    assert_false(waiting_tick(w, WAITING_PATIENCE_NS + 1));

    assert_int_equal(enter(w, "acme", 3, WAITING_PATIENCE_NS * 5),
                     WAITING_AWAY); /* behind a question that hangs nobody waits */
    assert_int_equal(enter_known(w, "acme", 4, WAITING_PATIENCE_NS * 5), WAITING_KNOWN);
    assert_int_equal(seen.n_asked, 1);
    waiting_answer(w, text_of("acme"), no_agent, WAITING_KNOWN, WAITING_PATIENCE_NS * 6);
    assert_int_equal(enter(w, "acme", 5, WAITING_PATIENCE_NS * 6), WAITING_IN);
    assert_int_equal(seen.n_asked, 2);
    waiting_free(w);
}

static void test_messages_have_a_bound(void **state)
{
    static const char *const names[] = {"a", "b", "c", "d"};
    struct seen seen;
    struct waiting *w = room(&seen);

    (void)state;
    for (size_t t = 0; t < 4; t++) {
        for (int i = 0; i < WAITING_TENANT_MSGS; i++)
            assert_int_equal(enter(w, names[t], i, 0), WAITING_IN);
        assert_int_equal(enter(w, names[t], 0, 0), WAITING_FULL);
        assert_int_equal(enter_known(w, names[t], 0, 0), WAITING_FULL);
    }
    assert_int_equal(enter(w, "e", 0, 0), WAITING_FULL);
    assert_int_equal(seen.n_asked, 4); /* who has no room is not asked for */
    waiting_answer(w, text_of("b"), no_agent, WAITING_KNOWN, 1);
    assert_int_equal(seen.n_left, WAITING_TENANT_MSGS);
    assert_int_equal(enter(w, "a", 0, 1), WAITING_FULL);
    assert_int_equal(enter(w, "e", 0, 1), WAITING_IN);
    waiting_free(w);
    assert_int_equal(seen.n_left, WAITING_MSGS + 1);
}

static void test_bytes_have_a_bound(void **state)
{
    struct seen seen;
    struct waiting *w = room(&seen);

    (void)state;
    assert_int_equal(enter_sized(w, "a", WAITING_TENANT_BYTES + 1, 0),
                     WAITING_IN); /* the first has room */
    assert_int_equal(enter_sized(w, "a", 1, 0), WAITING_FULL);
    assert_int_equal(enter_sized(w, "b", WAITING_TENANT_BYTES - 1, 0), WAITING_IN);
    assert_int_equal(enter_sized(w, "b", 1, 0), WAITING_IN);
    assert_int_equal(enter_sized(w, "b", 1, 0), WAITING_FULL);
    assert_int_equal(enter_sized(w, "c", WAITING_BYTES, 0), WAITING_FULL);
    assert_int_equal(enter_sized(w, "c", 2 * WAITING_TENANT_BYTES - 1, 0), WAITING_IN);
    assert_int_equal(enter_sized(w, "d", 1, 0), WAITING_FULL);
    waiting_answer(w, text_of("c"), no_agent, WAITING_UNKNOWN, 0);
    assert_int_equal(enter_sized(w, "d", WAITING_TENANT_BYTES, 0), WAITING_IN);
    waiting_free(w);
}

static void test_tenants_have_a_bound(void **state)
{
    char names[WAITING_TENANTS][8];
    struct seen seen;
    struct waiting *w = room(&seen);

    (void)state;
    for (int i = 0; i < WAITING_TENANTS; i++) {
        (void)snprintf(names[i], sizeof names[i], "t%d", i);
        assert_int_equal(enter(w, names[i], i, 0), WAITING_IN);
        waiting_answer(w, text_of(names[i]), no_agent, WAITING_UNKNOWN, i < 2 ? i : CLOCK_S);
    }
    assert_int_equal(enter(w, "one-more", 0, WAITING_REMEMBER_NS - 1),
                     WAITING_FULL); /* or each message would be a question */
    assert_int_equal(seen.n_asked, WAITING_TENANTS);
    assert_int_equal(enter(w, "one-more", 0, WAITING_REMEMBER_NS),
                     WAITING_IN); /* in the place of t0 */
    assert_int_equal(enter(w, "another", 0, WAITING_REMEMBER_NS), WAITING_FULL);
    assert_int_equal(enter(w, names[2], 0, WAITING_REMEMBER_NS), WAITING_UNKNOWN);
    waiting_answer(w, text_of("one-more"), no_agent, WAITING_KNOWN, WAITING_REMEMBER_NS);
    assert_int_equal(enter(w, names[0], 0, WAITING_REMEMBER_NS), WAITING_IN);
    waiting_free(w);
}

/* How many of n refusals of a tenant are told. */
static uint32_t told_of(struct waiting *w, const char *tenant, int n, int64_t now_ns)
{
    uint32_t told = 0;

    for (int i = 0; i < n; i++)
        told += put(w, message(tenant, i), now_ns).tell;
    return told;
}

static void test_answers_have_a_bound(void **state)
{
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    const int64_t at = 10 * CLOCK_S;
    struct seen seen;
    struct waiting *w = room(&seen);
    struct message *quiet = message("a", 0);

    (void)state;
    quiet->waiter.asks = false;
    assert_int_equal(waiting_enter(w, &quiet->waiter, at).what, WAITING_IN);
    for (size_t i = 1; i < 5; i++)
        assert_int_equal(enter(w, names[i], 0, at), WAITING_IN);
    for (size_t i = 0; i < 5; i++)
        waiting_answer(w, text_of(names[i]), no_agent, WAITING_UNKNOWN, at);
    assert_int_equal(seen.n_told, 4); /* who does not ask is not told */
    assert_int_equal(told_of(w, "a", 1000, at + 1), WAITING_TENANT_ANSWERS_PER_S);
    assert_int_equal(told_of(w, "b", 1000, at + 1), WAITING_TENANT_ANSWERS_PER_S - 1);
    assert_int_equal(told_of(w, "c", 1000, at + 1), WAITING_TENANT_ANSWERS_PER_S - 1);
    assert_int_equal(told_of(w, "d", 1000, at + 1),
                     WAITING_TENANT_ANSWERS_PER_S - 2); /* that makes 100 over all of them */
    assert_int_equal(told_of(w, "e", 1000, at + 1), 0);
    assert_int_equal(told_of(w, "e", 1000, at + WAITING_REMEMBER_NS - 1), 0);
    assert_int_equal(enter(w, "e", 0, at + CLOCK_S), WAITING_IN);
    waiting_answer(w, text_of("e"), no_agent, WAITING_UNKNOWN, at + CLOCK_S);
    assert_int_equal(told_of(w, "e", 1000, at + CLOCK_S), WAITING_TENANT_ANSWERS_PER_S - 1);
    waiting_free(w);
}

/* ---- a room for names ------------------------------------------------------------------------------------------------------- */

static struct waiting *room_for_names(struct seen *seen)
{
    struct waiting *w;

    memset(seen, 0, sizeof *seen);
    w = waiting_new(&(struct waiting_options){.of_names = true, .ask = on_ask, .leave = on_leave, .arg = seen});
    assert_non_null(w);
    return w;
}

static int enter_name(struct waiting *w, const char *tenant, const char *agent, size_t n_bytes)
{
    struct message *m = message(tenant, 0);

    m->waiter.agent = text_of(agent);
    m->waiter.n_bytes = n_bytes;
    return put(w, m, 0).what;
}

static void test_a_name_is_of_its_tenant(void **state)
{
    struct seen seen;
    struct waiting *w = room_for_names(&seen);

    (void)state;
    assert_int_equal(enter_name(w, "acme", "a1", 1), WAITING_IN);
    assert_string_equal(seen.asked, "acme.a1");
    assert_int_equal(enter_name(w, "acme", "a2", 1), WAITING_IN);
    assert_int_equal(enter_name(w, "zeta", "a1", 1), WAITING_IN);
    assert_int_equal(enter_name(w, "", "_op_a1", 1), WAITING_IN);
    assert_int_equal(seen.n_asked, 4);
    assert_true(waiting_has(w, text_of("acme"), text_of("a2")));
    waiting_answer(w, text_of("acme"), text_of("a1"), WAITING_UNKNOWN, 0);
    assert_int_equal(seen.n_left, 1);
    assert_int_equal(enter_name(w, "acme", "a1", 1), WAITING_UNKNOWN);
    assert_int_equal(enter_name(w, "zeta", "a1", 1), WAITING_IN);
    waiting_answer(w, text_of(""), text_of("_op_a1"), WAITING_KNOWN, 0);
    assert_int_equal(seen.n_left, 2);
    waiting_free(w);
    assert_int_equal(seen.n_left, 5);
}

/* Ten thousand of one tenant wait, each with a hello, which comes twice, and one message more; others find room beside whatever one sends. */
static void test_a_tenant_has_its_share(void **state)
{
    const size_t chunk = WAITING_NAME_BYTES;
    struct seen seen;
    struct waiting *w = room_for_names(&seen);
    char name[16];
    int n = 0;

    (void)state;
    for (;; n++) {
        (void)snprintf(name, sizeof name, "a%d", n);
        if (enter_name(w, "acme", name, chunk) != WAITING_IN)
            break;
    }
    assert_int_equal(n, WAITING_NAMES_BYTES / 2 / chunk); /* half of the room */
    assert_int_equal(enter_name(w, "zeta", "a1", chunk), WAITING_IN);
    for (int i = 0; i < n; i++) {
        (void)snprintf(name, sizeof name, "a%d", i);
        waiting_answer(w, text_of("acme"), text_of(name), WAITING_KNOWN, 0);
    }
    assert_int_equal(enter_name(w, "acme", "again", chunk), WAITING_IN);
    for (int i = 0; i < 30000; i++) {
        (void)snprintf(name, sizeof name, "n%d", i % 10000);
        assert_int_equal(enter_name(w, "many", name, 500), WAITING_IN);
    }
    waiting_free(w);
}

static void on_ask_answer_at_once(void *arg, struct text tenant, struct text agent)
{
    struct waiting **w = arg;

    waiting_answer(*w, tenant, agent, WAITING_AWAY, 0);
}

static void on_leave_free(void *arg, struct waiter *waiter, struct waiting_verdict verdict)
{
    (void)arg;
    (void)verdict;
    free(waiter);
}

static void test_an_answer_may_come_inside_the_question(void **state)
{
    struct waiting *w = NULL;

    (void)state;
    w = waiting_new(
        &(struct waiting_options){.ask = on_ask_answer_at_once, .leave = on_leave_free, .arg = &w});
    assert_non_null(w);
    assert_int_equal(enter(w, "acme", 1, 0), WAITING_IN); /* it is gone already */
    assert_false(waiting_has(w, text_of("acme"), no_agent));
    assert_int_equal(enter(w, "acme", 2, 0), WAITING_AWAY);
    waiting_free(w);
}

/* ---- threads ---------------------------------------------------------------------------------------------------------------- */

enum { THREADS = 4, EACH = 5000 };

struct crowd {
    struct waiting *w;
    atomic_int n_asked, n_left, n_refused, last[THREADS];
    atomic_bool disorder, done;
};

static void on_crowd_ask(void *arg, struct text tenant, struct text agent)
{
    struct crowd *c = arg;

    (void)tenant;
    (void)agent;
    atomic_fetch_add(&c->n_asked, 1);
}

/* n: the thread's number times EACH and the message's. */
static void on_crowd_leave(void *arg, struct waiter *waiter, struct waiting_verdict verdict)
{
    struct message *m = (struct message *)waiter;
    struct crowd *c = arg;

    (void)verdict;
    if (atomic_exchange(&c->last[m->n / EACH], m->n) >= m->n)
        atomic_store(&c->disorder, true);
    atomic_fetch_add(&c->n_left, 1);
    free(m);
}

static void *answer_all(void *arg)
{
    struct crowd *c = arg;
    int n = 0;

    while (!atomic_load(&c->done) || n < atomic_load(&c->n_asked))
        if (n < atomic_load(&c->n_asked)) {
            waiting_answer(c->w, text_of("acme"), no_agent, WAITING_KNOWN, n);
            n++;
        }
    return NULL;
}

struct guest {
    struct crowd *crowd;
    int n;
};

static void *enter_all(void *arg)
{
    struct guest *g = arg;

    for (int i = 1; i < EACH; i++) {
        struct message *m = message("acme", g->n * EACH + i);

        if (waiting_enter(g->crowd->w, &m->waiter, 0).what == WAITING_IN)
            continue;
        atomic_fetch_add(&g->crowd->n_refused, 1);
        free(m);
    }
    return NULL;
}

static void test_from_several_threads(void **state)
{
    struct crowd c = {0};
    struct guest guests[THREADS];
    pthread_t threads[THREADS], answers;

    (void)state;
    c.w = waiting_new(
        &(struct waiting_options){.ask = on_crowd_ask, .leave = on_crowd_leave, .arg = &c});
    assert_non_null(c.w);
    assert_int_equal(pthread_create(&answers, NULL, answer_all, &c), 0);
    for (int i = 0; i < THREADS; i++) {
        guests[i] = (struct guest){&c, i};
        assert_int_equal(pthread_create(&threads[i], NULL, enter_all, &guests[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    atomic_store(&c.done, true);
    assert_int_equal(pthread_join(answers, NULL), 0);
    assert_false(atomic_load(&c.disorder));
    assert_false(waiting_has(c.w, text_of("acme"), no_agent));
    assert_int_equal(atomic_load(&c.n_left) + atomic_load(&c.n_refused), THREADS * (EACH - 1));
    waiting_free(c.w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_question_and_then_all_in_order),
        cmocka_unit_test(test_of_a_known_tenant_nothing_passes_what_waits),
        cmocka_unit_test(test_tenants_wait_for_themselves),
        cmocka_unit_test(test_a_no_is_remembered_for_a_while),
        cmocka_unit_test(test_patience_ends),
        cmocka_unit_test(test_messages_have_a_bound),
        cmocka_unit_test(test_bytes_have_a_bound),
        cmocka_unit_test(test_tenants_have_a_bound),
        cmocka_unit_test(test_answers_have_a_bound),
        cmocka_unit_test(test_a_name_is_of_its_tenant),
        cmocka_unit_test(test_a_tenant_has_its_share),
        cmocka_unit_test(test_an_answer_may_come_inside_the_question),
        cmocka_unit_test(test_from_several_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
