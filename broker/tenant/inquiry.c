/*
 * Names that are asked for in the database; see credentials.h. On the loop's thread, but for credentials_want().
 *
 * One statement is on its way at a time, and asks for all that came meanwhile: a broker that starts among a hundred thousand agents
 * asks some dozens of times.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/roles.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "tenant/credentials_parts.h"

enum { RETRY_MS = 1000, NS_OF_US = 1000 };

/* An operator is asked for with tenant '' and its bare name; the index one_operator_a_name finds it. */
static const char batch_text[] =
    "SELECT q.n, c.role,"
    " CASE WHEN c.expires_at = 'infinity' THEN NULL WHEN c.expires_at = '-infinity' THEN 1"
    " ELSE (extract(epoch FROM c.expires_at) * 1000000)::bigint END,"
    " c.revoked_at IS NOT NULL, array_to_string(c.verbs, ' '), array_to_string(c.groups, ','), array_to_string(c.tables, ',')"
    " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS q(tenant, agent, n) CROSS JOIN LATERAL ("
    "SELECT role, expires_at, revoked_at, verbs, groups, tables FROM muster.credentials WHERE tenant = q.tenant AND agent = q.agent UNION ALL "
    "SELECT role, expires_at, revoked_at, verbs, groups, tables FROM muster.credentials WHERE q.tenant = '' AND agent = q.agent"
    " AND role = 'operator' AND revoked_at IS NULL) AS c";

/* ---- what is asked ---------------------------------------------------------------------------------------------------------------- */

static struct inquiry *inquiry_new(const char *tenant, size_t tenant_len, const char *agent, size_t agent_len, bool wanted)
{
    struct inquiry *q = calloc(1, sizeof *q);

    if (!q)
        return NULL;
    q->wanted = wanted;
    memcpy(q->tenant, tenant, tenant_len);
    memcpy(q->agent, agent, agent_len);
    return q;
}

/* False: nothing is asked any more, or too many changes wait; q is still the caller's. */
static bool append(struct credentials *c, struct inquiry *q)
{
    bool ok;

    pthread_mutex_lock(&c->lock);
    ok = !c->closed && (q->wanted || c->n_changes < CREDENTIALS_CHANGES_MAX);
    if (ok) {
        if (c->last)
            c->last->next = q;
        else
            c->first = q;
        c->last = q;
        c->n_changes += !q->wanted;
    }
    pthread_mutex_unlock(&c->lock);
    return ok;
}

static struct inquiry *take_inquiry(struct credentials *c)
{
    struct inquiry *q;

    pthread_mutex_lock(&c->lock);
    q = c->first;
    if (q) {
        c->first = q->next;
        if (!c->first)
            c->last = NULL;
        c->n_changes -= !q->wanted;
    }
    pthread_mutex_unlock(&c->lock);
    return q;
}

void credentials_want(struct credentials *c, const char *tenant, size_t tenant_len, const char *agent, size_t agent_len)
{
    char names[2][NAME_MAX_LEN + 1] = {{0}};
    struct inquiry *q;

    ASSERT(tenant_len <= NAME_MAX_LEN && agent_len <= NAME_MAX_LEN);
    memcpy(names[0], tenant, tenant_len);
    memcpy(names[1], agent, agent_len);
    q = inquiry_new(names[0], tenant_len, names[1], agent_len, true);
    if (q && append(c, q)) {
        c->how.wake(c->how.arg);
        return;
    }
    free(q);
    c->how.on_answer(c->how.arg, names[0], names[1], CREDENTIALS_AWAY);
}

void credentials_mark_stale(struct credentials *c, struct credential *credential)
{
    if (credential->stale)
        return;
    credential->stale = true;
    credential->next_stale = NULL;
    if (c->stale_last)
        c->stale_last->next_stale = credential;
    else
        c->stale_first = credential;
    c->stale_last = credential_ref(credential);
}

static struct credential *take_stale(struct credentials *c)
{
    struct credential *credential = c->stale_first;

    if (!credential)
        return NULL;
    c->stale_first = credential->next_stale;
    if (!c->stale_first)
        c->stale_last = NULL;
    credential->stale = false;
    return credential;
}

/* A cached one is read again. One that is not is read where a connection of it could have to be cut. */
static void change(struct credentials *c, const char *tenant, const struct muster_tenant *handle, const char *agent, bool is_new)
{
    struct credential *cached = credentials_find(c, handle, agent, strlen(agent));
    struct inquiry *q;

    if (cached)
        credentials_mark_stale(c, cached);
    credential_unref(cached);
    if (cached || is_new || c->n_watchers == 0 || !handle)
        return;
    q = inquiry_new(tenant, strlen(tenant), agent, strlen(agent), false);
    if (q && append(c, q))
        return;
    free(q);
    log_warn("tenant", "%s in %s was changed, and too many changes wait: its connections are not looked at", agent, tenant);
}

