/*
 * The JSON reader on any bytes. What it takes must survive a trip through either encoding: the same
 * tree and the same digest again. What it refuses must have a one-line sentence.
 */
#include "wire/schema.h"
#include "wire_again.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct muster_value *doc;
    struct wire_error err;

    if (value_decode_any(MUSTER_JSON, (struct muster_bytes){data, size}, &doc, &err)) {
        ASSERT(err.text[0] && !strchr(err.text, '\n'));
        return 0;
    }
    check_again(doc, MUSTER_JSON, true);
    check_again(doc, MUSTER_MSGPACK, true);
    (void)schema_check(&schema_find(&schema_core()->messages, "srv_stats")->body, doc,
                       SCHEMA_STRICT, &err);
    value_free(doc);
    return 0;
}
