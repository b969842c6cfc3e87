/*
 * types - what the types of columns are; see types.h.
 *
 * All of this runs when a relation is described, not per row: a row finds its struct value_type in
 * the column. That is why the table of built-in types is simply walked.
 */
#include "cdc/types.h"

#include <stdlib.h>

#include "muster/plugin.h"

enum { CHAIN_MAX = 16 }; /* domain over domain over array of domain …; a loop ends here */

struct builtin {
    uint32_t oid, array; /* array 0: the type has none */
    const char *name;
    uint8_t kind;
};

/* OIDs below 10000 are part of PostgreSQL's interface: they never change and pgoutput sends no 'Y'
 * for them. What a later version adds reads as text. oid, xid and the reg* types are numbers or
 * names to PostgreSQL itself as well, so text. */
static const struct builtin builtins[] = {
    {16, 1000, "bool", VALUE_BOOL},
    {17, 1001, "bytea", VALUE_BYTEA},
    {18, 1002, "char", VALUE_TEXT},
    {19, 1003, "name", VALUE_TEXT},
    {20, 1016, "int8", VALUE_INT},
    {21, 1005, "int2", VALUE_INT},
    {22, 1006, "int2vector", VALUE_TEXT},
    {23, 1007, "int4", VALUE_INT},
    {24, 1008, "regproc", VALUE_TEXT},
    {25, 1009, "text", VALUE_TEXT},
    {26, 1028, "oid", VALUE_TEXT},
    {27, 1010, "tid", VALUE_TEXT},
    {28, 1011, "xid", VALUE_TEXT},
    {29, 1012, "cid", VALUE_TEXT},
    {30, 1013, "oidvector", VALUE_TEXT},
    {114, 199, "json", VALUE_JSON},
    {142, 143, "xml", VALUE_TEXT},
    {600, 1017, "point", VALUE_TEXT},
    {601, 1018, "lseg", VALUE_TEXT},
    {602, 1019, "path", VALUE_TEXT},
    {603, 1020, "box", VALUE_TEXT},
    {604, 1027, "polygon", VALUE_TEXT},
    {628, 629, "line", VALUE_TEXT},
    {650, 651, "cidr", VALUE_TEXT},
    {700, 1021, "float4", VALUE_FLOAT},
    {701, 1022, "float8", VALUE_FLOAT},
    {718, 719, "circle", VALUE_TEXT},
    {774, 775, "macaddr8", VALUE_TEXT},
    {790, 791, "money", VALUE_TEXT},
    {829, 1040, "macaddr", VALUE_TEXT},
    {869, 1041, "inet", VALUE_TEXT},
    {1033, 1034, "aclitem", VALUE_TEXT},
    {1042, 1014, "bpchar", VALUE_TEXT},
    {1043, 1015, "varchar", VALUE_TEXT},
    {1082, 1182, "date", VALUE_TEXT},
    {1083, 1183, "time", VALUE_TEXT},
    {1114, 1115, "timestamp", VALUE_TIMESTAMP},
    {1184, 1185, "timestamptz", VALUE_TIMESTAMPTZ},
    {1186, 1187, "interval", VALUE_TEXT},
    {1266, 1270, "timetz", VALUE_TEXT},
    {1560, 1561, "bit", VALUE_TEXT},
    {1562, 1563, "varbit", VALUE_TEXT},
    {1700, 1231, "numeric", VALUE_TEXT},
    {1790, 2201, "refcursor", VALUE_TEXT},
    {2202, 2207, "regprocedure", VALUE_TEXT},
    {2203, 2208, "regoper", VALUE_TEXT},
    {2204, 2209, "regoperator", VALUE_TEXT},
    {2205, 2210, "regclass", VALUE_TEXT},
    {2206, 2211, "regtype", VALUE_TEXT},
    {2950, 2951, "uuid", VALUE_TEXT},
    {2970, 2949, "txid_snapshot", VALUE_TEXT},
    {3220, 3221, "pg_lsn", VALUE_TEXT},
    {3614, 3643, "tsvector", VALUE_TEXT},
    {3615, 3645, "tsquery", VALUE_TEXT},
    {3642, 3644, "gtsvector", VALUE_TEXT},
    {3734, 3735, "regconfig", VALUE_TEXT},
    {3769, 3770, "regdictionary", VALUE_TEXT},
    {3802, 3807, "jsonb", VALUE_JSON},
    {3904, 3905, "int4range", VALUE_TEXT},
    {3906, 3907, "numrange", VALUE_TEXT},
    {3908, 3909, "tsrange", VALUE_TEXT},
    {3910, 3911, "tstzrange", VALUE_TEXT},
    {3912, 3913, "daterange", VALUE_TEXT},
    {3926, 3927, "int8range", VALUE_TEXT},
    {4072, 4073, "jsonpath", VALUE_TEXT},
    {4089, 4090, "regnamespace", VALUE_TEXT},
    {4096, 4097, "regrole", VALUE_TEXT},
    {4191, 4192, "regcollation", VALUE_TEXT},
    {4451, 6150, "int4multirange", VALUE_TEXT},
    {4532, 6151, "nummultirange", VALUE_TEXT},
    {4533, 6152, "tsmultirange", VALUE_TEXT},
    {4534, 6153, "tstzmultirange", VALUE_TEXT},
    {4535, 6155, "datemultirange", VALUE_TEXT},
    {4536, 6157, "int8multirange", VALUE_TEXT},
    {5038, 5039, "pg_snapshot", VALUE_TEXT},
    {5069, 271, "xid8", VALUE_TEXT},
};

