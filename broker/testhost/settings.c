/*
 * Settings of the plugin under test: the text goes through the broker's own configuration code, then to the plugin's check().
 *
 * The text is set below `config:` of an otherwise empty configuration; places in messages are moved back to where the test wrote it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/host.h"
#include "testhost/inside.h"

enum { LINES_BEFORE = 5, INDENT = 6 };
#define FILE_NAME "settings"

/* "settings:8:9: …" is "settings:3:3: …" for who wrote the settings; what stands before them has no place there. */
static void move_back(char *text, size_t size)
{
    unsigned long line, column;
    char *rest = text + strlen(FILE_NAME) + 1, *copy;

    if (strncmp(text, FILE_NAME ":", strlen(FILE_NAME) + 1) != 0)
        return;
    line = strtoul(rest, &rest, 10);
    if (*rest != ':')
        return;
    column = strtoul(rest + 1, &rest, 10);
    copy = must_copy(rest);
    if (line > LINES_BEFORE)
        (void)snprintf(text, size, FILE_NAME ":%lu:%lu%s", line - LINES_BEFORE, column > INDENT ? column - INDENT : 1, copy);
    else
        (void)snprintf(text, size, FILE_NAME "%s", copy);
    free(copy);
}

static void put_indented(struct buf *out, const char *text)
{
    while (*text) {
        size_t len = strcspn(text, "\n");

        buf_printf(out, "%*s%.*s\n", INDENT, "", (int)len, text);
        text += len + (text[len] == '\n');
    }
}

static bool is_blank(const char *text)
{
    return !text || text[strspn(text, " \n\t")] == '\0';
}

static int load(struct muster_test *t, const char *text, struct settings *out)
{
    struct config_error err;
    struct buf file = {0};
    int code;

    buf_printf(&file, "plugins:\n  - name: %s\n    instance: %s\n    lanes: %u\n", t->plugin->name, t->instance, t->host.n_lanes);
    if (!is_blank(text)) {
        buf_puts(&file, "    config:\n");
        put_indented(&file, text);
    }
    code = config_load_text(FILE_NAME, file.data, file.len, &out->config, &err);
    buf_done(&file);
    if (!code)
        return 0;
    move_back(err.text, sizeof err.text);
    return test_fail(t, code, "%s", err.text);
}

static int bind(struct muster_test *t, struct settings *out)
{
    struct config_error err;
    int code;

    out->arena = arena_new(t->plugin->config_size + 1);
    out->values = arena_take(out->arena, t->plugin->config_size + 1);
    code = config_bind(out->config, &out->config->plugins[0], t->plugin, out->values, &err);
    if (!code)
        return 0;
    move_back(err.text, sizeof err.text);
    return test_fail(t, code, "%s", err.text);
}

int test_settings_new(struct muster_test *t, const char *text, struct settings *out)
{
    int err = load(t, text, out);

    if (!err)
        err = bind(t, out);
    if (err)
        test_settings_done(t, out, "settings that do not fit");
    return err;
}

static void check_health(const struct muster_host *host, int state, const char *code, const char *fmt, ...) MUSTER_PRINTF(4, 5);
static void check_health(const struct muster_host *host, int state, const char *code, const char *fmt, ...)
{
    struct muster_test *t = host->impl;

    (void)state;
    (void)code;
    (void)fmt;
    (void)breach(t, CALL_HOST_HEALTH, "check() may call log() and fail() only");
}

static int check_post(const struct muster_host *host, void (*fn)(void *arg), void *arg)
{
    (void)fn;
    (void)arg;
    return breach(host->impl, CALL_HOST_POST, "check() may call log() and fail() only");
}

static int check_service(const struct muster_host *host, const char *id, const void **ret_table)
{
    (void)id;
    (void)ret_table;
    (void)breach(host->impl, CALL_HOST_SERVICE, "check() has no services");
    return MUSTER_EABI;
}

static int call_check(struct muster_test *t, const struct settings *s)
{
    int err;

    t->check_host = t->host;
    t->check_host.post = check_post;
    t->check_host.service = check_service;
    t->check_host.health = check_health;
    DURING(t, "check", NULL, err = t->plugin->check(&t->check_host, s->values));
    if (err > 0)
        fail_test(t, "check() returned %d: expected 0 or MUSTER_E*", err);
    return err;
}

int test_settings_check(struct muster_test *t, const struct settings *s)
{
    struct config_error err;
    int code;

    if (!MUSTER_HAS(t->plugin, check) || !t->plugin->check)
        return 0;
    t->reason[0] = '\0';
    code = call_check(t, s);
    if (!code)
        return 0;
    if (!t->reason[0])
        fail_test(t, "check() failed with %d and gave no reason by host->fail()", code);
    (void)config_fault_setting(s->config, &s->config->plugins[0], &err, t->reason);
    move_back(err.text, sizeof err.text);
    return test_fail(t, code, "%s", err.text);
}

void test_settings_done(struct muster_test *t, struct settings *s, const char *what)
{
    (void)t;
    arena_end(s->arena, what);
    config_free(s->config);
    *s = (struct settings){0};
}

bool test_settings_position(const struct settings *s, const char *key, char out[256])
{
    if (!config_position(s->config, &s->config->plugins[0], key, out))
        return false;
    move_back(out, 256);
    return true;
}
