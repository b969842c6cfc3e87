/*
 * core/admin.h - the three pages on broker.admin: /healthz, /readyz and /metrics.
 *
 * Threads  Opened and closed by main; the pages are made on the server's own thread. Close before
 *          what they show is freed.
 */
#ifndef MUSTER_CORE_ADMIN_H
#define MUSTER_CORE_ADMIN_H

#include "core/health.h"
#include "http/http.h"
#include "metrics/metrics.h"

struct admin;

struct admin_options {
    const char *listen; /* broker.admin: "127.0.0.1:7423" */
    struct health *health;
    struct metrics *metrics;
    const struct http_files *files; /* broker.tls; NULL: in the clear */
};

/* Errors as http_open(). */
int admin_open(const struct admin_options *options, struct admin **ret_admin,
               char why[HTTP_WHY_SIZE]);
void admin_close(struct admin *admin); /* accepts NULL */
/* As http_renew(). */
int admin_renew(struct admin *admin, char why[HTTP_WHY_SIZE]);
uint16_t admin_port(const struct admin *admin);

#endif
