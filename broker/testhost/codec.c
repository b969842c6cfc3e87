/*
 * muster.codec/1 of the test host: the broker's own codec, with documents and writers counted.
 *
 * Most functions of the table have no host, so what is out is kept in one place for all hosts, under a lock.
 */
#include "wire/codec.h"

#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "testhost/inside.h"

enum { DOCUMENT, WRITER };
struct out {
    struct muster_test *t;
    int what;
    char made[DOING_SIZE]; /* in which callback */
};

static struct map outs; /* by the address of the document or writer */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void keep(struct muster_test *t, int what, const void *p)
{
    struct out *o = must_alloc(sizeof *o);

    o->t = t;
    o->what = what;
    if (pthread_equal(pthread_self(), t->lane))
        memcpy(o->made, t->doing, sizeof o->made);
    pthread_mutex_lock(&lock);
    ASSERT(map_put(&outs, &p, sizeof p, o));
    pthread_mutex_unlock(&lock);
}

static struct out *take(const void *p)
{
    struct out *o;

    pthread_mutex_lock(&lock);
    o = map_take(&outs, &p, sizeof p);
    pthread_mutex_unlock(&lock);
    return o;
}

static struct muster_test *owner(const void *p)
{
    struct out *o;
    struct muster_test *t;

    pthread_mutex_lock(&lock);
    o = map_get(&outs, &p, sizeof p);
    t = o ? o->t : NULL;
    pthread_mutex_unlock(&lock);
    return t;
}

static int decode(const struct muster_host *host, uint32_t encoding, struct muster_bytes body, struct muster_value **ret_doc)
{
    struct muster_test *t = test_of(host, CALL_CODEC_DECODE);
    int err = call_begin(t, CALL_CODEC_DECODE);

    if (err)
        return err;
    if (is_stale(t, CALL_CODEC_DECODE, "body", body.data))
        return MUSTER_EINVAL;
    if (!ret_doc || (!body.data && body.len) || (encoding != MUSTER_JSON && encoding != MUSTER_MSGPACK))
        return breach(t, CALL_CODEC_DECODE, "encoding %u, body of %zu bytes%s: expected MUSTER_JSON or MUSTER_MSGPACK, and ret_doc",
                      encoding, body.len, body.data ? "" : " at NULL");
    err = codec_table()->decode(host, encoding, body, ret_doc);
    if (!err)
        keep(t, DOCUMENT, *ret_doc);
    return err;
}

/* What was not given out, or has been given back, is told where it can be; nobody knows whose host it is of otherwise. */
static void refuse(int call, const char *what)
{
    fprintf(stderr, "muster-testhost: %s() was called with %s that is none, or was freed before\n", calls[call].name, what);
    abort();
}

static void free_doc(struct muster_value *doc)
{
    struct out *o = doc ? take(doc) : NULL;

    if (!doc)
        return;
    if (!o || o->what != DOCUMENT) {
        refuse(CALL_CODEC_FREE_DOC, "a document");
        return;
    }
    (void)call_begin(o->t, CALL_CODEC_FREE_DOC);
    free(o);
    codec_table()->free_doc(doc);
}

static int writer_new(const struct muster_host *host, uint32_t encoding, struct muster_writer **ret_writer)
{
    struct muster_test *t = test_of(host, CALL_CODEC_WRITER_NEW);
    int err = call_begin(t, CALL_CODEC_WRITER_NEW);

    if (err)
        return err;
    if (!ret_writer || (encoding != MUSTER_JSON && encoding != MUSTER_MSGPACK))
        return breach(t, CALL_CODEC_WRITER_NEW, "encoding %u: expected MUSTER_JSON or MUSTER_MSGPACK, and ret_writer", encoding);
    err = codec_table()->writer_new(host, encoding, ret_writer);
    if (!err)
        keep(t, WRITER, *ret_writer);
    return err;
}

static void writer_free(struct muster_writer *w)
{
    struct out *o = w ? take(w) : NULL;

    if (!w)
        return;
    if (!o || o->what != WRITER) {
        refuse(CALL_CODEC_WRITER_FREE, "a writer");
        return;
    }
    (void)call_begin(o->t, CALL_CODEC_WRITER_FREE);
    free(o);
    codec_table()->writer_free(w);
}

static int bytes(const struct muster_writer *w, struct muster_bytes *ret_bytes)
{
    struct muster_test *t = w ? owner(w) : NULL;
    int err;

    if (!t) {
        refuse(CALL_CODEC_BYTES, "a writer");
        return MUSTER_EINVAL;
    }
    (void)call_begin(t, CALL_CODEC_BYTES);
    err = codec_table()->bytes(w, ret_bytes);
    if (err)
        (void)test_fail(t, err, "codec.bytes: a map or an array is not complete");
    return err;
}

static struct muster_codec table;

static void fill(void)
{
    table = *codec_table();
    table.decode = decode;
    table.free_doc = free_doc;
    table.writer_new = writer_new;
    table.writer_free = writer_free;
    table.bytes = bytes;
}

const struct muster_codec *test_codec(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, fill);
    return &table;
}

/* What the plugin has not given back. It is freed here, so that the next test begins with none. */
void codec_end(struct muster_test *t)
{
    size_t n[2] = {0};
    char made[2][DOING_SIZE] = {"", ""};
    const char *key;
    void *value;

    pthread_mutex_lock(&lock);
    for (size_t at = 0; map_next(&outs, &at, &key, &value);) {
        struct out *o = value;
        void *p;

        if (o->t != t)
            continue;
        memcpy(&p, key, sizeof p);
        if (n[o->what]++ == 0)
            memcpy(made[o->what], o->made, sizeof o->made);
        if (o->what == DOCUMENT)
            codec_table()->free_doc(p);
        else
            codec_table()->writer_free(p);
        (void)map_take(&outs, key, sizeof p);
        free(o);
    }
    if (!outs.n)
        map_done(&outs);
    if (!outs.n)
        outs = (struct map){0};
    pthread_mutex_unlock(&lock);
    if (n[DOCUMENT])
        fail_test(t, "left %zu documents of codec.decode() that free_doc() was not called for; one of %s", n[DOCUMENT], made[DOCUMENT]);
    if (n[WRITER])
        fail_test(t, "left %zu writers of codec.writer_new() that writer_free() was not called for; one of %s", n[WRITER], made[WRITER]);
}
