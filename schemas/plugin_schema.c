/*
 * muster-plugin-schema - print the JSON Schema of a plugin's settings, indented for readers.
 *
 * usage: muster-plugin-schema PLUGIN.so
 *
 * A tool of the build: it loads a plugin that was built a moment ago and has its option table written down by
 * config_schema(), the same that `muster plugin list NAME --json` prints. schemas/plugins/ holds the result.
 */
#include <dlfcn.h>
#include <muster/plugin.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "config/config.h"

static const struct muster_plugin *load(const char *path)
{
    const struct muster_plugin *(*entry)(void);
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *symbol = lib ? dlsym(lib, "muster_plugin_entry_v0") : NULL;

    if (!symbol) {
        fprintf(stderr, "muster-plugin-schema: %s\n", dlerror());
        return NULL;
    }
    memcpy(&entry, &symbol, sizeof entry); /* POSIX: the object pointer is a function's; ISO C has no cast for it */
    return entry();
}

static void print_break(int depth)
{
    printf("\n%*s", 2 * depth, "");
}

/* Copy a string with its quotes and return what follows. */
static const char *print_string(const char *at)
{
    const char *end = at + 1;

    for (; *end != '"'; end++)
        end += *end == '\\';
    printf("%.*s", (int)(end - at) + 1, at);
    return end + 1;
}

/* json comes from config_schema(): valid, without blanks between its values, and not deep. */
static void print_indented(const char *json)
{
    int depth = 0;

    while (*json && *json != '\n') {
        char ch = *json;
        bool is_empty = (ch == '{' || ch == '[') && (json[1] == '}' || json[1] == ']');

        if (ch == '"') {
            json = print_string(json);
            continue;
        }
        if (ch == '}' || ch == ']')
            print_break(--depth);
        printf(ch == ':' ? "%c " : "%c", ch);
        json++;
        if (is_empty)
            putchar(*json++);
        else if (ch == '{' || ch == '[')
            print_break(++depth);
        else if (ch == ',')
            print_break(depth);
    }
    putchar('\n');
}

int main(int argc, char **argv)
{
    const struct muster_plugin *plugin;
    struct buf json = {0};
    bool failed;

    if (argc != 2) {
        fputs("usage: muster-plugin-schema PLUGIN.so\n", stderr);
        return 2;
    }
    plugin = load(argv[1]);
    if (!plugin)
        return 1;
    config_schema(plugin, &json);
    failed = buf_failed(&json);
    if (failed)
        fprintf(stderr, "muster-plugin-schema: %s: its option table is wrong; `musterd --check` says where\n", argv[1]);
    else
        print_indented(json.data);
    buf_done(&json);
    return failed || fflush(stdout) != 0;
}
