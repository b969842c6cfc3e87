/*
 * NATS JWTs; see jwt.h.
 *
 * Written straight into buffers: names are checked by callers ([A-Za-z0-9_-]) and keys are base32,
 * so only display names need escaping. Reading takes text that may be forged: bounded in size,
 * parsed with cJSON, and no caller sees a claim before the signature was checked.
 */
#include "auth/jwt.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <muster/plugin.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base32.h"
#include "base/clock.h"

enum { JWT_MAX = 4 << 20, JTI_SIZE = 53 };

/* Behind "subs" of an account, which holds for each connection of its own: servers let whom a callout has let in hold
 * as many as it says, whatever the user's JWT says. */
#define UNLIMITED                                                                                  \
    "\"data\":-1,\"payload\":-1,\"imports\":-1,\"exports\":-1,\"conn\":-1,\"leaf\":-1,\"wildcards\":true"

static void put_string(struct buf *b, const char *s)
{
    buf_put_json(b, s, strlen(s));
}

/* ---- writing ---- */

/* A server refuses to reload its configuration when the operator's JWT is another text than before,
 * also when it says the same. With a fixed time of issue (and Ed25519 signatures being what they
 * are) the same keys always give the same text. */
enum { OPERATOR_ISSUED = 1735689600 };

/* The claims without their opening brace; jti goes before them and is made from them. */
static void put_claims(struct buf *b, const struct jwt_head *head, const char *issuer,
                       const struct buf *nats)
{
    int64_t issued = head->issued ? head->issued : clock_wall_ns() / CLOCK_S;

    buf_printf(b, "\"iat\":%" PRId64 ",\"iss\":\"%s\",\"sub\":\"%s\"", issued, issuer, head->subject);
    if (head->name) {
        buf_put_lit(b, ",\"name\":");
        put_string(b, head->name);
    }
    if (head->audience) {
        buf_put_lit(b, ",\"aud\":");
        put_string(b, head->audience);
    }
    if (head->expires)
        buf_printf(b, ",\"exp\":%" PRId64, head->expires);
    buf_put_lit(b, ",\"nats\":");
    buf_put(b, nats->data, nats->len);
    buf_putc(b, '}');
}

/* The server does not check it; tools that tell two JWTs of one subject apart do. */
static bool make_jti(const struct buf *claims, char out[JTI_SIZE])
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    if (EVP_Digest(claims->data, claims->len, digest, &len, EVP_sha512_256(), NULL) != 1)
        return false;
    return base32_encode(digest, len, out, JTI_SIZE, BASE32_UPPER) > 0;
}

int jwt_seal(const struct nkey *signer, const struct jwt_head *head, const struct buf *nats,
             struct buf *out)
{
    static const char header[] = "{\"typ\":\"JWT\",\"alg\":\"ed25519-nkey\"}";
    struct buf claims = {0}, whole = {0};
    char jti[JTI_SIZE];
    uint8_t sig[NKEY_SIG_LEN];
    size_t start = out->len;
    int err = 0;

    put_claims(&claims, head, signer->text, nats);
    if (buf_failed(nats) || buf_failed(&claims) || !make_jti(&claims, jti))
        err = MUSTER_ENOMEM;
    if (!err) {
        buf_printf(&whole, "{\"jti\":\"%s\",%s", jti, claims.data);
        buf_put_base64url(out, header, sizeof header - 1);
        buf_putc(out, '.');
        buf_put_base64url(out, whole.data, whole.len);
        err = buf_failed(&whole) || buf_failed(out) ? MUSTER_ENOMEM : 0;
    }
    if (!err)
        err = nkey_sign(signer, out->data + start, out->len - start, sig);
    if (!err) {
        buf_putc(out, '.');
        buf_put_base64url(out, sig, sizeof sig);
        err = buf_failed(out) ? MUSTER_ENOMEM : 0;
    }
    buf_done(&claims);
    buf_done(&whole);
    return err;
}

int jwt_operator(const struct nkey *op, const char *name, const char *system_account,
                 struct buf *out)
{
    struct buf nats = {0};
    int err;

