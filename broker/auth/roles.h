/*
 * auth/roles.h - the one table of roles and what each may publish and subscribe to (INTERFACE 2 and 2.2).
 *
 * The same patterns become the templates of the scoped signing keys in the account JWT and, with the names written out, the
 * permissions of static users. Rules that hold for every role, tested in tests/unit/test_roles.c:
 *
 *  - Allow-lists only and never empty: an empty list would permit everything, a queue subscription slips past deny rules, and
 *    allow_responses would let a client write to whatever reply subject it is sent.
 *  - Nothing of `$JS`, `$KV`, `$SYS`, nor `R._in`: one publish there can purge a stream through its reply subject.
 *  - Whoever publishes, publishes under its own name in its own tenant: the subject is the only proof of the sender.
 *  - Nobody subscribes to another's `rpc` (a subscriber could join the brokers' queue group and take requests away) or to another's
 *    `box` (replies, and reply subjects that can be guessed from one that was seen). That holds for admin and operator too: they
 *    read everything that is told to agents, the logs and the audit, by a list and not by `R.T.>`. The exception is role plugin,
 *    which serves the requests of its own service.
 *
 * operator  Works in every tenant, so a name of its home tenant could be somebody else's name in another. There it goes by
 *           `_op_<name>`: names with a leading underscore cannot be given to anybody (INTERFACE 1), so the subject proves an
 *           operator. The name travels in the tag `as:`, because a template fills whole tokens only.
 * narrowed  Fewer groups: only their grp subjects, live and logged; fewer tables: only their cdc subjects. All else of the role stays.
 * plugin    Its name is its service. Bound to the tenants of its tags, so that no rule of it can reach `R._in`; what else it needs
 *           goes through its parent process.
 */
#ifndef MUSTER_AUTH_ROLES_H
#define MUSTER_AUTH_ROLES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

enum {
    ROLE_AGENT,
    ROLE_OBSERVER,
    ROLE_USER,
    ROLE_HUMAN,
    ROLE_ADMIN,
    ROLE_OPERATOR,
    ROLE_PLUGIN,
    ROLES_N
};
enum { ROLE_PUB, ROLE_SUB };

/* What stands in for the tokens R, T, A and O of a pattern. */
struct role_names {
    const char *root, *tenant, *agent, *alias;
};

/* What a credential may of its role: words with commas between, NULL: all. Checked by who took them from a person. */
struct role_narrowing {
    const char *groups; /* names */
    const char *tables; /* <schema>.<table> or <schema>.*, in tokens of subjects */
};

#define ROLE_ALIAS_PREFIX "_op_"

const char *role_name(int role);
/* The role of that name, or -1. */
int role_find(const char *name);
/* All names, for usage texts: "agent, observer, …". */
const char *role_list(void);

/* The patterns of a role, NULL-terminated; list is ROLE_PUB or ROLE_SUB. */
const char *const *role_patterns(int role, int list);
/* Append pattern with its single-letter tokens replaced. */
void role_expand(struct buf *out, const char *pattern, const struct role_names *names);
/* Append {"allow":["…",…]} for one list of a role. */
void role_put_allow(struct buf *out, int role, int list, const struct role_names *names);
/* The same for a narrowed one; narrowing may be NULL. Only written-out permissions can be narrowed, not those of a scoped key. */
void role_put_narrowed(struct buf *out, int role, int list, const struct role_names *names, const struct role_narrowing *narrowing);

/* Whether the list has one subject that covers all of this one, which is written out and may have wildcards. */
bool role_covers(int role, int list, const struct role_names *names, const struct role_narrowing *narrowing, const char *subject);

#endif
