/* Bodies checked against their definitions; see schema.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/name.h"
#include "wire/node.h"
#include "wire/schema.h"

enum { SHOWN_SIZE = 80 };

/* One check of one body. */
struct check {
    int strict;
    struct wire_error *err;
};

static int check_type(struct check *c, const struct place *at, const struct schema_type *type,
                      const struct muster_value *v);

/* Append to a sentence of SCHEMA_SENTENCE_SIZE bytes; what does not fit is cut. */
static void say(char *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(char *out, const char *fmt, ...)
{
    size_t n = strlen(out);
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(out + n, SCHEMA_SENTENCE_SIZE - n, fmt, ap);
    va_end(ap);
}

static void say_choices(struct text choices, char *out)
{
    const char *p = choices.s, *end = p + choices.len;

    say(out, "one of ");
    while (p <= end) {
        const char *bar = memchr(p, '|', (size_t)(end - p));
        int len = (int)((bar ? bar : end) - p);

        say(out, "%s%.*s", p == choices.s ? "" : ", ", len, p);
        p += len + 1;
    }
}

/* unit: " bytes" or "", with its blank. */
static void say_range(const struct schema_field *f, const char *unit, char *out)
{
    if (f->min == f->max)
        say(out, " of %lld%s", (long long)f->min, unit);
    else if (f->min != INT64_MIN && f->max != INT64_MAX)
        say(out, " of %lld to %lld%s", (long long)f->min, (long long)f->max, unit);
    else if (f->min != INT64_MIN)
        say(out, " of at least %lld%s", (long long)f->min, unit);
    else if (f->max != INT64_MAX)
        say(out, " of at most %lld%s", (long long)f->max, unit);
}

static void say_kind(const struct schema_field *f, char *out)
{
    static const char *const kinds[] = {
        [SCHEMA_BOOL] = "a boolean",
        [SCHEMA_INT] = "an integer",
        [SCHEMA_FLOAT] = "a number",
        [SCHEMA_STR] = "a string",
        [SCHEMA_NAME] = "a name ([A-Za-z0-9_-], 1 to 64 characters, not beginning with _)",
        [SCHEMA_TIME] = "a UTC time such as 2026-01-31T23:59:59.123456Z",
        [SCHEMA_ANY] = "any value",
    };

    if (f->kind == SCHEMA_ENUM)
        say_choices(f->choices, out);
    else if (f->kind == SCHEMA_REF)
        say(out, f->ref->alias ? "a value of type %s" : "a map of type %s", f->ref->name);
    else
        say(out, "%s", kinds[f->kind]);
}

const char *schema_describe(const struct schema_field *f, char out[SCHEMA_SENTENCE_SIZE])
{
    out[0] = '\0';
    if (f->shape == SCHEMA_ONE) {
        say_kind(f, out);
        say_range(f, f->kind == SCHEMA_STR ? " bytes" : "", out);
    } else {
        say(out, f->shape == SCHEMA_LIST ? "a list" : "a map");
        say_range(f, f->shape == SCHEMA_LIST ? " elements" : " keys", out);
        say(out, ", each ");
        say_kind(f, out);
    }
    if (f->nullable)
        say(out, ", or null");
    return out;
}

/* The value as a sentence shows it: itself when it is small, its kind otherwise. */
static const char *show(const struct muster_value *v, char out[SHOWN_SIZE])
{
    char text[TEXT_QUOTE_SIZE];

    if (v->type == MUSTER_STR)
        (void)snprintf(out, SHOWN_SIZE, "%s", text_quote(v->s, v->n, text));
    else if (v->type == MUSTER_INT)
        (void)snprintf(out, SHOWN_SIZE, "%lld", (long long)v->i);
    else if (v->type == MUSTER_BOOL)
        (void)snprintf(out, SHOWN_SIZE, "%s", v->i ? "true" : "false");
    else if (v->type == MUSTER_FLOAT)
        (void)snprintf(out, SHOWN_SIZE, "the number %.17g", value_float(v));
    else
        (void)snprintf(out, SHOWN_SIZE, "%s", value_kind(v));
    return out;
}

static int refuse(struct check *c, const struct place *at, const struct schema_field *f,
                  const struct muster_value *v)
{
    char came[SHOWN_SIZE], expected[SCHEMA_SENTENCE_SIZE];

    return place_refuse(c->err, at, "%s came, expected %s", show(v, came),
                        schema_describe(f, expected));
}

/* Two digits at p as a number; out of all ranges when they are not digits. */
static int two(const char *p)
{
    if (p[0] < '0' || p[0] > '9' || p[1] < '0' || p[1] > '9')
        return 100;
    return (p[0] - '0') * 10 + (p[1] - '0');
}

static bool is_day(const char *s)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int century = two(s), year = two(s + 2), month = two(s + 5), day = two(s + 8);
    bool leap = year % 4 == 0 && (year != 0 || century % 4 == 0);

    if (century > 99 || year > 99 || month < 1 || month > 12)
        return false;
    return day >= 1 && day <= days[month - 1] + (month == 2 && leap);
}

