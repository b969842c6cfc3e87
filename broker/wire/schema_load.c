/* Definitions from their text; see schema.h. */
#include <muster/plugin.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/name.h"
#include "schemas/core.h"
#include "wire/schema.h"

enum { MAX_DIGITS = 18 }; /* of a bound, so that it fits int64 */

struct load {
    struct schema *schema;
    struct wire_error *err;
};

static const char *const kind_words[] = {"bool", "int", "float", "str", "name", "time", "any"};

static const char request_id_text[] =
    "str 1..128 - Makes the request safe to repeat: for 24 hours the same id with the same "
    "body gets the first answer, with another body already_exists.";
static const char limit_text[] = "int 1..1000 = 100 - How many at most.";
static const char after_text[] = "str - The next of the previous answer.";
static const char next_text[] = "str - Where the next page begins; missing on the last one.";
static const char epoch_text[] = "int - Of the service's events.";
static const char seq_text[] = "int - Events after this one complete the list.";

static int add_fields(struct load *l, const struct place *at, const struct muster_value *map,
                      struct schema_type *type);

/* Refuse the text of a string: it, and what should stand there. */
static int refuse(struct load *l, const struct place *at, struct text came, const char *expected)
{
    char shown[TEXT_QUOTE_SIZE];

    return place_refuse(l->err, at, "%s came, expected %s", text_quote(came.s, came.len, shown),
                        expected);
}

/* A text being read from left to right. */
struct words {
    const char *p, *end;
};

/* YAML folds lines with blanks or newlines. */
static void skip_spaces(struct words *w)
{
    while (w->p < w->end && (*w->p == ' ' || *w->p == '\n'))
        w->p++;
}

/* What stands up to a blank or one of stops. */
static struct text take_word(struct words *w, const char *stops)
{
    struct text word = {w->p, 0};

    while (w->p < w->end && *w->p != ' ' && *w->p != '\n' && !strchr(stops, *w->p))
        w->p++;
    word.len = (size_t)(w->p - word.s);
    return word;
}

/* True when the text goes on with literal, which is skipped then. */
static bool take(struct words *w, const char *literal)
{
    size_t len = strlen(literal);

    if ((size_t)(w->end - w->p) < len || memcmp(w->p, literal, len) != 0)
        return false;
    w->p += len;
    return true;
}

/* Own types come before the core's, so a service may have a position of its own. */
static const struct schema_type *find_type(const struct schema *s, struct text name)
{
    for (; s; s = s->base)
        for (size_t i = 0; i < s->n_types; i++)
            if (text_is(name, s->types[i].name))
                return &s->types[i];
    return NULL;
}

/* What no other rule takes is the name of a type. */
static int parse_kind(struct load *l, const struct place *at, struct text word,
                      struct schema_field *f)
{
    for (f->kind = SCHEMA_BOOL; f->kind <= SCHEMA_ANY; f->kind++)
        if (text_is(word, kind_words[f->kind]))
            return 0;
    if (memchr(word.s, '|', word.len)) {
        f->kind = SCHEMA_ENUM;
        f->choices = word;
        return 0;
    }
    f->kind = SCHEMA_REF;
    f->ref = find_type(l->schema, word);
    if (!f->ref)
        return refuse(l, at, word,
                      "bool, int, float, str, name, time, any, choices (a|b), or a defined type");
    return 0;
}

/* One end of a range; `none` when it is left out. */
static bool parse_bound(struct text digits, int64_t none, int64_t *ret_bound)
{
    bool negative = digits.len && digits.s[0] == '-';
    int64_t v = 0;

    if (digits.len == 0) {
        *ret_bound = none;
        return true;
    }
    if (digits.len == (size_t)negative || digits.len > MAX_DIGITS)
        return false;
    for (size_t i = negative; i < digits.len; i++) {
        if (digits.s[i] < '0' || digits.s[i] > '9')
            return false;
        v = v * 10 + (digits.s[i] - '0');
    }
    *ret_bound = negative ? -v : v;
    return true;
}

