/* bus/sys: what servers from 2.9 to 2.12 said (the seeds of its fuzzer), and what they might say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <muster/plugin.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "bus/sys.h"

#define SEEDS MUSTER_SOURCE_DIR "/tests/fuzz/corpus/sys/"

static const char *const versions[] = {"2.9", "2.10", "2.12"}, *const modes[] = {"operator", "static"};

struct seen {
    int n;
    struct sys_client last, agent; /* the last one, and the last that is an agent's */
};

static void on_client(void *arg, const struct sys_client *client)
{
    struct seen *seen = arg;

    seen->n++;
    seen->last = *client;
    if (*client->agent)
        seen->agent = *client;
}

static struct muster_bytes seed(const char *what, const char *version, const char *mode, char *out, size_t size)
{
    char path[256];
    FILE *f;
    size_t n;

    (void)snprintf(path, sizeof path, SEEDS "%s-%s-%s", what, version, mode);
    f = fopen(path, "rb");
    assert_non_null(f);
    n = fread(out, 1, size, f);
    (void)fclose(f);
    assert_true(n > 0 && n < size);
    return (struct muster_bytes){out, n};
}

static void check_event(const char *version, const char *mode)
{
    struct seen seen[2] = {{0}};
    char text[8192];
    int kind = 0;

    assert_int_equal(sys_read_event(seed("connect", version, mode, text, sizeof text), &kind, on_client, &seen[0]), 0);
    assert_int_equal(kind, MUSTER_SYS_CONNECT);
    assert_int_equal(sys_read_event(seed("disconnect", version, mode, text, sizeof text), &kind, on_client, &seen[1]), 0);
    assert_int_equal(kind, MUSTER_SYS_DISCONNECT);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(seen[i].last.tenant, "acme");
        assert_string_equal(seen[i].last.agent, "a1");
        assert_string_equal(seen[i].last.name, "freeform");
        assert_string_equal(seen[i].last.reason, i ? "Client Closed" : "");
        assert_string_equal(seen[i].last.server, seen[0].last.server);
        assert_int_equal(seen[i].last.id, seen[0].last.id);
        assert_int_equal(strlen(seen[i].last.server), 56);
    }
    assert_true(seen[0].last.at_wall_ns > 0 && seen[1].last.at_wall_ns > seen[0].last.at_wall_ns);
}

static void check_page(const char *version, const char *mode)
{
    struct seen seen = {0};
    struct sys_page page;
    char text[8192];

    assert_int_equal(sys_read_page(seed("page", version, mode, text, sizeof text), &page, on_client, &seen), 0);
    assert_int_equal(seen.n, 2); /* the asker, in the system account, and the agent */
    assert_int_equal(page.n_rows, 2);
    assert_int_equal(page.total, 2);
    assert_int_equal(page.last, seen.last.id);
    assert_true(page.first && page.first < page.last);
    assert_string_equal(seen.agent.tenant, "acme");
    assert_string_equal(seen.agent.agent, "a1");
    assert_int_equal(page.server.can_kick, strcmp(version, "2.9") != 0);
}

static void test_what_servers_said(void **state)
{
    (void)state;
    for (size_t v = 0; v < sizeof versions / sizeof *versions; v++)
        for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
            struct sys_server server;
            char text[8192];

            check_event(versions[v], modes[m]);
            check_page(versions[v], modes[m]);
            assert_int_equal(sys_read_server(seed("ping", versions[v], modes[m], text, sizeof text), &server), 0);
            assert_int_equal(server.n_active, 1);
            assert_int_equal(server.can_kick, v > 0);
            if (v > 0)
                assert_int_equal(sys_read_kick(seed("kick", versions[v], modes[m], text, sizeof text)), MUSTER_ENOTFOUND);
        }
}

/* ---- who it is ---------------------------------------------------------------------------------------------------------- */

