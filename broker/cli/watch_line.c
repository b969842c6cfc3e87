/* Lines of `muster watch`; see watch_line.h. Every text in them comes from rows or plugins and goes
 * through term_put() or JSON. */
#include "cli/watch_line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "cli/agents.h"
#include "cli/body.h"
#include "cli/term.h"
#include "wire/subject.h"
#include "wire/writer.h"

enum {
    SHOWN_VALUE = 48,   /* bytes of one value */
    SHOWN_COLUMNS = 24, /* of one row */
    SHOWN_NAME = 128,
    CHANNELS_MAX = 65536,
    TIME_FROM = 11, /* "2026-01-31T23:59:59.123456Z": the part from the hour to the milliseconds */
    TIME_LEN = 12,
};

/* True for row changes and events; whose parts are legal names then, all but the key. */
static bool parse(const struct watch_style *style, const struct heard *h,
                  struct subject *ret_subject)
{
    return subject_parse(style->root, h->subject, strlen(h->subject), ret_subject) == 0 &&
           (ret_subject->kind == SUBJECT_CDC || ret_subject->kind == SUBJECT_EVT);
}

/* With every tenant asked for, "R.*.cdc.>" matches R._in.cdc.… too, what a stream keeps of a tenant
 * called cdc. Heads tell nothing that the messages do not: they are for those who missed some. */
bool heard_is_shown(const struct watch_style *style, const struct heard *h)
{
    struct subject s;

    return parse(style, h, &s) && *s.tenant.s != '_' && !text_is(s.service, "_");
}

static const char *header(const struct heard *h, const char *name)
{
    for (uint32_t i = 0; i < h->n_headers; i++)
        if (strcmp(h->headers[i].name, name) == 0)
            return h->headers[i].value;
    return NULL;
}

/* NULL: neither JSON nor MessagePack. */
static struct muster_value *decode(const struct heard *h)
{
    struct muster_value *doc;
    struct wire_error err;
    uint32_t encoding;

    if (value_detect(h->data, &encoding, &err) != 0 ||
        value_decode(encoding, h->data, &doc, &err) != 0)
        return NULL;
    return doc;
}

/* ---- values ---- */

static void put_compact(struct buf *out, const struct muster_value *v)
{
    struct muster_writer w;

    writer_init(&w, MUSTER_JSON, out);
    writer_value(&w, v);
}

/* A text that nobody would take for something else needs no quotes; a number in a text column looks
 * like a number, which costs nothing here: --json keeps the difference. */
static bool is_plain(const char *s, size_t len)
{
    static const char also[] = "_-.:+@/";

    for (size_t i = 0; i < len; i++) {
        bool alnum = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') ||
                     (s[i] >= '0' && s[i] <= '9');

        if (!alnum && (!s[i] || !strchr(also, s[i])))
            return false;
    }
    return len > 0;
}

/* As compact JSON where it is not plain: its escapes show what term_put() would replace. */
static void put_value(struct buf *out, const struct muster_value *v)
{
    size_t len;
    const char *s = value_type(v) == MUSTER_STR ? value_str(v, &len) : NULL;
    struct buf json = {0};

    if (s && is_plain(s, len)) {
        term_put(out, s, len, SHOWN_VALUE);
        return;
    }
    put_compact(&json, v);
    term_put(out, json.data ? json.data : "", json.len, SHOWN_VALUE);
    buf_done(&json);
}

/* By their JSON texts: both come from the same encoder, so equal values have equal texts. */
static bool same_value(const struct muster_value *a, const struct muster_value *b)
{
    struct buf texts[2] = {{0}, {0}};
    bool same;

    put_compact(&texts[0], a);
    put_compact(&texts[1], b);
    same = texts[0].len == texts[1].len &&
           (!texts[0].len || memcmp(texts[0].data, texts[1].data, texts[0].len) == 0);
    buf_done(&texts[0]);
    buf_done(&texts[1]);
    return same;
}

static void put_pair(struct buf *out, const char *name, size_t len, const struct muster_value *v)
{
    buf_putc(out, ' ');
    term_put(out, name, len, SHOWN_NAME);
    buf_putc(out, '=');
    put_value(out, v);
}

/* ---- the beginning of a line ---- */

/* The time of the commit, or what an event says in `at`; without one, the time of hearing it. */
static void put_time(struct buf *out, const struct muster_value *time)
{
    char now[CLOCK_RFC3339_SIZE];
    size_t len = 0;
    const char *text = body_is(time, MUSTER_STR) ? value_str(time, &len) : NULL;

    if (!text || len < TIME_FROM + TIME_LEN) {
        clock_rfc3339(clock_wall_ns(), now);
        text = now;
    }
    term_put(out, text + TIME_FROM, TIME_LEN, TIME_LEN);
}

