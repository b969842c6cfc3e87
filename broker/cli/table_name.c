/* Reads [schema.]table; see table_name.h. */
#include "cli/table_name.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static bool is_start(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c >= 0x80;
}

static bool is_part(unsigned char c)
{
    return is_start(c) || (c >= '0' && c <= '9') || c == '$';
}

/* Append c. False when the name is longer than PostgreSQL keeps: it would be cut and mean another
 * table. */
static bool put(char out[TABLE_NAME_PART], size_t *len, char c)
{
    if (*len + 1 >= TABLE_NAME_PART)
        return false;
    out[(*len)++] = c;
    out[*len] = '\0';
    return true;
}

static const char too_long[] = "names of at most 63 bytes";

static const char *parse_quoted(const char **at, char out[TABLE_NAME_PART])
{
    const char *s = *at + 1;
    size_t len = 0;

    for (;; s++) {
        if (*s == '\0')
            return "a closing double quote";
        if (*s == '"' && *++s != '"')
            break;
        if (!put(out, &len, *s))
            return too_long;
    }
    *at = s;
    return len > 0 ? NULL : "a name between the quotes";
}

static const char *parse_plain(const char **at, char out[TABLE_NAME_PART])
{
    const char *s = *at;
    size_t len = 0;

    if (!is_start((unsigned char)*s))
        return "a name that begins with a letter or _, or stands in double quotes";
    for (; is_part((unsigned char)*s); s++)
        if (!put(out, &len, *s >= 'A' && *s <= 'Z' ? (char)(*s - 'A' + 'a') : *s))
            return too_long;
    *at = s;
    return NULL;
}

static const char *parse_part(const char **at, char out[TABLE_NAME_PART])
{
    return **at == '"' ? parse_quoted(at, out) : parse_plain(at, out);
}

const char *table_name_parse(const char *text, struct table_name *ret_name)
{
    struct table_name name = {.schema = "public"};
    const char *why = parse_part(&text, name.table);

    if (!why && *text == '.') {
        memcpy(name.schema, name.table, sizeof name.schema);
        text++;
        why = parse_part(&text, name.table);
    }
    if (!why && *text != '\0')
        why = "[schema.]table";
    if (!why)
        *ret_name = name;
    return why;
}
