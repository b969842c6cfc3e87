/*
 * Logical messages written by muster.emit(): {tenant, service, event, key, body} becomes R._in.<T>.evt.<service>.<event>.<key>.
 *
 * The content is our own function's, but any superuser can write one: what emit() would have refused is counted, said, and goes to
 * nobody.
 */
#include <string.h>

#include "base/name.h"
#include "cdc/cdc.h"

enum { MAX_KEY = 1024 }; /* bytes, as in muster.emit() */

struct event {
    const struct muster_value *body;
    const char *tenant, *service, *name, *key;
    size_t tenant_len, service_len, name_len, key_len;
};

static bool is_wanted(const struct cdc *c, const char *prefix)
{
    for (size_t i = 0; i < c->config->messages.n; i++)
        if (strcmp(c->config->messages.items[i], prefix) == 0)
            return true;
    return false;
}

static const char *text(struct cdc *c, const struct muster_value *doc, const char *key, size_t *ret_len)
{
    const struct muster_value *v = c->codec->get(doc, key);

    *ret_len = 0;
    return v ? c->codec->as_str(v, ret_len) : NULL;
}

/* Of public names: "_.head" is the brokers' own. */
static bool read_event(struct cdc *c, const struct muster_value *doc, struct event *e)
{
    e->tenant = text(c, doc, "tenant", &e->tenant_len);
    e->service = text(c, doc, "service", &e->service_len);
    e->name = text(c, doc, "event", &e->name_len);
    e->key = text(c, doc, "key", &e->key_len);
    e->body = c->codec->get(doc, "body");
    return e->tenant && e->service && e->name && e->key_len > 0 && e->key_len <= MAX_KEY && e->body &&
           c->codec->type(e->body) == MUSTER_MAP && name_is_public(e->service, e->service_len) && name_is_public(e->name, e->name_len);
}

static int build_event(struct cdc *c, const struct delivery *d, bool list_columns)
{
    (void)c;
    (void)d;
    (void)list_columns;
    return 0; /* the body stands there already */
}

static int write_body(struct cdc *c, const struct event *e, const struct muster_tenant *tenant)
{
    struct muster_writer *w;
    struct muster_bytes bytes;
    int err = c->codec->writer_new(c->host, deliver_encoding(c, tenant), &w);

    if (err)
        return err;
    c->codec->put_value(w, e->body);
    err = c->codec->bytes(w, &bytes);
    buf_clear(&cdc_draft(c)->body);
    if (!err)
        buf_put(&cdc_draft(c)->body, bytes.data, bytes.len);
    c->codec->writer_free(w);
    return err;
}

static void put_key(struct buf *b, const struct event *e)
{
    buf_clear(b);
    if (change_fits_header(e->key, e->key_len)) {
        buf_put(b, e->key, e->key_len);
        return;
    }
    buf_putc(b, '[');
    buf_put_json(b, e->key, e->key_len);
    buf_putc(b, ']');
}

static int publish_event(struct cdc *c, const struct event *e, const struct muster_tenant *tenant)
{
    char channel[NAME_MAX_LEN + 8], name[NAME_MAX_LEN + 1], token[NAME_TOKEN_SIZE];
    struct delivery d = {.tenant = tenant, .channel = channel, .op = name, .token = token};
    int err;

    if (sink_has(c, (struct position){c->begin.final_lsn, c->ordinal, c->part}))
        return 0;
    memcpy(channel, "evt.", 4);
    memcpy(channel + 4, e->service, e->service_len);
    channel[4 + e->service_len] = '\0';
    memcpy(name, e->name, e->name_len);
    name[e->name_len] = '\0';
    (void)name_token(e->key, e->key_len, token);
    put_key(&cdc_draft(c)->key, e);
    err = write_body(c, e, tenant);
    if (err) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "no_memory", "an event could not be encoded (error %d)", err);
        return err;
    }
    return deliver(c, &d, build_event);
}

static void refuse(struct cdc *c, const char *why)
{
    c->metrics->add(c->host, c->m.refused, NULL, 1);
    c->host->log(c->host, MUSTER_LOG_WARN, "a message with prefix %s goes to nobody: %s", c->msg.message.prefix, why);
}

static int handle_event(struct cdc *c, const struct muster_value *doc)
{
    const struct muster_tenant *tenant = NULL;
    struct event e;

    if (!read_event(c, doc, &e)) {
        refuse(c, "expected {tenant, service, event, key, body} as muster.emit() writes it");
        return 0;
    }
    switch (route_tenant(c, e.tenant, e.tenant_len, &tenant)) {
    case ROUTE_WAIT:
        return MUSTER_EAGAIN;
    case ROUTE_TENANT:
        return publish_event(c, &e, tenant);
    default:
        refuse(c, "its tenant is unknown");
        return 0;
    }
}

int pump_event(struct cdc *c)
{
    const struct pgoutput_message *m = &c->msg.message;
    struct muster_value *doc;
    int err;

    if (!c->events || !is_wanted(c, m->prefix))
        return 0;
    if (!m->transactional) {
        refuse(c, "it is not transactional, so it has no place in the order of commits");
        return 0;
    }
    if (c->foreign && c->config->origin == ORIGIN_NONE)
        return 0;
    if (c->codec->decode(c->host, MUSTER_JSON, (struct muster_bytes){m->content, m->len}, &doc)) {
        refuse(c, "it is not JSON within the limits");
        return 0;
    }
    err = handle_event(c, doc);
    c->codec->free_doc(doc);
    return err;
}
