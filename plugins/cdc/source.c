/* The replication link; see source.h. */
#include "cdc/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/hosts.h"
#include "cdc/cdc.h"
#include "cdc/pgoutput.h"

static const int64_t step_timeout_ns = 10 * CLOCK_S, standby_period_ns = 500 * CLOCK_MS, creating_ns = 2 * CLOCK_S;
static const int64_t pg_epoch_us = INT64_C(946684800000000); /* 2000-01-01 in Unix microseconds */

/* One row that tells everything, because each question is a round trip. */
static const char look_format[] =
    "SELECT s.system_identifier, current_setting('wal_level'), current_setting('server_version_num'),"
    " pg_encoding_to_char(d.encoding), coalesce(r.rolreplication OR r.rolsuper, false),"
    " (SELECT coalesce(min(p.name), '') FROM (VALUES (%s), ('" CDC_REGISTRY "')) p (name)"
    "  WHERE NOT EXISTS (SELECT FROM pg_publication WHERE pubname = p.name)),"
    " l.slot_name IS NOT NULL, coalesce(l.plugin, ''), coalesce(l.database = current_database(), false), coalesce(l.active, false),"
    " coalesce(l.active_pid, 0), coalesce(l.confirmed_flush_lsn::text, ''), coalesce(l.wal_status, ''),"
    " pg_current_wal_flush_lsn()::text, left(pg_walfile_name(pg_current_wal_flush_lsn()), 8), current_setting('synchronous_standby_names')"
    " FROM pg_control_system() s, pg_database d, pg_roles r LEFT JOIN pg_replication_slots l ON l.slot_name = %s"
    " WHERE d.datname = current_database() AND r.rolname = current_user";
enum { LOOK_SYSTEM, LOOK_WAL_LEVEL, LOOK_VERSION, LOOK_ENCODING, LOOK_MAY, LOOK_NO_PUBLICATION, LOOK_SLOT, LOOK_PLUGIN, LOOK_HERE,
       LOOK_ACTIVE, LOOK_PID, LOOK_CONFIRMED, LOOK_WAL_STATUS, LOOK_FLUSHED, LOOK_TIMELINE, LOOK_STANDBYS };

static void on_socket(void *arg, uint32_t events);
static void look(struct cdc *c);

/* ---- the socket ------------------------------------------------------------------------------------------------------ */

static void unwatch(struct cdc *c)
{
    if (c->source.watch)
        c->io->unwatch(c->host, c->source.watch);
    c->source.watch = 0;
    c->source.events = 0;
}

static void watch(struct cdc *c, uint32_t events)
{
    struct source *s = &c->source;
    int fd = PQsocket(s->conn);

    if (s->watch && fd == s->fd) {
        if (events != s->events)
            (void)c->io->change(c->host, s->watch, events); /* the id is ours */
        s->events = events;
        return;
    }
    unwatch(c);
    s->fd = fd;
    s->events = events;
    if (fd < 0 || c->io->watch(c->host, fd, events, on_socket, c, &s->watch) != 0)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "postgres_away", "the connection's socket cannot be watched");
}

static void watch_io(struct cdc *c)
{
    bool busy = PQflush(c->source.conn) == 1;

    watch(c, (c->source.paused ? 0u : MUSTER_READABLE) | (busy ? MUSTER_WRITABLE : 0u));
}

static void go(struct cdc *c, enum source_step step)
{
    c->source.step = step;
    c->source.deadline_ns = c->timer->now(c->host) + step_timeout_ns;
}

/* ---- faults ---------------------------------------------------------------------------------------------------------- */

/* The first line of what PostgreSQL said, without "ERROR:" and the newline. */
static void first_line(const char *text, char *out, size_t size)
{
    static const char prefix[] = "ERROR:  ";
    size_t n;

    if (strncmp(text, prefix, sizeof prefix - 1) == 0)
        text += sizeof prefix - 1;
    n = strcspn(text, "\n");
    (void)snprintf(out, size, "%.*s", (int)n, text);
}

static void fail_with(struct cdc *c, const PGresult *result)
{
    const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    const char *said = result && *PQresultErrorMessage(result) ? PQresultErrorMessage(result) : PQerrorMessage(c->source.conn);
    struct fault fault = fault_of(state ? state : "", said);
    char line[256];

    first_line(said, line, sizeof line);
    cdc_fault(c, fault.state, fault.code, "%s%s%s", *line ? line : "the connection was lost", *fault.help ? "; " : "", fault.help);
}

