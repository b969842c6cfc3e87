/* What roles may ask; see access.h. */
#include "auth/access.h"

#include <muster/plugin.h>

#include "auth/roles.h"
#include "wire/schema.h"

_Static_assert(MUSTER_ROLE_AGENT == ROLE_AGENT + 1 && MUSTER_ROLE_PLUGIN == ROLE_PLUGIN + 1,
               "the roles of the ABI are those of the table, from 1");

enum { READ = 1u << SCHEMA_READ, WRITE = 1u << SCHEMA_WRITE, HUMAN = 1u << SCHEMA_HUMAN, ADMIN = 1u << SCHEMA_ADMIN };

static const unsigned allowed[] = {
    [MUSTER_ROLE_NONE] = READ | WRITE | HUMAN | ADMIN,
    [MUSTER_ROLE_AGENT] = READ | WRITE,
    [MUSTER_ROLE_OBSERVER] = READ,
    [MUSTER_ROLE_USER] = READ | WRITE,
    [MUSTER_ROLE_HUMAN] = READ | WRITE | HUMAN,
    [MUSTER_ROLE_ADMIN] = READ | WRITE | HUMAN | ADMIN,
    [MUSTER_ROLE_OPERATOR] = READ | WRITE | HUMAN | ADMIN,
    [MUSTER_ROLE_PLUGIN] = 0,
};

bool access_allows(uint32_t role, int access, bool user)
{
    if (role >= sizeof allowed / sizeof *allowed || (role == MUSTER_ROLE_USER && !user))
        return false;
    return allowed[role] & 1u << access;
}

const char *access_role_name(uint32_t role)
{
    return role > MUSTER_ROLE_NONE && role <= ROLES_N ? role_name((int)role - 1) : "none";
}