/* The range of a list or map is its count, whatever its elements are. */
static bool has_range(const struct schema_field *f)
{
    return f->shape != SCHEMA_ONE || f->kind == SCHEMA_INT || f->kind == SCHEMA_FLOAT ||
           f->kind == SCHEMA_STR;
}

static int parse_range(struct load *l, const struct place *at, struct text word,
                       struct schema_field *f)
{
    const char *dots = memmem(word.s, word.len, "..", 2);
    struct text low, high;

    if (!dots)
        return refuse(l, at, word,
                      "\"or null\", a range (1..64), a default (= 5) or a text (- what it means)");
    if (!has_range(f))
        return refuse(l, at, word, "no range, which only numbers, strings, lists and maps have");
    low = (struct text){word.s, (size_t)(dots - word.s)};
    high = (struct text){dots + 2, word.len - low.len - 2};
    if (!parse_bound(low, INT64_MIN, &f->min) || !parse_bound(high, INT64_MAX, &f->max) ||
        f->min > f->max)
        return refuse(l, at, word, "a range such as 1..64, ..64 or 1..");
    return 0;
}

bool schema_is_choice(struct text choices, struct text word)
{
    const char *p = choices.s, *end = p + choices.len;

    while (p <= end) {
        const char *bar = memchr(p, '|', (size_t)(end - p));
        size_t len = (size_t)((bar ? bar : end) - p);

        if (len == word.len && memcmp(p, word.s, len) == 0)
            return true;
        p += len + 1;
    }
    return false;
}

/* The default is for documents: the plugin applies it. It is checked, so that documents do not lie.
 */
static int parse_default(struct load *l, const struct place *at, struct text word,
                         struct schema_field *f)
{
    int64_t v;

    f->def = word;
    if (!f->optional || f->shape != SCHEMA_ONE)
        return refuse(l, at, word,
                      "no default, which only single fields with a '?' behind their name have");
    if (f->kind == SCHEMA_ENUM && !schema_is_choice(f->choices, word))
        return refuse(l, at, word, "a default that is one of the choices");
    if (f->kind == SCHEMA_BOOL && !text_is(word, "true") && !text_is(word, "false"))
        return refuse(l, at, word, "true or false");
    if (f->kind == SCHEMA_INT &&
        (!word.len || !parse_bound(word, 0, &v) || v < f->min || v > f->max))
        return refuse(l, at, word, "a whole number within the range");
    return 0;
}

/* The grammar of schema.h, from left to right. f->optional is set. */
static int parse_field(struct load *l, const struct place *at, struct text text,
                       struct schema_field *f)
{
    struct words w = {text.s, text.s + text.len};
    int err = parse_kind(l, at, take_word(&w, "[{"), f);

    if (err)
        return err;
    f->min = INT64_MIN;
    f->max = INT64_MAX;
    f->shape = take(&w, "[]") ? SCHEMA_LIST : take(&w, "{}") ? SCHEMA_MAP : SCHEMA_ONE;
    skip_spaces(&w);
    f->nullable = take(&w, "or null");
    skip_spaces(&w);
    if (w.p < w.end && *w.p != '=' && !(*w.p == '-' && w.p + 1 < w.end && w.p[1] == ' '))
        err = parse_range(l, at, take_word(&w, ""), f);
    skip_spaces(&w);
    if (!err && take(&w, "= "))
        err = parse_default(l, at, take_word(&w, ""), f);
    skip_spaces(&w);
    if (!err && take(&w, "- ")) {
        f->doc = (struct text){w.p, (size_t)(w.end - w.p)};
        w.p = w.end;
    }
    if (!err && w.p < w.end)
        return refuse(l, at, (struct text){w.p, (size_t)(w.end - w.p)},
                      "the end of the field, or a text (- what it means)");
    return err;
}

/* at is the place of the field, so its key is the name. */
static int parse_named(struct load *l, const struct place *at, struct text text,
                       struct schema_type *type)
{
    struct schema_field *f = &type->fields[type->n_fields];
    struct text name = {at->key, at->n};

