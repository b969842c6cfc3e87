/*
 * The registry's connection; see listen.h.
 *
 * One question is in flight at a time. What comes next is decided when it is answered: LISTEN first, then what was asked by
 * listen_ask(), then the state where it is due. A broker may be there before the migration that names the channel: until then it
 * looks for the name after each reading of the state and with each ping.
 */
#include "sql/listen.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "sql/fault.h"
#include "sql/pglink.h"
#include "sql/result.h"

enum { PING_MS = 5000, SILENCE_MS = 4500, REST_MS = 200 };

struct asked {
    struct asked *next;
    char *text;
    size_t n_params;
    char *params[LISTEN_PARAMS_MAX];
    muster_sql_fn fn;
    void *arg;
};

enum { DOING_NOTHING, DOING_SETUP, DOING_CHANNEL, DOING_LISTEN, DOING_STATE, DOING_ASKED, DOING_PING };
enum { CHANNEL_NONE, CHANNEL_OLD, CHANNEL_SECRET };
enum { HEALTH_UNKNOWN, HEALTH_UP, HEALTH_AWAY };

struct listen {
    struct listen_options options;
    struct listen_query queries[LISTEN_QUERIES_MAX];
    struct pglink *link;
    PGconn *pg;       /* NULL while down */
    uv_timer_t *ping; /* every 5 s */
    uv_timer_t *rest; /* until the state may be read again */
    int doing, health;
    int channel; /* that is listened to */
    bool look;   /* whether there is a better channel by now */
    bool moved;  /* there is */
    const char *fault;      /* code of the fault that was told while away */
    int64_t since_ns;       /* of the question in flight */
    size_t at;              /* the query of the state that is in flight or next */
    bool due;               /* the state must be read once more, from its first query */
    bool reading, failed;   /* the state is being read; one of its queries failed */
    struct asked *first, *last; /* the first one is in flight when doing says so */
    size_t n_asked;
    bool in_callback;
};

static const char setup_text[] = "SELECT set_config('statement_timeout', '10s', false),"
                                 " set_config('idle_in_transaction_session_timeout', '10s', false)";
/* The channel's name is for brokers alone: muster.listen() knows it. A database of before has the old one. */
static const char channel_text[] = "SELECT pg_catalog.to_regprocedure('muster.listen()') IS NOT NULL";
static const char *const listen_texts[] = {
    [CHANNEL_OLD] = "LISTEN muster",
    [CHANNEL_SECRET] = "DO $$ BEGIN UNLISTEN *; PERFORM muster.listen(); END $$",
};

static void asked_free(struct asked *a)
{
    for (size_t i = 0; i < a->n_params; i++)
        free(a->params[i]);
    free(a->text);
    free(a);
}

static struct asked *asked_pop(struct listen *l)
{
    struct asked *a = l->first;

    l->first = a->next;
    if (!l->first)
        l->last = NULL;
    l->n_asked--;
    return a;
}

static void call(struct listen *l, muster_sql_fn fn, void *arg, const struct sql_result *result)
{
    l->in_callback = true;
    fn(arg, &result->pub);
    l->in_callback = false;
}

static void tell_link(struct listen *l, const struct sql_fault *fault, const char *reason)
{
    l->in_callback = true;
    if (l->options.on_link)
        l->options.on_link(l->options.arg, fault, reason);
    l->in_callback = false;
}

static void tell_up(struct listen *l)
{
    if (l->health == HEALTH_UP)
        return;
    if (l->health == HEALTH_AWAY)
        log_info(l->options.area, "the registry is followed again");
    l->health = HEALTH_UP;
    tell_link(l, NULL, "");
}

/* Each attempt fails anew; told is the first, and one that fails in another way. */
static void tell_away(struct listen *l, const char *sqlstate, const char *reason)
{
    struct sql_fault fault = sql_fault_of(sqlstate, reason);

    if (l->health == HEALTH_AWAY && strcmp(l->fault, fault.code) == 0)
        return;
    log_warn(l->options.area, "the registry cannot be followed, trying again: %s", reason);
    l->health = HEALTH_AWAY;
    l->fault = fault.code;
    tell_link(l, &fault, reason);
}

static bool ask(struct listen *l, int doing, const char *text)
{
    l->doing = doing;
    l->since_ns = clock_now_ns();
    return PQsendQueryParams(l->pg, text, 0, NULL, NULL, NULL, NULL, 0);
}

static bool send_asked(struct listen *l)
{
    const struct asked *a = l->first;

    l->doing = DOING_ASKED;
    l->since_ns = clock_now_ns();
    return PQsendQueryParams(l->pg, a->text, (int)a->n_params, NULL, (const char *const *)a->params, NULL, NULL, 0);
}

static bool ask_channel(struct listen *l)
{
    l->look = false;
    return ask(l, DOING_CHANNEL, channel_text);
}

