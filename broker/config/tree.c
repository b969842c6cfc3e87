/*
 * Nodes and the memory they live in; see tree.h.
 *
 * Memory is a list of blocks that are freed together. A configuration is loaded once and has at most
 * CONFIG_MAX_NODES values, so that nothing faster is needed.
 */
#include "config/tree.h"

#include <stdlib.h>
#include <string.h>

/* Each allocation is a block of its own, so that the sanitizers see a write past its end. */
struct tree_block {
    struct tree_block *next;
    max_align_t data[];
};

void *tree_alloc(struct config_tree *tree, size_t n, size_t size)
{
    struct tree_block *block;
    size_t bytes;

    if (__builtin_mul_overflow(n, size, &bytes) || __builtin_add_overflow(bytes, sizeof *block, &bytes))
        return NULL;
    block = calloc(1, bytes);
    if (!block)
        return NULL;
    block->next = tree->blocks;
    tree->blocks = block;
    return block->data;
}

char *tree_strdup(struct config_tree *tree, const char *s, size_t len)
{
    char *copy = tree_alloc(tree, len + 1, 1);

    if (copy)
        memcpy(copy, s, len);
    return copy;
}

/* The folder is made absolute: what --print-config writes must load from anywhere. */
static char *folder_of(struct config_tree *tree, const char *file)
{
    const char *slash = strrchr(file, '/');
    size_t len = slash ? (size_t)(slash - file) + (slash == file) : 1;
    char *folder = tree_strdup(tree, slash ? file : ".", len);
    char *real = folder ? realpath(folder, NULL) : NULL;

    if (!real)
        return folder; /* it does not exist: reading the file will say so */
    folder = tree_strdup(tree, real, strlen(real));
    free(real);
    return folder;
}

struct config_tree *tree_new(const char *file)
{
    struct config_tree *tree = calloc(1, sizeof *tree);

    if (!tree || !file)
        return tree;
    tree->file = tree_strdup(tree, file, strlen(file));
    tree->folder = folder_of(tree, file);
    if (tree->file && tree->folder)
        return tree;
    tree_free(tree);
    return NULL;
}

void tree_free(struct config_tree *tree)
{
    if (!tree)
        return;
    while (tree->blocks) {
        struct tree_block *block = tree->blocks;

        tree->blocks = block->next;
        free(block);
    }
    free(tree);
}

/* Children keep the order of the file: the first mistake in it must be the first that is found. */
struct config_node *tree_add(struct config_tree *tree, struct config_node *parent)
{
    struct config_node *node = tree_alloc(tree, 1, sizeof *node);

    if (!node)
        return NULL;
    tree->n_nodes++;
    node->parent = parent;
    if (!parent) {
        tree->root = node;
        return node;
    }
    node->index = parent->n++;
    if (parent->last)
        parent->last->next = node;
    else
        parent->first = node;
    parent->last = node;
    return node;
}

const char *tree_resolve(struct config_tree *tree, const char *path)
{
    size_t folder_len, path_len = strlen(path);
    char *joined;

    if (path[0] == '/' || path[0] == '\0' || !tree->folder)
        return path;
    folder_len = strlen(tree->folder);
    joined = tree_alloc(tree, folder_len + path_len + 2, 1);
    if (!joined)
        return NULL;
    memcpy(joined, tree->folder, folder_len);
    if (joined[folder_len - 1] != '/')
        joined[folder_len++] = '/';
    memcpy(joined + folder_len, path, path_len);
    return joined;
}

/* len, because keys are looked up by parts of a dotted path. */
static const struct config_node *get(const struct config_node *map, const char *key, size_t len)
{
    if (map->kind != CONFIG_MAP)
        return NULL;
    for (const struct config_node *at = map->first; at; at = at->next)
        if (strncmp(at->key, key, len) == 0 && at->key[len] == '\0')
            return at;
    return NULL;
}

const struct config_node *node_get(const struct config_node *map, const char *key)
{
    return get(map, key, strlen(key));
}

const struct config_node *node_find(const struct config_node *node, const char *path)
{
    while (node && *path) {
        size_t len = strcspn(path, ".");

        node = get(node, path, len);
        path += len + (path[len] == '.');
    }
    return node;
}

bool node_is_null(const struct config_node *node)
{
    static const char *const nothing[] = {"", "~", "null", "Null", "NULL"};

    if (node->kind != CONFIG_SCALAR || !node->plain)
        return false;
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++)
        if (strcmp(node->text, nothing[i]) == 0)
            return true;
    return false;
}

bool node_is_map(const struct config_node *node)
{
    return node->kind == CONFIG_MAP || node_is_null(node);
}
