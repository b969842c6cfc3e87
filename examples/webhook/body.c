/* Payloads; see body.h. */
#include "body.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void put_key(const struct muster_codec *codec, struct muster_writer *w, const char *key)
{
    codec->put_str(w, key, strlen(key));
}

static void put_text(const struct muster_codec *codec, struct muster_writer *w, const char *key, const char *text, size_t len)
{
    put_key(codec, w, key);
    codec->put_str(w, text, len);
}

static void put_type(const struct body_maker *m, struct muster_writer *w, const char *subject)
{
    const char *type = subject;
    size_t len = strlen(subject);

    if (strncmp(subject, "evt.", 4) == 0) {
        type = subject + 4;
        len = strcspn(type, ".");
        if (type[len] == '.')
            len += 1 + strcspn(type + len + 1, ".");
    }
    put_text(m->codec, w, "type", type, len);
}

static void put_time(const struct body_maker *m, struct muster_writer *w)
{
    int64_t ms = m->timer->wall_now(m->host) / 1000000;
    time_t at = (time_t)(ms / 1000);
    char day[32], text[48];
    struct tm tm;
    int len;

    (void)strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", gmtime_r(&at, &tm)); /* of this era: it fits */
    len = snprintf(text, sizeof text, "%s.%03dZ", day, (int)(ms % 1000));
    put_text(m->codec, w, "timestamp", text, (size_t)len);
}

static int finish(const struct body_maker *m, struct muster_writer *w, char **ret_body, size_t *ret_len)
{
    struct muster_bytes bytes;
    int err = m->codec->bytes(w, &bytes);
    char *body = err ? NULL : malloc(bytes.len);

    if (body) {
        memcpy(body, bytes.data, bytes.len);
        *ret_body = body;
        *ret_len = bytes.len;
    }
    m->codec->writer_free(w);
    return err ? err : body ? 0 : MUSTER_ENOMEM;
}

int body_of(const struct body_maker *m, const struct muster_msg *msg, char **ret_body, size_t *ret_len)
{
    const char *tenant = m->tenants->name(msg->tenant);
    struct muster_value *doc;
    struct muster_writer *w;
    int err = m->codec->decode(m->host, msg->encoding, msg->payload, &doc);

    if (err)
        return err;
    err = m->codec->writer_new(m->host, MUSTER_JSON, &w);
    if (err) {
        m->codec->free_doc(doc);
        return err;
    }
    m->codec->put_map(w, 5);
    put_type(m, w, msg->subject);
    put_time(m, w);
    put_text(m->codec, w, "tenant", tenant, strlen(tenant));
    put_text(m->codec, w, "subject", msg->subject, strlen(msg->subject));
    put_key(m->codec, w, "data");
    m->codec->put_value(w, doc);
    m->codec->free_doc(doc);
    return finish(m, w, ret_body, ret_len);
}

int body_of_dead(const struct body_maker *m, const struct body_of_dead *dead, char **ret_body, size_t *ret_len)
{
    const char *const texts[][2] = {{"hook", dead->hook}, {"id", dead->id}, {"subject", dead->subject}, {"why", dead->why}};
    struct muster_writer *w;
    int err = m->codec->writer_new(m->host, MUSTER_JSON, &w);

    if (err)
        return err;
    m->codec->put_map(w, 6);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        put_text(m->codec, w, texts[i][0], texts[i][1], strlen(texts[i][1]));
    put_key(m->codec, w, "attempts");
    m->codec->put_int(w, dead->attempts);
    put_key(m->codec, w, "status");
    m->codec->put_int(w, dead->status);
    return finish(m, w, ret_body, ret_len);
}
