/*
 * base/probe_tls.h - the question of a probe over TLS.
 */
#ifndef MUSTER_BASE_PROBE_TLS_H
#define MUSTER_BASE_PROBE_TLS_H

#include "base/probe.h"

/* As probe_ask(), on a connected descriptor that stays the caller's. */
bool probe_tls_ask(int fd, const struct probe *p, struct buf *answer, char why[PROBE_WHY_SIZE]);

#endif
