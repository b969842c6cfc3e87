/*
 * follow(), unfollow() and hold_back() of muster.stream/1, over core/follower.h. Lane only.
 */
#include <stdlib.h>
#include <string.h>

#include "core/follower.h"
#include "core/host_stream.h"

enum { DEFAULT_MSGS = 500, MAX_MSGS = 5000, MAX_FOLLOWS = 256 };
static const int64_t timeout_ns = 2 * CLOCK_S; /* a server that does not answer is soon asked again */

struct host_follow {
    struct host_follow *next;
    uint64_t id, stream;
    struct instance *in;
    struct follower *follower;
    muster_stream_follow_fn fn;
    void *arg;
};

static void on_told(void *arg, int code, const struct js_msg *from)
{
    struct host_follow *h = arg;
    struct instance *in = h->in;
    struct muster_msg msg;

    if (from)
        host_stream_show(in, from, &msg);
    instance_enter(in, "stream follow", from ? msg.subject : NULL);
    h->fn(h->arg, code, from ? &msg : NULL); /* it may be freed in there */
    instance_leave(in);
}

static void remove_at(struct host_follow **at)
{
    struct host_follow *h = *at;

    *at = h->next;
    follower_free(h->follower);
    free(h);
}

static struct host_follow **find(struct instance *in, uint64_t id)
{
    struct host_follow **at = &in->follows;

    while (*at && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

static int count(const struct instance *in)
{
    int n = 0;

    for (const struct host_follow *h = in->follows; h; h = h->next)
        n++;
    return n;
}

static int begin(struct host_follow *h, const struct host_stream *s, const char *subject, uint64_t from_seq, uint32_t max_msgs)
{
    struct js_target t = host_js(h->in, h);
    const struct follower_how how = {.stream = s->name,
                                     .subject = *subject ? subject : NULL,
                                     .handover = broker_handover(h->in->broker),
                                     .from_seq = from_seq,
                                     .max_msgs = max_msgs ? max_msgs : DEFAULT_MSGS,
                                     .fn = on_told,
                                     .arg = h};

    t.timeout_ns = timeout_ns;
    return bus_is_up(t.bus, BUS_LIVE) ? follower_new(&t, &how, &h->follower) : MUSTER_ELINK;
}

int host_stream_follow(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                       uint64_t from_seq, uint32_t max_msgs, muster_stream_follow_fn fn, void *arg, uint64_t *ret_follow)
{
    struct instance *in = instance_of(host);
    const struct host_stream *s;
    char full[HOST_STREAM_MAX_SUBJECT];
    struct host_follow *h;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    s = host_stream_find(in, stream);
    if (!s || !fn || max_msgs > MAX_MSGS)
        return host->fail(host, MUSTER_EINVAL, "follow(): expected an open stream, a function, and 0 to %d messages", MAX_MSGS);
    if (count(in) >= MAX_FOLLOWS)
        return host->fail(host, MUSTER_EINVAL, "follow(): stream %s: the instance follows %d already", s->name, MAX_FOLLOWS);
    err = host_stream_wanted(in, s, tenant, subject, full);
    if (err)
        return err;
    h = calloc(1, sizeof *h);
    if (!h)
        return MUSTER_ENOMEM;
    *h = (struct host_follow){.next = in->follows, .id = ++in->next_id, .stream = stream, .in = in, .fn = fn, .arg = arg};
    err = begin(h, s, full, from_seq, max_msgs);
    if (err) {
        free(h);
        return err;
    }
    in->follows = h;
    *ret_follow = h->id;
    return 0;
}

void host_stream_unfollow(const struct muster_host *host, uint64_t follow)
{
    struct instance *in = instance_of(host);
    struct host_follow **at;

    if (!ON_LANE(in))
        return;
    at = find(in, follow);
    if (*at)
        remove_at(at);
}

void host_stream_hold_back(const struct muster_host *host, uint64_t follow, uint32_t on)
{
    struct instance *in = instance_of(host);
    const struct host_follow *h;

    if (!ON_LANE(in))
        return;
    h = *find(in, follow);
    if (h)
        follower_hold(h->follower, on != 0);
}

void host_follow_close(struct instance *in, uint64_t stream)
{
    struct host_follow **at = &in->follows;

    while (*at)
        if (!stream || (*at)->stream == stream)
            remove_at(at);
        else
            at = &(*at)->next;
}
