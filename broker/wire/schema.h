/*
 * wire/schema.h - definitions of bodies: loaded from text, and checked against decoded bodies.
 *
 * Text     One service a text: schemas/messages/<service>.yaml, turned into the same structure in
 *          JSON by the build, because that is what a plugin gives in struct muster_service.schema;
 *          the broker's plugins and third parties use one path.
 *            service: presence           the subject token
 *            doc: ...
 *            types:  {<type>: {doc, fields: {...}} or "<field text>"}
 *            verbs:  {<verb>: {doc, request, reply, write, paged, access, user}}
 *            events: {<event>: {doc, key, body}}          published on evt.<service>.<event>.<key>
 *            messages: {<name>: {doc, subject, body}}     said on a subject of its own
 *            limits: {<name>: <doc>}                      objects that a tenant may have a number of
 *          request, reply and body are a map of fields, or one field text; left out they are an
 *          empty map. `write: true` adds request_id? to the request; `paged: true` adds limit? and
 *          after? to the request, and next?, epoch and seq to the reply. `access:` read, write
 *          (where nothing is said), human or admin is what a role must be allowed for it, and
 *          `user: true` lets role user ask, too (auth/access.h).
 * Fields   Written as INTERFACE 4 writes them: a name, with `?` when it may be missing, and one
 *          text:
 *            <type>[ [] | {} ][ or null][ <min>..<max>][ = <default>][ - <what it means>]
 *          The type is bool, int, float, str, name (INTERFACE 1), time (RFC 3339 UTC), any, choices
 *          (low|medium|high), or a type of the same text or of the core's. `[]` is a list of it,
 *          `{}` a map of names to it. The range bounds a number's value, a string's bytes, or the
 *          count of a list or map; both ends are whole numbers and may be left out.
 * Strict   Requests are checked strictly: an unknown field is refused with the names that there
 *          are, because a misspelt option that is ignored does the wrong thing silently. Events and
 *          replies are read leniently, because they grow. null is not the same as a field left out,
 *          except where the text says "or null".
 * Errors   0, MUSTER_ENOMEM, or MUSTER_EINVAL with the field, what came and what was expected.
 * Memory   A schema owns all it points to; schema_free(). Read-only after loading, from any thread.
 */
#ifndef MUSTER_WIRE_SCHEMA_H
#define MUSTER_WIRE_SCHEMA_H

#include <stdbool.h>

#include "wire/text.h"
#include "wire/value.h"

enum {
    SCHEMA_BOOL,
    SCHEMA_INT,
    SCHEMA_FLOAT,
    SCHEMA_STR,
    SCHEMA_NAME,
    SCHEMA_TIME,
    SCHEMA_ANY,
    SCHEMA_ENUM,
    SCHEMA_REF
};
enum { SCHEMA_ONE, SCHEMA_LIST, SCHEMA_MAP };
enum { SCHEMA_WRITE, SCHEMA_READ, SCHEMA_HUMAN, SCHEMA_ADMIN, SCHEMA_ACCESSES }; /* what a verb needs */

struct schema_type;

struct schema_field {
    struct text name, doc, def;    /* def.s NULL: none */
    struct text choices;           /* ENUM: "low|medium|high" */
    const struct schema_type *ref; /* REF */
    int64_t min, max;              /* INT64_MIN, INT64_MAX: unbounded */
    uint8_t kind, shape;
    bool optional, nullable;
};

struct schema_type {
    const char *name, *doc; /* name NULL: of one message only; doc may be NULL */
    struct schema_field *fields;
    size_t n_fields;
    bool alias; /* fields[0], which has no name, says what it stands for */
};

/* A verb, an event, a message or a limit. */
struct schema_entry {
    const char *name, *doc;
    const char *key;     /* of an event: what its key is */
    const char *subject; /* of a message: with {root}, {tenant} and so on for what varies */
    struct schema_type body, reply; /* body: the request of a verb; reply: of a verb */
    int access;                     /* of a verb: SCHEMA_WRITE and so on */
    bool user;                      /* of a verb: role user may ask */
    const char *object;             /* of a verb: the field that names what it is about; NULL: <service>_id or id */
};

struct schema_list {
    struct schema_entry *items;
    size_t n;
};

struct schema {
    const char *service, *doc;
    struct schema_type *types;
    size_t n_types;
    struct schema_list verbs, events, messages, limits;
    const struct schema *base; /* where types are looked up next; NULL for the core's own */
    struct muster_value *tree; /* owns all strings */
};

/* The broker's own definitions, schemas/messages/core.yaml. Loaded once. */
const struct schema *schema_core(void);
/* Load a definition in JSON. base: usually schema_core(). */
int schema_load(const char *text, const struct schema *base, struct schema **ret_schema,
                struct wire_error *err);
void schema_free(struct schema *schema);

/* NULL: no such entry. */
const struct schema_entry *schema_find(const struct schema_list *list, const char *name);

enum { SCHEMA_LENIENT = 0, SCHEMA_STRICT = 1 };
/* Check a decoded body against entry->body or entry->reply. */
int schema_check(const struct schema_type *type, const struct muster_value *body, int strict,
                 struct wire_error *err);

/* "write", of SCHEMA_WRITE. */
const char *schema_access_name(int access);

/* True when word is one of choices ("a|b|c"). */
bool schema_is_choice(struct text choices, struct text word);

#define SCHEMA_SENTENCE_SIZE 320
/* What a field takes, for sentences: "a list of 1 to 64 strings". Returns out. */
const char *schema_describe(const struct schema_field *f, char out[SCHEMA_SENTENCE_SIZE]);

#endif
