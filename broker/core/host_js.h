/*
 * core/host_js.h - what muster.stream/1, muster.kv/1 and muster.lease/1 share: questions to JetStream for an instance. Lane only. Private
 * to core/.
 */
#ifndef MUSTER_CORE_HOST_JS_H
#define MUSTER_CORE_HOST_JS_H

#include "base/clock.h"
#include "bus/js.h"
#include "core/instance.h"

/* owner: what its calls end with, see bus_cancel(). */
static inline struct js_target host_js(struct instance *in, const void *owner)
{
    return (struct js_target){.bus = broker_bus(in->broker), .lane = in->lane, .owner = owner, .timeout_ns = 5 * CLOCK_S};
}

/* Log what was refused, in the server's words, once a minute: who asked asks again. No answer is no refusal. */
void host_js_refused(struct instance *in, int code, const struct js_info *info, uint32_t replicas);

/* As many copies as the instance's streams have: what it keeps beside them is about them, and is worth as much. */
uint32_t host_stream_replicas(const struct instance *in);
/* True when the lease of this instance is held now. */
bool host_lease_is_held(struct instance *in, uint64_t lease);
/* True when it is held by the clock, but its broker's connections are others than those under which it was renewed last: another may have
 * taken it meanwhile. The renewal is on its way. */
bool host_lease_is_doubtful(struct instance *in, uint64_t lease);

#endif
