/* tenant/credentials.h without a database: rows that are put, what is found, what gives way, and readers beside the writer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <muster/plugin.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tenant/credentials.h"

struct rig {
    struct tenants *tenants;
    struct credentials *credentials;
    const struct muster_tenant *acme, *zeta;
    char asked[2 * NAME_MAX_LEN];
    int what, n_answers;
};

static void on_wake(void *arg)
{
    (void)arg;
}

static void on_answer(void *arg, const char *tenant, const char *agent, int what)
{
    struct rig *r = arg;

    (void)snprintf(r->asked, sizeof r->asked, "%s.%s", tenant, agent);
    r->what = what;
    r->n_answers++;
}

static int begin(void **state)
{
    static const char *const names[] = {"acme", "zeta"};
    struct rig *r = calloc(1, sizeof *r);

    assert_non_null(r);
    assert_int_equal(tenants_new(&r->tenants), 0);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(tenants_put(r->tenants, &(struct tenant_row){.name = names[i], .name_len = 4, .encoding = MUSTER_JSON}), 0);
    r->acme = tenants_find(r->tenants, "acme", 4);
    r->zeta = tenants_find(r->tenants, "zeta", 4);
    assert_int_equal(credentials_new(&(struct credentials_options){.tenants = r->tenants, .wake = on_wake, .on_answer = on_answer, .arg = r},
                                     &r->credentials),
                     0);
    *state = r;
    return 0;
}

static int end(void **state)
{
    struct rig *r = *state;

    credentials_free(r->credentials);
    tenants_free(r->tenants);
    free(r);
    return 0;
}

static struct credential *find(struct rig *r, const struct muster_tenant *tenant, const char *agent)
{
    return credentials_find(r->credentials, tenant, agent, strlen(agent));
}

static void put(struct rig *r, const struct muster_tenant *tenant, const char *agent, const char *role, const char *verbs)
{
    assert_int_equal(credentials_put(r->credentials, tenant, agent, &(struct credential_row){.role = role, .verbs = verbs}), 0);
}

static void test_a_name_is_of_its_tenant(void **state)
{
    struct rig *r = *state;
    struct credential *a;

    assert_null(find(r, r->acme, "a1"));
    put(r, r->acme, "a1", "agent", NULL);
    assert_null(find(r, r->zeta, "a1"));
    assert_null(find(r, r->acme, "a"));
    assert_null(find(r, r->acme, "a11"));
    assert_null(find(r, NULL, "a1"));
    a = find(r, r->acme, "a1");
    assert_non_null(a);
    assert_int_equal(credential_role(a), MUSTER_ROLE_AGENT);
    assert_int_equal(credential_role(NULL), MUSTER_ROLE_NONE);
    put(r, NULL, "_op_a1", "operator", NULL);
    assert_int_equal(credentials_count(r->credentials), 2);
    credential_unref(a);
    credential_unref(NULL);
}

/* It is one object as long as anybody has it, and says what holds now. */
static void test_what_is_held_changes_in_place(void **state)
{
    struct rig *r = *state;
    struct credential *a, *b;

    put(r, r->acme, "a1", "agent", NULL);
    a = find(r, r->acme, "a1");
    put(r, r->acme, "a1", "observer", NULL);
    b = find(r, r->acme, "a1");
    assert_ptr_equal(a, b);
    assert_int_equal(credential_role(a), MUSTER_ROLE_OBSERVER);
    assert_int_equal(credential_state(a, 5), CREDENTIAL_LIVE);
    assert_int_equal(credentials_put(r->credentials, r->acme, "a1", &(struct credential_row){.role = "agent", .expires_wall_ns = 10}), 0);
    assert_int_equal(credential_state(a, 9), CREDENTIAL_LIVE);
    assert_int_equal(credential_state(a, 10), CREDENTIAL_EXPIRED);
    assert_int_equal(
        credentials_put(r->credentials, r->acme, "a1", &(struct credential_row){.role = "agent", .expires_wall_ns = 10, .revoked = true}), 0);
    assert_int_equal(credential_state(a, 9), CREDENTIAL_REVOKED);
    assert_int_equal(credentials_put(r->credentials, r->acme, "a1", NULL), 0);
    assert_int_equal(credential_state(a, 9), CREDENTIAL_GONE);
    assert_null(find(r, r->acme, "a1"));
    put(r, r->acme, "a1", "agent", NULL);
    assert_int_equal(credential_state(a, 9), CREDENTIAL_GONE); /* another row, another object */
    credential_unref(a);
    credential_unref(b);
}

