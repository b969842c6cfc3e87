/*
 * A share_knowledge that an expert sends straight to the asker is an answer. Every broker hears them, and asks the database about those to and from
 * whom it knows to be in one request; the broker that took the request knows at once, others by its events. Said by two brokers it is said twice,
 * which is no error.
 */
#include <stdlib.h>
#include <string.h>

#include "common/work/ask.h"
#include "common/work/notice.h"
#include "common/work/storable.h"
#include "help/help.h"

enum { HEARD_MAX = 16384, HEARD_BYTES = 32 << 20, EVENTS_MAX = 65536, EVENTS_BYTES = 64 << 20, SOLUTION_BYTES_MAX = 500000 };

/* ---- what is open ------------------------------------------------------------------------------------------------------- */

static bool is_over(const char *state)
{
    static const char *const over[] = {"accepted", "withdrawn", "expired", "unanswered"};

    for (size_t i = 0; i < sizeof over / sizeof *over; i++)
        if (strcmp(state, over[i]) == 0)
            return true;
    return false;
}

static void note_event(struct help *h, const struct muster_tenant *tenant, const struct muster_value *event)
{
    const struct muster_value *to = value_in(event, "offered_to");
    const char *names[KNOWN_NAMES_MAX], *state = text_in(event, "state"), *help_id = text_in(event, "help_id"), *asker = text_in(event, "asker");
    size_t n = 0;

    if (!state || !help_id || !asker)
        return;
    if (is_over(state)) {
        known_forget(&h->known, h->work.tenants->name(tenant), help_id);
        return;
    }
    names[n++] = asker;
    for (size_t i = 0; to && i < value_count(to) && n < KNOWN_NAMES_MAX; i++)
        if (value_str(value_at(to, i), NULL))
            names[n++] = value_str(value_at(to, i), NULL);
    known_add(&h->known, h->work.tenants->name(tenant), help_id, names, n);
}

static int on_event(void *self, const struct muster_msg *msg)
{
    struct muster_value *event;
    struct wire_error error;
    int err = value_decode(msg->encoding, msg->payload, &event, &error);

    if (err)
        return err;
    note_event(self, msg->tenant, event);
    value_free(event);
    return 0;
}

static void note_row(struct help *h, const char *tenant, const char *help_id, const char *joined)
{
    const char *names[KNOWN_NAMES_MAX];
    char *copy = strdup(joined), *rest = NULL;
    size_t n = 0;

    for (char *name = copy ? strtok_r(copy, ",", &rest) : NULL; name && n < KNOWN_NAMES_MAX; name = strtok_r(NULL, ",", &rest))
        names[n++] = name;
    known_add(&h->known, tenant, help_id, names, n);
    free(copy);
}

static void on_involved(void *arg, const struct muster_sql_result *r)
{
    struct help *h = arg;
    bool again = h->read_open_again;

    for (uint32_t i = 0; !r->code && i < r->n_rows; i++)
        note_row(h, r->get(r, i, 0), r->get(r, i, 1), r->get(r, i, 2));
    if (!r->code && r->n_rows < KNOWN_REQUESTS_MAX)
        known_end(&h->known);
    h->reading_open = h->read_open_again = false;
    if (again)
        knowledge_tables(h);
}

void knowledge_tables(struct help *h)
{
    if (h->reading_open) {
        h->read_open_again = true;
        return;
    }
    known_begin(&h->known);
    h->reading_open = h->work.sql->exec(h->work.host, h->involved, NULL, NULL, 0, NULL, on_involved, h) == 0;
}

/* ---- what is shared ----------------------------------------------------------------------------------------------------- */

struct shared {
    struct help *h;
    const struct muster_tenant *tenant;
};

static void on_known(void *arg, const struct muster_sql_result *result)
{
    struct shared *s = arg;

    tells_of_result(s->h, s->tenant, result);
    free(s);
}

/* The solution is the member of that name, also of a payload as the hub's clients wrap it, otherwise all that was said. */
static const struct muster_value *solution_in(const struct muster_value *doc)
{
    const struct muster_value *payload = value_in(doc, "payload"), *inner = value_in(payload, "solution");

    if (inner)
        return inner;
    return value_in(doc, "solution") ? value_in(doc, "solution") : doc;
}

static void put_member(struct buf *args, const char *key, const struct muster_value *v)
{
    buf_printf(args, ",\"%s\":", key);
    notice_put_value(args, v);
}

/* What is too deep for an event, or has numbers that are too long, is kept as the bytes that it came as. */
static bool can_be_kept(const struct muster_value *doc)
{
    char field[STORABLE_FIELD_SIZE], why[STORABLE_WHY_SIZE];

    return levels_of(doc) <= LEVELS_MAX && (value_type(doc) != MUSTER_MAP || storable(doc, field, why));
}

static void put_solution(struct buf *args, const struct muster_msg *msg)
{
    struct muster_value *doc = notice_body(msg);
    const struct muster_value *confidence, *help_id;

    if (doc && !can_be_kept(doc)) {
        value_free(doc);
        doc = NULL;
    }
    if (!doc) {
        buf_put_lit(args, ",\"solution\":{\"base64\":\"");
        buf_put_base64(args, msg->payload.data, msg->payload.len);
        buf_put_lit(args, "\"}");
        return;
    }
    put_member(args, "solution", solution_in(doc));
    confidence = value_in(doc, "confidence");
    if (confidence && (value_type(confidence) == MUSTER_INT || value_type(confidence) == MUSTER_FLOAT))
        put_member(args, "confidence", confidence);
    help_id = value_in(doc, "help_id") ? value_in(doc, "help_id") : value_in(value_in(doc, "payload"), "help_id");
    if (help_id && value_type(help_id) == MUSTER_STR)
        put_member(args, "help_id", help_id);
    value_free(doc);
}

