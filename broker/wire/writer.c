/* The writer; see writer.h. */
#include "wire/writer.h"

#include <math.h>
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "wire/node.h"
#include "wire/text.h"

/* What msgpack-c calls to write. */
static int append(void *out, const char *data, size_t len)
{
    if (len) /* the body of an empty binary may be NULL */
        buf_put(out, data, len);
    return 0; /* the buffer remembers a failure */
}

/* Two pointers; made for each value, because the buffer may be another one after writer_init(). */
static msgpack_packer packer(struct muster_writer *w)
{
    msgpack_packer pk;

    msgpack_packer_init(&pk, w->out, append);
    return pk;
}

void writer_init(struct muster_writer *w, uint32_t encoding, struct buf *out)
{
    ASSERT(encoding == MUSTER_JSON || encoding == MUSTER_MSGPACK);
    w->out = out;
    w->encoding = encoding;
    w->depth = 0;
    w->breach = NULL;
    w->done = false;
    w->own = (struct buf){0};
}

/* For the ABI: the buffer is the writer's own. */
struct muster_writer *writer_new(uint32_t encoding)
{
    struct muster_writer *w = malloc(sizeof *w);

    if (w)
        writer_init(w, encoding, &w->own);
    return w;
}

void writer_free(struct muster_writer *w)
{
    if (!w)
        return;
    buf_done(&w->own);
    free(w);
}

/* The first breach is the cause; later ones follow from it. */
static bool breach(struct muster_writer *w, const char *why)
{
    if (!w->breach)
        w->breach = why;
    return false;
}

/* MessagePack has no separators. */
static void separate(struct muster_writer *w, struct writer_level *l)
{
    if (w->encoding == MUSTER_JSON && l->map && l->left % 2)
        buf_putc(w->out, ':');
    else if (w->encoding == MUSTER_JSON && l->begun)
        buf_putc(w->out, ',');
    l->begun = true;
}

/* True when a value may be written now; its separator is there then. */
static bool begin(struct muster_writer *w, bool is_str)
{
    struct writer_level *l = w->depth ? &w->levels[w->depth - 1] : NULL;

    if (w->breach)
        return false;
    if (w->done)
        return breach(w, "a value behind the end of the body");
    if (!l)
        return true;
    if (l->map && l->left % 2 == 0 && !is_str)
        return breach(w, "a key that is not a string");
    separate(w, l);
    return true;
}

/* A value is complete, and with it perhaps its lists and maps. */
static void end(struct muster_writer *w)
{
    while (w->depth) {
        struct writer_level *l = &w->levels[w->depth - 1];

        if (--l->left)
            return;
        if (w->encoding == MUSTER_JSON)
            buf_putc(w->out, l->map ? '}' : ']');
        w->depth--;
    }
    w->done = true;
}

/* An empty list or map is complete at once. */
static void open_level(struct muster_writer *w, size_t n, bool map)
{
    if (w->encoding == MUSTER_JSON)
        buf_putc(w->out, map ? '{' : '[');
    if (n) {
        w->levels[w->depth++] = (struct writer_level){.left = map ? 2 * n : n, .map = map};
        return;
    }
    if (w->encoding == MUSTER_JSON)
        buf_putc(w->out, map ? '}' : ']');
    end(w);
}

void writer_map(struct muster_writer *w, size_t n_keys)
{
    msgpack_packer pk = packer(w);

    if (!begin(w, false))
        return;
    if (w->depth == WIRE_MAX_DEPTH || n_keys > WIRE_MAX_KEYS) {
        (void)breach(w, n_keys > WIRE_MAX_KEYS ? "a map of more than 1,024 keys"
                                               : "more than 32 levels");
        return;
    }
    if (w->encoding == MUSTER_MSGPACK)
        msgpack_pack_map(&pk, n_keys);
    open_level(w, n_keys, true);
}

void writer_array(struct muster_writer *w, size_t n)
{
    msgpack_packer pk = packer(w);

    if (!begin(w, false))
        return;
    if (w->depth == WIRE_MAX_DEPTH || n > WIRE_MAX_ELEMENTS) {
        (void)breach(w, n > WIRE_MAX_ELEMENTS ? "a list of more than 4,096 elements"
                                              : "more than 32 levels");
        return;
    }
    if (w->encoding == MUSTER_MSGPACK)
        msgpack_pack_array(&pk, n);
    open_level(w, n, false);
}

/* s was checked. */
static void put_str(struct muster_writer *w, const char *s, size_t len)
{
    msgpack_packer pk = packer(w);

    if (!begin(w, true))
        return;
    if (w->encoding == MUSTER_JSON)
        buf_put_json(w->out, s, len);
    else
        msgpack_pack_str_with_body(&pk, s, len);
    end(w);
}

void writer_str(struct muster_writer *w, const char *s, size_t len)
{
    size_t bad;

    if (len > WIRE_MAX_BODY)
        (void)breach(w, "a string of more than 1,000,000 bytes");
    else if (!text_is_legal(s, len, &bad))
        (void)breach(w, "a string that is not UTF-8, or holds U+0000");
    else
        put_str(w, len ? s : "", len);
}

void writer_text(struct muster_writer *w, const char *s)
{
    writer_str(w, s, strlen(s));
}

