/*
 * muster.login/1: the logins that an instance has to answer.
 *
 * One comes from logins.c, is read here and shown to the plugin; what the plugin says is held against muster.credentials by one
 * statement of the group commit, then signed and sent. The plugin's word ends nothing before the database has agreed. Everything is
 * the lane's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/roles.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/name.h"
#include "core/audit.h"
#include "core/instance.h"
#include "core/logins.h"
#include "metrics/metrics.h"
#include "sql/sql.h"
#include "tenant/tenant.h"

enum { LOOK_MS = 250, MAX_REPLY = 256, MAX_CODE = 33, ADMIT_PARAMS = 3 };
enum { REFUSED, ROLE, SUBSCRIPTIONS, EXPIRES, GROUPS, TABLES }; /* columns of the statement */
static const int64_t wait_min_s = 1, wait_max_s = 60;

struct desk {
    struct instance *in;
    struct logins *logins;
    muster_login_fn fn;
    void *arg;
    uv_timer_t timer;
    struct map open; /* by id */
    uint64_t stmt;
};

struct login {
    struct desk *desk;
    uint64_t id;
    struct callout_request request;
    char reply[MAX_REPLY];
    size_t n_bytes;
    int64_t recv_ns, deadline_ns;
    bool deciding; /* the database is asked: nobody else ends it */
    char tenant[NAME_TOKEN_SIZE], agent[NAME_TOKEN_SIZE];
    int role;
    int64_t expires; /* seconds since 1970; 0: never */
};

/* ---- the end of one --------------------------------------------------------------------------------------------------------- */

static void login_free(struct login *g)
{
    struct desk *d = g->desk;

    (void)map_take(&d->open, &g->id, sizeof g->id);
    logins_ended(d->logins, d->in, g->n_bytes);
    callout_request_done(&g->request);
    free(g);
}

static void end_unanswered(struct login *g, const char *reason)
{
    metric_add(logins_metrics(g->desk->logins)->unanswered, reason, 1);
    login_free(g);
}

static void send_answer(struct login *g, const struct buf *answer)
{
    const struct bus_out out = {.subject = g->reply, .payload = {answer->data, answer->len}, .fence = -1, .answer = true};
    struct broker *b = g->desk->in->broker;

    if (bus_send(broker_bus(b), BUS_CALLOUT, &out) != 0) {
        end_unanswered(g, "away");
        return;
    }
    metric_observe(logins_metrics(g->desk->logins)->seconds, clock_now_ns() - g->recv_ns);
    login_free(g);
}

static void end_refused(struct login *g, const char *code, const char *why)
{
    struct buf answer = {0};

    metric_add(logins_metrics(g->desk->logins)->refused, code, 1);
    log_warn("logins", "a client at %s may not log in%s%s%s%s (%s): %s", g->request.host, *g->tenant ? " as " : "", g->tenant,
             *g->tenant ? "." : "", g->agent, code, why);
    audit_login(broker_audit(g->desk->in->broker), g->tenant, g->agent, code);
    if (callout_put_refusal(&answer, logins_issuer(g->desk->logins), &g->request, code) != 0)
        end_unanswered(g, "no_memory");
    else
        send_answer(g, &answer);
    buf_done(&answer);
}

static void end_admitted(struct login *g, int64_t subscriptions, const struct role_narrowing *narrowing)
{
    const struct callout_user user = {.root = broker_root(g->desk->in->broker),
                                      .tenant = g->tenant,
                                      .agent = g->agent,
                                      .role = g->role,
                                      .narrowing = narrowing,
                                      .subscriptions = subscriptions,
                                      .expires = g->expires};
    struct buf answer = {0};

    if (callout_put_admission(&answer, logins_issuer(g->desk->logins), &g->request, &user) != 0) {
        end_unanswered(g, "no_memory");
    } else {
        metric_add(logins_metrics(g->desk->logins)->admitted, NULL, 1);
        log_debug("logins", "%s.%s may log in from %s as %s", g->tenant, g->agent, g->request.host, role_name(g->role));
        send_answer(g, &answer);
    }
    buf_done(&answer);
}

/* ---- what the database says ------------------------------------------------------------------------------------------------- */

static void end_as_refused(struct login *g, const char *code, const char *role)
{
    char why[192];

    if (strcmp(code, "unknown_tenant") == 0)
        (void)snprintf(why, sizeof why, "there is no tenant %s", g->tenant);
    else if (strcmp(code, "other_role") == 0)
        (void)snprintf(why, sizeof why, "the token says role %s, the name has role %s already", role_name(g->role), role ? role : "?");
    else
        (void)snprintf(why, sizeof why, "the name is %s", code);
    end_refused(g, code, why);
}

static int64_t number_of(const char *text, int64_t otherwise)
{
    return text ? strtoll(text, NULL, 10) : otherwise;
}

/* The sooner of the two ends; 0 is none. */
static int64_t sooner(int64_t a, int64_t b)
{
    return !a || (b && b < a) ? b : a;
}

