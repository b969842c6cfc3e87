/* Canonical text and its digest; see digest.h. */
#include "wire/digest.h"

#include <math.h>
#include <openssl/evp.h>

#include "wire/node.h"
#include "wire/writer.h"

/* Doubles from two63 on do not fit int64, from two64 on not uint64. */
static const double two63 = 9223372036854775808.0, two64 = 18446744073709551616.0;

/* A whole number is written like the integer it equals. */
static void put_number(struct buf *out, double d)
{
    if (trunc(d) != d || d < -two63 || d >= two64)
        writer_digits(out, d);
    else if (d < two63)
        buf_put_i64(out, (int64_t)d);
    else
        buf_put_u64(out, (uint64_t)d);
}

/* The 64 bits of an unsigned integer are exact; a double would lose the last digits. */
static void put_float(const struct muster_value *v, struct buf *out)
{
    if (v->form == FORM_U64)
        buf_put_u64(out, v->u);
    else
        put_number(out, value_float(v));
}

static void put_map(const struct muster_value *map, struct buf *out)
{
    uint16_t order[WIRE_MAX_KEYS]; /* 2 KiB a level, 32 levels at most */

    node_sort(map, order);
    buf_putc(out, '{');
    for (size_t i = 0; i < map->n; i++) {
        const struct muster_value *key = &map->items[2 * order[i]];

        if (i)
            buf_putc(out, ',');
        buf_put_json(out, key->s, key->n);
        buf_putc(out, ':');
        digest_text(key + 1, out);
    }
    buf_putc(out, '}');
}

static void put_array(const struct muster_value *array, struct buf *out)
{
    buf_putc(out, '[');
    for (size_t i = 0; i < array->n; i++) {
        if (i)
            buf_putc(out, ',');
        digest_text(&array->items[i], out);
    }
    buf_putc(out, ']');
}

/* What means the same reads the same in both encodings: keys sorted, numbers by value, a binary as JSON has it. */
void digest_text(const struct muster_value *v, struct buf *out)
{
    switch (v->type) {
    case MUSTER_MAP:
        put_map(v, out);
        break;
    case MUSTER_ARRAY:
        put_array(v, out);
        break;
    case MUSTER_STR:
        buf_put_json(out, v->s, v->n);
        break;
    case MUSTER_BIN:
        buf_put_lit(out, "{\"base64\":\"");
        buf_put_base64(out, v->s, v->n);
        buf_put_lit(out, "\"}");
        break;
    case MUSTER_INT:
        buf_put_i64(out, v->i);
        break;
    case MUSTER_FLOAT:
        put_float(v, out);
        break;
    case MUSTER_BOOL:
        buf_puts(out, v->i ? "true" : "false");
        break;
    default:
        buf_put_lit(out, "null");
    }
}

int digest_of(const struct muster_value *v, uint8_t out[DIGEST_SIZE])
{
    struct buf text = {0};
    int err = MUSTER_ENOMEM;

    digest_text(v, &text);
    if (!buf_failed(&text) && EVP_Digest(text.data, text.len, out, NULL, EVP_sha256(), NULL) == 1)
        err = 0;
    buf_done(&text);
    return err;
}
