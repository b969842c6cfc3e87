/*
 * change - the body, the key and single values of one row change; see change.h.
 *
 * All rules about what a change tells are in four small functions: old_has(), new_cell(),
 * old_cell() and key_cell(). The rest writes what they find. A body is written straight into its
 * target; whether it is too large is known only then, because texts grow by escapes and shrink by
 * decoding, so that the few that are get written again with less.
 */
#include "cdc/change.h"

#include "base/clock.h"

/* Seconds from 1970 to 2000, where PostgreSQL counts from. */
#define EPOCH_2000_S INT64_C(946684800)

/* One attempt at a body. */
struct body {
    const struct change *c;
    struct out *o;
    int e;        /* index of the encoding in ready made parts */
    size_t max;   /* bytes of the body */
    size_t from;  /* where it begins in the target */
    size_t keep;  /* a text longer than this is omitted, but for the key's */
    bool omitted; /* some was */
};

void change_txn_done(struct change_txn *txn)
{
    for (int e = 0; e < RELATION_ENCODINGS; e++)
        buf_done(&txn->text[e]);
}

/* What all changes of a transaction have in common. */
static void put_txn(struct out *o, const struct pgoutput_begin *begin, int64_t wall_ns)
{
    char time[CLOCK_RFC3339_SIZE], lsn[PGOUTPUT_LSN_SIZE];
    size_t n = pgoutput_print_lsn(begin->final_lsn, lsn);

    clock_rfc3339(wall_ns, time);
    o->comma = true; /* it stands behind the op */
    OUT_KEY(o, "lsn");
    out_plain(o, lsn, n);
    OUT_KEY(o, "commit_time");
    out_plain(o, time, strlen(time));
    OUT_KEY(o, "xid");
    out_u64(o, begin->xid);
}

int change_txn_set(struct change_txn *txn, const struct pgoutput_begin *begin)
{
    struct out o = {0};
    int64_t ns;

    if (__builtin_mul_overflow(begin->commit_us, INT64_C(1000), &ns) ||
        __builtin_add_overflow(ns, EPOCH_2000_S * CLOCK_S, &ns) || ns < 0)
        return MUSTER_EINVAL;
    for (int e = 0; e < RELATION_ENCODINGS; e++) {
        o.encoding = e == RELATION_JSON ? MUSTER_JSON : MUSTER_MSGPACK;
        buf_clear(&txn->text[e]);
        out_to(&o, &txn->text[e]);
        put_txn(&o, begin, ns);
        if (buf_failed(&txn->text[e]))
            return MUSTER_ENOMEM;
    }
    return 0;
}

struct change change_of(const struct pgoutput *msg, const struct relation *rel,
                        const struct change_txn *txn)
{
    return (struct change){.rel = rel,
                           .txn = txn,
                           .op = msg->type,
                           .old_kind = msg->row.old_kind,
                           .new_row = msg->row.has_new ? &msg->new_row : NULL,
                           .old_row = msg->row.old_kind ? &msg->old_row : NULL};
}

int change_check(const struct change *c)
{
    bool has_new = c->op == 'I' || c->op == 'U', has_old = c->op == 'D';

    /* The widths once more: a row can only be read with the description it was sent under. */
    if ((has_new && !c->new_row) || (has_old && !c->old_row) || !c->old_kind != !c->old_row)
        return MUSTER_EINVAL;
    if ((c->new_row && c->new_row->n != c->rel->n_columns) ||
        (c->old_row && c->old_row->n != c->rel->n_columns))
        return MUSTER_EINVAL;
    return 0;
}

/* Whether the old tuple tells of column i: a 'K' tuple has NULLs in the place of all that is not in
 * the identity. */
static bool old_has(const struct change *c, uint32_t i)
{
    return c->old_row && (c->old_kind == 'O' || c->rel->columns[i].identity) &&
           c->old_row->cells[i].kind != 'u';
}

/* The cells of the row after and before the change; NULL where it does not tell. */
static const struct pgoutput_cell *new_cell(const struct change *c, uint32_t i)
{
    const struct pgoutput_cell *cell = c->new_row ? &c->new_row->cells[i] : NULL;

    if (!cell || cell->kind != 'u')
        return cell;
    return old_has(c, i) ? &c->old_row->cells[i] : NULL;
}

static const struct pgoutput_cell *old_cell(const struct change *c, uint32_t i)
{
    return old_has(c, i) ? &c->old_row->cells[i] : NULL;
}

/* The op, not the tuples, decides what is shown: each half of a tenant move shows one side. */
static bool shows_new(const struct change *c)
{
    return c->op == 'I' || c->op == 'U';
}

static bool shows_old(const struct change *c)
{
    return (c->op == 'U' || c->op == 'D') && c->old_row;
}

