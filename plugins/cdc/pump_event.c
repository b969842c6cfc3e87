/*
 * Logical messages written by muster.emit(): {tenant, service, event, key, body} becomes R._in.<T>.evt.<service>.<event>.<key>.
 *
 * The body is copied as it stands, so that no digit is lost. The content is our own function's, but any superuser can write one: what
 * emit() would have refused is counted, said, and goes to nobody.
 */
#include <stdio.h>
#include <string.h>

#include "base/name.h"
#include "cdc/cdc.h"
#include "cdc/jsontree.h"

enum { MAX_KEY = 1024, MAX_CONTENT = 1000000 }; /* bytes, as in muster.emit() */

/* Strings stand between their quotes, the body from brace to brace. */
struct event {
    struct jsontree_span tenant, service, name, key, body;
    bool twice; /* one of them came a second time */
};

static bool is_wanted(const struct cdc *c, const char *prefix)
{
    for (size_t i = 0; i < c->config->messages.n; i++)
        if (strcmp(c->config->messages.items[i], prefix) == 0)
            return true;
    return false;
}

static bool span_is(struct jsontree_span s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.s, text, s.len) == 0;
}

static struct jsontree_span *place_of(struct event *e, struct jsontree_span key)
{
    return span_is(key, "tenant")    ? &e->tenant
           : span_is(key, "service") ? &e->service
           : span_is(key, "event")   ? &e->name
           : span_is(key, "key")     ? &e->key
           : span_is(key, "body")    ? &e->body
                                     : NULL;
}

static void on_member(void *arg, struct jsontree_span key, struct jsontree_span value)
{
    struct event *e = arg;
    struct jsontree_span *place = place_of(e, key);

    if (!place)
        return;
    e->twice |= place->s != NULL;
    if (value.s[0] == (place == &e->body ? '{' : '"'))
        *place = place == &e->body ? value : (struct jsontree_span){value.s + 1, value.len - 2};
}

/* A key may have escapes; names may not, so that those are no names. */
static bool unescape_key(struct event *e, struct buf *to)
{
    if (!e->key.s || !memchr(e->key.s, '\\', e->key.len))
        return true;
    buf_clear(to);
    if (!jsontree_string(e->key.s - 1, e->key.len + 2, to) || buf_failed(to))
        return false;
    e->key = (struct jsontree_span){to->data, to->len};
    return true;
}

/* Of public names: "_.head" is the brokers' own. */
static bool read_event(struct cdc *c, struct event *e)
{
    const struct pgoutput_message *m = &c->msg.message;

    *e = (struct event){.twice = false};
    return m->len <= MAX_CONTENT && out_is_utf8(m->content, m->len) && jsontree_each(m->content, m->len, on_member, e) &&
           !e->twice && unescape_key(e, &c->out.string) && e->tenant.s && e->key.len > 0 && e->key.len <= MAX_KEY && e->body.s &&
           name_is_public(e->service.s, e->service.len) && name_is_public(e->name.s, e->name.len);
}

static int build_event(struct cdc *c, const struct delivery *d, bool list_columns)
{
    (void)c;
    (void)d;
    (void)list_columns;
    return 0; /* the body stands there already */
}

/* False when it is too deep for MessagePack. */
static bool write_body(struct cdc *c, const struct event *e, const struct muster_tenant *tenant)
{
    struct buf *body = &cdc_draft(c)->body;

    buf_clear(body);
    c->out.encoding = deliver_encoding(c, tenant);
    out_to(&c->out, body);
    if (c->out.encoding == MUSTER_MSGPACK)
        return jsontree_pack(&c->out, e->body.s, e->body.len, JSONTREE_DEPTH_BODY);
    out_verbatim(&c->out, e->body.s, e->body.len);
    return true;
}

static void put_key(struct buf *b, const struct event *e)
{
    buf_clear(b);
    if (change_fits_header(e->key.s, e->key.len)) {
        buf_put(b, e->key.s, e->key.len);
        return;
    }
    buf_putc(b, '[');
    buf_put_json(b, e->key.s, e->key.len);
    buf_putc(b, ']');
}

static void refuse(struct cdc *c, const char *why)
{
    c->metrics->add(c->host, c->m.refused, NULL, 1);
    c->host->log(c->host, MUSTER_LOG_WARN, "a message with prefix %.64s goes to nobody: %s", c->msg.message.prefix, why);
}

/* At three in the morning somebody has to find who emits it. */
static void refuse_tenant(struct cdc *c, const struct event *e)
{
    char tenant[ROUTE_SHOWN], why[ROUTE_SHOWN + 256];

    route_show_name(e->tenant.s, e->tenant.len, tenant);
    (void)snprintf(why, sizeof why, "there is no tenant %s; it is event %.*s of service %.*s", tenant, (int)e->name.len, e->name.s,
                   (int)e->service.len, e->service.s);
    refuse(c, why);
}

static int publish_event(struct cdc *c, const struct event *e, const struct muster_tenant *tenant)
{
    char channel[NAME_MAX_LEN + 8], name[NAME_MAX_LEN + 1], token[NAME_TOKEN_SIZE];
    struct delivery d = {.tenant = tenant, .channel = channel, .op = name, .token = token};

    if (sink_has(c, (struct position){c->begin.final_lsn, c->ordinal, c->part}))
        return 0;
    memcpy(channel, "evt.", 4);
    memcpy(channel + 4, e->service.s, e->service.len);
    channel[4 + e->service.len] = '\0';
    memcpy(name, e->name.s, e->name.len);
    name[e->name.len] = '\0';
    (void)name_token(e->key.s, e->key.len, token);
    put_key(&cdc_draft(c)->key, e); /* before the body, whose writer has a use for the same scratch */
    if (!write_body(c, e, tenant)) {
        refuse(c, "its body is nested more than 32 levels deep, which MessagePack readers refuse");
        return 0;
    }
    return deliver(c, &d, build_event);
}

static int handle_event(struct cdc *c)
{
    const struct muster_tenant *tenant = NULL;
    struct event e;

    if (!read_event(c, &e)) {
        refuse(c, "expected {tenant, service, event, key, body} as muster.emit() writes it");
        return 0;
    }
    switch (route_tenant(c, e.tenant.s, e.tenant.len, &tenant)) {
    case ROUTE_WAIT:
        return MUSTER_EAGAIN;
    case ROUTE_TENANT:
        return publish_event(c, &e, tenant);
    default:
        refuse_tenant(c, &e);
        return 0;
    }
}

int pump_event(struct cdc *c)
{
    const struct pgoutput_message *m = &c->msg.message;

    if (!c->events || !is_wanted(c, m->prefix))
        return 0;
    if (!m->transactional) {
        refuse(c, "it is not transactional, so it has no place in the order of commits");
        return 0;
    }
    if (c->foreign && c->config->origin == ORIGIN_NONE)
        return 0;
    return handle_event(c);
}
