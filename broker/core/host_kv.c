/*
 * muster.kv/1: the plugin's small keys in two buckets of its own, muster_<plugin> and, for what belongs to tenants, muster__<plugin> with
 * keys <tenant>.<key> (no plugin's name begins with an underscore). Lane only.
 *
 * Expiry     nats-server has none for single messages before 2.11: the header Muster-Expires holds the wall clock's nanoseconds. Whoever
 *            reads an entry past that takes it for gone, and removes it. Until then a put that names its revision finds it still: nobody
 *            else has written since.
 * Bounds     Values wait here until they are acknowledged, 16 MiB of an instance; a put beyond is MUSTER_EAGAIN, and on_writable follows.
 * Deletes    leave the marker that NATS clients know (KV-Operation: DEL). It is as good as no key here.
 * Rubbish    An instance that deletes, or writes what expires, sweeps the bucket from time to time, so that it does not grow for ever
 *            (host_kv_sweep.c).
 */
#include "core/host_kv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/name.h"
#include "core/host_js.h"
#include "tenant/tenant.h"

enum { MAX_VALUE = 65536, MAX_TRIES = 4, MAX_PURGES = 256 };
static const size_t max_sent_bytes = 16u << 20; /* of one instance's values that are not acknowledged yet */
#define EXPIRES "Muster-Expires"

/* ---- names and entries ------------------------------------------------------------------------------------------------- */

void host_kv_bucket(const struct instance *in, bool tenants, struct kv_bucket *out)
{
    (void)snprintf(out->stream, sizeof out->stream, tenants ? "KV_muster__%s" : "KV_muster_%s", in->plugin->name);
    (void)snprintf(out->prefix, sizeof out->prefix, "$KV.%s.", out->stream + strlen("KV_"));
}

/* Write the subject of a key, or with key "" what every key of the tenant begins with. */
static void place(const struct instance *in, const struct muster_tenant *tenant, const char *key, struct kv_bucket *bucket,
                  char out[KV_SUBJECT_SIZE])
{
    host_kv_bucket(in, tenant != NULL, bucket);
    (void)snprintf(out, KV_SUBJECT_SIZE, "%s%s%s%s", bucket->prefix, tenant ? tenants_name(tenant) : "", tenant ? "." : "", key);
}

/* The bucket of leases has the form that this plugin's own would have. */
static bool has_bucket(const struct instance *in)
{
    return strcmp(in->plugin->name, "leases") != 0;
}

int64_t host_kv_expires(const struct js_msg *msg)
{
    const char *expires = js_msg_header(msg, EXPIRES);

    return expires ? strtoll(expires, NULL, 10) : 0;
}

bool host_kv_is_marker(const struct js_msg *msg)
{
    const char *operation = js_msg_header(msg, "KV-Operation");

    return operation && (strcmp(operation, "DEL") == 0 || strcmp(operation, "PURGE") == 0);
}

static bool is_expired(const struct js_msg *msg)
{
    int64_t expires = host_kv_expires(msg);

    return expires && expires <= clock_wall_ns();
}

/* Best effort: who reads it next tries again. */
static void purge(struct instance *in, const char *stream, const struct js_msg *msg)
{
    struct js_target t = host_js(in, in);

    (void)js_purge(&t, stream, msg->subject, msg->seq + 1, NULL, NULL);
}

/* ---- one key ------------------------------------------------------------------------------------------------------------- */

/* One call under way. A put or a del: the bucket is made or found, the message sent; what a fence refused is looked at, because a
 * marker or an expired entry is no key. */
struct op {
    struct instance *in;
    muster_kv_fn fn;
    void *arg;
    struct kv_bucket bucket;
    char subject[KV_SUBJECT_SIZE];
    bool del, tenants;
    uint64_t revision; /* as asked */
    uint64_t expected; /* as sent */
    int64_t ttl_ns;
    uint64_t lease;
    int tries;
    size_t len;
    char value[];
};

static struct op *op_new(struct instance *in, const struct muster_tenant *tenant, const struct muster_kv_put *put)
{
    struct op *op = malloc(sizeof *op + put->value.len);

