/*
 * cdc/cdc.h - one instance of the cdc plugin: what its parts share. Everything runs on the instance's lane.
 *
 * Parts    source.c   the replication link: connect, checks, slot, START_REPLICATION, frames in, status out
 *          sink.c     the fenced stream: tail, appends, window, frontier of what may be confirmed
 *          position.c the record in the key-value bucket: epoch and confirmed position; finds gaps
 *          gap.c      evt.cdc.gap to every tenant
 *          channel.c  Muster-Seq per channel and the head notices
 *          route.c    whose row is it: tables' settings and tenants
 *          pump.c     one decoded message after another, from source to sink
 *          fault.c    what went wrong, told once, with how to mend it
 *
 * Life     source connects and gets the slot; then position and tail are read; then the pump runs. Any failure anywhere ends in
 *          cdc_restart(): everything is dropped and built again from the slot and the stream, the same way as after a crash.
 */
#ifndef MUSTER_CDC_CDC_H
#define MUSTER_CDC_CDC_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/map.h"
#include "base/name.h"
#include "cdc/change.h"
#include "cdc/channel.h"
#include "cdc/route.h"
#include "cdc/sink.h"
#include "cdc/source.h"

struct cdc_config {
    const char *publication, *slot, *tenant_column, *unroutable_tenant;
    int32_t snapshot, origin, encoding;
    int64_t retention_ns, max_bytes, replicas, window_msgs, window_bytes;
    struct muster_map tables; /* of struct route_setting */
    struct muster_list messages;
};

enum { ORIGIN_ANY, ORIGIN_NONE };
enum { ENCODING_JSON, ENCODING_MSGPACK };

/* The publication of muster.tenants and muster.tables, read beside the configured one. */
#define CDC_REGISTRY "muster_registry"

enum cdc_phase {
    CDC_WAIT,     /* for the retry timer, NATS or the registry */
    CDC_SOURCE,   /* the replication link is being made */
    CDC_POSITION, /* slot is ours; record and tail are being read */
    CDC_STREAM,   /* the pump runs */
};

/* A message with all its bytes, from when it is written until the sink has sent it. */
struct draft {
    struct buf body, key, subject, lsn;
    char epoch[BUF_U64_SIZE], seq[BUF_U64_SIZE];
    struct muster_header headers[4];
};

/* How far a truncate is: the tables before `table` are done, and of that one the tenants up to `tenant`, in the order of names. By
 * name, because tenants may come and go before it goes on. */
struct truncate_at {
    uint32_t table;
    char tenant[NAME_MAX_LEN + 1];
};

/* What the record in the bucket says; position.c. */
struct cdc_record {
    uint64_t epoch;
    uint64_t cluster_epoch; /* messages of earlier epochs have positions of another cluster; 0: there is none */
    int64_t stream_created_ns;
    uint64_t confirm;    /* never confirmed past this */
    uint64_t stream_seq; /* of the stream when it was written */
    char system[32];     /* system identifier of the cluster */
    uint32_t timeline;   /* of its log; 0: not known */
};

struct cdc_metrics {
    uint64_t published, skipped, unroutable, refused, questions, restarts, gaps, lag, unconfirmed, window, commit_to_ack;
};

struct cdc {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_stream *stream;
    const struct muster_kv *kv;
    const struct muster_timer *timer;
    const struct muster_io *io;
    const struct muster_tenants *tenants;
    const struct muster_metrics *metrics;
    const struct muster_sql *sql;
    const struct muster_codec *codec;
    const struct cdc_config *config;
    struct cdc_metrics m;
    bool events; /* this instance publishes messages, not rows */

    enum cdc_phase phase;
    int64_t backoff_ns; /* 0: no fault since the last proof */
    int64_t since_ns;   /* when CDC_WAIT or CDC_STREAM began */
    bool proven;
    uint64_t retry_timer; /* 0: none */
    uint32_t generation;  /* raised by cdc_restart(): answers to older questions are dropped */
    bool link_up;
    bool draining;
    bool slot_made; /* by us, and the record does not know it yet; survives restarts */
    uint64_t tables_serial; /* of muster.tables and the tenants; 0: the registry is not there yet */

    struct source source;
    struct sink sink;
    struct channels channels;
    struct routes routes;

    /* position.c */
    struct cdc_record record;
    bool have_record, record_busy;
    uint64_t record_revision;
    uint64_t check_acked;
    char tail_subject[512], tail_tenant[NAME_MAX_LEN + 1]; /* of the stream's last message at the take-over; "": none, gone */
    struct gap *gap; /* about to be told; owned */
    uint64_t stmt_reader;
    uint64_t confirmed; /* what the last status said; never above record.confirm */

    /* pump.c */
    struct pgoutput msg;
    struct relations relations;
    struct types types;
    struct change_txn txn;
    char *frame;  /* the CopyData message being handled, libpq's; NULL: take the next */
    int frame_len;
    bool decoded; /* msg holds what frame says */
    bool posted;  /* the pump is to run again */
    struct pgoutput_begin begin;
    bool in_txn, foreign;
    bool visible;         /* the database shows the present transaction: what is looked up is not older */
    int64_t invisible_ns; /* since when it does not; 0: not asked yet */
    uint32_t tenants_relation, tables_relation; /* ids of the registry's tables; 0: not described yet */
    struct truncate_at truncate;
    uint32_t ordinal, part; /* of the message being handled; parts below `part` are done */
    uint64_t wal_end;       /* the server's, as far as it told */
    unsigned int waits;     /* PUMP_WAIT_*: what the pump waits for */
    uint32_t ticket;        /* of the question that the pump asked last; from 1 */
    uint64_t stmt_types, stmt_key, stmt_table, stmt_gone, stmt_visible, stmt_lag;
    struct out out; /* writes the bodies */
    struct draft drafts[2];  /* one is written while the sink may hold the other */
    uint32_t draft;          /* the one that is free */
};

