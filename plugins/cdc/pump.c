/*
 * The pump: one decoded message after another, from the replication link to the stream.
 *
 * A message that cannot go on (a full window, a channel, tenant or type that must be asked for) stays in c->frame and is handled
 * again from its part `part` when the answer is there; what was done before is not done twice. Nothing behind it overtakes it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cdc/cdc.h"

enum { TURN_MESSAGES = 2000 };
static const int64_t turn_ns = 5 * CLOCK_MS;

/* ---- waiting ------------------------------------------------------------------------------------------------------------ */

void pump_reset(struct cdc *c)
{
    PQfreemem(c->frame);
    c->frame = NULL;
    c->decoded = c->in_txn = c->foreign = false;
    c->ordinal = c->part = 0;
    c->waits = 0;
    c->wal_end = 0;
    c->tenants_relation = c->tables_relation = 0;
    routes_tenants_changed(c); /* what the log said meanwhile was not heard */
    relations_done(&c->relations);
}

void pump_wait(struct cdc *c, unsigned int what)
{
    c->waits |= what;
    source_pause(c, true);
}

static void go_on(void *arg)
{
    struct cdc *c = arg;

    c->posted = false;
    if (c->phase == CDC_STREAM && !c->waits && !c->draining)
        pump_run(c);
}

void pump_resume(struct cdc *c, unsigned int what)
{
    if (!(c->waits & what))
        return;
    c->waits &= ~what;
    if (c->waits || c->phase != CDC_STREAM || c->draining)
        return;
    source_pause(c, false);
    pump_run(c);
}

/* ---- one message ------------------------------------------------------------------------------------------------------------ */

static int broken(struct cdc *c, const char *what)
{
    cdc_fault(c, MUSTER_HEALTH_DOWN, "protocol", "%s in a pgoutput message of type %c", what, c->msg.type ? c->msg.type : '?');
    return MUSTER_EINVAL;
}

static int on_begin(struct cdc *c)
{
    c->begin = c->msg.begin;
    c->in_txn = true;
    c->foreign = c->visible = false;
    c->invisible_ns = 0;
    c->ordinal = 0;
    return change_txn_set(&c->txn, &c->begin) ? broken(c, "an impossible commit time") : 0;
}

static int on_commit(struct cdc *c)
{
    c->in_txn = false;
    sink_commit(c, c->msg.commit.end_lsn, c->timer->now(c->host));
    return 0;
}

/* The registry's own tables, which CDC_REGISTRY publishes to us. */
static void note_registry(struct cdc *c, const struct relation *rel)
{
    if (strcmp(relation_name(rel, rel->schema), "muster") != 0)
        return;
    if (strcmp(relation_name(rel, rel->table), "tenants") == 0)
        c->tenants_relation = rel->id;
    else if (strcmp(relation_name(rel, rel->table), "tables") == 0)
        c->tables_relation = rel->id;
}

static int on_relation(struct cdc *c)
{
    struct relation *rel;
    int err = relations_put(&c->relations, &c->types, &c->msg, &rel);

    if (err)
        return broken(c, "a table too many");
    note_registry(c, rel);
    return 0;
}

/* Rows and messages: `done` is called again until it no longer waits; then they count, published or not. */
static int counted(struct cdc *c, int err)
{
    if (err)
        return err;
    c->ordinal++;
    c->part = 0;
    return 0;
}

static int handle(struct cdc *c)
{
    switch (c->msg.type) {
    case 'B':
        return on_begin(c);
    case 'C':
        return on_commit(c);
    case 'O':
        c->foreign = true;
        return 0;
    case 'R':
        return on_relation(c);
    case 'Y':
        (void)types_said(&c->types, c->msg.type_name.oid, c->msg.type_name.schema, c->msg.type_name.name); /* without memory: text */
        return 0;
    case 'I':
    case 'U':
    case 'D':
        return counted(c, deliver_row(c));
    case 'T':
        return counted(c, deliver_truncate(c));
    case 'M':
        return counted(c, pump_event(c));
    default:
        return broken(c, "an unknown type");
    }
}

static void on_keepalive(struct cdc *c, const struct pgoutput_frame *frame)
{
    if (frame->end > c->wal_end)
        c->wal_end = frame->end;
    if (frame->reply_now)
        source_status(c, c->wal_end, c->confirmed);
}

/* Handle c->frame. 0: done with it. MUSTER_EAGAIN: it stays. Others: this life is over. */
static int handle_frame(struct cdc *c)
{
    struct pgoutput_frame frame;

    if (!c->decoded) {
        if (pgoutput_frame(c->frame, (size_t)c->frame_len, &frame))
            return broken(c, "an unknown frame");
        if (frame.kind == 'k') {
            on_keepalive(c, &frame);
            return 0;
        }
        if (pgoutput_decode(&c->msg, frame.data, frame.len))
            return broken(c, c->msg.reason);
        c->decoded = true;
    }
    return handle(c);
}

/* Take frames until there are none or the turn is over. True when more may be there. */
static bool turn(struct cdc *c)
{
    int64_t until = c->timer->now(c->host) + turn_ns;

    for (int i = 0; i < TURN_MESSAGES && !c->waits; i++) {
        int err;

        if (!c->frame) {
            c->frame_len = source_next(c, &c->frame);
            if (c->frame_len <= 0)
                return false;
            c->decoded = false;
        }
        err = handle_frame(c);
        if (err)
            return false;
        PQfreemem(c->frame);
        c->frame = NULL;
        if (i % 64 == 63 && c->timer->now(c->host) > until)
            return true;
    }
    return !c->waits;
}

void pump_run(struct cdc *c)
{
    uint32_t generation = c->generation;
    bool more = turn(c);
    int err;

    if (generation != c->generation || c->phase != CDC_STREAM)
        return;
    if (more && (c->posted || c->host->post(c->host, go_on, c) == 0)) {
        c->posted = true; /* one at a time: the socket's readiness runs the pump as well */
        return;
    }
    if (more) { /* frames lie in libpq's buffer, and nothing would wake the pump for them */
        cdc_fault(c, MUSTER_HEALTH_DOWN, "no_memory", "no room to go on with what was read");
        return;
    }
    err = sink_flush(c, true);
    if (err == MUSTER_EAGAIN)
        pump_wait(c, PUMP_WAIT_WINDOW);
    else if (err)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "NATS is away (error %d)", err);
    else if (sink_is_busy(c))
        pump_wait(c, PUMP_WAIT_ACK);
}
