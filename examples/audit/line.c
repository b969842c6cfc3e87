/* Messages as lines; see line.h. */
#include "line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void put_key(const struct muster_codec *codec, struct muster_writer *w, const char *key)
{
    codec->put_str(w, key, strlen(key));
}

static void put_text(const struct muster_codec *codec, struct muster_writer *w, const char *key, const char *text)
{
    put_key(codec, w, key);
    if (text)
        codec->put_str(w, text, strlen(text));
    else
        codec->put_null(w);
}

static void put_time(const struct line_maker *m, struct muster_writer *w)
{
    int64_t ms = m->timer->wall_now(m->host) / 1000000;
    time_t s = (time_t)(ms / 1000);
    char day[32], text[48];
    struct tm tm;

    (void)strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", gmtime_r(&s, &tm)); /* of this era: it fits */
    (void)snprintf(text, sizeof text, "%s.%03dZ", day, (int)(ms % 1000));
    put_text(m->codec, w, "time", text);
}

/* The same name twice is one member with what came last: a map has no key twice. */
static void put_headers(const struct line_maker *m, struct muster_writer *w, const struct muster_msg *msg)
{
    size_t n = 0;
    const struct muster_header *keep[32]; /* as many as are shown */

    for (uint32_t i = 0; i < msg->n_headers && i < 32; i++) {
        size_t at = 0;

        while (at < n && strcmp(keep[at]->name, msg->headers[i].name) != 0)
            at++;
        keep[at] = &msg->headers[i];
        n += at == n;
    }
    put_key(m->codec, w, "headers");
    m->codec->put_map(w, n);
    for (size_t i = 0; i < n; i++)
        put_text(m->codec, w, keep[i]->name, keep[i]->value);
}

static void put_body(const struct line_maker *m, struct muster_writer *w, const struct muster_msg *msg)
{
    struct muster_value *doc;

    put_key(m->codec, w, "body");
    if (m->codec->decode(m->host, msg->encoding, msg->payload, &doc) != 0) {
        m->codec->put_bin(w, msg->payload.data, msg->payload.len);
        return;
    }
    m->codec->put_value(w, doc);
    m->codec->free_doc(doc);
}

/* Take the bytes out of the writer, with a newline, and free it. */
static int finish(const struct line_maker *m, struct muster_writer *w, struct line *ret_line)
{
    struct muster_bytes bytes;
    int err = m->codec->bytes(w, &bytes);
    char *data = err ? NULL : malloc(bytes.len + 1);

    if (data) {
        memcpy(data, bytes.data, bytes.len);
        data[bytes.len] = '\n';
        *ret_line = (struct line){.data = data, .len = bytes.len + 1};
    }
    m->codec->writer_free(w);
    return err ? err : data ? 0 : MUSTER_ENOMEM;
}

int line_of_message(const struct line_maker *m, const struct muster_msg *msg, struct line *ret_line)
{
    struct muster_writer *w;
    int err = m->codec->writer_new(m->host, MUSTER_JSON, &w);

    if (err)
        return err;
    m->codec->put_map(w, 6);
    put_time(m, w);
    put_text(m->codec, w, "tenant", m->tenants->name(msg->tenant));
    put_text(m->codec, w, "subject", msg->subject);
    put_text(m->codec, w, "agent", msg->agent);
    put_headers(m, w, msg);
    put_body(m, w, msg);
    return finish(m, w, ret_line);
}

int line_of_loss(const struct line_maker *m, uint64_t n, struct line *ret_line)
{
    struct muster_writer *w;
    int err = m->codec->writer_new(m->host, MUSTER_JSON, &w);

    if (err)
        return err;
    m->codec->put_map(w, 2);
    put_time(m, w);
    put_key(m->codec, w, "lost");
    m->codec->put_int(w, n > INT64_MAX ? INT64_MAX : (int64_t)n);
    return finish(m, w, ret_line);
}
