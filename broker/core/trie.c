/* Patterns of subjects to values; see trie.h. */
#include "core/trie.h"

#include <muster/plugin.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"

struct values {
    void **items;
    size_t n;
};

struct trie {
    struct map children; /* by token */
    struct trie *star;
    struct values here, rest; /* of patterns that end here; of those that end in '>' here */
};

struct found {
    void **out;
    size_t n, max;
};

struct trie *trie_new(void)
{
    return calloc(1, sizeof(struct trie));
}

void trie_free(struct trie *t)
{
    void *child;

    if (!t)
        return;
    for (size_t at = 0; map_next(&t->children, &at, NULL, &child);)
        trie_free(child);
    map_done(&t->children);
    trie_free(t->star);
    free(t->here.items);
    free(t->rest.items);
    free(t);
}

static int values_add(struct values *v, void *value)
{
    void **more = realloc(v->items, (v->n + 1) * sizeof(void *));

    if (!more)
        return MUSTER_ENOMEM;
    more[v->n++] = value;
    v->items = more;
    return 0;
}

static void values_remove(struct values *v, const void *value)
{
    for (size_t i = 0; i < v->n; i++) {
        if (v->items[i] != value)
            continue;
        v->items[i] = v->items[--v->n];
        return;
    }
}

static struct trie *step(struct trie *t, const char *token, size_t len)
{
    struct trie *child;

    if (len == 1 && token[0] == '*') {
        if (!t->star)
            t->star = trie_new();
        return t->star;
    }
    child = map_get(&t->children, token, len);
    if (child)
        return child;
    child = trie_new();
    if (child && map_put(&t->children, token, len, child))
        return child;
    trie_free(child);
    return NULL;
}

/* Walk to the node of a pattern, making what is missing. *ret_rest: it ends in '>'. */
static int walk(struct trie *t, const char *pattern, struct trie **ret_node, int *ret_rest)
{
    for (;;) {
        size_t len = strcspn(pattern, ".");

        if (len == 0)
            return MUSTER_EINVAL;
        if (len == 1 && pattern[0] == '>') {
            *ret_node = t;
            *ret_rest = 1;
            return pattern[1] ? MUSTER_EINVAL : 0;
        }
        t = step(t, pattern, len);
        if (!t)
            return MUSTER_ENOMEM;
        if (!pattern[len]) {
            *ret_node = t;
            *ret_rest = 0;
            return 0;
        }
        pattern += len + 1;
    }
}

int trie_add(struct trie *t, const char *pattern, void *value)
{
    struct trie *node;
    int rest, err = walk(t, pattern, &node, &rest);

    return err ? err : values_add(rest ? &node->rest : &node->here, value);
}

void trie_remove(struct trie *t, const char *pattern, void *value)
{
    struct trie *node;
    int rest;

    if (walk(t, pattern, &node, &rest) == 0)
        values_remove(rest ? &node->rest : &node->here, value);
}

static void take(struct found *f, const struct values *v)
{
    for (size_t i = 0; i < v->n && f->n < f->max; i++)
        f->out[f->n++] = v->items[i];
}

static void match(const struct trie *t, const char *subject, struct found *f)
{
    size_t len = strcspn(subject, ".");
    const char *next = subject[len] ? subject + len + 1 : NULL;
    const struct trie *ways[2] = {map_get(&t->children, subject, len), t->star};

    for (int i = 0; i < 2; i++) {
        if (!ways[i])
            continue;
        if (next)
            match(ways[i], next, f);
        else
            take(f, &ways[i]->here);
    }
    take(f, &t->rest);
}

size_t trie_match(const struct trie *t, const char *subject, void **out, size_t max)
{
    struct found f = {.out = out, .max = max};

    match(t, subject, &f);
    return f.n;
}
