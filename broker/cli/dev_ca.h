/*
 * cli/dev_ca.h - the certificates of `muster dev --tls`, under tls/: an authority of its own, and what its servers show.
 *
 *   ca.pem ca.key           trusted by whatever runs here        server.pem server.key       of NATS and of the broker
 *                                                                postgres.pem postgres.key   PostgreSQL's, owned by its user
 */
#ifndef MUSTER_CLI_DEV_CA_H
#define MUSTER_CLI_DEV_CA_H

#include <pwd.h>

/* Make what is missing, or ends within a month. user: PostgreSQL's, NULL: ours. CLI_DONE, or CLI_FAILED and it has been told. */
int dev_ca_make(const struct passwd *user);

#endif