/* For parts with a usual width: lines of the same kind stand in columns, longer names push the
 * rest. */
static void put_padded(struct buf *out, const char *s, size_t len, size_t width)
{
    term_put(out, s, len, SHOWN_NAME);
    for (size_t i = len; i < width; i++)
        buf_putc(out, ' ');
}

/* ---- row changes ---- */

/* What is new, what is other, what is gone (delete and truncate). */
static int colour_of(struct text op)
{
    if (text_is(op, "insert"))
        return TERM_GREEN;
    return text_is(op, "update") ? TERM_YELLOW : TERM_RED;
}

/* The key, and the old one where it has changed. */
static void put_key(struct buf *out, const struct muster_value *key, const struct muster_value *old)
{
    const struct muster_value *v;
    const char *name;
    size_t len;

    for (size_t i = 0; i < body_count(key) && (v = value_key(key, i, &name, &len)); i++) {
        const struct muster_value *was = body_get(old, name);

        put_pair(out, name, len, v);
        if (was && !same_value(was, v)) {
            buf_put_lit(out, " (was ");
            put_value(out, was);
            buf_putc(out, ')');
        }
    }
}

/* One column of the row: false when there is nothing to say about it, because it is as it was, or
 * NULL and nothing is known of before. */
static bool put_column(struct buf *out, const char *name, const struct muster_value *v,
                       const struct muster_value *old)
{
    const struct muster_value *was = body_get(old, name);

    if (was ? same_value(was, v) : value_type(v) == MUSTER_NULL)
        return false;
    buf_putc(out, ' ');
    term_put(out, name, strlen(name), SHOWN_NAME);
    buf_putc(out, '=');
    if (was) {
        put_value(out, was);
        buf_put_lit(out, "→");
    }
    put_value(out, v);
    return true;
}

/* The columns of row that are not in the key; where old is given those that differ from it, as far
 * as it knows them. */
static void put_columns(struct buf *out, const struct muster_value *body,
                        const struct muster_value *row, const struct muster_value *old)
{
    const struct muster_value *key = body_get(body, "key"), *v;
    const char *name;
    size_t len, shown = 0, more = 0;

    for (size_t i = 0; i < body_count(row) && (v = value_key(row, i, &name, &len)); i++) {
        if (body_get(key, name))
            continue;
        if (shown == SHOWN_COLUMNS)
            more++;
        else if (put_column(out, name, v, old))
            shown++;
    }
    if (more)
        buf_printf(out, " (%zu columns more)", more);
}

/* Names of columns that are not shown because they were not sent. */
static void put_names(struct buf *out, const char *what, const struct muster_value *names)
{
    const struct muster_value *v;

    for (size_t i = 0; i < body_count(names) && (v = value_at(names, i)); i++) {
        size_t len = 0;
        const char *s = value_str(v, &len);

        buf_puts(out, i ? ", " : what);
        term_put(out, s ? s : "", len, SHOWN_NAME);
    }
    if (body_count(names))
        buf_putc(out, ')');
}

/* "insert   public.orders  id=1  item=bolt"; names are the body's, because the subject may have
 * short forms of them. */
static void put_change(struct buf *out, const struct watch_style *style, const struct subject *s,
                       const struct muster_value *body)
{
    const struct muster_value *row = body_get(body, "new"), *old = body_get(body, "old");
    const char *schema = body_text(body, "schema"), *table = body_text(body, "table");
    char op[16];

    /* It fits: a parsed subject has one of four words here. */
    (void)snprintf(op, sizeof op, "%-8.*s", (int)s->verb.len, s->verb.s);
    term_colour(out, style->colours, colour_of(s->verb), op);
    buf_putc(out, ' ');
    term_put(out, schema ? schema : "?", schema ? strlen(schema) : 1, SHOWN_NAME);
    buf_putc(out, '.');
    term_put(out, table ? table : "?", table ? strlen(table) : 1, SHOWN_NAME);
    buf_putc(out, ' ');
    put_key(out, body_get(body, "key"), body_is(row, MUSTER_MAP) ? old : NULL);
    buf_putc(out, ' ');
    if (!body_is(row, MUSTER_MAP))
        put_columns(out, body, old, NULL);
    else if (body_count(body_get(body, "key")))
        put_columns(out, body, row, old);
    else
        put_columns(out, body, row, NULL); /* without a key the columns alone say which row it is */
    put_names(out, "  (unchanged: ", body_get(body, "unchanged"));
    put_names(out, "  (omitted, too large: ", body_get(body, "omitted"));
}

