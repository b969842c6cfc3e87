/*
 * The SQL service of one lane: bounds, and who gets which connection; see sql.h and parts.h.
 */
#include "sql/sql.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "sql/parts.h"

enum { TICK_MS = 100, ROUNDS_MAX = 8 };
static const int64_t default_wait_ns = 5 * CLOCK_S, default_silence_ns = 15 * CLOCK_S;

/* Reads go round a connection that writes, until this many wait on each of the others. */
enum { WRITER_WEIGHT = 32 };

/* What a tenant has waiting that does not wait for the batches of those who have more: ten statements or so. */
enum { LIGHT = 16384 };

static void count_waiting(struct sql *sql, const struct item *item)
{
    sql->stats.waiting++;
    sql->stats.waiting_bytes += item->bytes;
    sql->queued = true;
}

static void uncount_waiting(struct sql *sql, const struct item *item)
{
    sql->stats.waiting--;
    sql->stats.waiting_bytes -= item->bytes;
}

/* It leaves those that wait, to be sent. */
static void count_sent(struct sql *sql, const struct item *item)
{
    uncount_waiting(sql, item);
    sql->stats.in_flight++;
}

/* It was on a connection that is gone: back to where it was taken from, the front. */
void sql_requeue(struct sql *sql, struct item *item)
{
    sql->stats.in_flight--;
    PQclear(item->answer);
    item->answer = NULL;
    line_put_back(item);
    count_waiting(sql, item);
}

/* By tenant and key, so that transactions of two brokers lock in the same order; then as they came. */
static int by_key(const void *left, const void *right)
{
    const struct item *a = *(struct item *const *)left, *b = *(struct item *const *)right;
    int order = strcmp(a->tenant, b->tenant);

    if (order == 0)
        order = strcmp(a->order_key, b->order_key);
    return order != 0 ? order : (a->seq > b->seq) - (a->seq < b->seq);
}

/* In turns of the tenants of which no batch is under way: two writes of one tenant are carried out in the order they came. */
static void fill_batch(struct sql *sql, int load, struct batch *b)
{
    b->load = load;
    b->n = turns_take_batch(&sql->writes, load, b->items, BATCH_ITEMS, BATCH_BYTES);
    for (unsigned int i = 0; i < b->n; i++)
        count_sent(sql, b->items[i]);
    qsort(b->items, b->n, sizeof(struct item *), by_key);
    sql->last_load = load;
    sql->n_batches[load]++;
    sql->stats.batches++;
    sql->stats.batch_items += b->n;
}

/* Of those that have no batch the one with the fewest reads ahead. */
static struct conn *pick_writer(struct sql *sql)
{
    struct conn *best = NULL;

    for (unsigned int i = 0; i < sql->options.pool; i++) {
        struct conn *c = sql->conns[i];

        if (c->ready && !c->batch.n && (!best || c->n_reads < best->n_reads))
            best = c;
    }
    return best;
}

static struct conn *pick_reader(struct sql *sql)
{
    struct conn *best = NULL;
    unsigned int best_load = 0;

    for (unsigned int i = 0; i < sql->options.pool; i++) {
        struct conn *c = sql->conns[i];
        unsigned int load = c->n_reads + (c->batch.n ? WRITER_WEIGHT : 0);

        if (!c->ready || c->n_reads >= READS_MAX || (best && load >= best_load))
            continue;
        best = c;
        best_load = load;
    }
    return best;
}

static bool may_send(const struct sql *sql, int load)
{
    return turns_any(&sql->writes, load) && sql->n_batches[load] < sql->max_batches &&
           sql->n_batches[TURNS_LIGHT] + sql->n_batches[TURNS_HEAVY] <= sql->max_batches;
}

/* By turns, where there is one connection. TURNS_LOADS: neither. */
static int next_load(const struct sql *sql)
{
    int other = sql->last_load == TURNS_LIGHT ? TURNS_HEAVY : TURNS_LIGHT;

    return may_send(sql, other) ? other : may_send(sql, sql->last_load) ? sql->last_load : TURNS_LOADS;
}

static void send_batches(struct sql *sql)
{
    for (int load = next_load(sql); load != TURNS_LOADS; load = next_load(sql)) {
        struct conn *c = pick_writer(sql);

        if (!c)
            return;
        fill_batch(sql, load, &c->batch);
        conn_send_batch(c);
    }
}

