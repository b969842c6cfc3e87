/* The table of roles; see roles.h for the rules it obeys. */
#include "auth/roles.h"

#include <string.h>

/* Tokens: R root, T tenant, A the client's own name, O an operator's name in other tenants; the
 * rest stands as it is. */
#define AGENT_PUB "R.T.rpc.A.>", "R.T.all.A.>", "R.T.to.*.A.>", "R.T.grp.*.A.>"
#define AGENT_SUB                                                                                  \
    "R.T.box.A.>", "R.T.all.>", "R.T.to.A.>", "R.T.grp.>", "R.T.msg.A", "R.T.evt.>", "R.T.cdc.>",  \
        "R.T.log.all.>", "R.T.log.to.A.>", "R.T.log.grp.>", "R.T.sub.A.>"
/* What those who oversee may read of a tenant: all that is told to its agents. */
#define OVERSEE(tenant)                                                                            \
    "R." tenant ".all.>", "R." tenant ".to.>", "R." tenant ".grp.>", "R." tenant ".msg.*",         \
        "R." tenant ".evt.>", "R." tenant ".cdc.>", "R." tenant ".audit.>", "R." tenant ".log.>",  \
        "R." tenant ".sub.>"

enum { PATTERNS_MAX = 12 };

static const struct role {
    const char *name;
    const char *allow[2][PATTERNS_MAX + 1];
} roles[ROLES_N] = {
    [ROLE_AGENT] = {"agent", {{AGENT_PUB}, {AGENT_SUB}}},
    [ROLE_OBSERVER] = {"observer",
                       {{"R.T.rpc.A.>"},
                        {"R.T.box.A.>", "R.T.all.>", "R.T.grp.>", "R.T.evt.>", "R.T.cdc.>",
                         "R.T.log.all.>", "R.T.log.grp.>", "R.T.sub.A.>"}}},
    [ROLE_USER] = {"user", {{"R.T.rpc.A.>"}, {"R.T.box.A.>", "R.T.sub.A.>"}}},
    [ROLE_HUMAN] = {"human", {{AGENT_PUB}, {AGENT_SUB}}},
    [ROLE_ADMIN] = {"admin", {{AGENT_PUB}, {"R.T.box.A.>", OVERSEE("T")}}},
    [ROLE_OPERATOR] = {"operator",
                       {{AGENT_PUB, "R.*.rpc.O.>"}, {"R.T.box.A.>", "R.*.box.O.>", OVERSEE("*")}}},
    [ROLE_PLUGIN] = {"plugin", {{"R.T.box.>"}, {"R.T.rpc.*.A.>"}}},
};

const char *role_name(int role)
{
    return roles[role].name;
}

int role_find(const char *name)
{
    for (int i = 0; i < ROLES_N; i++)
        if (strcmp(roles[i].name, name) == 0)
            return i;
    return -1;
}

const char *role_list(void)
{
    return "agent, observer, user, human, admin, operator, plugin";
}

const char *const *role_patterns(int role, int list)
{
    return roles[role].allow[list];
}

static const char *stand_in(char token, const struct role_names *names)
{
    switch (token) {
    case 'R':
        return names->root;
    case 'T':
        return names->tenant;
    case 'A':
        return names->agent;
    case 'O':
        return names->alias;
    default:
        return NULL;
    }
}

void role_expand(struct buf *out, const char *pattern, const struct role_names *names)
{
    for (const char *at = pattern;;) {
        size_t len = strcspn(at, ".");
        const char *value = len == 1 ? stand_in(*at, names) : NULL;

        if (value)
            buf_puts(out, value);
        else
            buf_put(out, at, len);
        if (!at[len])
            return;
        buf_putc(out, '.');
        at += len + 1;
    }
}

void role_put_allow(struct buf *out, int role, int list, const struct role_names *names)
{
    const char *const *patterns = role_patterns(role, list);

    buf_put_lit(out, "{\"allow\":[");
    for (size_t i = 0; patterns[i]; i++) {
        buf_puts(out, i ? ",\"" : "\"");
        role_expand(out, patterns[i], names);
        buf_putc(out, '"');
    }
    buf_put_lit(out, "]}");
}
