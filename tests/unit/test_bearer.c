/*
 * Whom claims name: times and leeway, audiences, paths, defaults, roles. The tokens need no signature here: that they have one is
 * checked before (test_jose.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "auth/bearer.h"
#include "auth/roles.h"
#include "base/buf.h"

enum { NOW = 1000000 };

#define BIT(role) (UINT32_C(1) << (role))
#define BASE "\"iss\":\"https://id\",\"aud\":\"muster\",\"exp\":1000100,"

static const char *const audiences[] = {"muster", "muster-dev"};
static const char *const tenants[] = {"acme", "zeta"};

static struct bearer_rules rules(void)
{
    return (struct bearer_rules){
        .issuer = "https://id",
        .audiences = audiences,
        .n_audiences = 2,
        .tenant_claim = "org.tenant",
        .agent_claim = "sub",
        .role_claim = "roles",
        .role = ROLE_AGENT,
        .roles = BIT(ROLE_AGENT) | BIT(ROLE_OBSERVER) | BIT(ROLE_USER),
        .leeway_s = 30,
    };
}

static int check(const struct bearer_rules *r, const char *claims, struct bearer_identity *who)
{
    char why[BEARER_WHY_SIZE] = "";
    const char *fault = "";
    struct buf b = {0};
    struct jose j;
    int reason;

    buf_put_lit(&b, "eyJhbGciOiJSUzI1NiJ9.");
    buf_put_base64url(&b, claims, strlen(claims));
    buf_put_lit(&b, ".AAAA");
    if (jose_read(b.data, b.len, &j, &fault))
        fail_msg("%s: %s", claims, fault);
    reason = bearer_check(r, &j, NOW, who, why);
    assert_int_equal(reason == BEARER_TAKEN, why[0] == '\0');
    jose_done(&j);
    buf_done(&b);
    return reason;
}

static void assert_reason(const struct bearer_rules *r, int wanted, const char *claims)
{
    struct bearer_identity who;
    int reason = check(r, claims, &who);

    if (reason != wanted)
        fail_msg("%s: %s came, %s was expected", claims, bearer_reason(reason), bearer_reason(wanted));
}

static void assert_who(const struct bearer_rules *r, const char *claims, const char *tenant, const char *agent, int role)
{
    struct bearer_identity who;

    assert_reason(r, BEARER_TAKEN, claims);
    assert_int_equal(check(r, claims, &who), BEARER_TAKEN);
    assert_string_equal(who.tenant, tenant);
    assert_string_equal(who.agent, agent);
    assert_int_equal(who.role, role);
}

static void test_taken(void **state)
{
    struct bearer_rules r = rules();
    struct bearer_identity who;

    (void)state;
    assert_int_equal(check(&r, "{" BASE "\"sub\":\"scout-7\",\"org\":{\"tenant\":\"acme\"},\"roles\":\"observer\"}", &who), BEARER_TAKEN);
    assert_string_equal(who.tenant, "acme");
    assert_string_equal(who.agent, "scout-7");
    assert_int_equal(who.role, ROLE_OBSERVER);
    assert_int_equal(who.expires_s, 1000130);
}

static void test_times(void **state)
{
    static const struct {
        const char *times;
        int wanted;
    } cases[] = {
        {"\"exp\":1000001", BEARER_TAKEN},
        {"\"exp\":999971", BEARER_TAKEN}, /* within the leeway */
        {"\"exp\":999970", BEARER_EXPIRED},
        {"\"exp\":999970.5", BEARER_TAKEN},
        {"\"exp\":0", BEARER_EXPIRED},
        {"\"exp\":1e300", BEARER_TAKEN},
        {"\"exp\":-1", BEARER_BAD_CLAIM},
        {"\"exp\":\"1000100\"", BEARER_BAD_CLAIM},
        {"\"exp\":null", BEARER_BAD_CLAIM},
        {"\"exp\":true", BEARER_BAD_CLAIM},
        {"\"x\":1", BEARER_BAD_CLAIM}, /* no exp: it would never end */
        {"\"exp\":1000100,\"nbf\":1000030", BEARER_TAKEN},
        {"\"exp\":1000100,\"nbf\":1000031", BEARER_TOO_EARLY},
        {"\"exp\":1000100,\"nbf\":\"now\"", BEARER_BAD_CLAIM},
        {"\"exp\":1000100,\"iat\":1000030", BEARER_TAKEN},
        {"\"exp\":1000100,\"iat\":1000031", BEARER_TOO_EARLY},
        {"\"exp\":1000100,\"iat\":[]", BEARER_BAD_CLAIM},
    };
    struct bearer_rules r = rules();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char claims[256];

        (void)snprintf(claims, sizeof claims, "{\"iss\":\"https://id\",\"aud\":\"muster\",%s,\"sub\":\"a\",\"org\":{\"tenant\":\"acme\"}}",
                       cases[i].times);
        assert_reason(&r, cases[i].wanted, claims);
    }
}

