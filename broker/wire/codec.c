/* The ABI's codec; see codec.h. Errors go to host->fail(), so that the plugin and its operator have
 * the sentence. */
#include "wire/codec.h"

#include "wire/value.h"
#include "wire/writer.h"

static int decode(const struct muster_host *host, uint32_t encoding, struct muster_bytes body,
                  struct muster_value **ret_doc)
{
    struct wire_error err;
    int code = value_decode(encoding, body, ret_doc, &err);

    return code ? host->fail(host, code, "%s", err.text) : 0;
}

static int new_writer(const struct muster_host *host, uint32_t encoding,
                      struct muster_writer **ret_writer)
{
    struct muster_writer *w;

    if (encoding != MUSTER_JSON && encoding != MUSTER_MSGPACK)
        return host->fail(host, MUSTER_EINVAL,
                          "writer_new: encoding %u came, expected MUSTER_JSON or MUSTER_MSGPACK",
                          encoding);
    w = writer_new(encoding);
    if (!w)
        return host->fail(host, MUSTER_ENOMEM, "writer_new: no memory for a writer");
    *ret_writer = w;
    return 0;
}

static void put_bool(struct muster_writer *w, int v)
{
    writer_bool(w, v != 0);
}

static int bytes(const struct muster_writer *w, struct muster_bytes *ret_bytes)
{
    int err = writer_finish(w, NULL);

    if (!err)
        *ret_bytes = (struct muster_bytes){w->out->data, w->out->len};
    return err;
}

const struct muster_codec *codec_table(void)
{
    static const struct muster_codec table = {
        .size = sizeof table,
        .decode = decode,
        .free_doc = value_free,
        .type = value_type,
        .count = value_count,
        .at = value_at,
        .key = value_key,
        .get = value_get,
        .as_int = value_int,
        .as_float = value_float,
        .as_str = value_str,
        .writer_new = new_writer,
        .writer_free = writer_free,
        .put_map = writer_map,
        .put_array = writer_array,
        .put_str = writer_str,
        .put_bin = writer_bin,
        .put_int = writer_int,
        .put_float = writer_float,
        .put_bool = put_bool,
        .put_null = writer_null,
        .put_value = writer_value,
        .bytes = bytes,
    };

    return &table;
}