static void send_reads(struct sql *sql)
{
    while (turns_any(&sql->reads, TURNS_LIGHT)) {
        struct conn *c = pick_reader(sql);
        struct item *item = c ? turns_take(&sql->reads) : NULL;

        if (!item)
            return;
        count_sent(sql, item);
        conn_send_read(c, item);
        sql->stats.reads++;
    }
}

static bool is_half_empty(const struct sql *sql)
{
    return sql->stats.waiting <= sql->options.max_items / 2 && sql->stats.waiting_bytes <= sql->options.max_bytes / 2;
}

static void tell_pressure(struct sql *sql, bool on)
{
    sql->pressed = on;
    if (sql->options.on_pressure)
        sql->options.on_pressure(sql->options.arg, on);
}

static bool is_nearly_full(const struct sql *sql)
{
    size_t items = sql->options.max_items, bytes = sql->options.max_bytes;

    return sql->stats.waiting >= items - items / 5 || sql->stats.waiting_bytes >= bytes - bytes / 5;
}

/* Of those who were refused somebody may try again: half of what was there has gone, else each item that ends would let one in. */
static bool has_room(struct sql *sql)
{
    bool more = sql->reads.has_room || sql->writes.has_room;

    if (sql->full && sql->stats.waiting <= sql->options.max_items && sql->stats.waiting_bytes <= sql->options.max_bytes) {
        sql->full = false;
        more = true;
    }
    sql->reads.has_room = sql->writes.has_room = false;
    return more;
}

static void tell_room(struct sql *sql)
{
    if (sql->pressed && is_half_empty(sql))
        tell_pressure(sql, false);
    if (!has_room(sql) || !sql->options.on_writable)
        return;
    sql->in_callback = true;
    sql->options.on_writable(sql->options.arg);
    sql->in_callback = false;
}

static void on_tick(uv_timer_t *timer);

/* Callbacks that run here may queue again, and the poll that follows would not know: hence the rounds. What even they leave is
 * found by the tick. */
static void on_turn(uv_prepare_t *turn)
{
    struct sql *sql = turn->data;

    for (int round = 0; sql->queued && round < ROUNDS_MAX; round++) {
        sql->queued = false;
        send_batches(sql);
        send_reads(sql);
        for (unsigned int i = 0; i < sql->options.pool; i++)
            conn_flush(sql->conns[i]);
        tell_room(sql);
    }
    if (sql->stats.waiting + sql->stats.in_flight > 0 && !uv_is_active((uv_handle_t *)sql->tick))
        uv_timer_start(sql->tick, on_tick, TICK_MS, TICK_MS);
}

/* Finish what has waited until now_ns; in a second step, because a callback may queue. */
static void expire(struct sql *sql, struct turns *t, int64_t now_ns, int code, const char *text)
{
    struct queue late = turns_expire(t, now_ns);
    struct item *item;

    while ((item = queue_pop(&late))) {
        uncount_waiting(sql, item);
        item_finish_error(sql, item, code, text);
    }
}

static void expire_all(struct sql *sql, int64_t now_ns, int code, const char *text)
{
    expire(sql, &sql->reads, now_ns, code, text);
    expire(sql, &sql->writes, now_ns, code, text);
}

static void on_tick(uv_timer_t *timer)
{
    struct sql *sql = timer->data;
    int64_t now = clock_now_ns();

    for (unsigned int i = 0; i < sql->options.pool; i++)
        conn_check(sql->conns[i], now);
    if (sql->stats.connections == 0)
        expire_all(sql, now, MUSTER_ELINK, "no connection to PostgreSQL; nothing was sent");
    else
        expire_all(sql, now, MUSTER_ETIME, "every connection was busy until the deadline; nothing was sent");
    sql->queued = true;
    if (sql->stats.waiting + sql->stats.in_flight == 0)
        uv_timer_stop(timer);
}

static void tell_link(struct sql *sql, int health, const char *reason)
{
    if (sql->health == health)
        return;
    if (health == HEALTH_AWAY)
        log_warn(sql->options.area, "PostgreSQL is away, trying again: %s", reason);
    else if (sql->health == HEALTH_AWAY)
        log_info(sql->options.area, "PostgreSQL is back");
    sql->health = health;
    sql->in_callback = true;
    if (sql->options.on_link)
        sql->options.on_link(sql->options.arg, health == HEALTH_UP, reason);
    sql->in_callback = false;
}

void sql_conn_up(struct sql *sql, bool again)
{
    sql->stats.connections++;
    sql->stats.reconnects += again;
    sql->queued = true;
    tell_link(sql, HEALTH_UP, "");
}

