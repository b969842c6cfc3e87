/*
 * cli/server_tls.h - TLS of nats-server, as `muster nats-config` is told of it and writes it.
 *
 * Errors   0 or a negative MUSTER_E*, with the sentence in *err. MUSTER_ENOTFOUND: an option is missing that those given need.
 */
#ifndef MUSTER_CLI_SERVER_TLS_H
#define MUSTER_CLI_SERVER_TLS_H

#include "cli/settings.h"

/* Options; NULL: not given. "" for cert takes TLS away, for ca what is asked of clients. */
struct server_tls {
    const char *cert, *key, *ca;
    bool verify;
};

/* Lay what was given over what an earlier run kept, and look at the files. */
int server_tls_take(const struct server_tls *given, struct settings *settings, struct file_error *err);
/* Append the tls block; nothing without a certificate. */
void server_tls_put(const struct settings *settings, struct buf *out);

/* Append s as a string of the server's configuration. */
void server_put_quoted(struct buf *out, const char *s);

#endif
