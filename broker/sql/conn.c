/*
 * One connection of the pool and its pipeline; see parts.h.
 *
 * Every statement that is sent leaves an op, and each answer belongs to the oldest op. Work comes in three forms, where | is a
 * sync, after which the server takes up work again that an error has made it skip:
 *
 *   read    tenant and read-only, statement |               the implicit transaction of a pipeline segment
 *   batch   BEGIN, lock_timeout, (tenant, statement)… | COMMIT |
 *   alone   BEGIN, lock_timeout, tenant, statement    | COMMIT |
 *
 * COMMIT has a segment of its own so that it is carried out after an error too, as the ROLLBACK that it then is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "sql/parts.h"
#include "sql/result.h"

/* The server keeps its answers until a sync, or until they fill 8 kB. A flush asks for them earlier, so that a slow batch is not
 * taken for a dead link, and costs a system call on each side: halfway through a batch only as often as is needed to hear
 * something every 50 ms, as the last batches went, and never less than every 16 items. */
enum { STRIDE_MAX = 16 };
static const int64_t hear_ns = 50 * CLOCK_MS;

static const char stmt_tenant[] = "muster_tenant", stmt_reader[] = "muster_reader", stmt_lock[] = "muster_lock";

static void push(struct conn *c, uint32_t kind, struct item *item, uint32_t stmt)
{
    ASSERT(c->tail - c->head < OPS_MAX);
    if (conn_is_idle(c))
        c->progress_ns = clock_now_ns();
    c->ops[c->tail++ % OPS_MAX] = (struct op){.kind = kind, .item = item, .stmt = stmt};
    c->dirty = true;
}

/* A send that fails (no memory) leaves the pipeline cut short; the connection is given up at the next flush. */
static void check_sent(struct conn *c, int sent)
{
    if (!sent)
        c->send_failed = true;
}

static void send_sync(struct conn *c, uint32_t kind)
{
    push(c, kind, NULL, 0);
    check_sent(c, PQpipelineSync(c->pg));
}

static void send_text(struct conn *c, uint32_t kind, struct item *item, const char *text)
{
    push(c, kind, item, 0);
    check_sent(c, PQsendQueryParams(c->pg, text, 0, NULL, NULL, NULL, NULL, 0));
}

static void send_own(struct conn *c, struct item *item, const char *name, const char *value)
{
    push(c, OP_PRELUDE, item, 0);
    check_sent(c, PQsendQueryPrepared(c->pg, name, value ? 1 : 0, &value, NULL, NULL, 0));
}

static void plan_name(const struct conn *c, uint32_t id, char out[32])
{
    snprintf(out, 32, "s%u_%u", id, c->plans[id].generation);
}

/* Prepare the item's statement where this connection has not yet. Taken for done at once: what follows in the pipeline
 * comes after it. */
static void ensure_plan(struct conn *c, const struct item *item)
{
    const struct stmt *stmt = item->stmt;
    char name[32];

    if (c->plans[stmt->id].prepared)
        return;
    c->plans[stmt->id].prepared = true;
    plan_name(c, stmt->id, name);
    push(c, OP_PREPARE, NULL, stmt->id);
    check_sent(c, PQsendPrepare(c->pg, name, stmt->text, 0, NULL));
    send_sync(c, OP_SYNC);
}

static void send_item(struct conn *c, uint32_t kind, struct item *item)
{
    char name[32];

    plan_name(c, item->stmt->id, name);
    push(c, kind, item, 0);
    check_sent(c, PQsendQueryPrepared(c->pg, name, (int)item->n_values, item->values, NULL, NULL, 0));
}

void conn_send_read(struct conn *c, struct item *item)
{
    ensure_plan(c, item);
    send_own(c, item, stmt_reader, item->tenant);
    send_item(c, OP_READ, item);
    send_sync(c, OP_SYNC);
    c->n_reads++;
}

static void send_begin(struct conn *c, struct item *item)
{
    send_text(c, OP_PRELUDE, item, "BEGIN ISOLATION LEVEL READ COMMITTED");
    send_own(c, item, stmt_lock, NULL);
}

static void send_commit(struct conn *c, uint32_t kind, struct item *item)
{
    send_sync(c, OP_SYNC);
    send_text(c, kind, item, "COMMIT");
    send_sync(c, OP_SYNC);
}

