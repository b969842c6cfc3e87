/* What the router hears: events of tasks, who is present, and what this broker itself has just committed; see router_parts.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "common/late.h"
#include "tasks/router_parts.h"
#include "tasks/words.h"

enum { EVENTS_MAX = 65536, EVENTS_BYTES = 64 << 20 };

/* ---- events ------------------------------------------------------------------------------------------------------------- */

enum means { MEANS_NOTHING, MEANS_QUEUED, MEANS_HELD, MEANS_OVER, MEANS_PAUSED, MEANS_RESUMED };

static enum means meaning(const char *state, size_t len)
{
    static const struct {
        const char *state;
        enum means means;
    } table[] = {
        {"queued", MEANS_QUEUED},   {"offered", MEANS_HELD},   {"running", MEANS_HELD},  {"input_required", MEANS_HELD},
        {"cancelling", MEANS_HELD}, {"scheduled", MEANS_OVER}, {"succeeded", MEANS_OVER}, {"failed", MEANS_OVER},
        {"dead", MEANS_OVER},       {"cancelled", MEANS_OVER}, {"expired", MEANS_OVER},  {"paused", MEANS_PAUSED},
        {"resumed", MEANS_RESUMED},
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strlen(table[i].state) == len && memcmp(table[i].state, state, len) == 0)
            return table[i].means;
    return MEANS_NOTHING;
}

static uint64_t header_number(const struct muster_msg *msg, const char *name)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < msg->n_headers; i++)
        if (strcmp(msg->headers[i].name, name) == 0)
            n = strtoull(msg->headers[i].value, NULL, 10);
    return n;
}

/* Positions have no holes: where there is one, events were missed. */
static void follow_position(struct routed *d, const struct muster_msg *msg)
{
    uint64_t epoch = header_number(msg, "Muster-Epoch"), seq = header_number(msg, "Muster-Seq");

    if (d->event_epoch && (epoch != d->event_epoch || seq > d->event_seq + 1))
        routed_again(d);
    if (epoch != d->event_epoch || seq > d->event_seq)
        d->event_seq = seq;
    d->event_epoch = epoch;
}

static void hear(struct routed *d, enum means means, const struct muster_value *event)
{
    const char *task_id = text_in(event, "task_id"), *holder = text_in(event, "assigned_to");
    const struct muster_value *epoch = value_in(event, "epoch");
    int64_t n = epoch ? value_int(epoch) : 0;

    if (!task_id)
        return;
    if (means == MEANS_QUEUED && match_is_news(d->m, task_id, n))
        look_at(d, task_id, n);
    else if (means == MEANS_QUEUED)
        return;
    else if (means == MEANS_OVER)
        match_over(d->m, task_id, n);
    else if (holder && !match_held(d->m, task_id, holder, text_in(event, "group"), n))
        routed_again(d);
}

static int on_event(void *self, const struct muster_msg *msg)
{
    const struct tasks *t = self;
    struct routed *d = routed_find(t->router, msg->tenant);
    const char *state = msg->subject + strlen("evt.task."), *key = strchr(state, '.');
    enum means means = d && key ? meaning(state, (size_t)(key - state)) : MEANS_NOTHING;
    struct muster_value *doc;
    struct wire_error error;

    if (!d)
        return 0;
    follow_position(d, msg);
    if (means == MEANS_PAUSED || means == MEANS_RESUMED)
        match_tenant_pause(d->m, means == MEANS_PAUSED || !d->ready);
    else if (means == MEANS_NOTHING || (means == MEANS_HELD && match_knows(d->m, key + 1)))
        return 0; /* its own assignment, of which it knows */
    else if (value_decode(msg->encoding, msg->payload, &doc, &error) == 0) {
        hear(d, means, doc);
        value_free(doc);
    }
    router_soon(t->router);
    return 0;
}

/* ---- who is present ----------------------------------------------------------------------------------------------------- */

enum { LABELS_MAX = 64, LABELS_BYTES = 32768 };

struct labels {
    const char *at[LABELS_MAX];
    char bytes[LABELS_BYTES];
};

static uint32_t labels_of(const struct muster_agent *agent, struct labels *labels)
{
    size_t used = 0;
    uint32_t n = 0;

    for (; n < agent->n_labels && n < LABELS_MAX; n++) {
        int len = snprintf(labels->bytes + used, sizeof labels->bytes - used, "%s" WORDS_LABEL "%s", agent->labels[n].name, agent->labels[n].value);

        if (len < 0 || (size_t)len >= sizeof labels->bytes - used)
            break;
        labels->at[n] = labels->bytes + used;
        used += (size_t)len + 1;
    }
    return n;
}

static int on_agent(void *arg, const struct muster_agent *agent)
{
    struct routed *d = arg;
    struct labels labels;
    const struct worker_spec spec = {
        .agent = agent->agent, .session = agent->session ? agent->session : "", .capabilities = agent->capabilities, .n_capabilities = agent->n_capabilities,
        .labels = labels.at, .n_labels = labels_of(agent, &labels), .capacity = agent->capacity, .load = agent->load,
        .able = !(agent->flags & (MUSTER_AGENT_SUSPECT | AGENT_IS_LATE)) && agent->status != MUSTER_AGENT_AWAY, .busy = agent->status == MUSTER_AGENT_BUSY,
        .pulls = agent->flags & MUSTER_AGENT_PULLS, .asks = agent->flags & MUSTER_AGENT_ASKS};

    if (!match_present(d->m, &spec))
        routed_again(d);
    return 0;
}

