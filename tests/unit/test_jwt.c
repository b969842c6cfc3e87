/*
 * JWTs: one made with another implementation is read; what is written here is read back as plain
 * JSON, by a decoder of this file; what was tampered with is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <cjson/cJSON.h>
#include <muster/plugin.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "auth/jwt.h"

#define ACCOUNT "ADLVVGABQKYQVN6VJP7NHSLEA45A5YLS6PNKMIZFV4BBU2HXA5IRVRTU"
#define USER "UDLVVGABQKYQVN6VJP7NHSLEA45A5YLS6PNKMIZFV4BBU2HXA5IRUVAL"

/* {"iat":1700000000,"exp":1900000000,"name":"scout-7","sub":USER,"iss":ACCOUNT,"nats":{…,"tags":["x:y","tenant:Acme",
 * "role:observer","tenant:other"]}}, signed by ACCOUNT's seed. */
static const char foreign[] =
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.eyJqdGkiOiJYIiwiaWF0IjoxNzAwMDAwMDAwLCJleHA"
    "iOjE5MDAwMDAwMDAsImlzcyI6IkFETFZWR0FCUUtZUVZONlZKUDdOSFNMRUE0NUE1WUxTNlBOS01JWkZWNEJCVTJIW"
    "EE1SVJWUlRVIiwibmFtZSI6InNjb3V0LTciLCJzdWIiOiJVRExWVkdBQlFLWVFWTjZWSlA3TkhTTEVBNDVBNVlMUzZ"
    "QTktNSVpGVjRCQlUySFhBNUlSVVZBTCIsIm5hdHMiOnsidHlwZSI6InVzZXIiLCJ2ZXJzaW9uIjoyLCJpc3N1ZXJfY"
    "WNjb3VudCI6IkFETFZWR0FCUUtZUVZONlZKUDdOSFNMRUE0NUE1WUxTNlBOS01JWkZWNEJCVTJIWEE1SVJWUlRVIiw"
    "idGFncyI6WyJ4OnkiLCJ0ZW5hbnQ6QWNtZSIsInJvbGU6b2JzZXJ2ZXIiLCJ0ZW5hbnQ6b3RoZXIiXX19.F_uJscUk"
    "MDFg4hvD7iuMDmN6cTL3uME3ujbJ6YcEA_r0-JSWJZ8HiId_9N239ljz0sFhICX0oEqghUArSheGDg";

/* The claims of a JWT as JSON, decoded by OpenSSL. */
static cJSON *claims_of(const char *jwt)
{
    const char *at = strchr(jwt, '.') + 1;
    size_t len = strcspn(at, ".");
    char *text = calloc(1, len + 4);
    unsigned char *out = calloc(1, len + 4);
    cJSON *json;

    memcpy(text, at, len);
    for (size_t i = 0; i < len; i++)
        text[i] = text[i] == '-' ? '+' : text[i] == '_' ? '/' : text[i];
    while (len % 4)
        text[len++] = '=';
    assert_true(EVP_DecodeBlock(out, (unsigned char *)text, (int)len) > 0);
    json = cJSON_Parse((char *)out);
    assert_non_null(json);
    free(text);
    free(out);
    return json;
}

static const char *string_at(const cJSON *map, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(map, name);

    assert_true(cJSON_IsString(item));
    return item->valuestring;
}

static void test_foreign(void **state)
{
    struct jwt_claims c;

    (void)state;
    assert_int_equal(jwt_decode(foreign, strlen(foreign), &c), 0);
    assert_string_equal(c.type, "user");
    assert_string_equal(c.name, "scout-7");
    assert_string_equal(c.subject, USER);
    assert_string_equal(c.issuer, ACCOUNT);
    assert_string_equal(c.account, ACCOUNT);
    assert_string_equal(c.tenant, "Acme");
    assert_string_equal(c.role, "observer");
    assert_int_equal(c.issued, 1700000000);
    assert_int_equal(c.expires, 1900000000);
}