    buf_printf(&nats, "{\"type\":\"operator\",\"version\":2,\"system_account\":\"%s\"}",
               system_account);
    err = jwt_seal(op, &(struct jwt_head){.name = name, .subject = op->text, .issued = OPERATOR_ISSUED},
               &nats, out);
    buf_done(&nats);
    return err;
}

/* Tags are filled in by the server from the user's JWT; one template so serves every tenant and
 * agent. */
static void put_signing_keys(struct buf *b, const struct jwt_account *account)
{
    static const char *const kinds[] = {[ROLE_PUB] = "pub", [ROLE_SUB] = "sub"};
    const struct role_names names = {account->root, "{{tag(tenant)}}", "{{name()}}", "{{tag(as)}}"};

    buf_put_lit(b, ",\"signing_keys\":[");
    for (int role = 0; role < ROLES_N; role++) {
        buf_printf(b, "%s{\"kind\":\"user_scope\",\"key\":\"%s\",\"role\":\"%s\",\"template\":{",
                   role ? "," : "", account->role_keys[role].text, role_name(role));
        for (int list = ROLE_PUB; list <= ROLE_SUB; list++) {
            buf_printf(b, "\"%s\":", kinds[list]);
            role_put_allow(b, role, list, &names);
            buf_putc(b, ',');
        }
        buf_printf(b, "\"subs\":%" PRId64 ",\"data\":-1,\"payload\":-1}}", account->subscriptions);
    }
    if (account->callout_key)
        buf_printf(b, ",\"%s\"", account->callout_key);
    buf_putc(b, ']');
}

/* Keyed by the user's public key: JWTs of it issued up to that second are refused. */
static void put_revocations(struct buf *b, const struct jwt_account *account)
{
    buf_put_lit(b, ",\"revocations\":{");
    for (size_t i = 0; i < account->n_revoked; i++)
        buf_printf(b, "%s\"%s\":%" PRId64, i ? "," : "", account->revoked[i].key,
                   account->revoked[i].at);
    buf_putc(b, '}');
}

int jwt_account(const struct nkey *op, const struct jwt_account *account, struct buf *out)
{
    struct buf nats = {0};
    int err;

    buf_printf(&nats, "{\"type\":\"account\",\"version\":2,\"limits\":{\"subs\":%" PRId64 "," UNLIMITED,
               account->callout_key ? account->subscriptions : -1);
    if (account->root) /* these four switch JetStream on */
        buf_put_lit(&nats,
                    ",\"mem_storage\":-1,\"disk_storage\":-1,\"streams\":-1,\"consumer\":-1");
    buf_putc(&nats, '}');
    if (account->root)
        put_signing_keys(&nats, account);
    if (account->n_revoked)
        put_revocations(&nats, account);
    buf_putc(&nats, '}');
    err = jwt_seal(op, &(struct jwt_head){.name = account->name, .subject = account->key}, &nats, out);
    buf_done(&nats);
    return err;
}

int jwt_callout_account(const struct nkey *op, const struct jwt_callout_account *account,
                        struct buf *out)
{
    struct buf nats = {0};
    int err;

    buf_printf(&nats,
               "{\"type\":\"account\",\"version\":2,\"limits\":{\"subs\":-1," UNLIMITED
               "},\"signing_keys\":[\"%s\"],"
               "\"authorization\":{\"auth_users\":[\"%s\"],\"allowed_accounts\":[\"%s\"]}}",
               account->callout_key, account->user, account->target);
    err = jwt_seal(op, &(struct jwt_head){.name = account->name, .subject = account->key}, &nats, out);
    buf_done(&nats);
    return err;
}

int jwt_sentinel(const struct nkey *account, const char *key, struct buf *out)
{
    struct buf nats = {0};
    int err;

    buf_put_lit(&nats, "{\"type\":\"user\",\"version\":2,\"subs\":-1,\"data\":-1,\"payload\":-1,"
                       "\"pub\":{\"deny\":[\">\"]},\"sub\":{\"deny\":[\">\"]}}");
    err = jwt_seal(account, &(struct jwt_head){.name = "sentinel", .subject = key}, &nats, out);
    buf_done(&nats);
    return err;
}