/* ---- events ---- */

/* "task.assigned  t-1  agent=a1 state=assigned"; `at` is at the beginning of the line already. */
static void put_event(struct buf *out, const struct heard *h, const struct subject *s,
                      const struct muster_value *body)
{
    const char *key = header(h, "Muster-Key"), *name;
    const struct muster_value *v;
    size_t len;

    term_put(out, s->service.s, s->service.len, SHOWN_NAME);
    buf_putc(out, '.');
    term_put(out, s->verb.s, s->verb.len, SHOWN_NAME);
    buf_put_lit(out, "  ");
    if (key)
        term_put(out, key, strlen(key), SHOWN_NAME);
    else if (s->ref.s)
        term_put(out, s->ref.s, s->ref.len, SHOWN_NAME);
    buf_putc(out, ' ');
    if (text_is(s->service, "presence")) {
        buf_putc(out, ' ');
        agents_put_event(out, body);
        return;
    }
    for (size_t i = 0; i < SHOWN_COLUMNS && (v = value_key(body, i, &name, &len)); i++)
        if (value_type(v) != MUSTER_NULL && strcmp(name, "at") != 0)
            put_pair(out, name, len, v);
    if (value_count(body) > SHOWN_COLUMNS)
        buf_printf(out, " (%zu members more)", value_count(body) - SHOWN_COLUMNS);
}

/* Blanks at the end are of parts that were empty. */
static void print_text(struct buf *out, const struct watch_style *style, const struct heard *h)
{
    struct muster_value *body;
    struct subject s;
    bool is_change;

    if (!parse(style, h, &s))
        return; /* heard_is_shown() has said so */
    body = decode(h);
    is_change = s.kind == SUBJECT_CDC;
    put_time(out, body_get(body, is_change ? "commit_time" : "at"));
    buf_put_lit(out, "  ");
    put_padded(out, s.tenant.s, s.tenant.len, 10);
    buf_put_lit(out, "  ");
    if (!body) {
        term_put(out, h->subject, strlen(h->subject), SUBJECT_MAX);
        buf_printf(out, "  (%zu bytes that are neither JSON nor MessagePack)", h->data.len);
    } else if (is_change) {
        put_change(out, style, &s, body);
    } else {
        put_event(out, h, &s, body);
    }
    while (out->len && out->data[out->len - 1] == ' ')
        out->data[--out->len] = '\0';
    buf_putc(out, '\n');
    value_free(body);
}

/* ---- JSON ---- */

/* Headers may hold any bytes; buf_put_json() takes UTF-8 only. */
static void put_json(struct buf *out, const char *s, size_t len)
{
    struct buf clean = {0};

    utf8_put(&clean, s, len);
    buf_put_json(out, clean.data ? clean.data : "", clean.len);
    out->failed |= buf_failed(&clean);
    buf_done(&clean);
}

/* A body in MessagePack is shown as JSON; one that is neither as {"base64"}, as message.history
 * does. */
static void print_json(struct buf *out, const struct heard *h)
{
    struct muster_value *body = decode(h);

    buf_put_lit(out, "{\"subject\":");
    put_json(out, h->subject, strlen(h->subject));
    buf_put_lit(out, ",\"headers\":{");
    for (uint32_t i = 0; i < h->n_headers; i++) {
        buf_puts(out, i ? "," : "");
        put_json(out, h->headers[i].name, strlen(h->headers[i].name));
        buf_putc(out, ':');
        put_json(out, h->headers[i].value, strlen(h->headers[i].value));
    }
    buf_put_lit(out, "},\"body\":");
    if (body) {
        put_compact(out, body);
    } else {
        buf_put_lit(out, "{\"base64\":\"");
        buf_put_base64(out, h->data.data, h->data.len);
        buf_put_lit(out, "\"}");
    }
    buf_put_lit(out, "}\n");
    value_free(body);
}

void heard_print(struct buf *out, const struct watch_style *style, const struct heard *h)
{
    if (style->json)
        print_json(out, h);
    else
        print_text(out, style, h);
}

/* ---- gaps ---- */

struct position {
    uint64_t epoch, seq;
};

/* What is said between the lines. */
struct notice {
    const char *kind; /* gap, again, epoch */
    const char *channel;
    struct position before, now;
};

