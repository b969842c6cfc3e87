/* plugins/presence: the timer wheel against a list, and the table of connections, names and servers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "presence/contacts.h"
#include "presence/wheel.h"

enum { ENTRIES = 500 };
static const int64_t ms = 1000000;

static uint64_t random_of(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* ---- the wheel ---------------------------------------------------------------------------------------------------------------- */

struct model {
    struct wheel wheel;
    struct wheel_entry entries[ENTRIES];
    int64_t due[ENTRIES]; /* 0: not set */
};

/* Whatever comes out is due; and what is due for longer than a slot has come out. */
static void take_all(struct model *m, int64_t now_ns)
{
    struct wheel_entry *e;

    while ((e = wheel_take(&m->wheel, now_ns))) {
        size_t i = (size_t)(e - m->entries);

        assert_true(m->due[i] && m->due[i] <= now_ns);
        assert_false(wheel_has(e));
        m->due[i] = 0;
    }
    for (size_t i = 0; i < ENTRIES; i++)
        assert_true(!m->due[i] || m->due[i] > now_ns - WHEEL_SLOT_NS);
}

static void change_one(struct model *m, int64_t now_ns, uint64_t *seed)
{
    size_t i = random_of(seed) % ENTRIES;
    /* Some are further away than the wheel reaches, some are due at once. */
    int64_t due_ns = now_ns + (int64_t)(random_of(seed) % (random_of(seed) % 4 ? 20000 : 200000)) * ms;

    switch (random_of(seed) % 4) {
    case 0:
        wheel_drop(&m->wheel, &m->entries[i]);
        m->due[i] = 0;
        break;
    case 1:
        wheel_set_earlier(&m->wheel, &m->entries[i], due_ns);
        if (!m->due[i] || due_ns < m->due[i])
            m->due[i] = due_ns;
        break;
    default:
        wheel_set(&m->wheel, &m->entries[i], due_ns);
        m->due[i] = due_ns;
    }
}

static void wheel_agrees_with_a_list(void **state)
{
    struct model *m = calloc(1, sizeof *m);
    int64_t now_ns = 1000 * 1000 * ms;
    uint64_t seed = 42;

    (void)state;
    assert_non_null(m);
    wheel_init(&m->wheel, now_ns);
    for (int step = 0; step < 20000; step++) {
        for (uint64_t n = random_of(&seed) % 4; n; n--)
            change_one(m, now_ns, &seed);
        now_ns += (int64_t)(random_of(&seed) % 200) * ms;
        if (random_of(&seed) % 500 == 0)
            now_ns += 100000 * ms; /* the lane stood still for longer than the wheel is */
        take_all(m, now_ns);
    }
    free(m);
}

static void wheel_is_empty_in_the_end(void **state)
{
    struct model *m = calloc(1, sizeof *m);

    (void)state;
    assert_non_null(m);
    wheel_init(&m->wheel, 0);
    for (size_t i = 0; i < ENTRIES; i++) {
        m->due[i] = (int64_t)(i + 1) * 1000 * ms;
        wheel_set(&m->wheel, &m->entries[i], m->due[i]);
    }
    assert_int_equal(m->wheel.n, ENTRIES);
    for (int64_t now_ns = 0; now_ns <= (ENTRIES + 1) * 1000 * ms; now_ns += 100 * ms)
        take_all(m, now_ns);
    assert_int_equal(m->wheel.n, 0);
    free(m);
}

/* Only what is hurried is told of, and it can be taken then, a slot after it is due at most. */
static void wheel_tells_what_is_hurried(void **state)
{
    struct model *m = calloc(1, sizeof *m);
    int64_t now_ns = 1000 * 1000 * ms, next_ns;

    (void)state;
    assert_non_null(m);
    wheel_init(&m->wheel, now_ns);
    wheel_set(&m->wheel, &m->entries[0], now_ns + 20 * ms);
    wheel_set(&m->wheel, &m->entries[1], now_ns + 57 * ms);
    assert_int_equal(wheel_next(&m->wheel, now_ns + 100 * ms), INT64_MAX);
    wheel_hurry(&m->wheel, &m->entries[1]);
    assert_int_equal(wheel_next(&m->wheel, now_ns + 50 * ms), INT64_MAX);
    next_ns = wheel_next(&m->wheel, now_ns + 100 * ms);
    assert_in_range(next_ns, now_ns + 57 * ms, now_ns + 57 * ms + WHEEL_SLOT_NS);
    assert_ptr_equal(wheel_take(&m->wheel, next_ns), &m->entries[0]);
    assert_ptr_equal(wheel_take(&m->wheel, next_ns), &m->entries[1]);
    assert_null(wheel_take(&m->wheel, next_ns));
    assert_int_equal(wheel_next(&m->wheel, now_ns + 1000 * ms), INT64_MAX);
    free(m);
}