    if (!op)
        return NULL;
    *op = (struct op){.in = in,
                      .fn = put->fn,
                      .arg = put->arg,
                      .tenants = tenant != NULL,
                      .revision = put->revision,
                      .expected = put->revision,
                      .ttl_ns = put->ttl_ns,
                      .lease = put->lease,
                      .len = put->value.len};
    place(in, tenant, put->key, &op->bucket, op->subject);
    in->n_kv_bytes += op->len;
    if (op->len) /* data may be NULL otherwise, which memcpy() does not take */
        memcpy(op->value, put->value.data, op->len);
    return op;
}

static void op_free(struct op *op)
{
    struct instance *in = op->in;

    in->n_kv_bytes -= op->len;
    free(op);
    if (!in->kv_starved || in->n_kv_bytes > max_sent_bytes / 2)
        return;
    in->kv_starved = false;
    instance_has_room(in);
}

static void finish(struct op *op, int code, struct muster_bytes value, uint64_t revision)
{
    instance_enter(op->in, "kv", op->subject);
    op->fn(op->arg, code, value, revision);
    instance_leave(op->in);
    op_free(op);
}

static void end(struct op *op, int code, uint64_t revision)
{
    finish(op, code, (struct muster_bytes){0}, code ? 0 : revision);
}

/* As end(), where nothing may have run yet. */
static int began(struct op *op, int err)
{
    err = instance_sent(op->in, BUS_LIVE, err);
    if (err)
        op_free(op);
    return err;
}

static int refuse_key(const struct muster_host *host, const char *call, const char *key)
{
    if (!has_bucket(instance_of(host)))
        return host->fail(host, MUSTER_EINVAL, "%s: a plugin named \"leases\" has no keys: the bucket muster_leases is the broker's", call);
    return host->fail(host, MUSTER_EINVAL,
                      "%s: key \"%.210s\": expected a function, and 1 to %d of A-Z a-z 0-9 _ . / = ~ -, no dot at either end and no two together",
                      call, key ? key : "", NAME_KEY_MAX);
}

static void on_value(void *arg, int code, const struct js_msg *msg)
{
    struct op *op = arg;
    bool expired = !code && is_expired(msg);

    if (expired && !op->in->ending)
        purge(op->in, op->bucket.stream, msg);
    if (!code && (expired || host_kv_is_marker(msg)))
        code = MUSTER_ENOTFOUND;
    if (code)
        end(op, code, 0);
    else
        finish(op, 0, msg->data, msg->seq);
}

static int kv_get(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, muster_kv_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    struct js_target t = host_js(in, in);
    struct op *op;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!fn || !has_bucket(in) || !name_is_key(key))
        return refuse_key(host, "get()", key);
    op = op_new(in, tenant, &(struct muster_kv_put){.key = key, .fn = fn, .arg = arg});
    if (!op)
        return MUSTER_ENOMEM;
    return began(op, js_last(&t, op->bucket.stream, op->subject, on_value, op));
}

static void on_stored(void *arg, int code, uint64_t seq);

static int send_write(struct op *op)
{
    struct js_target t = host_js(op->in, op->in);
    struct muster_header headers[2];
    struct bus_out out = {.subject = op->subject, .headers = headers, .payload = {op->value, op->len}, .fence = -1};
    int64_t expires_ns = clock_wall_ns() + op->ttl_ns;
    char fence[24], expires[24];

    if (op->lease && !host_lease_is_held(op->in, op->lease))
        return MUSTER_ESTALE;
    if (op->lease && host_lease_is_doubtful(op->in, op->lease))
        return MUSTER_ELINK;
    (void)snprintf(fence, sizeof fence, "%llu", (unsigned long long)op->expected);
    (void)snprintf(expires, sizeof expires, "%lld", (long long)expires_ns);
    if (op->expected != MUSTER_UNFENCED)
        headers[out.n_headers++] = (struct muster_header){"Nats-Expected-Last-Subject-Sequence", fence};
    if (op->del)
        headers[out.n_headers++] = (struct muster_header){"KV-Operation", "DEL"};
    else if (op->ttl_ns)
        headers[out.n_headers++] = (struct muster_header){EXPIRES, expires};
    return js_append(&t, BUS_LIVE, &out, on_stored, op);
}

static void send_or_end(struct op *op)
{
    int err = op->in->ending ? MUSTER_ELINK : send_write(op);

    if (err)
        end(op, err, 0);
}

