/* The claims of a token; see bearer.h. */
#include "auth/bearer.h"

#include <muster/plugin.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "auth/roles.h"
#include "wire/value.h"

enum { PATH_STEPS_MAX = 16, SHOWN_MAX = 64 };

static const char *const reasons[BEARER_REASONS_N] = {
    [BEARER_TAKEN] = "taken",
    [BEARER_MALFORMED] = "malformed",
    [BEARER_UNKNOWN_ISSUER] = "unknown_issuer",
    [BEARER_UNKNOWN_KEY] = "unknown_key",
    [BEARER_BAD_SIGNATURE] = "bad_signature",
    [BEARER_EXPIRED] = "expired",
    [BEARER_TOO_EARLY] = "too_early",
    [BEARER_OTHER_AUDIENCE] = "other_audience",
    [BEARER_BAD_CLAIM] = "bad_claim",
};

const char *bearer_reason(int reason)
{
    return reasons[reason];
}

/* Fill why and give the reason back. */
static int refuse(char why[BEARER_WHY_SIZE], int reason, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int refuse(char why[BEARER_WHY_SIZE], int reason, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(why, BEARER_WHY_SIZE, fmt, ap);
    va_end(ap);
    return reason;
}

static const char *text_of(const struct muster_value *v)
{
    return v && value_type(v) == MUSTER_STR ? value_str(v, NULL) : NULL;
}

const char *bearer_issuer(const struct jose *j)
{
    return text_of(value_get(j->claims, "iss"));
}

/* ---- times ---- */

/* A whole number of seconds, or one with a fraction. False when it is there and is none. */
static bool read_time(const struct muster_value *claims, const char *name, bool *ret_there, double *ret_s)
{
    const struct muster_value *v = value_get(claims, name);

    *ret_there = v != NULL;
    if (!v)
        return true;
    if (value_type(v) != MUSTER_INT && value_type(v) != MUSTER_FLOAT)
        return false;
    *ret_s = value_float(v);
    return *ret_s >= 0;
}

/* When a session may last to: what a token says beyond that is as good as never. */
static int64_t end_of(double exp, int64_t leeway_s)
{
    const double last = 4102444800; /* 2100 */

    return (int64_t)(exp < last ? exp : last) + leeway_s;
}

static int check_times(const struct bearer_rules *rules, const struct muster_value *claims, int64_t now_s, int64_t *ret_expires, char *why)
{
    double exp = 0, nbf = 0, iat = 0, leeway = (double)rules->leeway_s, now = (double)now_s;
    bool has_exp, has_nbf, has_iat;

    if (!read_time(claims, "exp", &has_exp, &exp) || !read_time(claims, "nbf", &has_nbf, &nbf) || !read_time(claims, "iat", &has_iat, &iat))
        return refuse(why, BEARER_BAD_CLAIM, "exp, nbf and iat must be seconds since 1970");
    if (!has_exp && !rules->exp_optional)
        return refuse(why, BEARER_BAD_CLAIM, "exp is missing: a token that never ends is not taken");
    if (has_exp && exp + leeway <= now)
        return refuse(why, BEARER_EXPIRED, "the token has expired %.0f s ago", now - exp);
    if (has_nbf && nbf - leeway > now)
        return refuse(why, BEARER_TOO_EARLY, "nbf lies %.0f s ahead", nbf - now);
    if (has_iat && iat - leeway > now)
        return refuse(why, BEARER_TOO_EARLY, "iat lies %.0f s ahead: compare the clocks", iat - now);
    *ret_expires = has_exp ? end_of(exp, rules->leeway_s) : 0;
    return BEARER_TAKEN;
}

/* ---- issuer and audience ---- */

static bool is_one_of(const char *text, const char *const *list, size_t n)
{
    for (size_t i = 0; text && i < n; i++)
        if (strcmp(text, list[i]) == 0)
            return true;
    return false;
}

static bool is_for_us(const struct bearer_rules *rules, const struct muster_value *aud)
{
    if (!aud || value_type(aud) != MUSTER_ARRAY)
        return is_one_of(text_of(aud), rules->audiences, rules->n_audiences);
    for (size_t i = 0; i < value_count(aud); i++)
        if (is_one_of(text_of(value_at(aud, i)), rules->audiences, rules->n_audiences))
            return true;
    return false;
}

/* ---- claims by path ---- */

/* A step down: the longest name that is a member of map and ends at a dot or with the path. */
static const struct muster_value *step(const struct muster_value *map, const char **path)
{
    char name[256];
    size_t len = strlen(*path);

    while (len && len < sizeof name) {
        memcpy(name, *path, len);
        name[len] = '\0';
        const struct muster_value *v = value_get(map, name);
        if (v) {
            *path += len + ((*path)[len] == '.');
            return v;
        }
        const char *dot = memrchr(*path, '.', len);
        len = dot ? (size_t)(dot - *path) : 0;
    }
    return NULL;
}

static const struct muster_value *find(const struct muster_value *claims, const char *path)
{
    const struct muster_value *at = claims;

    for (int i = 0; at && *path && i < PATH_STEPS_MAX; i++)
        at = value_type(at) == MUSTER_MAP ? step(at, &path) : NULL;
    return *path ? NULL : at;
}

/* The one text of a claim: itself, or the one element of a list. */
static const char *one_text(const struct muster_value *v)
{
    if (value_type(v) == MUSTER_ARRAY)
        return value_count(v) == 1 ? text_of(value_at(v, 0)) : NULL;
    return text_of(v);
}

/* Copy the claim, or the default, when it is a name that anybody may have. */
static int take_name(const struct muster_value *claims, const char *path, const char *otherwise, char out[NAME_MAX_LEN + 1], char *why)
{
    const struct muster_value *v = path ? find(claims, path) : NULL;
    const char *text = v ? one_text(v) : otherwise;
    size_t len = text ? strlen(text) : 0;

    if (!v && !otherwise)
        return refuse(why, BEARER_BAD_CLAIM, "the claim %s is missing", path ? path : "of the name");
    if (!text)
        return refuse(why, BEARER_BAD_CLAIM, "the claim %s must be a string, or a list of one", path);
    if (!name_is_public(text, len))
        return refuse(why, BEARER_BAD_CLAIM, "%.*s came in the claim %s, a name [A-Za-z0-9_-]{1,64} without _ in front was expected", SHOWN_MAX,
                      text, path ? path : "");
    memcpy(out, text, len + 1);
    return BEARER_TAKEN;
}

/* ---- roles ---- */

static bool may_give(const struct bearer_rules *rules, int role)
{
    return role >= 0 && (rules->roles & UINT32_C(1) << role);
}

/* -1: none of the list may be given; -2: several may, and a name has one role. */
static int role_of_list(const struct bearer_rules *rules, const struct muster_value *list)
{
    int found = -1;

    for (size_t i = 0; i < value_count(list); i++) {
        const char *text = text_of(value_at(list, i));
        int role = text ? role_find(text) : -1;

        if (!may_give(rules, role) || role == found)
            continue;
        if (found >= 0)
            return -2;
        found = role;
    }
    return found;
}

static int take_role(const struct bearer_rules *rules, const struct muster_value *claims, int *ret_role, char *why)
{
    const struct muster_value *v = rules->role_claim ? find(claims, rules->role_claim) : NULL;
    const char *text = v ? text_of(v) : NULL;
    int role = text ? role_find(text) : rules->role;

    if (v && value_type(v) == MUSTER_ARRAY)
        role = role_of_list(rules, v);
    else if (v && !text)
        role = -1;
    if (role == -2)
        return refuse(why, BEARER_BAD_CLAIM, "the claim %s holds several roles of Muster; a name has one", rules->role_claim);
    if (!v && role < 0)
        return refuse(why, BEARER_BAD_CLAIM, "the claim %s is missing", rules->role_claim ? rules->role_claim : "of the role");
    if (!may_give(rules, role))
        return refuse(why, BEARER_BAD_CLAIM, "the claim %s gives %.*s, which is none of the issuer's roles",
                      rules->role_claim ? rules->role_claim : "", SHOWN_MAX, text ? text : "no role");
    *ret_role = role;
    return BEARER_TAKEN;
}

/* ---- all of it ---- */

static int take_claims(const struct bearer_rules *rules, const struct muster_value *claims, struct bearer_identity *who, char *why)
{
    int reason = take_name(claims, rules->tenant_claim, rules->tenant, who->tenant, why);

    if (!reason && rules->n_tenants && !is_one_of(who->tenant, rules->tenants, rules->n_tenants))
        return refuse(why, BEARER_BAD_CLAIM, "the tenant %s is none of the issuer's tenants", who->tenant);
    if (!reason)
        reason = take_name(claims, rules->agent_claim, NULL, who->agent, why);
    return reason ? reason : take_role(rules, claims, &who->role, why);
}

int bearer_check(const struct bearer_rules *rules, const struct jose *j, int64_t now_s, struct bearer_identity *ret_identity,
                 char why[BEARER_WHY_SIZE])
{
    struct bearer_identity who = {0};
    const char *iss = bearer_issuer(j);
    int reason;

    if (!iss || strcmp(iss, rules->issuer) != 0)
        return refuse(why, BEARER_UNKNOWN_ISSUER, "iss is not %s", rules->issuer);
    reason = check_times(rules, j->claims, now_s, &who.expires_s, why);
    if (!reason && !is_for_us(rules, value_get(j->claims, "aud")))
        reason = refuse(why, BEARER_OTHER_AUDIENCE, "aud names none of the issuer's audiences");
    if (!reason)
        reason = take_claims(rules, j->claims, &who, why);
    if (!reason)
        *ret_identity = who;
    return reason;
}