static void put_tags(struct buf *b, const struct jwt_user *user)
{
    buf_printf(b, ",\"tags\":[\"tenant:%s\",\"role:%s\"", user->tenant, role_name(user->role));
    if (user->role == ROLE_OPERATOR)
        buf_printf(b, ",\"as:" ROLE_ALIAS_PREFIX "%s\"", user->name);
    buf_putc(b, ']');
}

/* The tags are what the templates are filled from; the server keeps the case of their values. */
static void put_scoped_user(struct buf *b, const struct jwt_user *user)
{
    buf_printf(b, ",\"issuer_account\":\"%s\"", user->account);
    put_tags(b, user);
}

/* Without a scope the server takes permissions and limits from the user's own JWT. */
static void put_narrowed_user(struct buf *b, const struct jwt_user *user)
{
    char alias[sizeof ROLE_ALIAS_PREFIX + JWT_NAME_SIZE];
    const struct role_names names = {user->root, user->tenant, user->name, alias};

    (void)snprintf(alias, sizeof alias, ROLE_ALIAS_PREFIX "%s", user->name); /* names are bounded */
    put_tags(b, user);
    buf_put_lit(b, ",\"pub\":");
    role_put_narrowed(b, user->role, ROLE_PUB, &names, user->narrowing);
    buf_put_lit(b, ",\"sub\":");
    role_put_narrowed(b, user->role, ROLE_SUB, &names, user->narrowing);
    buf_printf(b, ",\"subs\":%" PRId64 ",\"data\":-1,\"payload\":-1", user->subscriptions);
}

int jwt_user(const struct nkey *signer, const struct jwt_user *user, struct buf *out)
{
    struct buf nats = {0};
    int err;

    buf_put_lit(&nats, "{\"type\":\"user\",\"version\":2");
    if (user->narrowing)
        put_narrowed_user(&nats, user);
    else if (user->account) /* the server refuses a scoped user with limits or permissions of its own */
        put_scoped_user(&nats, user);
    else
        buf_put_lit(&nats, ",\"subs\":-1,\"data\":-1,\"payload\":-1,\"pub\":{},\"sub\":{}");
    buf_putc(&nats, '}');
    err = jwt_seal(signer,
               &(struct jwt_head){.name = user->name, .subject = user->key, .expires = user->expires},
               &nats, out);
    buf_done(&nats);
    return err;
}

/* ---- creds files ---- */

#define JWT_BEGIN "-----BEGIN NATS USER JWT-----\n"
#define JWT_END "\n------END NATS USER JWT------\n"
#define SEED_BEGIN "-----BEGIN USER NKEY SEED-----\n"
#define SEED_END "\n------END USER NKEY SEED------\n"

void jwt_put_creds(struct buf *out, const char *jwt, const struct nkey *key)
{
    char seed[NKEY_SEED_SIZE];

    nkey_seed_text(key, seed);
    /* Room first: growing later would leave a copy of the seed behind. */
    (void)buf_reserve(out, strlen(jwt) + 512); /* a failure shows in buf_failed() */
    buf_put_lit(out, JWT_BEGIN);
    buf_puts(out, jwt);
    buf_put_lit(out, JWT_END
                "\nWhoever has the seed below is this user. Keep it as a password.\n\n" SEED_BEGIN);
    buf_puts(out, seed);
    buf_put_lit(out, SEED_END);
    OPENSSL_cleanse(seed, sizeof seed);
}

/* The text between two marks. */
static const char *between(const char *text, const char *begin, const char *end, size_t *ret_len)
{
    const char *at = strstr(text, begin);
    const char *stop = at ? strstr(at += strlen(begin), end) : NULL;

    if (!stop)
        return NULL;
    *ret_len = (size_t)(stop - at);
    return at;
}

int jwt_read_creds(const char *creds, const char **ret_jwt, size_t *ret_len, struct nkey *ret_key)
{
    size_t jwt_len, seed_len;
    const char *jwt = between(creds, JWT_BEGIN, JWT_END, &jwt_len);
    const char *seed = between(creds, SEED_BEGIN, SEED_END, &seed_len);

    if (!jwt || !seed || nkey_from_seed(seed, seed_len, ret_key))
        return MUSTER_EINVAL;
    *ret_jwt = jwt;
    *ret_len = jwt_len;
    return 0;
}

