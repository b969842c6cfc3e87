/*
 * fuzz_pgoutput - a replication stream of any bytes: decoded, kept as relations and types, written
 * as bodies.
 *
 * Input    One byte of options, then messages, each behind its length (two bytes, big end first).
 *          1: bodies may have 300 bytes only   2: under FULL and NOTHING the first column is the key
 *          4: every 'Y' is followed by an answer of pg_type made of its bytes
 * Checked  No read or write out of bounds (sanitizers); every JSON body parses with cJSON; every
 *          MessagePack body is one well-formed value of at most 32 levels; no body is longer than
 *          its limit; a token is a legal last token.
 */
#include <cjson/cJSON.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "cdc/change.h"
#include "cdc/jsontree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OPTION_SMALL = 1, OPTION_KEY = 2, OPTION_LEARN = 4 };
enum { LIMIT_SMALL = 300, LIMIT = 1000000 };

struct state {
    unsigned options;
    struct pgoutput msg;
    struct types types;
    struct relations relations;
    struct change_txn txn;
    struct out out;
    struct buf body;
};

/* cJSON of Debian 12 reads at most 63 characters of a number. */
static bool has_long_number(const char *s)
{
    for (; *s; s++) {
        size_t n = strspn(s, "0123456789+-.eE");

        if (n > 60)
            return true;
        s += n;
        if (!*s)
            return false;
    }
    return false;
}

static void check_json(const struct buf *b)
{
    cJSON *json;

    ASSERT(strlen(b->data) == b->len);
    if (has_long_number(b->data))
        return;
    json = cJSON_ParseWithOpts(b->data, NULL, 1);
    ASSERT(json != NULL);
    cJSON_Delete(json);
}

