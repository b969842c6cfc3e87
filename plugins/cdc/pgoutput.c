/*
 * pgoutput - the wire of logical replication; see pgoutput.h.
 *
 * A server is trusted no more than anybody else: every read goes through bytes() or get_name(),
 * which know the end, and every count is held against a bound before anything is reserved for it.
 * The walk does not return errors step by step; after the first failure it stands at the end, reads
 * zeros, and the one check at the close finds the reason.
 *
 * What protocol 1 cannot send is refused by name rather than skipped: a stream that was started
 * with other options would otherwise lose changes in silence.
 */
#include "cdc/pgoutput.h"

#include <stdlib.h>
#include <string.h>

#include "muster/plugin.h"

/* A walk over the input. The first failure keeps its reason and ends the walk: later reads give
 * zeros. */
struct cursor {
    const uint8_t *p, *end;
    const char *reason;
};

static void refuse(struct cursor *c, const char *reason)
{
    if (!c->reason)
        c->reason = reason;
    c->p = c->end;
}

/* The next n bytes, NULL when there are not as many: the only place where the walk moves on. */
static const uint8_t *bytes(struct cursor *c, size_t n)
{
    const uint8_t *at = c->p;

    if ((size_t)(c->end - c->p) < n) {
        refuse(c, "message ends too early");
        return NULL;
    }
    c->p += n;
    return at;
}

static uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t load_u64(const uint8_t *p)
{
    return (uint64_t)load_u32(p) << 32 | load_u32(p + 4);
}

static uint8_t get_u8(struct cursor *c)
{
    const uint8_t *p = bytes(c, 1);

    return p ? *p : 0;
}

static uint32_t get_u16(struct cursor *c)
{
    const uint8_t *p = bytes(c, 2);

    return p ? (uint32_t)p[0] << 8 | p[1] : 0;
}

static uint32_t get_u32(struct cursor *c)
{
    const uint8_t *p = bytes(c, 4);

    return p ? load_u32(p) : 0;
}

static uint64_t get_u64(struct cursor *c)
{
    const uint8_t *p = bytes(c, 8);

    return p ? load_u64(p) : 0;
}

/* A name up to its NUL, which has to come in time: no scan goes through a whole message. */
static const char *get_name(struct cursor *c)
{
    size_t left = (size_t)(c->end - c->p),
           most = left < PGOUTPUT_NAME_MAX + 1 ? left : PGOUTPUT_NAME_MAX + 1;
    const uint8_t *nul = most ? memchr(c->p, 0, most) : NULL;
    const char *name = (const char *)c->p;

    if (!nul) {
        refuse(c, "name without an end, or longer than 1024 bytes");
        return "";
    }
    c->p = nul + 1;
    return name;
}

/* The same without a bound of ours: PostgreSQL sets none for prefixes of messages and names of origins. */
static const char *get_text(struct cursor *c)
{
    const char *text = (const char *)c->p;
    const uint8_t *nul = c->p < c->end ? memchr(c->p, 0, (size_t)(c->end - c->p)) : NULL;

    if (!nul) {
        refuse(c, "text without an end");
        return "";
    }
    c->p = nul + 1;
    return text;
}

/* The array of items with room for n, at most PGOUTPUT_COLUMNS_MAX. NULL: no memory, items stays as
 * it was. */
static void *grow(void *items, uint32_t *cap, uint32_t n, size_t size)
{
    uint32_t want = *cap ? *cap : 32;
    void *more;

    if (items && n <= *cap)
        return items;
    while (want < n)
        want *= 2;
    more = realloc(items, want * size);
    if (more)
        *cap = want;
    return more;
}

/* A number of columns. */
static uint32_t get_count(struct cursor *c)
{
    uint32_t n = get_u16(c);

    if (n > PGOUTPUT_COLUMNS_MAX) {
        refuse(c, "more columns than 1664");
        return 0;
    }
    return n;
}

