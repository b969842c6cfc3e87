/*
 * One watch.open, from its request to its answer; see watch.h.
 *
 * The table is looked at in the database, then the streams are there, then it is known where the watch begins; it is in the index before its
 * row is written, so that what comes meanwhile waits for it. What came between the position that is answered and that moment, it reads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/doc.h"
#include "fanout/ask.h"
#include "fanout/watch.h"

const char watch_table_sql[] = "SELECT muster.watch_may_read($1, $4, $5, $6), muster.watch_table($1, $2, $3)";

struct opening {
    struct opening *next; /* of those that wait for a stream */
    struct opening *next_writing, **link_writing; /* link NULL: its row is not being written */
    uint64_t number;      /* of its row */
    struct watches *ws;
    struct ask *a;
    struct watch *w;
    struct watch_shard *s; /* NULL: it has come to nothing before */
    uint32_t generation;
    uint64_t epoch, seq; /* of the answer */
    uint64_t pos;        /* where the first tap begins; apart says whether that is not where its feed is */
    bool apart, whole;
};

/* ---- the end --------------------------------------------------------------------------------------------------------------------- */

static void unlink_writing(struct opening *o)
{
    if (!o->link_writing)
        return;
    *o->link_writing = o->next_writing;
    if (o->next_writing)
        o->next_writing->link_writing = o->link_writing;
    else
        o->s->last_writing = o->link_writing;
    o->link_writing = NULL;
}

static void done(struct opening *o)
{
    unlink_writing(o);
    if (o->s)
        o->s->writes--;
    free(o);
}

static void fail(struct opening *o, const struct complaint *c)
{
    if (c->code)
        ask_error(o->a, c->code, c->field, "%s", c->text);
    else
        ask_failed(o->a, MUSTER_ENOMEM, "no memory for a watch");
    watch_free(o->w);
    done(o);
}

static void fail_with(struct opening *o, int code, const char *what)
{
    ask_failed(o->a, code, what);
    watch_free(o->w);
    done(o);
}

/* Another broker has the shard by now, or it has come back and does not know this one. */
static bool has_moved(struct opening *o)
{
    if (o->s->state == SHARD_SERVED && o->s->generation == o->generation && shard_is_held(o->ws, o->s->n))
        return false;
    fail_with(o, MUSTER_ELINK, "another broker serves the tenant from now on");
    return true;
}

/* ---- the row --------------------------------------------------------------------------------------------------------------------- */

static bool id_of(const struct muster_sql_result *result, char id[WATCH_ID_SIZE])
{
    const char *text = result->code || !result->n_rows ? NULL : result->get(result, 0, 0);
    struct muster_value *outcome;
    struct wire_error error;
    const char *found;

    if (!text || value_decode(MUSTER_JSON, (struct muster_bytes){text, strlen(text)}, &outcome, &error) != 0)
        return false;
    found = doc_text(doc_get(doc_get(outcome, "ok"), "watch"), NULL);
    if (found)
        (void)snprintf(id, WATCH_ID_SIZE, "%s", found);
    value_free(outcome);
    return found != NULL;
}

/* The same request once more is answered with the first watch. */
static void on_written(void *arg, const struct muster_sql_result *result)
{
    struct opening *o = arg;
    struct watch *w = o->w;
    char id[WATCH_ID_SIZE];
    bool is;

    if (has_moved(o))
        return; /* the broker that serves it may have read the rows before this one was there */
    is = id_of(result, id) && watch_register(w, id);
    if (!is)
        watch_free(w);
    ask_reply_outcome(o->a, result);
    if (is)
        outlet_mark(w);
    done(o);
}

static const char *role_name(uint32_t role)
{
    static const char *const names[] = {"none", "agent", "observer", "user", "human", "admin", "operator", "plugin"};

    return role < sizeof names / sizeof *names ? names[role] : "none";
}

/* Until its shard is kept with it, this is all that is known of where it is. */
static void put_positions(const struct opening *o, struct buf *b)
{
    const struct watch *w = o->w;

    buf_printf(b, "{\"epoch\":%llu,\"number\":%llu", (unsigned long long)o->s->epoch, (unsigned long long)o->number);
    if (!o->whole)
        buf_puts(b, ",\"cut\":true");
    for (size_t i = 0; i < w->n_taps; i++)
        buf_printf(b, ",\"%s\":%llu", w->taps[i].feed->name, (unsigned long long)w->taps[i].pos);
    buf_putc(b, '}');
}

