/*
 * testhost/delivery.h - what comes to the plugin, and its answers; beside bus.c.
 */
#ifndef MUSTER_TESTHOST_DELIVERY_H
#define MUSTER_TESTHOST_DELIVERY_H

#include "testhost/inside.h"

int bus_reply(const struct muster_host *host, uint64_t request, struct muster_bytes payload);
int bus_reply_error(const struct muster_host *host, uint64_t request, const char *code, const char *field, const char *message);
int bus_hold(const struct muster_host *host, const struct muster_msg *msg, const struct muster_msg **ret_msg);
void bus_drop(const struct muster_host *host, const struct muster_msg *msg);
void delivery_free_all(struct muster_test *t);

/* What every message out has, of the bus and of streams. */
struct outgoing {
    const struct muster_tenant *tenant;
    const char *subject;
    const struct muster_header *headers;
    uint32_t n_headers;
    struct muster_bytes payload;
};
int check_outgoing(struct muster_test *t, int call, const struct outgoing *o);

#endif
