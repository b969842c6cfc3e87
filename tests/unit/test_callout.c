/*
 * What a server asks and is answered in an auth callout: a request is read only when the server that it names has signed it, and an
 * answer is for that server, that login and the accounts of the form.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <cjson/cJSON.h>
#include <muster/plugin.h>
#include <string.h>

#include "auth/callout.h"
#include "auth/jwt.h"
#include "auth/roles.h"

static struct nkey server, user, account, asked, signer;

static int make_keys(void **state)
{
    (void)state;
    return nkey_generate(NKEY_SERVER, &server) || nkey_generate(NKEY_USER, &user) || nkey_generate(NKEY_ACCOUNT, &account) ||
           nkey_generate(NKEY_ACCOUNT, &asked) || nkey_generate(NKEY_ACCOUNT, &signer);
}

/* As nats-server 2.10 writes it; of key, naming `id` as the server and `type` as what it is. */
static int read_request(const struct nkey *key, const char *id, const char *user_key, const char *type, const char *connect,
                        struct callout_request *ret_request)
{
    struct buf nats = {0}, text = {0};
    int err;

    buf_printf(&nats,
               "{\"server_id\":{\"name\":\"n1\",\"host\":\"0.0.0.0\",\"id\":\"%s\",\"version\":\"2.10.26\"},\"user_nkey\":\"%s\","
               "\"client_info\":{\"host\":\"10.1.2.3\",\"id\":7,\"kind\":\"Client\",\"type\":\"nats\"},\"connect_opts\":%s,"
               "\"type\":\"%s\",\"version\":2}",
               id, user_key, connect, type);
    assert_int_equal(jwt_seal(key, &(struct jwt_head){.subject = account.text, .audience = "nats-authorization-request", .issued = 1000,
                                                      .expires = 1010},
                              &nats, &text),
                     0);
    err = callout_read(text.data, text.len, ret_request);
    buf_done(&nats);
    buf_done(&text);
    return err;
}

static const char asks[] = "authorization_request";

static void test_reads_what_the_client_brought(void **state)
{
    struct callout_request r;

    (void)state;
    assert_int_equal(read_request(&server, server.text, user.text, asks,
                                  "{\"auth_token\":\"tok\",\"user\":\"u\",\"pass\":\"p\",\"name\":\"me\",\"protocol\":1}", &r),
                     0);
    assert_string_equal(r.token, "tok");
    assert_string_equal(r.user, "u");
    assert_string_equal(r.client_name, "me");
    assert_string_equal(r.host, "10.1.2.3");
    assert_string_equal(r.user_key, user.text);
    assert_string_equal(r.server, server.text);
    assert_int_equal(r.expires - r.issued, 10);
    callout_request_done(&r);
    callout_request_done(&r); /* twice does no harm */
}

static void test_a_password_stands_in_for_a_token(void **state)
{
    struct callout_request r;

    (void)state;
    assert_int_equal(read_request(&server, server.text, user.text, asks, "{\"user\":\"u\",\"pass\":\"p\"}", &r), 0);
    assert_string_equal(r.token, "p");
    callout_request_done(&r);
    assert_int_equal(read_request(&server, server.text, user.text, asks, "{\"auth_token\":7}", &r), 0);
    assert_string_equal(r.token, "");
    assert_string_equal(r.client_name, "");
    callout_request_done(&r);
}

static void test_only_a_server_that_signs_for_itself_is_heard(void **state)
{
    struct callout_request r;
    struct nkey other;

    (void)state;
    assert_int_equal(nkey_generate(NKEY_SERVER, &other), 0);
    assert_int_equal(read_request(&other, server.text, user.text, asks, "{}", &r), MUSTER_EINVAL);
    assert_int_equal(read_request(&account, account.text, user.text, asks, "{}", &r), MUSTER_EINVAL);
    assert_int_equal(read_request(&server, server.text, account.text, asks, "{}", &r), MUSTER_EINVAL);
    assert_int_equal(read_request(&server, server.text, "U", asks, "{}", &r), MUSTER_EINVAL);
    assert_int_equal(read_request(&server, server.text, user.text, "user", "{}", &r), MUSTER_EINVAL);
}

static void test_a_request_that_was_changed_is_refused(void **state)
{
    struct buf nats = {0}, text = {0};
    struct callout_request r;

    (void)state;
    buf_printf(&nats, "{\"server_id\":{\"id\":\"%s\"},\"user_nkey\":\"%s\",\"type\":\"authorization_request\"}", server.text, user.text);
    assert_int_equal(jwt_seal(&server, &(struct jwt_head){.subject = account.text}, &nats, &text), 0);
    for (size_t i = 0; i < text.len; i++) {
        char was = text.data[i];

        text.data[i] = was == 'A' ? 'B' : 'A';
        if (i != text.len - 1) /* of the last character four bits are padding */
            assert_int_equal(callout_read(text.data, text.len, &r), MUSTER_EINVAL);
        text.data[i] = was;
        assert_int_equal(callout_read(text.data, i, &r), MUSTER_EINVAL);
    }
    assert_int_equal(callout_read(text.data, text.len, &r), 0);
    callout_request_done(&r);
    buf_done(&nats);
    buf_done(&text);
}

