/*
 * child/describe and child/settings: a descriptor from any bytes is refused or becomes a table that settings can be bound to and told by,
 * and that says the same of itself again. The rest of the bytes is taken for settings of it.
 */
#include <stdlib.h>
#include <string.h>

#include "child/describe.h"
#include "config/config.h"
#include "config/host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] = "plugins: [{name: x}]\n";

static void again(const struct described *d)
{
    struct described *second = NULL;
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_HELLO, 0);
    struct frame_reader r;
    char why[DESCRIBE_WHY_SIZE];
    size_t len;

    describe_put(&f, &d->plugin);
    if (frame_end(&f) != 0 || frame_peek(b.data, b.len, &r, &len) != 1 || describe_get(&r, &second, why) != 0 ||
        second->plugin.config_size != d->plugin.config_size || second->plugin.n_options != d->plugin.n_options)
        abort();
    describe_free(second);
    buf_done(&b);
}

static void bind(const struct described *d)
{
    struct config *config;
    struct config_error err;
    void *values = calloc(1, d->plugin.config_size + 1);
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_SETTINGS, 0);

    if (!values || config_load_text("m.yaml", text, sizeof text - 1, &config, &err) != 0)
        abort();
    if (config_bind(config, &config->plugins[0], &d->plugin, values, &err) == 0) {
        settings_put(&f, &d->plugin, values);
        (void)frame_end(&f);
        config_schema(&d->plugin, &b);
    }
    config_free(config);
    buf_done(&b);
    free(values);
}

static void settle(const struct described *d, const uint8_t *data, size_t size)
{
    struct frame_reader r = {.type = FRAME_SETTINGS, .at = data, .end = data + size};
    void *values = calloc(1, d->plugin.config_size + 1);
    struct arena memory = {0};
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_SETTINGS, 0);

    if (values && settings_get(&r, &d->plugin, values, &memory) == 0)
        settings_put(&f, &d->plugin, values);
    (void)frame_end(&f);
    buf_done(&b);
    arena_done(&memory);
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t first = size >= 2 ? (size_t)(data[0] | data[1] << 8) : 0;
    struct frame_reader r = {.type = FRAME_HELLO};
    struct described *d;
    char why[DESCRIBE_WHY_SIZE];

    if (size < 2)
        return 0;
    data += 2;
    size -= 2;
    first = first < size ? first : size;
    r.at = data;
    r.end = data + first;
    if (describe_get(&r, &d, why) != 0)
        return 0;
    again(d);
    bind(d);
    settle(d, data + first, size - first);
    describe_free(d);
    return 0;
}
