/*
 * A change as a watch shows it: its columns alone, as a delete where the row left the filter, without what was another user's.
 *
 * What is kept is copied as it stands, so that no digit is lost; only the maps around it are written anew, in the encoding they had.
 */
#include "fanout/doc.h"
#include "fanout/watch.h"
#include "wire/value.h"
#include "wire/writer.h"

struct shaping {
    const struct watch *w;
    struct row *row;
    struct buf *out;
    size_t n, at; /* of the open map or list: how many it has, where it began */
};

static void open_group(struct shaping *s, char json, char pack)
{
    s->at = s->out->len;
    s->n = 0;
    if (s->row->encoding == MUSTER_JSON)
        buf_putc(s->out, json);
    else
        buf_put(s->out, (char[]){pack, 0, 0}, 3); /* a map or an array of 16 bits */
}

static void close_group(struct shaping *s, char json)
{
    if (s->row->encoding == MUSTER_JSON) {
        buf_putc(s->out, json);
    } else if (!buf_failed(s->out)) {
        s->out->data[s->at + 1] = (char)(s->n >> 8);
        s->out->data[s->at + 2] = (char)s->n;
    }
}

static void put_text(struct shaping *s, struct span text)
{
    if (s->row->encoding == MUSTER_JSON)
        buf_put_json(s->out, text.s, text.len);
    else
        buf_put(s->out, (char[]){'\xda', (char)(text.len >> 8), (char)text.len}, 3), buf_put(s->out, text.s, text.len);
}

static void next(struct shaping *s)
{
    if (s->row->encoding == MUSTER_JSON && s->n)
        buf_putc(s->out, ',');
    s->n++;
}

static void put_key(struct shaping *s, const char *key, size_t len)
{
    next(s);
    put_text(s, (struct span){key, len});
    if (s->row->encoding == MUSTER_JSON)
        buf_putc(s->out, ':');
}

static void put_raw(struct shaping *s, struct span value)
{
    buf_put(s->out, value.s, value.len);
}

static void put_null(struct shaping *s)
{
    if (s->row->encoding == MUSTER_JSON)
        buf_put_lit(s->out, "null");
    else
        buf_putc(s->out, '\xc0');
}

static void put_true(struct shaping *s)
{
    if (s->row->encoding == MUSTER_JSON)
        buf_put_lit(s->out, "true");
    else
        buf_putc(s->out, '\xc3');
}

static bool is_wanted(const struct watch *w, struct span column)
{
    const struct muster_value *columns = w->spec.columns;

    if (!columns)
        return true;
    for (size_t i = 0; i < doc_count(columns); i++) {
        size_t len;
        const char *name = doc_text(value_at(columns, i), &len);

        if (span_is(column, name, len))
            return true;
    }
    return false;
}

/* ---- the parts ----------------------------------------------------------------------------------------------------------------- */

static void put_side(struct shaping *s, int side)
{
    const struct row_side *from = &s->row->sides[side];
    struct shaping inner = *s;

    open_group(&inner, '{', '\xde');
    for (size_t i = 0; i < from->n; i++) {
        if (!is_wanted(s->w, from->fields[i].name))
            continue;
        put_key(&inner, from->fields[i].name.s, from->fields[i].name.len);
        put_raw(&inner, from->fields[i].value);
    }
    close_group(&inner, '}');
}

/* Of a row that left, whose key may be new: the key by which the watcher knows it. */
static void put_old_key(struct shaping *s)
{
    struct shaping inner = *s;
    struct scan scan;
    struct span name, value;

    open_group(&inner, '{', '\xde');
    if (scan_map(&scan, s->row->encoding, s->row->members[ROW_M_KEY]))
        while (scan_member(&scan, &s->row->text, &name, &value)) {
            struct span old = row_value(s->row, ROW_OLD, name);

            put_key(&inner, name.s, name.len);
            put_raw(&inner, old.len ? old : value);
        }
    close_group(&inner, '}');
}

/* What names an element of a list: itself, or the `name` of a map. */
static struct span name_of(struct shaping *s, struct span element)
{
    struct cell cell = scan_cell(s->row->encoding, element, &s->row->text);
    struct scan scan;
    struct span key, value;

    if (cell.kind == CELL_TEXT)
        return cell.text;
    if (scan_map(&scan, s->row->encoding, element))
        while (scan_member(&scan, &s->row->text, &key, &value))
            if (SPAN_IS(key, "name"))
                return scan_cell(s->row->encoding, value, &s->row->text).text;
    return (struct span){"", 0};
}

static void put_list(struct shaping *s, int member)
{
    struct shaping inner = *s;
    struct scan scan;
    struct span element;

    open_group(&inner, '[', '\xdc');
    if (scan_array(&scan, s->row->encoding, s->row->members[member]))
        while (scan_element(&scan, &element)) {
            if (!is_wanted(s->w, name_of(s, element)))
                continue;
            next(&inner);
            put_raw(&inner, element);
        }
    close_group(&inner, ']');
}

/* The row before the change is another's where a user's filter did not let it through. */
static bool hides_old(const struct watch *w, struct row *row)
{
    return w->owned && row->op == ROW_UPDATE && row->sides[ROW_OLD].there && filter_test(w->filter, row, ROW_OLD) != FILTER_YES;
}

static bool is_as_it_is(const struct watch *w, struct row *row, int outcome)
{
    return !w->spec.columns && outcome == INDEX_MATCH && !hides_old(w, row);
}

