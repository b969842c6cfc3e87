/* What a message from NATS is; see intake.h. */
#include "core/intake.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/name.h"
#include "core/broker.h"
#include "tenant/credentials.h"
#include "tenant/tenant.h"

/* A MessagePack map begins 0x80-0x8f, 0xde or 0xdf; everything else is JSON, or wrong and said so in JSON. */
static uint32_t encoding_of(struct muster_bytes data)
{
    const unsigned char *p = data.data;

    return data.len && ((p[0] & 0xf0) == 0x80 || p[0] == 0xde || p[0] == 0xdf) ? MUSTER_MSGPACK
                                                                               : MUSTER_JSON;
}

int intake_open(struct intake *in, const struct broker *broker, struct bus_msg *raw)
{
    const char *subject = bus_msg_subject(raw), *root = broker_root(broker);
    size_t len = strlen(subject);
    int err;

    *in = (struct intake){.raw = raw, .encoding = encoding_of(bus_msg_data(raw)), .n_bytes = bus_msg_size(raw), .recv_ns = clock_now_ns()};
    err = subject_parse(root, subject, len, &in->subject);
    if (err && subject_parse_asker(root, subject, len, &in->subject) != 0)
        return MUSTER_ENOTFOUND;
    in->tenant = tenants_find(broker_tenants(broker), in->subject.tenant.s, in->subject.tenant.len);
    if (in->subject.kind == SUBJECT_RPC)
        in->reply = bus_msg_reply(raw);
    return err;
}

void intake_close(struct intake *in)
{
    credential_unref(in->credential);
    in->credential = NULL;
}

/* A name that was parsed, so it fits. */
static void copy_name(struct text name, char out[NAME_MAX_LEN + 1])
{
    memcpy(out, name.s, name.len);
    out[name.len] = '\0';
}

bool intake_reply_is_own(const struct intake *in, const char *root)
{
    char tenant[NAME_MAX_LEN + 1], agent[NAME_MAX_LEN + 1];

    if (!in->reply)
        return true;
    copy_name(in->subject.tenant, tenant);
    copy_name(in->subject.agent, agent);
    return subject_reply_is_own(in->reply, root, tenant, agent);
}

static char *copy_text(char *at, struct text t, const char **ret_copy)
{
    *ret_copy = NULL;
    if (!t.s)
        return at;
    memcpy(at, t.s, t.len);
    at[t.len] = '\0';
    *ret_copy = at;
    return at + t.len + 1;
}

/* Who sent it, where the server's permissions prove that. */
static struct text sender_of(const struct subject *s)
{
    int kind = s->kind == SUBJECT_LOG ? s->inner : s->kind;
    bool proven =
        kind == SUBJECT_RPC || kind == SUBJECT_ALL || kind == SUBJECT_TO || kind == SUBJECT_GRP;

    return proven && !text_is(s->agent, "_muster") ? s->agent : (struct text){0};
}

static void copy_names(struct delivery *d, const struct subject *s)
{
    const char *rest = s->tenant.s + s->tenant.len + 1;
    char *at = copy_text((char *)&d->headers[d->msg.n_headers], text_of(rest), &d->msg.subject);

    at = copy_text(at, sender_of(s), &d->msg.agent);
    if (s->kind != SUBJECT_RPC)
        return;
    at = copy_text(at, s->service, &d->msg.service);
    (void)copy_text(at, s->verb, &d->msg.verb);
}

static struct muster_msg message_of(const struct intake *in)
{
    struct muster_bytes data = bus_msg_data(in->raw);

    return (struct muster_msg){.size = sizeof(struct muster_msg),
                               .encoding = in->encoding,
                               .tenant = in->tenant,
                               .payload = data.len ? data : (struct muster_bytes){"{}", 2},
                               .recv_ns = in->recv_ns,
                               .role = credential_role(in->credential)};
}

struct delivery *intake_deliver(const struct intake *in, struct sub *sub)
{
    struct muster_header headers[DELIVERY_HEADERS];
    uint32_t n = bus_msg_headers(in->raw, headers, DELIVERY_HEADERS);
    size_t size = sizeof(struct delivery) + n * sizeof *headers;
    struct delivery *d = malloc(size + 2 * strlen(bus_msg_subject(in->raw)) + 8);

    if (!d)
        return NULL;
    *d = (struct delivery){.raw = in->raw,
                           .sub = sub,
                           .tenant = in->tenant,
                           .endpoint = in->endpoint,
                           .is_answer = in->subject.kind == SUBJECT_RPC && in->subject.ref.s,
                           .n_bytes = in->n_bytes + size,
                           .msg = message_of(in)};
    atomic_init(&d->refs, 1);
    atomic_fetch_add_explicit(&sub->refs, 1, memory_order_relaxed);
    memcpy(d->headers, headers, n * sizeof *headers);
    d->msg.headers = d->headers;
    d->msg.n_headers = n;
    copy_names(d, &in->subject);
    return d;
}
