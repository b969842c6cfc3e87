/*
 * config/host.h - the host's own part of the configuration: its option table and the struct it is bound to.
 *
 * Order    The file is bound to struct config_host, the environment is laid over it, what the types
 *          cannot say is checked, and struct config is made from it. --print-config prints struct
 *          config_host by the same table.
 */
#ifndef MUSTER_CONFIG_HOST_H
#define MUSTER_CONFIG_HOST_H

#include "config/options.h"

struct host_plugin {
    const char *name, *path, *instance;
    int64_t lanes;
    int32_t isolation; /* CONFIG_ISOLATION_*, the order of the choices */
    int32_t required;
    const struct config_node *config;
    struct {
        struct muster_list subscribe, publish, capabilities, tenants, read, write;
        int32_t network;
    } allow;
    struct {
        int64_t memory, files, messages;
        double cpu;
    } limits;
    const char *user;
    struct {
        const char *dsn, *dsn_file;
    } postgres;
    struct {
        int64_t delay_ns, max_delay_ns;
    } restart;
};

struct config_host {
    struct {
        const char *id, *http, *admin, *root;
        struct {
            int32_t format; /* 0 text, 1 json */
            int32_t level;  /* MUSTER_LOG_*, the order of the choices */
            int32_t audit;  /* CONFIG_AUDIT_*, likewise */
        } log;
        struct {
            const char *cert, *key, *client_ca;
        } tls;
    } broker;
    struct {
        struct muster_list urls;
        const char *creds, *system_creds, *keys;
        const char *user, *password_file, *system_user, *system_password_file;
        const char *callout_creds, *callout_user, *callout_password_file, *callout_key_file, *callout_account;
        struct {
            const char *ca, *cert, *key;
        } tls;
    } nats;
    struct {
        const char *dsn;
        int64_t pool;
    } postgres;
    struct config_limits limits;
    struct muster_map plugins; /* of struct host_plugin */
};

/* What is known while a configuration is loaded. */
struct host_load {
    struct config_scope scope;
    struct config_host *host;
};

/* The top-level table. */
struct config_table config_host_table(void);

/* Append the value of an option that is no map, as config_print() shows it; "not set" for text that is not. */
void print_setting(const struct muster_option *o, const void *at, struct buf *out);

/* Load from memory instead of a file; file is its name for messages. data NULL: no file. */
int config_load_text(const char *file, const char *data, size_t len, struct config **ret_config,
                     struct config_error *err);

/* Lay the MUSTER_* variables over the file. An empty variable counts as not set. */
int environment_apply(struct host_load *l);
/* The variable that gave the value of path ("nats.urls"); NULL: the file or a default did. */
const char *environment_of(const struct config_tree *tree, const char *path);
/* Refuse the value of path, where it came from: its variable, or its place in the file. */
int host_refuse(const struct config_scope *s, const char *path, const char *text);

/* Check what option tables cannot say, and fill in the defaults that depend on other values. */
int config_host_check(struct host_load *l);

#endif
