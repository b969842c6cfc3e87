/*
 * vault - a service with a verb of each access, and with objects that belong to tenants: vault.keep {id, text}, get {id}, look {id},
 * judge {id}, purge {id}. What the matrix tries of verbs it tries of these too, whatever other services there are.
 *
 * Threads  The lane. Bounds: MAX_OBJECTS, in memory.
 */
#include <muster/plugin.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OBJECTS = 1000, TEXT_SIZE = 128 };

struct object {
    const struct muster_tenant *tenant;
    char id[TEXT_SIZE], text[TEXT_SIZE];
};

struct vault {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_codec *codec;
    size_t n;
    struct object objects[MAX_OBJECTS];
};

static struct object *find(struct vault *v, const struct muster_tenant *tenant, const char *id)
{
    for (size_t i = 0; i < v->n; i++)
        if (v->objects[i].tenant == tenant && strcmp(v->objects[i].id, id) == 0)
            return &v->objects[i];
    return NULL;
}

/* Exactly one text: id or text, which the definition bounds. */
static void copy_text(const struct vault *v, const struct muster_value *args, const char *key, char out[TEXT_SIZE])
{
    const struct muster_value *value = v->codec->get(args, key);
    size_t len = 0;
    const char *text = value ? v->codec->as_str(value, &len) : "";

    memcpy(out, text, len < TEXT_SIZE ? len : TEXT_SIZE - 1);
    out[len < TEXT_SIZE ? len : TEXT_SIZE - 1] = '\0';
}

static int answer(struct vault *v, const struct muster_msg *msg, const struct object *object)
{
    struct muster_bytes body;
    struct muster_writer *w;
    int err;

    if (!object)
        return v->bus->reply_error(v->host, msg->request, "not_found", NULL, "there is no such object");
    err = v->codec->writer_new(v->host, msg->encoding, &w);
    if (err)
        return err;
    v->codec->put_map(w, 1);
    v->codec->put_str(w, "text", 4);
    v->codec->put_str(w, object->text, strlen(object->text));
    err = v->codec->bytes(w, &body);
    if (!err)
        err = v->bus->reply(v->host, msg->request, body);
    v->codec->writer_free(w);
    return err;
}

static struct object *keep(struct vault *v, const struct muster_tenant *tenant, const char id[TEXT_SIZE])
{
    struct object *object = find(v, tenant, id);

    if (!object && v->n < MAX_OBJECTS) {
        object = &v->objects[v->n++];
        object->tenant = tenant;
        memcpy(object->id, id, TEXT_SIZE);
    }
    return object;
}

static int on_request(void *self, const struct muster_msg *msg)
{
    struct vault *v = self;
    struct muster_value *args;
    struct object *object;
    char id[TEXT_SIZE];
    int err = v->codec->decode(v->host, msg->encoding, msg->payload, &args);

    if (err)
        return err;
    copy_text(v, args, "id", id);
    if (strcmp(msg->verb, "keep") == 0) {
        object = keep(v, msg->tenant, id);
        if (object)
            copy_text(v, args, "text", object->text);
    } else {
        object = find(v, msg->tenant, id);
    }
    v->codec->free_doc(args);
    return answer(v, msg, object);
}

static void vault_destroy(void *self)
{
    free(self);
}

static int vault_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct vault *v = calloc(1, sizeof *v);
    int err = v ? host->service(host, MUSTER_BUS, (const void **)&v->bus) : MUSTER_ENOMEM;

    (void)config;
    if (!err)
        err = host->service(host, MUSTER_CODEC, (const void **)&v->codec);
    if (err) {
        free(v);
        return err;
    }
    v->host = host;
    *ret_self = v;
    return 0;
}

static int vault_start(void *self)
{
    struct vault *v = self;
    const struct muster_subscription sub = {
        .size = sizeof sub, .subject = "rpc.*.vault.*", .queue = 1, .max_msgs = 10000, .max_bytes = 8 << 20, .fn = on_request};
    uint64_t id;

    v->host->health(v->host, MUSTER_HEALTH_OK, "ok", "open");
    return v->bus->subscribe(v->host, &sub, &id);
}

#define ID "\"id\":\"str 1..100 - Of the object.\""
#define VERB(name, access, fields)                                                                                                          \
    "\"" name "\":{\"doc\":\"One object.\"," access ",\"request\":{" fields "},\"reply\":{\"text\":\"str - What is kept.\"}}"
static const char definition[] =
    "{\"service\":\"vault\",\"doc\":\"Keeps texts.\",\"verbs\":{" //
    VERB("keep", "\"access\":\"write\",\"user\":true", ID ",\"text\":\"str 0..100 - What to keep.\"") "," //
    VERB("set", "\"access\":\"write\"", ID) "," //
    VERB("get", "\"access\":\"read\",\"user\":true", ID) "," //
    VERB("look", "\"access\":\"read\"", ID) "," //
    VERB("judge", "\"access\":\"human\"", ID) "," //
    VERB("purge", "\"access\":\"admin\"", ID) "," //
    VERB("forgotten", "\"user\":false", ID) "}}";

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "vault", .verbs = "keep set get look judge purge forgotten", .schema = definition}};

MUSTER_PLUGIN(.name = "vault", .version = "1.0.0", .source_id = "test", .services = services,
              .n_services = sizeof services / sizeof *services, .create = vault_create, .start = vault_start, .destroy = vault_destroy);