/* ---- the look -------------------------------------------------------------------------------------------------------- */

static bool value_is(const PGresult *r, int column, const char *value)
{
    return strcmp(PQgetvalue(r, 0, column), value) == 0;
}

static void send_query(struct cdc *c, const char *text, enum source_step step)
{
    go(c, step);
    if (!PQsendQuery(c->source.conn, text))
        fail_with(c, NULL);
    else
        watch_io(c);
}

static void create_slot(struct cdc *c)
{
    char text[256];
    char *slot = PQescapeIdentifier(c->source.conn, c->config->slot, strlen(c->config->slot));

    (void)snprintf(text, sizeof text, "CREATE_REPLICATION_SLOT %s LOGICAL pgoutput NOEXPORT_SNAPSHOT", slot ? slot : "");
    PQfreemem(slot);
    send_query(c, text, SOURCE_CREATING);
    c->source.deadline_ns = c->timer->now(c->host) + creating_ns;
}

static void drop_slot(struct cdc *c)
{
    char text[256];
    char *slot = PQescapeIdentifier(c->source.conn, c->config->slot, strlen(c->config->slot));

    (void)snprintf(text, sizeof text, "DROP_REPLICATION_SLOT %s", slot ? slot : "");
    PQfreemem(slot);
    send_query(c, text, SOURCE_DROPPING);
}

static void start_replication(struct cdc *c)
{
    char *slot = PQescapeIdentifier(c->source.conn, c->config->slot, strlen(c->config->slot));
    char *name = PQescapeIdentifier(c->source.conn, c->config->publication, strlen(c->config->publication));
    struct buf names = {0}, text = {0};
    char *list;

    buf_printf(&names, "%s," CDC_REGISTRY, name ? name : "");
    list = names.data ? PQescapeLiteral(c->source.conn, names.data, names.len) : NULL;
    buf_printf(&text, "START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', publication_names %s, messages '%s'", slot ? slot : "",
               list ? list : "", c->events ? "true" : "false");
    /* PostgreSQL 16 leaves out what came from elsewhere by itself; before, the pump does. */
    if (c->config->origin == ORIGIN_NONE && c->source.version >= 160000)
        buf_put_lit(&text, ", origin 'none'");
    buf_put_lit(&text, ")");
    PQfreemem(slot);
    PQfreemem(name);
    PQfreemem(list);
    buf_done(&names);
    send_query(c, text.data ? text.data : "", SOURCE_STARTING);
    buf_done(&text);
}

/* The next name of a list such as `ANY 2 (a, "b c", *)`, whose other words are no less names here. False at the end. */
static bool next_name(const char **text, const char **ret_name, size_t *ret_len)
{
    const char *s = *text + strspn(*text, " \t\n,()"), *end;

    if (!*s)
        return false;
    if (*s == '"') {
        end = strchr(++s, '"');
        *text = end ? end + 1 : s + strlen(s);
        end = end ? end : *text;
    } else {
        end = s + strcspn(s, " \t\n,()");
        *text = end;
    }
    *ret_name = s;
    *ret_len = (size_t)(end - s);
    return true;
}

bool source_is_named(const char *names, const char *application)
{
    const char *name;
    size_t len;

    while (next_name(&names, &name, &len))
        if ((len == 1 && *name == '*') || (len == strlen(application) && strncasecmp(name, application, len) == 0))
            return true;
    return false;
}

bool source_check_standbys(struct cdc *c, const char *names)
{
    const char *application = PQparameterStatus(c->source.conn, "application_name");

    if (!names || !source_is_named(names, application ? application : "muster cdc"))
        return false;
    cdc_fault(c, MUSTER_HEALTH_DOWN, "synchronous_standby",
              "synchronous_standby_names is %s, which matches this reader too, so that every commit would wait for it: name the standbys there",
              names);
    return true;
}

