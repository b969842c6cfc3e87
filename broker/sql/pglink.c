/*
 * One connection to PostgreSQL that comes back by itself; see pglink.h.
 *
 * Every libuv handle lives on the heap and frees itself when libuv has closed it, so that the owner's memory never waits
 * for the loop.
 */
#include "sql/pglink.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/hosts.h"
#include "muster/plugin.h"
#include "sql/result.h"

enum { CONNECT_MS = 5000, BACKOFF_MIN_MS = 100, BACKOFF_MAX_MS = 5000 };
/* A connection that lived shorter than this counts as one more failed attempt. */
static const int64_t steady_ns = CLOCK_S;

enum { STATE_WAITING, STATE_CONNECTING, STATE_UP };

struct pglink {
    uv_loop_t *loop;
    char *dsn, *name;
    const struct pglink_events *events;
    void *arg;
    uv_timer_t *timer; /* the next attempt, or the end of the present one */
    uv_poll_t *poll;   /* NULL while there is no socket */
    PGconn *pg;
    int state, watched; /* watched: UV_READABLE, UV_WRITABLE */
    unsigned int failures;
    unsigned int first_host; /* at which an attempt begins; see base/hosts.h */
    int64_t up_ns;
};

static void on_io(uv_poll_t *handle, int status, int events);
static void on_timer(uv_timer_t *timer);

static void on_handle_closed(uv_handle_t *handle)
{
    free(handle);
}

static void drop_poll(struct pglink *l)
{
    if (l->poll)
        uv_close((uv_handle_t *)l->poll, on_handle_closed);
    l->poll = NULL;
    l->watched = 0;
}

/* The poll handle goes first: libuv must not know a socket that PQfinish() has closed. */
static void drop_connection(struct pglink *l)
{
    drop_poll(l);
    PQfinish(l->pg);
    l->pg = NULL;
}

static uint64_t backoff_ms(struct pglink *l)
{
    uint64_t full = BACKOFF_MIN_MS;

    for (unsigned int i = 0; i < l->failures && full < BACKOFF_MAX_MS; i++)
        full *= 2;
    if (full > BACKOFF_MAX_MS)
        full = BACKOFF_MAX_MS;

    /* Half of it is jitter, so that brokers do not come back in step. */
    const int64_t seed[] = {clock_now_ns(), (int64_t)(intptr_t)l};

    return full / 2 + hash_bytes(seed, sizeof seed) % (full / 2 + 1);
}

/* The first line tells what happened; those after it guess at causes or show the statement. */
void pglink_lost(struct pglink *l, const char *reason)
{
    char line[SQL_ERROR_SIZE];
    size_t len = strcspn(reason, "\n") + 1;

    result_one_line(reason, line, len < sizeof line ? len : sizeof line);
    drop_connection(l);
    if (l->state == STATE_UP && clock_now_ns() - l->up_ns > steady_ns)
        l->failures = 0; /* and whom it passed over would be slow to fail again */
    else
        l->first_host++;
    l->state = STATE_WAITING;
    uv_timer_start(l->timer, on_timer, backoff_ms(l), 0);
    l->failures++;
    l->events->on_down(l->arg, line);
}

static bool watch(struct pglink *l, int events)
{
    if (l->watched == events)
        return true;
    if (!l->poll) {
        l->poll = calloc(1, sizeof *l->poll);
        if (!l->poll)
            return false;
        if (uv_poll_init(l->loop, l->poll, PQsocket(l->pg)) != 0) {
            free(l->poll); /* libuv knows it only after a successful init */
            l->poll = NULL;
            return false;
        }
        l->poll->data = l;
    }
    if (uv_poll_start(l->poll, events, on_io) != 0)
        return false;
    l->watched = events;
    return true;
}

static void on_connected(struct pglink *l)
{
    uv_timer_stop(l->timer);
    if (PQsetnonblocking(l->pg, 1) != 0 || !watch(l, UV_READABLE)) {
        pglink_lost(l, "no event handle for the connection");
        return;
    }
    (void)PQsetErrorVerbosity(l->pg, PQERRORS_DEFAULT);
    l->state = STATE_UP;
    l->up_ns = clock_now_ns();
    l->events->on_up(l->arg, l->pg);
    pglink_pump(l);
}

/* libpq may close its socket here and open another under the same number, which libuv would take for the old one:
 * therefore each step has a poll handle of its own. */
static void connect_step(struct pglink *l)
{
    drop_poll(l);

    PostgresPollingStatusType next = PQconnectPoll(l->pg);

    if (next == PGRES_POLLING_OK)
        on_connected(l);
    else if (next == PGRES_POLLING_FAILED)
        pglink_lost(l, PQerrorMessage(l->pg));
    else if (!watch(l, next == PGRES_POLLING_READING ? UV_READABLE : UV_WRITABLE))
        pglink_lost(l, "no event handle for the connection");
}

/* Notices ("there is no transaction in progress") would go to stderr otherwise. */
static void ignore_notice(void *arg, const PGresult *notice)
{
    (void)arg;
    (void)notice;
}

