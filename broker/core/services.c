/* What this broker answers; see services.h. */
#include "core/services.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/map.h"
#include "base/name.h"
#include "base/utf8.h"
#include "core/broker.h"
#include "core/lane.h"
#include "tenant/limits.h"
#include "wire/schema.h"
#include "wire/writer.h"

enum { ERROR_SIZE = 160, MAX_KEY = 2 * NAME_MAX_LEN + 2, MAX_SUBJECT = 256, MAX_QUESTIONS = 256 };
enum { PING, INFO, STATS, N_QUESTIONS };

struct endpoint {
    struct endpoint *next; /* in the order of declaration */
    char service[NAME_MAX_LEN + 1], verb[NAME_MAX_LEN + 1];
    const struct muster_plugin *plugin;
    const struct schema_entry *definition; /* NULL: bodies are only held to the limits */
    bool takes_empty;                      /* a body without a member is well-formed */
    _Atomic uint64_t n_requests, n_errors;
    _Atomic int64_t total_ns;
    pthread_mutex_t lock; /* guards last_error */
    char last_error[ERROR_SIZE];
};

/* A definition that was loaded; the endpoints point into it. */
struct definition {
    struct definition *next;
    struct schema *schema;
};

struct services {
    struct broker *broker;
    pthread_rwlock_t lock; /* guards by_key and the list: written at the start, and where a plugin is replaced */
    struct map by_key; /* "presence.beat" */
    struct endpoint *first, **last;
    struct endpoint *replaced; /* messages on their way still name them */
    struct definition *definitions;
    int64_t started_wall_ns;
    uint64_t subs[N_QUESTIONS][3]; /* the bus's */
    atomic_int n_open;             /* questions on their way to the core lane */
};

