/* A message as it waits for a watch: ready to be put into a batch, or to be published by itself; see watch.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "fanout/emit.h"
#include "fanout/watch.h"

enum { HEADERS = OUTLET_HEADERS };

static bool is_agents(const struct tap *tap)
{
    return strcmp(tap->feed->name, "MSG") == 0 || strcmp(tap->feed->name, "MAIL") == 0;
}

/* A row that left is told with the key by which the watcher knows it; that of the row it became may be another's to know. */
static bool is_rekeyed(struct row *row, int outcome)
{
    struct scan scan;
    struct span name, value;

    if (!row || outcome != INDEX_LEFT || !scan_map(&scan, row->encoding, row->members[ROW_M_KEY]))
        return false;
    while (scan_member(&scan, &row->text, &name, &value)) {
        struct span old = row_value(row, ROW_OLD, name);

        if (old.len && !span_is(old, value.s, value.len))
            return true;
    }
    return false;
}

static void put_text(struct buf *b, struct row *row, struct span value, bool alone)
{
    struct cell cell = scan_cell(row->encoding, value, &row->text);

    if (alone && cell.kind == CELL_TEXT)
        buf_put(b, cell.text.s, cell.text.len);
    else
        buf_put(b, value.s, value.len);
}

/* The key token that the row had, as cdc writes it: of one column its text, of several a list in JSON. */
static void old_token(struct row *row, char token[NAME_TOKEN_SIZE])
{
    struct scan scan;
    struct span name, value;
    struct buf b = {0};
    size_t n = 0, members = 0;

    for (bool is = scan_map(&scan, row->encoding, row->members[ROW_M_KEY]); is && scan_member(&scan, &row->text, &name, &value);)
        members++;
    (void)scan_map(&scan, row->encoding, row->members[ROW_M_KEY]);
    while (scan_member(&scan, &row->text, &name, &value)) {
        struct span old = row_value(row, ROW_OLD, name);

        if (members > 1)
            buf_putc(&b, n++ ? ',' : '[');
        put_text(&b, row, old.len ? old : value, members == 1);
    }
    if (members > 1)
        buf_putc(&b, ']');
    (void)snprintf(token, NAME_TOKEN_SIZE, "_");
    if (!buf_failed(&b) && b.len && (members == 1 || row->encoding == MUSTER_JSON))
        (void)name_token(b.data, b.len, token);
    buf_done(&b);
}

/* The subject of a row that left under another key: with the key by which the watcher knows it. */
static void rename_subject(char *subject, size_t size, struct row *row)
{
    char *last = strrchr(subject, '.'), token[NAME_TOKEN_SIZE];

    if (!last || strcmp(last, "._") == 0)
        return;
    old_token(row, token);
    (void)snprintf(last + 1, size - (size_t)(last + 1 - subject), "%s", token);
}

/* What is NATS's stays behind, and so does what an agent wrote where brokers tell something of their own. */
static bool is_shown(const struct tap *tap, const char *name)
{
    static const char *const ours[] = {"Muster-Subject", "Muster-Seq", "Muster-Epoch", "Muster-Watch", "Muster-Dropped"};

    for (size_t i = 0; is_agents(tap) && i < sizeof ours / sizeof *ours; i++)
        if (strcasecmp(name, ours[i]) == 0)
            return false;
    return strncmp(name, "Nats-", 5) != 0;
}

/* The body as one value. What brokers wrote is sound; what agents wrote may be anything. */
static void embed(struct buf *b, const struct tap *tap, struct span body)
{
    uint32_t encoding = tap->w->encoding;

    if (!is_agents(tap) && scan_encoding(body) == encoding && body.len)
        buf_put(b, body.s, body.len);
    else if (!shape_transcode(tap->w, body, encoding, b))
        emit_bytes(b, encoding, body);
}

static uint64_t place_of(const struct tap *tap, const struct muster_msg *msg)
{
    uint64_t seq = is_agents(tap) ? 0 : message_number(msg, "Muster-Seq");

    return seq ? seq : msg->seq;
}

static void put_element(struct buf *b, const struct tap *tap, const char *subject, const struct muster_msg *msg, struct span body)
{
    uint32_t encoding = tap->w->encoding, n = 0;

    emit_map(b, encoding, 4);
    emit_key(b, encoding, "subject", true);
    emit_text(b, encoding, subject);
    emit_key(b, encoding, "seq", false);
    emit_number(b, encoding, place_of(tap, msg));
    emit_key(b, encoding, "headers", false);
    for (uint32_t i = 0; i < msg->n_headers; i++)
        n += is_shown(tap, msg->headers[i].name);
    emit_map(b, encoding, n);
    n = 0;
    for (uint32_t i = 0; i < msg->n_headers; i++) {
        if (!is_shown(tap, msg->headers[i].name))
            continue;
        emit_key(b, encoding, msg->headers[i].name, n++ == 0);
        emit_text(b, encoding, msg->headers[i].value);
    }
    emit_map_end(b, encoding);
    emit_key(b, encoding, "body", false);
    embed(b, tap, body);
    emit_map_end(b, encoding);
}

