/* Who gets a cast: those of the roster that have what is said, of the list or of the group where there is one; see cast.h. The lane. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/cast.h"
#include "fanout/inbox.h"

enum { PARAMS_MAX = 32 };

static int add_name(struct cast *c, const char *name)
{
    if (c->n == CAST_NAMES_MAX) {
        c->too_many = true;
        return 1;
    }
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 64;
        roll_name *names = realloc(c->names, cap * sizeof *names);

        c->too_many = c->too_many || !names;
        if (!names)
            return 1;
        c->names = names;
        c->cap = cap;
    }
    (void)snprintf(c->names[c->n++], sizeof(roll_name), "%s", name);
    return 0;
}

/* What the agents must have. */
struct need {
    struct cast *c;
    const char *capabilities[PARAMS_MAX];
    struct muster_header labels[PARAMS_MAX];
    struct muster_roster_query query;
};

static void fill_need(struct need *need, struct cast *c)
{
    const struct muster_value *capabilities = value_get(c->a->args, "capabilities"), *labels = value_get(c->a->args, "labels");
    size_t n_labels = labels ? value_count(labels) : 0, n_capabilities = capabilities ? value_count(capabilities) : 0;

    *need = (struct need){.c = c, .query = {.size = sizeof need->query}};
    for (size_t i = 0; i < n_capabilities && i < PARAMS_MAX; i++)
        need->capabilities[i] = value_str(value_at(capabilities, i), NULL);
    for (size_t i = 0; i < n_labels && i < PARAMS_MAX; i++) {
        const struct muster_value *v = value_key(labels, i, &need->labels[i].name, NULL);

        need->labels[i].value = value_str(v, NULL);
    }
    need->query.capabilities = need->capabilities;
    need->query.labels = need->labels;
    need->query.n_capabilities = (uint32_t)n_capabilities;
    need->query.n_labels = (uint32_t)n_labels;
}

static bool has_capability(const struct muster_agent *agent, const char *wanted)
{
    for (uint32_t i = 0; i < agent->n_capabilities; i++)
        if (strcmp(agent->capabilities[i], wanted) == 0)
            return true;
    return false;
}

static bool has_label(const struct muster_agent *agent, const struct muster_header *wanted)
{
    for (uint32_t i = 0; i < agent->n_labels; i++)
        if (strcmp(agent->labels[i].name, wanted->name) == 0 && strcmp(agent->labels[i].value, wanted->value) == 0)
            return true;
    return false;
}

static int on_named(void *arg, const struct muster_agent *agent)
{
    struct need *need = arg;

    for (uint32_t i = 0; i < need->query.n_capabilities; i++)
        if (!has_capability(agent, need->capabilities[i]))
            return 0;
    for (uint32_t i = 0; i < need->query.n_labels; i++)
        if (!has_label(agent, &need->labels[i]))
            return 0;
    return add_name(need->c, agent->agent);
}

/* The caller asks others. */
static int on_found(void *arg, const struct muster_agent *agent)
{
    struct need *need = arg;

    return strcmp(agent->agent, need->c->a->msg->agent) == 0 ? 0 : add_name(need->c, agent->agent);
}

/* The caller's list. */
struct list {
    roll_name *names;
    struct roll roll;
    size_t n;
    bool is_given; /* otherwise all are on it */
};

static bool list_make(struct list *l, const struct cast *c)
{
    const struct muster_value *agents = value_get(c->a->args, "agents");

    *l = (struct list){.n = agents ? value_count(agents) : 0, .is_given = agents != NULL};
    l->names = calloc(l->n + 1, sizeof *l->names);
    for (size_t i = 0; i < l->n && l->names; i++)
        (void)snprintf(l->names[i], sizeof l->names[i], "%s", value_str(value_at(agents, i), NULL));
    return l->names && roll_make(&l->roll, l->names, l->n);
}

static void list_done(struct list *l)
{
    roll_done(&l->roll);
    free(l->names);
}

static bool has_name(const struct list *l, const char *name)
{
    size_t i;

    return !l->is_given || roll_find(&l->roll, name, &i);
}

static bool is_first(const struct list *l, size_t at)
{
    size_t i;

    return roll_find(&l->roll, l->names[at], &i) && i == at;
}

static void take_members(struct cast *c, const struct list *l, const struct muster_sql_result *r)
{
    const struct fanout *f = c->all->f;
    struct need need;

    fill_need(&need, c);
    for (uint32_t i = 0; i < r->n_rows; i++) {
        const char *name = r->get(r, i, 0);

        if (has_name(l, name) && strcmp(name, c->a->msg->agent) != 0)
            (void)f->roster->get(f->host, c->a->msg->tenant, name, on_named, &need);
    }
}

static void take_listed(struct cast *c, const struct list *l)
{
    const struct fanout *f = c->all->f;
    struct need need;

    fill_need(&need, c);
    for (size_t i = 0; i < l->n; i++)
        if (is_first(l, i))
            (void)f->roster->get(f->host, c->a->msg->tenant, l->names[i], on_named, &need);
    if (!l->is_given)
        (void)f->roster->find(f->host, c->a->msg->tenant, &need.query, on_found, &need);
}

/* members: of the group; NULL: there is none. */
static void take_names(struct cast *c, const struct muster_sql_result *members)
{
    struct list list;
    bool is_made = list_make(&list, c);

    if (is_made && members)
        take_members(c, &list, members);
    else if (is_made)
        take_listed(c, &list);
    list_done(&list);
    if (is_made)
        cast_begin(c);
    else
        cast_fail(c, MUSTER_ENOMEM, "the cast could not be begun");
}

static void on_members(void *arg, const struct muster_sql_result *r)
{
    struct cast *c = arg;

    if (r->code)
        cast_fail(c, r->code, "the members of the group could not be read");
    else
        take_names(c, r);
}

static void find_members(struct cast *c, const char *group)
{
    struct fanout *f = c->all->f;
    const char *tenant = f->tenants->name(c->a->msg->tenant);
    const struct muster_bytes params[] = {{tenant, strlen(tenant)}, {NULL, 0}, {group, strlen(group)}};
    int err = f->sql->exec(f->host, f->inbox->receivers, c->a->msg->tenant, NULL, 3, params, on_members, c);

    if (err)
        cast_fail(c, err, "the members of the group could not be read");
}

void cast_find(struct cast *c)
{
    const char *group = ask_str(c->a, "group");

    if (group)
        find_members(c, group);
    else
        take_names(c, NULL);
}
