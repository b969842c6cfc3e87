/*
 * What may be shown of a text that may hold a password; see config_hide() in report.h.
 *
 * Two forms are known: URLs (nats://user:password@host, nats://token@host,
 * postgresql://user:password@host?password=x) and libpq's keyword form (host=x password='y z'). Where a
 * text is not clear, too much is hidden rather than too little: a password may hold '/', '@' or '?' that
 * should have been escaped.
 */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "config/report.h"

#define HIDDEN "…"

/* In a PostgreSQL URL a lone name is a user; in any other it may be a token. */
static bool lone_name_is_user(const char *url)
{
    return strncmp(url, "postgres", 8) == 0;
}

/* Parameters whose name says password, or that is escaped so that it might. */
static bool is_secret_name(const char *name, size_t len)
{
    if (memchr(name, '%', len))
        return true;
    for (size_t i = 0; i + 8 <= len; i++)
        if (strncasecmp(name + i, "password", 8) == 0)
            return true;
    return false;
}

/* "a=1&password=x" after the '?' of a URL. */
static void hide_parameters(struct buf *out, const char *query)
{
    while (*query) {
        size_t len = strcspn(query, "&");
        const char *equals = memchr(query, '=', len);

        if (equals && is_secret_name(query, (size_t)(equals - query))) {
            buf_put(out, query, (size_t)(equals - query) + 1);
            buf_put_lit(out, HIDDEN);
        } else {
            buf_put(out, query, len);
        }
        query += len;
        if (*query) {
            buf_putc(out, '&');
            query++;
        }
    }
}

/* The user information of a URL with its '@'; host is what follows it. */
static void hide_user(struct buf *out, const char *url, const char *user, const char *host)
{
    const char *colon = memchr(user, ':', (size_t)(host - user));

    if (!colon && lone_name_is_user(url)) {
        buf_put(out, user, (size_t)(host - user));
        return;
    }
    if (colon)
        buf_put(out, user, (size_t)(colon - user) + 1);
    buf_put_lit(out, HIDDEN "@");
}

/* rest is what follows "://". */
static void hide_url(struct buf *out, const char *url, const char *rest)
{
    const char *end = rest + strcspn(rest, "/?"), *at = strrchr(rest, '@'), *query;

    buf_put(out, url, (size_t)(rest - url));
    if (at && at > end) { /* a password that was not escaped may reach up to there */
        buf_put_lit(out, HIDDEN);
        return;
    }
    if (at) {
        hide_user(out, url, rest, at + 1);
        rest = at + 1;
    }
    query = rest + strcspn(rest, "?");
    buf_put(out, rest, (size_t)(query - rest));
    if (*query) {
        buf_putc(out, '?');
        hide_parameters(out, query + 1);
    }
}

static const char *skip_blanks(const char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    return s;
}

/* The end of a value of libpq's keyword form: the first blank that is neither quoted nor escaped. */
static const char *scalar_end(const char *s)
{
    bool quoted = false;

    for (; *s && (quoted || !isspace((unsigned char)*s)); s++) {
        if (*s == '\\' && s[1])
            s++;
        else if (*s == '\'')
            quoted = !quoted;
    }
    return s;
}

/* Every value whose name ends in "password", of libpq's keyword form or wherever else that stands in a
 * text. */
static void hide_keywords(struct buf *out, const char *text)
{
    const char *name;

    while ((name = strcasestr(text, "password"))) {
        const char *value = skip_blanks(name + 8);

        if (*value != '=') {
            buf_put(out, text, (size_t)(value - text));
            text = value;
            continue;
        }
        value = skip_blanks(value + 1);
        buf_put(out, text, (size_t)(value - text));
        buf_put_lit(out, HIDDEN);
        text = scalar_end(value);
    }
    buf_puts(out, text);
}

bool config_is_keywords(const char *text)
{
    size_t name;

    text = skip_blanks(text);
    name = strspn(text, "abcdefghijklmnopqrstuvwxyz_");
    return name && *skip_blanks(text + name) == '=';
}

/* A text that was hidden once comes out the same the next time: what --print-config writes is loaded and
 * printed again. */
void config_hide(struct buf *out, const char *text)
{
    const char *scheme = strstr(text, "://"), *at = strrchr(text, '@');
    bool keywords = config_is_keywords(text);

    if (scheme && !(keywords && strcasestr(text, "password"))) {
        const char *url = scheme;

        while (url > text && islower((unsigned char)url[-1]))
            url--;
        buf_put(out, text, (size_t)(url - text));
        hide_url(out, url, scheme + 3);
    } else if (!keywords && at && memchr(text, ':', (size_t)(at - text))) {
        /* A URL whose scheme was forgotten. A path that is absolute stays so, or it would be seen from another folder. */
        buf_puts(out, *text == '/' ? "/" HIDDEN : HIDDEN);
        hide_keywords(out, at);
    } else {
        hide_keywords(out, text);
    }
}
