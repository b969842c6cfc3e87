/* Messages of streams and their texts; see stored.h. */
#include "fanout/stored.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "wire/value.h"

enum { DEPTH_MAX = WIRE_MAX_DEPTH - 6 }; /* of a payload: it stands some levels down in an answer */

static const char *header_of(const struct muster_header *headers, uint32_t n, const char *name)
{
    const char *value = NULL;

    for (uint32_t i = 0; i < n; i++)
        if (strcmp(headers[i].name, name) == 0)
            value = headers[i].value; /* the last: a sender can put one in front of what the server adds */
    return value;
}

uint64_t stored_number(const struct muster_msg *msg, const char *header)
{
    const char *value = header_of(msg->headers, msg->n_headers, header);

    return value ? strtoull(value, NULL, 10) : 0;
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

static size_t room_for(const struct muster_msg *msg, const char *subject)
{
    size_t n = sizeof(struct stored) + msg->n_headers * sizeof(struct muster_header) + strlen(subject) + 1 + msg->payload.len;

    for (uint32_t i = 0; i < msg->n_headers; i++)
        n += strlen(msg->headers[i].name) + strlen(msg->headers[i].value) + 2;
    return n;
}

static char *put(char **at, const char *s, size_t len)
{
    char *to = *at;

    if (len)
        memcpy(to, s, len);
    *at += len;
    return to;
}

static const char *put_text(char **at, const char *s)
{
    return put(at, s, strlen(s) + 1);
}

struct stored *stored_new(const struct muster_msg *msg, const char *subject, bool counted)
{
    size_t size = room_for(msg, subject);
    struct stored *m = malloc(size);
    struct muster_header *headers = (struct muster_header *)(void *)(m + 1);
    char *at = m ? (char *)(headers + msg->n_headers) : NULL;
    const char *expires;

    if (!m)
        return NULL;
    *m = (struct stored){.refs = 1, .seq = msg->seq, .wall_ns = msg->stored_wall_ns, .size = size, .headers = headers, .n_headers = msg->n_headers};
    for (uint32_t i = 0; i < msg->n_headers; i++)
        headers[i] = (struct muster_header){put_text(&at, msg->headers[i].name), put_text(&at, msg->headers[i].value)};
    m->subject = put_text(&at, subject);
    m->payload = (struct muster_bytes){put(&at, msg->payload.data, msg->payload.len), msg->payload.len};
    m->epoch = counted ? stored_number(msg, "Muster-Epoch") : 0;
    m->count = counted ? stored_number(msg, "Muster-Seq") : 0;
    m->shown = counted ? m->count : m->seq;
    expires = header_of(headers, m->n_headers, "Muster-Expires");
    m->expires_ns = expires ? clock_parse_rfc3339(expires) : 0;
    return m;
}

struct stored *stored_ref(struct stored *m)
{
    m->refs++;
    return m;
}

void stored_drop(struct stored *m)
{
    if (!m || --m->refs)
        return;
    buf_done(&m->text[0]);
    buf_done(&m->text[1]);
    free(m);
}

size_t stored_size(const struct stored *m)
{
    return 2 * m->size + 256; /* mostly one text, which is about as long */
}

/* ---- text --------------------------------------------------------------------------------------------------------------- */

static size_t depth_of(const struct muster_value *v)
{
    size_t deepest = 0;

    for (size_t i = 0; i < value_count(v); i++) {
        const struct muster_value *below = value_type(v) == MUSTER_ARRAY ? value_at(v, i) : value_key(v, i, &(const char *){NULL}, NULL);
        size_t depth = depth_of(below);

        deepest = depth > deepest ? depth : deepest;
    }
    return 1 + deepest;
}

static void write_bytes(struct muster_writer *w, uint32_t encoding, struct muster_bytes payload)
{
    struct buf text = {0};

    if (encoding == MUSTER_MSGPACK) {
        writer_bin(w, payload.data, payload.len);
        return;
    }
    buf_put_base64(&text, payload.data, payload.len);
    writer_map(w, 1);
    writer_text(w, "base64");
    writer_str(w, text.data ? text.data : "", text.len);
    buf_done(&text);
}

void stored_body(struct muster_writer *w, uint32_t encoding, struct muster_bytes payload)
{
    struct muster_value *value = NULL;
    struct wire_error error;
    int err = payload.len ? value_decode_any(MUSTER_JSON, payload, &value, &error) : MUSTER_EINVAL;

    if (!err && depth_of(value) <= DEPTH_MAX)
        writer_value(w, value);
    else
        write_bytes(w, encoding, payload);
    value_free(value);
}

/* The value of a header's first occurrence, which is the last one given; NULL: it is told elsewhere, or is no text. */
static const char *told_value(const struct stored *m, uint32_t i)
{
    const char *name = m->headers[i].name, *value = header_of(m->headers, m->n_headers, name);

    if (header_of(m->headers, i, name) || !utf8_is_valid(name, strlen(name)) || !utf8_is_valid(value, strlen(value)))
        return NULL;
    return value;
}

static void write_headers(struct muster_writer *w, const struct stored *m)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < m->n_headers; i++)
        n += told_value(m, i) != NULL;
    writer_map(w, n);
    for (uint32_t i = 0; i < m->n_headers; i++) {
        const char *value = told_value(m, i);

        if (!value)
            continue;
        writer_text(w, m->headers[i].name);
        writer_text(w, value);
    }
}

static void write_text(struct muster_writer *w, const struct stored *m, uint32_t encoding, bool whole)
{
    char time[CLOCK_RFC3339_SIZE];

    clock_rfc3339(m->wall_ns, time);
    writer_map(w, whole ? 5 : 6);
    writer_text(w, "subject");
    writer_text(w, m->subject);
    writer_text(w, "seq");
    writer_int(w, (int64_t)m->shown);
    writer_text(w, "time");
    writer_text(w, time);
    writer_text(w, "headers");
    write_headers(w, m);
    writer_text(w, "body");
    if (whole) {
        stored_body(w, encoding, m->payload);
        return;
    }
    writer_null(w);
    writer_text(w, "omitted");
    writer_int(w, (int64_t)m->payload.len);
}

static bool make_text(struct stored *m, uint32_t encoding, bool whole, struct buf *out)
{
    struct muster_writer w;

    writer_init(&w, encoding, out);
    write_text(&w, m, encoding, whole);
    return writer_finish(&w, NULL) == 0 && out->len <= STORED_TEXT_MAX;
}

const struct buf *stored_text(struct stored *m, uint32_t encoding)
{
    struct buf *out = &m->text[encoding == MUSTER_MSGPACK];

    if (!out->len && !make_text(m, encoding, true, out)) {
        buf_clear(out);
        if (!make_text(m, encoding, false, out))
            buf_clear(out);
    }
    return out->len ? out : NULL;
}