static void send_alone(struct conn *c, struct item *item)
{
    ensure_plan(c, item);
    send_begin(c, item);
    send_own(c, item, stmt_tenant, item->tenant);
    send_item(c, OP_WRITE, item);
    send_commit(c, OP_COMMIT_ALONE, item);
}

/* Setting it again costs a tenth of what an item does. */
static bool is_set(const struct item *before, const struct item *item)
{
    return before->stmt->keeps && strcmp(before->tenant, item->tenant) == 0;
}

void conn_send_batch(struct conn *c)
{
    struct batch *b = &c->batch;

    b->failed = false;
    b->n_alone = 0;
    c->batch_ns = clock_now_ns();
    if (b->n == 1) { /* its failure needs no second run to find the guilty one */
        b->n_alone = 1;
        send_alone(c, b->items[0]);
        return;
    }
    for (unsigned int i = 0; i < b->n; i++)
        ensure_plan(c, b->items[i]);
    send_begin(c, NULL);
    for (unsigned int i = 0; i < b->n; i++) {
        if (i == 0 || !is_set(b->items[i - 1], b->items[i]))
            send_own(c, b->items[i], stmt_tenant, b->items[i]->tenant);
        send_item(c, OP_WRITE, b->items[i]);
        if ((i + 1) % c->stride == 0 && i + 1 < b->n) /* the last one is before a sync */
            check_sent(c, PQsendFlushRequest(c->pg));
    }
    send_commit(c, OP_COMMIT, NULL);
}

/* The server has forgotten a plan, or a migration changed what it returns: make another, once for an item. */
static bool plan_is_stale(struct conn *c, struct item *item)
{
    const char *state = item->answer ? result_sqlstate(item->answer) : "";
    struct plan *plan = &c->plans[item->stmt->id];

    if (item->replanned || item->stmt->refused || (strcmp(state, "26000") != 0 && strcmp(state, "0A000") != 0))
        return false;
    item->replanned = true;
    plan->prepared = false;
    plan->generation++;
    return true;
}

static void on_prepared(struct conn *c, const struct op *op, PGresult *answer)
{
    struct stmt *stmt = c->sql->stmts[op->stmt];

    PQclear(stmt->refused);
    stmt->refused = NULL;
    if (result_is_error(answer)) {
        c->plans[op->stmt].prepared = false;
        stmt->refused = answer;
        return;
    }
    PQclear(answer);
}

static void on_read(struct conn *c, struct item *item)
{
    c->n_reads--;
    if (plan_is_stale(c, item))
        sql_requeue(c->sql, item);
    else
        item_finish(c->sql, item);
}

static void release_batch(struct conn *c)
{
    c->batch.n = 0;
    c->sql->n_batches[c->batch.load]--;
}

static void on_committed(struct conn *c)
{
    struct item *items[BATCH_ITEMS];
    unsigned int n = c->batch.n;

    memcpy(items, c->batch.items, n * sizeof *items);
    release_batch(c); /* before the callbacks, which may queue the next items */
    for (unsigned int i = 0; i < n; i++)
        item_finish(c->sql, items[i]);
}

static void run_alone(struct conn *c)
{
    struct batch *b = &c->batch;

    b->n_alone = b->n;
    c->sql->stats.retries += b->n;
    for (unsigned int i = 0; i < b->n; i++) {
        item_reset(b->items[i]);
        send_alone(c, b->items[i]);
    }
}

static bool is_commit(const PGresult *answer)
{
    return !result_is_error(answer) && strcmp(PQcmdStatus((PGresult *)answer), "COMMIT") == 0;
}

/* After a batch that went through. A fast one is not believed at once: twice as many as before at most. */
static void choose_stride(struct conn *c)
{
    int64_t item_ns = (clock_now_ns() - c->batch_ns) / c->batch.n + 1;
    unsigned int most = c->stride * 2 < STRIDE_MAX ? c->stride * 2 : STRIDE_MAX;

    c->stride = most;
    if (item_ns > hear_ns / most)
        c->stride = item_ns < hear_ns ? (unsigned int)(hear_ns / item_ns) : 1;
}

static void on_commit(struct conn *c, PGresult *answer)
{
    bool done = !c->batch.failed && is_commit(answer);

    PQclear(answer);
    if (done) {
        choose_stride(c);
        on_committed(c);
    } else {
        run_alone(c);
    }
}

