/* One message to the sink: channel, window, body, headers. */
#include <string.h>

#include "cdc/cdc.h"

enum { MAX_KEY_HEADER = 4096 };

uint32_t deliver_encoding(struct cdc *c, const struct muster_tenant *tenant)
{
    struct muster_tenant_limits limits = {.size = sizeof limits};

    if (c->config->encoding == ENCODING_MSGPACK)
        return MUSTER_MSGPACK;
    return c->tenants->limits(c->host, tenant, &limits) == 0 && limits.encoding == MUSTER_MSGPACK ? MUSTER_MSGPACK : MUSTER_JSON;
}

/* Send what is held and hold the draft in its place. */
static int hold(struct cdc *c, const struct muster_append *append, struct position p)
{
    int err = sink_flush(c, false);

    if (err == MUSTER_EAGAIN || (!err && sink_is_full(c))) {
        pump_wait(c, PUMP_WAIT_WINDOW);
        return MUSTER_EAGAIN;
    }
    if (err) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "NATS is away (error %d)", err);
        return err;
    }
    sink_hold(c, append, p);
    c->draft ^= 1;
    return 0;
}

static void put_subject(struct buf *b, const struct delivery *d)
{
    buf_clear(b);
    buf_puts(b, d->channel);
    if (d->op) {
        buf_putc(b, '.');
        buf_puts(b, d->op);
    }
    buf_putc(b, '.');
    buf_puts(b, d->token);
}

/* "0/16B3748/3/0" */
static void put_position(struct buf *b, struct position p)
{
    char lsn[PGOUTPUT_LSN_SIZE];
    size_t n = pgoutput_print_lsn(p.lsn, lsn);

    buf_clear(b);
    buf_put(b, lsn, n);
    buf_putc(b, '/');
    buf_put_u64(b, p.ordinal);
    buf_putc(b, '/');
    buf_put_u64(b, p.part);
}

static uint32_t put_headers(struct cdc *c, struct draft *m, uint64_t seq, struct position p)
{
    put_position(&m->lsn, p);
    m->headers[0] = (struct muster_header){"Muster-Epoch", buf_u64(c->record.epoch, m->epoch)};
    m->headers[1] = (struct muster_header){"Muster-Seq", buf_u64(seq, m->seq)};
    m->headers[2] = (struct muster_header){"Muster-Lsn", m->lsn.data};
    m->headers[3] = (struct muster_header){"Muster-Key", m->key.data};
    return m->key.len && m->key.len <= MAX_KEY_HEADER ? 4 : 3; /* the body has it too */
}

/* The channel with its count; MUSTER_EAGAIN while that is asked for. */
static int find_channel(struct cdc *c, const struct delivery *d, struct channel **ret_channel)
{
    struct channel *ch = channel_get(c, d->tenant, d->channel);

    if (!ch) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "no_memory", "channel %s: no memory, or more than %d channels", d->channel, CHANNELS_MAX);
        return MUSTER_ENOMEM;
    }
    if (!ch->ready) {
        pump_wait(c, PUMP_WAIT_CHANNEL);
        channel_ask(c, ch);
        return MUSTER_EAGAIN;
    }
    *ret_channel = ch;
    return 0;
}

int deliver(struct cdc *c, const struct delivery *d, int (*build)(struct cdc *c, const struct delivery *d, bool list_columns))
{
    struct position p = {c->begin.final_lsn, c->ordinal, c->part};
    struct draft *m = cdc_draft(c);
    struct muster_append append = {.size = sizeof append, .tenant = d->tenant, .headers = m->headers};
    struct channel *ch;
    int err;

    if (sink_has(c, p)) {
        c->metrics->add(c->host, c->m.skipped, NULL, 1);
        c->part++;
        return 0;
    }
    err = find_channel(c, d, &ch);
    if (!err)
        err = build(c, d, ch->columns_version != d->columns_version);
    if (err)
        return err;
    put_subject(&m->subject, d);
    append.n_headers = put_headers(c, m, ch->seq + 1, p);
    append.subject = m->subject.data;
    append.payload = (struct muster_bytes){m->body.data, m->body.len};
    if (buf_failed(&m->subject) || buf_failed(&m->body) || buf_failed(&m->key) || buf_failed(&m->lsn)) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "no_memory", "no memory for a change of %s", d->channel);
        return MUSTER_ENOMEM;
    }
    err = hold(c, &append, p);
    if (err)
        return err;
    ch->seq++;
    ch->columns_version = d->columns_version;
    c->part++;
    return 0;
}
