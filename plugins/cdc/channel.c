/* Counts of channels and head notices; see channel.h. */
#include "cdc/channel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cdc/cdc.h"

enum { KEEP_BATCH = 50 }; /* writes to the bucket a call */

static void channel_free(struct channel *ch)
{
    if (!ch)
        return;
    free(ch->name);
    free(ch->filter);
    free(ch);
}

void channels_done(struct channels *channels)
{
    void *ch;

    for (size_t at = 0; map_next(&channels->by_name, &at, NULL, &ch);)
        channel_free(ch);
    map_done(&channels->by_name);
    memset(channels->recent, 0, sizeof channels->recent);
}

void channels_reset(struct channels *channels, bool fresh)
{
    channels_done(channels);
    channels->fresh = fresh;
}

static struct channel *channel_new(const struct muster_tenant *tenant, const char *name)
{
    struct channel *ch = calloc(1, sizeof *ch);
    size_t len = strlen(name);

    if (!ch)
        return NULL;
    ch->tenant = tenant;
    ch->name = strdup(name);
    ch->filter = malloc(len + 3);
    if (!ch->name || !ch->filter) {
        channel_free(ch);
        return NULL;
    }
    memcpy(ch->filter, name, len);
    memcpy(ch->filter + len, ".>", 3);
    return ch;
}

/* ---- the bucket ---------------------------------------------------------------------------------------------------------- */

static void channel_key(const struct cdc *c, const struct channel *ch, char out[256])
{
    (void)snprintf(out, 256, "head/%s/%s/%s", c->host->instance, c->tenants->name(ch->tenant), ch->name);
}

static void on_keep(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    (void)arg;
    (void)code; /* an older count is in the bucket: a lost write makes a hole one day, never a number twice */
    (void)value;
    (void)revision;
}

static int write_count(struct cdc *c, struct channel *ch, muster_kv_fn fn, void *arg)
{
    char key[256], value[80];
    int n = snprintf(value, sizeof value, "%llu %llu %llu", (unsigned long long)c->record.epoch, (unsigned long long)ch->seq,
                     (unsigned long long)c->sink.sent);
    struct muster_kv_put put = {
        .size = sizeof put, .key = key, .value = {value, 0}, .revision = MUSTER_UNFENCED, .fn = fn, .arg = arg};

    channel_key(c, ch, key);
    put.value.len = (size_t)n;
    return c->kv->put(c->host, &put);
}

/* Write down the count; nothing waits for it. */
static void keep(struct cdc *c, struct channel *ch)
{
    if (write_count(c, ch, on_keep, NULL) == 0)
        ch->kept = ch->seq;
}

struct channel *channel_get(struct cdc *c, const struct muster_tenant *tenant, const char *name)
{
    struct channels *all = &c->channels;
    struct channel **recent = &all->recent[((uintptr_t)tenant >> 6) % CHANNELS_RECENT], *ch = *recent;
    char key[512];
    int n;

    if (ch && ch->tenant == tenant && strcmp(ch->name, name) == 0)
        return ch;
    n = snprintf(key, sizeof key, "%s %s", c->tenants->name(tenant), name);
    if (n < 0 || (size_t)n >= sizeof key)
        return NULL;
    ch = map_get(&all->by_name, key, (size_t)n);
    if (!ch) {
        ch = all->by_name.n < CHANNELS_MAX ? channel_new(tenant, name) : NULL;
        if (!ch || !map_put(&all->by_name, key, (size_t)n, ch)) {
            channel_free(ch);
            return NULL;
        }
    }
    *recent = ch;
    return ch;
}

/* ---- where a channel stands -------------------------------------------------------------------------------------------- */

static void ready(struct cdc *c, struct channel *ch, uint64_t seq)
{
    ch->seq = ch->pending = seq;
    ch->told = seq ? seq - 1 : 0; /* the last one may not have been told before a crash */
    ch->ready = true;
    pump_resume(c, PUMP_WAIT_CHANNEL);
}