#define CONNECTED "{\"type\":\"io.nats.server.advisory.v1.client_connect\",\"server\":{\"id\":\"NA\"},\"client\":{\"id\":7,"
#define JWT_OF_A1 "\"jwt\":\"e30.eyJuYW1lIjoiYTEifQ.x\"" /* {"name":"a1"} */

static int read_text(const char *text, struct seen *seen)
{
    int kind;

    *seen = (struct seen){0};
    return sys_read_event((struct muster_bytes){text, strlen(text)}, &kind, on_client, seen);
}

static void test_who_it_is(void **state)
{
    static const struct {
        const char *client, *who;
    } cases[] = {
        {"\"user\":\"acme.a1\"}}", "acme.a1"},
        {"\"user\":\"acme.a1\",\"name\":\"acme.a2\",\"name_tag\":\"acme.a3\"}}", "acme.a1"},
        {"\"user\":\"acme.a1\",\"kind\":\"Client\"}}", "acme.a1"},
        {"\"user\":\"acme.a1\",\"kind\":\"Leafnode\"}}", "."},
        {"\"user\":\"acme\"}}", "."},
        {"\"user\":\"acme.\"}}", "."},
        {"\"user\":\".a1\"}}", "."},
        {"\"user\":\"acme.a1.b\"}}", "."},
        {"\"user\":\"acme._a1\"}}", "."},
        {"\"user\":\"_acme.a1\"}}", "."},
        {"\"user\":\"broker\"}}", "."},
        {"\"user\":7}}", "."},
        {"\"name\":\"acme.a1\"}}", "."},
        {"\"tags\":[\"tenant:acme\",\"role:agent\"]," JWT_OF_A1 "}}", "acme.a1"},
        {"\"tags\":[\"tenant:acme\",\"role:user\"]," JWT_OF_A1 ",\"user\":\"zeta.a2\"}}", "acme.a1"},
        {"\"tags\":[\"tenant:acme\",\"role:operator\",\"as:_op_a1\"]," JWT_OF_A1 "}}", "operator acme.a1"},
        {"\"tags\":[\"tenant:acme\",\"tenant:zeta\"]," JWT_OF_A1 "}}", "."},
        {"\"tags\":[\"tenant:_x\"]," JWT_OF_A1 "}}", "."},
        {"\"tags\":[\"tenant:\"]," JWT_OF_A1 "}}", "."},
        {"\"tags\":[7]," JWT_OF_A1 "}}", "."},
        {"\"tags\":\"tenant:acme\"," JWT_OF_A1 "}}", "."},
        {JWT_OF_A1 ",\"user\":\"acme.a2\"}}", "."}, /* there "user" may be the client's own text */
        {"\"tags\":[\"tenant:acme\"],\"jwt\":\"e30.!.x\"}}", "."},
        {"\"tags\":[\"tenant:acme\"],\"jwt\":\"e30.e30.x\"}}", "."},
        {"\"tags\":[\"tenant:acme\"],\"jwt\":\"e30.e30\"}}", "."},
    };
    struct seen seen;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512], who[176];

        (void)snprintf(text, sizeof text, CONNECTED "%s", cases[i].client);
        assert_int_equal(read_text(text, &seen), 0);
        (void)snprintf(who, sizeof who, "%s%s.%s", seen.last.is_operator ? "operator " : "", seen.last.tenant, seen.last.agent);
        if (strcmp(who, cases[i].who) != 0)
            fail_msg("%s: %s came, %s was expected", text, who, cases[i].who);
    }
}

static void test_a_long_name_is_cut_between_characters(void **state)
{
    struct buf b = {0};
    struct seen seen;

    (void)state;
    buf_put_lit(&b, CONNECTED "\"name\":\"x");
    for (int i = 0; i < 200; i++)
        buf_put_lit(&b, "\xc3\xa4"); /* ä */
    buf_put_lit(&b, "\"}}");
    assert_int_equal(read_text(b.data, &seen), 0);
    assert_int_equal(strlen(seen.last.name), 255); /* of 256, one would be half a character */
    buf_done(&b);
}

/* ---- what is not as expected ---------------------------------------------------------------------------------------------- */

