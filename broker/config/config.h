/*
 * config/config.h - the broker's configuration: one YAML file (INTERFACE 7), then the environment, typed and checked.
 *
 * Shape    config_load() reads and checks the host's own part. A plugin's `config:` map is kept with the positions of its keys
 *          and is bound to the plugin's option table by config_bind() once the plugin is loaded.
 * Errors   One text in struct config_error, `file:line:column: path.to.key: what came, and what was expected`. Unknown keys
 *          come with near names. Anchors, aliases, tabs and duplicate keys are refused where they stand.
 * Memory   Everything hangs on struct config and is freed by the config_free() of who holds it last. Strings are borrowed from it.
 *          A string option whose key ends in _file is a path and, like the host's own paths, seen from the file's folder.
 * Secrets  Passwords in URLs and connection strings and options marked MUSTER_O_SECRET are shown nowhere.
 * Threads  A loaded configuration may be read from any thread; config_bind(), config_print() and config_changes() are called by
 *          one at a time.
 */
#ifndef MUSTER_CONFIG_CONFIG_H
#define MUSTER_CONFIG_CONFIG_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "tenant/limits.h"

struct config_node; /* a parsed YAML value with its position; private to config/ */
struct config_tree; /* the whole file and the memory of its values; private to config/ */

struct config_error {
    char text[1024];
};

enum { CONFIG_ISOLATION_NONE, CONFIG_ISOLATION_PROCESS, CONFIG_N_NUMBERS = 4336 };

/* What a plugin in a child may do beyond what every plugin may. */
struct config_allow {
    struct muster_list subscribe, publish; /* patterns of what follows R.T. */
    struct muster_list capabilities;       /* of cross_tenant, stream, system */
    struct muster_list tenants;            /* names; none: all */
    struct muster_list read, write;        /* absolute paths */
    bool network;
};

struct config_plugin {
    const char *name;     /* of a built-in, found in the plugin directory; NULL when path is given */
    const char *path;     /* of a plugin file; NULL when name is given */
    const char *instance; /* defaults to the name (for a path: the file's name without .so) */
    int64_t lanes;        /* (1) .. 64 */
    int32_t isolation;    /* CONFIG_ISOLATION_*: process for a path, none for a name, unless given */
    bool required;                    /* (true): /readyz waits for it */
    struct config_allow allow;        /* from here on of isolation process alone */
    struct {
        int64_t memory, files;
        double cpu; /* cores */
        int64_t messages; /* a second; 0: no limit */
    } limits;
    const char *user; /* NULL: a number of its own */
    uint32_t number;  /* below CONFIG_N_NUMBERS, like no other entry's; the same at each start while instances are few */
    struct {
        const char *dsn, *dsn_file; /* at most one of them */
    } postgres;
    struct {
        int64_t delay_ns, max_delay_ns;
    } restart;
    const struct config_node *config; /* its `config:` map, NULL when there is none */
    const struct config_node *entry;  /* the whole entry, for messages */
    const struct muster_plugin *plugin; /* what it was bound to, for config_print(); NULL before config_bind() */
};

enum { CONFIG_AUDIT_ALL, CONFIG_AUDIT_REFUSED, CONFIG_AUDIT_NONE };

/* tenant/limits.h: of a tenant that has none of its own; 0: none. subscriptions: of every connection. */
struct config_limits {
#define CONFIG_LIMIT(id, name, ...) int64_t name;
    TENANT_LIMITS(CONFIG_LIMIT)
#undef CONFIG_LIMIT
};

struct config {
    const char *file; /* as given, for messages; NULL: defaults and environment alone */
    struct {
        const char *id, *http, *admin, *root; /* id "auto": made at start from host name, pid and time */
        bool log_json;
        int32_t log_level; /* MUSTER_LOG_* */
        const char *tls_cert, *tls_key, *tls_client_ca; /* paths; NULL when not set */
        int32_t log_audit; /* CONFIG_AUDIT_* */
    } broker;
    struct {
        const char *const *urls;
        size_t n_urls;
        const char *creds, *system_creds, *keys;                               /* paths; NULL when not set */
        const char *user, *password_file, *system_user, *system_password_file; /* a static server */
        /* For who logs in with a token: creds, or user and password, of the account that is asked; the key that answers are signed with;
         * the agents' account, of a static server. */
        const char *callout_creds, *callout_user, *callout_password_file, *callout_key_file, *callout_account;
        const char *tls_ca, *tls_cert, *tls_key;
    } nats;
    struct {
        const char *dsn;
        int64_t pool;
    } postgres;
    struct config_limits limits;
    struct config_plugin *plugins;
    size_t n_plugins;
    struct config_tree *tree; /* owns every string above */
};

