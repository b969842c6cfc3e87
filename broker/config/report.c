/*
 * Texts of errors; see report.h.
 *
 * Whatever a file holds, a message is one line of valid UTF-8 that fits struct config_error: keys, paths
 * and values are cut to the bounds below, so that the sentence after them always has room.
 */
#include "config/report.h"

#include <stdio.h>
#include <string.h>

enum { PATH_MAX_BYTES = 300, KEY_MAX_BYTES = 80, VALUE_MAX_BYTES = 60 };

/* The longest beginning of s, at most max bytes, that ends between two UTF-8 characters. */
static size_t cut(const char *s, size_t max)
{
    size_t len = strnlen(s, max + 1);

    if (len <= max)
        return len;
    for (len = max; len > 0 && ((unsigned char)s[len] & 0xc0) == 0x80;)
        len--;
    return len;
}

/* With an ellipsis where something was left out. */
static void put_cut(struct buf *b, const char *s, size_t max)
{
    size_t len = cut(s, max);

    buf_put(b, s, len);
    if (s[len])
        buf_put_lit(b, "…");
}

/* "plugins.cdc.tables.public.orders", "nats.urls[1]". Recursion ends with CONFIG_MAX_DEPTH. */
static void put_path(struct buf *b, const struct config_scope *s, const struct config_node *node)
{
    if (!node->parent || node == s->base) {
        buf_puts(b, s->prefix);
        return;
    }
    put_path(b, s, node->parent);
    if (!node->key) {
        buf_printf(b, "[%zu]", node->index);
        return;
    }
    if (b->len)
        buf_putc(b, '.');
    put_cut(b, node->key, KEY_MAX_BYTES);
}

/* "muster.yaml:12:5: "; without a line the file as a whole; nothing where there is no file. */
static void put_place(struct buf *b, const struct config_scope *s, uint32_t line, uint32_t column)
{
    if (!s->tree->file)
        return;
    buf_puts(b, s->tree->file);
    if (line)
        buf_printf(b, ":%u:%u", line, column);
    buf_put_lit(b, ": ");
}

/* Move the text to err: one line, whole characters. Returns MUSTER_EINVAL, or MUSTER_ENOMEM when there was
 * no memory for it. */
static int finish(struct buf *b, struct config_error *err)
{
    size_t len;

    if (buf_failed(b)) {
        buf_done(b);
        return config_no_memory(err);
    }
    for (size_t i = 0; i < b->len; i++)
        if ((unsigned char)b->data[i] < 0x20 || b->data[i] == 0x7f)
            b->data[i] = '?';
    len = cut(b->data, sizeof err->text - 1);
    memcpy(err->text, b->data, len);
    err->text[len] = '\0';
    buf_done(b);
    return MUSTER_EINVAL;
}

/* key may be NULL; it is a key that node should have. */
static void put_name(struct buf *b, const struct config_scope *s, const struct config_node *node,
                     const char *key)
{
    struct buf path = {0};

    put_path(&path, s, node);
    if (key)
        buf_printf(&path, "%s%s", path.len ? "." : "", key);
    if (path.len) {
        put_cut(b, path.data, PATH_MAX_BYTES);
        buf_put_lit(b, ": ");
    }
    buf_done(&path);
}

int config_refuse(const struct config_scope *s, const struct config_node *node, const char *fmt, ...)
{
    struct buf b = {0};
    va_list ap;

    put_place(&b, s, node->line, node->column);
    put_name(&b, s, node, NULL);
    if (node->line == 0)
        buf_put_lit(&b, "its default: ");
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    return finish(&b, s->err);
}

int config_refuse_key(const struct config_scope *s, const struct config_node *node, const char *fmt, ...)
{
    struct buf b = {0};
    va_list ap;

    put_place(&b, s, node->key_line, node->key_column);
    put_name(&b, s, node, NULL);
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    return finish(&b, s->err);
}

int config_refuse_missing(const struct config_scope *s, const struct config_node *map, const char *key,
                          const char *fmt, ...)
{
    struct buf b = {0};
    va_list ap;

    put_place(&b, s, map->line, map->column);
    put_name(&b, s, map, key);
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    return finish(&b, s->err);
}

int config_refuse_place(const struct config_scope *s, uint32_t line, uint32_t column, const char *fmt, ...)
{
    struct buf b = {0};
    va_list ap;

    put_place(&b, s, line, column);
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    return finish(&b, s->err);
}

int config_refuse_who(struct config_error *err, const char *who, const char *fmt, ...)
{
    struct buf b = {0};
    va_list ap;

    buf_printf(&b, "%s: ", who);
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    return finish(&b, err);
}

int config_no_memory(struct config_error *err)
{
    snprintf(err->text, sizeof err->text, "no memory for the configuration");
    return MUSTER_ENOMEM;
}

/* What stands for a value that has no text, or none that may be shown; NULL: show the text. */
static const char *kind_of(const struct config_node *node, bool secret)
{
    if (node->kind == CONFIG_MAP)
        return "a map";
    if (node->kind == CONFIG_LIST)
        return "a list";
    if (node_is_null(node))
        return "nothing";
    return secret ? "a value that is not shown" : NULL;
}

const char *config_show_text(const char *text, char out[CONFIG_SHOW_SIZE])
{
    struct buf hidden = {0};
    const char *shown;
    size_t len;

    config_hide(&hidden, text);
    shown = hidden.data && !buf_failed(&hidden) ? hidden.data : "";
    len = cut(shown, VALUE_MAX_BYTES);
    snprintf(out, CONFIG_SHOW_SIZE, "'%.*s%s'", (int)len, shown, shown[len] ? "…" : "");
    buf_done(&hidden);
    return out;
}

const char *config_show(const struct config_node *node, bool secret, char out[CONFIG_SHOW_SIZE])
{
    const char *kind = kind_of(node, secret);

    if (!kind)
        return config_show_text(node->text, out);
    snprintf(out, CONFIG_SHOW_SIZE, "%s", kind);
    return out;
}
