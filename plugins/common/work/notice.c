/* Messages of the broker to agents; see notice.h. */
#include "common/work/notice.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "base/utf8.h"
#include "common/work/ask.h"
#include "wire/writer.h"

int notice_send(struct work *w, const struct muster_tenant *tenant, const char *agent, const char *type, const char *reply,
                const struct buf *json)
{
    struct buf subject = {0}, receipt = {0};
    struct muster_publication pub = {.size = sizeof pub, .tenant = tenant, .payload = {json->data, json->len}};
    int err;

    if (!name_is_public(agent, strlen(agent)))
        return 0;
    buf_printf(&subject, "to.%s._muster.%s", agent, type);
    buf_printf(&receipt, "rpc.%s.%s.receipt.%s", agent, w->service, type);
    pub.subject = subject.data;
    pub.reply = reply ? reply : receipt.data;
    err = buf_failed(&subject) || buf_failed(&receipt) || buf_failed(json) ? MUSTER_ENOMEM : w->bus->publish(w->host, &pub);
    buf_done(&subject);
    buf_done(&receipt);
    return err;
}

int notice_received(struct work *w, const struct muster_msg *msg)
{
    const struct muster_bytes nothing = msg->encoding == MUSTER_JSON ? (struct muster_bytes){"{}", 2} : (struct muster_bytes){"\x80", 1};

    w->metrics->add(w->host, w->m_asked, "receipt", 1);
    return msg->request ? w->bus->reply(w->host, msg->request, nothing) : 0;
}

static int on_receipt(void *self, const struct muster_msg *msg)
{
    return notice_received(self, msg);
}

int notice_receipts(struct work *w)
{
    char subject[96];
    const struct muster_subscription sub = {.size = sizeof sub, .subject = subject, .queue = 1, .overflow = MUSTER_OVERFLOW_REJECT,
                                            .max_msgs = 16384, .max_bytes = 16 << 20, .fn = on_receipt};
    uint64_t id;

    (void)snprintf(subject, sizeof subject, "rpc.*.%s.receipt.*", w->service);
    return w->bus->subscribe(w->host, &sub, &id);
}

void notice_ref(struct buf *out, const char *id, uint64_t epoch)
{
    buf_put_u64(out, epoch);
    buf_putc(out, '-');
    buf_put_base64url(out, id, strlen(id));
}

bool notice_read_ref(const char *subject, struct buf *ret_id, uint64_t *ret_epoch)
{
    const char *ref = strrchr(subject, '.');
    char *rest;

    if (!ref || !isdigit((unsigned char)ref[1]))
        return false;
    *ret_epoch = strtoull(ref + 1, &rest, 10);
    if (*rest != '-' || !rest[1] || !buf_put_decoded(ret_id, rest + 1, strlen(rest + 1)))
        return false;
    return ret_id->len && strlen(ret_id->data) == ret_id->len;
}

struct muster_value *notice_body(const struct muster_msg *msg)
{
    struct muster_value *doc;
    struct wire_error error;
    uint32_t encoding = MUSTER_JSON;

    if (value_detect(msg->payload, &encoding, &error) != 0 || value_decode(encoding, msg->payload, &doc, &error) != 0)
        return NULL;
    return doc;
}

bool notice_says(const struct muster_value *body, const char *key, bool what)
{
    const struct muster_value *v = value_in(body, key);

    return v && value_type(v) == MUSTER_BOOL && (value_int(v) != 0) == what;
}

enum { REASON_MAX = 1024 };

void notice_put_reason(const struct muster_value *body, struct buf *args)
{
    const char *reason = text_in(body, "reason");
    size_t len = reason ? strlen(reason) : 0;

    if (!reason)
        return;
    buf_put_lit(args, ",\"reason\":");
    buf_put_json(args, reason, utf8_prefix(reason, len < REASON_MAX ? len : REASON_MAX));
}

void notice_put_value(struct buf *b, const struct muster_value *v)
{
    struct muster_writer w;

    if (!v) {
        buf_put_lit(b, "null");
        return;
    }
    writer_init(&w, MUSTER_JSON, b);
    writer_value(&w, v);
    if (writer_finish(&w, NULL) != 0)
        b->failed = true;
}