/* What stood there when the fence refused. code: 0, and msg is no key, or MUSTER_ENOTFOUND. */
static void over_what_is_gone(struct op *op, uint64_t seq)
{
    if (op->del) {
        end(op, 0, 0); /* removed already */
    } else if (op->revision == 0 && op->tries++ < MAX_TRIES) {
        op->expected = seq;
        send_or_end(op);
    } else {
        end(op, MUSTER_ESTALE, 0);
    }
}

static void on_refused(void *arg, int code, const struct js_msg *msg)
{
    struct op *op = arg;

    if (code == MUSTER_ENOTFOUND)
        over_what_is_gone(op, 0);
    else if (code)
        end(op, code, 0);
    else if (host_kv_is_marker(msg) || is_expired(msg))
        over_what_is_gone(op, msg->seq);
    else
        end(op, MUSTER_ESTALE, 0);
}

static void on_stored(void *arg, int code, uint64_t seq)
{
    struct op *op = arg;
    struct js_target t = host_js(op->in, op->in);
    int err;

    if (!code && (op->del || op->ttl_ns))
        host_kv_swept_later(op->in, op->tenants);
    if (code != MUSTER_ESTALE || (op->revision != 0 && !op->del) || op->in->ending) {
        end(op, code, seq);
        return;
    }
    err = js_last(&t, op->bucket.stream, op->subject, on_refused, op);
    if (err)
        end(op, err, 0);
}

static void on_bucket(void *arg, int code, const struct js_info *info)
{
    struct op *op = arg;

    if (!code) {
        send_or_end(op);
        return;
    }
    host_js_refused(op->in, code, info, host_stream_replicas(op->in));
    (void)op->in->host.fail(&op->in->host, code, "%s", info->text); /* kept for the plugin to tell */
    end(op, code, 0);
}

/* The bucket is made, or found, before each write: they are rare, and a bucket that was removed comes back. */
static int write_key(struct op *op)
{
    char all[KV_SUBJECT_SIZE];
    const char *subjects[] = {all};
    struct js_config config = {.name = op->bucket.stream,
                               .subjects = subjects,
                               .n_subjects = 1,
                               .max_msgs_per_subject = 1,
                               .replicas = host_stream_replicas(op->in),
                               .is_kv = true};
    struct js_target t = host_js(op->in, op->in);

    (void)snprintf(all, sizeof all, "%s>", op->bucket.prefix);
    return began(op, js_ensure(&t, &config, on_bucket, op));
}

static int check_put(const struct muster_host *host, const struct muster_kv_put *put)
{
    struct instance *in = instance_of(host);

    if (!MUSTER_HAS(put, arg))
        return host->fail(host, MUSTER_EINVAL, "put(): its size is %u, expected at least %zu", put->size, sizeof *put);
    if (!put->fn || !has_bucket(in) || !name_is_key(put->key))
        return refuse_key(host, "put()", put->key);
    if (put->value.len > MAX_VALUE)
        return host->fail(host, MUSTER_EINVAL, "put(): key \"%s\": a value of %zu bytes, expected at most %d", put->key, put->value.len, MAX_VALUE);
    if (put->ttl_ns && (put->ttl_ns < CLOCK_S || put->ttl_ns > INT64_MAX / 2))
        return host->fail(host, MUSTER_EINVAL, "put(): key \"%s\": ttl_ns %lld, expected 0 or at least 1 s", put->key, (long long)put->ttl_ns);
    if (put->lease && !host_lease_is_held(in, put->lease))
        return host->fail(host, MUSTER_ESTALE, "put(): key \"%s\": its lease is not held now", put->key);
    return 0;
}

static int kv_put(const struct muster_host *host, const struct muster_kv_put *put)
{
    struct instance *in = instance_of(host);
    struct op *op;
    int err = MAY_BEGIN(in);

    if (!err)
        err = check_put(host, put);
    if (!err && in->n_kv_bytes + put->value.len > max_sent_bytes) {
        in->kv_starved = true;
        err = MUSTER_EAGAIN;
    }
    if (err)
        return err;
    op = op_new(in, put->tenant, put);
    return op ? write_key(op) : MUSTER_ENOMEM;
}

static int kv_del(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, uint64_t revision, muster_kv_fn fn,
                  void *arg)
{
    struct instance *in = instance_of(host);
    struct op *op;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!fn || !has_bucket(in) || !name_is_key(key))
        return refuse_key(host, "del()", key);
    op = op_new(in, tenant, &(struct muster_kv_put){.key = key, .revision = revision, .fn = fn, .arg = arg});
    if (!op)
        return MUSTER_ENOMEM;
    op->del = true;
    return write_key(op);
}