/* RFC 3339 in UTC, with up to nine digits of a second. s ends in NUL. */
static bool is_time(const char *s, size_t len)
{
    const char *p = s + 19;

    if (len < 20 || s[4] != '-' || s[7] != '-' || (s[10] | 0x20) != 't' || s[13] != ':' ||
        s[16] != ':')
        return false;
    if (!is_day(s) || two(s + 11) > 23 || two(s + 14) > 59 || two(s + 17) > 59)
        return false;
    if (*p == '.') {
        size_t n = strspn(++p, "0123456789");

        if (n < 1 || n > 9)
            return false;
        p += n;
    }
    return strcmp(p, "Z") == 0 || strcmp(p, "z") == 0 || strcmp(p, "+00:00") == 0 ||
           strcmp(p, "-00:00") == 0;
}

/* A fraction is compared as a double; bounds are small whole numbers. */
static bool within(const struct schema_field *f, const struct muster_value *v)
{
    double d;

    if (v->type == MUSTER_INT)
        return v->i >= f->min && v->i <= f->max;
    d = value_float(v);
    return (f->min == INT64_MIN || d >= (double)f->min) &&
           (f->max == INT64_MAX || d <= (double)f->max);
}

/* One value of a kind other than REF and ANY. In a list or map the range is of the count, not of
 * the element. */
static bool fits(const struct schema_field *f, const struct muster_value *v)
{
    bool ranged = f->shape == SCHEMA_ONE;

    switch (f->kind) {
    case SCHEMA_BOOL:
        return v->type == MUSTER_BOOL;
    case SCHEMA_INT:
        return v->type == MUSTER_INT && (!ranged || within(f, v));
    case SCHEMA_FLOAT:
        return (v->type == MUSTER_INT || v->type == MUSTER_FLOAT) && (!ranged || within(f, v));
    case SCHEMA_STR:
        return v->type == MUSTER_STR &&
               (!ranged || ((int64_t)v->n >= f->min && (int64_t)v->n <= f->max));
    case SCHEMA_NAME:
        return v->type == MUSTER_STR && name_is_public(v->s, v->n);
    case SCHEMA_TIME:
        return v->type == MUSTER_STR && is_time(v->s, v->n);
    default:
        return v->type == MUSTER_STR && schema_is_choice(f->choices, (struct text){v->s, v->n});
    }
}

static int check_one(struct check *c, const struct place *at, const struct schema_field *f,
                     const struct muster_value *v)
{
    struct schema_field one = *f;

    if (f->kind == SCHEMA_ANY || (f->kind != SCHEMA_REF && fits(f, v)))
        return 0;
    if (f->kind == SCHEMA_REF)
        return check_type(c, at, f->ref, v);
    if (f->shape != SCHEMA_ONE) { /* the sentence is about the element */
        one.shape = SCHEMA_ONE;
        one.min = INT64_MIN;
        one.max = INT64_MAX;
        one.nullable = false;
    }
    return refuse(c, at, &one, v);
}