    if (name.len && name.s[name.len - 1] == '?') {
        f->optional = true;
        name.len--;
    }
    if (!name_is_legal(name.s, name.len))
        return refuse(
            l, at, name,
            "the name of a field ([A-Za-z0-9_-]{1,64}, then '?' where it may be missing)");
    for (size_t i = 0; i < type->n_fields; i++)
        if (type->fields[i].name.len == name.len &&
            memcmp(type->fields[i].name.s, name.s, name.len) == 0)
            return refuse(l, at, name, "a field that is not there yet");
    f->name = name;
    type->n_fields++;
    return parse_field(l, at, text, f);
}

static int add_fields(struct load *l, const struct place *at, const struct muster_value *map,
                      struct schema_type *type)
{
    int err = 0;

    for (size_t i = 0; !err && i < value_count(map); i++) {
        struct place here = {.up = at};
        struct text text;
        const struct muster_value *v = value_key(map, i, &here.key, &here.n);

        text.s = value_str(v, &text.len);
        if (!text.s)
            return place_refuse(l->err, &here,
                                "%s came, expected the text of a field (str 1..64 - what it means)",
                                value_kind(v));
        err = parse_named(l, &here, text, type);
    }
    return err;
}

/* v: NULL, a map of fields, or one text. Room for `extra` more fields is made. */
static int parse_type(struct load *l, const struct place *at, const struct muster_value *v,
                      size_t extra, struct schema_type *type)
{
    int kind = v ? value_type(v) : MUSTER_MAP;
    size_t n = v && kind == MUSTER_MAP ? value_count(v) : 1;
    struct text text;

    if (kind != MUSTER_MAP && kind != MUSTER_STR)
        return place_refuse(l->err, at, "%s came, expected a map of fields, or one text",
                            value_kind(v));
    type->fields = calloc(n + extra + 1, sizeof *type->fields);
    if (!type->fields)
        return MUSTER_ENOMEM;
    if (!v || kind == MUSTER_MAP)
        return v ? add_fields(l, at, v, type) : 0;
    if (extra)
        return place_refuse(
            l->err, at,
            "one text came, expected a map of fields, because write or paged adds to it");
    type->alias = true;
    type->n_fields = 1;
    text.s = value_str(v, &text.len);
    return parse_field(l, at, text, &type->fields[0]);
}

/* text is one of the constants above. */
static int add_known(struct load *l, const char *name, const char *text, struct schema_type *type)
{
    struct place here = {.key = name, .n = strlen(name)};

    return parse_named(l, &here, text_of(text), type);
}

/* The fields that `write` and `paged` stand for. */
static int add_common(struct load *l, bool write, bool paged, struct schema_entry *e)
{
    int err = write ? add_known(l, "request_id?", request_id_text, &e->body) : 0;

    if (!paged || err)
        return err;
    err = add_known(l, "limit?", limit_text, &e->body);
    if (!err)
        err = add_known(l, "after?", after_text, &e->body);
    if (!err)
        err = add_known(l, "next?", next_text, &e->reply);
    if (!err)
        err = add_known(l, "epoch", epoch_text, &e->reply);
    return err ? err : add_known(l, "seq", seq_text, &e->reply);
}

/* Every key of map is one of the words in `known`, which are separated by blanks. */
static int check_words(struct load *l, const struct place *at, const struct muster_value *map,
                       const char *known)
{
    if (value_type(map) != MUSTER_MAP)
        return place_refuse(l->err, at, "%s came, expected a map of %s", value_kind(map), known);
    for (size_t i = 0; i < value_count(map); i++) {
        struct words w = {known, known + strlen(known)};
        struct text key = {0}, word;
        const char *name;

        (void)value_key(map, i, &name, &key.len); /* i is below the count */
        key.s = name;
        do {
            skip_spaces(&w);
            word = take_word(&w, "");
        } while (word.len && (word.len != key.len || memcmp(word.s, key.s, key.len) != 0));
        if (!word.len)
            return refuse(l, at, key, known);
    }
    return 0;
}

