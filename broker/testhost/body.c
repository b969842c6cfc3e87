/* Bodies made from the definitions of verbs: such as fit, and such as do not. The same seed makes the same body. */
#include <stdio.h>
#include <string.h>

#include "testhost/inside.h"
#include "wire/writer.h"

enum { MAX_DEPTH = 6, MAX_ITEMS = 5, MAX_TEXT = 4000, MAX_BITS = 64, N_TRIES = 24 };
enum { BREAK_NOTHING, BREAK_GARBAGE, BREAK_CUT, BREAK_UNKNOWN, BREAK_TYPE, BREAK_MISSING, BREAK_TOP, BREAK_BOUNDS, N_BREAKS };

struct making {
    struct muster_writer w;
    uint64_t state;
    int how;      /* BREAK_* */
    bool broken;  /* it has been done */
    int depth;
};

/* splitmix64. */
static uint64_t draw(struct making *m)
{
    uint64_t z = (m->state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t below(struct making *m, uint64_t n)
{
    return n ? draw(m) % n : 0;
}

static void put_type(struct making *m, const struct schema_type *type);

/* The ends of a range are where mistakes are. */
static int64_t whole(struct making *m, const struct schema_field *f)
{
    int64_t low = f->min == INT64_MIN ? (f->max < -1000 ? f->max - 1000 : -1000) : f->min;
    int64_t high = f->max == INT64_MAX ? (low > 1000 ? low + 1000 : 1000) : f->max;

    switch (below(m, 4)) {
    case 0:
        return low;
    case 1:
        return high;
    case 2:
        return low <= 0 && high >= 0 ? 0 : low;
    default:
        return low + (int64_t)below(m, (uint64_t)high - (uint64_t)low + 1);
    }
}

static void put_text(struct making *m, const struct schema_field *f, bool ranged)
{
    static const char *const pieces[] = {"a", "Z", "0", " ", "\"", "\\", "\n", "%s", "'", "é", "日", "😀", "*", ">", ".", "$1", "../"};
    char text[MAX_TEXT + 1];
    size_t min = ranged && f->min > 0 ? (size_t)f->min : 0, max = ranged && f->max < 64 ? (size_t)f->max : 64, len = 0, want;

    if (min > MAX_TEXT)
        min = MAX_TEXT;
    max = max < min ? min : max;
    want = min + below(m, max - min + 1);
    while (len < want) {
        const char *piece = pieces[below(m, sizeof pieces / sizeof *pieces)];

        if (len + strlen(piece) > want)
            piece = "x";
        memcpy(text + len, piece, strlen(piece));
        len += strlen(piece);
    }
    writer_str(&m->w, text, len);
}

static void put_choice(struct making *m, struct text choices)
{
    size_t n = 1, pick;
    const char *at = choices.s, *end = choices.s + choices.len, *bar;

    for (size_t i = 0; i < choices.len; i++)
        n += choices.s[i] == '|';
    for (pick = below(m, n); pick && (bar = memchr(at, '|', (size_t)(end - at))); pick--)
        at = bar + 1;
    bar = memchr(at, '|', (size_t)(end - at));
    writer_str(&m->w, at, (size_t)((bar ? bar : end) - at));
}

static void put_wrong(struct making *m, const struct schema_field *f)
{
    m->broken = true;
    if (f->shape == SCHEMA_ONE && (f->kind == SCHEMA_INT || f->kind == SCHEMA_FLOAT || f->kind == SCHEMA_BOOL))
        writer_text(&m->w, "not a number");
    else
        writer_float(&m->w, 0.5);
}

/* Out of its range; false where it has none. */
static bool put_beyond(struct making *m, const struct schema_field *f)
{
    bool number = f->kind == SCHEMA_INT || f->kind == SCHEMA_FLOAT;

    if (f->shape != SCHEMA_ONE || (!number && f->kind != SCHEMA_STR))
        return false;
    if (number && f->max < INT64_MAX)
        writer_int(&m->w, f->max + 1);
    else if (number && f->min > INT64_MIN)
        writer_int(&m->w, f->min - 1);
    else if (!number && f->min > 0)
        writer_text(&m->w, "");
    else
        return false;
    return m->broken = true;
}

static void put_one(struct making *m, const struct schema_field *f)
{
    bool ranged = f->shape == SCHEMA_ONE;
    char name[24];

    switch (f->kind) {
    case SCHEMA_BOOL:
        writer_bool(&m->w, draw(m) & 1);
        break;
    case SCHEMA_INT:
        writer_int(&m->w, ranged ? whole(m, f) : (int64_t)draw(m));
        break;
    case SCHEMA_FLOAT:
        writer_int(&m->w, ranged ? whole(m, f) : (int64_t)below(m, 1000));
        break;
    case SCHEMA_STR:
        put_text(m, f, ranged);
        break;
    case SCHEMA_NAME:
        (void)snprintf(name, sizeof name, "n%llu", (unsigned long long)below(m, 10));
        writer_text(&m->w, name);
        break;
    case SCHEMA_TIME:
        writer_text(&m->w, draw(m) & 1 ? "2026-01-31T23:59:59.123456Z" : "2024-02-29T00:00:00Z");
        break;
    case SCHEMA_ENUM:
        put_choice(m, f->choices);
        break;
    case SCHEMA_REF:
        put_type(m, f->ref);
        break;
    default:
        writer_null(&m->w);
    }
}

static void put_items(struct making *m, const struct schema_field *f)
{
    int64_t min = f->min > 0 ? f->min : 0, max = f->max < MAX_ITEMS ? f->max : MAX_ITEMS, n;

    max = max < min ? min : max;
    n = m->depth > MAX_DEPTH ? min : min + (int64_t)below(m, (uint64_t)(max - min) + 1);
    if (f->shape == SCHEMA_LIST)
        writer_array(&m->w, (size_t)n);
    else
        writer_map(&m->w, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        char key[24];

        (void)snprintf(key, sizeof key, "k%lld", (long long)i);
        if (f->shape == SCHEMA_MAP)
            writer_text(&m->w, key);
        put_one(m, f);
    }
}

static void put_field(struct making *m, const struct schema_field *f)
{
    if (m->how == BREAK_TYPE && !m->broken && below(m, 3) == 0 && f->kind != SCHEMA_ANY)
        put_wrong(m, f);
    else if (m->how == BREAK_BOUNDS && !m->broken && put_beyond(m, f))
        ;
    else if (f->nullable && below(m, 4) == 0)
        writer_null(&m->w);
    else if (f->shape == SCHEMA_ONE)
        put_one(m, f);
    else
        put_items(m, f);
}

/* Which fields are there: a bit each; what is behind the last bit is. */
static uint64_t choose(struct making *m, const struct schema_type *type, size_t *ret_n)
{
    uint64_t chosen = 0;

    *ret_n = 0;
    for (size_t i = 0; i < type->n_fields; i++) {
        const struct schema_field *f = &type->fields[i];
        bool there = !f->optional || i >= MAX_BITS || (m->depth <= MAX_DEPTH && (draw(m) & 1));

        if (m->how == BREAK_MISSING && !m->broken && !f->optional && i < MAX_BITS) {
            there = false;
            m->broken = true;
        }
        if (there && i < MAX_BITS)
            chosen |= UINT64_C(1) << i;
        *ret_n += there;
    }
    return chosen;
}

/* The definitions allow what holds itself, in optional fields: the depth bounds it. */
static void put_type(struct making *m, const struct schema_type *type)
{
    bool unknown = m->how == BREAK_UNKNOWN && !m->broken;
    uint64_t chosen;
    size_t n;

    if (type->alias) {
        put_field(m, &type->fields[0]);
        return;
    }
    m->depth++;
    chosen = choose(m, type, &n);
    writer_map(&m->w, n + unknown);
    for (size_t i = 0; i < type->n_fields; i++) {
        if (i < MAX_BITS && !(chosen >> i & 1))
            continue;
        writer_str(&m->w, type->fields[i].name.s, type->fields[i].name.len);
        put_field(m, &type->fields[i]);
    }
    if (unknown) {
        m->broken = true;
        writer_text(&m->w, "no_such_field");
        writer_int(&m->w, 1);
    }
    m->depth--;
}

static void put_garbage(struct making *m, struct buf *out)
{
    size_t n = below(m, 64);

    buf_clear(out);
    for (size_t i = 0; i < n; i++)
        buf_putc(out, (char)draw(m));
    buf_putc(out, '{');
}

static void make(struct making *m, const struct schema_type *type, uint32_t encoding, struct buf *out)
{
    buf_clear(out);
    writer_init(&m->w, encoding, out);
    m->broken = false;
    if (m->how == BREAK_TOP)
        writer_array(&m->w, 0);
    else
        put_type(m, type);
    if (m->how == BREAK_GARBAGE || buf_failed(out))
        put_garbage(m, out);
    if (m->how == BREAK_CUT && out->len > 1)
        out->len = 1 + below(m, out->len - 1);
}

static bool fits(const struct schema_type *type, uint32_t encoding, const struct buf *body)
{
    struct muster_value *doc;
    struct wire_error err;
    bool ok;

    if (value_decode(encoding, (struct muster_bytes){body->data, body->len}, &doc, &err) != 0)
        return false;
    ok = schema_check(type, doc, SCHEMA_STRICT, &err) == 0;
    value_free(doc);
    return ok;
}

struct muster_bytes muster_test_body(struct muster_test *t, const char *service, const char *verb, uint32_t encoding, uint64_t seed,
                                     int broken)
{
    const struct schema_entry *entry = services_verb(t, text_of(service), text_of(verb));
    struct making m = {.state = seed};

    if (!entry)
        return (struct muster_bytes){NULL, 0};
    for (int i = 0; i < N_TRIES; i++) {
        m.how = broken ? 1 + (int)below(&m, N_BREAKS - 1) : BREAK_NOTHING;
        m.depth = 0;
        make(&m, &entry->body, encoding, &t->body);
        if (fits(&entry->body, encoding, &t->body) == !broken)
            return (struct muster_bytes){t->body.data, t->body.len};
    }
    if (broken) {
        put_garbage(&m, &t->body); /* ends in an open brace: never a body */
        return (struct muster_bytes){t->body.data, t->body.len};
    }
    fail_test(t, "no body that fits %s.%s could be made", service, verb);
    return (struct muster_bytes){NULL, 0};
}
