/* What a child asks and is answered later: publications, requests, tenants, connections; see proxy.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "child/proxy_parts.h"

static struct call *call_new(struct ward *c, uint64_t id)
{
    struct call *call = c->n_calls < MAX_CALLS ? malloc(sizeof *call) : NULL;

    if (!call)
        return NULL;
    *call = (struct call){.next = c->calls, .at = &c->calls, .child = c, .id = id};
    if (call->next)
        call->next->at = &call->next;
    c->calls = call;
    c->n_calls++;
    return call;
}

void call_free(struct call *call)
{
    if (call->child) {
        *call->at = call->next;
        if (call->next)
            call->next->at = call->at;
        call->child->n_calls--;
    }
    free(call);
}

void calls_child_over(struct ward *c)
{
    for (struct call *call = c->calls; call; call = call->next)
        call->child = NULL;
    c->calls = NULL;
    c->n_calls = 0;
}

enum taken call_begun(struct ward *c, struct call *call, int err, answer_fn answer)
{
    uint64_t id;

    if (!err)
        return TAKEN; /* it may be through already */
    id = call->id;
    call_free(call);
    if (err == MUSTER_EAGAIN)
        return LATER;
    answer(c, id, err);
    return TAKEN;
}

enum taken call_make(struct ward *c, uint64_t id, struct call **ret_call, answer_fn answer)
{
    if (c->pipe && !pipe_has_room(c->pipe))
        return LATER; /* on_room() */
    *ret_call = call_new(c, id);
    if (!*ret_call)
        answer(c, id, c->n_calls < MAX_CALLS ? MUSTER_ENOMEM : MUSTER_EAGAIN);
    return TAKEN;
}

/* ---- what goes out ---------------------------------------------------------------------------------------------------------------- */

/* The frame's list is counted first, since only so many are kept. */
uint64_t out_get(struct frame_reader *r, struct out *out)
{
    uint64_t tenant = frame_get_u64(r);
    struct frame_reader ahead;

    out->subject = frame_get_str(r);
    ahead = *r;
    out->n_sent = frame_get_u32(&ahead);
    out->n_headers = frame_get_headers(r, out->headers, MAX_HEADERS);
    out->payload = frame_get_bytes(r);
    return tenant;
}

enum taken out_check(struct ward *c, const struct frame_reader *r, uint64_t tenant, struct out *out)
{
    if (!frame_is_read(r) || !out->subject)
        return ward_malformed(c, r);
    if (out->n_sent > MAX_HEADERS)
        return ward_breach(c, "a message of its has %u headers, expected at most %d", out->n_sent, MAX_HEADERS);
    if (!tenant || !tenant_by_number(c, tenant, &out->tenant))
        return ward_breach(c, "it names the tenant %llu, which it was not given", (unsigned long long)tenant);
    return TAKEN;
}

static struct muster_publication publication(const struct out *out)
{
    return (struct muster_publication){.size = sizeof(struct muster_publication),
                                       .n_headers = out->n_headers,
                                       .tenant = out->tenant,
                                       .subject = out->subject,
                                       .headers = out->headers,
                                       .payload = out->payload};
}

static void answer_sent(struct ward *c, uint64_t id, int code)
{
    struct frame f;

    if (!id)
        return;
    f = ward_begin(c, FRAME_SENT, id);
    frame_put_i32(&f, code);
    ward_end(c, &f);
}

static void on_sent(void *arg, int code)
{
    struct call *call = arg;

    if (call->child)
        answer_sent(call->child, call->id, code);
    call_free(call);
}

static enum taken publish_untold(struct ward *c, const struct muster_publication *pub)
{
    struct proxy *p = c->proxy;
    char line[PROXY_WHY_SIZE];
    int err = p->bus->publish(p->host, pub);

    if (err == MUSTER_EAGAIN)
        return LATER;
    if (err && err != MUSTER_ELINK) {
        (void)snprintf(line, sizeof line, "its message to \"%.100s\" was not sent (error %d)", pub->subject, err);
        p->how.hooks->log(p->how.arg, LOG_WARN, line);
    }
    return TAKEN;
}

static enum taken publish_told(struct ward *c, struct muster_publication *pub, uint64_t id)
{
    struct call *call = NULL;
    enum taken is = call_make(c, id, &call, answer_sent);

    if (!call)
        return is;
    pub->done = on_sent;
    pub->arg = call;
    return call_begun(c, call, c->proxy->bus->publish(c->proxy->host, pub), answer_sent);
}

enum taken take_publish(struct ward *c, struct frame_reader *r)
{
    struct out out;
    char why[POLICY_WHY_SIZE];
    uint64_t tenant = out_get(r, &out);
    const char *reply = frame_get_str(r);
    enum taken is = out_check(c, r, tenant, &out);
    struct muster_publication pub = publication(&out);

    if (is != TAKEN)
        return is;
    if (policy_publish(&c->proxy->how.policy, out.subject, why) != 0 ||
        (reply && policy_respond(&c->proxy->how.policy, out.subject, reply, why) != 0))
        return ward_breach(c, "%s", why);
    pub.reply = reply;
    if (c->state < WARD_STARTING) { /* create() publishes before there is a link */
        answer_sent(c, r->id, MUSTER_ELINK);
        return TAKEN;
    }
    return r->id ? publish_told(c, &pub, r->id) : publish_untold(c, &pub);
}