/* Read file (NULL: defaults and environment alone). Relative paths in it are relative to the file's folder. The MUSTER_*
 * variables of INTERFACE 7 win over the file; relative paths in them are relative to the working directory.
 * 0, or MUSTER_EINVAL / MUSTER_ENOMEM with *err filled. */
int config_load(const char *file, struct config **ret_config, struct config_error *err);
/* One more holder, who gives it up by config_free(). Any thread, both. */
void config_ref(const struct config *config);
void config_free(const struct config *config);

/* Check plugin p's map against the option table and write the values into out (option.offset; plugin.config_size bytes,
 * zeroed by the caller). Strings, lists and maps are borrowed from the configuration. */
int config_bind(const struct config *config, const struct config_plugin *p, const struct muster_plugin *plugin, void *out,
                struct config_error *err);
/* Position of key in p's map as "file:line:column"; false when the key was not given. A dotted key stands in inner maps. */
bool config_position(const struct config *config, const struct config_plugin *p, const char *key, char out[256]);
/* Tell fn the position of every key of p's map, inner ones by their paths ("tables.public.orders"). */
typedef void (*config_position_fn)(void *arg, const char *key, const char *position);
void config_positions(const struct config *config, const struct config_plugin *p, config_position_fn fn, void *arg);
/* Word a fault of a value that was found outside of here, as config_load() would: `muster.yaml:3:10: nats.creds: …`, or the variable
 * that gave the value. Returns MUSTER_EINVAL. */
int config_fault(const struct config *config, const char *path, struct config_error *err, const char *fmt, ...) MUSTER_PRINTF(4, 5);
/* The same for a key of plugin p's entry, such as "path" or "allow.capabilities". */
int config_fault_entry(const struct config *config, const struct config_plugin *p, const char *key, struct config_error *err,
                       const char *fmt, ...) MUSTER_PRINTF(5, 6);
/* The same for what plugin p says of its settings. A text that begins with a key that was given, "slot: …", gets its place; any
 * other that of the entry. */
int config_fault_setting(const struct config *config, const struct config_plugin *p, struct config_error *err, const char *text);
/* The effective configuration as YAML, defaults filled in, secrets hidden; for --print-config. The settings of a plugin come
 * with their defaults once it was bound, until then as they stand in the file. */
void config_print(const struct config *config, struct buf *out);
/* One setting that differs. Borrowed until the function returns. */
struct config_change {
    const char *path; /* "plugins.main.slot" */
    const char *text; /* "muster_main -> other"; an instance or an entry of a map is "added" or "removed". What is hidden in
                       * config_print() is only "changed" here */
    bool reloadable;  /* a plugin's option, or the map that it stands in, is MUSTER_O_RELOADABLE, and no other instance is concerned */
};
typedef void (*config_change_fn)(void *arg, const struct config_change *change);
/* Tell fn of every setting that has another value in next than in now, but for those of plugins that are in both. */
void config_changes(const struct config *now, const struct config *next, config_change_fn fn, void *arg);

/* The settings of one instance, bound to the same plugin's table. */
struct config_settings {
    const struct config *config;
    const struct config_plugin *plugin;
    const void *values; /* as they were bound; NULL: bind them */
};
/* The same for the settings of an instance. MUSTER_ENOMEM: they could not be compared. */
int config_setting_changes(const struct config_settings *now, const struct config_settings *next, config_change_fn fn, void *arg);
/* The JSON Schema of a plugin's option table, for schemas/plugins/<name>.json. */
void config_schema(const struct muster_plugin *plugin, struct buf *out);

#endif