static int share(struct help *h, const struct muster_msg *msg, const struct buf *args)
{
    struct shared *s = malloc(sizeof *s);
    int err;

    if (!s)
        return MUSTER_ENOMEM;
    *s = (struct shared){h, msg->tenant};
    err = h->work.sql->exec(h->work.host, h->knowledge, msg->tenant, NULL, 3,
                            (struct muster_bytes[]){ask_param(h->work.tenants->name(msg->tenant)), ask_param(msg->agent), {args->data, args->len}}, on_known, s);
    if (err)
        free(s);
    return err;
}

/* "to.<asker>.<expert>.share_knowledge" */
static int on_share(void *self, const struct muster_msg *msg)
{
    struct help *h = self;
    const char *asker = msg->subject + sizeof "to." - 1, *end = strchr(asker, '.'), *tenant = h->work.tenants->name(msg->tenant);
    char name[65];
    struct buf args = {0};
    int err = 0;

    if (!msg->agent || !end || (size_t)(end - asker) >= sizeof name || msg->payload.len > SOLUTION_BYTES_MAX)
        return 0;
    memcpy(name, asker, (size_t)(end - asker));
    name[end - asker] = '\0';
    if (!known_has(&h->known, tenant, name) || !known_has(&h->known, tenant, msg->agent))
        return 0;
    buf_printf(&args, "{\"asker\":\"%s\"", name);
    put_solution(&args, msg);
    experts_put_session(h, msg->tenant, msg->agent, &args);
    buf_putc(&args, '}');
    if (!buf_failed(&args))
        err = share(h, msg, &args);
    buf_done(&args);
    return err;
}

/* ---- who has gone ------------------------------------------------------------------------------------------------------- */

enum { LOST_AT_ONCE = 50 };

struct lost {
    struct help *h;
    const struct muster_tenant *tenant;
};

/* What is more than that the sweep finds. */
static void on_lost(void *arg, const struct muster_sql_result *result)
{
    struct lost *l = arg;

    tells_of_result(l->h, l->tenant, result);
    free(l);
}

static void lose(struct help *h, const struct muster_roster_change *change)
{
    struct lost *l = malloc(sizeof *l);
    struct buf args = {0};

    buf_put_lit(&args, "{\"agent\":");
    buf_put_json(&args, change->agent, strlen(change->agent));
    buf_put_lit(&args, ",\"session\":");
    buf_put_json(&args, change->session, strlen(change->session));
    buf_printf(&args, ",\"limit\":%d}", LOST_AT_ONCE);
    if (!l || buf_failed(&args)) {
        free(l);
        buf_done(&args);
        return;
    }
    *l = (struct lost){h, change->tenant};
    if (h->work.sql->exec(h->work.host, h->lost, change->tenant, NULL, 2,
                          (struct muster_bytes[]){ask_param(h->work.tenants->name(change->tenant)), {args.data, args.len}}, on_lost, l) != 0)
        free(l);
    buf_done(&args);
}

static void on_roster(void *arg, const struct muster_roster_change *change)
{
    struct help *h = arg;

    if ((change->kind != MUSTER_ROSTER_LEAVE && change->kind != MUSTER_ROSTER_REPLACED) || !change->session)
        return;
    if (known_has(&h->known, h->work.tenants->name(change->tenant), change->agent))
        lose(h, change);
}

/* ---- begin -------------------------------------------------------------------------------------------------------------- */

int knowledge_create(struct help *h)
{
    const struct muster_sql *sql = h->work.sql;
    int err = sql->prepare(h->work.host, "help_knowledge", MUSTER_SQL_WRITE, "SELECT muster.help_knowledge($1, $2, $3::jsonb)", &h->knowledge);

    if (!err)
        err = sql->prepare(h->work.host, "help_session_lost", MUSTER_SQL_WRITE, "SELECT muster.help_session_lost($1, '_muster', $2::jsonb)", &h->lost);
    if (!err)
        err = sql->prepare(h->work.host, "help_involved", MUSTER_SQL_READ, "SELECT * FROM muster.help_involved(65536)", &h->involved);
    return err;
}

int knowledge_start(struct help *h)
{
    struct muster_subscription sub = {.size = sizeof sub, .overflow = MUSTER_OVERFLOW_DROP_NEW, .max_msgs = HEARD_MAX, .max_bytes = HEARD_BYTES,
                                      .subject = "to.*.*.share_knowledge", .fn = on_share};
    uint64_t id;
    int err = h->work.bus->subscribe(h->work.host, &sub, &id);

    if (err)
        return err;
    sub.subject = "evt.help.>";
    sub.max_msgs = EVENTS_MAX;
    sub.max_bytes = EVENTS_BYTES;
    sub.fn = on_event;
    err = h->work.bus->subscribe(h->work.host, &sub, &id);
    return err ? err : h->roster->watch(h->work.host, on_roster, h, &id);
}
