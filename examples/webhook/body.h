/*
 * webhook/body.h - a message as the payload of Standard Webhooks:
 *   {"type": "billing.paid", "timestamp": "2026-11-28T09:30:00.123Z", "tenant": "acme", "subject": "evt.billing.paid.4711", "data": {…}}
 *
 * The type of an event is its service and its name, of another message its subject.
 */
#ifndef WEBHOOK_BODY_H
#define WEBHOOK_BODY_H

#include <muster/plugin.h>

struct body_maker {
    const struct muster_host *host;
    const struct muster_codec *codec;
    const struct muster_tenants *tenants;
    const struct muster_timer *timer;
};

/* 0 or MUSTER_E*; *ret_body is owned: free(). */
int body_of(const struct body_maker *m, const struct muster_msg *msg, char **ret_body, size_t *ret_len);

struct body_of_dead {
    const char *hook, *id, *subject, *why;
    int64_t attempts;
    int status; /* of the last answer; 0: there was none */
};
/* What is told of a message that is given up. */
int body_of_dead(const struct body_maker *m, const struct body_of_dead *dead, char **ret_body, size_t *ret_len);

#endif
