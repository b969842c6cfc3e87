/*
 * Any bytes as a token: nothing is taken that was not signed, every refusal has a sentence, and what claims say, with whatever rules, is
 * a name and a role, or a refusal.
 */
#include <string.h>

#include "auth/bearer.h"
#include "auth/roles.h"
#include "auth/token.h"
#include "base/assert.h"

/* The key of RFC 7515 A.3; who finds a signature by it has earned to end this fuzzer. */
static const char set_text[] = "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
                               "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";

static const char *const audiences[] = {"muster"};
static const struct bearer_rules rules = {
    .issuer = "joe",
    .audiences = audiences,
    .n_audiences = 1,
    .tenant_claim = "org.tenant",
    .agent_claim = "sub",
    .role_claim = "realm.roles",
    .role = ROLE_AGENT,
    .roles = 1u << ROLE_AGENT | 1u << ROLE_USER,
    .leeway_s = 30,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_claims(const struct jose *j)
{
    struct bearer_identity who;
    char why[BEARER_WHY_SIZE] = "";

    if (bearer_check(&rules, j, 1000000, &who, why)) {
        ASSERT(why[0]);
        return;
    }
    ASSERT(name_is_public(who.tenant, strlen(who.tenant)) && name_is_public(who.agent, strlen(who.agent)));
    ASSERT(rules.roles & 1u << who.role);
    ASSERT(who.expires_s > 1000000 && who.expires_s < INT64_MAX / 1000000000);
}

static void check_token(const char *text, size_t len)
{
    struct token t, again;
    char out[TOKEN_TEXT_SIZE];

    if (token_read(text, len, &t))
        return;
    token_text(&t, out);
    ASSERT(strlen(out) == len && memcmp(out, text, len) == 0);
    ASSERT(token_read(out, len, &again) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct jwks *set;
    char set_why[JWKS_WHY_SIZE];
    struct jose j;
    const char *why = NULL;

    if (!set)
        ASSERT(jwks_parse(set_text, sizeof set_text - 1, &set, set_why) == 0);
    check_token((const char *)data, size);
    if (jose_read((const char *)data, size, &j, &why)) {
        ASSERT(why);
        return 0;
    }
    ASSERT(j.alg >= 0 && j.alg < JOSE_ALGS_N && j.sig_len > 0 && j.sig_len <= JOSE_SIG_MAX);
    if (jose_verify(&j, set, &why))
        ASSERT(why);
    check_claims(&j);
    jose_done(&j);
    return 0;
}
