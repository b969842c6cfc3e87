/* Documents, their memory and their accessors; see value.h. */
#include "wire/value.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "wire/node.h"

enum { BLOCK_NODES = 1024, PAIRWISE = 32 };

/* Memory beyond the first; a document that needs many nodes has a chain of these. */
struct block {
    struct block *next;
    struct muster_value nodes[];
};

/* Round up to what nodes need. */
static size_t aligned(size_t n)
{
    return (n + 15) & ~(size_t)15;
}

/* One allocation for most bodies: the document, its nodes, and a copy of the body with a NUL behind it. */
struct doc *doc_new(struct muster_bytes body, size_t n_nodes)
{
    size_t head = aligned(sizeof(struct doc)), nodes = n_nodes * sizeof(struct muster_value);
    struct doc *doc = malloc(head + nodes + body.len + 1);

    if (!doc)
        return NULL;
    doc->root = (struct muster_value){.type = MUSTER_NULL};
    doc->blocks = NULL;
    doc->at = (char *)doc + head;
    doc->end = doc->at + nodes;
    doc->text = doc->end;
    if (body.len)
        memcpy(doc->text, body.data, body.len);
    doc->text[body.len] = '\0';
    return doc;
}

void doc_free(struct doc *doc)
{
    struct block *next;

    if (!doc)
        return;
    for (struct block *b = doc->blocks; b; b = next) {
        next = b->next;
        free(b);
    }
    free(doc);
}

/* Given out one after another; they go with the document. */
struct muster_value *doc_nodes(struct doc *doc, size_t n)
{
    size_t bytes = n * sizeof(struct muster_value); /* n <= 4,096 */
    struct muster_value *nodes;

    if ((size_t)(doc->end - doc->at) < bytes) {
        size_t room = (n > BLOCK_NODES ? n : BLOCK_NODES) * sizeof(struct muster_value);
        struct block *b = malloc(aligned(sizeof *b) + room);

        if (!b)
            return NULL;
        b->next = doc->blocks;
        doc->blocks = b;
        doc->at = (char *)b + aligned(sizeof *b);
        doc->end = doc->at + room;
    }
    nodes = (struct muster_value *)(void *)doc->at;
    doc->at += bytes;
    return nodes;
}

/* Bytes decide, then the length: the order that the canonical form is defined by. */
static int compare_keys(const struct muster_value *a, const struct muster_value *b)
{
    int order = memcmp(a->s, b->s, a->n < b->n ? a->n : b->n);

    return order ? order : (a->n > b->n) - (a->n < b->n);
}

/* For qsort_r(): what is sorted are pair numbers, so that the map itself keeps its order. */
static int by_key(const void *a, const void *b, void *map)
{
    const struct muster_value *items = ((const struct muster_value *)map)->items;

    return compare_keys(&items[2 * *(const uint16_t *)a], &items[2 * *(const uint16_t *)b]);
}

void node_sort(const struct muster_value *map, uint16_t *order)
{
    for (uint16_t i = 0; i < map->n; i++)
        order[i] = i;
    qsort_r(order, map->n, sizeof *order, by_key, (void *)map);
}

/* Sorting, not hashing: no choice of keys makes it slow. */
static const struct muster_value *twice_sorted(const struct muster_value *map)
{
    uint16_t order[WIRE_MAX_KEYS];

    node_sort(map, order);
    for (size_t i = 1; i < map->n; i++) {
        const struct muster_value *a = &map->items[2 * order[i - 1]],
                                  *b = &map->items[2 * order[i]];

        if (compare_keys(a, b) == 0)
            return a->s > b->s ? a : b;
    }
    return NULL;
}

/* Pair by pair as long as that is cheaper than sorting. */
const struct muster_value *node_twice(const struct muster_value *map)
{
    if (map->n > PAIRWISE)
        return twice_sorted(map);
    for (size_t i = 1; i < map->n; i++) {
        const struct muster_value *key = &map->items[2 * i];

        for (size_t j = 0; j < i; j++) {
            const struct muster_value *other = &map->items[2 * j];

            if (other->n == key->n && memcmp(other->s, key->s, key->n) == 0)
                return key;
        }
    }
    return NULL;
}

/* In the C locale, which no part of the broker leaves; setlocale() is forbidden to plugins. */
double node_digits(const struct muster_value *v)
{
    return strtod(v->s, NULL);
}

/* The bytes that a map can begin with: no other value of either encoding starts so, so one look is
 * enough. */