static void test_tampered(void **state)
{
    char text[sizeof foreign];
    struct jwt_claims c;

    (void)state;
    for (size_t i = 0; i < sizeof foreign - 2; i++) { /* the last character has spare bits */
        memcpy(text, foreign, sizeof text);
        text[i] = text[i] == 'A' ? 'B' : 'A';
        assert_int_equal(jwt_decode(text, sizeof text - 1, &c), MUSTER_EINVAL);
    }
    for (size_t len = 0; len < sizeof foreign - 1; len++)
        assert_int_equal(jwt_decode(foreign, len, &c), MUSTER_EINVAL);
}

static void test_user(void **state)
{
    struct nkey signer, key;
    struct buf jwt = {0};
    struct jwt_claims c;

    (void)state;
    assert_int_equal(nkey_generate(NKEY_ACCOUNT, &signer), 0);
    assert_int_equal(nkey_generate(NKEY_USER, &key), 0);
    const struct jwt_user user = {.name = "bob",
                                  .key = key.text,
                                  .account = ACCOUNT,
                                  .tenant = "Acme",
                                  .role = ROLE_OPERATOR,
                                  .expires = 2000000000};
    assert_int_equal(jwt_user(&signer, &user, &jwt), 0);
    assert_int_equal(jwt_decode(jwt.data, jwt.len, &c), 0);
    assert_string_equal(c.name, "bob");
    assert_string_equal(c.issuer, signer.text);
    assert_string_equal(c.subject, key.text);
    assert_string_equal(c.account, ACCOUNT);
    assert_string_equal(c.tenant, "Acme");
    assert_string_equal(c.role, "operator");
    assert_int_equal(c.expires, 2000000000);
    assert_true(llabs(c.issued - (long long)time(NULL)) < 60);

    cJSON *json = claims_of(jwt.data);
    const cJSON *nats = cJSON_GetObjectItem(json, "nats");
    assert_int_equal(strlen(string_at(json, "jti")), 52);
    assert_string_equal(cJSON_GetArrayItem(cJSON_GetObjectItem(nats, "tags"), 2)->valuestring,
                        "as:_op_bob");
    /* A scoped user with limits of its own is refused by the server. */
    assert_false(cJSON_HasObjectItem(nats, "subs"));
    assert_false(cJSON_HasObjectItem(nats, "pub"));
    cJSON_Delete(json);
    buf_done(&jwt);
}

static void check_signing_key(const cJSON *key, const struct nkey *role_key, int role)
{
    const cJSON *template = cJSON_GetObjectItem(key, "template");
    const cJSON *allow = cJSON_GetObjectItem(cJSON_GetObjectItem(template, "pub"), "allow");

    assert_string_equal(string_at(key, "kind"), "user_scope");
    assert_string_equal(string_at(key, "key"), role_key->text);
    assert_string_equal(string_at(key, "role"), role_name(role));
    assert_int_equal(cJSON_GetObjectItem(template, "subs")->valueint, 500);
    assert_true(cJSON_GetArraySize(allow) > 0);
    assert_true(
        cJSON_GetArraySize(cJSON_GetObjectItem(cJSON_GetObjectItem(template, "sub"), "allow")) > 0);
    if (role == ROLE_AGENT)
        assert_string_equal(cJSON_GetArrayItem(allow, 2)->valuestring,
                            "mst.{{tag(tenant)}}.to.*.{{name()}}.>");
    if (role == ROLE_OPERATOR)
        assert_string_equal(cJSON_GetArrayItem(allow, 4)->valuestring, "mst.*.rpc.{{tag(as)}}.>");
    assert_false(cJSON_HasObjectItem(template, "resp")); /* allow_responses */
    assert_false(cJSON_HasObjectItem(cJSON_GetObjectItem(template, "pub"), "deny"));
}