static int why_not(char why[SERVICES_WHY_SIZE], int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int why_not(char why[SERVICES_WHY_SIZE], int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(why, SERVICES_WHY_SIZE, fmt, ap);
    va_end(ap);
    return code;
}

/* ---- declaring ------------------------------------------------------------------------------------------------------------------ */

/* 0: neither is served. Subjects that are odd have no service or no verb. */
static size_t key_of(struct text service, struct text verb, char out[MAX_KEY])
{
    if (!service.len || !verb.len || service.len > NAME_MAX_LEN || verb.len > NAME_MAX_LEN)
        return 0;
    memcpy(out, service.s, service.len);
    out[service.len] = '.';
    memcpy(out + service.len + 1, verb.s, verb.len);
    return service.len + 1 + verb.len;
}

/* The lock is held. */
static struct endpoint *find(const struct services *s, struct text service, struct text verb)
{
    char key[MAX_KEY];
    size_t len = key_of(service, verb, key);

    return len ? map_get(&s->by_key, key, len) : NULL;
}

struct endpoint *services_find(struct services *s, struct text service, struct text verb)
{
    struct endpoint *e;

    pthread_rwlock_rdlock(&s->lock);
    e = find(s, service, verb);
    pthread_rwlock_unlock(&s->lock);
    return e;
}

bool services_has(struct services *s, struct text service)
{
    const struct endpoint *e;

    pthread_rwlock_rdlock(&s->lock);
    for (e = s->first; e; e = e->next)
        if (text_is(service, e->service))
            break;
    pthread_rwlock_unlock(&s->lock);
    return e;
}

static void endpoint_free(struct endpoint *e)
{
    (void)pthread_mutex_destroy(&e->lock);
    free(e);
}

static int add_endpoint(struct services *s, const struct muster_plugin *plugin, const char *service,
                        struct text verb)
{
    struct endpoint *e = calloc(1, sizeof *e);
    char key[MAX_KEY];

    if (!e)
        return MUSTER_ENOMEM;
    e->plugin = plugin;
    (void)snprintf(e->service, sizeof e->service, "%s", service);
    memcpy(e->verb, verb.s, verb.len);
    ASSERT(pthread_mutex_init(&e->lock, NULL) == 0);
    if (!map_put(&s->by_key, key, key_of(text_of(service), verb, key), e)) {
        endpoint_free(e);
        return MUSTER_ENOMEM;
    }
    *s->last = e;
    s->last = &e->next;
    return 0;
}

/* One word of a list that is separated by blanks; false at its end. */
static bool next_word(const char **list, struct text *ret_word)
{
    const char *s = *list + strspn(*list, " ");
    size_t len = strcspn(s, " ");

    *ret_word = (struct text){s, len};
    *list = s + len;
    return len > 0;
}

static int add_verbs(struct services *s, const struct muster_plugin *plugin,
                     const struct muster_service *service, char why[SERVICES_WHY_SIZE])
{
    const char *list = service->verbs;
    struct text verb;

    while (next_word(&list, &verb)) {
        int err;

        if (!name_is_public(verb.s, verb.len))
            return why_not(why, MUSTER_EINVAL,
                           "service %s: verb \"%.*s\": expected 1 to 64 letters, digits, _ or -",
                           service->name, (int)(verb.len < 80 ? verb.len : 80), verb.s);
        if (find(s, text_of(service->name), verb))
            return why_not(why, MUSTER_EINVAL, "service %s: verb %.*s is there twice",
                           service->name, (int)verb.len, verb.s);
        err = add_endpoint(s, plugin, service->name, verb);
        if (err)
            return why_not(why, err, "service %s: no memory", service->name);
    }
    return 0;
}

/* What its tenants may have a number of, by <service>.<name>. */
static int declare_limits(struct services *s, const struct schema *schema, char why[SERVICES_WHY_SIZE])
{
    char name[LIMIT_NAME_SIZE];
    int err = 0;

    for (size_t i = 0; i < schema->limits.n && s->broker && !err; i++) {
        (void)snprintf(name, sizeof name, "%s.%s", schema->service, schema->limits.items[i].name);
        err = broker_declare_limit(s->broker, name);
    }
    return err ? why_not(why, err, "service %s: the services of a broker declare at most %d limits", schema->service, LIMITS_MAX_OBJECTS)
               : 0;
}

static bool takes_empty(const struct schema_entry *entry)
{
    struct muster_value *body;
    struct wire_error err;
    bool ok = value_decode(MUSTER_JSON, (struct muster_bytes){"{}", 2}, &body, &err) == 0;

    if (!ok)
        return false;
    ok = schema_check(&entry->body, body, SCHEMA_STRICT, &err) == 0;
    value_free(body);
    return ok;
}

/* Keep the schema, and give each verb of it its definition. */
static int take_schema(struct services *s, const struct muster_service *service,
                       struct schema *schema, char why[SERVICES_WHY_SIZE])
{
    struct definition *d = calloc(1, sizeof *d);

    if (!d) {
        schema_free(schema);
        return why_not(why, MUSTER_ENOMEM, "service %s: no memory", service->name);
    }
    *d = (struct definition){s->definitions, schema};
    s->definitions = d;
    if (strcmp(schema->service, service->name) != 0)
        return why_not(why, MUSTER_EINVAL, "service %s: its definition is of service %s",
                       service->name, schema->service);
    for (size_t i = 0; i < schema->verbs.n; i++) {
        const struct schema_entry *entry = &schema->verbs.items[i];
        struct endpoint *e = find(s, text_of(service->name), text_of(entry->name));

        if (!e)
            return why_not(why, MUSTER_EINVAL,
                           "service %s: its definition has verb %s, expected one of \"%s\"",
                           service->name, entry->name, service->verbs);
        e->definition = entry;
        e->takes_empty = takes_empty(entry);
    }
    return declare_limits(s, schema, why);
}

static int check_defined(const struct services *s, const struct muster_service *service,
                         char why[SERVICES_WHY_SIZE])
{
    const char *list = service->verbs;
    struct text verb;

    while (next_word(&list, &verb))
        if (!find(s, text_of(service->name), verb)->definition)
            return why_not(why, MUSTER_EINVAL, "service %s: its definition lacks verb %.*s",
                           service->name, (int)verb.len, verb.s);
    return 0;
}

static int add_schema(struct services *s, const struct muster_service *service,
                      char why[SERVICES_WHY_SIZE])
{
    struct wire_error error;
    struct schema *schema;
    int err = schema_load(service->schema, schema_core(), &schema, &error);

    if (err)
        return why_not(why, err, "service %s: its definition: %.300s", service->name, error.text);
    err = take_schema(s, service, schema, why);
    return err ? err : check_defined(s, service, why);
}

/* Whose the service is so far; NULL: nobody's. */
static const struct muster_plugin *owner_of(const struct services *s, const char *service)
{
    for (const struct endpoint *e = s->first; e; e = e->next)
        if (strcmp(e->service, service) == 0)
            return e->plugin;
    return NULL;
}

/* In the broker and in a child it has two descriptors. */
static bool is_same_plugin(const struct muster_plugin *a, const struct muster_plugin *b)
{
    return a == b || (strcmp(a->name, b->name) == 0 && strcmp(a->version, b->version) == 0);
}

static int add_service(struct services *s, const struct muster_plugin *plugin,
                       const struct muster_service *service, char why[SERVICES_WHY_SIZE])
{
    const struct muster_plugin *owner;
    int err;

    if (!MUSTER_HAS(service, schema) || !service->name ||
        !name_is_public(service->name, strlen(service->name)) || !service->verbs)
        return why_not(why, MUSTER_EINVAL,
                       "service \"%.80s\": expected a name of letters, digits, _ or -, and verbs",
                       MUSTER_HAS(service, name) && service->name ? service->name : "");
    owner = owner_of(s, service->name);
    if (owner && is_same_plugin(owner, plugin))
        return 0; /* a further instance */
    if (owner)
        return why_not(why, MUSTER_EEXIST, "service %s is answered by plugin %s already",
                       service->name, owner->name);
    err = add_verbs(s, plugin, service, why);
    if (!err && service->schema)
        err = add_schema(s, service, why);
    return err;
}

static int add_all(struct services *s, const struct muster_plugin *plugin, char why[SERVICES_WHY_SIZE])
{
    const char *at = (const char *)plugin->services;
    int err = 0;

    for (uint32_t i = 0; i < plugin->n_services && !err; i++, at += plugin->service_size)
        err = add_service(s, plugin, (const struct muster_service *)(const void *)at, why);
    return err;
}

int services_add(struct services *s, const struct muster_plugin *plugin,
                 char why[SERVICES_WHY_SIZE])
{
    int err;

    pthread_rwlock_wrlock(&s->lock);
    err = add_all(s, plugin, why);
    pthread_rwlock_unlock(&s->lock);
    return err;
}

/* Take those of a plugin out of list and map. */
static struct endpoint *take_all(struct services *s, const struct muster_plugin *plugin)
{
    struct endpoint **at = &s->first, *taken = NULL, *e;
    char key[MAX_KEY];

    while ((e = *at)) {
        if (e->plugin != plugin) {
            at = &e->next;
            continue;
        }
        *at = e->next;
        (void)map_take(&s->by_key, key, key_of(text_of(e->service), text_of(e->verb), key));
        e->next = taken;
        taken = e;
    }
    s->last = at;
    return taken;
}

int services_replace(struct services *s, const struct muster_plugin *before, const struct muster_plugin *plugin,
                     char why[SERVICES_WHY_SIZE])
{
    struct endpoint *taken, *next;
    int err;

    if (before == plugin)
        return 0;
    pthread_rwlock_wrlock(&s->lock);
    taken = take_all(s, before);
    for (; taken; taken = next) {
        next = taken->next;
        taken->next = s->replaced;
        s->replaced = taken;
    }
    err = add_all(s, plugin, why);
    pthread_rwlock_unlock(&s->lock);
    return err;
}

/* ---- requests ------------------------------------------------------------------------------------------------------------------- */

int endpoint_access(const struct endpoint *e)
{
    return e && e->definition ? e->definition->access : SCHEMA_WRITE;
}

bool endpoint_user(const struct endpoint *e)
{
    return e && e->definition && e->definition->user;
}

const char *endpoint_service(const struct endpoint *e)
{
    return e->service;
}

const char *endpoint_verb(const struct endpoint *e)
{
    return e->verb;
}

static bool take_object(const struct muster_value *body, const char *key, char *out, size_t size)
{
    const struct muster_value *v = value_get(body, key);
    size_t len;
    const char *s = v ? value_str(v, &len) : NULL;

    if (!s || value_type(v) != MUSTER_STR)
        return false;
    if (len >= size)
        len = utf8_prefix(s, size - 1);
    memcpy(out, s, len);
    out[len] = '\0';
    return true;
}

void endpoint_object(const struct endpoint *e, const struct muster_value *body, char *out, size_t size)
{
    char key[NAME_MAX_LEN + sizeof "_id"];

    *out = '\0';
    if (e && e->definition && e->definition->object) {
        (void)take_object(body, e->definition->object, out, size); /* optional where it is in the answer, too */
        return;
    }
    (void)snprintf(key, sizeof key, "%s_id", e ? e->service : "");
    if (!take_object(body, key, out, size))
        (void)take_object(body, "id", out, size);
}

/* "{}", or the same in MessagePack: there is nothing to look at, and a beat is no more than that. */
static bool is_empty(struct muster_bytes body)
{
    return (body.len == 2 && memcmp(body.data, "{}", 2) == 0) || (body.len == 1 && *(const unsigned char *)body.data == 0x80);
}

int endpoint_check(const struct endpoint *e, const struct muster_msg *msg, char object[AUDIT_OBJECT_SIZE], struct wire_error *err)
{
    struct muster_value *body;
    int code;

    if (e && e->takes_empty && is_empty(msg->payload)) {
        *object = '\0';
        return 0;
    }
    code = value_decode(msg->encoding, msg->payload, &body, err);
    if (code)
        return code;
    if (e && e->definition)
        code = schema_check(&e->definition->body, body, SCHEMA_STRICT, err);
    if (endpoint_access(e) != SCHEMA_READ)
        endpoint_object(e, body, object, AUDIT_OBJECT_SIZE);
    value_free(body);
    return code;
}

void endpoint_count(struct endpoint *e, int64_t ns, int number, const char *text)
{
    atomic_fetch_add_explicit(&e->n_requests, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&e->total_ns, ns > 0 ? ns : 0, memory_order_relaxed);
    if (!number)
        return;
    atomic_fetch_add_explicit(&e->n_errors, 1, memory_order_relaxed);
    pthread_mutex_lock(&e->lock);
    int n = snprintf(e->last_error, sizeof e->last_error, "%d:", number);
    (void)text_clean(text, strlen(text), e->last_error + n, sizeof e->last_error - (size_t)n);
    pthread_mutex_unlock(&e->lock);
}

/* ---- $SRV ----------------------------------------------------------------------------------------------------------------------- */

static const char *const question_names[] = {"PING", "INFO", "STATS"};
static const char *const answer_types[] = {"io.nats.micro.v1.ping_response",
                                           "io.nats.micro.v1.info_response",
                                           "io.nats.micro.v1.stats_response"};

/* A question on its way to the core lane. */
struct question {
    struct lane_item item;
    struct services *services;
    int kind;
    char reply[MAX_SUBJECT];
};

static void put_pair(struct muster_writer *w, const char *key, const char *value)
{
    writer_text(w, key);
    writer_text(w, value);
}

static void put_number(struct muster_writer *w, const char *key, int64_t value)
{
    writer_text(w, key);
    writer_int(w, value);
}

static void put_name(struct muster_writer *w, const struct services *s, const struct endpoint *e)
{
    char text[MAX_SUBJECT];

    (void)snprintf(text, sizeof text, "%s-%s", e->service, e->verb);
    put_pair(w, "name", text);
    (void)snprintf(text, sizeof text, "%s.*.rpc.*.%s.%s", broker_root(s->broker), e->service,
                   e->verb);
    put_pair(w, "subject", text);
    put_pair(w, "queue_group", "muster");
}

static void put_info(struct muster_writer *w, const struct services *s, const struct endpoint *e)
{
    writer_map(w, 4);
    put_name(w, s, e);
    writer_text(w, "metadata");
    writer_map(w, 4);
    put_pair(w, "plugin", e->plugin->name);
    put_pair(w, "version", e->plugin->version);
    put_pair(w, "access", schema_access_name(endpoint_access(e)));
    put_pair(w, "user", endpoint_user(e) ? "true" : "false");
}

static void put_stats(struct muster_writer *w, const struct services *s, struct endpoint *e)
{
    int64_t n = (int64_t)atomic_load(&e->n_requests), total = atomic_load(&e->total_ns);
    char last[ERROR_SIZE];

    pthread_mutex_lock(&e->lock);
    memcpy(last, e->last_error, sizeof last);
    pthread_mutex_unlock(&e->lock);
    writer_map(w, 8);
    put_name(w, s, e);
    put_number(w, "num_requests", n);
    put_number(w, "num_errors", (int64_t)atomic_load(&e->n_errors));
    put_pair(w, "last_error", last);
    put_number(w, "processing_time", total);
    put_number(w, "average_processing_time", n ? total / n : 0);
}

static void put_endpoints(struct muster_writer *w, struct services *s, int kind)
{
    writer_text(w, "endpoints");
    pthread_rwlock_rdlock(&s->lock);
    writer_array(w, s->by_key.n);
    for (struct endpoint *e = s->first; e; e = e->next) {
        if (kind == INFO)
            put_info(w, s, e);
        else
            put_stats(w, s, e);
    }
    pthread_rwlock_unlock(&s->lock);
}

static void put_answer(struct muster_writer *w, struct services *s, int kind)
{
    char started[CLOCK_RFC3339_SIZE];

    clock_rfc3339(s->started_wall_ns, started);
    writer_map(w, kind == PING ? 5 : 7);
    put_pair(w, "type", answer_types[kind]);
    put_pair(w, "name", "muster");
    put_pair(w, "id", broker_id(s->broker));
    put_pair(w, "version", MUSTER_VERSION);
    writer_text(w, "metadata");
    writer_map(w, 0);
    if (kind == INFO)
        put_pair(w, "description", "Message broker for fleets of agents");
    if (kind == STATS)
        put_pair(w, "started", started);
    if (kind != PING)
        put_endpoints(w, s, kind);
}

/* On the core lane: the library's threads have better to do. */
static void answer(struct lane_item *item)
{
    struct question *q = (struct question *)item;
    struct muster_writer w;
    struct buf body = {0};

    writer_init(&w, MUSTER_JSON, &body);
    put_answer(&w, q->services, q->kind);
    if (writer_finish(&w, NULL) == 0) {
        struct bus_out out = {.subject = q->reply, .payload = {body.data, body.len}, .fence = -1};

        (void)bus_send(broker_bus(q->services->broker), BUS_LIVE,
                       &out); /* who gets no answer asks again */
    }
    buf_done(&body);
    atomic_fetch_sub(&q->services->n_open, 1);
    free(q);
}

static void drop_question(struct lane_item *item)
{
    free(item);
}

/* Operators ask, from inboxes of any form; but never is an answer written to the server's own subjects or to a stream's. */
static bool may_answer(const struct services *s, const char *reply)
{
    char inside[64];

    (void)snprintf(inside, sizeof inside, "%s._in.", broker_root(s->broker));
    return reply && *reply != '$' && strlen(reply) < MAX_SUBJECT &&
           strncmp(reply, inside, strlen(inside)) != 0;
}

static void ask(struct services *s, int kind, struct bus_msg *msg)
{
    const char *reply = bus_msg_reply(msg);
    struct question *q =
        may_answer(s, reply) && atomic_load(&s->n_open) < MAX_QUESTIONS ? malloc(sizeof *q) : NULL;

    if (q) {
        *q = (struct question){
            .item = {.run = answer, .drop = drop_question}, .services = s, .kind = kind};
        (void)snprintf(q->reply, sizeof q->reply, "%s", reply);
        atomic_fetch_add(&s->n_open, 1);
        lane_push(broker_lane(s->broker), &q->item);
    }
    bus_msg_free(msg);
}

static void on_ping(void *arg, struct bus_msg *msg)
{
    ask(arg, PING, msg);
}

static void on_info(void *arg, struct bus_msg *msg)
{
    ask(arg, INFO, msg);
}

static void on_stats(void *arg, struct bus_msg *msg)
{
    ask(arg, STATS, msg);
}

static int listen_to(struct services *s, int kind, int form)
{
    static const bus_msg_fn functions[] = {on_ping, on_info, on_stats};
    char subject[MAX_SUBJECT];
    struct bus_sub how = {.subject = subject, .fn = functions[kind], .arg = s};

    (void)snprintf(subject, sizeof subject, "$SRV.%s%s%s%s", question_names[kind],
                   form > 0 ? ".muster" : "", form > 1 ? "." : "",
                   form > 1 ? broker_id(s->broker) : "");
    return bus_subscribe(broker_bus(s->broker), &how, &s->subs[kind][form]);
}

int services_start(struct services *s)
{
    int err = 0;

    s->started_wall_ns = clock_wall_ns();
    for (int i = 0; i < N_QUESTIONS * 3 && !err; i++)
        err = listen_to(s, i / 3, i % 3);
    return err;
}

void services_stop(struct services *s)
{
    for (int i = 0; i < N_QUESTIONS * 3; i++)
        if (s->subs[i / 3][i % 3])
            bus_unsubscribe(broker_bus(s->broker), s->subs[i / 3][i % 3]);
}

/* ---- life ----------------------------------------------------------------------------------------------------------------------- */

int services_new(struct broker *broker, struct services **ret_services)
{
    struct services *s = calloc(1, sizeof *s);

    if (!s)
        return MUSTER_ENOMEM;
    s->broker = broker;
    ASSERT(pthread_rwlock_init(&s->lock, NULL) == 0);
    s->last = &s->first;
    *ret_services = s;
    return 0;
}

void services_free(struct services *s)
{
    if (!s)
        return;
    *s->last = s->replaced;
    while (s->first) {
        struct endpoint *e = s->first;

        s->first = e->next;
        endpoint_free(e);
    }
    while (s->definitions) {
        struct definition *d = s->definitions;

        s->definitions = d->next;
        schema_free(d->schema);
        free(d);
    }
    (void)pthread_rwlock_destroy(&s->lock);
    map_done(&s->by_key);
    free(s);
}
