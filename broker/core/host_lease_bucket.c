/*
 * The record of a lease in the bucket muster_leases, key <plugin>.<name>: read as its stream has it last, and written where it is still the one
 * that was read. Where there is no record there may be no bucket, which is made then; once leases are held it gets as many replicas as the streams
 * that are written under them. Lane only.
 */
#include <stdio.h>

#include "core/host_js.h"
#include "core/host_lease.h"
#include "lease/record.h"

#define STREAM "KV_muster_leases"
#define ALL "$KV.muster_leases.>"
static const int64_t call_max_ns = 5 * CLOCK_S, grow_again_ns = 10 * CLOCK_S; /* longer than it is waited for */

static struct js_target target(struct host_lease *h)
{
    struct js_target t = host_js(h->in, h);

    t.timeout_ns = h->lease.ttl_ns / 5 < call_max_ns ? h->lease.ttl_ns / 5 : call_max_ns;
    return t;
}

static void on_bucket(void *arg, int code, const struct js_info *info)
{
    struct host_lease *h = arg;
    struct lease_record none = {0};

    if (code)
        host_js_refused(h->in, code, info, host_stream_replicas(h->in));
    lease_heard_of(h, code ? (code == MUSTER_ENOTFOUND ? MUSTER_ELINK : code) : MUSTER_ENOTFOUND, &none);
}

static int ensure(const struct js_target *t, uint32_t replicas, js_info_fn fn, void *arg)
{
    static const char *const subjects[] = {ALL};
    struct js_config config = {
        .name = STREAM, .subjects = subjects, .n_subjects = 1, .max_msgs_per_subject = 1, .replicas = replicas, .is_kv = true};

    return js_ensure(t, &config, fn, arg);
}

/* Where there is no record, there may be no bucket either. */
static void make_bucket(struct host_lease *h)
{
    struct js_target t = target(h);
    struct lease_record none = {0};
    int err = h->lease.releasing || h->in->ending ? MUSTER_ENOTFOUND : ensure(&t, host_stream_replicas(h->in), on_bucket, h);

    if (err)
        lease_heard_of(h, err, &none);
}

/* What is no record, because somebody else's tool has put it there, counts as one of an unknown holder. */
static int read_record(struct host_lease *h, const struct js_msg *msg, struct lease_record *out)
{
    int err;

    *out = (struct lease_record){.ttl_ns = h->lease.ttl_ns, .held = true};
    err = lease_record_read(msg->data, out);
    out->revision = msg->seq;
    return err == MUSTER_ENOMEM ? err : 0;
}

static void on_read(void *arg, int code, const struct js_msg *msg)
{
    struct host_lease *h = arg;
    struct lease_record record = {0};

    if (code == MUSTER_ENOTFOUND) {
        make_bucket(h);
        return;
    }
    if (!code && js_msg_header(msg, "KV-Operation")) {
        record.revision = msg->seq;
        code = MUSTER_ENOTFOUND;
    } else if (!code) {
        code = read_record(h, msg, &record);
    }
    lease_heard_of(h, code, &record);
}

static void on_grown(void *arg, int code, const struct js_info *info)
{
    struct instance *in = arg;

    if (code)
        host_js_refused(in, code, info, in->lease_asked);
    else
        in->lease_replicas = in->lease_asked;
}

/* Leases are taken before streams are made, and the bucket may be older than the streams' replicas. */
static void grow(struct instance *in)
{
    struct js_target t = host_js(in, in);
    uint32_t replicas = host_stream_replicas(in);
    int64_t now_ns = clock_now_ns();

    if (replicas <= 1 || replicas <= in->lease_replicas || now_ns < in->lease_grow_ns || in->ending)
        return;
    in->lease_grow_ns = now_ns + grow_again_ns;
    in->lease_asked = replicas;
    (void)ensure(&t, replicas, on_grown, in); /* if not, after the next renewal */
}

static void on_written(void *arg, int code, uint64_t revision)
{
    struct host_lease *h = arg;

    if (!code)
        grow(h->in);
    lease_was_written(h, code, revision);
}

int lease_bucket_write(struct host_lease *h, const struct lease_record *record)
{
    char fence[24];
    struct muster_header header = {"Nats-Expected-Last-Subject-Sequence", fence};
    struct js_target t = target(h);
    struct buf body = {0};
    int err;

    (void)snprintf(fence, sizeof fence, "%llu", (unsigned long long)record->revision);
    lease_record_write(record, broker_id(h->in->broker), &body);
    err = buf_failed(&body) ? MUSTER_ENOMEM
                            : js_append(&t, BUS_LIVE,
                                        &(struct bus_out){.subject = h->subject,
                                                          .headers = &header,
                                                          .n_headers = 1,
                                                          .payload = {body.data, body.len},
                                                          .fence = -1},
                                        on_written, h);
    buf_done(&body);
    return err;
}

int lease_bucket_read(struct host_lease *h)
{
    struct js_target t = target(h);

    return js_last(&t, STREAM, h->subject, on_read, h);
}