/* ---- contacts -------------------------------------------------------------------------------------------------------------------- */

static const struct muster_tenant *const acme = (const struct muster_tenant *)"acme";
static const struct muster_tenant *const zeta = (const struct muster_tenant *)"zeta";

static int open_one(struct contacts *contacts, const struct muster_tenant *tenant, const char *agent, const char *server, uint64_t client,
                    struct connection **ret)
{
    const struct muster_connection told = {.size = sizeof told, .tenant = tenant, .agent = agent, .server = server, .client = client};

    return contacts_open(contacts, &told, ret);
}

static void end(struct contacts *contacts, const char *server, uint64_t client)
{
    struct connection *c = contacts_find(contacts, server, client);
    struct contact *contact;

    assert_non_null(c);
    contact = c->contact;
    contacts_close(contacts, c);
    contacts_release(contacts, contact);
}

static void connections_are_of_their_names(void **state)
{
    struct contacts contacts;
    struct connection *a, *b, *c;

    (void)state;
    contacts_init(&contacts, 10);
    assert_int_equal(open_one(&contacts, acme, "ann", "N1", 7, &a), 0);
    assert_int_equal(open_one(&contacts, acme, "ann", "N2", 7, &b), 0);
    assert_int_equal(open_one(&contacts, zeta, "ann", "N1", 8, &c), 0);
    assert_ptr_equal(a->contact, b->contact);
    assert_ptr_not_equal(a->contact, c->contact);
    assert_ptr_equal(a->server, c->server);
    assert_int_equal(open_one(&contacts, acme, "ann", "N1", 7, &c), MUSTER_EEXIST); /* told twice */
    assert_ptr_equal(a, c);
    assert_int_equal(contacts.n, 3);
    assert_null(contacts_find(&contacts, "N1", 9));
    assert_null(contacts_find(&contacts, "N3", 7));
    end(&contacts, "N1", 7);
    assert_ptr_equal(b->contact->first, b);
    assert_null(b->next);
    end(&contacts, "N2", 7);
    assert_null(contacts_server(&contacts, "N2")); /* nobody is there any more */
    assert_non_null(contacts_server(&contacts, "N1"));
    contacts_done(&contacts);
}

static void a_contact_is_out_of_sight_when_all_its_servers_are(void **state)
{
    struct contacts contacts;
    struct connection *a, *b;

    (void)state;
    contacts_init(&contacts, 10);
    assert_int_equal(open_one(&contacts, acme, "ann", "N1", 1, &a), 0);
    assert_int_equal(open_one(&contacts, acme, "ann", "N2", 2, &b), 0);
    assert_false(contact_is_out_of_sight(a->contact));
    a->server->lost_ns = 1;
    assert_false(contact_is_out_of_sight(a->contact));
    b->server->lost_ns = 1;
    assert_true(contact_is_out_of_sight(a->contact));
    contacts_done(&contacts);
}

static void connections_are_bounded(void **state)
{
    struct contacts contacts;
    struct connection *c;
    char id[SERVER_ID_MAX + 2];

    (void)state;
    contacts_init(&contacts, 3);
    for (uint64_t i = 1; i <= 3; i++)
        assert_int_equal(open_one(&contacts, acme, "ann", "N1", i, &c), 0);
    assert_int_equal(open_one(&contacts, acme, "bob", "N9", 4, &c), MUSTER_EAGAIN);
    assert_null(contacts_server(&contacts, "N9"));
    end(&contacts, "N1", 2);
    assert_int_equal(open_one(&contacts, acme, "bob", "N1", 4, &c), 0);
    memset(id, 'N', sizeof id);
    id[sizeof id - 1] = '\0';
    assert_int_equal(open_one(&contacts, acme, "bob", id, 5, &c), MUSTER_EINVAL);
    assert_int_equal(open_one(&contacts, acme, "bob", "", 5, &c), MUSTER_EINVAL);
    assert_int_equal(contacts.refused, 3);
    contacts_done(&contacts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wheel_agrees_with_a_list),
        cmocka_unit_test(wheel_is_empty_in_the_end),
        cmocka_unit_test(wheel_tells_what_is_hurried),
        cmocka_unit_test(connections_are_of_their_names),
        cmocka_unit_test(a_contact_is_out_of_sight_when_all_its_servers_are),
        cmocka_unit_test(connections_are_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