void feed_present(struct routed *d)
{
    struct router *r = d->r;
    const struct muster_roster_query all = {.size = sizeof all};

    match_present_begin(d->m);
    (void)r->roster->find(r->w->host, d->tenant, &all, on_agent, d);
    match_present_end(d->m);
}

/* ---- sessions that are over --------------------------------------------------------------------------------------------- */

struct loss {
    struct router *r;
    const struct muster_tenant *tenant;
    char args[]; /* {"agent": …, "session": …} */
};

static int release(struct loss *l);

static void on_released(void *arg, const struct muster_sql_result *result)
{
    struct loss *l = arg;
    const char *text = result->code || !result->n_rows ? NULL : result->get(result, 0, 0);

    if (text && strstr(text, "\"more\": true") && !strstr(text, "\"released\": 0}") && release(l) == 0)
        return;
    free(l); /* what is left, and what another has locked, the sweep finds */
}

static int release(struct loss *l)
{
    struct work *w = l->r->w;

    return w->sql->exec(w->host, l->r->stmt.session_lost, l->tenant, NULL, 2,
                        (struct muster_bytes[]){ask_param(w->tenants->name(l->tenant)), ask_param(l->args)}, on_released, l);
}

static void session_lost(struct router *r, const struct muster_tenant *tenant, const char *agent, const char *session)
{
    struct buf args = {0};
    struct loss *l;

    if (!session || !*session)
        return;
    buf_put_lit(&args, "{\"agent\":");
    buf_put_json(&args, agent, strlen(agent));
    buf_put_lit(&args, ",\"session\":");
    buf_put_json(&args, session, strlen(session));
    buf_putc(&args, '}');
    l = buf_failed(&args) ? NULL : malloc(sizeof *l + args.len + 1);
    if (l) {
        l->r = r;
        l->tenant = tenant;
        memcpy(l->args, args.data, args.len + 1);
        r->w->metrics->add(r->w->host, r->m.lost, NULL, 1);
        if (release(l) != 0)
            free(l);
    }
    buf_done(&args);
}

struct session {
    const char *name;
    bool is;
};

static int on_session(void *arg, const struct muster_agent *agent)
{
    struct session *s = arg;

    s->is = agent->session && strcmp(agent->session, s->name) == 0;
    return 0;
}

bool feed_has_other_session(const struct routed *d, const char *agent, const char *session)
{
    struct session s = {session, false};

    return d->r->roster->get(d->r->w->host, d->tenant, agent, on_session, &s) == 0 && !s.is;
}

void feed_look_for(struct router *r, const struct muster_tenant *tenant, const char *agent, const char *session)
{
    struct session s = {session, false};
    int err = r->roster->get(r->w->host, tenant, agent, on_session, &s);

    if (err == MUSTER_ENOTFOUND || (!err && !s.is))
        session_lost(r, tenant, agent, session);
}

static void on_change_of(struct routed *d, const struct muster_roster_change *change)
{
    struct router *r = d->r;

    if (change->kind == MUSTER_ROSTER_RESET) {
        feed_present(d);
        return;
    }
    if (change->kind == MUSTER_ROSTER_LEAVE || change->kind == MUSTER_ROSTER_REPLACED) {
        pull_gone(d, change->agent);
        session_lost(r, d->tenant, change->agent, change->session);
    }
    if ((change->kind == MUSTER_ROSTER_JOIN || change->kind == MUSTER_ROSTER_REPLACED) && match_holds(d->m, change->agent))
        routed_again(d); /* what another session held is not this one's */
    if (r->roster->get(r->w->host, d->tenant, change->agent, on_agent, d) == MUSTER_ENOTFOUND)
        match_absent(d->m, change->agent);
}

static void on_change(void *arg, const struct muster_roster_change *change)
{
    struct router *r = arg;
    struct routed *d = change->tenant ? routed_find(r, change->tenant) : NULL;

    if (d)
        on_change_of(d, change);
    for (struct link *l = r->routed.next; !change->tenant && l != &r->routed; l = l->next)
        on_change_of(LINK_OF(l, struct routed, link), change);
    router_soon(r);
}

int feed_start(struct router *r)
{
    const struct muster_subscription sub = {.size = sizeof sub, .subject = "evt.task.*.*", .overflow = MUSTER_OVERFLOW_DROP_OLD, .max_msgs = EVENTS_MAX,
                                            .max_bytes = EVENTS_BYTES, .fn = on_event};
    uint64_t id;
    int err = r->w->bus->subscribe(r->w->host, &sub, &id);

    return err ? err : r->roster->watch(r->w->host, on_change, r, &r->roster_id);
}

/* ---- what was committed here -------------------------------------------------------------------------------------------- */