/* Who asked something, and in which life: an answer to an older one is dropped. */
struct cdc_ask {
    struct cdc *c;
    uint32_t generation;
    uint32_t ticket; /* catalog.c: of the question */
    void *about;     /* the asker's; borrowed */
};
struct cdc_ask *cdc_ask_new(struct cdc *c);
/* Free the ask and return the instance, or NULL when the answer comes too late. */
struct cdc *cdc_ask_take(struct cdc_ask *ask);

/* Drop what is under way and begin again after the backoff; the fault has been told. */
void cdc_restart(struct cdc *c);
/* Tell a fault by health() and restart. state is MUSTER_HEALTH_*. */
void cdc_fault(struct cdc *c, int state, const char *code, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* The pump begins to run. After a fault nothing is said before it has shown that it works: otherwise a fault that comes back with
 * the first change would be told again and again. */
void cdc_streams(struct cdc *c);
/* Something was acknowledged, or nothing has gone wrong for a while: forget the backoff, say how the instance is. */
void cdc_proven(struct cdc *c);
/* Say how the instance is, when it works. */
void cdc_say(struct cdc *c);

/* fault.c: what a SQLSTATE and message of the replication link mean. */
struct fault {
    const char *code;
    int state;
    const char *help;
};
struct fault fault_of(const char *sqlstate, const char *message);

/* position.c */
/* The slot is ours: read record and tail, then start the pump. */
void position_begin(struct cdc *c);
/* Every second and at the end: bring the record, then the server, up to what is acknowledged. */
void position_confirm(struct cdc *c);
int position_prepare(struct cdc *c);
/* Every 5 s, also while nothing can be read: how much log the server keeps for the slot. It is asked, because the replication link
 * says nothing while the pump waits. */
void position_measure(struct cdc *c);
/* Every 5 s: is the stream still what it was? A deleted one would show with the next change only. */
void position_check(struct cdc *c);

/* The chain is whole, or the gap is told: write the record, read the tail, run. */
void position_write(struct cdc *c, const struct cdc_record *next);

/* gap.c */
int gap_prepare(struct cdc *c);
/* Tell every tenant, then write the record. */
void gap_tell(struct cdc *c, const char *reason, const struct cdc_record *next);
void gap_reset(struct cdc *c);
/* Of the instance of events: let the others know its slot. */
void gap_name_reader(struct cdc *c);

/* deliver.c: one message to the sink. MUSTER_EAGAIN: the pump waits. */
struct delivery {
    const struct muster_tenant *tenant;
    const char *channel;         /* name */
    uint32_t columns_version;    /* of the relation; 0: no columns to tell */
    const struct change *change; /* NULL: body and key stand in the draft already */
    const char *op, *token;      /* last tokens of the subject; op NULL: none */
};
/* Publish part c->part of the present message, unless the stream has it; then the next part is due. */
int deliver(struct cdc *c, const struct delivery *d, int (*build)(struct cdc *c, const struct delivery *d, bool list_columns));
static inline struct draft *cdc_draft(struct cdc *c)
{
    return &c->drafts[c->draft];
}
/* MessagePack where tenant or instance says so. */
uint32_t deliver_encoding(struct cdc *c, const struct muster_tenant *tenant);
/* deliver_rows.c */
int deliver_row(struct cdc *c);
int deliver_truncate(struct cdc *c);

/* catalog.c */
int catalog_prepare(struct cdc *c);
/* Before a question about a row: a commit stands in the log before the database shows it. 0: what is asked now is not older than
 * the present transaction. MUSTER_EAGAIN: the pump waits. */
int catalog_sees(struct cdc *c);
/* Make the route of a table ready before its first row: settings, types, key. MUSTER_EAGAIN: the pump waits. */
int catalog_settle(struct cdc *c, struct relation *rel, struct route *r);
/* Look at the refused tables again: one may be mapped by now, or published no more, also when no row of it comes. */
void catalog_review(struct cdc *c);

/* pump.c */
enum {
    PUMP_WAIT_WINDOW = 1,   /* the window or the outbox is full */
    PUMP_WAIT_CHANNEL = 2,  /* a channel's last position is asked for */
    PUMP_WAIT_TENANT = 4,   /* a tenant is asked for */
    PUMP_WAIT_CATALOG = 8,  /* settings, types or a primary key are asked for, or the transaction is not visible yet */
    PUMP_WAIT_ACK = 16,     /* bursts enough are under way; what comes meanwhile makes the next one */
};
void pump_reset(struct cdc *c);
/* Handle frames until there are none, something must be waited for, or the turn is over. */
void pump_run(struct cdc *c);
void pump_wait(struct cdc *c, unsigned int what);
/* The wait is over; runs the pump. */
void pump_resume(struct cdc *c, unsigned int what);
int pump_event(struct cdc *c); /* pump_event.c: one logical message */

#endif