/* Send what comes next, if anything does. True when something was sent. */
static bool send_next(struct listen *l)
{
    bool sent;

    if (l->doing != DOING_NOTHING)
        return false;
    if (l->due && !l->reading && !uv_is_active((uv_handle_t *)l->rest)) {
        l->due = l->failed = false;
        l->reading = true;
        l->at = 0;
    }
    if (l->reading) /* before what is asked, which could otherwise hold it up for ever */
        sent = ask(l, DOING_STATE, l->queries[l->at].text);
    else if (l->look)
        sent = ask_channel(l);
    else if (l->first)
        sent = send_asked(l);
    else
        return false;
    if (!sent)
        pglink_lost(l->link, PQerrorMessage(l->pg));
    return sent;
}

/* However many notices come, the state is read once in REST_MS. */
static void on_rest(uv_timer_t *timer)
{
    struct listen *l = timer->data;

    if (l->pg && send_next(l))
        pglink_pump(l->link);
}

/* A failed reading stays due, and the ping's timer begins it again. */
static void on_state_read(struct listen *l)
{
    l->reading = false;
    l->look = l->channel == CHANNEL_OLD;
    uv_timer_start(l->rest, on_rest, REST_MS, 0);
    if (!l->failed)
        tell_up(l);
}

static void on_state_answer(struct listen *l, const PGresult *pg)
{
    const struct listen_query *query = &l->queries[l->at];
    struct sql_result result;

    result_show(&result, pg);
    if (result.pub.code != 0) {
        l->failed = true;
        tell_away(l, result.pub.sqlstate, result.text);
    }
    call(l, query->fn, query->arg, &result);
    if (++l->at == l->options.n_queries)
        on_state_read(l);
}

static void on_asked_answer(struct listen *l, const PGresult *pg)
{
    struct asked *a = asked_pop(l);
    struct sql_result result;

    result_show(&result, pg);
    call(l, a->fn, a->arg, &result);
    asked_free(a);
}

static void on_channel_answer(struct listen *l, const PGresult *pg)
{
    int there = strcmp(PQgetvalue(pg, 0, 0), "t") == 0 ? CHANNEL_SECRET : CHANNEL_OLD;

    l->moved = there != l->channel;
    l->channel = there;
}

/* Without its settings or LISTEN the connection would be deaf: a fault there ends it. */
static void on_answer(struct listen *l, const PGresult *pg)
{
    int doing = l->doing;
    bool vital = doing == DOING_SETUP || doing == DOING_CHANNEL || doing == DOING_LISTEN;

    if (result_ends_link(pg) || (vital && result_is_error(pg)))
        pglink_lost(l->link, PQresultErrorMessage(pg));
    else if (doing == DOING_CHANNEL)
        on_channel_answer(l, pg);
    else if (doing == DOING_STATE)
        on_state_answer(l, pg);
    else if (doing == DOING_ASKED)
        on_asked_answer(l, pg);
}

/* What was told on the better channel before was missed: that it is up is said anew once the state has been read. */
static bool ask_listen(struct listen *l)
{
    l->moved = false;
    l->health = l->health == HEALTH_UP ? HEALTH_UNKNOWN : l->health;
    return ask(l, DOING_LISTEN, listen_texts[l->channel]);
}

/* The NULL after an answer: the connection takes the next question. */
static bool on_answered(struct listen *l)
{
    int doing = l->doing;
    bool asks = doing == DOING_SETUP || (doing == DOING_CHANNEL && l->moved);

    l->doing = DOING_NOTHING;
    if (asks && !(doing == DOING_SETUP ? ask_channel(l) : ask_listen(l)))
        pglink_lost(l->link, PQerrorMessage(l->pg));
    if (doing == DOING_LISTEN)
        l->due = true;
    return asks;
}

static void on_notice(struct listen *l, const char *payload)
{
    l->in_callback = true;
    if (!l->options.on_notice || l->options.on_notice(l->options.notice_arg, payload))
        l->due = true;
    l->in_callback = false;
}

static bool on_input(void *arg, PGconn *pg)
{
    struct listen *l = arg;
    bool sent = false;
    PGnotify *notice;

    while (l->doing != DOING_NOTHING && !sent && !PQisBusy(pg)) {
        PGresult *answer = PQgetResult(pg);

        if (!answer)
            sent = on_answered(l);
        else
            on_answer(l, answer); /* may lose the connection; then nothing is being done any more */
        PQclear(answer);
    }
    if (!l->pg)
        return false;
    PQisBusy(pg); /* parses what has come while nothing was asked */
    while ((notice = PQnotifies(pg))) {
        on_notice(l, notice->extra);
        PQfreemem(notice);
    }
    return send_next(l) || sent;
}

static void on_up(void *arg, PGconn *pg)
{
    struct listen *l = arg;

    l->pg = pg;
    l->channel = CHANNEL_NONE;
    if (!ask(l, DOING_SETUP, setup_text))
        pglink_lost(l->link, PQerrorMessage(pg));
}

