/* Reads the text of a filter; see filter.h. */
#include <stdio.h>
#include <stdlib.h>

#include "fanout/filter.h"

struct reader {
    struct filter *filter;
    const struct filter_column *columns;
    size_t n_columns;
    struct span rest, all;
    size_t n_read;
    char *why; /* FILTER_WHY_SIZE bytes */
};

enum { SHOWN = 48 }; /* bytes of what came that a reason repeats */

static int shown(struct span s)
{
    size_t n = s.len < SHOWN ? s.len : SHOWN;

    while (n && n < s.len && ((unsigned char)s.s[n] & 0xC0) == 0x80) /* not within a character */
        n--;
    return (int)n;
}

static bool refuse(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static bool refuse(struct reader *r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(r->why, FILTER_WHY_SIZE, fmt, ap);
    va_end(ap);
    return false;
}

static size_t place(const struct reader *r)
{
    return (size_t)(r->rest.s - r->all.s) + 1;
}

static void advance(struct reader *r, size_t n)
{
    r->rest = (struct span){r->rest.s + n, r->rest.len - n};
}

static bool accept(struct reader *r, char c)
{
    if (!r->rest.len || r->rest.s[0] != c)
        return false;
    advance(r, 1);
    return true;
}

/* "…" with \" and \\; the quote has been taken. */
static bool quoted(struct reader *r, struct span *ret)
{
    struct buf *b = &r->filter->text;
    size_t begin = b->len, at = place(r) - 1;

    while (r->rest.len && r->rest.s[0] != '"') {
        size_t skip = r->rest.s[0] == '\\' && r->rest.len > 1 ? 1 : 0;

        buf_putc(b, r->rest.s[skip]);
        advance(r, skip + 1);
    }
    *ret = (struct span){b->data + begin, b->len - begin};
    return accept(r, '"') || refuse(r, "character %zu: a text begins with \" and does not end, expected \" behind it", at);
}

/* Up to one of the characters in stop, or what stands in quotes. */
static bool word(struct reader *r, const char *stop, struct span *ret)
{
    struct buf *b = &r->filter->text;
    size_t begin = b->len;

    if (accept(r, '"'))
        return quoted(r, ret);
    while (r->rest.len && !strchr(stop, r->rest.s[0])) {
        buf_putc(b, r->rest.s[0]);
        advance(r, 1);
    }
    *ret = (struct span){b->data + begin, b->len - begin};
    return true;
}

/* ---- columns ------------------------------------------------------------------------------------------------------------------- */

static const struct filter_column *find_column(const struct filter_column *columns, size_t n, struct span name)
{
    for (size_t i = 0; i < n; i++)
        if (span_is(name, columns[i].name, strlen(columns[i].name)))
            return &columns[i];
    return NULL;
}

static bool read_column(struct reader *r, const struct filter_column **ret)
{
    struct span name;
    size_t at = place(r);

    if (!word(r, "=,", &name))
        return false;
    if (!accept(r, '='))
        return refuse(r, "character %zu: \"%.*s\" came, a condition such as status=eq.open was expected", at, shown(name), name.s);
    *ret = find_column(r->columns, r->n_columns, name);
    return *ret || refuse(r, "character %zu: \"%.*s\" came, the name of a column of the table was expected", at, shown(name), name.s);
}

/* ---- operators and values ------------------------------------------------------------------------------------------------------ */

static const char *const op_names[] = {"eq", "neq", "lt", "lte", "gt", "gte", "in", "like", "ilike", "is", "isdistinct"};
enum { N_OPS = sizeof op_names / sizeof *op_names };

static bool fits(uint32_t op, uint32_t class)
{
    if (op == FILTER_IS)
        return true;
    if (op == FILTER_LIKE || op == FILTER_ILIKE)
        return datum_is_text(class);
    if (op >= FILTER_LT && op <= FILTER_GTE)
        return datum_has_order(class);
    return class != CLASS_OPAQUE;
}

static void put_fitting(const struct filter_column *column, char room[96])
{
    size_t n = 0;

    for (uint32_t op = 0; op < N_OPS; op++)
        if (fits(op, column->class))
            n += (size_t)snprintf(room + n, 96 - n, "%s%s", n ? " " : "", op_names[op]);
}

static bool take_op(struct reader *r, struct span *ret)
{
    const char *dot = r->rest.len ? memchr(r->rest.s, '.', r->rest.len) : NULL;

    if (!dot)
        return false;
    *ret = (struct span){r->rest.s, (size_t)(dot - r->rest.s)};
    advance(r, ret->len + 1);
    return true;
}

static bool read_op(struct reader *r, const struct filter_column *column, struct filter_cond *c)
{
    struct span before = r->rest, name = {"", 0};
    char fitting[96] = "";
    bool is = take_op(r, &name);

    if (is && SPAN_IS(name, "not")) {
        c->negated = true;
        is = take_op(r, &name);
    }
    put_fitting(column, fitting);
    for (uint32_t op = 0; is && op < N_OPS; op++) {
        if (!span_is(name, op_names[op], strlen(op_names[op])))
            continue;
        c->op = op;
        return fits(op, column->class) || refuse(r, "column %s: operator %s does not fit its type %s, expected one of %s", column->name,
                                                 op_names[op], column->type, fitting);
    }
    return refuse(r, "column %s: \"%.*s\" came, an operator and a dot were expected: %s, with not. in front or without", column->name,
                  shown(before), before.s, fitting);
}

static bool add_value(struct reader *r, struct filter_cond *c, const struct datum *d)
{
    struct datum *grown;

    if (c->n_values == FILTER_MAX_VALUES)
        return refuse(r, "column %.*s: more than %d values came, at most %d were expected", shown(c->column), c->column.s, FILTER_MAX_VALUES,
                      FILTER_MAX_VALUES);
    grown = realloc(c->values, (c->n_values + 1) * sizeof *grown);
    if (!grown) {
        r->why[0] = '\0';
        return false;
    }
    c->values = grown;
    c->values[c->n_values++] = *d;
    return true;
}

static bool add_literal(struct reader *r, const struct filter_column *column, struct filter_cond *c, struct span literal)
{
    struct datum d;

    if (!datum_parse(c->class, literal, &r->filter->text, &d))
        return refuse(r, "column %s: \"%.*s\" came, %s was expected", column->name, shown(literal), literal.s, datum_word(c->class));
    return add_value(r, c, &d);
}

static bool read_pattern(struct reader *r, const struct filter_column *column, struct filter_cond *c)
{
    struct datum d = {.class = c->class, .kind = DATUM_TEXT};

    if (!word(r, ",", &d.text))
        return false;
    if (d.text.len > FILTER_MAX_PATTERN)
        return refuse(r, "column %s: a pattern of %zu bytes came, at most %d were expected", column->name, d.text.len, FILTER_MAX_PATTERN);
    return add_value(r, c, &d);
}

static bool read_is(struct reader *r, const struct filter_column *column, struct filter_cond *c)
{
    struct datum d = {.class = c->class, .kind = DATUM_NULL};
    struct span name;

    if (!word(r, ",", &name))
        return false;
    if (!SPAN_IS(name, "null")) {
        if (column->class != CLASS_BOOL || !(SPAN_IS(name, "true") || SPAN_IS(name, "false")))
            return refuse(r, "column %s: is.%.*s came, %s was expected for its type %s", column->name, shown(name), name.s,
                          column->class == CLASS_BOOL ? "is.null, is.true or is.false" : "is.null", column->type);
        d.kind = DATUM_NUMBER;
        d.number = SPAN_IS(name, "true");
    }
    return add_value(r, c, &d);
}

static bool read_list(struct reader *r, const struct filter_column *column, struct filter_cond *c)
{
    struct span literal;

    if (!accept(r, '('))
        return refuse(r, "column %s: \"%.*s\" came behind in., values in brackets such as in.(a,b) were expected", column->name,
                      shown(r->rest), r->rest.s);
    do {
        if (!word(r, ",)", &literal) || !add_literal(r, column, c, literal))
            return false;
    } while (accept(r, ','));
    return accept(r, ')') ||
           refuse(r, "column %s: \"%.*s\" came in the brackets of in., a comma or ) was expected", column->name, shown(r->rest), r->rest.s);
}

static bool read_values(struct reader *r, const struct filter_column *column, struct filter_cond *c)
{
    struct span literal;

    if (c->op == FILTER_IS)
        return read_is(r, column, c);
    if (c->op == FILTER_IN)
        return read_list(r, column, c);
    if (c->op == FILTER_LIKE || c->op == FILTER_ILIKE)
        return read_pattern(r, column, c);
    return word(r, ",", &literal) && add_literal(r, column, c, literal);
}

/* ---- conditions ---------------------------------------------------------------------------------------------------------------- */

static struct filter_cond *add_cond(struct reader *r, const struct filter_column *column)
{
    struct filter *f = r->filter;
    struct filter_cond *c = &f->conds[f->n_conds++];

    *c = (struct filter_cond){.column = {f->text.data + f->text.len, strlen(column->name)}, .class = column->class};
    buf_put(&f->text, column->name, c->column.len);
    return c;
}

static bool read_cond(struct reader *r)
{
    const struct filter_column *column = NULL;
    struct filter_cond *c;

    if (r->n_read++ == FILTER_MAX_CONDS)
        return refuse(r, "more than %d conditions came, at most %d were expected", FILTER_MAX_CONDS, FILTER_MAX_CONDS);
    if (!read_column(r, &column))
        return false;
    c = add_cond(r, column);
    return read_op(r, column, c) && read_values(r, column, c);
}

static bool read_conds(struct reader *r)
{
    while (r->rest.len) {
        if (!read_cond(r))
            return false;
        if (!r->rest.len)
            break;
        if (!accept(r, ',') || !r->rest.len)
            return refuse(r, "character %zu: \"%.*s\" came behind a condition, a comma and another one or the end was expected", place(r),
                          shown(r->rest), r->rest.s);
    }
    return true;
}

static bool own(struct reader *r, const char *owner, struct span is)
{
    const struct filter_column *column = find_column(r->columns, r->n_columns, (struct span){owner, strlen(owner)});
    struct buf *text = &r->filter->text;
    struct filter_cond *c;
    struct span copy;

    if (!column || !fits(FILTER_EQ, column->class))
        return refuse(r, "owner column %s: the table has none that a name can be in", owner);
    c = add_cond(r, column);
    c->strict = true;
    copy = (struct span){text->data + text->len, is.len};
    buf_put(text, is.s, is.len);
    return add_literal(r, column, c, copy);
}

/* A quarter of what numbers like 1e400 need beside their texts; what has many of those is refused. */
static size_t exponents(struct span text)
{
    size_t n = 0;

    for (size_t i = 1; i < text.len && n < 8; i++)
        n += (text.s[i] == 'e' || text.s[i] == 'E') && (text.s[i - 1] == '.' || (text.s[i - 1] >= '0' && text.s[i - 1] <= '9'));
    return n * (DATUM_MAX_EXPONENT / 4 + 8);
}

/* Everything that the conditions point to is put where it stays: texts without their quotes, names, numbers in their one form. */
static bool make_room(struct filter *f, size_t len, const struct filter_column *columns, size_t n_columns)
{
    size_t names = 0;

    for (size_t i = 0; i < n_columns; i++)
        names = strlen(columns[i].name) > names ? strlen(columns[i].name) : names;
    f->conds = calloc(FILTER_MAX_CONDS + 2, sizeof *f->conds);
    return f->conds && buf_reserve(&f->text, 4 * len + (FILTER_MAX_CONDS + 2) * names + 256);
}

struct filter *filter_new(struct span text, const struct filter_column *columns, size_t n_columns, const char *owner, struct span owner_is,
                          char why[FILTER_WHY_SIZE])
{
    struct reader r = {.columns = columns, .n_columns = n_columns, .rest = text, .all = text, .why = why};

    why[0] = '\0';
    if (text.len > FILTER_MAX_BYTES) {
        (void)refuse(&r, "%zu bytes came, at most %d were expected", text.len, FILTER_MAX_BYTES);
        return NULL;
    }
    r.filter = calloc(1, sizeof *r.filter);
    if (r.filter && make_room(r.filter, text.len + owner_is.len + exponents(text), columns, n_columns) && (!owner || own(&r, owner, owner_is)) &&
        read_conds(&r))
        return r.filter;
    filter_free(r.filter);
    return NULL;
}

const struct filter_column *filter_unidentified(const struct filter *filter, const struct filter_column *columns, size_t n_columns)
{
    for (size_t i = 0; i < filter->n_conds; i++) {
        const struct filter_column *column = find_column(columns, n_columns, filter->conds[i].column);

        if (column && !column->in_identity)
            return column;
    }
    return NULL;
}
