/* The parts of an outcome; see outcome.h. */
#include "common/work/outcome.h"

#include <string.h>

static const char begin[] = "{\"ok\": ";

/* Behind the string that begins at s; NULL: it does not end. */
static const char *skip_string(const char *s)
{
    for (s++; *s && *s != '"'; s++)
        if (*s == '\\' && !*++s)
            return NULL;
    return *s ? s + 1 : NULL;
}

/* Behind the value that begins at s; NULL: the text ends before it does. */
static const char *skip_value(const char *s)
{
    unsigned int depth = 0;

    for (; *s; s++) {
        if (*s == '"') {
            s = skip_string(s);
            if (!s)
                return NULL;
            if (!depth)
                return s;
            s--;
        } else if (*s == '{' || *s == '[') {
            depth++;
        } else if (*s == '}' || *s == ']') {
            if (!depth)
                return s; /* of what it stands in: a number or a word has ended */
            if (!--depth)
                return s + 1;
        } else if (*s == ',' && !depth) {
            return s;
        }
    }
    return NULL;
}

bool outcome_ok(const char *text, const char **ret_ok, size_t *ret_len, struct buf *ret_more)
{
    const char *ok = text + sizeof begin - 1, *end;

    if (strncmp(text, begin, sizeof begin - 1) != 0)
        return false;
    end = skip_value(ok);
    if (!end)
        return false;
    *ret_ok = ok;
    *ret_len = (size_t)(end - ok);
    end += strspn(end, " \t\r\n");
    if (*end != '}' && *end != ',')
        return false;
    buf_putc(ret_more, '{');
    buf_puts(ret_more, *end == ',' ? end + 1 : end);
    return true;
}
