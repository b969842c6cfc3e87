/*
 * core/hearer.h - hears what others put under a key of a bucket, as a hint: a plain subscription that calls on a lane. Private to core/.
 *
 * Shape    What is heard while a call waits for the lane comes with that call: nothing queues up.
 * Threads  Made, called and freed on the lane; what NATS says comes on its own thread. It may be freed while NATS speaks.
 */
#ifndef MUSTER_CORE_HEARER_H
#define MUSTER_CORE_HEARER_H

#include <stdbool.h>

#include "bus/bus.h"
#include "core/lane.h"

struct hearer;
struct hearer_options {
    struct bus *bus;
    struct lane *lane;
    const char *subject;
    const char *mine;                  /* a message that holds this text is one's own, and not heard */
    const char *common;                /* what most messages hold */
    void (*fn)(void *arg, bool other); /* other: one of those that were heard did not hold `common` */
    void *arg;
};

int hearer_new(const struct hearer_options *how, struct hearer **ret_hearer);
void hearer_free(struct hearer *r);

#endif