static void put_args(const struct opening *o, struct buf *b)
{
    struct fanout *f = o->ws->f;
    const char *tenant = f->tenants->name(o->w->tenant);
    int64_t limit = f->tenants->limit(f->host, o->w->tenant, "watches");

    buf_printf(b, "{\"spec\":%s,\"role\":\"%s\",\"shard\":%u,\"position\":", o->w->spec_json, role_name(o->w->role), o->w->shard);
    put_positions(o, b);
    if (limit >= 0)
        buf_printf(b, ",\"limit\":%lld", (long long)limit);
    buf_printf(b, ",\"subject\":\"%s.%s.sub.%s.\",\"epoch\":%llu,\"seq\":%llu}", f->host->root, tenant, o->w->agent,
               (unsigned long long)o->epoch, (unsigned long long)o->seq);
}

static void link_writing(struct opening *o)
{
    struct watch_shard *s = o->s;

    o->number = ++s->opened;
    o->link_writing = s->last_writing ? s->last_writing : &s->first_writing;
    *o->link_writing = o;
    s->last_writing = &o->next_writing;
}

uint64_t opens_known(const struct watch_shard *s)
{
    const struct opening *o = s->first_writing;

    while (o && o->generation != s->generation)
        o = o->next_writing;
    return o ? o->number - 1 : s->opened;
}

static void write_row(struct opening *o)
{
    struct buf args = {0};
    int err;

    link_writing(o);
    put_args(o, &args);
    err = buf_failed(&args) ? MUSTER_ENOMEM : ask_once(o->a, "watch_open", args.data, on_written, o);
    buf_done(&args);
    if (err)
        fail_with(o, err, "the watch could not be written");
}

/* ---- where it begins ------------------------------------------------------------------------------------------------------------- */

static void begin(struct opening *o)
{
    struct watch *w = o->w;
    struct tap *tap = &w->taps[0];

    if (!watch_link(w)) {
        fail_with(o, MUSTER_ENOMEM, "no memory for a watch");
        return;
    }
    for (size_t i = 0; i < w->n_taps; i++)
        w->taps[i].pos = w->taps[i].feed->pos;
    if (!o->whole)
        outlet_gap(w, "retention", w->channel, 0, 0);
    if (o->apart && o->pos < tap->feed->pos && tap_apart(tap, o->pos))
        tap_go(tap);
    else if (o->apart)
        tap->pos = o->pos;
    write_row(o);
}

static void on_last(void *arg, int code, const struct muster_msg *msg)
{
    struct opening *o = arg;

    if (has_moved(o))
        return;
    if (code && code != MUSTER_ENOTFOUND) {
        fail_with(o, code, "the stream could not be read");
        return;
    }
    if (!code) {
        o->epoch = message_number(msg, "Muster-Epoch");
        o->seq = message_number(msg, "Muster-Seq");
        o->pos = msg->seq;
        o->apart = true;
    }
    begin(o);
}

static void on_sought(void *arg, int code, uint64_t pos, bool whole)
{
    struct opening *o = arg;

    if (has_moved(o))
        return;
    if (code) {
        fail_with(o, code, "the stream could not be read");
        return;
    }
    o->pos = pos;
    o->whole = whole;
    o->apart = true;
    begin(o);
}

static void place_subject(const struct watch *w, char out[SOURCE_CHANNEL_SIZE + 8])
{
    const char *feed = w->taps[0].feed->name;

    if (strncmp(feed, "PRES_", 5) == 0)
        (void)snprintf(out, SOURCE_CHANNEL_SIZE + 8, "pres.%s.>", feed + 5);
    else
        (void)snprintf(out, SOURCE_CHANNEL_SIZE + 8, "%s.>", w->channel);
}

static void ask_last(struct opening *o)
{
    struct fanout *f = o->ws->f;
    char subject[SOURCE_CHANNEL_SIZE + 8];
    int err;

    place_subject(o->w, subject);
    err = f->stream->last(f->host, o->w->taps[0].feed->stream, o->w->tenant, subject, on_last, o);
    if (err)
        fail_with(o, err, "the stream could not be read");
}

/* Whoever has seen more than the stream has given has seen another one. */
static void on_end_known(void *arg, int code, const struct muster_stream_info *info)
{
    struct opening *o = arg;

    if (has_moved(o))
        return;
    if (code) {
        fail_with(o, code, "the stream could not be read");
        return;
    }
    if (o->pos > info->last_seq) {
        o->whole = false;
        o->pos = info->last_seq;
    }
    o->seq = o->pos;
    begin(o);
}

static void begin_at_stream(struct opening *o, const struct muster_value *after)
{
    struct fanout *f = o->ws->f;
    struct feed *feed = o->w->taps[0].feed;
    int err;

    o->epoch = feed->created_us;
    o->seq = feed->pos;
    if (!after) {
        begin(o);
        return;
    }
    o->apart = true;
    o->whole = (uint64_t)doc_int(doc_get(after, "epoch")) == feed->created_us;
    o->pos = o->whole ? (uint64_t)doc_int(doc_get(after, "seq")) : 0;
    err = f->stream->info(f->host, feed->stream, on_end_known, o);
    if (err)
        fail_with(o, err, "the stream could not be read");
}

