/*
 * Calls whose answer is a frame: open from the frame that asks until the one that answers, or until they are ended here. The plugin's function
 * runs once, or as often as a listing has entries, and never inside the call that asked. On the lane.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "child/host.h"

int call_may_begin(struct child *c, const char *function)
{
    int err = instance_may_begin(&c->in, function);

    if (!err && c->calls.n >= CHILD_MAX_CALLS) {
        c->calls_are_full = true;
        err = MUSTER_EAGAIN;
    }
    return err;
}

struct child_call *call_new(struct child *c, uint16_t answer, void (*end)(struct child *c, struct child_call *call, int code), void *arg)
{
    struct child_call *call = calloc(1, sizeof *call);

    if (!call)
        return NULL;
    call->id = child_next_id(c);
    call->answer = answer;
    call->end = end;
    call->arg = arg;
    if (idmap_put(&c->calls, call->id, call))
        return call;
    free(call);
    return NULL;
}

void call_note(struct child_call *call, const char *about)
{
    size_t len = strnlen(about, sizeof call->about - 1);

    memcpy(call->about, about, len);
    call->about[len] = '\0';
}

int call_send(struct child *c, struct child_call *call, struct frame *f)
{
    int err = child_send(c, f);

    if (err)
        call_done(c, call);
    return err;
}

/* Of a stream that was closed meanwhile the call has ended; its answer is late. */
struct child_call *call_answered(struct child *c, const struct frame_reader *r, bool last)
{
    struct child_call *call = idmap_get(&c->calls, r->id);

    if (call && call->answer != r->type)
        child_confused(frame_name(r->type));
    if (call && last)
        (void)idmap_take(&c->calls, call->id);
    if (c->calls_are_full && c->calls.n <= CHILD_MAX_CALLS / 2) {
        c->calls_are_full = false;
        atomic_store(&c->in.wants_writable, true);
        instance_tell_writable(&c->in);
    }
    return call;
}

void call_done(struct child *c, struct child_call *call)
{
    (void)idmap_take(&c->calls, call->id);
    free(call);
}

static void end(struct child *c, struct child_call *call)
{
    call->end(c, call, MUSTER_ELINK);
    free(call);
}

/* Those that were cancelled; a function may cancel more. */
static void run_ending(struct child *c)
{
    while (c->ending) {
        struct child_call *call = c->ending;

        c->ending = call->next;
        end(c, call);
    }
}

static void run_end_them(struct lane_item *item)
{
    run_ending((struct child *)(void *)((char *)item - offsetof(struct child, end_them)));
}

static void drop_end_them(struct lane_item *item)
{
    (void)item; /* call_cancel_all() has done it */
}

static struct child_call *find_of_stream(const struct child *c, uint64_t stream)
{
    struct child_call *call;

    for (size_t at = 0; (call = idmap_next(&c->calls, &at));)
        if (call->stream == stream)
            return call;
    return NULL;
}

void call_cancel_stream(struct child *c, uint64_t stream)
{
    bool waits = c->ending != NULL; /* the item is on its way then */
    struct child_call **at = &c->ending, *call;

    while (*at)
        at = &(*at)->next;
    while ((call = find_of_stream(c, stream))) {
        (void)idmap_take(&c->calls, call->id);
        *at = call;
        at = &call->next;
    }
    *at = NULL;
    if (waits || !c->ending)
        return;
    c->end_them = (struct lane_item){.run = run_end_them, .drop = drop_end_them};
    lane_push(c->in.lane, &c->end_them);
}

void call_cancel_all(struct child *c)
{
    struct child_call *call;

    run_ending(c);
    while ((call = idmap_first(&c->calls))) {
        (void)idmap_take(&c->calls, call->id);
        end(c, call);
    }
    run_ending(c);
}
