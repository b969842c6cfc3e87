/* The options of auth: their table, what makes no sense together, and the rules that come of them. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "auth/auth.h"
#include "auth/roles.h"
#include "base/clock.h"
#include "base/name.h"

/* Roles that a token may carry. Operators and plugins have credentials of their own. */
static const uint32_t grantable = UINT32_C(1) << ROLE_AGENT | UINT32_C(1) << ROLE_OBSERVER | UINT32_C(1) << ROLE_USER |
                                  UINT32_C(1) << ROLE_HUMAN | UINT32_C(1) << ROLE_ADMIN;
static const char no_role[] = "none";

#define OF(member) .offset = offsetof(struct issuer_setting, member)
static const struct muster_option issuer_options[] = {
    {.key = "issuer", .help = "What `iss` must be, to the letter.", .type = MUSTER_T_STRING, .flags = MUSTER_O_REQUIRED | MUSTER_O_RELOADABLE,
     .min = 1, .max = 1000, OF(issuer)},
    {.key = "audience", .help = "One of these must be in `aud`.", .type = MUSTER_T_LIST, .flags = MUSTER_O_REQUIRED | MUSTER_O_RELOADABLE,
     .min = 1, .max = 100, OF(audience)},
    {.key = "jwks_url", .help = "Where the issuer publishes its keys (RS256, ES256, EdDSA): https, or http on this machine.",
     .type = MUSTER_T_STRING, .flags = MUSTER_O_RELOADABLE, .min = 1, .max = 2000, OF(jwks_url)},
    {.key = "jwks_file", .help = "Or a file with them; read again every 10 s.", .type = MUSTER_T_STRING, .flags = MUSTER_O_RELOADABLE,
     .min = 1, .max = 4000, OF(jwks_file)},
    {.key = "secret_file", .help = "Or a file with the secret of HS256, of 32 bytes at least.", .type = MUSTER_T_STRING,
     .flags = MUSTER_O_RELOADABLE, .min = 1, .max = 4000, OF(secret_file)},
    {.key = "ca_file", .help = "Whom to trust for jwks_url; the system's certificates otherwise.", .type = MUSTER_T_STRING,
     .flags = MUSTER_O_RELOADABLE, .min = 1, .max = 4000, OF(ca_file)},
    {.key = "tenant_claim", .help = "The claim with the tenant, such as org.tenant.", .type = MUSTER_T_STRING,
     .flags = MUSTER_O_RELOADABLE, .min = 1, .max = 255, OF(tenant_claim)},
    {.key = "tenant", .help = "The tenant where that claim is missing.", .type = MUSTER_T_STRING, .flags = MUSTER_O_RELOADABLE, .min = 1,
     .max = NAME_MAX_LEN, OF(tenant)},
    {.key = "agent_claim", .help = "The claim with the agent's name.", .type = MUSTER_T_STRING, .def = "sub", .flags = MUSTER_O_RELOADABLE,
     .min = 1, .max = 255, OF(agent_claim)},
    {.key = "role_claim", .help = "The claim with the role; of a list, its one element that is one of `roles`.", .type = MUSTER_T_STRING,
     .flags = MUSTER_O_RELOADABLE, .min = 1, .max = 255, OF(role_claim)},
    {.key = "role", .help = "The role where that claim is missing; none: the token is refused.", .type = MUSTER_T_STRING, .def = "agent",
     .flags = MUSTER_O_RELOADABLE, .min = 1, .max = NAME_MAX_LEN, OF(role)},
    {.key = "roles", .help = "The roles that this issuer may give.", .type = MUSTER_T_LIST, .def = "agent,observer,user,human",
     .flags = MUSTER_O_RELOADABLE, .min = 1, .max = 5, OF(roles)},
    {.key = "tenants", .help = "The tenants that this issuer may name; all when it is empty.", .type = MUSTER_T_LIST,
     .flags = MUSTER_O_RELOADABLE, .min = 0, .max = 1000, OF(tenants)},
    {.key = "leeway", .help = "How far the clocks may be apart for exp, nbf and iat.", .type = MUSTER_T_DURATION_NS, .def = "30s",
     .flags = MUSTER_O_RELOADABLE, .min = 0, .max = 300 * CLOCK_S, OF(leeway_ns)},
    {.key = "require_exp", .help = "Whether a token without exp is refused; false: it lets in for as long as its name may.",
     .type = MUSTER_T_BOOL, .def = "true", .flags = MUSTER_O_RELOADABLE, OF(require_exp)},
};

#define FIELD(member) .offset = offsetof(struct auth_config, member)
const struct muster_option auth_options[AUTH_OPTIONS_N] = {
    {.key = "issuers", .help = "Whose tokens are taken, by a name of your own.", .type = MUSTER_T_MAP, .fields = issuer_options,
     .n_fields = sizeof issuer_options / sizeof *issuer_options, .entry_size = sizeof(struct issuer_setting), .flags = MUSTER_O_RELOADABLE,
     FIELD(issuers)},
    {.key = "muster_tokens", .help = "Whether tokens of `muster agent add --token` are taken.", .type = MUSTER_T_BOOL, .def = "true",
     .flags = MUSTER_O_RELOADABLE, FIELD(muster_tokens)},
    {.key = "refetch", .help = "A token of an unknown kid has the keys fetched anew, at most this often.", .type = MUSTER_T_DURATION_NS,
     .def = "30s", .flags = MUSTER_O_RELOADABLE, .min = CLOCK_S, .max = 3600 * CLOCK_S, FIELD(refetch_ns)},
    {.key = "fetch_timeout", .help = "How long a fetch of keys may take.", .type = MUSTER_T_DURATION_NS, .def = "5s",
     .flags = MUSTER_O_RELOADABLE, .min = CLOCK_S / 10, .max = 60 * CLOCK_S, FIELD(fetch_timeout_ns)},
};