static uint64_t big_end(const uint8_t *p, size_t n)
{
    uint64_t v = 0;

    for (size_t i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

static const uint8_t *skip_value(const uint8_t *p, const uint8_t *end, unsigned left);

static const uint8_t *skip_values(const uint8_t *p, const uint8_t *end, uint64_t n, unsigned left)
{
    ASSERT(left > 0);
    while (n--)
        p = skip_value(p, end, left - 1);
    return p;
}

static const uint8_t *skip_bytes(const uint8_t *p, const uint8_t *end, uint64_t n)
{
    ASSERT((uint64_t)(end - p) >= n);
    return p + n;
}

/* Step over one MessagePack value of the forms that out.c writes. */
static const uint8_t *skip_value(const uint8_t *p, const uint8_t *end, unsigned left)
{
    size_t wide;
    uint8_t tag;

    ASSERT(p < end);
    tag = *p++;
    if (tag <= 0x7F || tag >= 0xE0 || tag == 0xC0 || tag == 0xC2 || tag == 0xC3)
        return p;
    if (tag <= 0x8F)
        return skip_values(p, end, 2 * (uint64_t)(tag & 15), left);
    if (tag <= 0x9F)
        return skip_values(p, end, tag & 15, left);
    if (tag <= 0xBF)
        return skip_bytes(p, end, tag & 31);
    ASSERT((tag >= 0xC4 && tag <= 0xC6) || (tag >= 0xCB && tag <= 0xD3) ||
           (tag >= 0xD9 && tag <= 0xDF));
    if (tag == 0xCB)
        return skip_bytes(p, end, 8);
    if (tag >= 0xCC && tag <= 0xD3)
        return skip_bytes(p, end, (uint64_t)1 << (tag & 3));
    if (tag >= 0xDC) {
        wide = tag & 1 ? 4 : 2;
        (void)skip_bytes(p, end, wide);
        return skip_values(p + wide, end, big_end(p, wide) << (tag >= 0xDE), left);
    }
    wide = (size_t)1 << (tag >= 0xD9 ? tag - 0xD9 : tag - 0xC4);
    (void)skip_bytes(p, end, wide);
    return skip_bytes(p + wide, end, big_end(p, wide));
}

static void check_body(struct state *s, const struct change *c, uint32_t encoding)
{
    size_t max = s->options & OPTION_SMALL ? LIMIT_SMALL : LIMIT;
    int err;

    s->out.encoding = encoding;
    buf_clear(&s->body);
    err = change_body(c, &s->out, max, &s->body);
    ASSERT(err == 0 || err == MUSTER_EAGAIN);
    if (err)
        return;
    ASSERT(s->body.len <= max);
    if (encoding == MUSTER_JSON) {
        check_json(&s->body);
    } else {
        const uint8_t *p = (const uint8_t *)s->body.data;

        ASSERT(skip_value(p, p + s->body.len, 32) == p + s->body.len);
    }
}

static void check_change(struct state *s, struct change *c)
{
    char token[NAME_TOKEN_SIZE];
    struct muster_bytes text;

    if (change_check(c) != 0)
        return;
    check_body(s, c, MUSTER_JSON);
    c->list_columns = true;
    check_body(s, c, MUSTER_MSGPACK);
    buf_clear(&s->body);
    ASSERT(change_key(c, &s->out, &s->body, token) == 0);
    ASSERT(name_is_legal(token, strlen(token)) || (token[0] == '~' && strlen(token) == 17));
    for (uint32_t i = 0; i < c->rel->n_columns; i++) {
        (void)change_new_text(c, i, &text); /* whether it reads where it may not */
        (void)change_old_text(c, i, &text);
    }
}

static void on_type(struct state *s)
{
    const struct pgoutput_type *y = &s->msg.type_name;
    struct types_row row = {.oid = y->oid, .delim = ',', .schema = y->schema, .name = y->name};

    ASSERT(types_said(&s->types, y->oid, y->schema, y->name) == 0);
    if (!(s->options & OPTION_LEARN))
        return;
    row.elem = (y->oid & 1) ? y->oid / 2 : 0; /* chains of arrays and domains, with loops */
    row.base = (y->oid & 2) ? y->oid ^ (unsigned char)y->name[0] : 0;
    ASSERT(types_learn(&s->types, &row) == 0);
}

static void on_relation(struct state *s)
{
    struct relation *rel;
    uint32_t oids[8];

    ASSERT(relations_put(&s->relations, &s->types, &s->msg, &rel) == 0);
    ASSERT(relation_missing_types(rel, &s->types, oids, 8) <= 8);
    ASSERT(relation_resolve(rel, &s->types) == 0);
    if ((s->options & OPTION_KEY) && rel->n_columns) {
        const char *name = relation_name(rel, rel->columns[0].name);

        (void)relation_set_key(rel, &name, 1); /* refused where the identity is the key */
    }
}

static void on_row(struct state *s)
{
    const struct relation *rel = relations_get(&s->relations, s->msg.row.relation);
    struct change c;

    if (!rel || !s->txn.text[0].len)
        return;
    c = change_of(&s->msg, rel, &s->txn);
    check_change(s, &c);
    c.op = 'D'; /* a tenant move */
    check_change(s, &c);
    c.op = 'I';
    check_change(s, &c);
}

static void on_truncate(struct state *s)
{
    for (uint32_t i = 0; i < s->msg.truncate.n; i++) {
        struct change c = {.rel = relations_get(&s->relations, pgoutput_truncated(&s->msg, i)),
                           .txn = &s->txn,
                           .op = 'T'};

        if (c.rel && s->txn.text[0].len)
            check_change(s, &c);
    }
}

/* A member of an event: each value is one by itself, in either encoding. */
static void on_member(void *arg, struct jsontree_span key, struct jsontree_span value)
{
    struct state *s = arg;
    const uint8_t *p;

    buf_clear(&s->body);
    ASSERT(jsontree_string(key.s - 1, key.len + 2, &s->body));
    ASSERT(value.len > 0 && jsontree_check(value.s, value.len));
    s->out.encoding = MUSTER_MSGPACK;
    buf_clear(&s->body);
    out_to(&s->out, &s->body);
    if (!jsontree_pack(&s->out, value.s, value.len, JSONTREE_DEPTH_BODY))
        return;
    p = (const uint8_t *)s->body.data;
    ASSERT(skip_value(p, p + s->body.len, JSONTREE_DEPTH_BODY + 1) == p + s->body.len);
}

static void on_event(struct state *s)
{
    const char *text = s->msg.message.content;
    size_t len = s->msg.message.len;

    if (out_is_utf8(text, len) && jsontree_each(text, len, on_member, s))
        ASSERT(jsontree_check(text, len));
}

static void on_message(struct state *s, const uint8_t *data, size_t len)
{
    struct pgoutput_frame frame;

    (void)pgoutput_frame(data, len, &frame); /* most messages are none */
    if (pgoutput_decode(&s->msg, data, len) != 0) {
        ASSERT(s->msg.reason != NULL);
        return;
    }
    switch (s->msg.type) {
    case 'B':
        if (change_txn_set(&s->txn, &s->msg.begin) != 0)
            change_txn_done(&s->txn);
        return;
    case 'Y':
        on_type(s);
        return;
    case 'R':
        on_relation(s);
        return;
    case 'T':
        on_truncate(s);
        return;
    case 'I':
    case 'U':
    case 'D':
        on_row(s);
        return;
    case 'M':
        on_event(s);
        return;
    default:
        return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct state s = {.options = size ? data[0] : 0};
    size_t at = 1, len;

    while (at + 2 <= size) {
        len = (size_t)data[at] << 8 | data[at + 1];
        at += 2;
        if (len > size - at)
            len = size - at;
        on_message(&s, data + at, len);
        at += len;
    }
    pgoutput_done(&s.msg);
    types_done(&s.types);
    relations_done(&s.relations);
    change_txn_done(&s.txn);
    out_done(&s.out);
    buf_done(&s.body);
    return 0;
}
