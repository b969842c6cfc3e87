/*
 * The remembered arguments of nats-config; see settings.h.
 *
 * One `name value` a line, the value up to the end of the line: paths may hold blanks, and control
 * characters were refused before they came here. Not YAML, because nobody is meant to edit it.
 */
#include "cli/settings.h"

#include <errno.h>
#include <inttypes.h>
#include <muster/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"

enum { FILE_MAX = 64 << 10 };

/* The rest of the line that begins with name and a space; false when there is none or it does not
 * fit. */
static bool value_of(const char *text, const char *name, char *out, size_t size)
{
    size_t skip = strlen(name);

    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        if (strncmp(line, name, skip) != 0 || line[skip] != ' ')
            continue;
        size_t len = strcspn(line + skip + 1, "\n");
        if (len >= size)
            return false;
        memcpy(out, line + skip + 1, len);
        out[len] = '\0';
        return true;
    }
    return false;
}

/* TLS came later: settings of before have none of these lines, and it stays as it is here. */
static void parse_tls(const char *text, struct settings *s)
{
    char verify[8] = "no";

    (void)value_of(text, "tls_cert", s->tls_cert, sizeof s->tls_cert);
    (void)value_of(text, "tls_key", s->tls_key, sizeof s->tls_key);
    (void)value_of(text, "tls_ca", s->tls_ca, sizeof s->tls_ca);
    (void)value_of(text, "tls_verify", verify, sizeof verify);
    s->tls_verify = strcmp(verify, "yes") == 0;
}

/* Everything has to be there: a default would silently change what earlier creds rest on. */
static bool parse(const char *text, struct settings *s)
{
    char form[16], subscriptions[24], callout[8], *end;

    if (!value_of(text, "form", form, sizeof form) ||
        !value_of(text, "root", s->root, sizeof s->root) ||
        !value_of(text, "subscriptions", subscriptions, sizeof subscriptions) ||
        !value_of(text, "listen", s->listen, sizeof s->listen) ||
        !value_of(text, "http", s->http, sizeof s->http) ||
        !value_of(text, "store", s->store, sizeof s->store))
        return false;
    parse_tls(text, s);
    s->is_static = strcmp(form, "static") == 0;
    /* Not there in what an earlier version wrote. */
    s->callout = value_of(text, "callout", callout, sizeof callout) && strcmp(callout, "on") == 0;
    errno = 0;
    s->subscriptions = strtoll(subscriptions, &end, 10);
    return (s->is_static || strcmp(form, "operator") == 0) &&
           name_is_public(s->root, strlen(s->root)) && !errno && end != subscriptions && !*end &&
           s->subscriptions > 0;
}

int settings_read(const char *keys, struct settings *ret_settings, struct file_error *err)
{
    struct buf path = {0}, text = {0};
    struct settings s = {0};
    int code;

    file_join(&path, keys, "settings");
    code = buf_failed(&path) ? MUSTER_ENOMEM : file_read(path.data, FILE_MAX, &text, err);
    if (!code && !parse(text.data, &s)) {
        (void)snprintf(err->text, sizeof err->text,
                       "%s: not what `muster nats-config` writes; restore it, or remove it and run "
                       "`muster nats-config` again with the same options",
                       path.data);
        code = MUSTER_EINVAL;
    }
    if (!code)
        *ret_settings = s;
    buf_done(&path);
    buf_done(&text);
    return code;
}

int settings_write(const char *keys, const struct settings *s, struct file_error *err)
{
    struct buf path = {0}, text = {0};
    int code;

    file_join(&path, keys, "settings");
    buf_printf(&text, "form %s\ncallout %s\nroot %s\nsubscriptions %" PRId64 "\nlisten %s\nhttp %s\nstore %s\n",
               s->is_static ? "static" : "operator", s->callout ? "on" : "off", s->root, s->subscriptions, s->listen, s->http,
               s->store);
    if (s->tls_cert[0])
        buf_printf(&text, "tls_cert %s\ntls_key %s\ntls_ca %s\ntls_verify %s\n", s->tls_cert, s->tls_key, s->tls_ca,
                   s->tls_verify ? "yes" : "no");
    code = buf_failed(&path) ? MUSTER_ENOMEM : file_write(path.data, FILE_SECRET, &text, err);
    buf_done(&path);
    buf_done(&text);
    return code;
}