/* An operator has a second entry under the name by which it asks elsewhere. */
void credentials_changed(struct credentials *c, const char *tenant, const char *agent, bool is_new)
{
    char alias[2 * NAME_MAX_LEN];
    struct muster_tenant *handle;

    if (!tenant || !agent) {
        credentials_stale(c);
        return;
    }
    if (!name_is_public(tenant, strlen(tenant)) || !name_is_public(agent, strlen(agent)))
        return; /* no row has such names */
    handle = tenants_find(c->how.tenants, tenant, strlen(tenant));
    if (handle)
        change(c, tenant, handle, agent, is_new);
    (void)snprintf(alias, sizeof alias, ROLE_ALIAS_PREFIX "%s", agent);
    if (strlen(alias) <= NAME_MAX_LEN)
        change(c, "", NULL, alias, is_new);
    credentials_run(c);
}

/* ---- one statement ----------------------------------------------------------------------------------------------------------------- */

/* Names need no escaping; in quotes, because one may be NULL. */
static void put_element(struct buf *b, const char *text)
{
    buf_printf(b, "%s\"%s\"", b->len > 1 ? "," : "", text);
}

static void put_names(struct buf names[2], const char *tenant, const char *agent)
{
    put_element(&names[0], tenant);
    put_element(&names[1], *tenant ? agent : agent + strlen(ROLE_ALIAS_PREFIX));
}

/* What is read again rests after a failure, or each question meanwhile would carry it along. */
static void fill(struct credentials *c, struct buf names[2])
{
    bool rests = uv_is_active((const uv_handle_t *)c->retry);
    struct batch *b = &c->batch;

    b->n_inquiries = b->n_again = 0;
    buf_putc(&names[0], '{');
    buf_putc(&names[1], '{');
    while (b->n_inquiries < CREDENTIALS_BATCH && (b->inquiries[b->n_inquiries] = take_inquiry(c))) {
        const struct inquiry *q = b->inquiries[b->n_inquiries++];

        put_names(names, q->tenant, q->agent);
    }
    while (!rests && b->n_inquiries + b->n_again < CREDENTIALS_BATCH && (b->again[b->n_again] = take_stale(c))) {
        const struct credential *again = b->again[b->n_again++];

        put_names(names, again->tenant ? tenants_name(again->tenant) : "", again->agent);
    }
    buf_putc(&names[0], '}');
    buf_putc(&names[1], '}');
}

static void tell_change(struct credentials *c, const char *tenant, const char *agent, int state)
{
    for (size_t i = 0; i < c->n_watchers; i++)
        c->watchers[i].fn(c->watchers[i].arg, tenant, agent, state);
}

static int state_of(const struct credential_row *row)
{
    if (!row)
        return CREDENTIAL_GONE;
    if (row->revoked)
        return CREDENTIAL_REVOKED;
    return row->expires_wall_ns && row->expires_wall_ns <= clock_wall_ns() ? CREDENTIAL_EXPIRED : CREDENTIAL_LIVE;
}

/* One row is in the cache now, or is told; NULL: there is none. */
static int take_row(struct credentials *c, const char *tenant, const char *agent, const struct credential_row *row)
{
    struct muster_tenant *handle = *tenant ? tenants_find(c->how.tenants, tenant, strlen(tenant)) : NULL;
    int err;

    if (*tenant && !handle)
        return CREDENTIALS_UNKNOWN;
    err = credentials_put(c, handle, agent, row);
    if (err == MUSTER_EINVAL)
        log_error("tenant", "%s in %s has the role %s, which this version does not know", agent, tenant, row->role);
    return err ? CREDENTIALS_AWAY : row ? CREDENTIALS_KNOWN : CREDENTIALS_UNKNOWN;
}

static void finish_inquiry(struct credentials *c, struct inquiry *q, const struct credential_row *row)
{
    if (q->wanted)
        c->how.on_answer(c->how.arg, q->tenant, q->agent, take_row(c, q->tenant, q->agent, row));
    else
        tell_change(c, q->tenant, q->agent, state_of(row));
    free(q);
}

/* A tenant that is gone has no rows, and its handle lives on. */
static void finish_again(struct credentials *c, struct credential *again, const struct credential_row *row)
{
    const char *tenant = again->tenant ? tenants_name(again->tenant) : "";
    int before = credential_state(again, clock_wall_ns());

    if (before != CREDENTIAL_GONE && credentials_put(c, again->tenant, again->agent, row) == MUSTER_EINVAL)
        log_error("tenant", "%s in %s has the role %s, which this version does not know", again->agent, tenant, row->role);
    if (again->tenant) /* also where it was gone by then: its row may have come back since */
        tell_change(c, tenant, again->agent, state_of(row));
    credential_unref(again);
}

