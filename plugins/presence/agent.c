/* An agent as a body; see agent.h. */
#include "presence/agent.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "presence/presence.h"

static const char *const status_names[] = {"", "online", "busy", "away"};

const char *status_name(uint32_t status)
{
    return status_names[status <= MUSTER_AGENT_AWAY ? status : 0];
}

uint32_t status_of(const char *word)
{
    for (uint32_t i = MUSTER_AGENT_ONLINE; word && i <= MUSTER_AGENT_AWAY; i++)
        if (strcmp(word, status_names[i]) == 0)
            return i;
    return 0;
}

/* ---- reading -------------------------------------------------------------------------------------------------------------------- */

/* What is being read. */
struct reading {
    struct presence *p;
    const struct muster_codec *codec;
    const struct muster_value *body;
    struct said *said;
    size_t total; /* bytes of what the agent says of itself */
};

static int refuse(struct said *s, const char *field, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int refuse(struct said *s, const char *field, const char *fmt, ...)
{
    va_list ap;

    (void)snprintf(s->field, sizeof s->field, "%s", field);
    va_start(ap, fmt);
    (void)vsnprintf(s->why, sizeof s->why, fmt, ap);
    va_end(ap);
    return MUSTER_EINVAL;
}

static const char *get_str(const struct reading *r, const char *key, size_t *ret_len)
{
    const struct muster_value *v = r->codec->get(r->body, key);

    *ret_len = 0;
    return v ? r->codec->as_str(v, ret_len) : NULL;
}

static const char *take_str(struct reading *r, const char *key)
{
    size_t len;
    const char *s = get_str(r, key, &len);

    r->total += len;
    return s;
}

static int64_t take_time(struct reading *r, const char *key)
{
    size_t len;
    const char *s = get_str(r, key, &len);

    return s ? clock_parse_rfc3339(s) : 0;
}

static int take_capabilities(struct reading *r)
{
    const struct muster_value *list = r->codec->get(r->body, "capabilities");
    struct said *s = r->said;
    size_t n = list ? r->codec->count(list) : 0, len;

    if (n > CAPABILITIES_MAX)
        return refuse(s, "capabilities", "capabilities: %zu came, expected %d at most", n, CAPABILITIES_MAX);
    for (size_t i = 0; i < n; i++) {
        const char *word = r->codec->as_str(r->codec->at(list, i), &len);

        if (!word || !len || len > NAME_MAX_LEN)
            return refuse(s, "capabilities", "capabilities[%zu]: %zu bytes came, expected 1 to %d", i, word ? len : 0, NAME_MAX_LEN);
        s->capabilities[i] = word;
        r->total += len;
    }
    s->agent.capabilities = s->capabilities;
    s->agent.n_capabilities = (uint32_t)n;
    return 0;
}

static int take_labels(struct reading *r)
{
    const struct muster_value *map = r->codec->get(r->body, "labels");
    struct said *s = r->said;
    size_t n = map ? r->codec->count(map) : 0, len, key_len;

    if (n > LABELS_MAX)
        return refuse(s, "labels", "labels: %zu came, expected %d at most", n, LABELS_MAX);
    for (size_t i = 0; i < n; i++) {
        const char *key;
        const char *value = r->codec->as_str(r->codec->key(map, i, &key, &key_len), &len);

        if (!key_len || key_len > NAME_MAX_LEN || !value || len > LABEL_VALUE_MAX)
            return refuse(s, "labels", "labels: a name of %zu and a value of %zu bytes came, expected 1 to %d and at most %d", key_len,
                          value ? len : 0, NAME_MAX_LEN, LABEL_VALUE_MAX);
        s->labels[i] = (struct muster_header){key, value};
        r->total += key_len + len;
    }
    s->agent.labels = s->labels;
    s->agent.n_labels = (uint32_t)n;
    return 0;
}

/* metadata is kept as JSON, whatever it came in. */
static int take_metadata(struct reading *r)
{
    const struct muster_value *v = r->codec->get(r->body, "metadata");
    struct muster_writer *w;
    struct muster_bytes json;
    int err;

    if (!v)
        return 0;
    err = r->codec->writer_new(r->p->host, MUSTER_JSON, &w);
    if (err)
        return err;
    r->codec->put_value(w, v);
    err = r->codec->bytes(w, &json);
    if (!err)
        buf_put(&r->said->metadata, json.data, json.len);
    r->codec->writer_free(w);
    if (err || buf_failed(&r->said->metadata))
        return err ? err : MUSTER_ENOMEM;
    r->said->has_metadata = true;
    r->said->agent.metadata = (struct muster_bytes){r->said->metadata.data, r->said->metadata.len};
    r->total += json.len;
    return 0;
}

static bool is_true(const struct reading *r, const char *key, bool otherwise)
{
    const struct muster_value *v = r->codec->get(r->body, key);

    return v ? r->codec->as_int(v) != 0 : otherwise;
}

static void take_plain(struct reading *r)
{
    const struct muster_value *load = r->codec->get(r->body, "load"), *capacity = r->codec->get(r->body, "capacity");
    struct said *s = r->said;
    const char *delivery;
    size_t len;

    s->agent.agent = get_str(r, "agent_id", &len);
    s->agent.session = get_str(r, "session", &len);
    s->agent.name = take_str(r, "name");
    s->agent.task = take_str(r, "task");
    s->agent.status = status_of(get_str(r, "status", &len));
    s->agent.capacity = capacity ? (uint32_t)r->codec->as_int(capacity) : 1;
    s->agent.load = load && r->codec->type(load) != MUSTER_NULL ? r->codec->as_float(load) : (double)NAN;
    s->agent.started_wall_ns = take_time(r, "started_at");
    s->heartbeat_wall_ns = take_time(r, "last_heartbeat");
    s->reason = get_str(r, "reason", &len);
    delivery = get_str(r, "delivery", &len);
    s->agent.flags = (is_true(r, "suspect", false) ? MUSTER_AGENT_SUSPECT : 0) | (is_true(r, "auto_accept", true) ? 0 : MUSTER_AGENT_ASKS) |
                     (delivery && strcmp(delivery, "pull") == 0 ? MUSTER_AGENT_PULLS : 0);
}

int said_read(struct presence *p, const struct muster_value *body, struct said *ret_said)
{
    struct reading r = {.p = p, .codec = p->codec, .body = body, .said = ret_said};
    int err;

    memset(ret_said, 0, sizeof *ret_said);
    ret_said->agent.size = sizeof ret_said->agent;
    take_plain(&r);
    err = take_capabilities(&r);
    if (!err)
        err = take_labels(&r);
    if (!err)
        err = take_metadata(&r);
    if (!err && r.total > SAID_MAX)
        err = refuse(ret_said, "metadata", "name, task, capabilities, labels and metadata have %zu bytes together, expected %d at most", r.total,
                     SAID_MAX);
    if (err)
        said_done(ret_said);
    return err;
}

/* Levels of lists and maps; no body has more than 32. */
static int depth_of(const struct muster_codec *codec, const struct muster_value *v)
{
    int type = codec->type(v), deepest = 0;
    bool is_map = type == MUSTER_MAP;

    if (!is_map && type != MUSTER_ARRAY)
        return 0;
    for (size_t i = 0; i < codec->count(v); i++) {
        const char *key;
        size_t len;
        int depth = depth_of(codec, is_map ? codec->key(v, i, &key, &len) : codec->at(v, i));

        deepest = depth > deepest ? depth : deepest;
    }
    return deepest + 1;
}

int said_ask(struct presence *p, const struct muster_value *body, struct said *ret_said)
{
    const struct muster_value *metadata = p->codec->get(body, "metadata");
    int err = said_read(p, body, ret_said), depth = err || !metadata ? 0 : depth_of(p->codec, metadata);

    if (depth <= METADATA_DEPTH_MAX)
        return err;
    said_done(ret_said);
    return refuse(ret_said, "metadata", "metadata: %d levels of lists and maps came, expected %d at most", depth, METADATA_DEPTH_MAX);
}

void said_done(struct said *said)
{
    buf_done(&said->metadata);
}

/* ---- writing -------------------------------------------------------------------------------------------------------------------- */

/* key as `,"key":` */
static void put_text(struct buf *b, const char *key, const char *s)
{
    buf_puts(b, key);
    if (s)
        buf_put_json(b, s, strlen(s));
    else
        buf_put_lit(b, "null");
}

static void put_time(struct buf *b, const char *key, int64_t wall_ns)
{
    char text[CLOCK_RFC3339_SIZE];

    clock_rfc3339(wall_ns, text);
    buf_puts(b, key);
    buf_putc(b, '"');
    buf_puts(b, text);
    buf_putc(b, '"');
}

static void put_float(struct buf *b, const char *key, double v)
{
    char text[32];

    buf_puts(b, key);
    if (isnan(v)) {
        buf_put_lit(b, "null");
        return;
    }
    (void)snprintf(text, sizeof text, "%.15g", v);
    if (strtod(text, NULL) != v) /* the shorter one where it is the same number */
        (void)snprintf(text, sizeof text, "%.17g", v);
    buf_puts(b, text);
}

static void put_capabilities(struct buf *b, const struct muster_agent *a)
{
    buf_put_lit(b, ",\"capabilities\":[");
    for (uint32_t i = 0; i < a->n_capabilities; i++)
        put_text(b, i ? "," : "", a->capabilities[i]);
    buf_putc(b, ']');
}

static void put_labels(struct buf *b, const struct muster_agent *a)
{
    buf_put_lit(b, ",\"labels\":{");
    for (uint32_t i = 0; i < a->n_labels; i++) {
        put_text(b, i ? "," : "", a->labels[i].name);
        put_text(b, ":", a->labels[i].value);
    }
    buf_putc(b, '}');
}

static void put_metadata(struct buf *b, const struct muster_agent *a)
{
    buf_put_lit(b, ",\"metadata\":");
    if (a->metadata.len)
        buf_put(b, a->metadata.data, a->metadata.len);
    else
        buf_put_lit(b, "{}");
}

static void put_told(struct buf *b, const struct told *told)
{
    put_text(b, ",\"from\":", told->from ? status_name(told->from) : NULL);
    put_time(b, ",\"at\":", told->at_wall_ns);
    if (told->reason)
        put_text(b, ",\"reason\":", told->reason);
}

void agent_write(struct buf *b, const char *tenant, const struct muster_agent *a, int64_t heartbeat_wall_ns, const struct told *told)
{
    put_text(b, "{\"agent_id\":", a->agent);
    put_text(b, ",\"tenant_id\":", tenant);
    if (a->name)
        put_text(b, ",\"name\":", a->name);
    put_text(b, ",\"status\":", status_name(a->status));
    buf_puts(b, a->flags & MUSTER_AGENT_SUSPECT ? ",\"suspect\":true" : ",\"suspect\":false");
    put_text(b, ",\"task\":", a->task);
    put_time(b, ",\"started_at\":", a->started_wall_ns);
    put_time(b, ",\"last_heartbeat\":", heartbeat_wall_ns);
    put_capabilities(b, a);
    put_labels(b, a);
    buf_put_lit(b, ",\"capacity\":");
    buf_put_u64(b, a->capacity);
    buf_puts(b, a->flags & MUSTER_AGENT_ASKS ? ",\"auto_accept\":false" : ",\"auto_accept\":true");
    buf_puts(b, a->flags & MUSTER_AGENT_PULLS ? ",\"delivery\":\"pull\"" : ",\"delivery\":\"push\"");
    put_float(b, ",\"load\":", a->load);
    put_metadata(b, a);
    put_text(b, ",\"session\":", a->session);
    if (told)
        put_told(b, told);
    buf_putc(b, '}');
}

struct present {
    struct buf *b;
    const struct agent *a;
    const struct told *told;
    agent_change_fn change;
    void *arg;
};

/* Under the roster's lock. */
static int write_present(void *arg, const struct muster_agent *agent)
{
    const struct present *w = arg;
    struct muster_agent copy = *agent;

    copy.load = w->a->load;
    if (w->change)
        w->change(w->arg, &copy);
    agent_write(w->b, w->a->tenancy->name, &copy, w->a->beat_wall_ns, w->told);
    return 0;
}

int agent_write_present(struct buf *b, const struct agent *a, const struct told *told, agent_change_fn change, void *arg)
{
    struct present w = {b, a, told, change, arg};
    const struct tenancy *t = a->tenancy;

    return t->p->roster->get(t->p->host, t->tenant, a->name, write_present, &w);
}