static void on_commit_alone(struct conn *c, struct item *item, PGresult *answer)
{
    bool done = is_commit(answer);

    if (!done && result_is_error(answer))
        item_answer(item, answer); /* a deferred constraint speaks only now */
    else
        PQclear(answer);
    if (plan_is_stale(c, item)) {
        item_reset(item);
        send_alone(c, item);
        return;
    }
    if (--c->batch.n_alone == 0)
        release_batch(c);
    if (done || item_failed(item))
        item_finish(c->sql, item);
    else
        item_finish_error(c->sql, item, MUSTER_EINVAL, "the transaction was rolled back");
}

/* An answer to the item of op, or an error of what prepares the ground for it. */
static void on_item_answer(struct conn *c, const struct op *op, PGresult *answer)
{
    bool of_read = op->item && op->item->stmt->kind == SQL_READ; /* one may stand beside a batch */

    if (result_is_error(answer) && !of_read)
        c->batch.failed = true;
    if (op->item && (op->kind != OP_PRELUDE || result_is_error(answer)))
        item_answer(op->item, answer);
    else
        PQclear(answer);
}

static void on_ready(struct conn *c)
{
    c->ready = true;
    sql_conn_up(c->sql, c->n_ups++ > 0);
}

static void on_answer(struct conn *c, const struct op *op, PGresult *answer)
{
    switch (op->kind) {
    case OP_PREPARE:
        on_prepared(c, op, answer);
        break;
    case OP_PRELUDE:
    case OP_WRITE:
        on_item_answer(c, op, answer);
        break;
    case OP_READ:
        on_item_answer(c, op, answer);
        on_read(c, op->item);
        break;
    case OP_COMMIT:
        on_commit(c, answer);
        break;
    case OP_COMMIT_ALONE:
        on_commit_alone(c, op->item, answer);
        break;
    default:
        PQclear(answer);
        if (op->kind == OP_READY)
            on_ready(c);
        break;
    }
}

/* True when the connection cannot go on after this answer to op, and has been given up. */
static bool answer_ends_link(struct conn *c, const struct op *op, const PGresult *answer)
{
    bool want_sync = op->kind == OP_SYNC || op->kind == OP_READY;
    bool is_sync = PQresultStatus(answer) == PGRES_PIPELINE_SYNC;

    if (result_ends_link(answer)) {
        c->told = *result_sqlstate(answer) != '\0';
        pglink_lost(c->link, PQresultErrorMessage(answer));
    } else if (op->kind == OP_SETUP && result_is_error(answer)) {
        pglink_lost(c->link, PQresultErrorMessage(answer));
    } else if (want_sync != is_sync) {
        pglink_lost(c->link, "answers out of step");
    } else {
        return false;
    }
    return true;
}

/* NULL ends the answers to one statement, and twice in a row all that is there. */
static bool on_input(void *arg, PGconn *pg)
{
    struct conn *c = arg;
    bool ended = false;

    if (c->send_failed) {
        pglink_lost(c->link, PQerrorMessage(pg));
        return false;
    }
    while (!PQisBusy(pg)) {
        PGresult *answer = PQgetResult(pg);

        if (!answer && (ended || conn_is_idle(c)))
            break;
        ended = !answer;
        if (ended)
            continue;
        if (conn_is_idle(c)) { /* an error without a question: the server is leaving */
            pglink_lost(c->link, PQresultErrorMessage(answer));
            PQclear(answer);
            return false;
        }

        const struct op op = c->ops[c->head % OPS_MAX];

        if (answer_ends_link(c, &op, answer)) {
            PQclear(answer);
            return false;
        }
        c->head++; /* before the callbacks: what they see is what is still awaited */
        c->progress_ns = clock_now_ns();
        c->sql->queued = true; /* an answer makes room for what waits */
        on_answer(c, &op, answer);
    }

    bool sent = c->dirty;

    c->dirty = false;
    return sent;
}

static void send_setup(struct conn *c, const char *name, const char *text)
{
    push(c, OP_SETUP, NULL, 0);
    check_sent(c, PQsendPrepare(c->pg, name, text, 0, NULL));
}