static void test_no_exp_where_none_is_required(void **state)
{
    static const char all[] = "{\"iss\":\"https://id\",\"aud\":\"muster\",%s\"sub\":\"a\",\"org\":{\"tenant\":\"acme\"}}";
    struct bearer_rules r = rules();
    struct bearer_identity who;
    char claims[256];

    (void)state;
    r.exp_optional = true;
    (void)snprintf(claims, sizeof claims, all, "");
    assert_int_equal(check(&r, claims, &who), BEARER_TAKEN);
    assert_int_equal(who.expires_s, 0);
    (void)snprintf(claims, sizeof claims, all, "\"exp\":1000100,");
    assert_int_equal(check(&r, claims, &who), BEARER_TAKEN);
    assert_int_equal(who.expires_s, 1000130);
    (void)snprintf(claims, sizeof claims, all, "\"exp\":999970,");
    assert_reason(&r, BEARER_EXPIRED, claims);
    (void)snprintf(claims, sizeof claims, all, "\"exp\":null,");
    assert_reason(&r, BEARER_BAD_CLAIM, claims);
    (void)snprintf(claims, sizeof claims, all, "\"nbf\":1000031,");
    assert_reason(&r, BEARER_TOO_EARLY, claims);
}

/* An end beyond all reason must not overflow what it is told in. */
static void test_far_end(void **state)
{
    struct bearer_rules r = rules();
    struct bearer_identity who;

    (void)state;
    assert_int_equal(check(&r, "{\"iss\":\"https://id\",\"aud\":\"muster\",\"exp\":1e300,\"sub\":\"a\",\"org\":{\"tenant\":\"acme\"}}", &who), 0);
    assert_true(who.expires_s < INT64_MAX / 1000000000);
}

static void test_issuer_and_audience(void **state)
{
    static const struct {
        const char *claims;
        int wanted;
    } cases[] = {
        {"\"iss\":\"https://id\",\"aud\":\"muster-dev\"", BEARER_TAKEN},
        {"\"iss\":\"https://id\",\"aud\":[\"x\",\"muster\"]", BEARER_TAKEN},
        {"\"iss\":\"https://id\",\"aud\":[]", BEARER_OTHER_AUDIENCE},
        {"\"iss\":\"https://id\",\"aud\":[7,{\"muster\":1}]", BEARER_OTHER_AUDIENCE},
        {"\"iss\":\"https://id\",\"aud\":\"Muster\"", BEARER_OTHER_AUDIENCE},
        {"\"iss\":\"https://id\",\"aud\":\"muster \"", BEARER_OTHER_AUDIENCE},
        {"\"iss\":\"https://id\",\"aud\":{\"a\":\"muster\"}", BEARER_OTHER_AUDIENCE},
        {"\"iss\":\"https://id\"", BEARER_OTHER_AUDIENCE},
        {"\"iss\":\"https://id/\",\"aud\":\"muster\"", BEARER_UNKNOWN_ISSUER},
        {"\"iss\":[\"https://id\"],\"aud\":\"muster\"", BEARER_UNKNOWN_ISSUER},
        {"\"aud\":\"muster\"", BEARER_UNKNOWN_ISSUER},
    };
    struct bearer_rules r = rules();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char claims[256];

        (void)snprintf(claims, sizeof claims, "{%s,\"exp\":1000100,\"sub\":\"a\",\"org\":{\"tenant\":\"acme\"}}", cases[i].claims);
        assert_reason(&r, cases[i].wanted, claims);
    }
}

static void test_paths(void **state)
{
    struct bearer_rules r = rules();

    (void)state;
    /* A name with a dot is found before a path. */
    assert_who(&r, "{" BASE "\"sub\":\"a\",\"org.tenant\":\"acme\",\"org\":{\"tenant\":\"zeta\"}}", "acme", "a", ROLE_AGENT);
    r.tenant_claim = "https://x.org/claims.tenant";
    assert_who(&r, "{" BASE "\"sub\":\"a\",\"https://x.org/claims\":{\"tenant\":\"acme\"}}", "acme", "a", ROLE_AGENT);
    assert_who(&r, "{" BASE "\"sub\":\"a\",\"https://x.org/claims.tenant\":\"acme\"}", "acme", "a", ROLE_AGENT);
    r.tenant_claim = "a.b.c";
    assert_who(&r, "{" BASE "\"sub\":\"a\",\"a\":{\"b\":{\"c\":\"acme\"}}}", "acme", "a", ROLE_AGENT);
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"sub\":\"a\",\"a\":{\"b\":\"acme\"}}");
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"sub\":\"a\",\"a\":{\"b\":{\"c\":{\"d\":\"acme\"}}}}");
    r.tenant_claim = "groups";
    assert_who(&r, "{" BASE "\"sub\":\"a\",\"groups\":[\"acme\"]}", "acme", "a", ROLE_AGENT);
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"sub\":\"a\",\"groups\":[\"acme\",\"zeta\"]}");
}