static void on_admitted(void *arg, const struct muster_sql_result *r)
{
    struct login *g = arg;
    const char *refused;

    if (r->code || r->n_rows != 1) {
        log_warn("logins", "%s.%s: the database cannot be asked, so the client has to try again: %s", g->tenant, g->agent, r->error);
        end_unanswered(g, r->code == MUSTER_EINVAL ? "database_fault" : "database_away");
        return;
    }
    if (g->deadline_ns <= clock_now_ns()) {
        end_unanswered(g, "late");
        return;
    }
    refused = r->get(r, 0, REFUSED);
    if (refused) {
        end_as_refused(g, refused, r->get(r, 0, ROLE));
        return;
    }
    g->expires = sooner(g->expires, number_of(r->get(r, 0, EXPIRES), 0));
    const struct role_narrowing narrowing = {r->get(r, 0, GROUPS), r->get(r, 0, TABLES)};
    end_admitted(g, number_of(r->get(r, 0, SUBSCRIPTIONS), broker_config(g->desk->in->broker)->limits.subscriptions), &narrowing);
}

/* ---- what the plugin says --------------------------------------------------------------------------------------------------- */

static struct login *find(struct instance *in, uint64_t id)
{
    struct login *g = in->desk ? map_get(&in->desk->open, &id, sizeof id) : NULL;

    return g && !g->deciding ? g : NULL;
}

/* NULL is "": no name. */
static bool copy_name(const char *from, char out[NAME_TOKEN_SIZE])
{
    size_t len = from ? strlen(from) : 0;

    if (!name_is_public(from ? from : "", len))
        return false;
    memcpy(out, from, len + 1);
    return true;
}

/* Who works in every tenant, and programs of the installation, have credentials of their own. */
static bool is_for_tokens(int role)
{
    return role >= 0 && role != ROLE_OPERATOR && role != ROLE_PLUGIN;
}

static int keep_admission(const struct muster_host *host, struct login *g, const struct muster_admission *a)
{
    int64_t now_s = clock_wall_ns() / CLOCK_S;

    if (a->size < sizeof *a)
        return host->fail(host, MUSTER_EINVAL, "admit(): size %u, expected at least %zu", a->size, sizeof *a);
    g->role = a->role ? role_find(a->role) : -1;
    g->expires = a->expires_wall_ns / CLOCK_S;
    if (!copy_name(a->tenant, g->tenant))
        return host->fail(host, MUSTER_EINVAL, "admit(): tenant: expected a name of 1 to 64 of A-Z a-z 0-9 _ -, without _ in front");
    if (!copy_name(a->agent, g->agent)) {
        g->tenant[0] = '\0';
        return host->fail(host, MUSTER_EINVAL, "admit(): agent: expected a name of 1 to 64 of A-Z a-z 0-9 _ -, without _ in front");
    }
    if (!is_for_tokens(g->role))
        return host->fail(host, MUSTER_EINVAL, "admit(): role: expected agent, observer, user, human or admin");
    if (a->expires_wall_ns && g->expires <= now_s)
        return host->fail(host, MUSTER_EINVAL, "admit(): expires_wall_ns: expected a time to come, or 0");
    return 0;
}

static int login_admit(const struct muster_host *host, uint64_t id, const struct muster_admission *admission)
{
    struct instance *in = instance_of(host);
    int err = MAY_BEGIN(in);
    struct login *g = err ? NULL : find(in, id);

    if (!err && !g)
        err = MUSTER_ENOTFOUND;
    if (!err)
        err = keep_admission(host, g, admission);
    if (err)
        return err;
    const char *role = role_name(g->role);
    const struct muster_bytes params[ADMIT_PARAMS] = {
        {g->tenant, strlen(g->tenant)}, {g->agent, strlen(g->agent)}, {role, strlen(role)}};
    const struct sql_call call = {.stmt = in->desk->stmt,
                                  .tenant = g->tenant,
                                  .order_key = g->agent,
                                  .params = params,
                                  .n_params = ADMIT_PARAMS,
                                  .fn = on_admitted,
                                  .arg = g};
    err = sql_exec(in->sql, &call);
    g->deciding = !err;
    return err;
}

static bool is_code(const char *code)
{
    size_t len = code ? strspn(code, "abcdefghijklmnopqrstuvwxyz_") : 0;

    return len > 0 && len < MAX_CODE && !code[len];
}

static int login_refuse(const struct muster_host *host, uint64_t id, const char *code, const char *why)
{
    struct instance *in = instance_of(host);
    int err = MAY_BEGIN(in);
    struct login *g = err ? NULL : find(in, id);

    if (err)
        return err;
    if (!is_code(code) || !why)
        return host->fail(host, MUSTER_EINVAL, "refuse(): expected a code of [a-z_]{1,32}, and a sentence");
    if (!g)
        return MUSTER_ENOTFOUND;
    end_refused(g, code, why);
    return 0;
}

/* ---- what comes in ---------------------------------------------------------------------------------------------------------- */