static void test_account(void **state)
{
    static const struct jwt_revocation revoked[] = {{USER, 1800000000, 0}};
    struct nkey op, roles[ROLES_N];
    struct buf jwt = {0};
    struct jwt_claims c;

    (void)state;
    assert_int_equal(nkey_generate(NKEY_OPERATOR, &op), 0);
    for (int i = 0; i < ROLES_N; i++)
        assert_int_equal(nkey_generate(NKEY_ACCOUNT, &roles[i]), 0);
    const struct jwt_account account = {.name = "MST",
                                        .key = ACCOUNT,
                                        .root = "mst",
                                        .subscriptions = 500,
                                        .role_keys = roles,
                                        .revoked = revoked,
                                        .n_revoked = 1};
    assert_int_equal(jwt_account(&op, &account, &jwt), 0);
    assert_int_equal(jwt_decode(jwt.data, jwt.len, &c), 0);
    assert_string_equal(c.type, "account");
    assert_string_equal(c.issuer, op.text);

    cJSON *json = claims_of(jwt.data);
    const cJSON *nats = cJSON_GetObjectItem(json, "nats"),
                *keys = cJSON_GetObjectItem(nats, "signing_keys");
    assert_int_equal(cJSON_GetArraySize(keys), ROLES_N);
    for (int i = 0; i < ROLES_N; i++)
        check_signing_key(cJSON_GetArrayItem(keys, i), &roles[i], i);
    assert_int_equal(
        cJSON_GetObjectItem(cJSON_GetObjectItem(nats, "limits"), "disk_storage")->valueint, -1);
    assert_int_equal(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItem(nats, "revocations"), USER)->valueint,
        1800000000);
    cJSON_Delete(json);
    buf_done(&jwt);
}

static void test_system_account_and_operator(void **state)
{
    struct nkey op;
    struct buf jwt = {0};
    cJSON *json;

    (void)state;
    assert_int_equal(nkey_generate(NKEY_OPERATOR, &op), 0);
    assert_int_equal(jwt_account(&op, &(struct jwt_account){.name = "SYS", .key = ACCOUNT}, &jwt),
                     0);
    json = claims_of(jwt.data);
    const cJSON *nats = cJSON_GetObjectItem(json, "nats");
    assert_false(cJSON_HasObjectItem(nats, "signing_keys"));
    assert_false(cJSON_HasObjectItem(cJSON_GetObjectItem(nats, "limits"),
                                     "disk_storage")); /* no JetStream there */
    cJSON_Delete(json);

    buf_clear(&jwt);
    assert_int_equal(jwt_operator(&op, "muster", ACCOUNT, &jwt), 0);
    json = claims_of(jwt.data);
    assert_string_equal(string_at(json, "sub"), op.text);
    assert_string_equal(string_at(json, "iss"), op.text);
    assert_string_equal(string_at(cJSON_GetObjectItem(json, "nats"), "system_account"), ACCOUNT);
    /* Not the time of day: a server refuses to reload when the operator's text changes. */
    assert_int_equal(cJSON_GetObjectItem(json, "iat")->valueint, 1735689600);
    cJSON_Delete(json);
    buf_done(&jwt);
}

static void test_creds(void **state)
{
    struct nkey key, read = {0};
    struct buf creds = {0};
    const char *jwt;
    size_t len;

    (void)state;
    assert_int_equal(nkey_generate(NKEY_USER, &key), 0);
    jwt_put_creds(&creds, foreign, &key);
    assert_int_equal(jwt_read_creds(creds.data, &jwt, &len, &read), 0);
    assert_int_equal(len, strlen(foreign));
    assert_memory_equal(jwt, foreign, len);
    assert_string_equal(read.text, key.text);
    assert_int_equal(jwt_read_creds("-----BEGIN NATS USER JWT-----\nx\n", &jwt, &len, &read),
                     MUSTER_EINVAL);
    assert_int_equal(jwt_read_creds("", &jwt, &len, &read), MUSTER_EINVAL);
    jwt_wipe(&creds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_foreign), cmocka_unit_test(test_tampered),
        cmocka_unit_test(test_user),    cmocka_unit_test(test_account),
        cmocka_unit_test(test_creds),   cmocka_unit_test(test_system_account_and_operator),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