enum { BOX_OID = 603 };

/* What is known of a type that is not in the table. */
struct known {
    bool settled; /* from pg_type, or the alias of a built-in type */
    uint32_t elem, base;
    char delim;
    char *name;  /* "schema.name", owned */
    size_t bare; /* where the name begins in it */
};

static const struct builtin *find_builtin(uint32_t oid)
{
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++)
        if (builtins[i].oid == oid || builtins[i].array == oid)
            return oid ? &builtins[i] : NULL;
    return NULL;
}

/* The OID of a type of pg_catalog by its name, where "_int4" is the array of int4; 0: not in the
 * table. */
static uint32_t builtin_oid(const char *name)
{
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++) {
        if (strcmp(name, builtins[i].name) == 0)
            return builtins[i].oid;
        if (name[0] == '_' && strcmp(name + 1, builtins[i].name) == 0)
            return builtins[i].array;
    }
    return 0;
}

static struct known *find_known(const struct types *t, uint32_t oid)
{
    return map_get(&t->by_oid, &oid, sizeof oid);
}

static void known_free(struct known *k)
{
    if (!k)
        return;
    free(k->name);
    free(k);
}

void types_done(struct types *t)
{
    size_t at = 0;
    void *k;

    while (map_next(&t->by_oid, &at, NULL, &k))
        known_free(k);
    map_done(&t->by_oid);
}

/* "schema.name", or the bare name of what is in pg_catalog. */
static char *join_name(const char *schema, const char *name, size_t *ret_bare)
{
    struct buf b = {0};
    size_t bare = 0;

    if (schema[0] && strcmp(schema, "pg_catalog") != 0) {
        buf_puts(&b, schema);
        buf_putc(&b, '.');
        bare = b.len;
    }
    buf_puts(&b, name);
    *ret_bare = bare;
    return buf_take(&b);
}

/* Replace what is known of oid; the row's schema is "" for pg_catalog. */
static int keep(struct types *t, const struct types_row *row, bool settled)
{
    struct known *old = find_known(t, row->oid), *k;

    if (!old && t->by_oid.n >= TYPES_MAX)
        return MUSTER_EAGAIN;
    k = calloc(1, sizeof *k);
    if (!k)
        return MUSTER_ENOMEM;
    *k = (struct known){
        .settled = settled, .elem = row->elem, .base = row->base, .delim = row->delim};
    k->name = join_name(row->schema, row->name, &k->bare);
    if (!k->name || !map_put(&t->by_oid, &row->oid, sizeof row->oid, k)) {
        known_free(k);
        return MUSTER_ENOMEM;
    }
    known_free(old);
    return 0;
}

