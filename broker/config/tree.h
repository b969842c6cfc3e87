/*
 * config/tree.h - a parsed configuration file: nodes with their positions, and the memory of everything
 * read from it.
 *
 * Shape    A node is a scalar, a list or a map; children hang on it as a linked list in the order of the
 *          file. The path of a node follows from its parents.
 * Memory   tree_alloc() gives memory that lives as long as the tree; nothing in it is freed alone.
 * Threads  None: whoever allocates is alone. Reading a finished tree is safe from any thread.
 */
#ifndef MUSTER_CONFIG_TREE_H
#define MUSTER_CONFIG_TREE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"

enum {
    CONFIG_MAX_BYTES = 1 << 20, /* of a file */
    CONFIG_MAX_NODES = 1 << 16, /* of a file; a node costs about 200 bytes */
    CONFIG_MAX_DEPTH = 16,      /* the root map is 1 */
};

enum { CONFIG_SCALAR, CONFIG_LIST, CONFIG_MAP };

struct config_node {
    uint32_t kind;
    bool plain;            /* SCALAR: written without quotes and not as a block */
    uint32_t line, column; /* of the value, counted from 1 in characters; line 0: a default, from no file */
    uint32_t key_line, key_column;
    const char *key; /* NULL in a list and at the root */
    size_t index;    /* among its siblings */
    const char *text; /* SCALAR: holds no NUL */
    const struct config_node *parent;
    struct config_node *next, *first, *last;
    size_t n; /* children */
};

struct config_tree {
    atomic_int refs; /* of the struct config that it belongs to */
    char *file;   /* as given; NULL: there is none */
    char *folder; /* of the file, absolute; relative paths begin here */
    struct config_node *root;
    size_t n_nodes;
    struct config_host *host; /* the host's part, bound; see host.h */
    uint32_t from_environment; /* bit i: variable i of environment.c was used */
    struct tree_block *blocks;
};

/* An empty tree for messages that name file; NULL when there is no memory. */
struct config_tree *tree_new(const char *file);
void tree_free(struct config_tree *tree);
/* Zeroed memory for n things of size bytes, freed with the tree. NULL when there is no memory. */
void *tree_alloc(struct config_tree *tree, size_t n, size_t size);
char *tree_strdup(struct config_tree *tree, const char *s, size_t len);
/* Append a child to parent (NULL: make the root). NULL when there is no memory; the caller watches
 * CONFIG_MAX_NODES. */
struct config_node *tree_add(struct config_tree *tree, struct config_node *parent);
/* path as it is seen from the file's folder; path itself when it is absolute or the tree has no file. */
const char *tree_resolve(struct config_tree *tree, const char *path);

/* The child of a map; NULL when it has none of this name, or is no map. */
const struct config_node *node_get(const struct config_node *map, const char *key);
/* Follow a dotted path ("nats.tls.ca") from node. */
const struct config_node *node_find(const struct config_node *node, const char *path);
/* True for a value that was left out: nothing, ~ or null without quotes. */
bool node_is_null(const struct config_node *node);
/* True for a map, and for nothing at all where a map is expected. */
bool node_is_map(const struct config_node *node);

#endif