static struct credential_row row_of(const struct muster_sql_result *result, uint32_t i)
{
    const char *expires = result->get(result, i, 2);

    return (struct credential_row){.role = result->get(result, i, 1),
                                   .expires_wall_ns = expires ? strtoll(expires, NULL, 10) * NS_OF_US : 0,
                                   .revoked = *result->get(result, i, 3) == 't',
                                   .verbs = result->get(result, i, 4),
                                   .groups = result->get(result, i, 5),
                                   .tables = result->get(result, i, 6)};
}

/* In the order of the statement, whatever the order of the rows. */
static void finish(struct credentials *c, const struct muster_sql_result *result)
{
    struct batch *b = &c->batch;
    size_t n_asked = b->n_inquiries + b->n_again;

    memset(b->there, 0, n_asked);
    for (uint32_t i = 0; i < result->n_rows; i++) {
        unsigned long n = strtoul(result->get(result, i, 0), NULL, 10) - 1;

        if (n >= n_asked)
            continue;
        b->rows[n] = row_of(result, i);
        b->there[n] = true;
    }
    for (size_t i = 0; i < b->n_inquiries; i++)
        finish_inquiry(c, b->inquiries[i], b->there[i] ? &b->rows[i] : NULL);
    for (size_t i = 0; i < b->n_again; i++) {
        size_t n = b->n_inquiries + i;

        finish_again(c, b->again[i], b->there[n] ? &b->rows[n] : NULL);
    }
}

static void on_retry(uv_timer_t *timer)
{
    credentials_run(timer->data);
}

/* Changes come again; what was known holds, and is read again, too. Who waits is told. */
static void fail(struct credentials *c)
{
    struct batch *b = &c->batch;

    for (size_t i = 0; i < b->n_inquiries; i++) {
        struct inquiry *q = b->inquiries[i];

        q->next = NULL;
        if (q->wanted)
            c->how.on_answer(c->how.arg, q->tenant, q->agent, CREDENTIALS_AWAY);
        if (q->wanted || !append(c, q))
            free(q);
    }
    for (size_t i = 0; i < b->n_again; i++) {
        credentials_mark_stale(c, b->again[i]);
        credential_unref(b->again[i]);
    }
    c->asking = false;
    if (c->retry)
        ASSERT(uv_timer_start(c->retry, on_retry, RETRY_MS, 0) == 0);
}

static void on_batch(void *arg, const struct muster_sql_result *result)
{
    struct credentials *c = arg;

    if (result->code != 0) {
        if (result->code != MUSTER_ELINK) /* that is told by the link */
            log_warn("tenant", "%zu names cannot be looked up: %s", c->batch.n_inquiries + c->batch.n_again, result->error);
        fail(c);
        return;
    }
    finish(c, result);
    c->asking = false;
    credentials_run(c);
}

void credentials_run(struct credentials *c)
{
    struct buf names[2] = {{0}};
    int err = MUSTER_ENOMEM;

    if (c->asking || !c->retry)
        return;
    fill(c, names);
    if (c->batch.n_inquiries + c->batch.n_again > 0) {
        const char *const params[] = {names[0].data, names[1].data};

        c->asking = true;
        if (!buf_failed(&names[0]) && !buf_failed(&names[1]))
            err = tenants_ask(c->how.tenants, batch_text, 2, params, on_batch, c);
        if (err)
            fail(c);
    }
    buf_done(&names[0]);
    buf_done(&names[1]);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------- */

int credentials_on_change(struct credentials *c, credentials_change_fn fn, void *arg)
{
    if (c->n_watchers == CREDENTIALS_WATCHERS_MAX)
        return MUSTER_EAGAIN;
    c->watchers[c->n_watchers++] = (struct change_watcher){fn, arg};
    return 0;
}

int credentials_open(struct credentials *c, uv_loop_t *loop)
{
    c->retry = calloc(1, sizeof *c->retry);
    if (!c->retry)
        return MUSTER_ENOMEM;
    ASSERT(uv_timer_init(loop, c->retry) == 0);
    c->retry->data = c;
    pthread_mutex_lock(&c->lock);
    c->closed = false;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle);
}

/* After tenants_close(), which has ended the statement. */
void credentials_close(struct credentials *c)
{
    struct credential *stale;
    struct inquiry *q;

    pthread_mutex_lock(&c->lock);
    c->closed = true;
    pthread_mutex_unlock(&c->lock);
    if (c->retry)
        uv_close((uv_handle_t *)c->retry, on_closed);
    c->retry = NULL;
    while ((q = take_inquiry(c)) != NULL) {
        if (q->wanted)
            c->how.on_answer(c->how.arg, q->tenant, q->agent, CREDENTIALS_AWAY);
        free(q);
    }
    while ((stale = take_stale(c)) != NULL)
        credential_unref(stale);
}
