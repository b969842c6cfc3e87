/* The table of roles; see roles.h for the rules it obeys. */
#include "auth/roles.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "wire/subject.h"

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

struct word {
    const char *s;
    size_t len;
};

/* "R.T.grp.>": "grp.>". All patterns have both tokens. */
static const char *behind_tenant(const char *pattern)
{
    return strchr(strchr(pattern, '.') + 1, '.') + 1;
}

/* Who goes through a list: fn gets each subject, written out; true ends it. */
struct tour {
    const struct role_names *names;
    bool (*fn)(void *arg, const char *subject);
    void *arg;
    bool ended;
};

/* head and tail are patterns, word is not: a group may be called A. */
static void show_subject(struct tour *t, const char *head, struct word word, const char *tail)
{
    struct buf subject = {0};

    if (t->ended)
        return;
    role_expand(&subject, head, t->names);
    buf_put(&subject, word.s, word.len);
    role_expand(&subject, tail, t->names);
    t->ended = t->fn(t->arg, buf_failed(&subject) ? NULL : subject.data);
    buf_done(&subject);
}

static void show_pattern(struct tour *t, const char *pattern)
{
    show_subject(t, pattern, (struct word){"", 0}, "");
}

/* One subject for each word of a list. `behind`: what stands behind the tenant's token and before the word. */
static void show_words(struct tour *t, const char *pattern, const char *behind, const char *words, const char *tail)
{
    char head[32];
    int tenant = (int)(behind_tenant(pattern) - pattern);

    (void)snprintf(head, sizeof head, "%.*s%s", tenant, pattern, behind); /* patterns are short */
    for (const char *at = words; *at;) {
        size_t len = strcspn(at, ",");

        show_subject(t, head, (struct word){at, len}, tail);
        at += len + (at[len] == ',');
    }
}

static void show_narrowed(struct tour *t, const char *pattern, const struct role_narrowing *n)
{
    const char *rest = behind_tenant(pattern);

    if (n->groups && strcmp(rest, "grp.*.A.>") == 0) {
        show_words(t, pattern, "grp.", n->groups, ".A.>");
    } else if (n->groups && strcmp(rest, "grp.>") == 0) {
        show_words(t, pattern, "grp.", n->groups, ".>");
    } else if (n->groups && strcmp(rest, "log.grp.>") == 0) {
        show_words(t, pattern, "log.grp.", n->groups, ".>");
    } else if (n->groups && strcmp(rest, "log.>") == 0) {
        show_words(t, pattern, "log.", "all,to", ".>");
        show_words(t, pattern, "log.grp.", n->groups, ".>");
    } else if (n->tables && strcmp(rest, "cdc.>") == 0) {
        show_words(t, pattern, "cdc.*.", n->tables, ".>");
    } else {
        show_pattern(t, pattern);
    }
}

static void show_list(struct tour *t, int role, int list, const struct role_narrowing *narrowing)
{
    const char *const *patterns = role_patterns(role, list);
    const struct role_narrowing all = {0};

    for (size_t i = 0; patterns[i]; i++)
        show_narrowed(t, patterns[i], narrowing ? narrowing : &all);
}

/* A list being written. */
struct allow {
    struct buf *out;
    size_t n;
};

static bool put_subject(void *arg, const char *subject)
{
    struct allow *a = arg;

    if (!subject) {
        a->out->failed = true;
        return true;
    }
    buf_puts(a->out, a->n++ ? ",\"" : "\"");
    buf_puts(a->out, subject);
    buf_putc(a->out, '"');
    return false;
}

void role_put_narrowed(struct buf *out, int role, int list, const struct role_names *names, const struct role_narrowing *narrowing)
{
    struct allow a = {.out = out};
    struct tour t = {.names = names, .fn = put_subject, .arg = &a};

    buf_put_lit(out, "{\"allow\":[");
    show_list(&t, role, list, narrowing);
    buf_put_lit(out, "]}");
}

void role_put_allow(struct buf *out, int role, int list, const struct role_names *names)
{
    role_put_narrowed(out, role, list, names, NULL);
}

static bool is_covered(void *arg, const char *subject)
{
    return subject && subject_covers(subject, arg);
}

bool role_covers(int role, int list, const struct role_names *names, const struct role_narrowing *narrowing, const char *subject)
{
    struct tour t = {.names = names, .fn = is_covered, .arg = (void *)(uintptr_t)subject};

    show_list(&t, role, list, narrowing);
    return t.ended;
}