/* The claims as JSON, after their signature was checked. */
static cJSON *open_claims(const char *jwt, size_t len, struct jwt_claims *claims)
{
    struct buf json = {0};
    cJSON *map;

    assert_int_equal(jwt_open(jwt, len, claims, &json), 0);
    map = cJSON_Parse(json.data);
    assert_non_null(map);
    buf_done(&json);
    return map;
}

static const char *text_at(const cJSON *map, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(map, name));

    return text ? text : "";
}

static void check_user(const char *jwt, const struct callout_issuer *issuer)
{
    struct jwt_claims claims;
    cJSON *map = open_claims(jwt, strlen(jwt), &claims);
    const cJSON *nats = cJSON_GetObjectItem(map, "nats"), *pub = cJSON_GetObjectItem(cJSON_GetObjectItem(nats, "pub"), "allow");

    assert_string_equal(claims.type, "user");
    assert_string_equal(claims.name, "acme.a1");
    assert_string_equal(claims.subject, user.text);
    assert_string_equal(claims.issuer, signer.text);
    assert_string_equal(claims.tenant, "acme");
    assert_string_equal(claims.role, "observer");
    assert_int_equal(claims.expires, 2000000000);
    assert_string_equal(claims.account, issuer->asked ? account.text : "");
    assert_string_equal(text_at(map, "aud"), issuer->asked ? "" : "MST");
    assert_int_equal(cJSON_GetArraySize(pub), 1);
    assert_string_equal(cJSON_GetArrayItem(pub, 0)->valuestring, "mst.acme.rpc.a1.>");
    assert_int_equal((int)cJSON_GetNumberValue(cJSON_GetObjectItem(nats, "subs")), 77);
    assert_null(cJSON_GetObjectItem(nats, "resp"));
    cJSON_Delete(map);
}

static void check_admission(const struct callout_issuer *issuer, const char *asked_account)
{
    const struct callout_user who = {.root = "mst", .tenant = "acme", .agent = "a1", .role = ROLE_OBSERVER, .subscriptions = 77,
                                     .expires = 2000000000};
    struct callout_request r;
    struct jwt_claims claims;
    struct buf out = {0};
    cJSON *map;

    assert_int_equal(read_request(&server, server.text, user.text, asks, "{}", &r), 0);
    assert_int_equal(callout_put_admission(&out, issuer, &r, &who), 0);
    map = open_claims(out.data, out.len, &claims);
    assert_string_equal(claims.type, "authorization_response");
    assert_string_equal(claims.subject, user.text);
    assert_string_equal(claims.issuer, signer.text);
    assert_string_equal(claims.account, asked_account);
    assert_string_equal(text_at(map, "aud"), server.text);
    check_user(text_at(cJSON_GetObjectItem(map, "nats"), "jwt"), issuer);
    cJSON_Delete(map);
    buf_done(&out);
    callout_request_done(&r);
}

static void test_an_admission_is_for_this_login_alone(void **state)
{
    const struct callout_issuer operator_mode = {&signer, account.text, asked.text}, static_server = {&signer, "MST", NULL};

    (void)state;
    check_admission(&operator_mode, asked.text);
    check_admission(&static_server, "");
}

static void test_a_refusal_makes_no_user(void **state)
{
    const struct callout_issuer issuer = {&signer, account.text, asked.text};
    struct callout_request r;
    struct jwt_claims claims;
    struct buf out = {0};
    cJSON *map;

    (void)state;
    assert_int_equal(read_request(&server, server.text, user.text, asks, "{}", &r), 0);
    assert_int_equal(callout_put_refusal(&out, &issuer, &r, "a \"word\""), 0);
    map = open_claims(out.data, out.len, &claims);
    assert_string_equal(text_at(cJSON_GetObjectItem(map, "nats"), "error"), "a \"word\"");
    assert_null(cJSON_GetObjectItem(cJSON_GetObjectItem(map, "nats"), "jwt"));
    assert_string_equal(text_at(map, "aud"), server.text);
    cJSON_Delete(map);
    buf_done(&out);
    callout_request_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_what_the_client_brought),
        cmocka_unit_test(test_a_password_stands_in_for_a_token),
        cmocka_unit_test(test_only_a_server_that_signs_for_itself_is_heard),
        cmocka_unit_test(test_a_request_that_was_changed_is_refused),
        cmocka_unit_test(test_an_admission_is_for_this_login_alone),
        cmocka_unit_test(test_a_refusal_makes_no_user),
    };

    return cmocka_run_group_tests(tests, make_keys, NULL);
}