static void put_single(struct buf *b, const struct tap *tap, const char *subject, const struct muster_msg *msg, struct span body, size_t *ret_head)
{
    uint32_t encoding = tap->w->encoding;

    buf_put_lit(b, "Muster-Subject\0");
    buf_put(b, subject, strlen(subject) + 1);
    if (is_agents(tap)) {
        buf_put_lit(b, "Muster-Seq\0");
        buf_printf(b, "%llu", (unsigned long long)msg->seq);
        buf_putc(b, '\0');
    }
    for (uint32_t i = 0; i < msg->n_headers && i < HEADERS - 4; i++) {
        if (!is_shown(tap, msg->headers[i].name))
            continue;
        buf_put(b, msg->headers[i].name, strlen(msg->headers[i].name) + 1);
        buf_put(b, msg->headers[i].value, strlen(msg->headers[i].value) + 1);
    }
    *ret_head = b->len;
    if (!encoding || !body.len || scan_encoding(body) == encoding || !shape_transcode(tap->w, body, encoding, b))
        buf_put(b, body.s, body.len);
}

/* What it is conflated by. Where it has nothing there it stands alone. */
static void put_conflation(struct buf *b, const struct watch *w, const char *subject, const struct muster_msg *msg, struct row *row)
{
    const char *by = w->spec.conflate_by ? w->spec.conflate_by : "_key";
    struct span value = {"", 0}, key;
    struct scan scan;
    struct buf text = {0};

    if (row && strcmp(by, "_key") == 0) {
        value = row->members[ROW_M_KEY];
    } else if (row) {
        value = row_value(row, row_has(row, ROW_NEW) ? ROW_NEW : ROW_OLD, (struct span){by, strlen(by)});
    } else if (strcmp(by, "_key") == 0) {
        value = (struct span){subject, strlen(subject)};
    } else if (buf_reserve(&text, msg->payload.len + 1) &&
               scan_map(&scan, scan_encoding((struct span){msg->payload.data, msg->payload.len}), (struct span){msg->payload.data, msg->payload.len})) {
        while (scan_member(&scan, &text, &key, &value) && !span_is(key, by, strlen(by)))
            value = (struct span){"", 0};
    }
    if (value.len)
        buf_put(b, value.s, value.len);
    else
        buf_put(b, &msg->seq, sizeof msg->seq);
    buf_done(&text);
}

/* The body has the key. */
static void hide_key(const struct muster_msg *msg, struct muster_header kept[HEADERS], struct muster_msg *ret)
{
    *ret = *msg;
    ret->headers = kept;
    ret->n_headers = 0;
    for (uint32_t i = 0; i < msg->n_headers && ret->n_headers < HEADERS; i++)
        if (strcmp(msg->headers[i].name, "Muster-Key") != 0)
            kept[ret->n_headers++] = msg->headers[i];
}

static struct note_text *write_text(struct tap *tap, const char *relative, const struct muster_msg *msg, struct row *row, int outcome)
{
    struct watch *w = tap->w;
    struct watches *ws = w->ws;
    struct buf *b = &ws->scratch, shaped = {0};
    struct span body = {msg->payload.data, msg->payload.len};
    struct muster_header kept[HEADERS];
    struct muster_msg shown;
    bool rekeyed = is_rekeyed(row, outcome);
    char subject[640];
    size_t key_len, head;
    struct note_text *text;

    (void)snprintf(subject, sizeof subject, "%s.%s.%s", ws->f->host->root, ws->f->tenants->name(w->tenant), relative);
    if (rekeyed)
        rename_subject(subject, sizeof subject, row);
    buf_clear(b);
    put_conflation(b, w, subject, msg, row);
    head = key_len = b->len;
    if (row) {
        shape_change(w, row, outcome, &shaped);
        body = (struct span){shaped.data, shaped.len};
    }
    if (rekeyed) {
        hide_key(msg, kept, &shown);
        msg = &shown;
    }
    if (w->spec.rules.interval_ns)
        put_element(b, tap, subject, msg, body);
    else
        put_single(b, tap, subject, msg, body, &head);
    text = buf_failed(b) || buf_failed(&shaped) ? NULL : note_text_new(b->len);
    buf_done(&shaped);
    if (!text)
        return NULL;
    memcpy(text->data, b->data, b->len);
    text->key_len = key_len;
    text->head = head;
    return text;
}

void outlet_next(struct watches *ws)
{
    note_text_drop(ws->written.text);
    ws->written.text = NULL;
}

/* The text has a key of the watch's own, or what the watch may see of a row. */
static bool is_own(const struct watch *w, const struct row *row)
{
    return row || w->spec.conflate_by;
}

static bool is_written(const struct watch *w)
{
    const struct written *last = &w->ws->written;

    return last->text && last->encoding == w->encoding && last->batched == (w->spec.rules.interval_ns != 0);
}

/* The watches that a message is for are of one tenant, and have it from one feed. */
static struct note *write_shared(struct tap *tap, const char *relative, const struct muster_msg *msg)
{
    struct watch *w = tap->w;

    if (!is_written(w)) {
        outlet_next(w->ws);
        w->ws->written = (struct written){.text = write_text(tap, relative, msg, NULL, INDEX_MATCH),
                                          .encoding = w->encoding,
                                          .batched = w->spec.rules.interval_ns != 0};
    }
    return w->ws->written.text ? note_new(w->ws->written.text) : NULL;
}

static struct note *write_own(struct tap *tap, const char *relative, const struct muster_msg *msg, struct row *row, int outcome)
{
    struct note_text *text = write_text(tap, relative, msg, row, outcome);
    struct note *note = text ? note_new(text) : NULL;

    note_text_drop(text);
    return note;
}

struct note *outlet_note(struct tap *tap, const char *relative, const struct muster_msg *msg, struct row *row, int outcome)
{
    struct note *note = is_own(tap->w, row) ? write_own(tap, relative, msg, row, outcome) : write_shared(tap, relative, msg);

    if (!note)
        return NULL;
    note->seq = msg->seq;
    note->from = tap;
    return note;
}
