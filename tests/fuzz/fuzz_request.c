/*
 * Requests of the services task, help, run and event, from their bytes to what the database's function is given: what a definition lets through is what is
 * given, with the caller's role as the broker knows it, and the text of what can be kept has no number that would be thousands of digits there.
 * The first byte says which verb, the second in which encoding the rest is.
 */
#include <stdlib.h>
#include <string.h>

#include "../unit/wire_same.h"
#include "base/assert.h"
#include "common/work/ask.h"
#include "common/work/storable.h"
#include "schemas/event.h"
#include "schemas/help.h"
#include "schemas/run.h"
#include "schemas/task.h"
#include "wire/schema.h"

extern const struct work_verb task_verbs[], help_verbs[], run_verbs[], event_verbs[];
extern const size_t n_task_verbs, n_help_verbs, n_run_verbs, n_event_verbs;

enum { SERVICES = 4 };
static const char *const texts[SERVICES] = {muster_schema_task, muster_schema_help, muster_schema_run, muster_schema_event};
static const struct schema *definitions[SERVICES];

static const struct schema *definition(size_t i)
{
    struct schema *schema = NULL;
    struct wire_error err;

    if (!definitions[i] && schema_load(texts[i], schema_core(), &schema, &err) != 0)
        abort();
    if (schema)
        definitions[i] = schema;
    return definitions[i];
}

static const struct work_verb *verb_of(uint8_t byte, const struct schema_entry **ret_entry)
{
    const struct work_verb *const verbs[SERVICES] = {task_verbs, help_verbs, run_verbs, event_verbs};
    const size_t counts[SERVICES] = {n_task_verbs, n_help_verbs, n_run_verbs, n_event_verbs};
    size_t at = byte;

    for (size_t i = 0;; i = (i + 1) % SERVICES) {
        if (at < counts[i]) {
            *ret_entry = schema_find(&definition(i)->verbs, verbs[i][at].verb);
            return &verbs[i][at];
        }
        at -= counts[i];
    }
}

static size_t is_added(const struct muster_value *given, const char *key, const struct muster_value *args)
{
    return value_get(given, key) && !value_get(args, key);
}

static void given(const struct ask *a)
{
    struct buf out = {0};
    struct muster_value *doc = NULL;
    struct wire_error err;
    const char *key, *role;

    ask_args(a, &out);
    ASSERT(!buf_failed(&out));
    ASSERT(value_decode_any(MUSTER_JSON, bytes_of(&out), &doc, &err) == 0 || out.len > WIRE_MAX_BODY);
    if (doc) {
        role = text_in(doc, "role");
        ASSERT(!(a->verb->flags & WORK_ROLE) || (role && strcmp(role, "agent") == 0));
        ASSERT(value_count(doc) == value_count(a->args) + is_added(doc, "role", a->args) + is_added(doc, "limit", a->args));
        for (size_t i = 0; i < value_count(a->args); i++) {
            const struct muster_value *v = value_key(a->args, i, &key, NULL);

            ASSERT(value_get(doc, key) && same_tree(v, value_get(doc, key)));
        }
    }
    value_free(doc);
    buf_done(&out);
}

static unsigned int levels(const struct muster_value *v)
{
    bool map = value_type(v) == MUSTER_MAP;
    unsigned int deepest = 0;
    const char *key;

    if (!map && value_type(v) != MUSTER_ARRAY)
        return 0;
    for (size_t i = 0; i < value_count(v); i++) {
        unsigned int n = levels(map ? value_key(v, i, &key, NULL) : value_at(v, i));

        deepest = n > deepest ? n : deepest;
    }
    return deepest + 1;
}

static void kept(const struct muster_value *args)
{
    char field[STORABLE_FIELD_SIZE] = "", why[STORABLE_WHY_SIZE] = "";

    if (storable(args, field, why))
        ASSERT(levels(args) <= STORABLE_LEVELS);
    else
        ASSERT(why[0] && !strchr(why, '\n'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct schema_entry *entry;
    struct muster_msg msg = {.size = sizeof msg, .agent = "ann", .role = MUSTER_ROLE_AGENT};
    struct ask a = {.msg = &msg};
    struct wire_error err;

    if (size < 3) /* the broker makes {} of nothing */
        return 0;
    a.verb = verb_of(data[0], &entry);
    ASSERT(entry);
    msg.encoding = data[1] & 1 ? MUSTER_MSGPACK : MUSTER_JSON;
    msg.payload = (struct muster_bytes){data + 2, size - 2};
    if (value_decode(msg.encoding, msg.payload, &a.args, &err) != 0)
        return 0;
    if (schema_check(&entry->body, a.args, SCHEMA_STRICT, &err) == 0) {
        kept(a.args);
        given(&a);
    } else {
        ASSERT(err.text[0] && !strchr(err.text, '\n'));
    }
    value_free(a.args);
    return 0;
}