static void on_first_keep(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct cdc_ask *ask = arg;
    struct channel *ch = ask->about;
    struct cdc *c = cdc_ask_take(ask);

    (void)value;
    (void)revision;
    if (c && code)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the beginning of channel %s could not be written (error %d)", ch->name, code);
    else if (c)
        ready(c, ch, 0);
}

/* It has no message in this epoch: the bucket must say that there is such a channel before it has, so that a count which
 * retention has cut from the stream is never begun a second time. */
static void begin_channel(struct cdc *c, struct channel *ch)
{
    struct cdc_ask *ask = cdc_ask_new(c);
    int err;

    ch->seq = 0;
    if (ask)
        ask->about = ch;
    err = ask ? write_count(c, ch, on_first_keep, ask) : MUSTER_ENOMEM;
    if (!err)
        return;
    (void)cdc_ask_take(ask);
    cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the beginning of channel %s could not be written (error %d)", ch->name, err);
}

/* The bucket's count holds when all that was stored since then is still there, as none of it is the channel's. */
static void on_cut(void *arg, int code, const struct muster_stream_info *info)
{
    struct cdc_ask *ask = arg;
    struct channel *ch = ask->about;
    struct cdc *c = cdc_ask_take(ask);

    if (!c)
        return;
    if (code)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the stream could not be looked at for channel %s (error %d)", ch->name, code);
    else if (info->first_seq <= ch->kept_at + 1 && info->n_msgs == info->last_seq + 1 - info->first_seq)
        ready(c, ch, ch->seq);
    else /* no channel has more messages than the stream ever had */
        ready(c, ch, c->sink.sent);
}

static void ask_cut(struct cdc *c, struct channel *ch)
{
    struct cdc_ask *ask = cdc_ask_new(c);
    int err;

    if (ask)
        ask->about = ch;
    err = ask ? c->stream->info(c->host, c->sink.stream, on_cut, ask) : MUSTER_ENOMEM;
    if (!err)
        return;
    (void)cdc_ask_take(ask);
    cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the stream could not be asked about for channel %s (error %d)", ch->name, err);
}

/* "<epoch> <seq> <stream's seq>"; another epoch's count does not go on. */
static void on_kept(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct cdc_ask *ask = arg;
    struct channel *ch = ask->about;
    struct cdc *c = cdc_ask_take(ask);
    unsigned long long epoch = 0, seq = 0, at = 0;
    char text[80] = "";

    (void)revision;
    if (!c)
        return;
    if (code && code != MUSTER_ENOTFOUND) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the position of channel %s could not be read (error %d)", ch->name, code);
        return;
    }
    if (!code && value.len < sizeof text)
        memcpy(text, value.data, value.len);
    if (sscanf(text, "%llu %llu %llu", &epoch, &seq, &at) != 3 || epoch != c->record.epoch) {
        begin_channel(c, ch);
        return;
    }
    ch->seq = seq;
    ch->kept_at = at;
    ask_cut(c, ch);
}

static void ask_bucket(struct cdc *c, struct channel *ch)
{
    struct cdc_ask *ask = cdc_ask_new(c);
    char key[256];
    int err;

    channel_key(c, ch, key);
    if (ask)
        ask->about = ch;
    err = ask ? c->kv->get(c->host, NULL, key, on_kept, ask) : MUSTER_ENOMEM;
    if (!err)
        return;
    (void)cdc_ask_take(ask);
    cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the position of channel %s could not be asked for (error %d)", ch->name, err);
}

static uint64_t header_number(const struct muster_msg *msg, const char *name)
{
    for (uint32_t i = 0; i < msg->n_headers; i++)
        if (strcmp(msg->headers[i].name, name) == 0)
            return strtoull(msg->headers[i].value, NULL, 10);
    return 0;
}

static void on_last(void *arg, int code, const struct muster_msg *msg)
{
    struct cdc_ask *ask = arg;
    struct channel *ch = ask->about;
    struct cdc *c = cdc_ask_take(ask);

    if (!c)
        return;
    if (code == MUSTER_ENOTFOUND)
        ask_bucket(c, ch);
    else if (code)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the last message of channel %s could not be read (error %d)", ch->name, code);
    else if (header_number(msg, "Muster-Epoch") != c->record.epoch)
        begin_channel(c, ch);
    else
        ready(c, ch, header_number(msg, "Muster-Seq"));
}

