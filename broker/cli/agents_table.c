/* What `muster agents` prints; see agents.h. */
#include <inttypes.h>
#include <string.h>

#include "cli/agents.h"
#include "cli/body.h"
#include "cli/cells.h"
#include "cli/term.h"

enum { SHOWN_NAME = 128, SHOWN_AGENTS = 8 };

/* As people say it: whoever is suspect is that first. */
static void put_status(struct buf *out, const struct muster_value *agent)
{
    const char *s = body_true(agent, "suspect") ? "suspect" : body_text(agent, "status");

    cells_put_padded(out, s ? s : "-", s ? strlen(s) : 1, 7);
}

void agents_put_head(struct buf *out)
{
    buf_printf(out, "%-16s  %-24s  %-7s  %-24s  %-19s  %-24s  %s\n", "TENANT", "AGENT", "STATUS", "TASK", "HEARD (UTC)", "CAPABILITIES",
               "LABELS");
}

void agents_put_row(struct buf *out, const struct muster_value *agent)
{
    cells_put_text(out, agent, "tenant_id", 16);
    cells_put_text(out, agent, "agent_id", 24);
    put_status(out, agent);
    cells_put_text(out, agent, "task", 24);
    cells_put_time(out, agent, "last_heartbeat");
    cells_put_words(out, body_get(agent, "capabilities"), 24);
    buf_puts(out, "  ");
    cells_put_words(out, body_get(agent, "labels"), 0);
    buf_putc(out, '\n');
}

void agents_put_count(struct buf *out, const char *tenant, const struct muster_value *answer)
{
    const struct muster_value *by = body_get(answer, "by_status"), *count = body_get(answer, "count"), *v;
    const char *key;
    size_t len;

    cells_put_padded(out, tenant, strlen(tenant), 16);
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
        cells_put_words(out, v, 0);
    else
        cells_put_value(out, v);
}

/* "busy (was online) task=t-1 capabilities=review,plan": what is said of everybody, as load and metadata, is for `show`. */
static void put_told(struct buf *out, const struct muster_value *agent)
{
    static const char *const members[] = {"reason", "task", "capabilities", "labels"};
    const char *status = body_text(agent, "status"), *from = body_text(agent, "from");

    if (status)
        cells_put_value(out, body_get(agent, "status"));
    if (status && from && strcmp(status, from) != 0) {
        buf_puts(out, " (was ");
        cells_put_value(out, body_get(agent, "from"));
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
        cells_put_value(out, count);
        buf_puts(out, ": ");
        cells_put_words(out, body_get(body, "by_status"), 0);
    } else {
        put_told(out, body);
    }
}