static void begin_after(struct opening *o, const struct muster_value *after)
{
    char subject[SOURCE_CHANNEL_SIZE + 8];
    int err;

    o->epoch = (uint64_t)doc_int(doc_get(after, "epoch"));
    o->seq = (uint64_t)doc_int(doc_get(after, "seq"));
    place_subject(o->w, subject);
    err = seek_begin(o->w->taps[0].feed, o->w->tenant, subject, o->epoch, o->seq, on_sought, o);
    if (err)
        fail_with(o, err, "the stream could not be read");
}

static void find_place(struct opening *o)
{
    struct watch *w = o->w;
    const struct muster_value *after = w->spec.after;
    const struct channel_place *known = w->channel[0] ? channel_at(o->ws, w->tenant, w->channel, strlen(w->channel), false) : NULL;

    if (w->by_stream) {
        begin_at_stream(o, after);
    } else if (after && w->channel[0]) {
        begin_after(o, after);
    } else if (after) {
        fail(o, &(struct complaint){"invalid_argument", "after", "after: it came with sources of several channels, sources of one were expected"});
    } else if (known) {
        o->epoch = known->epoch;
        o->seq = known->seq;
        begin(o);
    } else if (w->channel[0]) {
        ask_last(o);
    } else {
        begin(o);
    }
}

/* ---- its streams ----------------------------------------------------------------------------------------------------------------- */

static void enlist(struct opening *o, bool on)
{
    struct opening **at = &o->ws->openings;

    if (on) {
        o->next = *at;
        *at = o;
        return;
    }
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
}

/* 0: all are there; MUSTER_EAGAIN: not yet; MUSTER_ENOTFOUND: there is no such stream. The second one of a pattern may be missing. */
static int streams_of(const struct watch *w, const struct feed **ret_feed)
{
    for (size_t i = 0; i < w->n_taps; i++) {
        const struct feed *feed = w->taps[i].feed;

        *ret_feed = feed;
        if (!feed->ready && !feed->missing)
            return MUSTER_EAGAIN;
        if (!feed->ready && (i == 0 || strncmp(feed->name, "PRES_", 5) != 0))
            return MUSTER_ENOTFOUND;
    }
    return 0;
}

/* MSG is a stream of the tenant's, which keeps it or does not; EVT, MAIL and those of presence are made by plugins. */
static void complain_of(const struct opening *o, const struct feed *feed, struct complaint *c)
{
    bool is_cdc = strncmp(feed->name, "CDC_", 4) == 0, is_msg = strcmp(feed->name, "MSG") == 0;

    *c = (struct complaint){.code = "unavailable", .field = o->w->spec.sources ? "sources" : "source"};
    if (feed->full) {
        c->code = "resource_exhausted";
        (void)snprintf(c->text, sizeof c->text, "%s: this broker follows as many streams as it may, and stream %s is not among them", c->field, feed->name);
        o->ws->f->metrics->add(o->ws->f->host, o->ws->m.refused, NULL, 1);
        return;
    }
    if (feed->gone)
        c->code = is_msg ? "failed_precondition" : is_cdc ? "not_found" : "unavailable";
    (void)snprintf(c->text, sizeof c->text, "%s: there is no stream %s: what would write it is not set up, or has not begun", c->field, feed->name);
}

static void go_on(struct opening *o)
{
    const struct feed *feed = NULL;
    int err = streams_of(o->w, &feed);
    struct complaint c;

    if (err == MUSTER_EAGAIN)
        return;
    enlist(o, false);
    if (has_moved(o))
        return;
    if (err) {
        complain_of(o, feed, &c);
        fail(o, &c);
        return;
    }
    find_place(o);
}

void opens_tick(struct watches *ws)
{
    for (struct opening *o = ws->openings, *next; o; o = next) {
        next = o->next;
        go_on(o);
    }
}

void opens_done(struct watches *ws)
{
    while (ws->openings) {
        struct opening *o = ws->openings;

        enlist(o, false);
        fail_with(o, MUSTER_ELINK, "the broker ends");
    }
}

static void await_streams(struct opening *o)
{
    enlist(o, true);
    for (size_t i = 0; i < o->w->n_taps; i++)
        feed_ensure(o->w->taps[i].feed);
    go_on(o);
}

/* ---- its table ------------------------------------------------------------------------------------------------------------------- */