/* Of a row that goes the key it had, otherwise the key it has from now on. */
static const struct pgoutput_cell *key_cell(const struct change *c, uint32_t i)
{
    return c->op == 'D' ? old_cell(c, i) : new_cell(c, i);
}

static int text_of(const struct pgoutput_cell *cell, struct muster_bytes *ret_text)
{
    if (!cell)
        return CHANGE_ABSENT;
    if (cell->kind == 'n')
        return CHANGE_NULL;
    *ret_text = (struct muster_bytes){.data = cell->data, .len = cell->len};
    return CHANGE_VALUE;
}

int change_new_text(const struct change *c, uint32_t i, struct muster_bytes *ret_text)
{
    return text_of(new_cell(c, i), ret_text);
}

int change_old_text(const struct change *c, uint32_t i, struct muster_bytes *ret_text)
{
    return text_of(old_cell(c, i), ret_text);
}

static bool longer(const struct pgoutput_cell *cell, size_t keep)
{
    return cell && cell->kind == 't' && cell->len > keep;
}

/* Decided by both rows at once, so that `new` and `old` lack the same columns. Keys stay. */
static bool is_omitted(const struct body *body, uint32_t i)
{
    const struct change *c = body->c;

    if (body->keep == SIZE_MAX || c->rel->columns[i].key)
        return false;
    return (shows_new(c) && longer(new_cell(c, i), body->keep)) ||
           (shows_old(c) && longer(old_cell(c, i), body->keep));
}

static void put_cell(struct out *o, struct value_type type, const struct pgoutput_cell *cell)
{
    if (!cell || cell->kind == 'n')
        out_null(o);
    else
        value_put(o, type, cell->data, cell->len);
}

typedef const struct pgoutput_cell *(*pick_fn)(const struct change *c, uint32_t i);

/* Write {name: value} of the columns that pick finds. False when the body is too large already. */
static bool put_row(struct body *body, pick_fn pick, bool only_key)
{
    const struct relation *rel = body->c->rel;
    size_t at = out_open(body->o, OUT_MAP), n = 0;

    for (uint32_t i = 0; i < rel->n_columns; i++) {
        const struct relation_column *col = &rel->columns[i];
        const struct pgoutput_cell *cell = only_key && !col->key ? NULL : pick(body->c, i);

        if (!cell)
            continue;
        if (is_omitted(body, i)) {
            body->omitted = true;
            continue;
        }
        /* Decoding shrinks a text at most that much, but for a tree that is nothing but space. */
        if (cell->len / CHANGE_HOPELESS > body->max)
            return false;
        out_key_ready(body->o, rel->text.data + col->name_key[body->e].at,
                      col->name_key[body->e].len);
        put_cell(body->o, col->value, cell);
        if (body->o->b->len - body->from > body->max)
            return false;
        n++;
    }
    out_close(body->o, OUT_MAP, at, n);
    return true;
}

/* Missing in new: its value was not sent, and the old tuple does not have it either. */
static bool is_unchanged(const struct body *body, uint32_t i)
{
    return !new_cell(body->c, i);
}

/* Write the list of the columns for which is() holds; is NULL: none. */
static void put_names(struct body *body, const char *key, size_t len,
                      bool (*is)(const struct body *, uint32_t))
{
    const struct relation *rel = body->c->rel;
    size_t at, n = 0;

    out_key(body->o, key, len);
    at = out_open(body->o, OUT_ARRAY);
    for (uint32_t i = 0; is && i < rel->n_columns; i++) {
        if (!is(body, i))
            continue;
        out_name(body->o, relation_name(rel, rel->columns[i].name), rel->columns[i].name.len);
        n++;
    }
    out_close(body->o, OUT_ARRAY, at, n);
}

static const char *op_name(char op)
{
    return op == 'I' ? "insert" : op == 'U' ? "update" : op == 'D' ? "delete" : "truncate";
}

/* key, new and old. */
static bool put_rows(struct body *body)
{
    struct out *o = body->o;

    OUT_KEY(o, "key");
    if (!put_row(body, key_cell, true))
        return false;
    OUT_KEY(o, "new");
    if (!shows_new(body->c))
        out_null(o);
    else if (!put_row(body, new_cell, false))
        return false;
    OUT_KEY(o, "old");
    if (!shows_old(body->c))
        out_null(o);
    else if (!put_row(body, old_cell, false))
        return false;
    return true;
}

