/* What `muster agents` prints; see agents.h. */
#include <inttypes.h>
#include <string.h>

#include "cli/agents.h"
#include "cli/body.h"
#include "cli/term.h"
#include "wire/writer.h"

enum { SHOWN_NAME = 128, SHOWN_VALUE = 200, SHOWN_WORDS = 60, SHOWN_AGENTS = 8, TIME_LEN = 19 }; /* 2026-01-31T23:59:59 */

static void put_padded(struct buf *out, const char *s, size_t len, size_t width)
{
    term_put(out, s, len, SHOWN_NAME);
    for (size_t i = len; i < width; i++)
        buf_putc(out, ' ');
    buf_puts(out, "  ");
}

static void put_text(struct buf *out, const struct muster_value *agent, const char *key, size_t width)
{
    const char *s = body_text(agent, key);

    put_padded(out, s ? s : "-", s ? strlen(s) : 1, width);
}

/* As people say it: whoever is suspect is that first. */
static void put_status(struct buf *out, const struct muster_value *agent)
{
    const char *s = body_true(agent, "suspect") ? "suspect" : body_text(agent, "status");

    put_padded(out, s ? s : "-", s ? strlen(s) : 1, 7);
}

static void put_time(struct buf *out, const struct muster_value *agent, const char *key)
{
    const char *s = body_text(agent, key);
    size_t len = s ? strlen(s) : 0;

    put_padded(out, s ? s : "-", len > TIME_LEN ? TIME_LEN : s ? len : 1, TIME_LEN);
}

/* "review,plan" and "lang=c,team=core", cut where they are long. */
static void put_words(struct buf *out, const struct muster_value *words, size_t width)
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

void agents_put_head(struct buf *out)
{
    buf_printf(out, "%-16s  %-24s  %-7s  %-24s  %-19s  %-24s  %s\n", "TENANT", "AGENT", "STATUS", "TASK", "HEARD (UTC)", "CAPABILITIES",
               "LABELS");
}

void agents_put_row(struct buf *out, const struct muster_value *agent)
{
    put_text(out, agent, "tenant_id", 16);
    put_text(out, agent, "agent_id", 24);
    put_status(out, agent);
    put_text(out, agent, "task", 24);
    put_time(out, agent, "last_heartbeat");
    put_words(out, body_get(agent, "capabilities"), 24);
    buf_puts(out, "  ");
    put_words(out, body_get(agent, "labels"), 0);
    buf_putc(out, '\n');
}

static void put_value(struct buf *out, const struct muster_value *v)
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

void agents_put_all(struct buf *out, const struct muster_value *agent)
{
    const struct muster_value *v;
    const char *key;
    size_t len;

    for (size_t i = 0; (v = value_key(agent, i, &key, &len)); i++) {
        put_padded(out, key, len, 14);
        put_value(out, v);
        buf_putc(out, '\n');
    }
}

void agents_put_count(struct buf *out, const char *tenant, const struct muster_value *answer)
{
    const struct muster_value *by = body_get(answer, "by_status"), *count = body_get(answer, "count"), *v;
    const char *key;
    size_t len;

    put_padded(out, tenant, strlen(tenant), 16);
    buf_printf(out, "%8" PRId64, count ? value_int(count) : 0);
    for (size_t i = 0; by && (v = value_key(by, i, &key, &len)); i++) {
        buf_puts(out, "  ");
        term_put(out, key, len, SHOWN_NAME);
        buf_printf(out, " %" PRId64, value_int(v));
    }
    buf_putc(out, '\n');
}

/* ---- events ---- */

static void put_pair(struct buf *out, const char *name, const struct muster_value *v)
{
    if (!v || value_type(v) == MUSTER_NULL || ((body_is(v, MUSTER_MAP) || body_is(v, MUSTER_ARRAY)) && !body_count(v)))
        return;
    buf_printf(out, " %s=", name);
    if (body_is(v, MUSTER_MAP) || body_is(v, MUSTER_ARRAY))
        put_words(out, v, 0);
    else
        put_value(out, v);
}

/* "busy (was online) task=t-1 capabilities=review,plan": what is said of everybody, as load and metadata, is for `show`. */
static void put_told(struct buf *out, const struct muster_value *agent)
{
    static const char *const members[] = {"reason", "task", "capabilities", "labels"};
    const char *status = body_text(agent, "status"), *from = body_text(agent, "from");

    if (status)
        put_value(out, body_get(agent, "status"));
    if (status && from && strcmp(status, from) != 0) {
        buf_puts(out, " (was ");
        put_value(out, body_get(agent, "from"));
        buf_putc(out, ')');
    }
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        put_pair(out, members[i], body_get(agent, members[i]));
}

static void put_digest(struct buf *out, const struct muster_value *agents)
{
    size_t n = body_count(agents);

    buf_printf(out, "%zu agents:", n);
    for (size_t i = 0; i < n && i < SHOWN_AGENTS; i++) {
        const char *name = body_text(value_at(agents, i), "agent_id");

        buf_puts(out, i ? ", " : " ");
        term_put(out, name ? name : "?", name ? strlen(name) : 1, SHOWN_NAME);
    }
    if (n > SHOWN_AGENTS)
        buf_printf(out, " and %zu more", n - SHOWN_AGENTS);
}

void agents_put_event(struct buf *out, const struct muster_value *body)
{
    const struct muster_value *agents = body_get(body, "agents"), *count = body_get(body, "count");

    if (body_is(agents, MUSTER_ARRAY)) {
        put_digest(out, agents);
    } else if (count) {
        put_value(out, count);
        buf_puts(out, ": ");
        put_words(out, body_get(body, "by_status"), 0);
    } else {
        put_told(out, body);
    }
}
