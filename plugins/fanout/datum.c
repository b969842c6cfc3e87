/* Classes of types, and the order of their values; see datum.h. Times are in moment.c. */
#include "fanout/datum.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/moment.h"

uint32_t datum_class(const char *type, char typtype, char category)
{
    static const struct {
        const char *name;
        uint32_t class;
    } names[] = {
        {"int2", CLASS_INT},           {"int4", CLASS_INT},       {"int8", CLASS_INT},
        {"float4", CLASS_FLOAT},       {"float8", CLASS_FLOAT},
        {"numeric", CLASS_NUMERIC},    {"bool", CLASS_BOOL},      {"text", CLASS_TEXT},
        {"varchar", CLASS_TEXT},       {"name", CLASS_TEXT},      {"bpchar", CLASS_PADDED},
        {"uuid", CLASS_UUID},          {"date", CLASS_DATE},      {"timestamp", CLASS_TIMESTAMP},
        {"timestamptz", CLASS_TIMESTAMPTZ}, {"time", CLASS_TIME}, {"json", CLASS_OPAQUE},
        {"jsonb", CLASS_OPAQUE},       {"bytea", CLASS_OPAQUE},  {"interval", CLASS_OPAQUE},
        {"timetz", CLASS_OPAQUE},
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(type, names[i].name) == 0)
            return names[i].class;
    if (category == 'A')
        return CLASS_OPAQUE;
    return typtype == 'e' ? CLASS_LABEL : CLASS_OTHER;
}

const char *datum_word(uint32_t class)
{
    static const char *const words[] = {
        "an integer", "a number", "a decimal number", "true or false", "text", "text", "a UUID",
        "a time without zone such as 2026-01-31 12:00:00", "a time with its zone such as 2026-01-31T12:00:00Z",
        "a date such as 2026-01-31", "a time of day such as 12:00:00", "a label", "text", "null",
    };

    return words[class];
}

bool datum_has_order(uint32_t class)
{
    return class != CLASS_BOOL && class != CLASS_LABEL && class != CLASS_OTHER && class != CLASS_OPAQUE;
}

bool datum_is_text(uint32_t class)
{
    return class == CLASS_TEXT || class == CLASS_PADDED;
}

/* ---- numbers ------------------------------------------------------------------------------------------------------------------- */

static bool copy_number(struct span s, char room[64])
{
    if (!s.len || s.len >= 64 || s.s[0] == ' ' || memchr(s.s, '\0', s.len))
        return false;
    memcpy(room, s.s, s.len);
    room[s.len] = '\0';
    return true;
}

static bool parse_int(struct span s, struct datum *d)
{
    char room[64], *end;

    if (!copy_number(s, room) || room[strspn(room, "-+0123456789")])
        return false;
    errno = 0;
    d->kind = DATUM_NUMBER;
    d->number = strtoll(room, &end, 10);
    return !errno && !*end && end > room;
}

/* NaN and the infinities as PostgreSQL writes them. */
static bool special(struct span s, double *ret)
{
    if (SPAN_IS(s, "NaN"))
        *ret = (double)NAN;
    else if (SPAN_IS(s, "Infinity"))
        *ret = (double)INFINITY;
    else if (SPAN_IS(s, "-Infinity"))
        *ret = -(double)INFINITY;
    else
        return false;
    return true;
}

static bool parse_float(struct span s, struct datum *d)
{
    char room[64], *end;

    d->kind = DATUM_DOUBLE;
    if (special(s, &d->real))
        return true;
    if (!copy_number(s, room) || room[strspn(room, "-+.eE0123456789")])
        return false;
    d->real = strtod(room, &end);
    if (isinf(d->real))
        return false;
    d->real = d->real == 0 ? 0 : d->real; /* there is one zero */
    return !*end && end > room;
}

static size_t digits(struct span s, size_t at)
{
    size_t n = 0;

    while (at + n < s.len && s.s[at + n] >= '0' && s.s[at + n] <= '9')
        n++;
    return n;
}

static bool put_numeric(struct buf *b, bool minus, struct span whole, struct span part, struct span *ret)
{
    size_t begin = b->len;

    if (b->cap - b->len <= whole.len + part.len + 2) /* as in scan.c: nothing may move */
        return false;
    if (minus && (whole.len || part.len))
        buf_putc(b, '-');
    buf_put(b, whole.s, whole.len);
    if (part.len) {
        buf_putc(b, '.');
        buf_put(b, part.s, part.len);
    }
    *ret = (struct span){b->data + begin, b->len - begin};
    return true;
}