/* A string member; *ret_s stays as it is when it is missing. */
static int get_text(struct load *l, const struct place *at, const struct muster_value *map,
                    const char *key, const char **ret_s)
{
    struct place here = {.up = at, .key = key, .n = strlen(key)};
    const struct muster_value *v = value_get(map, key);

    if (v && value_type(v) != MUSTER_STR)
        return place_refuse(l->err, &here, "%s came, expected a string", value_kind(v));
    if (v)
        *ret_s = value_str(v, NULL);
    return 0;
}

/* Missing is false. */
static bool is_true(const struct muster_value *map, const char *key)
{
    const struct muster_value *v = value_get(map, key);

    return v && value_int(v);
}

static const char *const access_names[SCHEMA_ACCESSES] = {
    [SCHEMA_WRITE] = "write", [SCHEMA_READ] = "read", [SCHEMA_HUMAN] = "human", [SCHEMA_ADMIN] = "admin"};

const char *schema_access_name(int access)
{
    return access_names[access];
}

/* Missing is write: what nobody has thought about is not open to those who only read. */
static int get_access(struct load *l, const struct place *at, const struct muster_value *map,
                      int *ret_access)
{
    struct place here = {.up = at, .key = "access", .n = 6};
    const char *word = NULL;
    int err = get_text(l, at, map, "access", &word);

    if (err || !word)
        return err;
    for (int i = 0; i < SCHEMA_ACCESSES; i++)
        if (strcmp(word, access_names[i]) == 0) {
            *ret_access = i;
            return 0;
        }
    return refuse(l, &here, text_of(word), "read, write, human or admin");
}

/* Who may ask is not left to what a slip happens to mean. */
static int get_bool(struct load *l, const struct place *at, const struct muster_value *map,
                    const char *key, bool *ret_value)
{
    struct place here = {.up = at, .key = key, .n = strlen(key)};
    const struct muster_value *v = value_get(map, key);

    if (v && value_type(v) != MUSTER_BOOL)
        return place_refuse(l->err, &here, "%s came, expected true or false", value_kind(v));
    if (v)
        *ret_value = value_int(v);
    return 0;
}

/* The place of a member, kept in *here. */
static const struct place *below(struct place *here, const struct place *at, const char *key)
{
    *here = (struct place){.up = at, .key = key, .n = strlen(key)};
    return here;
}

static bool has_field(const struct schema_type *type, const char *name)
{
    for (size_t i = 0; i < type->n_fields; i++)
        if (type->fields[i].name.len == strlen(name) && memcmp(type->fields[i].name.s, name, type->fields[i].name.len) == 0)
            return true;
    return false;
}

/* A field of the request or of the reply, or it would never be found. */
static int get_object(struct load *l, const struct place *at, const struct muster_value *map, struct schema_entry *e)
{
    struct place here = {.up = at, .key = "object", .n = 6};
    int err = get_text(l, at, map, "object", &e->object);

    if (err || !e->object || has_field(&e->body, e->object) || has_field(&e->reply, e->object))
        return err;
    return refuse(l, &here, text_of(e->object), "a field of the request or of the reply");
}

/* Room for three more fields is enough for request_id, or limit and after; write and paged together
 * too. */
static int parse_verb(struct load *l, const struct place *at, const struct muster_value *v,
                      struct schema_entry *e)
{
    bool write = is_true(v, "write"), paged = is_true(v, "paged");
    struct place here;
    int err = check_words(l, at, v, "doc request reply write paged access user object");

    if (!err)
        err = parse_type(l, below(&here, at, "request"), value_get(v, "request"),
                         3u * (write || paged), &e->body);
    if (!err)
        err =
            parse_type(l, below(&here, at, "reply"), value_get(v, "reply"), 3u * paged, &e->reply);
    if (!err)
        err = add_common(l, write, paged, e);
    if (!err)
        err = get_access(l, at, v, &e->access);
    if (!err)
        err = get_bool(l, at, v, "user", &e->user);
    if (!err)
        err = get_object(l, at, v, e);
    return err ? err : get_text(l, at, v, "doc", &e->doc);
}

