/*
 * The YAML configuration: any bytes are a good configuration or an error with a text, and what a good one
 * prints loads again and prints the same.
 *
 * Each plugin's settings are bound to a table with every type of option; a plugin whose settings do not fit
 * stays unbound and is printed as it stands.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "config/config.h"
#include "config/host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct entry {
    const char *text;
    int64_t size;
    struct muster_map inner;
};

struct values {
    int32_t flag, choice;
    int64_t whole, span, size;
    double ratio;
    const char *text, *secret, *key_file;
    struct muster_list list;
    struct muster_map map;
};

static const struct muster_option inner_options[] = {
    {.key = "a", .type = MUSTER_T_INT, .offset = 0},
};

static const struct muster_option entry_options[] = {
    {.key = "text", .type = MUSTER_T_STRING, .offset = offsetof(struct entry, text)},
    {.key = "size", .type = MUSTER_T_BYTES, .def = "0", .offset = offsetof(struct entry, size)},
    {.key = "inner",
     .type = MUSTER_T_MAP,
     .fields = inner_options,
     .n_fields = 1,
     .entry_size = sizeof(int64_t),
     .offset = offsetof(struct entry, inner)},
};

#define AT(member) .offset = offsetof(struct values, member)

static const struct muster_option options[] = {
    {.key = "group.flag", .type = MUSTER_T_BOOL, AT(flag)},
    {.key = "group.in.choice", .type = MUSTER_T_ENUM, .choices = "a|bc|on", AT(choice)},
    {.key = "whole", .type = MUSTER_T_INT, .def = "7", AT(whole)},
    {.key = "span", .type = MUSTER_T_DURATION_NS, .def = "5s", AT(span)},
    {.key = "size", .type = MUSTER_T_BYTES, .def = "1MiB", AT(size)},
    {.key = "ratio", .type = MUSTER_T_FLOAT, .def = "0.25", AT(ratio)},
    {.key = "text", .type = MUSTER_T_STRING, AT(text)},
    {.key = "secret", .type = MUSTER_T_STRING, .flags = MUSTER_O_SECRET, AT(secret)},
    {.key = "key_file", .type = MUSTER_T_STRING, AT(key_file)},
    {.key = "list", .type = MUSTER_T_LIST, .def = "x,y", AT(list)},
    {.key = "map",
     .type = MUSTER_T_MAP,
     .fields = entry_options,
     .n_fields = sizeof entry_options / sizeof *entry_options,
     .entry_size = sizeof(struct entry),
     AT(map)},
};

static const struct muster_plugin plugin = {
    .size = sizeof plugin,
    .name = "fuzz",
    .version = "1",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .option_size = sizeof *options,
    .config_size = sizeof(struct values),
};

static void check(bool good, const char *what, const char *text)
{
    if (good)
        return;
    fprintf(stderr, "%s:\n%s\n", what, text);
    abort();
}

static void check_error(const struct config_error *err)
{
    size_t len = strnlen(err->text, sizeof err->text);

    check(len > 0 && len < sizeof err->text, "an error without a text", "");
    check(utf8_is_valid(err->text, len), "an error that is not UTF-8", err->text);
}

/* Load, bind what fits, print. Empty when the text is refused. */
static void round_trip(const char *text, size_t len, struct buf *ret_printed)
{
    struct config *config = NULL;
    struct config_error err = {""};

    if (config_load_text("fuzz.yaml", text, len, &config, &err)) {
        check_error(&err);
        return;
    }
    for (size_t i = 0; i < config->n_plugins; i++) {
        struct values values = {0};

        if (config_bind(config, &config->plugins[i], &plugin, &values, &err))
            check_error(&err);
    }
    config_print(config, ret_printed);
    config_free(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf first = {0}, second = {0};

    round_trip((const char *)data, size, &first);
    if (first.len && first.len <= CONFIG_MAX_BYTES) {
        round_trip(first.data, first.len, &second);
        check(second.len > 0, "what was printed is refused", first.data);
        check(strcmp(first.data, second.data) == 0, "printed differently the second time", first.data);
    }
    buf_done(&first);
    buf_done(&second);
    return 0;
}
