/*
 * core/certificates.h - the files of certificates that the configuration names: taken up when they change, and their end told in time.
 *
 * Shape    A group of files each for nats.tls, broker.tls and postgres.dsn, with a part of /readyz (kind certificate) and a sample of
 *          muster_certificate_expires_seconds for each file. The listener is given what is new; the NATS links read it at their next
 *          connect, libpq likewise. What cannot be used is told, and what was there before stays.
 * Threads  Main alone, but for the metric. Files are looked at once a second, which is a question to the kernel each.
 */
#ifndef MUSTER_CORE_CERTIFICATES_H
#define MUSTER_CORE_CERTIFICATES_H

#include <stdbool.h>

#include "config/config.h"
#include "core/admin.h"
#include "core/health.h"

struct certificates;

struct certificates_options {
    const struct config *config; /* borrowed, like the others */
    struct health *health;
    struct metrics *metrics;
};

int certificates_new(const struct certificates_options *options, struct certificates **ret);
/* Before health and metrics are. NULL is accepted. */
void certificates_free(struct certificates *certificates);
/* Whom the files of broker.tls are for. */
void certificates_serve(struct certificates *certificates, struct admin *admin);
/* Look whether anything is new. at_once: also at files that have changed within the last second, of which the second may be missing
 * yet. */
void certificates_look(struct certificates *certificates, bool at_once);

#endif