static void answer_request(struct ward *c, uint64_t id, int code)
{
    struct frame f = ward_begin(c, FRAME_ANSWER, id);

    frame_put_i32(&f, code);
    ward_end(c, &f);
}

static void on_answer(void *arg, int code, const struct muster_msg *msg)
{
    struct call *call = arg;
    struct ward *c = call->child;
    struct frame f;

    if (c && (code || msg->payload.len > MAX_PAYLOAD)) {
        answer_request(c, call->id, code ? code : MUSTER_EINVAL);
    } else if (c) {
        uint64_t tenant = msg->tenant ? tenant_number(c, msg->tenant) : 0;

        f = ward_begin(c, FRAME_ANSWER, call->id);
        frame_put_i32(&f, 0);
        put_msg(&f, msg, false, tenant);
        ward_end(c, &f);
    }
    call_free(call);
}

enum taken take_request(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    struct out out;
    struct call *call = NULL;
    char why[POLICY_WHY_SIZE];
    int64_t timeout_ns = frame_get_i64(r);
    uint64_t tenant = out_get(r, &out);
    enum taken is = out_check(c, r, tenant, &out);
    struct muster_publication pub = publication(&out);

    if (is != TAKEN)
        return is;
    if (policy_publish(&p->how.policy, out.subject, why) != 0)
        return ward_breach(c, "%s", why);
    is = call_make(c, r->id, &call, answer_request);
    return call ? call_begun(c, call, p->bus->request(p->host, &pub, timeout_ns, on_answer, call), answer_request) : is;
}

/* ---- tenants and connections ------------------------------------------------------------------------------------------------------ */

static void put_found(struct ward *c, uint64_t id, int code, uint64_t tenant)
{
    struct frame f = ward_begin(c, FRAME_FOUND, id);

    frame_put_i32(&f, code);
    frame_put_u64(&f, tenant);
    ward_end(c, &f);
}

static void answer_found(struct ward *c, uint64_t id, int code)
{
    put_found(c, id, code, 0);
}

static void on_found(void *arg, int code, const struct muster_tenant *tenant)
{
    struct call *call = arg;
    struct ward *c = call->child;

    if (c) {
        uint64_t number = code ? 0 : tenant_number(c, tenant);

        put_found(c, call->id, code ? code : number ? 0 : MUSTER_ENOTFOUND, number);
    }
    call_free(call);
}

enum taken take_refresh(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    const char *name = frame_get_str(r);
    struct call *call = NULL;
    enum taken is;

    if (!frame_is_read(r) || !name)
        return ward_malformed(c, r);
    if (!proxy_has_capability(p, "cross_tenant"))
        return ward_breach(c, "it asks for a tenant without the capability \"cross_tenant\"");
    is = call_make(c, r->id, &call, answer_found);
    return call ? call_begun(c, call, p->tenants->refresh(p->host, name, strlen(name), on_found, call), answer_found) : is;
}

static enum taken need_system(struct ward *c)
{
    return c->proxy->sys ? TAKEN : ward_breach(c, "it asks for connections without the capability \"system\"");
}

static void answer_listed(struct ward *c, uint64_t id, int code)
{
    struct frame f = ward_begin(c, FRAME_SYS_LISTED, id);

    frame_put_i32(&f, code);
    frame_put_u8(&f, 0);
    ward_end(c, &f);
}

static void on_listed(void *arg, int code, const struct muster_connection *connection)
{
    struct call *call = arg;
    struct ward *c = call->child;
    uint64_t tenant;
    struct frame f;

    if (!connection) {
        if (c)
            answer_listed(c, call->id, code);
        call_free(call);
        return;
    }
    tenant = c ? tenant_number(c, connection->tenant) : 0;
    if (!c || !tenant)
        return;
    f = ward_begin(c, FRAME_SYS_LISTED, call->id);
    frame_put_i32(&f, 0);
    frame_put_u8(&f, 1);
    put_connection(&f, connection, tenant);
    ward_end(c, &f);
}

enum taken take_sys_list(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    struct call *call = NULL;
    enum taken is = frame_is_read(r) ? need_system(c) : ward_malformed(c, r);

    if (is == TAKEN)
        is = call_make(c, r->id, &call, answer_listed);
    return call ? call_begun(c, call, p->sys->list(p->host, on_listed, call), answer_listed) : is;
}

/* Whose a connection is that it names, nobody knows here: with tenants of its own it may cut none. */
enum taken take_sys_kick(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    const char *server = frame_get_str(r);
    uint64_t client = frame_get_u64(r);
    struct call *call = NULL;
    enum taken is = frame_is_read(r) && server ? need_system(c) : ward_malformed(c, r);

    if (is == TAKEN && p->how.tenants.n) {
        answer_sent(c, r->id, MUSTER_EACCES);
        return TAKEN;
    }
    if (is == TAKEN)
        is = call_make(c, r->id, &call, answer_sent);
    return call ? call_begun(c, call, p->sys->kick(p->host, server, client, on_sent, call), answer_sent) : is;
}
