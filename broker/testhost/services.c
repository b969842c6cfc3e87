/* The definitions of what the plugin answers, judged as the broker does when it loads a plugin. */
#include <string.h>

#include "base/name.h"
#include "testhost/inside.h"

static bool next_word(const char **list, struct text *ret_word)
{
    const char *s = *list + strspn(*list, " ");
    size_t len = strcspn(s, " ");

    *ret_word = (struct text){s, len};
    *list = s + len;
    return len > 0;
}

static bool lists(const struct muster_service *service, struct text verb)
{
    const char *list = service->verbs;
    struct text word;

    while (next_word(&list, &word))
        if (word.len == verb.len && memcmp(word.s, verb.s, verb.len) == 0)
            return true;
    return false;
}

static void check_verbs(struct muster_test *t, const struct service *s)
{
    const char *list = s->how->verbs;
    struct text verb;

    while (next_word(&list, &verb)) {
        char name[NAME_MAX_LEN + 1] = "";

        if (!name_is_public(verb.s, verb.len)) {
            fail_test(t, "service %s: verb \"%.*s\": expected 1 to 64 letters, digits, _ or -", s->how->name, (int)verb.len, verb.s);
            continue;
        }
        if (lists(&(struct muster_service){.verbs = list}, verb))
            fail_test(t, "service %s: verb %.*s is there twice", s->how->name, (int)verb.len, verb.s);
        memcpy(name, verb.s, verb.len);
        if (s->schema && !schema_find(&s->schema->verbs, name))
            fail_test(t, "service %s: its definition lacks verb %s", s->how->name, name);
    }
    for (size_t i = 0; s->schema && i < s->schema->verbs.n; i++)
        if (!lists(s->how, text_of(s->schema->verbs.items[i].name)))
            fail_test(t, "service %s: its definition has verb %s, expected one of \"%s\"", s->how->name,
                      s->schema->verbs.items[i].name, s->how->verbs);
}

static bool is_named(const struct muster_service *how)
{
    return MUSTER_HAS(how, schema) && how->name && name_is_public(how->name, strlen(how->name)) && how->verbs;
}

static void load(struct muster_test *t, const struct muster_service *how)
{
    struct service *s = must_alloc(sizeof *s);
    struct wire_error err;

    s->how = how;
    list_add(&t->services, s);
    if (how->schema && schema_load(how->schema, schema_core(), &s->schema, &err) != 0) {
        s->schema = NULL;
        fail_test(t, "service %s: its definition: %.300s", how->name, err.text);
        return;
    }
    if (s->schema && strcmp(s->schema->service, how->name) != 0)
        fail_test(t, "service %s: its definition is of service %s", how->name, s->schema->service);
    check_verbs(t, s);
}

void services_load(struct muster_test *t)
{
    const char *at = (const char *)t->plugin->services;

    for (uint32_t i = 0; i < t->plugin->n_services; i++, at += t->plugin->service_size) {
        const struct muster_service *how = (const struct muster_service *)(const void *)at;

        if (is_named(how))
            load(t, how);
        else
            fail_test(t, "service %u: expected size, a name of letters, digits, _ or -, and verbs", i);
    }
}

void services_done(struct muster_test *t)
{
    for (size_t i = 0; i < t->services.n; i++) {
        struct service *s = t->services.items[i];

        schema_free(s->schema);
        free(s);
    }
    list_done(&t->services);
}

const struct schema_entry *services_verb(struct muster_test *t, struct text service, struct text verb)
{
    char name[NAME_MAX_LEN + 1];

    if (verb.len >= sizeof name)
        return NULL;
    memcpy(name, verb.s, verb.len);
    name[verb.len] = '\0';
    for (size_t i = 0; i < t->services.n; i++) {
        const struct service *s = t->services.items[i];

        if (s->schema && text_is(service, s->how->name))
            return schema_find(&s->schema->verbs, name);
    }
    return NULL;
}