static void test_names(void **state)
{
    static const char *const subs[] = {"\"_muster\"", "\"a.b\"",     "\"*\"",  "\">\"", "\"a b\"", "\"\"", "\"\\u0007\"",
                                       "\"a\\r\\nb\"", "\"\\u00e9\"", "7",      "null",  "{}",      "[]",   "[\"a\",\"b\"]",
                                       "\"auth0|x\"",  "\"a\\u2028\"", "\"_op_x\""};
    struct bearer_rules r = rules();

    (void)state;
    for (size_t i = 0; i < sizeof subs / sizeof *subs; i++) {
        char claims[256];

        (void)snprintf(claims, sizeof claims, "{" BASE "\"org\":{\"tenant\":\"acme\"},\"sub\":%s}", subs[i]);
        assert_reason(&r, BEARER_BAD_CLAIM, claims);
        (void)snprintf(claims, sizeof claims, "{" BASE "\"org\":{\"tenant\":%s},\"sub\":\"a\"}", subs[i]);
        assert_reason(&r, BEARER_BAD_CLAIM, claims);
    }
    char longest[512];
    (void)snprintf(longest, sizeof longest, "{" BASE "\"org\":{\"tenant\":\"acme\"},\"sub\":\"%065d\"}", 7);
    assert_reason(&r, BEARER_BAD_CLAIM, longest);
    (void)snprintf(longest, sizeof longest, "{" BASE "\"org\":{\"tenant\":\"acme\"},\"sub\":\"%064d\"}", 7);
    assert_reason(&r, BEARER_TAKEN, longest);
}

static void test_defaults(void **state)
{
    struct bearer_rules r = rules();

    (void)state;
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"sub\":\"a\"}");
    r.tenant = "zeta";
    assert_who(&r, "{" BASE "\"sub\":\"a\"}", "zeta", "a", ROLE_AGENT);
    assert_who(&r, "{" BASE "\"sub\":\"a\",\"org\":{\"tenant\":\"acme\"}}", "acme", "a", ROLE_AGENT);
    /* What is there and wrong is not replaced by the default. */
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"sub\":\"a\",\"org\":{\"tenant\":null}}");
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"sub\":\"a\",\"roles\":null}");
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"sub\":\"a\",\"roles\":\"\"}");
    r.tenant_claim = NULL;
    assert_who(&r, "{" BASE "\"sub\":\"a\",\"org\":{\"tenant\":\"acme\"}}", "zeta", "a", ROLE_AGENT);
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"x\":1}");
    r.role = -1;
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"sub\":\"a\"}");
    r.role_claim = NULL;
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"sub\":\"a\"}");
}

static void test_roles(void **state)
{
    static const struct {
        const char *roles;
        int role; /* -1: refused */
    } cases[] = {
        {"\"agent\"", ROLE_AGENT},
        {"\"user\"", ROLE_USER},
        {"\"admin\"", -1}, /* there is such a role, and this issuer may not give it */
        {"\"operator\"", -1},
        {"\"plugin\"", -1},
        {"\"Agent\"", -1},
        {"[\"offline_access\",\"user\"]", ROLE_USER},
        {"[\"admin\",\"user\"]", ROLE_USER},
        {"[\"user\",\"user\"]", ROLE_USER},
        {"[\"user\",\"observer\"]", -1}, /* a name has one role */
        {"[\"offline_access\"]", -1},
        {"[]", -1},
        {"7", -1},
        {"{}", -1},
    };
    struct bearer_rules r = rules();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char claims[256];

        (void)snprintf(claims, sizeof claims, "{" BASE "\"sub\":\"a\",\"org\":{\"tenant\":\"acme\"},\"roles\":%s}", cases[i].roles);
        if (cases[i].role < 0)
            assert_reason(&r, BEARER_BAD_CLAIM, claims);
        else
            assert_who(&r, claims, "acme", "a", cases[i].role);
    }
}

static void test_tenants_of_an_issuer(void **state)
{
    struct bearer_rules r = rules();

    (void)state;
    r.tenants = tenants;
    r.n_tenants = 2;
    assert_reason(&r, BEARER_TAKEN, "{" BASE "\"sub\":\"a\",\"org\":{\"tenant\":\"zeta\"}}");
    assert_reason(&r, BEARER_BAD_CLAIM, "{" BASE "\"sub\":\"a\",\"org\":{\"tenant\":\"other\"}}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),   cmocka_unit_test(test_times),
        cmocka_unit_test(test_no_exp_where_none_is_required),    cmocka_unit_test(test_far_end),
        cmocka_unit_test(test_issuer_and_audience), cmocka_unit_test(test_paths), cmocka_unit_test(test_names),
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_roles),   cmocka_unit_test(test_tenants_of_an_issuer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