/* One column of a tuple, the innermost loop of decoding. */
static void get_cell(struct cursor *c, struct pgoutput_cell *cell)
{
    *cell = (struct pgoutput_cell){.kind = (char)get_u8(c)};
    switch (cell->kind) {
    case 'n':
    case 'u':
        return;
    case 't':
        cell->len = get_u32(c);
        cell->data = (const char *)bytes(c, cell->len);
        return;
    case 'b': /* the option holds for a whole stream, and we never give it */
        refuse(c, "column in binary format, which was not asked for");
        return;
    default:
        refuse(c, "column of an unknown kind");
    }
}

static int get_tuple(struct cursor *c, struct pgoutput_tuple *t)
{
    uint32_t n = get_count(c);
    void *cells = grow(t->cells, &t->cap, n, sizeof *t->cells);

    if (!cells)
        return MUSTER_ENOMEM;
    t->cells = cells;
    for (uint32_t i = 0; i < n && !c->reason; i++)
        get_cell(c, &t->cells[i]);
    t->n = n;
    return 0;
}

static void get_begin(struct cursor *c, struct pgoutput *d)
{
    d->begin.final_lsn = get_u64(c);
    d->begin.commit_us = (int64_t)get_u64(c);
    d->begin.xid = get_u32(c);
}

static void get_commit(struct cursor *c, struct pgoutput *d)
{
    if (get_u8(c) != 0)
        refuse(c, "commit with unknown flags");
    d->commit.commit_lsn = get_u64(c);
    d->commit.end_lsn = get_u64(c);
    d->commit.commit_us = (int64_t)get_u64(c);
}

static void get_origin(struct cursor *c, struct pgoutput *d)
{
    d->origin.commit_lsn = get_u64(c);
    d->origin.name = get_text(c);
}

static void get_type(struct cursor *c, struct pgoutput *d)
{
    d->type_name.oid = get_u32(c);
    d->type_name.schema = get_name(c);
    d->type_name.name = get_name(c);
}

static int get_relation(struct cursor *c, struct pgoutput *d)
{
    void *columns;
    uint32_t n;

    d->relation.id = get_u32(c);
    d->relation.schema = get_name(c);
    d->relation.table = get_name(c);
    d->relation.identity = (char)get_u8(c);
    if (!d->relation.identity || !strchr("dnfi", d->relation.identity))
        refuse(c, "relation with an unknown replica identity");
    n = get_count(c);
    columns = grow(d->columns, &d->columns_cap, n, sizeof *d->columns);
    if (!columns)
        return MUSTER_ENOMEM;
    d->columns = columns;
    for (uint32_t i = 0; i < n && !c->reason; i++) {
        d->columns[i].identity = get_u8(c) & 1;
        d->columns[i].name = get_name(c);
        d->columns[i].type = get_u32(c);
        d->columns[i].typmod = (int32_t)get_u32(c);
    }
    d->relation.n_columns = n;
    return 0;
}

static int get_old(struct cursor *c, struct pgoutput *d, char kind)
{
    d->row.old_kind = kind;
    return get_tuple(c, &d->old_row);
}

static int get_new(struct cursor *c, struct pgoutput *d)
{
    d->row.has_new = true;
    return get_tuple(c, &d->new_row);
}

/* I: N. U: N, or K or O and then N. D: K or O. */
static int get_row(struct cursor *c, struct pgoutput *d)
{
    char kind;
    int err = 0;

    d->row.relation = get_u32(c);
    kind = (char)get_u8(c);
    if (d->type != 'I' && (kind == 'K' || kind == 'O')) {
        err = get_old(c, d, kind);
        if (err || d->type == 'D')
            return err;
        kind = (char)get_u8(c);
    }
    if (d->type != 'D' && kind == 'N')
        return get_new(c, d);
    refuse(c, "row without the tuple that its operation needs");
    return err;
}

static void get_truncate(struct cursor *c, struct pgoutput *d)
{
    uint8_t options;

    d->truncate.n = get_u32(c);
    options = get_u8(c);
    d->truncate.cascade = options & 1;
    d->truncate.restart_identity = options & 2;
    /* The count is compared before it is multiplied. */
    if (d->truncate.n > (size_t)(c->end - c->p) / 4)
        refuse(c, "truncate of more relations than it names");
    else
        d->truncate.ids = bytes(c, (size_t)d->truncate.n * 4);
}

