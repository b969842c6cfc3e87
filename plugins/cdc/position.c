/*
 * The record of this slot in the bucket: epoch, and the position never confirmed past it.
 *
 * The record is written before the server is told, so a slot that stands past its record was moved or made by somebody else: a
 * gap, which begins a new epoch and is told as evt.cdc.gap to every tenant. The record also knows how far the stream was, so a
 * stream that was made anew, or goes back, is seen.
 */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cdc/cdc.h"
#include "common/peers.h"

/* ---- the record as text ------------------------------------------------------------------------------------------------- */

static uint64_t number_of(const cJSON *root, const char *key)
{
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, key));

    return s ? strtoull(s, NULL, 10) : 0;
}

/* Numbers are strings: JSON's are doubles, which lose what is past 2^53. */
static bool parse_record(struct muster_bytes value, struct cdc_record *out)
{
    cJSON *root = cJSON_ParseWithLength(value.data, value.len);
    const char *system = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "system"));

    *out = (struct cdc_record){.epoch = number_of(root, "epoch"),
                               .stream_created_ns = (int64_t)number_of(root, "stream_created"),
                               .confirm = number_of(root, "confirm"),
                               .stream_seq = number_of(root, "stream_seq"),
                               .cluster_epoch = number_of(root, "cluster_epoch"),
                               .timeline = (uint32_t)number_of(root, "timeline")};
    if (system)
        (void)snprintf(out->system, sizeof out->system, "%s", system);
    cJSON_Delete(root);
    return out->epoch != 0;
}

static size_t print_record(const struct cdc_record *r, char out[320])
{
    return (size_t)snprintf(out, 320,
                            "{\"epoch\":\"%llu\",\"cluster_epoch\":\"%llu\",\"stream_created\":\"%lld\",\"confirm\":\"%llu\","
                            "\"stream_seq\":\"%llu\",\"timeline\":\"%u\",\"system\":\"%s\"}",
                            (unsigned long long)r->epoch, (unsigned long long)r->cluster_epoch, (long long)r->stream_created_ns,
                            (unsigned long long)r->confirm, (unsigned long long)r->stream_seq, r->timeline, r->system);
}

static void record_key(const struct cdc *c, char out[96])
{
    (void)snprintf(out, 96, "position/%s", c->host->instance);
}

/* When the record still is the one that was read last. */
static int put(struct cdc *c, const char *key, struct muster_bytes value, muster_kv_fn fn, void *arg)
{
    const struct muster_kv_put put = {
        .size = sizeof put, .key = key, .value = value, .revision = c->record_revision, .fn = fn, .arg = arg};

    return c->kv->put(c->host, &put);
}

/* Write next; on_written decides. One write at a time. */
static void write_record(struct cdc *c, const struct cdc_record *next, muster_kv_fn on_written)
{
    struct cdc_ask *ask = cdc_ask_new(c);
    struct cdc_record *about = malloc(sizeof *about);
    char key[96], text[320];
    size_t len = print_record(next, text);
    int err = ask && about ? 0 : MUSTER_ENOMEM;

    record_key(c, key);
    if (!err) {
        *about = *next;
        ask->about = about;
        err = put(c, key, (struct muster_bytes){text, len}, on_written, ask);
    }
    if (!err) {
        c->record_busy = true;
        return;
    }
    (void)cdc_ask_take(ask);
    free(about);
    cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the position could not be written (error %d)", err);
}

/* Take what was written as the record. NULL when this life is over or the write failed, which was told. */
static struct cdc *accept_write(struct cdc_ask *ask, int code, uint64_t revision)
{
    struct cdc_record *about = ask->about;
    struct cdc *c = cdc_ask_take(ask);

    if (c && !code) {
        c->record = *about;
        c->record_revision = revision;
        c->record_busy = false;
    }
    free(about);
    if (c && code == MUSTER_ESTALE)
        cdc_fault(c, MUSTER_HEALTH_DEGRADED, "fenced", "another reader has written the position of slot %s", c->config->slot);
    else if (c && code == MUSTER_ENOMEM)
        sink_full(c);
    else if (c && code)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the position could not be written (error %d)", code);
    return code ? NULL : c;
}

