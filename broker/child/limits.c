/* The names of limits for a child; see limits.h. */
#include "child/limits.h"

#include <stdio.h>
#include <string.h>

#include "wire/schema.h"

static int add(struct child_limits *l, const char *name)
{
    if (l->n == CHILD_LIMITS_MAX)
        return 0; /* the broker refuses such a plugin */
    l->names[l->n] = arena_strdup(&l->memory, name);
    return l->names[l->n++] ? 0 : MUSTER_ENOMEM;
}

static int add_declared(struct child_limits *l, const struct muster_service *service)
{
    struct wire_error ignored;
    struct schema *schema;
    char name[LIMIT_NAME_SIZE];
    int err = 0;

    if (!MUSTER_HAS(service, schema) || !service->schema || schema_load(service->schema, schema_core(), &schema, &ignored) != 0)
        return 0;
    for (size_t i = 0; i < schema->limits.n && !err; i++) {
        (void)snprintf(name, sizeof name, "%s.%s", schema->service, schema->limits.items[i].name);
        err = add(l, name);
    }
    schema_free(schema);
    return err;
}

int child_limits_init(struct child_limits *l, const struct muster_plugin *plugin)
{
    const char *at = (const char *)plugin->services;
    int err;

    *l = (struct child_limits){0};
    l->names = arena_alloc(&l->memory, CHILD_LIMITS_MAX, sizeof *l->names);
    err = l->names ? 0 : MUSTER_ENOMEM;
    for (int i = 0; i < TENANT_N_LIMITS && !err; i++)
        err = add(l, limit_keys[i].name);
    for (uint32_t i = 0; i < plugin->n_services && !err; i++, at += plugin->service_size)
        err = add_declared(l, (const struct muster_service *)(const void *)at);
    if (err)
        child_limits_done(l);
    return err;
}

void child_limits_done(struct child_limits *l)
{
    arena_done(&l->memory);
    *l = (struct child_limits){0};
}

int child_limits_find(const struct child_limits *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->names[i], name) == 0)
            return (int)i;
    return -1;
}