/* The server says how long it waits. */
static int64_t wait_of(const struct callout_request *request)
{
    int64_t seconds = request->expires - request->issued;

    seconds = seconds < wait_min_s ? wait_min_s : seconds > wait_max_s ? wait_max_s : seconds;
    return seconds * CLOCK_S;
}

static struct login *login_new(struct desk *d, const struct bus_msg *msg, int64_t recv_ns)
{
    struct muster_bytes data = bus_msg_data(msg);
    const char *reply = bus_msg_reply(msg);
    struct login *g = reply && strlen(reply) < MAX_REPLY ? calloc(1, sizeof *g) : NULL;

    if (!g)
        return NULL;
    *g = (struct login){.desk = d, .id = ++d->in->next_id, .n_bytes = bus_msg_size(msg), .recv_ns = recv_ns};
    if (callout_read(data.data, data.len, &g->request) != 0 || !map_put(&d->open, &g->id, sizeof g->id, g)) {
        callout_request_done(&g->request);
        free(g);
        return NULL;
    }
    memcpy(g->reply, reply, strlen(reply) + 1);
    g->deadline_ns = g->recv_ns + wait_of(&g->request);
    return g;
}

static void show(struct desk *d, const struct login *g)
{
    const struct muster_login shown = {.size = sizeof shown,
                                       .id = g->id,
                                       .token = g->request.token,
                                       .user = g->request.user,
                                       .client_name = g->request.client_name,
                                       .host = g->request.host,
                                       .recv_ns = g->recv_ns};

    instance_enter(d->in, "login", NULL);
    d->fn(d->arg, &shown);
    instance_leave(d->in);
}

static bool is_late(const struct login *g)
{
    return g->deadline_ns <= clock_now_ns();
}

bool host_login_take(struct instance *in, struct bus_msg *msg, int64_t recv_ns)
{
    struct desk *d = in->desk;
    struct login *g = d && !in->ending ? login_new(d, msg, recv_ns) : NULL;

    if (g && is_late(g)) {
        end_unanswered(g, "late"); /* work for nobody would make the next ones late as well */
        return true;
    }
    if (g) {
        show(d, g);
        return true;
    }
    if (d && !in->ending) {
        metric_add(logins_metrics(d->logins)->unanswered, "malformed", 1);
        log_warn("logins", "a request for a login cannot be read%s",
                 bus_msg_header(msg, "Nats-Server-Xkey") ? ": it is encrypted, take xkey out of the server's auth_callout" : "");
    }
    return false;
}

/* The server has refused its client by now. */
static void on_look(uv_timer_t *timer)
{
    struct desk *d = timer->data;
    void *value;

    for (size_t at = 0; map_next(&d->open, &at, NULL, &value);) {
        struct login *g = value;

        if (!g->deciding && is_late(g))
            end_unanswered(g, "late");
    }
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

int host_login_prepare(struct instance *in, uint64_t *ret_stmt)
{
    return host_sql_prepare(in, "muster.admit", MUSTER_SQL_WRITE,
                            "SELECT a ->> 'refused', a ->> 'role', a ->> 'subscriptions', a ->> 'expires_at', a ->> 'groups', a ->> 'tables'"
                            " FROM muster.admit($1, $2, $3) AS a",
                            ret_stmt);
}

static int desk_new(struct instance *in, muster_login_fn fn, void *arg, struct desk **ret_desk)
{
    struct desk *d = calloc(1, sizeof *d);
    int err = d ? host_login_prepare(in, &d->stmt) : MUSTER_ENOMEM;

    if (err) {
        free(d);
        return err;
    }
    d->in = in;
    d->logins = broker_logins(in->broker);
    d->fn = fn;
    d->arg = arg;
    *ret_desk = d;
    return 0;
}

static int login_serve(const struct muster_host *host, muster_login_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    int err = MAY_BEGIN(in);

    if (!err && !fn)
        err = MUSTER_EINVAL;
    if (!err && in->desk)
        err = MUSTER_EEXIST;
    if (err)
        return err;
    err = desk_new(in, fn, arg, &in->desk);
    if (err)
        return err;
    ASSERT(uv_timer_init(lane_loop(in->lane), &in->desk->timer) == 0);
    in->desk->timer.data = in->desk;
    ASSERT(uv_timer_start(&in->desk->timer, on_look, LOOK_MS, LOOK_MS) == 0);
    err = logins_join(in->desk->logins, in);
    if (err)
        host_login_done(in);
    return err;
}

const struct muster_logins host_logins = {.size = sizeof host_logins, .serve = login_serve, .admit = login_admit, .refuse = login_refuse};

static void free_desk(uv_handle_t *handle)
{
    free(handle->data);
}

/* What the database was asked has been answered before. */
void host_login_done(struct instance *in)
{
    struct desk *d = in->desk;
    void *value;

    if (!d)
        return;
    logins_leave(d->logins, in);
    for (size_t at = 0; map_next(&d->open, &at, NULL, &value);)
        end_unanswered(value, "stopping");
    map_done(&d->open);
    in->desk = NULL;
    uv_close((uv_handle_t *)&d->timer, free_desk);
}