/* The same with the point e places further to the right. */
static bool put_shifted(struct buf *b, bool minus, struct span whole, struct span part, long e, struct span *ret)
{
    long total = (long)(whole.len + part.len), point = (long)whole.len + e, first = 0, last = total - 1, end;
    size_t begin = b->len;

#define DIGIT(i) ((i) < first || (i) >= total ? '0' : (i) < (long)whole.len ? whole.s[i] : part.s[(i) - (long)whole.len])
    while (first < total && DIGIT(first) == '0')
        first++;
    while (last > first && DIGIT(last) == '0')
        last--;
    if (first == total)
        return put_numeric(b, minus, (struct span){"", 0}, (struct span){"", 0}, ret);
    end = last < point ? point - 1 : last;
    if (b->cap - b->len <= (size_t)(end - (first < point ? first : point)) + 3)
        return false;
    if (minus)
        buf_putc(b, '-');
    for (long i = first < point ? first : point; i <= end; i++) {
        if (i == point)
            buf_putc(b, '.');
        buf_putc(b, DIGIT(i));
    }
#undef DIGIT
    *ret = (struct span){b->data + begin, b->len - begin};
    return true;
}

/* What follows the digits: nothing, or "e", a sign and as many digits as make sense. */
static bool read_exponent(struct span s, size_t at, long *ret)
{
    bool minus = at + 1 < s.len && s.s[at + 1] == '-', sign = minus || (at + 1 < s.len && s.s[at + 1] == '+');
    size_t begin = at + 1 + sign, n = digits(s, begin);

    *ret = 0;
    if (at == s.len)
        return true;
    if ((s.s[at] != 'e' && s.s[at] != 'E') || !n || begin + n != s.len)
        return false;
    for (size_t i = begin; i < s.len && *ret <= DATUM_MAX_EXPONENT; i++)
        *ret = 10 * *ret + (s.s[i] - '0');
    if (*ret > DATUM_MAX_EXPONENT)
        return false;
    *ret = minus ? -*ret : *ret;
    return true;
}

static bool is_special(struct span s)
{
    double value;

    return special(s, &value);
}

static bool parse_numeric(struct span s, struct buf *text, struct datum *d)
{
    size_t at = s.len && (s.s[0] == '-' || s.s[0] == '+') ? 1 : 0, n = digits(s, at), m = 0;
    struct span whole, part = {"", 0};
    long e;

    d->kind = DATUM_TEXT;
    d->text = s;
    if (is_special(s))
        return true;
    whole = (struct span){s.s + at, n};
    if (at + n < s.len && s.s[at + n] == '.') {
        m = digits(s, at + n + 1);
        part = (struct span){s.s + at + n + 1, m};
    }
    if (n + m == 0 || !read_exponent(s, at + n + m + (at + n < s.len && s.s[at + n] == '.'), &e))
        return false;
    if (e)
        return put_shifted(text, s.s[0] == '-', whole, part, e, &d->text);
    while (whole.len && *whole.s == '0')
        whole = (struct span){whole.s + 1, whole.len - 1};
    while (part.len && part.s[part.len - 1] == '0')
        part.len--;
    return put_numeric(text, s.s[0] == '-', whole, part, &d->text);
}

static int of_sizes(size_t a, size_t b)
{
    return a < b ? -1 : a > b;
}

static int compare_bytes(struct span a, struct span b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n ? memcmp(a.s, b.s, n) : 0;

    return c ? c : of_sizes(a.len, b.len);
}

/* -2 … 2 for -Infinity, negative, zero or positive, Infinity, NaN. */
static int rank(struct span s)
{
    if (SPAN_IS(s, "NaN"))
        return 3;
    if (SPAN_IS(s, "Infinity"))
        return 2;
    if (SPAN_IS(s, "-Infinity"))
        return -2;
    return s.len && s.s[0] == '-' ? -1 : 1;
}

static int compare_magnitudes(struct span a, struct span b)
{
    const char *pa = a.len ? memchr(a.s, '.', a.len) : NULL, *pb = b.len ? memchr(b.s, '.', b.len) : NULL;
    struct span wa = {a.s, pa ? (size_t)(pa - a.s) : a.len}, wb = {b.s, pb ? (size_t)(pb - b.s) : b.len};
    int c = of_sizes(wa.len, wb.len);

    if (!c)
        c = compare_bytes(wa, wb);
    if (c)
        return c;
    return compare_bytes((struct span){a.s + wa.len, a.len - wa.len}, (struct span){b.s + wb.len, b.len - wb.len});
}

static int compare_numeric(struct span a, struct span b)
{
    int ra = rank(a), rb = rank(b);

    if (ra != rb || ra > 1 || ra < -1)
        return ra - rb;
    if (ra == 1)
        return compare_magnitudes(a, b);
    return compare_magnitudes((struct span){b.s + 1, b.len - 1}, (struct span){a.s + 1, a.len - 1});
}

static int compare_doubles(double a, double b)
{
    if (isnan(a) || isnan(b))
        return (isnan(a) ? 1 : 0) - (isnan(b) ? 1 : 0);
    return a < b ? -1 : a > b;
}

/* ---- text ---------------------------------------------------------------------------------------------------------------------- */

