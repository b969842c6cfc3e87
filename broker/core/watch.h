/*
 * core/watch.h - the thread that sees when a lane hangs, an instance's or the broker's own. It looks after the heap, too (core/heap.h).
 *
 * A callback that runs longer than WATCH_WARN_NS is logged with its name; longer than WATCH_STALL_NS, the lane is stalled: /readyz and
 * muster_lane_stalled say which plugin, version, callback and subject. A stuck thread cannot be killed safely; whoever runs the
 * broker restarts it. The others go on: nothing is shared with the stuck lane.
 */
#ifndef MUSTER_CORE_WATCH_H
#define MUSTER_CORE_WATCH_H

struct broker;
struct watch;

#define WATCH_WARN_NS (INT64_C(250) * 1000000)
#define WATCH_STALL_NS (INT64_C(2) * 1000000000)

int watch_new(struct broker *broker, struct watch **ret_watch);
void watch_free(struct watch *watch);

#endif
