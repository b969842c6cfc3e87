/*
 * http/secure.h - the certificates of a listener, by GnuTLS, which libmicrohttpd stands on; private to http/.
 *
 * Shape    Each connection holds the credentials that it began with; new ones are for the connections that come after.
 * Threads  secure_renew() any; the others those of the server.
 */
#ifndef MUSTER_HTTP_SECURE_H
#define MUSTER_HTTP_SECURE_H

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "http/http.h"

struct secure;
struct credentials;

/* TLS 1.2 and newer. */
#define SECURE_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

int secure_new(const struct http_files *files, struct secure **ret_secure, const char **ret_file, char why[HTTP_WHY_SIZE]);
/* Every connection has ended. NULL is accepted. */
void secure_free(struct secure *secure);
/* Read the files again. On failure what was there before stays. */
int secure_renew(struct secure *secure, const char **ret_file, char why[HTTP_WHY_SIZE]);

/* Before the handshake: have the session use what is there now, and refuse clients that client_ca does not know. The result is for
 * secure_end(). NULL: there is no memory, and the session cannot be used. */
struct credentials *secure_begin(struct secure *secure, gnutls_session_t session);
void secure_end(struct secure *secure, struct credentials *credentials);

#endif