/* The count first, then each element. */
static int check_items(struct check *c, const struct place *at, const struct schema_field *f,
                       const struct muster_value *v)
{
    bool list = f->shape == SCHEMA_LIST;
    int err = 0;

    if (v->type != (list ? MUSTER_ARRAY : MUSTER_MAP))
        return refuse(c, at, f, v);
    if ((int64_t)v->n < f->min || (int64_t)v->n > f->max) {
        char expected[SCHEMA_SENTENCE_SIZE];

        return place_refuse(c->err, at, "%s of %u came, expected %s", list ? "a list" : "a map",
                            v->n, schema_describe(f, expected));
    }
    for (uint32_t i = 0; !err && i < v->n; i++) {
        const struct muster_value *key = &v->items[2 * (size_t)i];
        struct place here = {.up = at, .key = list ? NULL : key->s, .n = list ? i : key->n};

        err = check_one(c, &here, f, list ? &v->items[i] : key + 1);
    }
    return err;
}

/* null counts only where the definition says "or null"; it is not a missing field. */
static int check_field(struct check *c, const struct place *at, const struct schema_field *f,
                       const struct muster_value *v)
{
    if (v->type == MUSTER_NULL && f->nullable)
        return 0;
    return f->shape == SCHEMA_ONE ? check_one(c, at, f, v) : check_items(c, at, f, v);
}

/* Types have a few fields; a scan is enough. */
static const struct schema_field *find_field(const struct schema_type *type,
                                             const struct muster_value *key)
{
    for (size_t i = 0; i < type->n_fields; i++)
        if (type->fields[i].name.len == key->n &&
            memcmp(type->fields[i].name.s, key->s, key->n) == 0)
            return &type->fields[i];
    return NULL;
}

/* All fields that there are: the agents that read this know best which one they meant. */
static void say_fields(const struct schema_type *type, char *out)
{
    out[0] = '\0';
    for (size_t i = 0; i < type->n_fields; i++)
        say(out, "%s%.*s", i ? ", " : "", (int)type->fields[i].name.len, type->fields[i].name.s);
    if (!type->n_fields)
        say(out, "an empty map");
}

static int refuse_unknown(struct check *c, const struct place *at, const struct schema_type *type,
                          struct text key)
{
    char known[SCHEMA_SENTENCE_SIZE];
    struct place here = {.up = at, .key = key.s, .n = key.len};

    say_fields(type, known);
    return place_refuse(c->err, &here, "an unknown field came, expected %s", known);
}

/* After the fields that came were checked: a wrong one says more than a missing one. */
static int check_present(struct check *c, const struct place *at, const struct schema_type *type,
                         const struct muster_value *map)
{
    char expected[SCHEMA_SENTENCE_SIZE];

    for (size_t i = 0; i < type->n_fields; i++) {
        const struct schema_field *f = &type->fields[i];
        struct place here = {.up = at, .key = f->name.s, .n = f->name.len};
        bool there = f->optional;

        for (size_t j = 0; !there && j < map->n; j++)
            there = map->items[2 * j].n == f->name.len &&
                    memcmp(map->items[2 * j].s, f->name.s, f->name.len) == 0;
        if (!there)
            return place_refuse(c->err, &here, "nothing came, expected %s",
                                schema_describe(f, expected));
    }
    return 0;
}

/* Recursion is bounded by the depth of the body. */
static int check_type(struct check *c, const struct place *at, const struct schema_type *type,
                      const struct muster_value *v)
{
    int err = 0;

    if (type->alias)
        return check_field(c, at, &type->fields[0], v);
    if (v->type != MUSTER_MAP)
        return place_refuse(c->err, at, "%s came, expected a map%s%s", value_kind(v),
                            type->name ? " of type " : "", type->name ? type->name : "");
    for (size_t i = 0; !err && i < v->n; i++) {
        const struct muster_value *key = &v->items[2 * i];
        const struct schema_field *f = find_field(type, key);
        struct place here = {.up = at, .key = key->s, .n = key->n};

        if (f)
            err = check_field(c, &here, f, key + 1);
        else if (c->strict)
            err = refuse_unknown(c, at, type, (struct text){key->s, key->n});
    }
    return err ? err : check_present(c, at, type, v);
}

int schema_check(const struct schema_type *type, const struct muster_value *body, int strict,
                 struct wire_error *err)
{
    struct check c = {.strict = strict, .err = err};

    err->offset = WIRE_NO_OFFSET;
    return check_type(&c, NULL, type, body);
}
