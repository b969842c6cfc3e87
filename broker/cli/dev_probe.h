/*
 * cli/dev_probe.h - is a server of `muster dev` up? Each asks once, on 127.0.0.1, and gives up after a second.
 */
#ifndef MUSTER_CLI_DEV_PROBE_H
#define MUSTER_CLI_DEV_PROBE_H

#include <stdbool.h>
#include <stddef.h>

/* A NATS server greets with INFO. */
bool dev_probe_nats(int port);
/* GET path answers 200; ca: over TLS, NULL: in the clear. text gets the beginning of the body, or "" when nobody answered. */
bool dev_probe_http(int port, const char *path, const char *ca, char *text, size_t size);

#endif