/* True when the server cannot serve us; the fault was told. */
static bool is_unfit(struct cdc *c, const PGresult *r)
{
    if (c->source.version < 140000)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "server_too_old", "PostgreSQL %s: expected 14 or newer", PQgetvalue(r, 0, LOOK_VERSION));
    else if (!value_is(r, LOOK_WAL_LEVEL, "logical"))
        cdc_fault(c, MUSTER_HEALTH_DOWN, "wal_level", "wal_level is %s, expected logical: ALTER SYSTEM SET wal_level = logical, then "
                                                      "restart PostgreSQL", PQgetvalue(r, 0, LOOK_WAL_LEVEL));
    else if (!value_is(r, LOOK_MAY, "t"))
        cdc_fault(c, MUSTER_HEALTH_DOWN, "no_replication_privilege", "role %s may not replicate: ALTER ROLE %s REPLICATION",
                  PQuser(c->source.conn), PQuser(c->source.conn));
    else if (!value_is(r, LOOK_NO_PUBLICATION, ""))
        cdc_fault(c, MUSTER_HEALTH_DOWN, "publication_missing", "there is no publication %s in this database: run `muster migrate`, then "
                                                                "`muster publish TABLE`", PQgetvalue(r, 0, LOOK_NO_PUBLICATION));
    else if (value_is(r, LOOK_SLOT, "t") && (!value_is(r, LOOK_PLUGIN, "pgoutput") || !value_is(r, LOOK_HERE, "t")))
        cdc_fault(c, MUSTER_HEALTH_DOWN, "slot_foreign", "slot %s is another's (output plugin \"%s\"%s): choose another `slot`",
                  c->config->slot, PQgetvalue(r, 0, LOOK_PLUGIN), value_is(r, LOOK_HERE, "t") ? "" : ", another database");
    else
        return source_check_standbys(c, PQgetvalue(r, 0, LOOK_STANDBYS));
    return true;
}

static void stand_by(struct cdc *c, const char *pid)
{
    c->host->health(c->host, MUSTER_HEALTH_STANDBY, "slot_active", "slot %s is held by another reader (PostgreSQL process %s); standing by",
                    c->config->slot, pid);
    c->source.step = SOURCE_STANDBY;
    c->source.deadline_ns = c->timer->now(c->host) + standby_period_ns;
    c->backoff_ns = 0;
}

static void on_look(struct cdc *c, const PGresult *r)
{
    struct source *s = &c->source;

    s->version = atoi(PQgetvalue(r, 0, LOOK_VERSION));
    (void)snprintf(s->system, sizeof s->system, "%s", PQgetvalue(r, 0, LOOK_SYSTEM));
    if (is_unfit(c, r))
        return;
    if (!s->encoding_set) {
        s->encoding_set = true;
        send_query(c, value_is(r, LOOK_ENCODING, "SQL_ASCII") ? "SET client_encoding = 'SQL_ASCII'" : "SET client_encoding = 'UTF8'",
                   SOURCE_ENCODING);
        return;
    }
    s->flushed = source_parse_lsn(PQgetvalue(r, 0, LOOK_FLUSHED));
    s->timeline = (uint32_t)strtoul(PQgetvalue(r, 0, LOOK_TIMELINE), NULL, 16);
    s->slot_confirmed = source_parse_lsn(PQgetvalue(r, 0, LOOK_CONFIRMED));
    if (!value_is(r, LOOK_SLOT, "t"))
        create_slot(c);
    else if (value_is(r, LOOK_ACTIVE, "t"))
        stand_by(c, PQgetvalue(r, 0, LOOK_PID));
    else if (value_is(r, LOOK_WAL_STATUS, "lost"))
        drop_slot(c);
    else
        start_replication(c);
}

static void look(struct cdc *c)
{
    char *publication = PQescapeLiteral(c->source.conn, c->config->publication, strlen(c->config->publication));
    char *slot = PQescapeLiteral(c->source.conn, c->config->slot, strlen(c->config->slot));
    char text[sizeof look_format + 512];

    (void)snprintf(text, sizeof text, look_format, publication ? publication : "''", slot ? slot : "''");
    PQfreemem(publication);
    PQfreemem(slot);
    send_query(c, text, SOURCE_LOOKING);
}

/* ---- one step after another ------------------------------------------------------------------------------------------- */

static void on_created(struct cdc *c, const PGresult *r)
{
    c->slot_made = true;
    c->source.slot_confirmed = source_parse_lsn(PQgetvalue(r, 0, 1)); /* consistent_point */
    start_replication(c);
}