/* What events and messages have in common. */
static int parse_said(struct load *l, const struct place *at, const struct muster_value *v,
                      struct schema_entry *e)
{
    struct place here;
    int err = get_text(l, at, v, "doc", &e->doc);

    if (!err)
        err = get_text(l, at, v, "key", &e->key);
    if (!err)
        err = get_text(l, at, v, "subject", &e->subject);
    return err ? err : parse_type(l, below(&here, at, "body"), value_get(v, "body"), 0, &e->body);
}

static int parse_event(struct load *l, const struct place *at, const struct muster_value *v,
                       struct schema_entry *e)
{
    int err = check_words(l, at, v, "doc key body");

    if (!err)
        err = parse_said(l, at, v, e);
    if (!err && !e->key)
        return place_refuse(l->err, at,
                            "no key came, expected what the last token of the event's subject is");
    return err;
}

static int parse_message(struct load *l, const struct place *at, const struct muster_value *v,
                         struct schema_entry *e)
{
    int err = check_words(l, at, v, "doc subject body");

    if (!err)
        err = parse_said(l, at, v, e);
    if (!err && !e->subject)
        return place_refuse(l->err, at,
                            "no subject came, expected the subject that the message has");
    return err;
}

static int parse_limit(struct load *l, const struct place *at, const struct muster_value *v,
                       struct schema_entry *e)
{
    if (value_type(v) != MUSTER_STR)
        return place_refuse(l->err, at, "%s came, expected a string", value_kind(v));
    if (e->name[0] == '_')
        return place_refuse(l->err, at, "the name begins with _, which is reserved");
    e->doc = value_str(v, NULL);
    return 0;
}

typedef int (*entry_fn)(struct load *l, const struct place *at, const struct muster_value *v,
                        struct schema_entry *e);

static int parse_list(struct load *l, const char *key, entry_fn parse, struct schema_list *list)
{
    const struct muster_value *map = value_get(l->schema->tree, key);
    struct place top = {.key = key, .n = strlen(key)};
    int err = 0;

    if (!map)
        return 0;
    if (value_type(map) != MUSTER_MAP)
        return place_refuse(l->err, &top, "%s came, expected a map", value_kind(map));
    list->items = calloc(value_count(map) + 1, sizeof *list->items);
    if (!list->items)
        return MUSTER_ENOMEM;
    for (; !err && list->n < value_count(map);) {
        struct place here = {.up = &top};
        struct schema_entry *e = &list->items[list->n];
        const struct muster_value *v = value_key(map, list->n++, &e->name, &here.n);

        here.key = e->name;
        if (!name_is_legal(e->name, here.n))
            return refuse(l, &top, (struct text){e->name, here.n}, "a name ([A-Za-z0-9_-]{1,64})");
        err = parse(l, &here, v, e);
    }
    return err;
}

/* All names are there before any field is read, so that types may refer to each other. */
static int name_types(struct load *l, const struct place *at, const struct muster_value *map)
{
    struct schema *s = l->schema;

    s->types = calloc(value_count(map) + 1, sizeof *s->types);
    if (!s->types)
        return MUSTER_ENOMEM;
    for (; s->n_types < value_count(map); s->n_types++) {
        struct text name;

        (void)value_key(map, s->n_types, &s->types[s->n_types].name,
                        &name.len); /* below the count */
        name.s = s->types[s->n_types].name;
        if (!name_is_legal(name.s, name.len))
            return refuse(l, at, name, "a name ([A-Za-z0-9_-]{1,64})");
    }
    return 0;
}