static void put_member(struct shaping *s, const char *key, int member)
{
    if (!s->row->members[member].len)
        return;
    put_key(s, key, strlen(key));
    put_raw(s, s->row->members[member]);
}

static void put_row(struct shaping *s, const char *key, int side, bool hidden)
{
    put_key(s, key, 3);
    if (hidden || !s->row->sides[side].there)
        put_null(s);
    else
        put_side(s, side);
}

static void put_head(struct shaping *s, bool left)
{
    put_member(s, "schema", ROW_M_SCHEMA);
    put_member(s, "table", ROW_M_TABLE);
    put_key(s, "op", 2);
    if (left)
        put_text(s, (struct span){"delete", 6});
    else
        put_raw(s, s->row->members[ROW_M_OP]);
    put_member(s, "lsn", ROW_M_LSN);
    put_member(s, "commit_time", ROW_M_TIME);
    put_member(s, "xid", ROW_M_XID);
}

void shape_change(const struct watch *w, struct row *row, int outcome, struct buf *out)
{
    struct shaping s = {.w = w, .row = row, .out = out};
    bool left = outcome == INDEX_LEFT, hide_old = !left && hides_old(w, row);

    if (is_as_it_is(w, row, outcome)) {
        put_raw(&s, row->body);
        return;
    }
    open_group(&s, '{', '\xde');
    put_head(&s, left);
    if (left) {
        put_key(&s, "key", 3);
        put_old_key(&s);
    } else {
        put_member(&s, "key", ROW_M_KEY);
    }
    put_row(&s, "new", ROW_NEW, left);
    put_row(&s, "old", ROW_OLD, hide_old);
    put_key(&s, "unchanged", 9);
    put_list(&s, ROW_M_UNCHANGED);
    put_key(&s, "omitted", 7);
    put_list(&s, ROW_M_OMITTED);
    if (left) {
        put_key(&s, "left", 4);
        put_true(&s);
    }
    if (row->members[ROW_M_COLUMNS].len) {
        put_key(&s, "columns", 7);
        put_list(&s, ROW_M_COLUMNS);
    }
    close_group(&s, '}');
}

/* ---- the other encoding -------------------------------------------------------------------------------------------------------- */

static bool is_binary(const struct watch *w, const char *column)
{
    for (size_t at = 0; at < w->binary.len; at += strlen(w->binary.data + at) + 1)
        if (strcmp(w->binary.data + at, column) == 0)
            return true;
    return false;
}

/* As RFC 4648 has it in section 5, which is what the buffer reads. */
static bool put_unpacked(struct buf *out, const char *s, size_t len)
{
    struct buf text = {0};
    bool is;

    while (len && s[len - 1] == '=')
        len--;
    for (size_t i = 0; i < len; i++)
        buf_putc(&text, s[i] == '+' ? '-' : s[i] == '/' ? '_' : s[i]);
    is = !len || (!buf_failed(&text) && buf_put_decoded(out, text.data, text.len));
    buf_done(&text);
    return is;
}

/* A bytea is base64 in JSON and binary in MessagePack. */
static void write_bytea(struct muster_writer *w, const struct muster_value *v)
{
    struct buf bytes = {0};
    size_t len;
    const char *s = value_str(v, &len);
    int type = value_type(v);

    if (type == MUSTER_BIN && w->encoding == MUSTER_JSON) {
        buf_put_base64(&bytes, s, len);
        writer_str(w, bytes.len ? bytes.data : "", bytes.len);
    } else if (type == MUSTER_STR && w->encoding == MUSTER_MSGPACK && put_unpacked(&bytes, s, len)) {
        writer_bin(w, bytes.len ? bytes.data : "", bytes.len);
    } else {
        writer_value(w, v);
    }
    buf_done(&bytes);
}

static void write_row(const struct watch *watch, struct muster_writer *w, const struct muster_value *row)
{
    size_t n = value_count(row), len;
    const char *name;

    writer_map(w, n);
    for (size_t i = 0; i < n; i++) {
        const struct muster_value *v = value_key(row, i, &name, &len);

        writer_str(w, name, len);
        if (is_binary(watch, name))
            write_bytea(w, v);
        else
            writer_value(w, v);
    }
}

static void write_change(const struct watch *watch, struct muster_writer *w, const struct muster_value *change)
{
    size_t n = value_count(change), len;
    const char *name;

    writer_map(w, n);
    for (size_t i = 0; i < n; i++) {
        const struct muster_value *v = value_key(change, i, &name, &len);

        writer_str(w, name, len);
        if (value_type(v) == MUSTER_MAP && (strcmp(name, "key") == 0 || strcmp(name, "new") == 0 || strcmp(name, "old") == 0))
            write_row(watch, w, v);
        else
            writer_value(w, v);
    }
}

bool shape_transcode(const struct watch *watch, struct span body, uint32_t to, struct buf *out)
{
    struct muster_value *doc;
    struct wire_error error;
    struct muster_writer w;
    size_t begin = out->len;
    int err = body.len ? value_decode_any(scan_encoding(body), (struct muster_bytes){body.s, body.len}, &doc, &error) : MUSTER_EINVAL;

    if (err)
        return false;
    writer_init(&w, to, out);
    if (watch->binary.len && value_type(doc) == MUSTER_MAP)
        write_change(watch, &w, doc);
    else
        writer_value(&w, doc);
    value_free(doc);
    if (writer_finish(&w, NULL) == 0)
        return true;
    out->len = begin;
    return false;
}