/* ---- every key ------------------------------------------------------------------------------------------------------------ */

/* One pass over the sequences that the bucket has when it begins: a key that is written meanwhile moves behind its end. One message is
 * asked for at a time, so a scan holds one value and costs a round trip a key. */
struct scan {
    struct instance *in;
    muster_kv_scan_fn fn;
    void *arg;
    struct kv_bucket bucket;
    char filter[KV_SUBJECT_SIZE];
    char prefix[KV_SUBJECT_SIZE]; /* of the subjects that are told */
    size_t skip;                  /* bytes of a subject in front of its key */
    uint64_t next_seq, last_seq;
    int purged;
};

static void tell_entry(struct scan *s, int code, const struct muster_kv_entry *entry)
{
    instance_enter(s->in, "kv scan", entry ? entry->key : NULL);
    s->fn(s->arg, code, entry);
    instance_leave(s->in);
}

static void end_scan(struct scan *s, int code)
{
    tell_entry(s, code, NULL);
    free(s);
}

static void on_entry(void *arg, int code, const struct js_msg *msg);

static void scan_on(struct scan *s)
{
    struct js_target t = host_js(s->in, s->in);
    int err = MUSTER_ELINK;

    if (s->next_seq > s->last_seq) {
        end_scan(s, 0);
        return;
    }
    if (!s->in->ending)
        err = instance_sent(s->in, BUS_LIVE, js_next(&t, s->bucket.stream, s->filter, s->next_seq, on_entry, s));
    if (err)
        end_scan(s, err);
}

static void look_at_entry(struct scan *s, const struct js_msg *msg)
{
    struct muster_kv_entry entry = {.size = sizeof entry,
                                    .key = msg->subject + s->skip,
                                    .value = msg->data,
                                    .revision = msg->seq,
                                    .expires_wall_ns = host_kv_expires(msg)};

    if (host_kv_is_marker(msg) || strncmp(msg->subject, s->prefix, strlen(s->prefix)) != 0)
        return;
    if (!is_expired(msg))
        tell_entry(s, 0, &entry);
    else if (s->purged++ < MAX_PURGES)
        purge(s->in, s->bucket.stream, msg);
}

static void on_entry(void *arg, int code, const struct js_msg *msg)
{
    struct scan *s = arg;

    if (code == MUSTER_ENOTFOUND || (!code && msg->seq > s->last_seq)) {
        end_scan(s, 0);
    } else if (code) {
        end_scan(s, code);
    } else {
        s->next_seq = msg->seq + 1;
        look_at_entry(s, msg);
        scan_on(s);
    }
}

static void on_scanned_bucket(void *arg, int code, const struct js_info *info)
{
    struct scan *s = arg;

    if (code && code != MUSTER_ENOTFOUND) {
        end_scan(s, code);
        return;
    }
    s->next_seq = 1;
    s->last_seq = code ? 0 : info->state.last_seq; /* without a bucket there are no keys */
    scan_on(s);
}

static bool prefix_is_legal(const char *prefix)
{
    return name_is_key_prefix(prefix);
}

static int kv_scan(const struct muster_host *host, const struct muster_tenant *tenant, const char *prefix, muster_kv_scan_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    struct js_target t = host_js(in, in);
    struct scan *s;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!fn || !has_bucket(in) || !prefix_is_legal(prefix))
        return refuse_key(host, "scan()", prefix);
    s = calloc(1, sizeof *s);
    if (!s)
        return MUSTER_ENOMEM;
    *s = (struct scan){.in = in, .fn = fn, .arg = arg};
    place(in, tenant, "", &s->bucket, s->prefix);
    s->skip = strlen(s->prefix);
    place(in, tenant, prefix, &s->bucket, s->prefix);
    /* The server sorts out by whole tokens, the rest is done here. */
    (void)snprintf(s->filter, sizeof s->filter, "%.*s>", (int)(strrchr(s->prefix, '.') + 1 - s->prefix), s->prefix);
    err = instance_sent(in, BUS_LIVE, js_get_info(&t, s->bucket.stream, on_scanned_bucket, s));
    if (err)
        free(s);
    return err;
}

const struct muster_kv host_kv = {.size = sizeof host_kv, .get = kv_get, .put = kv_put, .del = kv_del, .scan = kv_scan};