void channel_ask(struct cdc *c, struct channel *ch)
{
    struct cdc_ask *ask;
    int err;

    if (ch->asked)
        return;
    if (c->channels.fresh) {
        ch->asked = true;
        begin_channel(c, ch);
        return;
    }
    ask = cdc_ask_new(c);
    if (ask)
        ask->about = ch;
    err = ask ? c->stream->last(c->host, c->sink.stream, ch->tenant, ch->filter, on_last, ask) : MUSTER_ENOMEM;
    if (!err) {
        ch->asked = true;
        return;
    }
    (void)cdc_ask_take(ask);
    cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the last message of channel %s could not be asked for (error %d)", ch->name, err);
}

/* ---- head notices ------------------------------------------------------------------------------------------------------- */

struct heads {
    struct cdc *c;
    struct out out;
    struct buf body;
    const struct muster_tenant *tenant;
    size_t at, n; /* of the open map: where it began, how many channels it has */
};

static void flush_heads(struct heads *h)
{
    struct muster_publication pub = {.size = sizeof pub, .tenant = h->tenant, .subject = "evt._.head"};

    if (!h->n)
        return;
    out_close(&h->out, OUT_MAP, h->at, h->n);
    pub.payload = (struct muster_bytes){h->body.data, h->body.len};
    if (!buf_failed(&h->body))
        (void)h->c->bus->publish(h->c->host, &pub); /* a notice; the next one says more */
    h->n = 0;
}

static void begin_heads(struct heads *h, const struct muster_tenant *tenant)
{
    h->tenant = tenant;
    h->out.encoding = deliver_encoding(h->c, tenant);
    buf_clear(&h->body);
    out_to(&h->out, &h->body);
    h->at = out_open(&h->out, OUT_MAP);
}

static void add_head(struct heads *h, struct channel *ch, uint64_t to)
{
    size_t at;

    if (ch->tenant != h->tenant || h->body.len > 60000)
        flush_heads(h);
    if (!h->n)
        begin_heads(h, ch->tenant);
    out_key(&h->out, ch->name, strlen(ch->name));
    at = out_open(&h->out, OUT_MAP);
    OUT_KEY(&h->out, "epoch");
    out_u64(&h->out, h->c->record.epoch);
    OUT_KEY(&h->out, "seq");
    out_u64(&h->out, to);
    out_close(&h->out, OUT_MAP, at, 2);
    h->n++;
    ch->told = to;
}

/* Channels of one tenant need not stand together in the table: gather them tenant by tenant would cost a sort, so a tenant may
 * get several notices, each true. */
void channels_tell(struct cdc *c)
{
    struct heads h = {.c = c};
    int64_t now = c->timer->now(c->host);
    bool all = sink_is_idle(c), settled = all || c->sink.acked >= c->channels.mark;
    int n_kept = 0;
    void *value;

    /* Only what is stored is told: now, where nothing is under way; otherwise the counts of the last time, once stored. */
    if (settled)
        c->channels.mark = c->sink.sent + (c->sink.held ? 1 : 0);
    for (size_t at = 0; map_next(&c->channels.by_name, &at, NULL, &value);) {
        struct channel *ch = value;

        uint64_t to = all ? ch->seq : settled ? ch->pending : ch->told;

        if (!ch->ready)
            continue;
        if (settled)
            ch->pending = ch->seq;
        if (to != ch->told) {
            add_head(&h, ch, to);
            ch->moved_ns = now;
        } else if (ch->seq != ch->kept && now - ch->moved_ns > CHANNEL_IDLE_S * CLOCK_S && n_kept < KEEP_BATCH) {
            keep(c, ch);
            n_kept++;
        }
    }
    flush_heads(&h);
    out_done(&h.out);
    buf_done(&h.body);
}