static void test_what_is_malformed(void **state)
{
    static const char *const events[] = {
        "",
        "{",
        "[]",
        "7",
        "{}",
        "{\"type\":\"io.nats.server.advisory.v1.client_connect\"}",
        "{\"type\":\"io.nats.server.advisory.v1.client_connect\",\"server\":{\"id\":\"NA\"}}",
        "{\"type\":\"io.nats.server.advisory.v1.client_connect\",\"client\":{\"id\":7}}",
        "{\"type\":\"something.else\",\"server\":{\"id\":\"NA\"},\"client\":{\"id\":7}}",
        "{\"type\":\"io.nats.server.advisory.v1.client_connect\",\"server\":{\"id\":\"NA\"},\"client\":{\"id\":0}}",
        "{\"type\":\"io.nats.server.advisory.v1.client_connect\",\"server\":{\"id\":\"NA\"},\"client\":{\"id\":-1}}",
        "{\"type\":\"io.nats.server.advisory.v1.client_connect\",\"server\":{\"id\":\"NA\"},\"client\":{\"id\":1e300}}",
        "{\"type\":\"io.nats.server.advisory.v1.client_connect\",\"server\":{\"id\":\"NA\"},\"client\":{\"id\":\"7\"}}",
        "{\"type\":\"io.nats.server.advisory.v1.client_connect\",\"server\":{\"id\":\"\"},\"client\":{\"id\":7}}",
        "{\"type\":\"io.nats.server.advisory.v1.client_connect\",\"server\":{\"id\":\"N.A\"},\"client\":{\"id\":7}}",
        "{\"type\":\"io.nats.server.advisory.v1.client_connect\",\"server\":{\"id\":\"\x85\"},\"client\":{\"id\":7}}",
    };
    static const char *const pages[] = {
        "",
        "{\"server\":{\"id\":\"NA\"}}",
        "{\"server\":{\"id\":\"N.A\"},\"data\":{\"connections\":[]}}",
        "{\"data\":{\"connections\":[]}}",
        "{\"server\":{\"id\":\"NA\"},\"data\":{\"connections\":[{}]}}",
    };
    struct sys_page page;
    struct seen seen;

    (void)state;
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        assert_int_equal(read_text(events[i], &seen), MUSTER_EINVAL);
        assert_int_equal(seen.n, 0);
    }
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        assert_int_equal(sys_read_page((struct muster_bytes){pages[i], strlen(pages[i])}, &page, on_client, &seen), MUSTER_EINVAL);
}

static void test_which_servers_can_kick(void **state)
{
    static const struct {
        const char *version;
        bool can;
    } cases[] = {{"2.9.25", false}, {"2.10.0", true},        {"2.11.0-RC.1", true}, {"3.0.0", true},
                 {"1.99.9", false}, {"2.100.0-beta", true}, {"", false},           {"x", false}};
    struct sys_server server;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[128];
        int n = snprintf(text, sizeof text, "{\"server\":{\"id\":\"NA\",\"ver\":\"%s\"}}", cases[i].version);

        assert_int_equal(sys_read_server((struct muster_bytes){text, (size_t)n}, &server), 0);
        assert_int_equal(server.can_kick, cases[i].can);
    }
}

