/*
 * The MessagePack reader on any bytes. What it takes must come back as the same tree from
 * MessagePack, and with the same digest from JSON (where a binary is a map, so the trees differ).
 */
#include "wire_again.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct muster_value *doc;
    struct wire_error err;

    if (value_decode_any(MUSTER_MSGPACK, (struct muster_bytes){data, size}, &doc, &err)) {
        ASSERT(err.text[0] && !strchr(err.text, '\n'));
        return 0;
    }
    check_again(doc, MUSTER_MSGPACK, true);
    check_again(doc, MUSTER_JSON, false);
    value_free(doc);
    return 0;
}
