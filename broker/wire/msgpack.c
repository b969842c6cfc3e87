/*
 * The MessagePack reader. msgpack-c decodes, but it believes what a head says: five bytes can ask
 * it for gigabytes, it knows no UTF-8, and its errors name no place. Therefore the body is scanned
 * first against every rule of value.h, which also counts the nodes, so that one allocation of the
 * right size holds the document. msgpack-c then unpacks into a zone that each thread keeps, and the
 * objects are moved into the document.
 */
#include <math.h>
#include <msgpack.h>
#include <pthread.h>
#include <string.h>

#include "wire/node.h"
#include "wire/text.h"

enum { ZONE_CHUNK = 8192 };

enum { /* what a head announces, beside MUSTER_NULL ... MUSTER_MAP */
       HEAD_EXT = 16,
       HEAD_UNUSED,
};

/* n_nodes: how many nodes the document needs beside its root. */
struct scan {
    const unsigned char *p, *start, *end;
    size_t n_nodes, depth;
    struct wire_error *err;
};

struct head {
    uint8_t type;
    uint8_t width; /* bytes that follow: of the number, or of the length */
};

/* 0xc0 ... 0xdf; all others are one byte with the value or the length inside. */
static const struct head heads[32] = {
    {MUSTER_NULL, 0},  {HEAD_UNUSED, 0},  {MUSTER_BOOL, 0}, {MUSTER_BOOL, 0},  {MUSTER_BIN, 1},
    {MUSTER_BIN, 2},   {MUSTER_BIN, 4},   {HEAD_EXT, 0},    {HEAD_EXT, 0},     {HEAD_EXT, 0},
    {MUSTER_FLOAT, 4}, {MUSTER_FLOAT, 8}, {MUSTER_INT, 1},  {MUSTER_INT, 2},   {MUSTER_INT, 4},
    {MUSTER_INT, 8},   {MUSTER_INT, 1},   {MUSTER_INT, 2},  {MUSTER_INT, 4},   {MUSTER_INT, 8},
    {HEAD_EXT, 0},     {HEAD_EXT, 0},     {HEAD_EXT, 0},    {HEAD_EXT, 0},     {HEAD_EXT, 0},
    {MUSTER_STR, 1},   {MUSTER_STR, 2},   {MUSTER_STR, 4},  {MUSTER_ARRAY, 2}, {MUSTER_ARRAY, 4},
    {MUSTER_MAP, 2},   {MUSTER_MAP, 4},
};

static int scan_value(struct scan *s, const struct place *at);

/* The sentence is about the byte at p. */
static struct wire_error *stand_at(struct scan *s, const unsigned char *p)
{
    s->err->offset = (size_t)(p - s->start);
    return s->err;
}

/* missing: at least; what follows the missing bytes is unknown. */
static int refuse_end(struct scan *s, const struct place *at, size_t missing)
{
    return place_refuse(stand_at(s, s->end), at,
                        "the end of the body came, expected %zu more bytes", missing);
}

static uint64_t big_endian(const unsigned char *p, size_t width)
{
    uint64_t v = 0;

    while (width--)
        v = v << 8 | *p++;
    return v;
}

/* Read a head and the number behind it. *ret_n: length, count, or the bits of the number. */
static int scan_head(struct scan *s, const struct place *at, uint8_t *ret_type, uint64_t *ret_n)
{
    unsigned char c;
    struct head h = {.type = MUSTER_INT};
    size_t left;

    if (s->p == s->end)
        return refuse_end(s, at, 1);
    c = *s->p++;
    *ret_n = c & (c < 0xa0 ? 0x0f : 0x1f);
    if (c >= 0x80 && c < 0xc0)
        h.type = c < 0x90 ? MUSTER_MAP : c < 0xa0 ? MUSTER_ARRAY : MUSTER_STR;
    if (c >= 0xc0 && c < 0xe0)
        h = heads[c - 0xc0];
    left = (size_t)(s->end - s->p);
    if (left < h.width)
        return refuse_end(s, at, h.width - left);
    if (h.width)
        *ret_n = big_endian(s->p, h.width);
    s->p += h.width;
    *ret_type = h.type;
    return 0;
}