/* False when the body is too large. */
static bool put_body(struct body *body)
{
    const struct relation *rel = body->c->rel;
    const struct buf *txn = &body->c->txn->text[body->e];
    const char *op = op_name(body->c->op);
    struct out *o = body->o;
    size_t at = out_open(o, OUT_MAP), n = 11; /* schema to omitted */

    buf_put(o->b, rel->text.data + rel->head[body->e].at, rel->head[body->e].len);
    out_plain(o, op, strlen(op));
    buf_put(o->b, txn->data, txn->len);
    if (!put_rows(body))
        return false;
    put_names(body, "unchanged", 9, shows_new(body->c) ? is_unchanged : NULL);
    put_names(body, "omitted", 7, body->omitted ? is_omitted : NULL);
    if (body->c->list_columns) {
        OUT_KEY(o, "columns");
        buf_put(o->b, rel->text.data + rel->list[body->e].at, rel->list[body->e].len);
        n++;
    }
    out_close(o, OUT_MAP, at, n);
    return o->b->len - body->from <= body->max;
}

int change_body(const struct change *c, struct out *o, size_t max, struct buf *b)
{
    /* All; what stays of a change too large; what is left of a thousand columns of 64 bytes. */
    static const size_t keeps[] = {SIZE_MAX, CHANGE_SMALL, 0};
    size_t from = b->len;

    for (size_t i = 0; i < sizeof keeps / sizeof *keeps; i++) {
        struct body body = {.c = c, .o = o, .max = max, .from = from, .keep = keeps[i]};
        bool fits;

        body.e = o->encoding == MUSTER_JSON ? RELATION_JSON : RELATION_MSGPACK;
        out_to(o, b);
        fits = put_body(&body);
        if (buf_failed(b) || !fits)
            out_rewind(o, (struct out_mark){.len = from});
        if (buf_failed(b))
            return MUSTER_ENOMEM;
        if (fits)
            return 0;
    }
    return MUSTER_EAGAIN;
}

/* Clients trim spaces at the ends. */
bool change_fits_header(const char *s, size_t len)
{
    if (len && (s[0] == ' ' || s[len - 1] == ' '))
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7F)
            return false;
    return out_is_utf8(s, len);
}

/* Append the JSON array of the key's values. */
static void put_key_array(const struct change *c, struct out *o, struct buf *b)
{
    uint32_t encoding = o->encoding;
    size_t at;

    o->encoding = MUSTER_JSON; /* a header is text, whatever the body is */
    out_to(o, b);
    at = out_open(o, OUT_ARRAY);
    for (uint32_t i = 0; i < c->rel->n_columns; i++)
        if (c->rel->columns[i].key)
            put_cell(o, c->rel->columns[i].value, key_cell(c, i));
    out_close(o, OUT_ARRAY, at, c->rel->n_key);
    o->encoding = encoding;
}

/* Of a relation that has a key column. */
static uint32_t first_key(const struct relation *rel)
{
    uint32_t i = 0;

    while (!rel->columns[i].key)
        i++;
    return i;
}

/* PostgreSQL's text is what a body shows: the usual key. */
static bool is_plain(struct value_type type)
{
    return !type.array && (type.kind == VALUE_TEXT || type.kind == VALUE_INT || type.kind == VALUE_FLOAT);
}

/* Append the value as a body shows it, a string without its quotes: it has no escapes, because texts are plain. */
static void put_shown(struct out *o, struct value_type type, const struct pgoutput_cell *cell, struct buf *b)
{
    uint32_t encoding = o->encoding;
    size_t from = b->len, len;

    o->encoding = MUSTER_JSON;
    out_to(o, b);
    value_put(o, type, cell->data, cell->len);
    o->encoding = encoding;
    len = b->len - from;
    if (buf_failed(b) || len < 2 || b->data[from] != '"')
        return;
    memmove(b->data + from, b->data + from + 1, len - 2);
    b->len -= 2;
    b->data[b->len] = '\0';
}

int change_key(const struct change *c, struct out *o, struct buf *b, char *token)
{
    const struct pgoutput_cell *cell = c->rel->n_key == 1 ? key_cell(c, first_key(c->rel)) : NULL;
    struct value_type type = cell ? c->rel->columns[first_key(c->rel)].value : (struct value_type){0};
    size_t from = b->len;

    if (token)
        memcpy(token, "_", 2);
    if (c->op == 'T' || c->rel->n_key == 0 || (c->rel->n_key == 1 && (!cell || cell->kind == 'n')))
        return 0;
    /* A control character in a header could forge the next one. */
    if (cell && !is_plain(type))
        put_shown(o, type, cell, b);
    else if (cell && change_fits_header(cell->data, cell->len))
        buf_put(b, cell->data, cell->len);
    else
        put_key_array(c, o, b);
    if (buf_failed(b))
        return MUSTER_ENOMEM;
    if (!token)
        return 0;
    if (cell && is_plain(type))
        (void)name_token(cell->data, cell->len, token);
    else
        (void)name_token(b->data + from, b->len - from, token); /* it ends in a NUL */
    return 0;
}
