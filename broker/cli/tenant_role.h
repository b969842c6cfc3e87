/*
 * cli/tenant_role.h - the role of a tenant in PostgreSQL, muster_t_<tenant>, under whose policies a session sees that tenant's rows
 * and no others.
 */
#ifndef MUSTER_CLI_TENANT_ROLE_H
#define MUSTER_CLI_TENANT_ROLE_H

#include "cli/database.h"

int tenant_role(const struct cli *cli, int argc, char **argv);
/* With a superuser's connection and a migrated database make the role of a new tenant, inside the caller's transaction; otherwise
 * nothing. A role of that name that is not of this database is told and left alone. */
int tenant_role_add(struct sql_admin *admin, const char *tenant);
/* Drop it where that is in our power; else tell that it stays, with no rights left once the tenant is gone. */
int tenant_role_drop(struct sql_admin *admin, const char *tenant);

#endif
