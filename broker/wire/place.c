/* Paths and refusals; see place.h. */
#include "wire/place.h"

#include <muster/plugin.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "wire/text.h"

enum { KEY_SHOWN = 48 };

/* What fits is written; snprintf's own result is not used, because a cut path is still a path. */
static size_t put(char *out, size_t size, const char *fmt, const char *key, size_t index)
{
    if (key)
        (void)snprintf(out, size, fmt, key);
    else
        (void)snprintf(out, size, "[%zu]", index);
    return strlen(out);
}

static size_t put_path(const struct place *at, char *out, size_t size)
{
    char key[KEY_SHOWN];
    size_t n;

    out[0] = '\0';
    if (!at)
        return 0;
    n = put_path(at->up, out, size);
    if (at->key) {
        (void)text_clean(at->key, at->n, key, sizeof key);
        return n + put(out + n, size - n, n ? ".%s" : "%s", key, 0);
    }
    return n + put(out + n, size - n, "", NULL, at->n);
}

int place_refuse(struct wire_error *err, const struct place *at, const char *fmt, ...)
{
    char what[sizeof err->text - sizeof err->field - 32];
    char byte[32] = "";
    va_list ap;

    (void)put_path(at, err->field, sizeof err->field);
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof what, fmt, ap); /* cut when too long */
    va_end(ap);
    if (err->offset != WIRE_NO_OFFSET)
        (void)snprintf(byte, sizeof byte, err->field[0] ? " (byte %zu)" : "byte %zu", err->offset);
    (void)snprintf(err->text, sizeof err->text, "%s%s%s%s", err->field, byte,
                   err->field[0] || byte[0] ? ": " : "", what);
    return MUSTER_EINVAL;
}
