/*
 * cli/settings.h - what `muster nats-config` was told, kept in keys/settings for its next run and
 * for `muster agent`.
 *
 * The role templates carry the root token: a later command with another environment must not write
 * them with another one. Errors, memory and threads as in cli/file.h.
 */
#ifndef MUSTER_CLI_SETTINGS_H
#define MUSTER_CLI_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/file.h"

enum { SETTINGS_VALUE_SIZE = 1024 };

struct settings {
    bool is_static; /* users with passwords; false: operator mode */
    bool callout;   /* brokers say who may log in with a token */
    char root[65];
    int64_t subscriptions; /* an agent's connection may hold */
    char listen[SETTINGS_VALUE_SIZE];
    char http[SETTINGS_VALUE_SIZE];  /* "": no monitoring port */
    char store[SETTINGS_VALUE_SIZE]; /* JetStream's folder, absolute */
    char tls_cert[SETTINGS_VALUE_SIZE], tls_key[SETTINGS_VALUE_SIZE]; /* absolute; "": no TLS */
    char tls_ca[SETTINGS_VALUE_SIZE];                                 /* absolute; "": none */
    bool tls_verify; /* clients must show a certificate of tls_ca */
};

/* Read keys/settings. MUSTER_ENOTFOUND: `muster nats-config` has not run here. */
int settings_read(const char *keys, struct settings *ret_settings, struct file_error *err);
int settings_write(const char *keys, const struct settings *settings, struct file_error *err);

#endif