/* ---- rules ---- */

static int role_of(const char *name)
{
    int role = role_find(name);

    return role >= 0 && (grantable & UINT32_C(1) << role) ? role : -1;
}

struct bearer_rules auth_rules(const struct issuer_setting *set)
{
    struct bearer_rules r = {
        .issuer = set->issuer,
        .audiences = set->audience.items,
        .n_audiences = set->audience.n,
        .tenant_claim = set->tenant_claim,
        .tenant = set->tenant,
        .agent_claim = set->agent_claim,
        .role_claim = set->role_claim,
        .role = role_of(set->role),
        .tenants = set->tenants.items,
        .n_tenants = set->tenants.n,
        .leeway_s = set->leeway_ns / CLOCK_S,
        .exp_optional = !set->require_exp,
    };

    for (size_t i = 0; i < set->roles.n; i++)
        r.roles |= UINT32_C(1) << role_of(set->roles.items[i]);
    return r;
}

/* ---- checks ---- */

/* One issuer under check. */
struct checked {
    const struct muster_host *host;
    const char *name;
    const struct issuer_setting *set;
};

static int refuse(const struct checked *c, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int refuse(const struct checked *c, const char *key, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return c->host->fail(c->host, MUSTER_EINVAL, "issuers.%s%s: %s", c->name, key, text);
}

static int check_source(const struct checked *c)
{
    const struct issuer_setting *s = c->set;
    int n = (s->jwks_url != NULL) + (s->jwks_file != NULL) + (s->secret_file != NULL);
    const char *fault = s->jwks_url ? fetch_url_fault(s->jwks_url) : NULL;

    if (n != 1)
        return refuse(c, "", "%d of jwks_url, jwks_file and secret_file came, one was expected", n);
    if (fault)
        return refuse(c, ".jwks_url", "%s came: %s", s->jwks_url, fault);
    if (s->ca_file && !s->jwks_url)
        return refuse(c, ".ca_file", "it is for jwks_url, which is not set");
    return 0;
}

static int check_roles(const struct checked *c)
{
    const struct muster_list *roles = &c->set->roles;
    bool has_default = strcmp(c->set->role, no_role) == 0;

    for (size_t i = 0; i < roles->n; i++) {
        if (role_of(roles->items[i]) < 0)
            return refuse(c, ".roles", "%s came; agent, observer, user, human and admin were expected", roles->items[i]);
        has_default |= strcmp(c->set->role, roles->items[i]) == 0;
    }
    if (!has_default)
        return refuse(c, ".role", "%s came, which is none of roles", c->set->role);
    if (strcmp(c->set->role, no_role) == 0 && !c->set->role_claim)
        return refuse(c, ".role", "none came, and there is no role_claim: nobody could log in");
    return 0;
}

static int check_tenants(const struct checked *c)
{
    const struct issuer_setting *s = c->set;

    if (!s->tenant && !s->tenant_claim)
        return refuse(c, "", "tenant_claim, tenant or both were expected");
    if (s->tenant && !name_is_public(s->tenant, strlen(s->tenant)))
        return refuse(c, ".tenant", "%s came, a name [A-Za-z0-9_-]{1,64} without _ in front was expected", s->tenant);
    for (size_t i = 0; i < s->tenants.n; i++)
        if (!name_is_public(s->tenants.items[i], strlen(s->tenants.items[i])))
            return refuse(c, ".tenants", "%s came, a name [A-Za-z0-9_-]{1,64} without _ in front was expected", s->tenants.items[i]);
    return 0;
}

/* The issuer alone tells which rules hold: two with one `iss` would be a choice that the token makes. */
static int check_alone(const struct checked *c, const struct auth_config *config, size_t n_before)
{
    const struct issuer_setting *all = config->issuers.entries;

    for (size_t i = 0; i < n_before; i++)
        if (strcmp(all[i].issuer, c->set->issuer) == 0)
            return refuse(c, ".issuer", "%s is the issuer of %s already", c->set->issuer, config->issuers.keys[i]);
    return 0;
}

int auth_check(const struct muster_host *host, const void *config)
{
    const struct auth_config *cfg = config;
    const struct issuer_setting *all = cfg->issuers.entries;
    int err = 0;

    if (cfg->issuers.n > AUTH_ISSUERS_MAX)
        return host->fail(host, MUSTER_EINVAL, "issuers: %zu came, at most %d were expected", cfg->issuers.n, AUTH_ISSUERS_MAX);
    if (!cfg->issuers.n && !cfg->muster_tokens)
        return host->fail(host, MUSTER_EINVAL, "issuers: none came, and muster_tokens is false: nobody could log in");
    for (size_t i = 0; i < cfg->issuers.n && !err; i++) {
        const struct checked c = {host, cfg->issuers.keys[i], &all[i]};

        err = check_source(&c);
        if (!err)
            err = check_roles(&c);
        if (!err)
            err = check_tenants(&c);
        if (!err)
            err = check_alone(&c, cfg, i);
    }
    return err;
}