/* n comes from the body and may be anything up to 2^32 - 1. */
static int scan_bytes(struct scan *s, const struct place *at, uint8_t type, uint64_t n)
{
    size_t left = (size_t)(s->end - s->p), bad;

    if (left < n)
        return refuse_end(s, at, (size_t)n - left);
    if (type == MUSTER_STR && !text_is_legal((const char *)s->p, (size_t)n, &bad))
        return place_refuse(stand_at(s, s->p + bad), at,
                            "the byte 0x%02x came, expected valid UTF-8 without U+0000", s->p[bad]);
    s->p += n;
    return 0;
}

/* A key that is not a str would be lost in JSON. */
static int scan_pair(struct scan *s, const struct place *map)
{
    const unsigned char *start = s->p;
    struct place here = {.up = map};
    uint8_t type;
    uint64_t n;
    int err = scan_head(s, map, &type, &n);

    if (err)
        return err;
    if (type != MUSTER_STR)
        return place_refuse(stand_at(s, start), map, "a key of type 0x%02x came, expected a str",
                            *start);
    err = scan_bytes(s, map, type, n);
    if (err)
        return err;
    here.key = (const char *)s->p - n;
    here.n = (size_t)n;
    return scan_value(s, &here);
}

/* n is within the limits, so a body of a few bytes cannot ask for much. */
static int scan_items(struct scan *s, const struct place *at, uint8_t type, uint64_t n)
{
    struct place here = {.up = at};
    int err = 0;

    s->n_nodes += (size_t)n * (type == MUSTER_MAP ? 2 : 1);
    for (; here.n < n && !err; here.n++)
        err = type == MUSTER_MAP ? scan_pair(s, at) : scan_value(s, &here);
    return err;
}

/* A list, a map, or a binary, which is a map in JSON. start: its first byte. */
static int scan_container(struct scan *s, const struct place *at, const unsigned char *start,
                          struct head h, uint64_t n)
{
    uint64_t most = h.type == MUSTER_MAP ? WIRE_MAX_KEYS : WIRE_MAX_ELEMENTS;
    int err;

    if (s->depth == WIRE_MAX_DEPTH)
        return place_refuse(stand_at(s, start), at,
                            "level %d came, expected at most %d levels of lists, maps and binaries",
                            WIRE_MAX_DEPTH + 1, WIRE_MAX_DEPTH);
    if (h.type == MUSTER_BIN)
        return scan_bytes(s, at, h.type, n);
    if (n > most)
        return place_refuse(stand_at(s, start), at, "%s of %llu came, expected at most %llu",
                            h.type == MUSTER_MAP ? "a map" : "a list", (unsigned long long)n,
                            (unsigned long long)most);
    s->depth++;
    err = scan_items(s, at, h.type, n);
    s->depth--;
    return err;
}

/* All exponent bits set: NaN or infinity, in either width. */
static bool is_finite(uint64_t bits, const unsigned char *start)
{
    uint64_t exponent = *start == 0xca ? UINT64_C(0x7f800000) : UINT64_C(0x7ff0000000000000);

    return (bits & exponent) != exponent;
}

/* Recursion is bounded by WIRE_MAX_DEPTH; numbers are skipped by their head alone. */
static int scan_value(struct scan *s, const struct place *at)
{
    const unsigned char *start = s->p;
    uint8_t type;
    uint64_t n;
    int err = scan_head(s, at, &type, &n);

    if (err)
        return err;
    switch (type) {
    case MUSTER_STR:
        return scan_bytes(s, at, type, n);
    case MUSTER_BIN:
    case MUSTER_ARRAY:
    case MUSTER_MAP:
        return scan_container(s, at, start, (struct head){.type = type}, n);
    case MUSTER_FLOAT:
        if (is_finite(n, start))
            return 0;
        return place_refuse(stand_at(s, start), at,
                            "a NaN or infinity came, expected a finite number, or it as a string");
    case HEAD_EXT:
    case HEAD_UNUSED:
        return place_refuse(
            stand_at(s, start), at,
            "the type 0x%02x came, expected nil, bool, int, float, str, bin, array or map", *start);
    default:
        return 0;
    }
}

