/*
 * core/intake.h - a message from NATS, read as far as its subject goes: whose it is, and who waits for an answer. Private to core/.
 *
 * Memory   All is borrowed from the message, which whoever has the intake owns until a delivery takes it.
 * Threads  Any; nothing is kept.
 */
#ifndef MUSTER_CORE_INTAKE_H
#define MUSTER_CORE_INTAKE_H

#include <muster/plugin.h>
#include <stdbool.h>

#include "core/inbox.h"
#include "wire/subject.h"

struct broker;
struct credential;

struct intake {
    struct bus_msg *raw;
    struct subject subject;
    struct muster_tenant *tenant; /* NULL: the registry does not know it */
    struct credential *credential; /* who sent it; counted, intake_close(). NULL: no agent's, or not looked up */
    struct endpoint *endpoint;     /* NULL: not of a declared service */
    uint32_t encoding;
    int64_t recv_ns;
    size_t n_bytes; /* bus_msg_size() */
    const char *reply; /* of a request; NULL: nobody waits */
    bool everywhere;   /* it came on a plain subscription, which other brokers have as well */
};

/* Read a message. MUSTER_EINVAL: its subject is malformed; but who asks, tenant and reply are there where the beginning of the
 * subject tells them. MUSTER_ENOTFOUND: malformed, and it tells nothing. */
int intake_open(struct intake *in, const struct broker *broker, struct bus_msg *raw);
/* Give back what it holds besides the message. */
void intake_close(struct intake *in);
/* True when nobody waits, or does so in the sender's own box: anywhere else the broker would write where the agent may not. */
bool intake_reply_is_own(const struct intake *in, const char *root);
/* The delivery holds the message and its names; it owns in->raw from then on. NULL: no memory. */
struct delivery *intake_deliver(const struct intake *in, struct sub *sub);

#endif