static uint32_t strings_in(const struct muster_value *array, const char *words[WORDS_MAX])
{
    uint32_t n = 0;

    if (array && value_type(array) == MUSTER_ARRAY)
        for (size_t i = 0; i < value_count(array) && n < WORDS_MAX; i++)
            words[n++] = value_str(value_at(array, i), NULL);
    return n;
}

static uint32_t labels_in(const struct muster_value *map, struct buf *text, const char *words[WORDS_MAX])
{
    for (size_t i = 0; map && value_type(map) == MUSTER_MAP && i < value_count(map); i++) {
        const char *key;
        const struct muster_value *v = value_key(map, i, &key, NULL);

        if (value_type(v) == MUSTER_STR)
            buf_printf(text, "%s%s" WORDS_LABEL "%s", text->len ? "\x1e" : "", key, value_str(v, NULL));
    }
    return text->len && !buf_failed(text) ? words_split(text->data, words) : 0;
}

/* What a submitted task needs, until the next is asked for; its words stand in the request, and in r->needs. */
static struct route_spec needs_of(struct router *r, const struct ask *a)
{
    struct needs *n = &r->needs;

    buf_clear(&n->text);
    return (struct route_spec){.wanted = ask_str(a, "assigned_to"), .group = ask_str(a, "group"), .capabilities = n->capabilities, .labels = n->labels,
                               .n_capabilities = strings_in(value_in(a->args, "capabilities"), n->capabilities),
                               .n_labels = labels_in(value_in(a->args, "labels"), &n->text, n->labels)};
}

static void submitted(struct routed *d, const struct ask *a, const char *task_id, const struct muster_value *queued)
{
    const struct muster_value *route_id = value_in(queued, "route"), *pos = value_in(queued, "pos");
    struct task_spec task = {.task_id = task_id, .seq = 1};
    struct route_spec route;

    if (!route_id || !pos)
        return;
    route = needs_of(d->r, a);
    route.id = value_int(route_id);
    task.pos = value_int(pos);
    if (!match_queued(d->m, &route, &task))
        routed_again(d);
}

/* As far as can be seen it is queued by this. */
static bool will_be_queued(const struct ask *a)
{
    static const char *const later[] = {"dependencies", "parent", "run_after"};

    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (value_in(a->args, later[i]))
            return false;
    return true;
}

/* The database would have given it one. */
static void run_as(struct ask *a, const char *task_id)
{
    struct buf args = {0}, named = {0};

    ask_args(a, &args);
    buf_printf(&named, "{\"task_id\":\"%s\"%s", task_id, value_count(a->args) ? "," : "");
    if (args.len)
        buf_put(&named, args.data + 1, args.len - 1);
    if (buf_failed(&args) || buf_failed(&named))
        ask_failed(a, MUSTER_ENOMEM, "the task could not be submitted");
    else
        ask_run_with(a, named.data);
    buf_done(&args);
    buf_done(&named);
}

bool router_submits(struct ask *a)
{
    const struct tasks *t = (const struct tasks *)a->w;
    struct routed *d = t->router ? routed_find(t->router, a->msg->tenant) : NULL;
    const char *named = ask_str(a, "task_id");
    char made[CLOCK_UUID_SIZE];
    struct route_spec needs;
    bool early;

    if (!d || !d->ready || d->reading_routes || !will_be_queued(a))
        return true;
    if (!named)
        clock_uuid7(made);
    needs = needs_of(d->r, a);
    early = assign_early(d, &needs, named ? named : made);
    if (early && !named)
        run_as(a, made);
    return !early || named;
}

/* A new task. What one that is tried again needs is not in the request. */
static void made(struct routed *d, const struct ask *a, const char *task_id, const struct muster_value *queued)
{
    if (strcmp(a->verb->verb, "submit") == 0)
        submitted(d, a, task_id, queued);
    else
        look_at(d, task_id, INT64_MAX);
}

/* The answer's task_id or state. */
static void committed(struct routed *d, const struct ask *a, const struct muster_value *answer, const struct muster_value *more)
{
    const char *state = text_in(answer, "state"), *task_id = ask_str(a, "task_id"), *new_id = text_in(answer, "task_id");
    enum means means = state ? meaning(state, strlen(state)) : MEANS_NOTHING;

    if (value_in(more, "queued") && new_id)
        made(d, a, new_id, value_in(more, "queued"));
    else if (task_id && !new_id && (means == MEANS_OVER || means == MEANS_QUEUED))
        match_finished(d->m, task_id);
    if (task_id && !new_id && means == MEANS_QUEUED)
        look_at(d, task_id, INT64_MAX);
}

void router_done(struct tasks *t, const struct ask *a, const char *ok, size_t len, const struct muster_value *more)
{
    struct routed *d = t->router ? routed_find(t->router, a->msg->tenant) : NULL;
    struct muster_value *doc;
    struct wire_error error;

    if (!d || value_decode(MUSTER_JSON, (struct muster_bytes){ok, len}, &doc, &error) != 0)
        return;
    committed(d, a, doc, more);
    value_free(doc);
    router_soon(t->router);
}