static bool parse_bool(struct span s, struct datum *d)
{
    d->kind = DATUM_NUMBER;
    d->number = SPAN_IS(s, "true") || SPAN_IS(s, "t");
    return d->number || SPAN_IS(s, "false") || SPAN_IS(s, "f");
}

static bool parse_uuid(struct span s, struct buf *text, struct datum *d)
{
    size_t begin = text->len;

    if (s.len != 36 || text->cap - text->len <= s.len)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.s[i];
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;

        if (dash ? c != '-' : !((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'f')))
            return false;
        buf_putc(text, c >= 'A' && c <= 'F' ? (char)(c | 32) : c);
    }
    d->kind = DATUM_TEXT;
    d->text = (struct span){text->data + begin, s.len};
    return true;
}

static struct span without_padding(struct span s)
{
    while (s.len && s.s[s.len - 1] == ' ')
        s.len--;
    return s;
}

static bool parse_moment(uint32_t class, struct span s, struct datum *d)
{
    d->kind = DATUM_NUMBER;
    if (class == CLASS_TIME)
        return moment_of_day(s, &d->number);
    if (class == CLASS_DATE)
        return moment_date(s, &d->number);
    return moment_timestamp(s, class == CLASS_TIMESTAMPTZ, &d->number);
}

bool datum_parse(uint32_t class, struct span s, struct buf *text, struct datum *ret)
{
    struct datum d = {.class = class, .kind = DATUM_TEXT, .text = s};
    bool is = true;

    switch (class) {
    case CLASS_INT:
        is = parse_int(s, &d);
        break;
    case CLASS_FLOAT:
        is = parse_float(s, &d);
        break;
    case CLASS_NUMERIC:
        is = parse_numeric(s, text, &d);
        break;
    case CLASS_BOOL:
        is = parse_bool(s, &d);
        break;
    case CLASS_UUID:
        is = parse_uuid(s, text, &d);
        break;
    case CLASS_TIMESTAMP:
    case CLASS_TIMESTAMPTZ:
    case CLASS_DATE:
    case CLASS_TIME:
        is = parse_moment(class, s, &d);
        break;
    case CLASS_PADDED:
        d.text = without_padding(s);
        break;
    case CLASS_OPAQUE:
        is = false;
        break;
    default:
        break;
    }
    if (is)
        *ret = d;
    return is;
}

/* ---- what changes show --------------------------------------------------------------------------------------------------------- */

static bool of_number(uint32_t class, const struct cell *cell, struct datum *ret)
{
    *ret = (struct datum){.class = class};
    if (class == CLASS_BOOL && cell->kind == CELL_BOOL) {
        *ret = (struct datum){.class = class, .kind = DATUM_NUMBER, .number = cell->integer};
        return true;
    }
    if (class == CLASS_INT && cell->kind == CELL_INT) {
        *ret = (struct datum){.class = class, .kind = DATUM_NUMBER, .number = cell->integer};
        return true;
    }
    if (class != CLASS_FLOAT || (cell->kind != CELL_INT && cell->kind != CELL_FLOAT))
        return false;
    *ret = (struct datum){.class = class, .kind = DATUM_DOUBLE, .real = cell->kind == CELL_INT ? (double)cell->integer : cell->number};
    return true;
}

bool datum_of_cell(uint32_t class, const struct cell *cell, struct buf *text, struct datum *ret)
{
    bool digits_only = class == CLASS_INT || class == CLASS_FLOAT;

    if (cell->kind == CELL_ABSENT)
        return false;
    if (cell->kind == CELL_NULL || class == CLASS_OPAQUE) { /* of what is opaque no filter asks more than whether it is NULL */
        *ret = (struct datum){.class = class, .kind = cell->kind == CELL_NULL ? DATUM_NULL : DATUM_TEXT, .text = {"", 0}};
        return true;
    }
    if (cell->kind == CELL_NUMBER)
        return (digits_only || class == CLASS_NUMERIC) && datum_parse(class, cell->text, text, ret);
    if (cell->kind == CELL_TEXT)
        return class != CLASS_INT && class != CLASS_BOOL && datum_parse(class, cell->text, text, ret);
    return of_number(class, cell, ret);
}

int datum_compare(const struct datum *a, const struct datum *b)
{
    if (a->kind == DATUM_NUMBER)
        return a->number < b->number ? -1 : a->number > b->number;
    if (a->kind == DATUM_DOUBLE)
        return compare_doubles(a->real, b->real);
    return a->class == CLASS_NUMERIC ? compare_numeric(a->text, b->text) : compare_bytes(a->text, b->text);
}

struct span datum_bytes(const struct datum *d, char room[9])
{
    double real = isnan(d->real) ? (double)NAN : d->real;

    room[0] = (char)d->kind;
    if (d->kind == DATUM_TEXT)
        return d->text;
    if (d->kind == DATUM_DOUBLE)
        memcpy(room + 1, &real, 8);
    else
        memcpy(room + 1, &d->number, 8);
    return d->kind == DATUM_NULL ? (struct span){"\0", 1} : (struct span){room, 9};
}