/* listen_ask() is refused while the link is down, so only what stands in the list now is finished. */
static void fail_asked(struct listen *l, const char *reason)
{
    struct sql_result result;

    while (l->first) {
        struct asked *a = asked_pop(l);

        result_show_error(&result, MUSTER_ELINK, reason);
        call(l, a->fn, a->arg, &result);
        asked_free(a);
    }
}

/* What is missed from now on is not lost: after the next LISTEN the whole state is read. */
static void on_down(void *arg, const char *reason)
{
    struct listen *l = arg;

    l->pg = NULL;
    l->doing = DOING_NOTHING;
    l->reading = l->due = l->look = l->moved = false;
    fail_asked(l, reason);
    tell_away(l, "", reason);
}

/* An idle connection would not notice for hours that its peer is gone. */
static void on_ping(uv_timer_t *timer)
{
    struct listen *l = timer->data;

    if (!l->pg)
        return;
    if (l->doing != DOING_NOTHING) {
        if (clock_now_ns() - l->since_ns > SILENCE_MS * CLOCK_MS)
            pglink_lost(l->link, "no answer within 4.5 s");
        return;
    }
    if (l->failed && !l->reading)
        l->due = true;
    l->look = l->channel == CHANNEL_OLD;
    if (!send_next(l) && l->pg && !ask(l, DOING_PING, "SELECT 1"))
        pglink_lost(l->link, PQerrorMessage(l->pg));
    pglink_pump(l->link);
}

static void on_handle_closed(uv_handle_t *handle)
{
    free(handle);
}

static uv_timer_t *timer_new(struct listen *l)
{
    uv_timer_t *timer = calloc(1, sizeof *timer);

    if (!timer)
        return NULL;
    uv_timer_init(l->options.loop, timer); /* cannot fail */
    timer->data = l;
    return timer;
}

int listen_new(const struct listen_options *o, struct listen **ret_listen)
{
    static const struct pglink_events events = {.on_up = on_up, .on_input = on_input, .on_down = on_down};
    struct listen *l;
    int err;

    if (o->n_queries == 0 || o->n_queries > LISTEN_QUERIES_MAX)
        return MUSTER_EINVAL;
    l = calloc(1, sizeof *l);
    if (!l)
        return MUSTER_ENOMEM;
    l->options = *o;
    memcpy(l->queries, o->queries, o->n_queries * sizeof *o->queries);
    l->ping = timer_new(l);
    l->rest = timer_new(l);
    err = l->ping && l->rest ? 0 : MUSTER_ENOMEM;
    if (!err)
        err = pglink_open(&(struct pglink_options){.loop = o->loop,
                                                   .dsn = o->dsn,
                                                   .broker_id = o->broker_id,
                                                   .events = &events,
                                                   .arg = l},
                          &l->link);
    if (err) {
        listen_free(l);
        return err;
    }
    uv_timer_start(l->ping, on_ping, PING_MS, PING_MS);
    *ret_listen = l;
    return 0;
}

void listen_free(struct listen *l)
{
    if (!l)
        return;
    ASSERT(!l->in_callback);
    pglink_close(l->link);
    l->pg = NULL;
    fail_asked(l, "the broker is closing its connections");
    if (l->ping)
        uv_close((uv_handle_t *)l->ping, on_handle_closed);
    if (l->rest)
        uv_close((uv_handle_t *)l->rest, on_handle_closed);
    free(l);
}

static struct asked *asked_new(const char *text, size_t n_params, const char *const *params)
{
    struct asked *a = calloc(1, sizeof *a);
    bool failed = false;

    if (!a)
        return NULL;
    a->text = strdup(text);
    failed = !a->text;
    a->n_params = n_params;
    for (size_t i = 0; i < n_params; i++) {
        a->params[i] = params[i] ? strdup(params[i]) : NULL;
        failed = failed || (params[i] && !a->params[i]);
    }
    if (failed) {
        asked_free(a);
        return NULL;
    }
    return a;
}

int listen_ask(struct listen *l, const char *text, size_t n_params, const char *const *params, muster_sql_fn fn, void *arg)
{
    struct asked *a;

    if (n_params > LISTEN_PARAMS_MAX)
        return MUSTER_EINVAL;
    if (!l->pg)
        return MUSTER_ELINK;
    if (l->n_asked >= LISTEN_ASKED_MAX)
        return MUSTER_EAGAIN;
    a = asked_new(text, n_params, params);
    if (!a)
        return MUSTER_ENOMEM;
    a->fn = fn;
    a->arg = arg;
    if (l->last)
        l->last->next = a;
    else
        l->first = a;
    l->last = a;
    l->n_asked++;
    if (!l->in_callback && send_next(l))
        pglink_pump(l->link);
    return 0;
}