/* An alias of a built-in type needs no pg_type: whatever lies between it and its base does not
 * change its text. */
int types_said(struct types *t, uint32_t oid, const char *schema, const char *name)
{
    uint32_t alias = schema[0] ? 0 : builtin_oid(name);
    const struct known *old = find_known(t, oid);
    struct types_row row = {
        .oid = oid, .base = alias, .delim = ',', .schema = schema, .name = name};

    if (find_builtin(oid) || (old && old->settled))
        return 0;
    return keep(t, &row, alias != 0);
}

int types_learn(struct types *t, const struct types_row *row)
{
    if (find_builtin(row->oid))
        return 0;
    return keep(t, row, true);
}

/* An array for sure, or by the underscore its name begins with. */
static bool is_array(const struct known *k)
{
    return k->settled ? k->elem != 0 : k->name[k->bare] == '_';
}

/* Follow domains to what they rest on. NULL: built in, or nothing is known; *oid says of which
 * type. */
static const struct known *follow(const struct types *t, uint32_t *oid)
{
    const struct known *k = NULL;

    for (size_t i = 0; i < CHAIN_MAX; i++) {
        k = find_builtin(*oid) ? NULL : find_known(t, *oid);
        if (!k || !k->base)
            return k;
        *oid = k->base;
    }
    return k;
}

/* Domains lead to bases, arrays to elements: the first on the way that nothing settles is the
 * answer. */
uint32_t types_missing(const struct types *t, uint32_t oid)
{
    for (size_t i = 0; i < CHAIN_MAX; i++) {
        const struct known *k = follow(t, &oid);

        if (find_builtin(oid))
            return 0;
        if (!k || !k->settled)
            return oid;
        if (!k->elem)
            return 0;
        oid = k->elem;
    }
    return 0;
}

/* Of a type that find_builtin() knows. */
static struct value_type builtin_value(uint32_t oid)
{
    const struct builtin *b = find_builtin(oid);

    return (struct value_type){
        .kind = b->kind, .array = b->array == oid, .delim = b->oid == BOX_OID ? ';' : ','};
}

struct value_type types_value(const struct types *t, uint32_t oid)
{
    const struct known *k = follow(t, &oid);
    struct value_type v = {.kind = VALUE_TEXT, .delim = ','};
    uint32_t elem;

    if (find_builtin(oid))
        return builtin_value(oid);
    if (!k)
        return v;
    v.delim = k->delim;
    v.array = is_array(k);
    elem = k->elem;
    if (v.array && elem) {
        (void)follow(t, &elem); /* only where it leads counts */
        /* An array whose elements are a domain over arrays keeps them as texts. */
        if (find_builtin(elem) && !builtin_value(elem).array)
            v.kind = builtin_value(elem).kind;
    }
    return v;
}

/* The name of an array is its element's with brackets, or where that is not known its own without
 * the underscore. */
static void put_array_name(const struct types *t, const struct known *k, struct buf *b)
{
    uint32_t elem = k->elem;
    const struct known *of = elem ? follow(t, &elem) : NULL;

    if (elem && find_builtin(elem)) {
        types_put_name(t, elem, b);
    } else if (of) {
        buf_puts(b, of->name);
    } else {
        buf_put(b, k->name, k->bare);
        buf_puts(b, k->name + k->bare + (k->name[k->bare] == '_'));
    }
    buf_put_lit(b, "[]");
}

void types_put_name(const struct types *t, uint32_t oid, struct buf *b)
{
    const struct known *k = follow(t, &oid);
    const struct builtin *in = find_builtin(oid);

    if (in) {
        buf_puts(b, in->name);
        if (in->array == oid)
            buf_put_lit(b, "[]");
    } else if (!k) {
        buf_put_lit(b, "oid ");
        buf_put_u64(b, oid);
    } else if (is_array(k)) {
        put_array_name(t, k, b);
    } else {
        buf_puts(b, k->name);
    }
}