static void take_hosts(struct hosts *hosts, const char *dsn)
{
    PQconninfoOption *parsed = PQconninfoParse(dsn, NULL); /* NULL, without memory: the order stays */

    for (const PQconninfoOption *o = parsed; o && o->keyword; o++)
        hosts_take(hosts, o->keyword, o->val, o->envvar);
    PQconninfoFree(parsed);
}

static PGconn *connect_start(const struct pglink *l)
{
    struct hosts hosts = {.first = l->first_host};

    take_hosts(&hosts, l->dsn);

    /* What stands before dbname is a default that the connection string may override, what follows it is not. */
    static const char *const keys[] = {
        "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "dbname",
        "host",            "hostaddr",            "port",             "application_name", "client_encoding", NULL};
    const char *const values[] = {"5", "2", "3", "10000", l->dsn, hosts.host, hosts.hostaddr, hosts.port, l->name, "UTF8", NULL};
    PGconn *pg = PQconnectStartParams(keys, values, 1);

    hosts_done(&hosts);
    if (pg) {
        PQsetNoticeReceiver(pg, ignore_notice, NULL);
        (void)PQsetErrorVerbosity(pg, PQERRORS_VERBOSE); /* a refusal has no other place for its SQLSTATE; see fault.h */
    }
    return pg;
}

static void on_timer(uv_timer_t *timer)
{
    struct pglink *l = timer->data;

    if (l->state == STATE_CONNECTING) {
        pglink_lost(l, "no connection within 5 s");
        return;
    }
    l->pg = connect_start(l);
    l->state = STATE_CONNECTING;
    if (!l->pg || PQstatus(l->pg) == CONNECTION_BAD)
        pglink_lost(l, l->pg ? PQerrorMessage(l->pg) : "no memory for a connection");
    else if (!watch(l, UV_WRITABLE))
        pglink_lost(l, "no event handle for the connection");
    else
        uv_timer_start(l->timer, on_timer, CONNECT_MS, 0);
}

static void on_io(uv_poll_t *handle, int status, int events)
{
    struct pglink *l = handle->data;

    if (l->state == STATE_CONNECTING) {
        connect_step(l);
        return;
    }

    PGconn *pg = l->pg;

    if (status != 0)
        l->watched = 0; /* libuv stops a handle that has an error */

    bool alive = (status == 0 && !(events & UV_READABLE)) || PQconsumeInput(pg);

    if (!alive) /* what came before the end still counts, above all the answer to a COMMIT */
        l->events->on_input(l->arg, pg);
    else
        pglink_pump(l);
    if (!alive && l->pg == pg)
        pglink_lost(l, PQerrorMessage(pg));
}

PGconn *pglink_pg(const struct pglink *l)
{
    return l->state == STATE_UP ? l->pg : NULL;
}

/* A flush that cannot write reads instead, so results are looked for after it, whatever the poll handle says. */
void pglink_pump(struct pglink *l)
{
    bool again = true;

    while (again && l->state == STATE_UP) {
        int left = PQflush(l->pg);

        if (left < 0 || !watch(l, UV_READABLE | (left > 0 ? UV_WRITABLE : 0))) {
            pglink_lost(l, left < 0 ? PQerrorMessage(l->pg) : "no event handle for the connection");
            return;
        }
        again = l->events->on_input(l->arg, l->pg);
    }
}

static char *application_name(const char *broker_id)
{
    struct buf b = {0};

    buf_printf(&b, "muster %s", broker_id);
    return buf_take(&b);
}

static uv_timer_t *timer_new(uv_loop_t *loop, void *data)
{
    uv_timer_t *timer = calloc(1, sizeof *timer);

    if (!timer)
        return NULL;
    uv_timer_init(loop, timer); /* cannot fail */
    timer->data = data;
    return timer;
}

/* libpq quotes a string that does not parse, password and all, so its text must never be asked for. */
bool pglink_dsn_parses(const char *dsn)
{
    PQconninfoOption *options = PQconninfoParse(dsn, NULL);

    PQconninfoFree(options);
    return options != NULL;
}

int pglink_open(const struct pglink_options *o, struct pglink **ret_link)
{
    struct pglink *l;

    if (!pglink_dsn_parses(o->dsn))
        return MUSTER_EINVAL;
    l = calloc(1, sizeof *l);
    if (!l)
        return MUSTER_ENOMEM;
    l->loop = o->loop;
    l->events = o->events;
    l->arg = o->arg;
    l->dsn = strdup(o->dsn);
    l->name = application_name(o->broker_id);
    l->timer = timer_new(o->loop, l);
    if (!l->dsn || !l->name || !l->timer) {
        pglink_close(l);
        return MUSTER_ENOMEM;
    }
    uv_timer_start(l->timer, on_timer, 0, 0);
    *ret_link = l;
    return 0;
}

void pglink_close(struct pglink *l)
{
    if (!l)
        return;
    drop_connection(l);
    if (l->timer)
        uv_close((uv_handle_t *)l->timer, on_handle_closed);
    free(l->dsn);
    free(l->name);
    free(l);
}