/* What it was before may be more than it is now. */
static void test_a_role_of_another_version_is_none(void **state)
{
    struct rig *r = *state;

    put(r, r->acme, "a1", "admin", NULL);
    assert_int_equal(credentials_put(r->credentials, r->acme, "a1", &(struct credential_row){.role = "emperor"}), MUSTER_EINVAL);
    assert_null(find(r, r->acme, "a1"));
}

static bool may(struct rig *r, const struct credential *c, const char *service, const char *verb)
{
    return credential_may(r->credentials, c, service, strlen(service), verb, strlen(verb));
}

static void test_narrowed_verbs(void **state)
{
    struct rig *r = *state;
    struct credential *a;

    put(r, r->acme, "a1", "agent", NULL);
    a = find(r, r->acme, "a1");
    assert_true(may(r, a, "task", "get"));
    put(r, r->acme, "a1", "agent", "task.get help.* task.list");
    assert_true(may(r, a, "task", "get") && may(r, a, "task", "list") && may(r, a, "help", "anything"));
    assert_false(may(r, a, "task", "ge") || may(r, a, "task", "gett") || may(r, a, "tas", "k.get") || may(r, a, "task", "*"));
    assert_false(may(r, a, "hel", "p") || may(r, a, "helpx", "a") || may(r, a, "get", "task") || may(r, a, "", ""));
    put(r, r->acme, "a1", "agent", NULL);
    assert_true(may(r, a, "get", "task"));
    credential_unref(a);
}

static void test_before_it_is_opened_all_is_away(void **state)
{
    struct rig *r = *state;

    credentials_want(r->credentials, "acme", 4, "a1", 2);
    assert_int_equal(r->n_answers, 1);
    assert_int_equal(r->what, CREDENTIALS_AWAY);
    assert_string_equal(r->asked, "acme.a1");
}

/* Names that nobody holds and nobody asked for give way; who holds one keeps it. */
static void test_bounds(void **state)
{
    struct rig *r = *state;
    struct credential *kept;
    char name[32];

    put(r, r->acme, "kept", "agent", NULL);
    kept = find(r, r->acme, "kept");
    for (int i = 0; i < 2 * CREDENTIALS_MAX; i++) {
        (void)snprintf(name, sizeof name, "a%d", i);
        put(r, r->acme, name, "agent", NULL);
    }
    assert_true(credentials_count(r->credentials) <= CREDENTIALS_MAX);
    assert_true(credentials_count(r->credentials) > CREDENTIALS_MAX / 2);
    for (int i = 0; i < 2; i++) {
        struct credential *again = find(r, r->acme, "kept");

        assert_ptr_equal(again, kept);
        credential_unref(again);
    }
    credential_unref(kept);
    struct credential *last = find(r, r->acme, name);

    assert_non_null(last);
    credential_unref(last);
}

/* ---- threads ---------------------------------------------------------------------------------------------------------------------- */

enum { READERS = 3, NAMES = 64, ROUNDS = 20000 };

struct crowd {
    struct rig *rig;
    atomic_bool done, wrong;
    atomic_ulong found;
};