static void test_answers_to_kick(void **state)
{
    static const struct {
        const char *text;
        int code;
    } cases[] = {
        {"{\"server\":{}}", 0},
        {"{\"error\":{\"code\":500,\"description\":\"no such client or leafnode id\"}}", MUSTER_ENOTFOUND},
        {"{\"error\":{\"code\":500,\"description\":\"no such client id\"}}", MUSTER_ENOTFOUND},
        {"{\"error\":{\"code\":400,\"description\":\"bad request\"}}", MUSTER_EINVAL},
        {"nothing", MUSTER_EINVAL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(sys_read_kick((struct muster_bytes){cases[i].text, strlen(cases[i].text)}), cases[i].code);
}

static void test_who_is_stopped(void **state)
{
    static const char *const others[] = {"$SYS.SERVER..SHUTDOWN", "$SYS.SERVER.NA.STATSZ", "$SYS.SERVER.NA.SHUTDOWN.x", "$SYS.ACCOUNT.NA.CONNECT",
                                         "$SYS.SERVER.0123456789012345678901234567890123456789012345678901234567890123.SHUTDOWN"};
    char server[SYS_SERVER_SIZE];

    (void)state;
    assert_int_equal(sys_read_stopped("$SYS.SERVER.NA.SHUTDOWN", server), 0);
    assert_string_equal(server, "NA");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(sys_read_stopped(others[i], server), MUSTER_EINVAL);
}

struct peers {
    uint32_t n, n_offline;
    struct sys_peer last;
};

static void on_peer(void *arg, const struct sys_peer *peer)
{
    struct peers *peers = arg;

    peers->n++;
    peers->n_offline += peer->is_offline;
    peers->last = *peer;
}

static int read_meta(const char *text, struct sys_meta *meta, struct peers *peers)
{
    *peers = (struct peers){0};
    return sys_read_meta((struct muster_bytes){text, strlen(text)}, meta, on_peer, peers);
}

static void test_who_the_peers_are(void **state)
{
    static const char *const seeds[] = {"meta-2.9", "meta-2.10", "meta-2.15"};
    struct peers peers;
    struct sys_meta meta;

    (void)state;
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        char path[256], text[8192] = "";
        FILE *f;

        (void)snprintf(path, sizeof path, SEEDS "%s", seeds[i]);
        f = fopen(path, "rb");
        assert_non_null(f);
        assert_true(fread(text, 1, sizeof text - 1, f) > 0);
        (void)fclose(f);
        assert_int_equal(read_meta(text, &meta, &peers), 0);
        assert_true(meta.has_jetstream && meta.is_clustered && meta.n_servers == 3);
        assert_string_equal(meta.name, meta.leader);
        assert_true(peers.n == 2 && peers.n_offline == 0 && peers.last.heard_ns > 0 && peers.last.n_behind == 0);
        assert_string_equal(peers.last.name, "node2");
    }
    assert_int_equal(read_meta("{\"server\":{\"name\":\"a\",\"domain\":\"hub\"},\"data\":{\"meta_cluster\":{\"replicas\":[{\"name\":\"b\",\"offline\":true,"
                               "\"lag\":7,\"active\":11}]}}}", &meta, &peers), 0);
    assert_true(meta.is_clustered && !*meta.leader && meta.n_servers == 0);
    assert_string_equal(meta.domain, "hub");
    assert_true(peers.n == 1 && peers.last.is_offline && peers.last.n_behind == 7 && peers.last.heard_ns == 11);
    assert_int_equal(read_meta("{\"server\":{\"name\":\"a\"},\"data\":{\"disabled\":true}}", &meta, &peers), 0);
    assert_true(!meta.has_jetstream && !meta.is_clustered);
    assert_int_equal(read_meta("{\"server\":{\"name\":\"a\"},\"data\":{}}", &meta, &peers), 0);
    assert_true(meta.has_jetstream && !meta.is_clustered);
    assert_int_equal(read_meta("{\"server\":{\"name\":\"a\"},\"error\":{\"code\":500}}", &meta, &peers), MUSTER_EINVAL);
    assert_int_equal(read_meta("{\"server\":{},\"data\":{}}", &meta, &peers), MUSTER_EINVAL);
    assert_int_equal(read_meta("+OK", &meta, &peers), MUSTER_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_servers_said),
        cmocka_unit_test(test_who_it_is),
        cmocka_unit_test(test_a_long_name_is_cut_between_characters),
        cmocka_unit_test(test_what_is_malformed),
        cmocka_unit_test(test_which_servers_can_kick),
        cmocka_unit_test(test_answers_to_kick),
        cmocka_unit_test(test_who_is_stopped),
        cmocka_unit_test(test_who_the_peers_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