/* ---- at the beginning ---------------------------------------------------------------------------------------------------- */

static const char cluster_changed[] = "cluster_changed";

/* What broke the chain since the record was written; NULL: nothing. */
static const char *break_of(const struct cdc *c, const struct cdc_record *r, const struct muster_stream_info *info)
{
    /* Another cluster; or this one restored, or a standby that was promoted: its log has gone back or is on another timeline,
     * and what the stream has of the lost part was never committed here. */
    if (strcmp(r->system, c->source.system) != 0 || c->source.flushed < r->confirm ||
        (r->timeline && r->timeline != c->source.timeline))
        return cluster_changed;
    if (c->slot_made)
        return "slot_missing";
    if (c->source.slot_confirmed > r->confirm)
        return "slot_advanced";
    if (info->created_wall_ns != r->stream_created_ns)
        return "stream_recreated";
    if (info->last_seq < r->stream_seq)
        return "stream_rewound";
    return NULL;
}

static void start_stream(struct cdc *c, uint64_t seq, struct position tail)
{
    /* What lies before the confirmed position is done, also where retention has cut it from the stream and the slot, which
     * PostgreSQL does not write down at each confirmation, has gone back. */
    struct position done = {c->record.confirm - 1, UINT32_MAX, UINT32_MAX};

    if (c->record.confirm && position_compare(tail, done) < 0)
        tail = done;
    c->confirmed = c->source.slot_confirmed;
    sink_start(c, seq, tail);
    cdc_streams(c);
    source_pause(c, false);
    pump_run(c);
}

static const char *header(const struct muster_msg *msg, const char *name)
{
    for (uint32_t i = 0; i < msg->n_headers; i++)
        if (strcmp(msg->headers[i].name, name) == 0)
            return msg->headers[i].value;
    return "";
}

static void on_tail(void *arg, int code, const struct muster_msg *msg)
{
    struct cdc_ask *ask = arg;
    struct cdc *c = cdc_ask_take(ask);
    struct position tail = {0};

    if (!c)
        return;
    if (code && code != MUSTER_ENOTFOUND) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the stream's last message could not be read (error %d)", code);
        return;
    }
    if (msg && !position_parse(header(msg, "Muster-Lsn"), &tail)) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "stream_foreign",
                  "the stream's last message (sequence %llu) has Muster-Lsn \"%s\": another wrote it; remove that message, or the stream",
                  (unsigned long long)msg->seq, header(msg, "Muster-Lsn"));
        return;
    }
    (void)snprintf(c->tail_subject, sizeof c->tail_subject, "%s", msg ? msg->subject : "");
    (void)snprintf(c->tail_tenant, sizeof c->tail_tenant, "%s", msg && msg->tenant ? c->tenants->name(msg->tenant) : "");
    /* The positions of another cluster mean nothing here. */
    if (msg && strtoull(header(msg, "Muster-Epoch"), NULL, 10) < c->record.cluster_epoch)
        tail = (struct position){0};
    /* A stream that was emptied keeps its count. */
    start_stream(c, msg && msg->seq > c->sink.sent ? msg->seq : c->sink.sent, tail);
}

static void ask_tail(struct cdc *c)
{
    struct cdc_ask *ask = cdc_ask_new(c);
    int err = ask ? c->stream->last(c->host, c->sink.stream, NULL, ">", on_tail, ask) : MUSTER_ENOMEM;

    if (!err)
        return;
    (void)cdc_ask_take(ask);
    cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the stream's last message could not be asked for (error %d)", err);
}

static void on_begun(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct cdc *c = accept_write(arg, code, revision);

    (void)value;
    if (!c)
        return;
    c->slot_made = false; /* the record knows it now */
    if (c->events)
        gap_name_reader(c);
    ask_tail(c);
}