static int parse_types(struct load *l)
{
    const struct muster_value *map = value_get(l->schema->tree, "types");
    struct place top = {.key = "types", .n = 5};
    int err;

    if (!map)
        return 0;
    if (value_type(map) != MUSTER_MAP)
        return place_refuse(l->err, &top, "%s came, expected a map", value_kind(map));
    err = name_types(l, &top, map);
    for (size_t i = 0; !err && i < l->schema->n_types; i++) {
        struct place here = {.up = &top}, fields;
        struct schema_type *type = &l->schema->types[i];
        const struct muster_value *v = value_key(map, i, &here.key, &here.n);

        if (value_type(v) == MUSTER_STR) {
            err = parse_type(l, &here, v, 0, type);
            continue;
        }
        err = check_words(l, &here, v, "doc fields");
        if (!err)
            err = get_text(l, &here, v, "doc", &type->doc);
        if (!err)
            err = parse_type(l, below(&fields, &here, "fields"), value_get(v, "fields"), 0, type);
    }
    return err;
}

/* An alias stands for something that is no alias, so that following one ends. */
static int check_aliases(struct load *l)
{
    for (size_t i = 0; i < l->schema->n_types; i++) {
        const struct schema_type *type = &l->schema->types[i];
        struct place top = {.key = "types", .n = 5},
                     here = {.up = &top, .key = type->name, .n = strlen(type->name)};

        if (type->alias && type->fields[0].kind == SCHEMA_REF && type->fields[0].ref->alias)
            return refuse(l, &here, text_of(type->fields[0].ref->name), "a type that has fields");
    }
    return 0;
}

/* Types first: the bodies of all others may refer to them. */
static int parse_schema(struct load *l)
{
    struct schema *s = l->schema;
    int err = check_words(l, NULL, s->tree, "service doc types verbs events messages limits");

    if (!err)
        err = get_text(l, NULL, s->tree, "service", &s->service);
    if (!err && (!s->service || !name_is_public(s->service, strlen(s->service))))
        return place_refuse(
            l->err, NULL,
            "no service or no legal name came, expected service: [A-Za-z0-9_-]{1,64}");
    if (!err)
        err = get_text(l, NULL, s->tree, "doc", &s->doc);
    if (!err)
        err = parse_types(l);
    if (!err)
        err = check_aliases(l);
    if (!err)
        err = parse_list(l, "verbs", parse_verb, &s->verbs);
    if (!err)
        err = parse_list(l, "events", parse_event, &s->events);
    if (!err)
        err = parse_list(l, "messages", parse_message, &s->messages);
    return err ? err : parse_list(l, "limits", parse_limit, &s->limits);
}

int schema_load(const char *text, const struct schema *base, struct schema **ret_schema,
                struct wire_error *err)
{
    struct load l = {.schema = calloc(1, sizeof *l.schema), .err = err};
    int code;

    if (!l.schema)
        return MUSTER_ENOMEM;
    l.schema->base = base;
    code =
        value_decode(MUSTER_JSON, (struct muster_bytes){text, strlen(text)}, &l.schema->tree, err);
    if (!code) {
        err->offset = WIRE_NO_OFFSET;
        code = parse_schema(&l);
    }
    if (code) {
        schema_free(l.schema);
        return code;
    }
    *ret_schema = l.schema;
    return 0;
}

static void free_list(struct schema_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->items[i].body.fields);
        free(list->items[i].reply.fields);
    }
    free(list->items);
}

void schema_free(struct schema *schema)
{
    if (!schema)
        return;
    for (size_t i = 0; i < schema->n_types; i++)
        free(schema->types[i].fields);
    free(schema->types);
    free_list(&schema->verbs);
    free_list(&schema->events);
    free_list(&schema->messages);
    free_list(&schema->limits);
    value_free(schema->tree);
    free(schema);
}

const struct schema_entry *schema_find(const struct schema_list *list, const char *name)
{
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i].name, name) == 0)
            return &list->items[i];
    return NULL;
}

static struct schema *core;

/* Its definition is part of the program, so a fault in it is a fault of the build. */
static void load_core(void)
{
    struct wire_error err;

    ASSERT(schema_load(muster_schema_core, NULL, &core, &err) == 0); /* the build has checked it */
}

const struct schema *schema_core(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    ASSERT(pthread_once(&once, load_core) == 0);
    return core;
}