static void *read_all(void *arg)
{
    struct crowd *c = arg;
    unsigned n = 0;

    while (!atomic_load(&c->done)) {
        char name[16];
        struct credential *a;
        uint32_t role;

        (void)snprintf(name, sizeof name, "a%u", n++ % NAMES);
        a = find(c->rig, c->rig->acme, name);
        role = credential_role(a);
        if (a && ((role != MUSTER_ROLE_AGENT && role != MUSTER_ROLE_OBSERVER) || strcmp(a->agent, name) != 0))
            atomic_store(&c->wrong, true);
        if (a)
            (void)may(c->rig, a, "task", "get");
        atomic_fetch_add(&c->found, a != NULL);
        credential_unref(a);
    }
    return NULL;
}

static void test_readers_beside_the_writer(void **state)
{
    struct crowd c = {.rig = *state};
    pthread_t readers[READERS];

    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_all, &c), 0);
    for (int i = 0; i < ROUNDS; i++) {
        char name[16];

        (void)snprintf(name, sizeof name, "a%d", i % NAMES);
        if (i % 3 == 2)
            assert_int_equal(credentials_put(c.rig->credentials, c.rig->acme, name, NULL), 0);
        else
            put(c.rig, c.rig->acme, name, i % 2 ? "agent" : "observer", i % 5 ? NULL : "task.get");
    }
    while (atomic_load(&c.found) == 0)
        ;
    atomic_store(&c.done, true);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_join(readers[i], NULL), 0);
    assert_false(atomic_load(&c.wrong));
}

/* By what the row says now; an operator elsewhere by its role alone, since its own tenant is not known there. */
static void test_what_is_heard(void **state)
{
    struct rig *r = *state;
    struct credential_row row = {.role = "agent", .groups = "red", .tables = "public.orders"};
    struct credential *a, *op;

    assert_int_equal(credentials_put(r->credentials, r->acme, "a1", &row), 0);
    put(r, NULL, "_op_a1", "operator", NULL);
    a = find(r, r->acme, "a1");
    op = find(r, NULL, "_op_a1");
    assert_true(credential_may_hear(r->credentials, a, "mst", "acme", "mst.acme.grp.red.>"));
    assert_false(credential_may_hear(r->credentials, a, "mst", "acme", "mst.acme.grp.blue.>"));
    assert_true(credential_may_hear(r->credentials, a, "mst", "acme", "mst.acme.cdc.*.public.orders.>"));
    assert_false(credential_may_hear(r->credentials, a, "mst", "acme", "mst.acme.cdc.>"));
    assert_true(credential_may_hear(r->credentials, a, "mst", "acme", "mst.acme.msg.a1"));
    assert_false(credential_may_hear(r->credentials, a, "mst", "acme", "mst.acme.msg.a2"));
    row = (struct credential_row){.role = "agent"};
    assert_int_equal(credentials_put(r->credentials, r->acme, "a1", &row), 0);
    assert_true(credential_may_hear(r->credentials, a, "mst", "acme", "mst.acme.cdc.>"));
    row.role = "user";
    assert_int_equal(credentials_put(r->credentials, r->acme, "a1", &row), 0);
    assert_false(credential_may_hear(r->credentials, a, "mst", "acme", "mst.acme.cdc.>"));
    assert_true(credential_may_hear(r->credentials, op, "mst", "zeta", "mst.zeta.msg.*"));
    assert_true(credential_may_hear(r->credentials, op, "mst", "zeta", "mst.zeta.box._op_a1.>"));
    assert_false(credential_may_hear(r->credentials, op, "mst", "zeta", "mst.zeta.box.a1.>"));
    credential_unref(a);
    credential_unref(op);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_a_name_is_of_its_tenant), TEST(test_what_is_held_changes_in_place), TEST(test_a_role_of_another_version_is_none),
        TEST(test_narrowed_verbs), TEST(test_before_it_is_opened_all_is_away), TEST(test_bounds), TEST(test_what_is_heard), TEST(test_readers_beside_the_writer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
