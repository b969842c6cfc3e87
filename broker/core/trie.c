/* Patterns of subjects to values; see trie.h. */
#include "core/trie.h"

#include <muster/plugin.h>
#include <stdbool.h>
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

static struct trie *find_step(const struct trie *t, const char *token, size_t len)
{
    return len == 1 && token[0] == '*' ? t->star : map_get(&t->children, token, len);
}

static struct trie *make_step(struct trie *t, const char *token, size_t len)
{
    struct trie *child = find_step(t, token, len);

    if (child)
        return child;
    child = trie_new();
    if (child && len == 1 && token[0] == '*')
        t->star = child;
    else if (child && !map_put(&t->children, token, len, child)) {
        trie_free(child);
        child = NULL;
    }
    return child;
}

/* Walk to the values of a pattern, making what is missing on the way. */
static int walk_making(struct trie *t, const char *pattern, struct values **ret_values)
{
    for (;;) {
        size_t len = strcspn(pattern, ".");

        if (len == 1 && pattern[0] == '>' && !pattern[1]) {
            *ret_values = &t->rest;
            return 0;
        }
        t = make_step(t, pattern, len);
        if (!t)
            return MUSTER_ENOMEM;
        if (!pattern[len]) {
            *ret_values = &t->here;
            return 0;
        }
        pattern += len + 1;
    }
}

static bool is_empty(const struct trie *t)
{
    return !t->children.n && !t->star && !t->here.n && !t->rest.n;
}

static void cut(struct trie *t, const char *token, size_t len)
{
    if (len == 1 && token[0] == '*') {
        trie_free(t->star);
        t->star = NULL;
    } else {
        trie_free(map_take(&t->children, token, len));
    }
}

/* Remove from below t; true when t holds nothing any more and its owner may free it. */
static bool remove_below(struct trie *t, const char *pattern, void *value)
{
    size_t len = strcspn(pattern, ".");
    struct trie *child;

    if (len == 1 && pattern[0] == '>') {
        values_remove(&t->rest, value);
    } else if ((child = find_step(t, pattern, len)) != NULL) {
        bool empty;

        if (!pattern[len])
            values_remove(&child->here, value);
        empty = pattern[len] ? remove_below(child, pattern + len + 1, value) : is_empty(child);
        if (empty)
            cut(t, pattern, len);
    }
    return is_empty(t);
}

static bool is_well_formed(const char *pattern)
{
    for (;;) {
        size_t len = strcspn(pattern, ".");

        if (len == 0 || (pattern[0] == '>' && len == 1 && pattern[1]))
            return false;
        if (!pattern[len])
            return true;
        pattern += len + 1;
    }
}

int trie_add(struct trie *t, const char *pattern, void *value)
{
    struct values *values;
    int err = is_well_formed(pattern) ? walk_making(t, pattern, &values) : MUSTER_EINVAL;

    return err ? err : values_add(values, value);
}

void trie_remove(struct trie *t, const char *pattern, void *value)
{
    if (is_well_formed(pattern))
        (void)remove_below(t, pattern, value); /* the root stays, also when it is empty */
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