static void on_result(struct cdc *c, PGresult *r)
{
    ExecStatusType status = PQresultStatus(r);
    const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);

    if (status == PGRES_COPY_BOTH && c->source.step == SOURCE_STARTING) {
        go(c, SOURCE_COPYING);
        c->source.paused = true; /* until the stream's tail is known */
        watch_io(c);
        position_begin(c);
        return;
    }
    /* Somebody was faster: object_in_use, or the slot is there since a moment ago (duplicate_object). */
    if (state && (strcmp(state, "55006") == 0 || strcmp(state, "42710") == 0)) {
        stand_by(c, "unknown");
        return;
    }
    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) {
        fail_with(c, r);
        return;
    }
    switch (c->source.step) {
    case SOURCE_LOOKING:
        on_look(c, r);
        break;
    case SOURCE_CREATING:
        on_created(c, r);
        break;
    case SOURCE_ENCODING:
        look(c);
        break;
    case SOURCE_DROPPING:
        create_slot(c);
        break;
    default:
        break;
    }
}

/* The step's result is complete: act on it. Acting may close the link. */
static void finish_step(struct cdc *c, PGresult *r)
{
    c->source.result = NULL;
    if (r)
        on_result(c, r);
    PQclear(r);
}

/* Take the results that have come. A step's next query goes out only after the NULL that ends the present one; a copy has none. */
static void read_results(struct cdc *c)
{
    struct source *s = &c->source;

    if (!PQconsumeInput(s->conn)) {
        fail_with(c, NULL);
        return;
    }
    while (!PQisBusy(s->conn)) {
        PGresult *r = PQgetResult(s->conn);

        if (!r || PQresultStatus(r) == PGRES_COPY_BOTH) {
            finish_step(c, r ? r : s->result);
            return;
        }
        PQclear(s->result);
        s->result = r;
    }
    watch_io(c);
}

/* libpq may close its socket in here, and open the next address's under the same number. */
static void poll_connect(struct cdc *c)
{
    unwatch(c);
    switch (PQconnectPoll(c->source.conn)) {
    case PGRES_POLLING_READING:
        watch(c, MUSTER_READABLE);
        break;
    case PGRES_POLLING_WRITING:
        watch(c, MUSTER_WRITABLE);
        break;
    case PGRES_POLLING_OK:
        (void)PQsetnonblocking(c->source.conn, 1); /* fails only on a bad connection, which the query finds */
        look(c);
        break;
    default:
        fail_with(c, NULL);
        break;
    }
}

static void on_socket(void *arg, uint32_t events)
{
    struct cdc *c = arg;

    (void)events;
    if (c->source.step == SOURCE_CONNECTING) {
        poll_connect(c);
    } else if (c->source.step == SOURCE_COPYING) {
        watch_io(c);
        if (c->phase == CDC_STREAM && !c->source.paused)
            pump_run(c);
    } else if (c->source.step != SOURCE_CLOSED) {
        read_results(c);
    }
}

/* ---- open and close --------------------------------------------------------------------------------------------------- */

/* What the user asks the server for: in the connection string, else, as for every program with libpq, in PGOPTIONS. */
static void put_options_of_user(struct buf *out, const char *dsn)
{
    PQconninfoOption *parsed = PQconninfoParse(dsn, NULL); /* NULL: PQconnectStartParams() will say why */
    const char *options = getenv("PGOPTIONS");

    for (const PQconninfoOption *o = parsed; o && o->keyword; o++)
        if (strcmp(o->keyword, "options") == 0 && o->val)
            options = o->val;
    if (options && *options)
        buf_printf(out, "%s ", options);
    PQconninfoFree(parsed);
}

static void take_hosts(struct hosts *hosts, const char *dsn)
{
    PQconninfoOption *parsed = PQconninfoParse(dsn, NULL); /* NULL: PQconnectStartParams() will say why */

    for (const PQconninfoOption *o = parsed; o && o->keyword; o++)
        hosts_take(hosts, o->keyword, o->val, o->envvar);
    PQconninfoFree(parsed);
}

