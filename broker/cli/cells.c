/* Members of answers on a terminal; see cells.h. */
#include "cli/cells.h"

#include <string.h>

#include "cli/body.h"
#include "cli/term.h"
#include "wire/writer.h"

enum { SHOWN_NAME = 128, SHOWN_VALUE = 200, SHOWN_WORDS = 60, TIME_LEN = 19 }; /* 2026-01-31T23:59:59 */

void cells_put_padded(struct buf *out, const char *s, size_t len, size_t width)
{
    term_put(out, s, len, SHOWN_NAME);
    for (size_t i = len; i < width; i++)
        buf_putc(out, ' ');
    buf_puts(out, "  ");
}

void cells_put_text(struct buf *out, const struct muster_value *record, const char *key, size_t width)
{
    const char *s = body_text(record, key);

    cells_put_padded(out, s ? s : "-", s ? strlen(s) : 1, width);
}

void cells_put_time(struct buf *out, const struct muster_value *record, const char *key)
{
    const char *s = body_text(record, key);
    size_t len = s ? strlen(s) : 0;

    cells_put_padded(out, s ? s : "-", len > TIME_LEN ? TIME_LEN : s ? len : 1, TIME_LEN);
}

/* "review,plan" and "lang=c,team=core", cut where they are long. */
void cells_put_words(struct buf *out, const struct muster_value *words, size_t width)
{
    struct buf line = {0};

    for (size_t i = 0; i < body_count(words); i++) {
        const char *key = NULL, *s;
        size_t key_len = 0, len = 0;
        const struct muster_value *v = body_is(words, MUSTER_MAP) ? value_key(words, i, &key, &key_len) : value_at(words, i);

        buf_puts(&line, i ? "," : "");
        buf_put(&line, key, key_len);
        buf_puts(&line, key ? "=" : "");
        s = body_is(v, MUSTER_STR) ? value_str(v, &len) : NULL;
        if (s)
            buf_put(&line, s, len);
        else
            buf_put_i64(&line, v ? value_int(v) : 0);
    }
    if (!line.len)
        buf_putc(&line, '-');
    term_put(out, line.data ? line.data : "", line.len, SHOWN_WORDS);
    for (size_t i = line.len; i < width; i++)
        buf_putc(out, ' ');
    out->failed |= buf_failed(&line);
    buf_done(&line);
}

void cells_put_value(struct buf *out, const struct muster_value *v)
{
    struct buf json = {0};
    struct muster_writer w;
    size_t len;
    const char *s = value_type(v) == MUSTER_STR ? value_str(v, &len) : NULL;

    if (s) {
        term_put(out, s, len, SHOWN_VALUE);
        return;
    }
    writer_init(&w, MUSTER_JSON, &json);
    writer_value(&w, v);
    term_put(out, json.data ? json.data : "", json.len, SHOWN_VALUE);
    out->failed |= buf_failed(&json);
    buf_done(&json);
}

void cells_put_all(struct buf *out, const struct muster_value *record)
{
    const struct muster_value *v;
    const char *key;
    size_t len;

    for (size_t i = 0; (v = value_key(record, i, &key, &len)); i++) {
        cells_put_padded(out, key, len, 14);
        cells_put_value(out, v);
        buf_putc(out, '\n');
    }
}