int value_detect(struct muster_bytes body, uint32_t *ret_encoding, struct wire_error *err)
{
    unsigned char c = body.len ? *(const unsigned char *)body.data : '{';

    if (c == '{' || c == ' ' || c == '\t' || c == '\n' || c == '\r') {
        *ret_encoding = MUSTER_JSON;
        return 0;
    }
    if ((c & 0xf0) == 0x80 || c == 0xde || c == 0xdf) {
        *ret_encoding = MUSTER_MSGPACK;
        return 0;
    }
    err->offset = 0;
    return place_refuse(
        err, NULL, "0x%02x came, expected the first byte of a JSON object or of a MessagePack map",
        c);
}

int value_decode_any(uint32_t encoding, struct muster_bytes body, struct muster_value **ret_doc,
                     struct wire_error *err)
{
    struct doc *doc = NULL;
    int code;

    err->offset = WIRE_NO_OFFSET;
    if (body.len > WIRE_MAX_BODY)
        return place_refuse(err, NULL, "a body of %zu bytes came, expected at most %d", body.len,
                            WIRE_MAX_BODY);
    if (encoding != MUSTER_JSON && encoding != MUSTER_MSGPACK)
        return place_refuse(err, NULL, "encoding %u came, expected MUSTER_JSON or MUSTER_MSGPACK",
                            encoding);
    code = encoding == MUSTER_JSON ? json_read(body, &doc, err) : msgpack_read(body, &doc, err);
    if (code == MUSTER_ENOMEM)
        (void)place_refuse(err, NULL, "no memory to decode %zu bytes", body.len);
    if (code)
        return code;
    *ret_doc = &doc->root;
    return 0;
}

/* An empty body means {} in both encodings, because a request without arguments is common. */
int value_decode(uint32_t encoding, struct muster_bytes body, struct muster_value **ret_doc,
                 struct wire_error *err)
{
    struct muster_value *doc;
    int code;

    if (body.len == 0) {
        body = (struct muster_bytes){"{}", 2};
        encoding = MUSTER_JSON;
    }
    code = value_decode_any(encoding, body, &doc, err);
    if (code)
        return code;
    if (doc->type != MUSTER_MAP) {
        err->offset = 0;
        (void)place_refuse(err, NULL, "%s came, expected a map", value_kind(doc));
        value_free(doc);
        return MUSTER_EINVAL;
    }
    *ret_doc = doc;
    return 0;
}

void value_free(struct muster_value *doc)
{
    doc_free((struct doc *)(void *)doc);
}

int value_type(const struct muster_value *v)
{
    return v->type;
}

/* Also the order of MUSTER_NULL ... MUSTER_MAP, which is frozen by the ABI. */
const char *value_kind(const struct muster_value *v)
{
    static const char *const kinds[] = {"null",     "a boolean", "an integer", "a fraction",
                                        "a string", "a binary",  "a list",     "a map"};

    ASSERT(v->type <= MUSTER_MAP);
    return kinds[v->type];
}

size_t value_count(const struct muster_value *v)
{
    return v->type == MUSTER_ARRAY || v->type == MUSTER_MAP ? v->n : 0;
}

const struct muster_value *value_at(const struct muster_value *array, size_t i)
{
    return array->type == MUSTER_ARRAY && i < array->n ? &array->items[i] : NULL;
}

const struct muster_value *value_key(const struct muster_value *map, size_t i, const char **ret_key,
                                     size_t *ret_len)
{
    if (map->type != MUSTER_MAP || i >= map->n)
        return NULL;
    *ret_key = map->items[2 * i].s;
    if (ret_len)
        *ret_len = map->items[2 * i].n;
    return &map->items[2 * i + 1];
}

/* A scan: bodies have a few keys, and an index would cost more than it saves. */
const struct muster_value *value_get(const struct muster_value *map, const char *key)
{
    size_t len = strlen(key);

    for (size_t i = 0; map->type == MUSTER_MAP && i < map->n; i++)
        if (map->items[2 * i].n == len && memcmp(map->items[2 * i].s, key, len) == 0)
            return &map->items[2 * i + 1];
    return NULL;
}

int64_t value_int(const struct muster_value *v)
{
    return v->type == MUSTER_INT || v->type == MUSTER_BOOL ? v->i : 0;
}

double value_float(const struct muster_value *v)
{
    if (v->type == MUSTER_INT)
        return (double)v->i;
    if (v->type != MUSTER_FLOAT)
        return 0;
    if (v->form == FORM_DIGITS)
        return node_digits(v);
    return v->form == FORM_U64 ? (double)v->u : v->f;
}

const char *value_str(const struct muster_value *v, size_t *ret_len)
{
    if (v->type != MUSTER_STR && v->type != MUSTER_BIN)
        return NULL;
    if (ret_len)
        *ret_len = v->n;
    return v->s;
}