void jwt_wipe(struct buf *b)
{
    if (b->data)
        OPENSSL_cleanse(b->data, b->cap);
    buf_done(b);
}

/* ---- reading ---- */

/* Copy a string member that fits; false when it is there and is no such string. */
static bool copy_member(const cJSON *map, const char *name, char *out, size_t size)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(map, name);
    size_t len;

    if (!item)
        return true;
    if (!cJSON_IsString(item))
        return false;
    len = strlen(item->valuestring);
    if (len >= size)
        return false;
    memcpy(out, item->valuestring, len + 1);
    return true;
}

/* A double holds every second that matters exactly; what is no such number counts as not given. */
static int64_t time_member(const cJSON *map, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(map, name);

    return cJSON_IsNumber(item) && item->valuedouble > 0 && item->valuedouble < 1e15
               ? (int64_t)item->valuedouble
               : 0;
}

/* Creds made here have one tag of each; of several the first is told. */
static bool copy_tag(const cJSON *nats, const char *prefix, char out[JWT_NAME_SIZE])
{
    const cJSON *tag;
    size_t skip = strlen(prefix);

    cJSON_ArrayForEach(tag, cJSON_GetObjectItemCaseSensitive(nats, "tags"))
    {
        if (!cJSON_IsString(tag) || strncmp(tag->valuestring, prefix, skip) != 0)
            continue;
        size_t len = strlen(tag->valuestring + skip);
        if (len >= JWT_NAME_SIZE)
            return false;
        memcpy(out, tag->valuestring + skip, len + 1);
        return true;
    }
    return true;
}

static bool read_claims(const cJSON *map, struct jwt_claims *c)
{
    const cJSON *nats = cJSON_GetObjectItemCaseSensitive(map, "nats");

    c->issued = time_member(map, "iat");
    c->expires = time_member(map, "exp");
    return cJSON_IsObject(nats) && copy_member(map, "name", c->name, sizeof c->name) &&
           copy_member(map, "sub", c->subject, sizeof c->subject) &&
           copy_member(map, "iss", c->issuer, sizeof c->issuer) &&
           copy_member(nats, "type", c->type, sizeof c->type) &&
           copy_member(nats, "issuer_account", c->account, sizeof c->account) &&
           copy_tag(nats, "tenant:", c->tenant) && copy_tag(nats, "role:", c->role) &&
           c->subject[0] && c->issuer[0];
}

static bool parse_claims(const char *text, size_t len, struct jwt_claims *c, struct buf *json)
{
    bool ok = buf_put_decoded(json, text, len) && json->len > 0;
    cJSON *map = ok ? cJSON_ParseWithLength(json->data, json->len) : NULL;

    ok = map && read_claims(map, c);
    cJSON_Delete(map);
    return ok;
}

/* The signature covers header, claims and the dot between them. */
static bool signature_holds(const char *text, const char *dot, size_t sig_len, const char *issuer)
{
    struct buf sig = {0};
    bool ok = buf_put_decoded(&sig, dot + 1, sig_len) && sig.len == NKEY_SIG_LEN &&
              nkey_verify(issuer, text, (size_t)(dot - text), (const uint8_t *)sig.data);

    buf_done(&sig);
    return ok;
}

int jwt_decode(const char *text, size_t len, struct jwt_claims *ret_claims)
{
    struct buf json = {0};
    int err = jwt_open(text, len, ret_claims, &json);

    buf_done(&json);
    return err;
}

int jwt_open(const char *text, size_t len, struct jwt_claims *ret_claims, struct buf *json)
{
    struct jwt_claims claims = {0};
    const char *first = len <= JWT_MAX ? memchr(text, '.', len) : NULL;
    const char *body = first ? first + 1 : NULL;
    const char *second = body ? memchr(body, '.', len - (size_t)(body - text)) : NULL;

    if (!second || !parse_claims(body, (size_t)(second - body), &claims, json))
        return MUSTER_EINVAL;
    if (!signature_holds(text, second, len - (size_t)(second + 1 - text), claims.issuer))
        return MUSTER_EINVAL;
    *ret_claims = claims;
    return 0;
}
