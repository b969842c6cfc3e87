/*
 * config/report.h - how an error is told: `file:line:column: path.to.key: what came, and what was expected`.
 *
 * Errors   Every config_refuse…() fills scope->err and returns MUSTER_EINVAL, so that
 *          `return config_refuse(…)` is the whole error path.
 * Secrets  Values are shown through config_show() or config_hide() only.
 */
#ifndef MUSTER_CONFIG_REPORT_H
#define MUSTER_CONFIG_REPORT_H

#include <stdint.h>

#include "base/buf.h"
#include "config/tree.h"

/* Where nodes are read and how they are called in messages. */
struct config_scope {
    struct config_tree *tree;
    const struct config_node *base; /* paths begin here; NULL: at the root */
    const char *prefix;             /* what base is called: "", or "plugins.presence" */
    struct config_error *err;
};

/* Refuse a node; the position is that of its value. */
int config_refuse(const struct config_scope *s, const struct config_node *node, const char *fmt, ...)
    MUSTER_PRINTF(3, 4);
/* Refuse a node because of its key; the position is that of the key. */
int config_refuse_key(const struct config_scope *s, const struct config_node *node, const char *fmt, ...)
    MUSTER_PRINTF(3, 4);
/* Refuse a map because key is not in it. */
int config_refuse_missing(const struct config_scope *s, const struct config_node *map, const char *key,
                          const char *fmt, ...) MUSTER_PRINTF(4, 5);
/* Refuse a place in the file that belongs to no node; line 0: the file as a whole. */
int config_refuse_place(const struct config_scope *s, uint32_t line, uint32_t column, const char *fmt, ...)
    MUSTER_PRINTF(4, 5);
/* Refuse without any place: who is an environment variable or a plugin. */
int config_refuse_who(struct config_error *err, const char *who, const char *fmt, ...) MUSTER_PRINTF(3, 4);
/* Tell that memory is out; returns MUSTER_ENOMEM. */
int config_no_memory(struct config_error *err);

/* What a node is, for "got …": 'text', a list, a map, nothing. Long text is cut. Returns out. */
enum { CONFIG_SHOW_SIZE = 96 };
const char *config_show(const struct config_node *node, bool secret, char out[CONFIG_SHOW_SIZE]);
/* The same for a text: 'text', cut, without passwords. */
const char *config_show_text(const char *text, char out[CONFIG_SHOW_SIZE]);
/* Append text with its passwords replaced by "…": user information of URLs, password parameters of connection
 * strings. */
void config_hide(struct buf *out, const char *text);
/* True for libpq's keyword form, "host=… user=…". */
bool config_is_keywords(const char *text);

#endif
