/*
 * What a hostile child says to child/proxy.h: any bytes, and frames with any fields. The broker must neither crash nor leak, hold nothing of
 * a child that is over, and give a tenant's handle to none that may not see it.
 */
#include "../unit/proxy_host.h"

enum { ACME = 1 };
#define FIRST ((uint64_t)1 << 32 | 1)

/* Take the input for frames: {u8 type, u8 id, u8 length of what follows, fields}; ids are small, or of the messages that it has. */
static void say_frames(const uint8_t *data, size_t size)
{
    while (size >= 3) {
        struct buf b = {0};
        size_t len = data[2] < size - 3 ? data[2] : size - 3;
        uint64_t id = data[1] & 0x80 ? ((uint64_t)1 << 32) + (data[1] & 0x7f) : data[1];
        struct frame f = frame_begin(&b, (uint16_t)(1 + data[0] % (FRAME_N_TYPES - 1)), id);

        buf_put(&b, data + 3, len);
        say(&b, &f);
        data += 3 + len;
        size -= 3 + len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    fake_begin();
    ASSERT(deliver(&acme, 77) == 0 && deliver(&acme, 0) == 0 && deliver(&zeta, 0) == 0);
    turn();
    ASSERT(fake.n_held == 2);
    fake.refuse = data[1] & 1;
    if (data[0] & 1)
        say_bytes(data + 2, size - 2);
    else
        say_frames(data + 2, size - 2);
    turn();
    proxy_on_writable(fake.proxy);
    turn();
    ASSERT(!memmem(fake.said.data, fake.said.len, "zeta", 4));
    fake_end();
    ASSERT(fake.n_held == 0 && fake.n_streams >= 0 && fake.n_leases == 0 && fake.n_watches == 0);
    return 0;
}
