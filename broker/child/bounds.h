/*
 * child/bounds.h - how much one child may have open. The child refuses what is more with MUSTER_EAGAIN; to the parent it is a breach.
 */
#ifndef MUSTER_CHILD_BOUNDS_H
#define MUSTER_CHILD_BOUNDS_H

enum {
    CHILD_MAX_CALLS = 16384, /* that were asked and not yet answered */
    CHILD_MAX_SUBSCRIPTIONS = 1024,
    CHILD_MAX_STREAMS = 256,
    CHILD_MAX_LEASES = 256,
    CHILD_MAX_WATCHES = 64, /* of connections */
    CHILD_MAX_METRICS = 1024,
    CHILD_MAX_HEADERS = 64, /* of a message that it sends: MUSTER_EINVAL */
};

#endif
