/*
 * core/lane.h - a thread with an event loop: where one plugin instance lives.
 *
 * Shape    Work comes in as items on two queues: control items (posts, completions of what the lane asked for; bounded by who
 *          makes them) and messages (core/inbox.h; bounded there). Timers and file descriptors are libuv's, on lane_loop().
 * Threads  lane_push() and lane_wake() from any thread; everything else on the lane, or before it runs.
 * Stalls   lane_enter()/lane_leave() bracket every plugin callback. A watcher reads lane_busy(): who has been in there how long.
 * Memory   An item is owned by the lane from lane_push() on; run() or, when the lane ends first, drop() releases it.
 */
#ifndef MUSTER_CORE_LANE_H
#define MUSTER_CORE_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct lane;

struct lane_item {
    struct lane_item *next;
    void (*run)(struct lane_item *item);
    void (*drop)(struct lane_item *item); /* NULL: run() does for both */
};

/* Where a lane is: read by the crash handler (its own thread) and by the stall watcher (any thread, racy by design: the
 * strings are static or live as long as the instance). */
struct lane_crumb {
    const char *plugin, *version, *source_id, *instance, *callback;
    char subject[160];
};

int lane_new(const char *name, struct lane **ret_lane);
/* Start the thread. */
int lane_start(struct lane *lane);
/* Run every item that is queued, end the thread, close the loop. Items pushed later are dropped. */
void lane_stop(struct lane *lane);
/* As lane_stop(), but MUSTER_ETIME when it has not ended by then: it hangs, and must not be freed. */
int lane_stop_until(struct lane *lane, int64_t deadline_ns);
void lane_free(struct lane *lane);

const char *lane_name(const struct lane *lane);
uv_loop_t *lane_loop(struct lane *lane);
bool lane_here(const struct lane *lane); /* true on the lane's own thread */
void lane_push(struct lane *lane, struct lane_item *item);
void lane_wake(struct lane *lane);
/* Lanes that this thread wakes from now on are woken by lane_let_wakes(): once for a run of messages, and not while more come. lane_free()
 * waits for it. */
void lane_hold_wakes(void);
void lane_let_wakes(void);
/* As lane_wake(), for what may wait for some milliseconds: the lane is woken when many have come, or by lane_let_late_wakes(). A thread that
 * does not hold wakes wakes it at once. */
void lane_wake_late(struct lane *lane);
/* Wake those that have waited for long enough, at INT64_MAX all. False: nobody waits any more. */
bool lane_let_late_wakes(int64_t now_ns);
/* Call fn on each turn after the control items; it delivers some messages and returns true while there are more. */
void lane_on_turn(struct lane *lane, bool (*fn)(void *arg), void *arg);
/* Run fn(arg) on the lane and wait for it; on the lane itself, and before it runs, it is called at once. For start, stop and
 * tests. MUSTER_ENOMEM: it was not called. */
int lane_call(struct lane *lane, int (*fn)(void *arg), void *arg);
/* As lane_call(), but MUSTER_ETIME when it has not returned by then; it may run or go on after that, so arg must stay. */
int lane_call_until(struct lane *lane, int (*fn)(void *arg), void *arg, int64_t deadline_ns);

/* subject may be NULL. Nested calls are counted; the outermost is what is told. */
void lane_enter(struct lane *lane, const struct lane_crumb *who, const char *callback, const char *subject);
void lane_leave(struct lane *lane);
/* Nanoseconds that the present callback has been running, 0 when none is. *ret_who is a copy. Any thread. */
int64_t lane_busy(struct lane *lane, struct lane_crumb *ret_who);
/* Nanoseconds since the lane was asked for a sign of life, 0 when it has given it; it is asked again then. Sees what no callback is
 * bracketed for. One watcher, any thread. */
int64_t lane_silence(struct lane *lane);
/* The crumb of the calling thread, NULL outside a callback. Async-signal-safe. */
const struct lane_crumb *lane_crumb_here(void);
uint64_t lane_turns(const struct lane *lane);

#endif
