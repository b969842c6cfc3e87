/*
 * The two halves of an auth callout; see callout.h.
 *
 * A request is signed by the server's own key, whose public half is the server's id; that the id is the
 * issuer is checked here. Whose server it is the connection says: only servers and brokers can publish in the
 * account that is asked.
 */
#include "auth/callout.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <muster/plugin.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "auth/jwt.h"
#include "auth/roles.h"
#include "base/name.h"

/* ---- requests ---- */

static const char *text_of(const cJSON *map, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(map, name));

    return text ? text : "";
}

/* Copy a string behind the others; its place is known once all are there. */
static size_t keep(struct buf *text, const char *s)
{
    size_t at = text->len;

    buf_put(text, s, strlen(s) + 1);
    return at;
}

static bool copy_key(const char *text, int kind, char out[NKEY_TEXT_SIZE])
{
    uint8_t raw[NKEY_RAW_LEN];
    size_t len = strlen(text);
    int have;

    if (len >= NKEY_TEXT_SIZE || nkey_public_decode(text, len, &have, raw) != 0 || have != kind)
        return false;
    memcpy(out, text, len + 1);
    return true;
}

static bool keep_texts(const cJSON *nats, struct callout_request *r)
{
    const cJSON *connect = cJSON_GetObjectItemCaseSensitive(nats, "connect_opts");
    const cJSON *client = cJSON_GetObjectItemCaseSensitive(nats, "client_info");
    const char *token = text_of(connect, "auth_token");
    const char *const texts[] = {*token ? token : text_of(connect, "pass"), text_of(connect, "user"),
                                 text_of(connect, "name"), text_of(client, "host")};
    size_t at[4], len = 0;

    for (int i = 0; i < 4; i++)
        len += strlen(texts[i]) + 1;
    if (!buf_reserve(&r->text, len)) /* at once: growing would leave copies of the token behind */
        return false;
    for (int i = 0; i < 4; i++)
        at[i] = keep(&r->text, texts[i]);
    r->token = r->text.data + at[0];
    r->user = r->text.data + at[1];
    r->client_name = r->text.data + at[2];
    r->host = r->text.data + at[3];
    return true;
}

static int read_nats(const cJSON *nats, const struct jwt_claims *claims, struct callout_request *r)
{
    const cJSON *server = cJSON_GetObjectItemCaseSensitive(nats, "server_id");

    if (!copy_key(text_of(nats, "user_nkey"), NKEY_USER, r->user_key) ||
        !copy_key(claims->issuer, NKEY_SERVER, r->server) ||
        strcmp(text_of(server, "id"), r->server) != 0)
        return MUSTER_EINVAL;
    return keep_texts(nats, r) ? 0 : MUSTER_ENOMEM;
}

int callout_read(const char *text, size_t len, struct callout_request *ret_request)
{
    struct callout_request r = {.text = {0}};
    struct jwt_claims claims;
    struct buf json = {0};
    cJSON *map = NULL;
    int err = len && len <= CALLOUT_REQUEST_MAX ? jwt_open(text, len, &claims, &json) : MUSTER_EINVAL;

    if (!err && strcmp(claims.type, "authorization_request") != 0)
        err = MUSTER_EINVAL;
    if (!err)
        map = cJSON_ParseWithLength(json.data, json.len); /* NULL, with no memory, is read as empty */
    if (!err)
        err = read_nats(cJSON_GetObjectItemCaseSensitive(map, "nats"), &claims, &r);
    cJSON_Delete(map);
    jwt_wipe(&json);
    if (err) {
        callout_request_done(&r);
        return err;
    }
    r.issued = claims.issued;
    r.expires = claims.expires;
    *ret_request = r;
    return 0;
}

void callout_request_done(struct callout_request *r)
{
    jwt_wipe(&r->text);
    r->token = r->user = r->client_name = r->host = NULL;
}

/* ---- answers ---- */

static void put_permissions(struct buf *b, const struct callout_user *user)
{
    char alias[sizeof ROLE_ALIAS_PREFIX + NAME_MAX_LEN];

    (void)snprintf(alias, sizeof alias, ROLE_ALIAS_PREFIX "%s", user->agent); /* names are bounded */
    const struct role_names names = {user->root, user->tenant, user->agent, alias};
    buf_put_lit(b, ",\"pub\":");
    role_put_narrowed(b, user->role, ROLE_PUB, &names, user->narrowing);
    buf_put_lit(b, ",\"sub\":");
    role_put_narrowed(b, user->role, ROLE_SUB, &names, user->narrowing);
}

static int put_user(struct buf *out, const struct callout_issuer *issuer,
                    const struct callout_request *request, const struct callout_user *user)
{
    struct jwt_head head = {.subject = request->user_key, .expires = user->expires};
    struct buf nats = {0};
    char name[2 * NAME_TOKEN_SIZE];
    int err;

    (void)snprintf(name, sizeof name, "%s.%s", user->tenant, user->agent); /* names are bounded */
    head.name = name;
    buf_put_lit(&nats, "{\"type\":\"user\",\"version\":2");
    if (issuer->asked)
        buf_printf(&nats, ",\"issuer_account\":\"%s\"", issuer->account);
    else
        head.audience = issuer->account;
    buf_printf(&nats, ",\"tags\":[\"tenant:%s\",\"role:%s\"]", user->tenant, role_name(user->role));
    put_permissions(&nats, user);
    buf_printf(&nats, ",\"subs\":%" PRId64 ",\"data\":-1,\"payload\":-1}", user->subscriptions);
    err = jwt_seal(issuer->key, &head, &nats, out);
    buf_done(&nats);
    return err;
}

/* name is that of the one member that says what the answer is. */
static int put_answer(struct buf *out, const struct callout_issuer *issuer,
                      const struct callout_request *request, const char *name, const char *value)
{
    const struct jwt_head head = {.subject = request->user_key, .audience = request->server};
    struct buf nats = {0};
    int err;

    buf_printf(&nats, "{\"type\":\"authorization_response\",\"version\":2,\"%s\":", name);
    buf_put_json(&nats, value, strlen(value));
    if (issuer->asked)
        buf_printf(&nats, ",\"issuer_account\":\"%s\"", issuer->asked);
    buf_putc(&nats, '}');
    err = jwt_seal(issuer->key, &head, &nats, out);
    buf_done(&nats);
    return err;
}

int callout_put_admission(struct buf *out, const struct callout_issuer *issuer,
                          const struct callout_request *request, const struct callout_user *user)
{
    struct buf jwt = {0};
    int err = put_user(&jwt, issuer, request, user);

    if (!err)
        err = put_answer(out, issuer, request, "jwt", jwt.data);
    buf_done(&jwt);
    return err;
}

int callout_put_refusal(struct buf *out, const struct callout_issuer *issuer,
                        const struct callout_request *request, const char *reason)
{
    return put_answer(out, issuer, request, "error", reason);
}
