/*
 * base/probe.h - one question to a TCP port: what a server greets with, or the answer to a small
 * request. Blocking, with a timeout.
 */
#ifndef MUSTER_BASE_PROBE_H
#define MUSTER_BASE_PROBE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

enum { PROBE_HOST_SIZE = 256, PROBE_PORT_SIZE = 8, PROBE_WHY_SIZE = 256 };

/* How to speak TLS, and who the other side must be. Paths. */
struct probe_tls {
    const char *ca;         /* its certificate must be of these, for the host; NULL: it is not looked at but for shown */
    const char *shown;      /* the very certificate; NULL: any */
    const char *cert, *key; /* what we show; NULL: nothing */
};

struct probe {
    char host[PROBE_HOST_SIZE], port[PROBE_PORT_SIZE];
    const struct probe_tls *tls; /* NULL: in the clear */
    const char *request; /* sent first; NULL: the other side speaks first */
    bool one_line;       /* the answer ends with its first line, else with the connection */
    int timeout_ms;      /* of each step */
    size_t max;          /* bytes of the answer; a longer one is cut */
};

/* Take host and port from "[scheme://][user@]host[:port][/…]"; an IPv6 address stands in brackets.
 * False: it has no such form. */
bool probe_parse(struct probe *p, const char *address, const char *default_port);
/* Ask; the answer is appended. False: why says what failed, "Connection refused". */
bool probe_ask(const struct probe *p, struct buf *answer, char why[PROBE_WHY_SIZE]);

#endif