/* Also takes the pen from a reader that has lost the slot. */
void position_write(struct cdc *c, const struct cdc_record *next)
{
    write_record(c, next, on_begun);
}

enum { STREAM_SIZE = 72 };

static const char *name_stream(const struct cdc *c, char out[STREAM_SIZE])
{
    (void)snprintf(out, STREAM_SIZE, c->events ? "EVT" : "CDC_%s", c->host->instance);
    return out;
}

static void stream_failed(struct cdc *c, int code)
{
    char name[STREAM_SIZE];

    if (code == MUSTER_EEXIST)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "stream_conflict", "the stream is there with other settings; rename or remove it");
    else if (code == MUSTER_EAGAIN)
        cdc_fault(c, MUSTER_HEALTH_DOWN, PEERS_FEW, PEERS_FEW_TEXT, name_stream(c, name), (long long)c->config->replicas);
    else if (code == MUSTER_ENOMEM)
        sink_full(c);
    else
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the stream could not be opened (error %d)", code);
}

/* A new epoch, later than all that were; also where the bucket has forgotten them. */
static void begin_epoch(struct cdc *c, struct cdc_record *next, const struct muster_stream_info *info, const char *reason)
{
    uint64_t now_ms = (uint64_t)(c->timer->wall_now(c->host) / CLOCK_MS);

    next->epoch = next->epoch >= now_ms ? next->epoch + 1 : now_ms;
    next->stream_created_ns = info->created_wall_ns;
    next->confirm = c->source.slot_confirmed;
    /* The stream's positions mean nothing to another log; and a slot made now delivers nothing that the stream has. */
    if (reason && (c->slot_made || strcmp(reason, cluster_changed) == 0))
        next->cluster_epoch = next->epoch;
}

/* The stream is there: compare it and the slot with the record, and begin an epoch where the chain is broken. */
static void on_stream(void *arg, int code, const struct muster_stream_info *info)
{
    struct cdc_ask *ask = arg;
    struct cdc *c = cdc_ask_take(ask);
    struct cdc_record next;
    const char *reason;

    if (!c)
        return;
    if (code) {
        stream_failed(c, code);
        return;
    }
    c->sink.sent = info->last_seq;
    if (c->have_record)
        reason = break_of(c, &c->record, info);
    else /* without a record only the first start ever is no gap */
        reason = c->slot_made && !info->last_seq ? NULL : "position_unknown";
    channels_reset(&c->channels, !c->have_record || reason != NULL);
    next = c->record;
    if (!c->have_record || reason)
        begin_epoch(c, &next, info, reason);
    next.stream_seq = info->last_seq;
    (void)snprintf(next.system, sizeof next.system, "%s", c->source.system);
    next.timeline = c->source.timeline;
    if (reason)
        gap_tell(c, reason, &next);
    else
        position_write(c, &next);
}

static void open_stream(struct cdc *c)
{
    char name[STREAM_SIZE], subjects[80];
    struct muster_stream_options o = {.size = sizeof o,
                                      .replicas = (uint32_t)c->config->replicas,
                                      .name = name_stream(c, name),
                                      .subjects = subjects,
                                      .max_age_ns = c->config->retention_ns,
                                      .max_bytes = c->config->max_bytes};
    struct cdc_ask *ask = cdc_ask_new(c);
    int err;

    (void)snprintf(subjects, sizeof subjects, c->events ? "evt.>" : "cdc.%s.>", c->host->instance);
    err = ask ? c->stream->open(c->host, &o, on_stream, ask, &c->sink.stream) : MUSTER_ENOMEM;
    if (!err)
        return;
    (void)cdc_ask_take(ask);
    cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the stream could not be opened (error %d)", err);
}

static void on_record(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct cdc_ask *ask = arg;
    struct cdc *c = cdc_ask_take(ask);

    if (!c)
        return;
    if (code && code != MUSTER_ENOTFOUND) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the position could not be read (error %d)", code);
        return;
    }
    c->record = (struct cdc_record){0};
    c->have_record = !code && parse_record(value, &c->record);
    c->record_revision = code ? 0 : revision;
    open_stream(c);
}

