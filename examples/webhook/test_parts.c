/* Tests of what needs no host: signatures, addresses, subjects. */
#include "address.h"
#include "pattern.h"
#include "sign.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static int failed;

#define CHECK(condition, ...)                                                                                                         \
    do {                                                                                                                              \
        if (!(condition)) {                                                                                                           \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                                           \
            fprintf(stderr, __VA_ARGS__);                                                                                             \
            fputc('\n', stderr);                                                                                                      \
            failed = 1;                                                                                                               \
        }                                                                                                                             \
    } while (0)

/* The example with which libraries of Standard Webhooks are tested: their secret, id, time and body. */
static void test_signature(void)
{
    static const char secret[] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", body[] = "{\"test\": 2432232314}";
    static const char expected[] = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    struct sign_key keys[2] = {{.len = 0}};
    char signature[SIGN_TEXT_SIZE];

    CHECK(!sign_read_key(secret, strlen(secret), &keys[0]), "the secret was not read");
    CHECK(sign_make(keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, strlen(body), signature), "not signed");
    CHECK(strcmp(signature, expected) == 0, "%s, expected %s", signature, expected);
    keys[1] = keys[0];
    CHECK(sign_make(keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, strlen(body), signature), "not signed");
    CHECK(strlen(signature) == 2 * strlen(expected) + 1 && strncmp(signature + strlen(expected) + 1, expected, strlen(expected)) == 0, "%s",
          signature);
}

static void test_secrets(void)
{
    static const char *const wrong[] = {"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
                                        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa==", "whsec_MfKQ9r8G\nYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!!!9r8GKYqrTwjUPD8ILPZIo2LaLaSw"};
    struct sign_key key;
    char one[SIGN_ID_SIZE], other[SIGN_ID_SIZE];

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(sign_read_key(wrong[i], strlen(wrong[i]), &key), "\"%s\" was accepted", wrong[i]);
    CHECK(!sign_read_key(" whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", 40, &key) && key.len == 24, "blanks around it");
    CHECK(sign_new_id(one) && sign_new_id(other) && strcmp(one, other) != 0 && strlen(one) == 36, "ids %s %s", one, other);
}

static bool is_public(const char *text)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};

    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
        return address_is_public((const struct sockaddr *)&v4);
    CHECK(inet_pton(AF_INET6, text, &v6.sin6_addr) == 1, "%s is no address", text);
    return address_is_public((const struct sockaddr *)&v6);
}

static void test_addresses(void)
{
    static const char *const outside[] = {"8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "169.253.0.1", "198.17.0.1",
                                          "198.20.0.1", "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888", "2a00::1"};
    static const char *const inside[] = {"0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.255", "169.254.169.254", "172.16.0.1",
                                         "172.31.255.255", "192.0.0.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "203.0.113.9", "224.0.0.1",
                                         "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "fe80::1",
                                         "fd00:ec2::254", "fc00::1", "ff02::1", "2001:db8::1", "2002:7f00:1::", "2001::1", "3fff::1", "100::1"};
    const struct sockaddr local = {.sa_family = AF_UNIX};

    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        CHECK(is_public(outside[i]), "%s is public", outside[i]);
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++)
        CHECK(!is_public(inside[i]), "%s is not public", inside[i]);
    CHECK(!address_is_public(&local), "a socket file");
}

static void test_patterns(void)
{
    static const struct {
        const char *a, *b;
        bool covers, overlaps;
    } pairs[] = {
        {"evt.>", "evt.a.b.c", true, true},     {"evt.*.b", "evt.a.b", true, true},       {"evt.*.b", "evt.a.c", false, false},
        {"evt.>", "evt", false, false},         {">", "evt.a", true, true},               {"evt.a", "evt.a", true, true},
        {"evt.a", "evt.a.b", false, false},     {"evt.a.>", "evt.>", false, true},        {"evt.*.x.>", "evt.a.*.b", false, true},
        {"evt.*.x", "evt.a.*", false, true},    {"evt.a.*", "evt.b.*", false, false},     {"evt.*.*", "evt.a.>", false, true},
        {"evt.>", "evt.*.>", true, true},       {"evt.*", "evt.>", false, true},          {"evt.a.b", "evt.a", false, false},
    };

    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        CHECK(pattern_covers(pairs[i].a, pairs[i].b) == pairs[i].covers, "covers %s %s", pairs[i].a, pairs[i].b);
        CHECK(pattern_overlaps(pairs[i].a, pairs[i].b) == pairs[i].overlaps, "overlaps %s %s", pairs[i].a, pairs[i].b);
        CHECK(pattern_overlaps(pairs[i].b, pairs[i].a) == pairs[i].overlaps, "overlaps %s %s", pairs[i].b, pairs[i].a);
    }
}

int main(void)
{
    test_signature();
    test_secrets();
    test_addresses();
    test_patterns();
    return failed;
}