/* From msgpack-c's objects, which point into the body, to nodes, which point into the copy. */
struct move {
    struct doc *doc;
    const char *body;
    size_t len;
    struct wire_error *err;
};

/* Bytes in the document's copy. The NUL overwrites the head of what follows, which nobody reads any
 * more. */
static struct muster_value move_bytes(const struct move *m, uint8_t type, const char *p, uint32_t n)
{
    char *s = m->doc->text + (n ? (size_t)(p - m->body) : m->len);

    s[n] = '\0';
    return (struct muster_value){.type = type, .n = n, .s = s};
}

static int move_value(const struct move *m, const struct place *at, const msgpack_object *o,
                      struct muster_value *out);

static int move_array(const struct move *m, const struct place *at, const msgpack_object *o,
                      struct muster_value *out)
{
    struct place here = {.up = at};
    struct muster_value *items = doc_nodes(m->doc, o->via.array.size);
    int err = items ? 0 : MUSTER_ENOMEM;

    for (; !err && here.n < o->via.array.size; here.n++)
        err = move_value(m, &here, &o->via.array.ptr[here.n], &items[here.n]);
    *out = (struct muster_value){.type = MUSTER_ARRAY, .n = o->via.array.size, .items = items};
    return err;
}

/* As in JSON: the second of two equal keys is named. */
static int check_keys(const struct move *m, const struct place *at, const struct muster_value *map)
{
    const struct muster_value *twice = node_twice(map);
    struct place here = {.up = at};

    if (!twice)
        return 0;
    here.key = twice->s;
    here.n = twice->n;
    m->err->offset = (size_t)(twice->s - m->doc->text);
    return place_refuse(m->err, &here, "this key came twice, expected each key once");
}

static int move_map(const struct move *m, const struct place *at, const msgpack_object *o,
                    struct muster_value *out)
{
    uint32_t n = o->via.map.size;
    struct muster_value *items = doc_nodes(m->doc, 2 * (size_t)n);
    int err = items ? 0 : MUSTER_ENOMEM;

    for (uint32_t i = 0; !err && i < n; i++) {
        const msgpack_object_kv *kv = &o->via.map.ptr[i];
        struct place here = {.up = at, .key = kv->key.via.str.ptr, .n = kv->key.via.str.size};

        items[2 * i] = move_bytes(m, MUSTER_STR, kv->key.via.str.ptr, kv->key.via.str.size);
        err = move_value(m, &here, &kv->val, &items[2 * i + 1]);
    }
    if (err)
        return err;
    *out = (struct muster_value){.type = MUSTER_MAP, .n = n, .items = items};
    return check_keys(m, at, out);
}

/* The same division as the JSON reader makes, so that one body is one tree. */
static struct muster_value move_unsigned(uint64_t u)
{
    if (u <= INT64_MAX)
        return (struct muster_value){.type = MUSTER_INT, .i = (int64_t)u};
    return (struct muster_value){.type = MUSTER_FLOAT, .form = FORM_U64, .u = u};
}