void channels_done(struct channels *c)
{
    void *position;

    for (size_t at = 0; map_next(&c->seen, &at, NULL, &position);)
        free(position);
    map_done(&c->seen);
}

/* "--" begins no line of a message: those begin with a time. */
static void put_notice_text(struct buf *line, const struct notice *n)
{
    unsigned long long before = n->before.seq, now = n->now.seq;

    if (strcmp(n->kind, "gap") == 0)
        buf_printf(line, "-- gap: %llu not heard, between %llu and %llu", now - before - 1, before,
                   now);
    else if (strcmp(n->kind, "again") == 0)
        buf_printf(line, "-- position %llu came after %llu", now, before);
    else
        buf_printf(line, "-- begins anew: epoch %llu after %llu; what was between them may be lost",
                   (unsigned long long)n->now.epoch, (unsigned long long)n->before.epoch);
    buf_printf(line, " (%s)", n->channel);
}

static void put_notice(struct buf *out, const struct watch_style *style, const struct notice *n)
{
    struct buf line = {0};

    if (style->json) {
        buf_printf(
            out, "{\"notice\":{\"kind\":\"%s\",\"channel\":\"%s\",\"epoch\":%llu,\"seq\":%llu,",
            n->kind, n->channel, (unsigned long long)n->now.epoch, (unsigned long long)n->now.seq);
        buf_printf(out, "\"before\":{\"epoch\":%llu,\"seq\":%llu}}}\n",
                   (unsigned long long)n->before.epoch, (unsigned long long)n->before.seq);
        return;
    }
    put_notice_text(&line, n);
    term_colour(out, style->colours, TERM_MAGENTA, line.data ? line.data : "");
    buf_putc(out, '\n');
    buf_done(&line);
}

/* "acme evt.task" or "acme cdc.main.public.orders": names of a parsed subject, safe to print. */
static bool channel_of(const struct subject *s, char out[SUBJECT_MAX])
{
    int n;

    if (s->kind == SUBJECT_EVT)
        n = snprintf(out, SUBJECT_MAX, "%.*s evt.%.*s", (int)s->tenant.len, s->tenant.s,
                     (int)s->service.len, s->service.s);
    else
        n = snprintf(out, SUBJECT_MAX, "%.*s cdc.%.*s.%.*s.%.*s", (int)s->tenant.len, s->tenant.s,
                     (int)s->service.len, s->service.s, (int)s->schema.len, s->schema.s,
                     (int)s->table.len, s->table.s);
    return n > 0 && n < SUBJECT_MAX;
}

/* The channel's last position, made with this one when it is new (*ret_new). NULL: no memory, or
 * too many. */
static struct position *find_channel(struct channels *c, const char *name, struct position now,
                                     bool *ret_new)
{
    struct position *p = map_get(&c->seen, name, strlen(name));

    *ret_new = !p;
    if (p || c->seen.n >= CHANNELS_MAX)
        return p;
    p = malloc(sizeof *p);
    if (!p || !map_put(&c->seen, name, strlen(name), p)) {
        free(p);
        return NULL;
    }
    *p = now;
    return p;
}

/* The last position is taken over whatever it is: after a gap the next message is no gap again. */
void channels_check(struct channels *c, const struct watch_style *style, const struct heard *h,
                    struct buf *out)
{
    const char *epoch = header(h, "Muster-Epoch"), *seq = header(h, "Muster-Seq");
    char name[SUBJECT_MAX];
    struct position *last;
    struct subject s;
    bool fresh;

    if (!epoch || !seq || !parse(style, h, &s) || !channel_of(&s, name))
        return;
    struct position now = {strtoull(epoch, NULL, 10), strtoull(seq, NULL, 10)};
    last = find_channel(c, name, now, &fresh);
    if (!last || fresh)
        return;
    if (now.epoch != last->epoch)
        put_notice(out, style, &(struct notice){"epoch", name, *last, now});
    else if (now.seq > last->seq + 1)
        put_notice(out, style, &(struct notice){"gap", name, *last, now});
    else if (now.seq <= last->seq)
        put_notice(out, style, &(struct notice){"again", name, *last, now});
    *last = now;
}

void notice_dropped(struct buf *out, const struct watch_style *style, uint64_t n)
{
    char line[128];

    (void)snprintf(line, sizeof line,
                   style->json ? "{\"notice\":{\"kind\":\"dropped\",\"messages\":%llu}}"
                               : "-- %llu came faster than they could be printed",
                   (unsigned long long)n);
    term_colour(out, style->colours && !style->json, TERM_MAGENTA, line);
    buf_putc(out, '\n');
}
