/* From muster.audit into the stream; see audit_admin.h. */
#include "core/audit_admin.h"

#include <muster/plugin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/audit.h"
#include "core/broker.h"
#include "core/lane.h"
#include "core/revocation.h"
#include "tenant/tenant.h"

enum { LOOK_MS = 500, REST_MS = 60000, MAX_STORED = 4096, NS_OF_US = 1000 };

/* In the order in which it was done: RETURNING gives rows as the join finds them. */
static const char claim_text[] =
    "WITH claimed AS (UPDATE muster.audit SET claimed_until = clock_timestamp() + interval '1 minute' WHERE id IN ("
    "SELECT id FROM muster.audit WHERE claimed_until IS NULL OR claimed_until < clock_timestamp() ORDER BY id LIMIT 500"
    " FOR UPDATE SKIP LOCKED) RETURNING *)"
    " SELECT id, (extract(epoch FROM at) * 1000000)::bigint, tenant, service, verb, object, by, login FROM claimed ORDER BY id";
static const char remove_text[] = "DELETE FROM muster.audit WHERE id = ANY ($1::bigint[])";
_Static_assert(AUDIT_ADMIN_BATCH == 500, "as the statement says");

struct audit_admin {
    struct broker *broker;
    uv_timer_t timer;
    bool open, asking;
    pthread_mutex_t lock; /* guards these: rows that the stream has, told by the audit lane */
    int64_t stored[MAX_STORED];
    size_t n_stored;
};

/* What finds no room is claimed again after its minute, and the stream knows it. */
static void on_stored(void *arg, int64_t row)
{
    struct audit_admin *a = arg;

    pthread_mutex_lock(&a->lock);
    if (a->n_stored < MAX_STORED)
        a->stored[a->n_stored++] = row;
    pthread_mutex_unlock(&a->lock);
}

static void put(char *out, size_t size, const char *s)
{
    (void)snprintf(out, size, "%s", s ? s : "");
}

/* Of a name that was revoked or removed the notice tells all brokers that hear it; the row is there for those that did not run, or were away
 * from the database. */
static bool ends_connections(const char *verb)
{
    return strcmp(verb, "rotate") == 0 || strcmp(verb, "revoke") == 0 || strcmp(verb, "remove") == 0;
}

/* The tenant and the names become tokens of a subject: the table's constraints and triggers let nothing else in. */
static void take_row(struct audit_admin *a, const struct muster_sql_result *result, uint32_t i)
{
    struct audit_record r = {.agent = "_muster", .result = "ok"};

    r.row = strtoll(result->get(result, i, 0), NULL, 10);
    r.at_wall_ns = strtoll(result->get(result, i, 1), NULL, 10) * NS_OF_US;
    put(r.tenant, sizeof r.tenant, result->get(result, i, 2));
    put(r.service, sizeof r.service, result->get(result, i, 3));
    put(r.verb, sizeof r.verb, result->get(result, i, 4));
    put(r.object, sizeof r.object, result->get(result, i, 5));
    put(r.by, sizeof r.by, result->get(result, i, 6));
    put(r.login, sizeof r.login, result->get(result, i, 7));
    if (name_is_public(r.tenant, strlen(r.tenant)))
        (void)audit_add(broker_audit(a->broker), &r); /* without room it is claimed again */
    if (strcmp(r.service, "agent") == 0 && ends_connections(r.verb)) /* one broker is enough for that */
        revocation_cut_before(broker_revocation(a->broker), r.tenant, r.object, r.at_wall_ns);
}

static void on_look(uv_timer_t *timer);

static void rest(struct audit_admin *a, int ms)
{
    if (a->open)
        ASSERT(uv_timer_start(&a->timer, on_look, (uint64_t)ms, 0) == 0);
}

static void on_claimed(void *arg, const struct muster_sql_result *result)
{
    struct audit_admin *a = arg;

    a->asking = false;
    if (result->code && result->code != MUSTER_ELINK) /* that is told by the registry */
        log_warn("audit", "what was done to tenants and names cannot be read, trying again in a minute: %s", result->error);
    for (uint32_t i = 0; !result->code && i < result->n_rows; i++)
        take_row(a, result, i);
    rest(a, result->code && result->code != MUSTER_ELINK ? REST_MS : result->n_rows == AUDIT_ADMIN_BATCH ? 0 : LOOK_MS);
}

static void on_removed(void *arg, const struct muster_sql_result *result)
{
    (void)arg;
    (void)result; /* what stays is claimed again, and the stream knows it */
}

static bool put_stored(struct audit_admin *a, struct buf *list)
{
    size_t n;

    buf_putc(list, '{');
    pthread_mutex_lock(&a->lock);
    n = a->n_stored;
    for (size_t i = 0; i < n; i++)
        buf_printf(list, "%s%lld", i ? "," : "", (long long)a->stored[i]);
    a->n_stored = 0;
    pthread_mutex_unlock(&a->lock);
    buf_putc(list, '}');
    return n && !buf_failed(list);
}

static void remove_stored(struct audit_admin *a)
{
    struct buf list = {0};

    if (put_stored(a, &list)) {
        const char *const params[] = {list.data};

        (void)tenants_ask(broker_tenants(a->broker), remove_text, 1, params, on_removed, a); /* else as in on_removed() */
    }
    buf_done(&list);
}

static void on_look(uv_timer_t *timer)
{
    struct audit_admin *a = timer->data;

    remove_stored(a);
    if (a->asking)
        return;
    a->asking = tenants_ask(broker_tenants(a->broker), claim_text, 0, NULL, on_claimed, a) == 0;
    if (!a->asking)
        rest(a, LOOK_MS);
}

int audit_admin_open(struct audit_admin *a)
{
    ASSERT(uv_timer_init(lane_loop(broker_lane(a->broker)), &a->timer) == 0);
    a->timer.data = a;
    a->open = true;
    rest(a, LOOK_MS);
    return 0;
}

void audit_admin_close(struct audit_admin *a)
{
    if (!a || !a->open)
        return;
    a->open = false;
    uv_close((uv_handle_t *)&a->timer, NULL);
}

int audit_admin_new(struct broker *broker, struct audit_admin **ret_admin)
{
    struct audit_admin *a = calloc(1, sizeof *a);

    if (!a)
        return MUSTER_ENOMEM;
    a->broker = broker;
    ASSERT(pthread_mutex_init(&a->lock, NULL) == 0);
    audit_on_stored(broker_audit(broker), on_stored, a);
    *ret_admin = a;
    return 0;
}

void audit_admin_free(struct audit_admin *a)
{
    if (!a)
        return;
    (void)pthread_mutex_destroy(&a->lock);
    free(a);
}
