/*
 * auth/access.h - the one table of roles and what each may ask of services (INTERFACE 2.2).
 *
 * A verb's definition says what it needs (wire/schema.h): read, write, human or admin, and whether role user may ask at all. NATS lets a role
 * publish its requests; which of them are carried out is decided here. Any thread.
 *
 *            read  write  human  admin
 * agent       x      x
 * observer    x
 * user        x      x                  of verbs with `user: true` only
 * human       x      x      x
 * admin       x      x      x      x
 * operator    x      x      x      x
 * plugin                                it answers, and asks nobody
 */
#ifndef MUSTER_AUTH_ACCESS_H
#define MUSTER_AUTH_ACCESS_H

#include <stdbool.h>
#include <stdint.h>

/* role: MUSTER_ROLE_*; NONE, which is a plugin of the broker, may all. access: SCHEMA_*. */
bool access_allows(uint32_t role, int access, bool user);
/* "observer", of MUSTER_ROLE_OBSERVER. */
const char *access_role_name(uint32_t role);

#endif
