/* Who is present and fits what a request wants. Who of them is asked the database says, which knows what became of their answers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "common/work/ask.h"
#include "help/help.h"

/* Among very many a part is looked at, each time another one, and of that a sample is taken. */
#define LEARNS_NS (5 * CLOCK_S)

enum { LOOKED_AT_MAX = 2048, PICKED_MAX = 128, WANTED_MAX = 64, NAME_MAX_SIZE = 65 };

struct picked {
    char agent[NAME_MAX_SIZE];
    double load; /* NaN: not known */
};

struct look {
    const char *asker;
    struct picked picked[PICKED_MAX];
    size_t n;         /* that fit */
    uint32_t left;    /* to look at */
    uint64_t last;    /* serial of the last one */
    uint64_t until;   /* of the second part: where the first began */
};

static void pick(struct look *look, const struct muster_agent *agent)
{
    size_t at = look->n < PICKED_MAX ? look->n : (size_t)(clock_random() % (look->n + 1));

    look->n++;
    if (at >= PICKED_MAX)
        return;
    (void)snprintf(look->picked[at].agent, sizeof look->picked[at].agent, "%s", agent->agent);
    look->picked[at].load = isnan(agent->load) && agent->status == MUSTER_AGENT_BUSY ? 1 : agent->load;
}

static int on_agent(void *arg, const struct muster_agent *agent)
{
    struct look *look = arg;

    if (look->until && agent->serial > look->until)
        return 1;
    look->last = agent->serial;
    look->left--;
    if (strcmp(agent->agent, look->asker) != 0)
        pick(look, agent);
    return look->left == 0;
}

/* The query borrows from wants. */
struct wanted {
    struct muster_roster_query query;
    const char *capabilities[WANTED_MAX];
    struct muster_header labels[WANTED_MAX];
};

static void want(struct wanted *w, const struct muster_value *wants)
{
    const struct muster_value *capabilities = value_in(wants, "capabilities"), *labels = value_in(wants, "labels");

    *w = (struct wanted){.query = {.size = sizeof w->query,
                                   .statuses = 1u << MUSTER_AGENT_ONLINE | 1u << MUSTER_AGENT_BUSY,
                                   .without_flags = MUSTER_AGENT_SUSPECT,
                                   .capabilities = w->capabilities,
                                   .labels = w->labels}};
    for (size_t i = 0; capabilities && i < value_count(capabilities) && i < WANTED_MAX; i++)
        if (value_str(value_at(capabilities, i), NULL))
            w->capabilities[w->query.n_capabilities++] = value_str(value_at(capabilities, i), NULL);
    for (size_t i = 0; labels && i < value_count(labels) && i < WANTED_MAX; i++) {
        const char *key;
        const char *value = value_str(value_key(labels, i, &key, NULL), NULL);

        if (value)
            w->labels[w->query.n_labels++] = (struct muster_header){key, value};
    }
}

static void find(struct help *h, const struct muster_tenant *tenant, struct wanted *w, struct look *look)
{
    uint64_t from = h->look_from;

    look->left = LOOKED_AT_MAX;
    w->query.after = from;
    (void)h->roster->find(h->work.host, tenant, &w->query, on_agent, look);
    h->look_from = look->last;
    if (look->left == 0 || from == 0)
        return;
    w->query.after = 0; /* the end was reached */
    look->until = from;
    (void)h->roster->find(h->work.host, tenant, &w->query, on_agent, look);
    h->look_from = look->left ? 0 : look->last;
}

/* So that of those who are worth the same it is not always the same one who is asked. */
static void shuffle(struct look *look, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t k = (size_t)(clock_random() % i);
        struct picked one = look->picked[i - 1];

        look->picked[i - 1] = look->picked[k];
        look->picked[k] = one;
    }
}

size_t experts_put(struct help *h, const struct muster_tenant *tenant, const struct muster_value *wants, const char *asker, struct buf *out)
{
    struct look look = {.asker = asker};
    struct wanted wanted;
    size_t n;

    want(&wanted, wants);
    find(h, tenant, &wanted, &look);
    n = look.n < PICKED_MAX ? look.n : PICKED_MAX;
    shuffle(&look, n);
    buf_putc(out, '[');
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "%s{\"agent\":\"%s\"", i ? "," : "", look.picked[i].agent);
        if (isfinite(look.picked[i].load))
            buf_printf(out, ",\"load\":%g", look.picked[i].load);
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
    return n;
}

/* The roster of a broker that has just begun is empty for a moment. */
bool experts_are_known(struct help *h, const struct muster_tenant *tenant)
{
    return h->roster->count(h->work.host, tenant, NULL) > 0 || h->work.timer->now(h->work.host) - h->started_ns > LEARNS_NS;
}

static int on_session(void *arg, const struct muster_agent *agent)
{
    struct buf *out = arg;

    buf_put_lit(out, ",\"session\":");
    buf_put_json(out, agent->session, strlen(agent->session));
    return 1;
}

void experts_put_session(struct help *h, const struct muster_tenant *tenant, const char *agent, struct buf *out)
{
    (void)h->roster->get(h->work.host, tenant, agent, on_session, out);
}

/* ---- an open request ---------------------------------------------------------------------------------------------------- */

struct offering {
    struct help *h;
    const struct muster_tenant *tenant;
};

/* Refused: another broker was faster, or it has ended. */
static void on_offered(void *arg, const struct muster_sql_result *result)
{
    struct offering *o = arg;

    tells_of_result(o->h, o->tenant, result);
    free(o);
}

static int offer(struct help *h, const struct muster_tenant *tenant, const char *help_id, const struct buf *args)
{
    struct offering *o = malloc(sizeof *o);
    int err;

    if (!o)
        return MUSTER_ENOMEM;
    *o = (struct offering){h, tenant};
    err = h->work.sql->exec(h->work.host, h->offer, tenant, help_id, 2,
                            (struct muster_bytes[]){ask_param(h->work.tenants->name(tenant)), {args->data, args->len}}, on_offered, o);
    if (err)
        free(o);
    return err;
}

/* What cannot be asked now is looked for again by the sweep. */
void experts_look(struct help *h, const struct muster_tenant *tenant, const struct muster_value *wants)
{
    const char *help_id = text_in(wants, "help_id"), *asker = text_in(wants, "asker");
    const struct muster_value *seq = value_in(wants, "seq");
    struct buf args = {0};
    size_t n;

    if (!help_id || !asker || !seq)
        return;
    buf_put_lit(&args, "{\"help_id\":");
    buf_put_json(&args, help_id, strlen(help_id));
    buf_printf(&args, ",\"seq\":%lld,\"candidates\":", (long long)value_int(seq));
    n = experts_put(h, tenant, wants, asker, &args);
    buf_putc(&args, '}');
    if (!buf_failed(&args) && (n || experts_are_known(h, tenant)))
        (void)offer(h, tenant, help_id, &args);
    buf_done(&args);
}