static void on_up(void *arg, PGconn *pg)
{
    struct conn *c = arg;

    c->pg = pg;
    if (!PQenterPipelineMode(pg))
        c->send_failed = true;
    send_text(c, OP_SETUP, NULL,
              "SELECT set_config('statement_timeout', '10s', false),"
              " set_config('idle_in_transaction_session_timeout', '10s', false)");
    send_setup(c, stmt_tenant, "SELECT set_config('app.current_tenant', $1, true)");
    send_setup(c, stmt_reader,
               "SELECT set_config('app.current_tenant', $1, true), set_config('transaction_read_only', 'on', true)");
    send_setup(c, stmt_lock, "SELECT set_config('lock_timeout', '50ms', true)");
    send_sync(c, OP_READY);
}

/* Whether the item was carried out is known to be "no": try again, in front, unless it has cost too many connections. */
static void retry(struct conn *c, struct item *item, const char *reason)
{
    item_reset(item);
    if (c->sql->closing || ++item->tries >= TRIES_MAX) {
        item_finish_error(c->sql, item, MUSTER_ELINK, reason);
        return;
    }
    c->sql->stats.retries++;
    sql_requeue(c->sql, item);
}

static void abandon(struct conn *c, struct item *item, bool undone, const char *reason)
{
    if (item_failed(item))
        item_finish(c->sql, item);
    else if (undone)
        retry(c, item, reason);
    else
        item_finish_error(c->sql, item, MUSTER_ELINK, reason);
}

static void abandon_batch(struct conn *c, const struct batch *b, bool undone, const char *reason)
{
    undone = undone || b->failed;
    for (unsigned int i = b->n; i-- > 0;) {
        item_reset(b->items[i]); /* an error here may be another item's fault */
        abandon(c, b->items[i], undone, reason);
    }
}

/* Settle what was in flight. What the server left behind the statement at which it said goodbye was never begun, and a
 * transaction that had not come to its COMMIT is undone; without a goodbye nothing is known of writes. Backwards, because each
 * item goes to the front of its queue. */
static void abandon_all(struct conn *c, const char *reason)
{
    struct batch batch = c->batch;
    uint32_t head = c->head, tail = c->tail;

    if (batch.n)
        release_batch(c);
    c->head = c->tail = 0;
    c->n_reads = 0;
    while (tail-- != head) {
        struct op op = c->ops[tail % OPS_MAX];
        bool undone = c->told && tail != head;

        if (op.kind == OP_READ)
            retry(c, op.item, reason);
        else if (op.kind == OP_COMMIT_ALONE)
            abandon(c, op.item, undone, reason);
        else if (op.kind == OP_COMMIT)
            abandon_batch(c, &batch, undone, reason);
    }
}

static void on_down(void *arg, const char *reason)
{
    struct conn *c = arg;
    bool was_ready = c->ready;

    c->pg = NULL;
    c->ready = c->send_failed = c->dirty = false;
    c->stride = 1; /* it may have been too slow */
    memset(c->plans, 0, sizeof c->plans);
    abandon_all(c, reason);
    c->told = false;
    sql_conn_down(c->sql, was_ready, reason);
}

void conn_flush(struct conn *c)
{
    if (!c->dirty)
        return;
    c->dirty = false;
    pglink_pump(c->link);
}

void conn_check(struct conn *c, int64_t now_ns)
{
    int64_t limit_ns = c->sql->options.silence_ns;
    char reason[64];

    if (!c->pg || conn_is_idle(c) || now_ns - c->progress_ns <= limit_ns)
        return;
    snprintf(reason, sizeof reason, "no answer within %lld s", (long long)(limit_ns / CLOCK_S));
    pglink_lost(c->link, reason);
}

int conn_new(struct sql *sql, struct conn **ret_conn)
{
    static const struct pglink_events events = {.on_up = on_up, .on_input = on_input, .on_down = on_down};
    struct conn *c = calloc(1, sizeof *c);
    int err = c ? 0 : MUSTER_ENOMEM;

    if (err)
        return err;
    c->sql = sql;
    c->stride = 1;
    err = pglink_open(&(struct pglink_options){.loop = sql->options.loop,
                                               .dsn = sql->options.dsn,
                                               .broker_id = sql->options.broker_id,
                                               .events = &events,
                                               .arg = c},
                      &c->link);
    if (err) {
        free(c);
        return err;
    }
    *ret_conn = c;
    return 0;
}

void conn_free(struct conn *c)
{
    if (!c)
        return;
    pglink_close(c->link);
    abandon_all(c, "the broker is closing its connections");
    free(c);
}
