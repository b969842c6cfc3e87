/*
 * config/options.h - option tables: how they are walked and checked, and how a map of the file is bound
 * to one.
 *
 * Shape    A table comes from a plugin, maybe one that was compiled against another header: options are read
 *          with the table's own stride, members it does not have are zero. An option whose key holds a dot
 *          ("unroutable.tenant") stands in a map of its own in the file: `unroutable: {tenant: acme}`.
 *          The host's keys are described by the same tables with two more types, CONFIG_T_*, that a plugin
 *          cannot use.
 * Memory   Values are borrowed from the scope's tree, defaults from the table.
 */
#ifndef MUSTER_CONFIG_OPTIONS_H
#define MUSTER_CONFIG_OPTIONS_H

#include "config/report.h"

enum {
    CONFIG_T_ENTRIES = 0x100, /* struct muster_map without keys: a list of maps with the keys of `fields` */
    CONFIG_T_NODE,            /* const struct config_node *: a map kept for later */
};
enum {
    CONFIG_O_PATH = 1u << 30,  /* STRING, or each of a LIST: a path, seen from the file's folder */
    CONFIG_O_CHILD = 1u << 29, /* of a plugin in a child alone */
};
enum { CONFIG_MAX_KEY = 200 };     /* of an option's key and of a key in a file, in bytes */

struct config_table {
    const void *options;
    uint32_t n, stride;
};

#define CONFIG_TABLE(array) ((struct config_table){(array), sizeof(array) / sizeof *(array), sizeof *(array)})

/* Copy option i. */
struct muster_option table_at(const struct config_table *t, uint32_t i);
/* The table of a MAP or ENTRIES option of t. */
struct config_table table_fields(const struct config_table *t, const struct muster_option *o);
/* True when a STRING option holds a path: marked so, or its key ends in _file. */
bool option_is_path(const struct muster_option *o);
/* A name as it stands in the file at one level: a whole key, or the first part of keys with dots. */
struct table_name {
    const char *text;
    size_t len;
    bool is_group;
};
/* Option i as seen from inside the groups of prefix ("", or "broker.log."). False when it is not in there, or
 * when it belongs to a group that an option before it has named already. */
bool table_name_at(const struct config_table *t, const char *prefix, uint32_t i, struct table_name *ret_name);
/* Walk the choices of an ENUM: *at begins at o->choices; false at the end. */
bool option_choice(const char **at, const char **ret_choice, size_t *ret_len);
/* What a value of this type looks like ("a duration such as 5s"), for messages. */
void option_expected(struct buf *out, const struct muster_option *o);
/* Of the member that an option of this type fills in, as plugin.h tells it. */
size_t option_size(uint32_t type);
/* Check a plugin's table against its config struct of size bytes. NULL, or what is wrong; *ret_key names the
 * option then. */
const char *table_fault(const struct config_table *t, size_t size, const char **ret_key);

/* Write the values of map into out (zeroed by the caller), defaults included. */
int config_bind_table(const struct config_scope *s, const struct config_table *t,
                      const struct config_node *map, void *out);

#endif
