/*
 * audit/line.h - a message as a line of JSON:
 *   {"time":"2026-11-28T09:30:00.123Z","tenant":"acme","subject":"evt.billing.paid.4711","agent":null,"headers":{},"body":{…}}
 *
 * A body in MessagePack is written as JSON, its binaries as {"base64": …}; one that is neither as a binary whole.
 */
#ifndef AUDIT_LINE_H
#define AUDIT_LINE_H

#include <muster/plugin.h>

struct line_maker {
    const struct muster_host *host;
    const struct muster_codec *codec;
    const struct muster_tenants *tenants;
    const struct muster_timer *timer;
};

struct line {
    char *data; /* owned: free() */
    size_t len;
};

/* 0 or MUSTER_E*. */
int line_of_message(const struct line_maker *m, const struct muster_msg *msg, struct line *ret_line);
/* {"time":…,"lost":17}: what was dropped before the next line. */
int line_of_loss(const struct line_maker *m, uint64_t n, struct line *ret_line);

#endif