void position_begin(struct cdc *c)
{
    struct cdc_ask *ask = cdc_ask_new(c);
    char key[96];
    int err;

    c->phase = CDC_POSITION;
    c->record_busy = false;
    record_key(c, key);
    err = ask ? c->kv->get(c->host, NULL, key, on_record, ask) : MUSTER_ENOMEM;
    if (!err)
        return;
    (void)cdc_ask_take(ask);
    cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the position could not be asked for (error %d)", err);
}

/* ---- while it runs --------------------------------------------------------------------------------------------------------- */

static void on_confirmed(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct cdc *c = accept_write(arg, code, revision);

    (void)value;
    if (!c)
        return;
    c->confirmed = c->record.confirm;
    source_status(c, c->wal_end, c->confirmed);
}

void position_confirm(struct cdc *c)
{
    struct cdc_record next = c->record;
    uint64_t to = c->sink.frontier;

    if (c->phase != CDC_STREAM || c->record_busy)
        return;
    /* Nothing is open: what the server has sent holds nothing for us. */
    if (!c->in_txn && !c->frame && sink_is_idle(c) && c->wal_end > to)
        to = c->wal_end;
    if (to <= c->record.confirm)
        return;
    next.confirm = to;
    next.stream_seq = c->sink.acked;
    write_record(c, &next, on_confirmed);
}

static void on_checked(void *arg, int code, const struct muster_stream_info *info)
{
    struct cdc_ask *ask = arg;
    struct cdc *c = cdc_ask_take(ask);

    if (!c)
        return;
    if (code == MUSTER_ENOTFOUND || (!code && info->created_wall_ns != c->record.stream_created_ns))
        cdc_fault(c, MUSTER_HEALTH_DOWN, "stream_missing", "the stream was deleted while in use; it is made anew");
    else if (!code && info->last_seq < c->check_acked)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "stream_rewound", "the stream has lost its last messages: it ends at %llu, %llu was acknowledged",
                  (unsigned long long)info->last_seq, (unsigned long long)c->check_acked);
}

/* ---- the lag -------------------------------------------------------------------------------------------------------------- */

/* The log is kept from the beginning of the oldest transaction that was open, which may lie far before what is confirmed. */
static const char lag_sql[] = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn)::bigint,"
                              " pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)::bigint,"
                              " current_setting('synchronous_standby_names')"
                              " FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";

int position_prepare(struct cdc *c)
{
    return c->sql->prepare(c->host, "cdc_lag", MUSTER_SQL_READ, lag_sql, &c->stmt_lag);
}

static void on_lag(void *arg, const struct muster_sql_result *r)
{
    struct cdc *c = arg;
    const char *kept, *unconfirmed;

    if (r->code || !r->n_rows)
        return; /* while PostgreSQL is away the last ones stand */
    kept = r->get(r, 0, 0);
    unconfirmed = r->get(r, 0, 1);
    c->metrics->set(c->host, c->m.lag, NULL, kept ? strtoll(kept, NULL, 10) : 0);
    c->metrics->set(c->host, c->m.unconfirmed, NULL, unconfirmed ? strtoll(unconfirmed, NULL, 10) : 0);
    if (c->source.step == SOURCE_COPYING)
        (void)source_check_standbys(c, r->get(r, 0, 2)); /* the setting may have changed */
}

void position_measure(struct cdc *c)
{
    struct muster_bytes slot = {c->config->slot, strlen(c->config->slot)};

    (void)c->sql->exec(c->host, c->stmt_lag, NULL, NULL, 1, &slot, on_lag, c); /* the next one tells */
}

void position_check(struct cdc *c)
{
    struct cdc_ask *ask = cdc_ask_new(c);

    c->check_acked = c->sink.acked; /* the answer may be older than the acknowledgements that come before it */
    if (!ask || c->stream->info(c->host, c->sink.stream, on_checked, ask) != 0)
        (void)cdc_ask_take(ask); /* the next one tells */
}
