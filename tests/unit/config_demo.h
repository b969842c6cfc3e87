/*
 * What both tests of config/ use: `demo`, a plugin with an option of each type, and loading of a text that
 * must be good.
 *
 * The settings of demo begin at line 4, column 7 of the text that load_demo() makes.
 */
#ifndef MUSTER_TESTS_CONFIG_DEMO_H
#define MUSTER_TESTS_CONFIG_DEMO_H

#include <stdio.h>
#include <string.h>

#include "config/config.h"
#include "config/host.h"

struct bad {
    const char *text, *expected;
};

struct demo_table {
    const char *tenant, *owner_column;
    int32_t subject_key;
};

struct demo {
    int32_t on, snapshot;
    int64_t count, dead_after, window;
    double ratio;
    const char *name, *token, *key_file;
    struct muster_list messages;
    struct muster_map tables;
};

static const struct muster_option demo_table_options[] = {
    {.key = "tenant", .type = MUSTER_T_STRING, .offset = offsetof(struct demo_table, tenant)},
    {.key = "owner_column", .type = MUSTER_T_STRING, .offset = offsetof(struct demo_table, owner_column)},
    {.key = "subject_key", .type = MUSTER_T_BOOL, .offset = offsetof(struct demo_table, subject_key)},
};

static const struct muster_option demo_options[] = {
    {.key = "on", .type = MUSTER_T_BOOL, .def = "true", .offset = offsetof(struct demo, on)},
    {.key = "snapshot",
     .type = MUSTER_T_ENUM,
     .choices = "never|always",
     .def = "never",
     .offset = offsetof(struct demo, snapshot)},
    {.key = "count",
     .type = MUSTER_T_INT,
     .def = "-3",
     .min = -10,
     .max = 64,
     .offset = offsetof(struct demo, count)},
    {.key = "dead_after",
     .help = "Silence after which an agent counts as gone.",
     .type = MUSTER_T_DURATION_NS,
     .flags = MUSTER_O_RELOADABLE,
     .def = "15s",
     .min = 1000000000,
     .max = 3600000000000,
     .offset = offsetof(struct demo, dead_after)},
    {.key = "window",
     .type = MUSTER_T_BYTES,
     .def = "64KiB",
     .min = 1024,
     .max = 1 << 30,
     .offset = offsetof(struct demo, window)},
    {.key = "ratio",
     .type = MUSTER_T_FLOAT,
     .def = "0.5",
     .max = 1,
     .offset = offsetof(struct demo, ratio)},
    {.key = "name", .type = MUSTER_T_STRING, .min = 1, .max = 12, .offset = offsetof(struct demo, name)},
    {.key = "token",
     .type = MUSTER_T_STRING,
     .flags = MUSTER_O_SECRET,
     .offset = offsetof(struct demo, token)},
    {.key = "key_file", .type = MUSTER_T_STRING, .offset = offsetof(struct demo, key_file)},
    {.key = "messages",
     .type = MUSTER_T_LIST,
     .def = "muster.evt,app",
     .max = 3,
     .offset = offsetof(struct demo, messages)},
    {.key = "tables",
     .type = MUSTER_T_MAP,
     .fields = demo_table_options,
     .n_fields = 3,
     .entry_size = sizeof(struct demo_table),
     .offset = offsetof(struct demo, tables)},
};

static const struct muster_plugin demo_plugin = {
    .size = sizeof demo_plugin,
    .name = "demo",
    .version = "1.2",
    .options = demo_options,
    .n_options = sizeof demo_options / sizeof *demo_options,
    .option_size = sizeof(struct muster_option),
    .config_size = sizeof(struct demo),
};

static inline struct config *load(const char *text)
{
    struct config *config = NULL;
    struct config_error err = {""};

    if (config_load_text("m.yaml", text, strlen(text), &config, &err)) {
        print_error("%s\n", err.text);
        fail();
    }
    return config;
}

/* Settings of demo, from line 4 column 7 on. */
static inline struct config *load_demo(const char *settings)
{
    char text[4096];

    snprintf(text, sizeof text, "plugins:\n  - name: demo\n    config:\n      %s\n", settings);
    return load(text);
}

#endif