static void get_message(struct cursor *c, struct pgoutput *d)
{
    d->message.transactional = get_u8(c) & 1;
    d->message.lsn = get_u64(c);
    d->message.prefix = get_text(c);
    d->message.len = get_u32(c);
    d->message.content = (const char *)bytes(c, d->message.len);
}

static int get_body(struct cursor *c, struct pgoutput *d)
{
    switch (d->type) {
    case 'I':
    case 'U':
    case 'D':
        return get_row(c, d);
    case 'R':
        return get_relation(c, d);
    case 'B':
        get_begin(c, d);
        return 0;
    case 'C':
        get_commit(c, d);
        return 0;
    case 'O':
        get_origin(c, d);
        return 0;
    case 'Y':
        get_type(c, d);
        return 0;
    case 'T':
        get_truncate(c, d);
        return 0;
    case 'M':
        get_message(c, d);
        return 0;
    default:
        refuse(c, "message of an unknown type");
        return 0;
    }
}

int pgoutput_decode(struct pgoutput *d, const void *data, size_t len)
{
    struct cursor c = {.p = data, .end = len ? (const uint8_t *)data + len : NULL};
    int err;

    /* What a message does not have must read as not there, not as in the message before. */
    d->row = (struct pgoutput_row){0};
    d->old_row.n = 0;
    d->new_row.n = 0;
    d->reason = "empty message";
    if (len == 0)
        return MUSTER_EINVAL;
    d->type = (char)get_u8(&c);
    err = get_body(&c, d);
    if (err)
        return err;
    if (c.p != c.end) /* a longer message is one that we do not understand */
        refuse(&c, "bytes behind the end of the message");
    d->reason = c.reason;
    return d->reason ? MUSTER_EINVAL : 0;
}

uint32_t pgoutput_truncated(const struct pgoutput *d, uint32_t i)
{
    return load_u32(d->truncate.ids + (size_t)i * 4);
}

void pgoutput_done(struct pgoutput *d)
{
    free(d->old_row.cells);
    free(d->new_row.cells);
    free(d->columns);
    *d = (struct pgoutput){0};
}

int pgoutput_frame(const void *data, size_t len, struct pgoutput_frame *ret_frame)
{
    struct cursor c = {.p = data, .end = len ? (const uint8_t *)data + len : NULL};
    struct pgoutput_frame f = {0};

    if (len == 0)
        return MUSTER_EINVAL;
    f.kind = (char)get_u8(&c);
    if (f.kind == 'w') {
        f.start = get_u64(&c);
        f.end = get_u64(&c);
        f.sent_us = (int64_t)get_u64(&c);
        f.data = c.p;
        f.len = (size_t)(c.end - c.p);
    } else if (f.kind == 'k') {
        f.end = get_u64(&c);
        f.sent_us = (int64_t)get_u64(&c);
        f.reply_now = get_u8(&c) != 0;
        if (c.p != c.end)
            return MUSTER_EINVAL;
    } else {
        return MUSTER_EINVAL;
    }
    if (c.reason)
        return MUSTER_EINVAL;
    *ret_frame = f;
    return 0;
}

static void store_u64(uint8_t *p, uint64_t v)
{
    for (size_t i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (56 - 8 * i));
}

static size_t put_hex(char *to, uint32_t v)
{
    size_t n = 1, i;

    while (n < 8 && v >> 4 * n)
        n++;
    for (i = 0; i < n; i++)
        to[i] = "0123456789ABCDEF"[v >> 4 * (n - 1 - i) & 15];
    return n;
}

size_t pgoutput_print_lsn(uint64_t lsn, char out[PGOUTPUT_LSN_SIZE])
{
    size_t n = put_hex(out, (uint32_t)(lsn >> 32));

    out[n++] = '/';
    n += put_hex(out + n, (uint32_t)lsn);
    out[n] = '\0';
    return n;
}

void pgoutput_status(const struct pgoutput_status *status, uint8_t out[PGOUTPUT_STATUS_SIZE])
{
    out[0] = 'r';
    store_u64(out + 1, status->received);
    store_u64(out + 9, status->flushed);
    store_u64(out + 17, status->applied);
    store_u64(out + 25, (uint64_t)status->now_us);
    out[33] = status->reply_now;
}