static PGconn *connect_to(const char *dsn, unsigned int first_host)
{
    static const char ours[] = "-c wal_sender_timeout=5s -c datestyle=ISO -c timezone=UTC -c intervalstyle=iso_8601"
                               " -c extra_float_digits=3 -c bytea_output=hex";
    struct hosts hosts = {.first = first_host};
    struct buf options = {0};
    PGconn *conn = NULL;

    take_hosts(&hosts, dsn);
    put_options_of_user(&options, dsn);
    buf_puts(&options, ours); /* last: of two settings of one name the server takes the later */
    if (!buf_failed(&options)) {
        /* dbname comes first and is expanded; what follows overrides what the string says. */
        const char *names[] = {"dbname", "host", "hostaddr", "port", "replication", "fallback_application_name", "options",
                               "tcp_user_timeout", "keepalives_idle", "keepalives_interval", NULL};
        const char *values[] = {dsn, hosts.host, hosts.hostaddr, hosts.port, "database", "muster cdc", options.data,
                                "5000", "5", "1", NULL};

        conn = PQconnectStartParams(names, values, 1);
    }
    hosts_done(&hosts);
    buf_done(&options);
    return conn;
}

void source_open(struct cdc *c)
{
    struct source *s = &c->source;

    *s = (struct source){.fd = -1, .first_host = s->first_host};
    s->conn = connect_to(c->host->postgres_dsn, s->first_host);
    go(c, SOURCE_CONNECTING);
    if (!s->conn || PQstatus(s->conn) == CONNECTION_BAD)
        fail_with(c, NULL);
    else
        watch(c, MUSTER_WRITABLE);
}

/* An attempt that came to nothing: the next one begins at another host. */
static bool is_failed_attempt(const struct source *s)
{
    return s->step != SOURCE_CLOSED && s->step != SOURCE_STANDBY && s->step != SOURCE_COPYING;
}

void source_close(struct cdc *c)
{
    struct source *s = &c->source;

    unwatch(c);
    PQclear(s->result);
    PQfinish(s->conn);
    *s = (struct source){.fd = -1, .first_host = s->first_host + is_failed_attempt(s)};
}

/* PostgreSQL makes a slot only when all transactions have ended that ran when it was asked to: to ask again would begin anew. */
static void wait_for_slot(struct cdc *c)
{
    c->source.deadline_ns = INT64_MAX; /* a dead link is seen by TCP's own probes */
    c->host->health(c->host, MUSTER_HEALTH_DOWN, "slot_creating",
                    "slot %s is being made: PostgreSQL waits for the end of transactions that were running (see pg_stat_activity)",
                    c->config->slot);
}

void source_tick(struct cdc *c)
{
    struct source *s = &c->source;

    if (s->step == SOURCE_CLOSED || s->step == SOURCE_COPYING || c->timer->now(c->host) < s->deadline_ns)
        return;
    if (s->step == SOURCE_STANDBY)
        look(c);
    else if (s->step == SOURCE_CREATING)
        wait_for_slot(c);
    else
        cdc_fault(c, MUSTER_HEALTH_DOWN, "postgres_away", "PostgreSQL did not answer in %d s", (int)(step_timeout_ns / CLOCK_S));
}

/* ---- the copy ---------------------------------------------------------------------------------------------------------- */

static void fail_copy(struct cdc *c)
{
    PGresult *r = PQgetResult(c->source.conn);

    fail_with(c, r);
    PQclear(r);
}

int source_next(struct cdc *c, char **ret_frame)
{
    int n = PQgetCopyData(c->source.conn, ret_frame, 1);

    if (n == 0) {
        if (!PQconsumeInput(c->source.conn)) {
            fail_with(c, NULL);
            return -1;
        }
        n = PQgetCopyData(c->source.conn, ret_frame, 1);
    }
    if (n >= 0)
        return n;
    fail_copy(c);
    return -1;
}

void source_pause(struct cdc *c, bool paused)
{
    if (c->source.step != SOURCE_COPYING || c->source.paused == paused)
        return;
    c->source.paused = paused;
    watch_io(c);
}

void source_status(struct cdc *c, uint64_t received, uint64_t flushed)
{
    uint8_t out[PGOUTPUT_STATUS_SIZE];
    struct pgoutput_status status = {.received = received > flushed ? received : flushed,
                                     .flushed = flushed,
                                     .applied = flushed,
                                     .now_us = c->timer->wall_now(c->host) / 1000 - pg_epoch_us};

    if (c->source.step != SOURCE_COPYING)
        return;
    pgoutput_status(&status, out);
    if (PQputCopyData(c->source.conn, (const char *)out, sizeof out) < 0)
        fail_with(c, NULL);
    else
        watch_io(c);
}

uint64_t source_parse_lsn(const char *text)
{
    unsigned int high, low;

    return sscanf(text, "%8x/%8x", &high, &low) == 2 ? (uint64_t)high << 32 | low : 0;
}