void watch_table_params(const struct watch *w, char tokens[2][NAME_TOKEN_SIZE], struct muster_bytes params[WATCH_TABLE_PARAMS])
{
    const char *texts[WATCH_TABLE_PARAMS] = {w->ws->f->tenants->name(w->tenant), w->spec.schema, w->spec.table, w->agent, tokens[0], tokens[1]};

    (void)name_token(w->spec.schema, strlen(w->spec.schema), tokens[0]);
    (void)name_token(w->spec.table, strlen(w->spec.table), tokens[1]);
    for (size_t i = 0; i < WATCH_TABLE_PARAMS; i++)
        params[i] = (struct muster_bytes){texts[i], strlen(texts[i])};
}

/* A user hears no subject of changes: its narrowing alone is looked at, in the database. */
static bool may_read(struct watch *w, const struct muster_sql_result *result, struct complaint *c)
{
    const char *narrowed = result->get(result, 0, 0);

    if (narrowed && narrowed[0] == 't' && (w->role == MUSTER_ROLE_USER || watch_may(w) != MUSTER_EACCES))
        return true;
    *c = (struct complaint){.code = "permission_denied", .field = "table"};
    (void)snprintf(c->text, sizeof c->text, "table: %s.%s came, which this name may not read", w->spec.schema, w->spec.table);
    return false;
}

static bool compile(struct watch *w, const char *json, struct complaint *c)
{
    struct table_info info;
    bool is;

    *c = (struct complaint){.code = "not_found", .field = "table"};
    (void)snprintf(c->text, sizeof c->text, "table: %s.%s came, the name of a published table was expected", w->spec.schema, w->spec.table);
    if (!json)
        return false;
    if (table_info_read(json, &info) != 0) {
        c->code = NULL;
        return false;
    }
    is = watch_compile(w, &info, c);
    table_info_done(&info);
    return is;
}

static void on_table(void *arg, const struct muster_sql_result *result)
{
    struct opening *o = arg;
    struct complaint c;

    if (has_moved(o))
        return;
    if (result->code || !result->n_rows)
        fail_with(o, result->code == MUSTER_EINVAL ? MUSTER_EABI : result->code, "the table could not be looked at");
    else if (!may_read(o->w, result, &c) || !compile(o->w, result->get(result, 0, 1), &c))
        fail(o, &c);
    else
        await_streams(o);
}

static void look_at_table(struct opening *o)
{
    struct fanout *f = o->ws->f;
    char tokens[2][NAME_TOKEN_SIZE];
    struct muster_bytes params[WATCH_TABLE_PARAMS];
    int err;

    watch_table_params(o->w, tokens, params);
    err = f->sql->exec(f->host, o->ws->stmt_table, o->w->tenant, NULL, WATCH_TABLE_PARAMS, params, on_table, o);
    if (err)
        fail_with(o, err, "the table could not be looked at");
}

static void check_sources(struct opening *o)
{
    struct complaint c = {"permission_denied", "sources", "sources: a pattern came that is outside the caller's own subscriptions"};

    if (watch_may(o->w) == MUSTER_EACCES)
        fail(o, &c);
    else
        await_streams(o);
}

/* ---- its request ----------------------------------------------------------------------------------------------------------------- */

/* The interval that it has where it names none is part of it from now on, wherever it is served. */
static void put_interval(const struct fanout *f, const struct muster_value *args, struct buf *out)
{
    int64_t ms = (f->watch_interval_ns + CLOCK_MS - 1) / CLOCK_MS;

    if (!ms || doc_get(args, "interval_ms") || out->len <= sizeof "{}" - 1)
        return;
    out->len--; /* the bracket */
    buf_printf(out, ",\"interval_ms\":%lld}", (long long)ms);
}

static char *json_of(const struct fanout *f, const struct muster_value *args)
{
    struct muster_writer w;
    struct buf out = {0};

    writer_init(&w, MUSTER_JSON, &out);
    writer_value(&w, args);
    if (writer_finish(&w, NULL) == 0) {
        put_interval(f, args, &out);
        return buf_take(&out);
    }
    buf_done(&out);
    return NULL;
}

void watch_open(struct watches *ws, struct ask *a)
{
    struct opening *o = calloc(1, sizeof *o);
    char *spec = json_of(ws->f, a->args);
    struct complaint c = {.code = NULL};

    if (!o || !spec) {
        free(o);
        free(spec);
        ask_failed(a, MUSTER_ENOMEM, "no memory for a watch");
        return;
    }
    *o = (struct opening){.ws = ws, .a = a, .whole = true};
    o->w = watch_new(ws, a->msg->tenant, a->msg->agent, MUSTER_HAS(a->msg, role) ? a->msg->role : MUSTER_ROLE_AGENT, spec, &c);
    if (!o->w || !watch_taps(o->w, &c)) {
        fail(o, &c);
        return;
    }
    o->s = &ws->shards[o->w->shard];
    o->s->writes++;
    o->generation = o->s->generation;
    if (o->w->spec.sources)
        check_sources(o);
    else
        look_at_table(o);
}
