/* Who wants messages that begin with these tokens, and where each channel is; see watch.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/watch.h"

enum { KEY_MAX = 320 };

/* The tenant's handle, which lives as long as the host, and a name. 0: it is too long. */
static size_t key_of(const struct muster_tenant *tenant, const char *name, size_t len, char key[KEY_MAX])
{
    if (len + sizeof tenant > KEY_MAX)
        return 0;
    memcpy(key, &tenant, sizeof tenant);
    memcpy(key + sizeof tenant, name, len);
    return sizeof tenant + len;
}

static struct node *node_new(const struct muster_tenant *tenant, const char *key, size_t key_len)
{
    struct node *node = calloc(1, sizeof *node + key_len);

    if (!node)
        return NULL;
    node->tenant = tenant;
    node->key_len = key_len;
    node->prefix_len = key_len - sizeof tenant;
    memcpy(node->key, key, key_len);
    return node;
}

static void node_free(struct node *node)
{
    table_index_free(node->table);
    free(node->taps);
    free(node);
}

struct node *node_get(struct watches *ws, const struct muster_tenant *tenant, const char *prefix, size_t len, bool make)
{
    char key[KEY_MAX];
    size_t key_len = key_of(tenant, prefix, len, key);
    struct node *node = key_len ? map_get(&ws->nodes, key, key_len) : NULL;

    if (node || !make || !key_len)
        return node;
    node = node_new(tenant, key, key_len);
    if (node && !map_put(&ws->nodes, key, key_len, node)) {
        node_free(node);
        return NULL;
    }
    routes_forget(ws);
    return node;
}

void node_tidy(struct watches *ws, struct node *node)
{
    if (node->n_taps || (node->table && table_index_n(node->table)))
        return;
    (void)map_take(&ws->nodes, node->key, node->key_len);
    routes_forget(ws);
    node_free(node);
}

static bool add_tap(struct node *node, struct tap *tap)
{
    if (node->n_taps == node->cap_taps) {
        size_t cap = node->cap_taps ? 2 * node->cap_taps : 4;
        struct tap **grown = realloc(node->taps, cap * sizeof(*grown));

        if (!grown)
            return false;
        node->taps = grown;
        node->cap_taps = cap;
    }
    node->taps[node->n_taps++] = tap;
    return true;
}

bool node_add(struct node *node, struct tap *tap)
{
    if (!tap->w->filter)
        return add_tap(node, tap);
    if (!node->table)
        node->table = table_index_new();
    return node->table && table_index_add(node->table, &tap->entry);
}

void node_remove(struct node *node, struct tap *tap)
{
    if (tap->w->filter) {
        if (node->table)
            table_index_remove(node->table, &tap->entry);
        return;
    }
    for (size_t i = 0; i < node->n_taps; i++) {
        if (node->taps[i] != tap)
            continue;
        node->taps[i] = node->taps[--node->n_taps];
        return;
    }
}

/* ---- channels ------------------------------------------------------------------------------------------------------------------ */

struct known_channel {
    struct channel_place place; /* first: it is what callers see */
    size_t key_len;
};

struct channel_place *channel_at(struct watches *ws, const struct muster_tenant *tenant, const char *name, size_t len, bool make)
{
    char key[KEY_MAX];
    size_t key_len = key_of(tenant, name, len, key);
    struct known_channel *known = key_len ? map_get(&ws->channels, key, key_len) : NULL;

    if (known || !make || !key_len)
        return known ? &known->place : NULL;
    known = calloc(1, sizeof *known);
    if (known && !map_put(&ws->channels, key, key_len, known)) {
        free(known);
        return NULL;
    }
    if (known)
        known->key_len = key_len;
    return known ? &known->place : NULL;
}

void places_forget(struct watches *ws, const struct muster_tenant *tenant)
{
    const char *key;
    void *value;

    routes_forget(ws);
    for (size_t at = 0; map_next(&ws->channels, &at, &key, &value);) {
        struct known_channel *known = value;

        if (memcmp(key, &tenant, sizeof tenant) != 0)
            continue;
        (void)map_take(&ws->channels, key, known->key_len);
        free(known);
    }
}

struct telling {
    void (*fn)(void *arg, struct tap *tap);
    void *arg;
};

static void tell_entry(void *arg, struct index_entry *entry, int outcome)
{
    struct telling *t = arg;

    (void)outcome;
    t->fn(t->arg, (struct tap *)(void *)entry);
}

static bool concerns(const struct node *node, const char *channel, size_t len)
{
    const char *prefix = node->key + sizeof node->tenant;
    size_t n = node->prefix_len < len ? node->prefix_len : len;

    return memcmp(prefix, channel, n) == 0 && (node->prefix_len <= len || prefix[n] == '.') && (len <= node->prefix_len || channel[n] == '.');
}

void channel_taps(struct watches *ws, const struct muster_tenant *tenant, const char *channel, void (*fn)(void *arg, struct tap *tap), void *arg)
{
    struct telling telling = {fn, arg};
    void *value;

    for (size_t at = 0; map_next(&ws->nodes, &at, NULL, &value);) {
        struct node *node = value;

        if (node->tenant != tenant || !concerns(node, channel, strlen(channel)))
            continue;
        if (node->table)
            table_index_each(node->table, tell_entry, &telling);
        for (size_t i = 0; i < node->n_taps; i++)
            fn(arg, node->taps[i]);
    }
}

void nodes_done(struct watches *ws)
{
    void *value;

    for (size_t at = 0; map_next(&ws->nodes, &at, NULL, &value);)
        node_free(value);
    map_done(&ws->nodes);
    for (size_t at = 0; map_next(&ws->channels, &at, NULL, &value);)
        free(value);
    map_done(&ws->channels);
}
