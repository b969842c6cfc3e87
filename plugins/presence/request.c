/* Requests that PostgreSQL has the last word on; see request.h. */
#include "presence/request.h"

#include <string.h>

#include "presence/presence.h"

const char *request_text(const struct presence *p, const struct muster_value *map, const char *key)
{
    const struct muster_value *v = p->codec->get(map, key);
    size_t len;

    return v ? p->codec->as_str(v, &len) : NULL;
}

struct muster_bytes request_param(const char *s)
{
    return (struct muster_bytes){s, s ? strlen(s) : 0};
}

/* Of our own decoding: what the host's nodes are inside is the host's. */
int request_digest(const struct muster_msg *msg, char out[REQUEST_DIGEST_SIZE])
{
    static const char hex[] = "0123456789abcdef";
    uint8_t digest[DIGEST_SIZE];
    struct wire_error fault;
    struct muster_value *doc;
    int err = value_decode(msg->encoding, msg->payload, &doc, &fault);

    if (err)
        return err;
    err = digest_of(doc, digest);
    value_free(doc);
    *out++ = '\\';
    *out++ = 'x';
    for (size_t i = 0; i < DIGEST_SIZE; i++) {
        *out++ = hex[digest[i] >> 4];
        *out++ = hex[digest[i] & 15];
    }
    *out = '\0';
    return err;
}

/* ---- the answer --------------------------------------------------------------------------------------------------------------- */

static int say(const struct presence *p, const struct muster_msg *msg, const struct muster_value *ok)
{
    struct muster_writer *w;
    struct muster_bytes body;
    int err = p->codec->writer_new(p->host, msg->encoding, &w);

    if (err)
        return err;
    p->codec->put_value(w, ok);
    err = p->codec->bytes(w, &body);
    if (!err)
        err = p->bus->reply(p->host, msg->request, body);
    p->codec->writer_free(w);
    return err;
}

static int refuse(const struct presence *p, const struct muster_msg *msg, const struct muster_value *error)
{
    return p->bus->reply_error(p->host, msg->request, request_text(p, error, "code"), request_text(p, error, "field"),
                               request_text(p, error, "message"));
}

void request_tell(const struct presence *p, const struct muster_msg *msg, const char *outcome)
{
    const struct muster_value *ok, *error;
    struct muster_value *doc;

    if (!outcome || p->codec->decode(p->host, MUSTER_JSON, request_param(outcome), &doc) != 0) {
        (void)p->bus->reply_error(p->host, msg->request, "internal", NULL, "the database gave no outcome");
        return;
    }
    ok = p->codec->get(doc, "ok");
    error = p->codec->get(doc, "error");
    if (ok)
        (void)say(p, msg, ok); /* where there is no room the asker asks again */
    else if (error)
        (void)refuse(p, msg, error);
    else
        (void)p->bus->reply_error(p->host, msg->request, "internal", NULL, "the database gave no outcome");
    p->codec->free_doc(doc);
}

const char *request_code(int code)
{
    switch (code) {
    case MUSTER_ELINK:
    case MUSTER_EAGAIN:
        return "unavailable";
    case MUSTER_ETIME:
        return "deadline_exceeded";
    default:
        return "internal";
    }
}