void sql_conn_down(struct sql *sql, bool was_ready, const char *reason)
{
    sql->stats.connections -= was_ready;
    if (sql->stats.connections == 0)
        tell_link(sql, HEALTH_AWAY, reason);
}

static uv_handle_t *handle_new(struct sql *sql, size_t size)
{
    uv_handle_t *handle = calloc(1, size);

    if (handle)
        handle->data = sql;
    return handle;
}

static void on_handle_closed(uv_handle_t *handle)
{
    free(handle);
}

/* The prepare handle runs before each poll: what one turn of the loop has queued goes out together. */
static int open_handles(struct sql *sql)
{
    sql->turn = (uv_prepare_t *)handle_new(sql, sizeof *sql->turn);
    if (!sql->turn)
        return MUSTER_ENOMEM;
    uv_prepare_init(sql->options.loop, sql->turn); /* these cannot fail */
    uv_prepare_start(sql->turn, on_turn);

    sql->tick = (uv_timer_t *)handle_new(sql, sizeof *sql->tick);
    if (!sql->tick)
        return MUSTER_ENOMEM;
    uv_timer_init(sql->options.loop, sql->tick);
    return 0;
}

/* Half of the pool is left to reads. */
static unsigned int batches_of_pool(unsigned int pool)
{
    unsigned int n = pool / 2;

    if (n > BATCHES_MAX)
        n = BATCHES_MAX;
    return n > 0 ? n : 1;
}

static int open_conns(struct sql *sql)
{
    int err = 0;

    sql->conns = calloc(sql->options.pool, sizeof(struct conn *));
    if (!sql->conns)
        return MUSTER_ENOMEM;
    for (unsigned int i = 0; !err && i < sql->options.pool; i++)
        err = conn_new(sql, &sql->conns[i]);
    return err;
}

static void close_all(struct sql *sql)
{
    for (unsigned int i = 0; sql->conns && i < sql->options.pool; i++)
        conn_free(sql->conns[i]);
    free(sql->conns);
    sql->conns = NULL;
    if (sql->turn)
        uv_close((uv_handle_t *)sql->turn, on_handle_closed);
    if (sql->tick)
        uv_close((uv_handle_t *)sql->tick, on_handle_closed);
    sql->turn = NULL;
    sql->tick = NULL;
}

int sql_start(struct sql *sql)
{
    int err;

    if (sql->conns)
        return 0;
    err = open_handles(sql);
    if (!err)
        err = open_conns(sql);
    if (err)
        close_all(sql);
    return err;
}

int sql_new(const struct sql_options *o, struct sql **ret_sql)
{
    struct sql *sql;

    if (o->pool == 0 || o->pool > SQL_POOL_MAX || o->max_items == 0 || o->max_bytes == 0 || !pglink_dsn_parses(o->dsn))
        return MUSTER_EINVAL;
    sql = calloc(1, sizeof *sql);
    if (!sql)
        return MUSTER_ENOMEM;
    sql->options = *o;
    sql->options.dsn = sql->dsn = strdup(o->dsn);
    sql->options.broker_id = sql->broker_id = strdup(o->broker_id);
    if (o->wait_ns == 0)
        sql->options.wait_ns = default_wait_ns;
    if (o->silence_ns == 0)
        sql->options.silence_ns = default_silence_ns;
    sql->max_batches = batches_of_pool(o->pool);
    turns_init(&sql->reads, READS_MAX * o->pool / 2, 0);
    turns_init(&sql->writes, 1, LIGHT);
    if (!sql->dsn || !sql->broker_id) {
        sql_free(sql);
        return MUSTER_ENOMEM;
    }
    *ret_sql = sql;
    return 0;
}

static void free_stmts(struct sql *sql)
{
    for (uint32_t i = 0; i < sql->n_stmts; i++) {
        PQclear(sql->stmts[i]->refused);
        free(sql->stmts[i]->name);
        free(sql->stmts[i]->text);
        free(sql->stmts[i]);
    }
    map_done(&sql->names);
}

void sql_free(struct sql *sql)
{
    if (!sql)
        return;
    ASSERT(!sql->in_callback);
    sql->closing = true;
    close_all(sql);
    expire_all(sql, INT64_MAX, MUSTER_ELINK, "the broker is closing its connections; nothing was sent");
    turns_done(&sql->reads);
    turns_done(&sql->writes);
    free_stmts(sql);
    free(sql->dsn);
    free(sql->broker_id);
    free(sql);
}

