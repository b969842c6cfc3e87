/*
 * webhook/settings.h - the option table, what it fills, and what is checked beyond it.
 */
#ifndef WEBHOOK_SETTINGS_H
#define WEBHOOK_SETTINGS_H

#include "sign.h"

#include <muster/plugin.h>

#include <stdbool.h>

enum { MAX_HOOKS = 100, MAX_SUBJECTS = 64 };

struct hook_config {
    struct muster_list subjects, tenants;
    const char *url, *secret_file, *old_secret_file, *ca_file;
    int64_t timeout_ns, deadline_ns, backoff_ns;
    int64_t concurrency, max_queued;
};

struct webhook_config {
    struct muster_map hooks;
    struct muster_list allow_hosts, private_hosts;
};

enum { WEBHOOK_OPTIONS = 3 };
extern const struct muster_option webhook_options[WEBHOOK_OPTIONS];

const struct hook_config *settings_hook(const struct webhook_config *config, size_t i);
/* The plugin's check(): URLs, hosts, subjects, secrets. */
int settings_check(const struct muster_host *host, const void *config);
/* Read a hook's secret and its old one. MUSTER_EINVAL with a reason. */
int settings_keys(const struct muster_host *host, const char *name, const struct hook_config *c, struct sign_key ret[2]);
/* Whether private_hosts names the host of the url. */
bool settings_may_go_anywhere(const struct webhook_config *config, const char *url);
/* The subjects of all hooks, without those that another one covers. Borrowed from config. */
size_t settings_subjects(const struct webhook_config *config, const char *ret[MAX_HOOKS * MAX_SUBJECTS]);

#endif
