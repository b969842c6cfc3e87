/*
 * http/listen.h - a listening TCP socket from a setting of the form host:port.
 */
#ifndef MUSTER_HTTP_LISTEN_H
#define MUSTER_HTTP_LISTEN_H

#include <stdint.h>

#include "http/http.h"

struct listener {
    int fd; /* non-blocking, close-on-exec; owned by the caller */
    uint16_t port;
};

/* Uses key and listen of the options; errors and why as http_open(). */
int listen_open(const struct http_options *options, struct listener *ret_listener,
                char why[HTTP_WHY_SIZE]);

#endif