/* JSON has it as a map, {"base64": …}: a level there, so it counts as one in both encodings. */
void writer_bin(struct muster_writer *w, const void *data, size_t len)
{
    msgpack_packer pk = packer(w);

    if (!begin(w, false))
        return;
    if (w->depth == WIRE_MAX_DEPTH || len > WIRE_MAX_BODY) {
        (void)breach(w, w->depth == WIRE_MAX_DEPTH ? "more than 32 levels"
                                                   : "a binary of more than 1,000,000 bytes");
        return;
    }
    if (w->encoding == MUSTER_MSGPACK) {
        msgpack_pack_bin_with_body(&pk, data, len);
    } else {
        buf_put_lit(w->out, "{\"base64\":\"");
        buf_put_base64(w->out, data, len);
        buf_put_lit(w->out, "\"}");
    }
    end(w);
}

void writer_int(struct muster_writer *w, int64_t v)
{
    msgpack_packer pk = packer(w);

    if (!begin(w, false))
        return;
    if (w->encoding == MUSTER_JSON)
        buf_put_i64(w->out, v);
    else
        msgpack_pack_int64(&pk, v);
    end(w);
}

/* Above INT64_MAX; lost to a double otherwise. */
static void put_unsigned(struct muster_writer *w, uint64_t v)
{
    msgpack_packer pk = packer(w);

    if (!begin(w, false))
        return;
    if (w->encoding == MUSTER_JSON)
        buf_put_u64(w->out, v);
    else
        msgpack_pack_uint64(&pk, v);
    end(w);
}

/* 15 digits give most doubles back, 17 all of them. */
void writer_digits(struct buf *out, double v)
{
    char digits[40];

    for (int precision = 15; precision <= 17; precision++) {
        (void)snprintf(digits, sizeof digits, "%.*g", precision, v); /* at most 24 characters */
        if (strtod(digits, NULL) == v)
            break;
    }
    buf_puts(out, digits);
    if (!strpbrk(digits, ".e"))
        buf_put_lit(out, ".0");
}

/* Four bytes where they say the same: embeddings come from models as float32. */
static void pack_float(struct muster_writer *w, double v)
{
    msgpack_packer pk = packer(w);

    if (fabs(v) <= (double)__FLT_MAX__ && (double)(float)v == v)
        msgpack_pack_float(&pk, (float)v);
    else
        msgpack_pack_double(&pk, v);
}

void writer_float(struct muster_writer *w, double v)
{
    if (!isfinite(v)) {
        writer_text(w, isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity");
        return;
    }
    if (!begin(w, false))
        return;
    if (w->encoding == MUSTER_JSON)
        writer_digits(w->out, v);
    else
        pack_float(w, v);
    end(w);
}

void writer_bool(struct muster_writer *w, bool v)
{
    msgpack_packer pk = packer(w);

    if (!begin(w, false))
        return;
    if (w->encoding == MUSTER_JSON)
        buf_puts(w->out, v ? "true" : "false");
    else if (v)
        msgpack_pack_true(&pk);
    else
        msgpack_pack_false(&pk);
    end(w);
}

void writer_null(struct muster_writer *w)
{
    msgpack_packer pk = packer(w);

    if (!begin(w, false))
        return;
    if (w->encoding == MUSTER_JSON)
        buf_put_lit(w->out, "null");
    else
        msgpack_pack_nil(&pk);
    end(w);
}

/* JSON digits go to JSON as they came, 1.10 as 1.10; MessagePack gets the nearest double. */
static void put_number(struct muster_writer *w, const struct muster_value *v)
{
    if (v->form == FORM_U64) {
        put_unsigned(w, v->u);
        return;
    }
    if (v->form == FORM_F64 || w->encoding == MUSTER_MSGPACK) {
        writer_float(w, value_float(v));
        return;
    }
    if (!begin(w, false))
        return;
    buf_put(w->out, v->s, v->n);
    end(w);
}

static void put_items(struct muster_writer *w, const struct muster_value *v)
{
    size_t n = v->type == MUSTER_MAP ? 2 * (size_t)v->n : v->n;

    if (v->type == MUSTER_MAP)
        writer_map(w, v->n);
    else
        writer_array(w, v->n);
    for (size_t i = 0; i < n && !w->breach; i++)
        writer_value(w, &v->items[i]);
}

/* Recursion ends with the depth of v, which was bounded when it was read. */
void writer_value(struct muster_writer *w, const struct muster_value *v)
{
    switch (v->type) {
    case MUSTER_MAP:
    case MUSTER_ARRAY:
        put_items(w, v);
        break;
    case MUSTER_STR:
        put_str(w, v->s, v->n); /* was checked when it was read */
        break;
    case MUSTER_BIN:
        writer_bin(w, v->s, v->n);
        break;
    case MUSTER_INT:
        writer_int(w, v->i);
        break;
    case MUSTER_FLOAT:
        put_number(w, v);
        break;
    case MUSTER_BOOL:
        writer_bool(w, v->i != 0);
        break;
    default:
        writer_null(w);
    }
}

int writer_finish(const struct muster_writer *w, const char **ret_why)
{
    const char *why = w->breach ? w->breach
                      : w->done ? NULL
                                : "a list, a map or the body is not complete";

    if (buf_failed(w->out))
        return MUSTER_ENOMEM;
    if (!why)
        return 0;
    if (ret_why)
        *ret_why = why;
    return MUSTER_EINVAL;
}
