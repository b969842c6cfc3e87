/*
 * The MUSTER_* variables: where secrets and addresses come from in containers; see INTERFACE 7.
 *
 * They win over the file. Paths in them are seen from the working directory, so they stay as they are. A
 * variable that is set to nothing counts as not set, because compose files and unit files write it like
 * that.
 */
#include <stdlib.h>
#include <string.h>

#include "config/host.h"
#include "config/source.h"

static const struct variable {
    const char *name, *path;
    size_t offset;
    bool list; /* items separated by commas */
} variables[] = {
    {"MUSTER_NATS_URLS", "nats.urls", offsetof(struct config_host, nats.urls), true},
    {"MUSTER_NATS_CREDS", "nats.creds", offsetof(struct config_host, nats.creds), false},
    {"MUSTER_NATS_SYSTEM_CREDS", "nats.system_creds", offsetof(struct config_host, nats.system_creds),
     false},
    {"MUSTER_NATS_KEYS", "nats.keys", offsetof(struct config_host, nats.keys), false},
    {"MUSTER_POSTGRES_DSN", "postgres.dsn", offsetof(struct config_host, postgres.dsn), false},
    {"MUSTER_ROOT", "broker.root", offsetof(struct config_host, broker.root), false},
};

enum { N_VARIABLES = sizeof variables / sizeof *variables };
_Static_assert(N_VARIABLES <= 32, "config_tree.from_environment has a bit for each");

static size_t count_items(const char *text)
{
    size_t n = 1;

    for (; *text; text++)
        n += *text == ',';
    return n;
}

/* The blanks around an item are not part of it. An empty item is told by config_host_check() like any other bad
 * URL. */
static char *copy_item(struct config_tree *tree, const char *from, size_t len)
{
    for (; len && *from == ' '; from++)
        len--;
    while (len && from[len - 1] == ' ')
        len--;
    return tree_strdup(tree, from, len);
}

/* Commas cannot be in a NATS URL, so they need no escape. */
static int set_list(struct host_load *l, const char *text, struct muster_list *ret_list)
{
    size_t n = count_items(text);
    const char **items = tree_alloc(l->scope.tree, n, sizeof *items);

    for (size_t i = 0; items && i < n; i++) {
        size_t len = strcspn(text, ",");

        items[i] = copy_item(l->scope.tree, text, len);
        if (!items[i])
            return config_no_memory(l->scope.err);
        text += len + 1;
    }
    if (!items)
        return config_no_memory(l->scope.err);
    *ret_list = (struct muster_list){items, n};
    return 0;
}

/* Values are held to the characters of a file, so that --print-config can write them down. */
static int set(struct host_load *l, const struct variable *v, const char *text)
{
    void *out = (char *)l->host + v->offset;
    struct source_fault fault;
    char *copy;

    if (!source_check(text, strlen(text), &fault))
        return config_refuse_who(l->scope.err, v->name, "character %u: %s", fault.column, fault.why);
    if (v->list)
        return set_list(l, text, out);
    copy = tree_strdup(l->scope.tree, text, strlen(text));
    if (!copy)
        return config_no_memory(l->scope.err);
    *(const char **)out = copy;
    return 0;
}

int environment_apply(struct host_load *l)
{
    int err = 0;

    for (uint32_t i = 0; i < N_VARIABLES && !err; i++) {
        const char *text = getenv(variables[i].name);

        if (!text || !*text)
            continue;
        l->scope.tree->from_environment |= 1u << i;
        err = set(l, &variables[i], text);
    }
    return err;
}

const char *environment_of(const struct config_tree *tree, const char *path)
{
    for (uint32_t i = 0; i < N_VARIABLES; i++)
        if ((tree->from_environment & (1u << i)) && strcmp(variables[i].path, path) == 0)
            return variables[i].name;
    return NULL;
}