/* The scan has bounded depth and counts. */
static int move_value(const struct move *m, const struct place *at, const msgpack_object *o,
                      struct muster_value *out)
{
    switch (o->type) {
    case MSGPACK_OBJECT_MAP:
        return move_map(m, at, o, out);
    case MSGPACK_OBJECT_ARRAY:
        return move_array(m, at, o, out);
    case MSGPACK_OBJECT_STR:
        *out = move_bytes(m, MUSTER_STR, o->via.str.ptr, o->via.str.size);
        return 0;
    case MSGPACK_OBJECT_BIN:
        *out = move_bytes(m, MUSTER_BIN, o->via.bin.ptr, o->via.bin.size);
        return 0;
    case MSGPACK_OBJECT_BOOLEAN:
        *out = (struct muster_value){.type = MUSTER_BOOL, .i = o->via.boolean};
        return 0;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        *out = move_unsigned(o->via.u64);
        return 0;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        *out = (struct muster_value){.type = MUSTER_INT, .i = o->via.i64};
        return 0;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        *out = (struct muster_value){.type = MUSTER_FLOAT, .form = FORM_F64, .f = o->via.f64};
        return 0;
    default: /* NIL: the scan let nothing else through */
        *out = (struct muster_value){.type = MUSTER_NULL};
        return 0;
    }
}

/* One zone a thread, freed when the thread ends; cleared after each body, which keeps one chunk. */
static pthread_key_t zone_key;
static pthread_once_t zone_once = PTHREAD_ONCE_INIT;
static bool zone_ready;

static void free_zone(void *zone)
{
    msgpack_zone_free(zone);
}

static void make_zone_key(void)
{
    zone_ready = pthread_key_create(&zone_key, free_zone) == 0;
}

/* This thread's zone, empty. NULL: no memory. */
static msgpack_zone *borrow_zone(void)
{
    msgpack_zone *zone;

    (void)pthread_once(&zone_once, make_zone_key); /* fails only for a wrong argument */
    if (!zone_ready)
        return NULL;
    zone = pthread_getspecific(zone_key);
    if (zone)
        return zone;
    zone = msgpack_zone_new(ZONE_CHUNK);
    if (zone && pthread_setspecific(zone_key, zone) != 0) {
        msgpack_zone_free(zone);
        return NULL;
    }
    return zone;
}

/* After the scan only memory can be short; a refusal would mean that scan and msgpack-c disagree.
 */
static int unpack(struct muster_bytes body, msgpack_zone *zone, msgpack_object *ret_object,
                  struct wire_error *err)
{
    size_t off = 0;
    int code = msgpack_unpack(body.data, body.len, &off, zone, ret_object);

    if (code == MSGPACK_UNPACK_SUCCESS)
        return 0;
    if (code == MSGPACK_UNPACK_NOMEM_ERROR)
        return MUSTER_ENOMEM;
    err->offset = off;
    return place_refuse(err, NULL, "msgpack-c gave %d, expected one complete value", code);
}

static int move_document(struct muster_bytes body, size_t n_nodes, const msgpack_object *top,
                         struct doc **ret_doc, struct wire_error *err)
{
    struct move m = {.doc = doc_new(body, n_nodes), .body = body.data, .len = body.len, .err = err};
    int code = m.doc ? move_value(&m, NULL, top, &m.doc->root) : MUSTER_ENOMEM;

    if (code) {
        doc_free(m.doc);
        return code;
    }
    *ret_doc = m.doc;
    return 0;
}

int msgpack_read(struct muster_bytes body, struct doc **ret_doc, struct wire_error *err)
{
    struct scan s = {.p = body.data, .start = body.data, .err = err};
    msgpack_object top;
    msgpack_zone *zone;
    int code;

    s.end = s.p + body.len;
    code = scan_value(&s, NULL);
    if (!code && s.p != s.end)
        code = place_refuse(stand_at(&s, s.p), NULL,
                            "%zu more bytes came, expected the end of the body",
                            (size_t)(s.end - s.p));
    if (code)
        return code;
    zone = borrow_zone();
    if (!zone)
        return MUSTER_ENOMEM;
    code = unpack(body, zone, &top, err);
    if (!code)
        code = move_document(body, s.n_nodes, &top, ret_doc, err);
    msgpack_zone_clear(zone);
    return code;
}
