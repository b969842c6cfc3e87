/*
 * bus/greeting.h - what a NATS server says of itself before any login: its version above all, which the client library keeps to
 * itself.
 *
 * Errors   MUSTER_EINVAL: that is no greeting. MUSTER_ELINK: nobody answers.
 * Threads  Any that may block for up to two timeouts; no state.
 */
#ifndef MUSTER_BUS_GREETING_H
#define MUSTER_BUS_GREETING_H

#include <stdbool.h>
#include <stddef.h>

#include "bus/bus.h"

enum { GREETING_VERSION_SIZE = 32 };

struct greeting {
    char server[BUS_SERVER_SIZE];        /* its id, new with every start */
    char version[GREETING_VERSION_SIZE]; /* as it stands: "2.9.10", "2.12.0-RC.1" */
    struct bus_version number;
    bool jetstream;
    bool nonce; /* it knows users with keys, and so looks at those that clients name */
};

/* Read the line "INFO {…}". */
int greeting_read(const char *line, size_t len, struct greeting *ret_greeting);
/* Ask the server of a URL, over a connection of its own. */
int greeting_ask(const char *url, int timeout_ms, struct greeting *ret_greeting);

#endif