/* Our own functions put back what they change; of others nobody knows. */
static bool keeps_tenant(const char *text)
{
    static const char ours[] = "SELECT muster.";

    return strncmp(text, ours, sizeof ours - 1) == 0 && !strstr(text, "set_config");
}

static int stmt_new(struct sql *sql, const char *name, int kind, const char *text)
{
    struct stmt *stmt = calloc(1, sizeof *stmt);

    if (!stmt)
        return MUSTER_ENOMEM;
    *stmt = (struct stmt){.name = strdup(name), .text = strdup(text), .kind = kind, .keeps = keeps_tenant(text), .id = sql->n_stmts};
    if (!stmt->name || !stmt->text || !map_put(&sql->names, name, strlen(name), stmt)) {
        free(stmt->name);
        free(stmt->text);
        free(stmt);
        return MUSTER_ENOMEM;
    }
    sql->stmts[sql->n_stmts++] = stmt;
    return 0;
}

int sql_prepare(struct sql *sql, const char *name, int kind, const char *text, uint64_t *ret_stmt)
{
    struct stmt *known = map_get(&sql->names, name, strlen(name));
    int err;

    if (kind != SQL_READ && kind != SQL_WRITE)
        return MUSTER_EINVAL;
    if (known && (known->kind != kind || strcmp(known->text, text) != 0))
        return MUSTER_EEXIST;
    if (known) {
        *ret_stmt = known->id + 1;
        return 0;
    }
    if (sql->n_stmts == SQL_STMTS_MAX)
        return MUSTER_EAGAIN;
    err = stmt_new(sql, name, kind, text);
    if (!err)
        *ret_stmt = sql->n_stmts; /* the id and one: 0 is no statement */
    return err;
}

/* One more fits where its tenant has no more then than is left of two bounds: one tenant alone has one of them, and whatever some have, the half of what
 * they leave is free for the next. Items that went back after a lost connection may have taken it over. */
static bool fits(size_t own, size_t all, size_t more, size_t max)
{
    return own + all + 2 * more <= 2 * max;
}

/* bytes 0: they are not known yet. */
static int check_room(struct sql *sql, struct line *line, size_t bytes)
{
    const struct sql_options *o = &sql->options;

    if (bytes > o->max_bytes)
        return MUSTER_EINVAL;
    if (fits(line->n_items, sql->stats.waiting, 1, o->max_items) && fits(line->n_bytes, sql->stats.waiting_bytes, bytes, o->max_bytes))
        return 0;
    sql->stats.refused++;
    if (line->n_items)
        line->n_refused = line->n_items;
    else
        sql->full = true;
    return MUSTER_EAGAIN;
}

static int new_item(struct sql *sql, const struct sql_call *call, struct line *line, struct item **ret_item)
{
    int err = check_room(sql, line, 0); /* a flood should not cost a copy each */

    if (!err)
        err = item_new(call, sql->stmts[call->stmt - 1], ret_item);
    if (err)
        return err;
    err = check_room(sql, line, (*ret_item)->bytes);
    if (err)
        free(*ret_item);
    return err;
}

static struct line *line_of(struct sql *sql, const struct sql_call *call)
{
    struct turns *t = sql->stmts[call->stmt - 1]->kind == SQL_READ ? &sql->reads : &sql->writes;

    return turns_line(t, call->tenant ? call->tenant : "");
}

int sql_exec(struct sql *sql, const struct sql_call *call)
{
    struct item *item;
    struct line *line;
    int err;

    if (sql->closing)
        return MUSTER_ELINK;
    if (call->stmt == 0 || call->stmt > sql->n_stmts || call->n_params > SQL_PARAMS_MAX || !call->fn)
        return MUSTER_EINVAL;
    line = line_of(sql, call);
    if (!line)
        return MUSTER_ENOMEM;
    err = sql_start(sql);
    if (!err)
        err = new_item(sql, call, line, &item);
    if (err)
        return err;
    item->seq = ++sql->seq;
    item->deadline_ns = clock_now_ns() + sql->options.wait_ns;
    line_put(line, item);
    count_waiting(sql, item);
    if (!sql->pressed && is_nearly_full(sql))
        tell_pressure(sql, true);
    return 0;
}

void sql_stats(const struct sql *sql, struct sql_stats *ret_stats)
{
    *ret_stats = sql->stats;
}
