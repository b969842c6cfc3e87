/* muster.roster/1 of the test host: the broker's own roster, which the plugin keeps or the test in its place. Read on any thread; changed and
 * watched on the lane. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "roster/roster.h"
#include "testhost/inside.h"

enum { MAX_QUEUED = 4096, WHY_SIZE = 32 };

struct watch {
    uint64_t id;
    muster_roster_fn fn;
    void *arg;
    size_t n_queued;
};

/* A change on its way to one watch; one piece of memory, as the queue frees what is left. */
struct change {
    struct due due;
    struct muster_roster_change seen;
    char agent[NAME_TOKEN_SIZE], session[ROSTER_MAX_SESSION + 1], reason[WHY_SIZE];
};

/* ---- watches ------------------------------------------------------------------------------------------------------------------ */

static struct watch *watch_of(struct muster_test *t, uint64_t id)
{
    for (size_t i = 0; i < t->roster_watches.n; i++) {
        struct watch *w = t->roster_watches.items[i];

        if (w->id == id)
            return w;
    }
    return NULL;
}

static void run_change(struct muster_test *t, struct due *d, int code)
{
    struct change *c = (struct change *)d;
    struct watch *w = code ? NULL : watch_of(t, d->owner);

    if (w) {
        w->n_queued--;
        DURING(t, "roster", c->seen.agent ? c->seen.agent : "reset", w->fn(w->arg, &c->seen));
    }
    free(c);
}

static const char *keep_text(char *out, size_t size, const char *text)
{
    if (text)
        (void)snprintf(out, size, "%s", text);
    return text ? out : NULL;
}

static void queue(struct muster_test *t, struct watch *w, const struct muster_roster_change *change)
{
    struct change *c = must_alloc(sizeof *c);

    c->due = (struct due){.kind = DUE_POST, .callback = -1, .owner = w->id, .run = run_change};
    c->seen = *change;
    c->seen.agent = keep_text(c->agent, sizeof c->agent, change->agent);
    c->seen.session = keep_text(c->session, sizeof c->session, change->session);
    c->seen.reason = keep_text(c->reason, sizeof c->reason, change->reason);
    w->n_queued++;
    due_add(t, &c->due, t->now_ns);
}

static void queue_reset(struct muster_test *t, struct watch *w)
{
    struct due *d;

    while ((d = due_find(t, DUE_POST, w->id)) != NULL) {
        due_remove(t, d);
        free(d);
    }
    w->n_queued = 0;
    queue(t, w, &(struct muster_roster_change){.size = sizeof(struct muster_roster_change), .kind = MUSTER_ROSTER_RESET});
}

/* Under the roster's lock. */
static void on_change(void *arg, const struct muster_roster_change *change)
{
    struct muster_test *t = arg;

    for (size_t i = 0; i < t->roster_watches.n; i++) {
        struct watch *w = t->roster_watches.items[i];

        if (w->n_queued < MAX_QUEUED)
            queue(t, w, change);
        else
            queue_reset(t, w);
    }
}

static int roster_watch(const struct muster_host *host, muster_roster_fn fn, void *arg, uint64_t *ret_id)
{
    struct muster_test *t = test_of(host, CALL_ROSTER_WATCH);
    int err = call_begin(t, CALL_ROSTER_WATCH);
    struct watch *w;

    if (!err && (!fn || !ret_id))
        err = breach(t, CALL_ROSTER_WATCH, "%s is NULL", fn ? "ret_id" : "fn");
    if (err)
        return err;
    w = must_alloc(sizeof *w);
    *w = (struct watch){.id = ++t->next_id, .fn = fn, .arg = arg};
    list_add(&t->roster_watches, w);
    queue_reset(t, w);
    *ret_id = w->id;
    return 0;
}

static void roster_unwatch(const struct muster_host *host, uint64_t id)
{
    struct muster_test *t = test_of(host, CALL_ROSTER_UNWATCH);

    if (call_begin(t, CALL_ROSTER_UNWATCH) != 0)
        return;
    for (size_t i = 0; i < t->roster_watches.n; i++) {
        struct watch *w = t->roster_watches.items[i];

        if (w->id != id)
            continue;
        list_remove(&t->roster_watches, i);
        free(w);
        return;
    }
    (void)breach(t, CALL_ROSTER_UNWATCH, "%llu is no watch", (unsigned long long)id);
}

/* ---- who is there --------------------------------------------------------------------------------------------------------------- */

/* The plugin's function runs under the lock: what it may call then is watched. */
struct showing {
    muster_agent_fn fn;
    void *arg;
};

static int show(void *arg, const struct muster_agent *agent)
{
    const struct showing *s = arg;
    bool outer = testing_roster;
    int over;

    testing_roster = true;
    over = s->fn(s->arg, agent);
    testing_roster = outer;
    return over;
}

static int begin(struct muster_test *t, int call, const struct muster_tenant *tenant)
{
    int err = call_begin(t, call);

    return !err && !tenant_is(t, call, tenant) ? MUSTER_EINVAL : err;
}

static int get_agent(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, muster_agent_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_ROSTER_GET);
    struct showing s = {fn, arg};
    int err = begin(t, CALL_ROSTER_GET, tenant);

    if (!err && is_stale(t, CALL_ROSTER_GET, "agent", agent))
        err = MUSTER_EINVAL;
    if (!err && !agent)
        err = breach(t, CALL_ROSTER_GET, "agent is NULL");
    return err ? err : roster_get(t->roster, tenant, agent, fn ? show : NULL, &s);
}

static int64_t find_agents(const struct muster_host *host, const struct muster_tenant *tenant, const struct muster_roster_query *query,
                           muster_agent_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_ROSTER_FIND);
    struct showing s = {fn, arg};
    int64_t n = begin(t, CALL_ROSTER_FIND, tenant);

    if (!n)
        n = roster_find(t->roster, tenant, query, fn ? show : NULL, &s);
    return n == MUSTER_EINVAL ? breach(t, CALL_ROSTER_FIND, "query: expected size, and at most 64 capabilities and labels, none of them NULL") : n;
}

static int64_t count_agents(const struct muster_host *host, const struct muster_tenant *tenant, int64_t by_status[4])
{
    struct muster_test *t = test_of(host, CALL_ROSTER_COUNT);
    int err = begin(t, CALL_ROSTER_COUNT, tenant);

    return err ? err : roster_count(t->roster, tenant, by_status);
}

/* ---- who keeps it --------------------------------------------------------------------------------------------------------------- */

static int begin_change(struct muster_test *t, int call)
{
    int err = call_begin(t, call);

    return !err && !test_has_capability(t, "presence")
               ? test_fail(t, MUSTER_EACCES, "the capability \"presence\" is missing in the plugin's descriptor")
               : err;
}

static int check_put(struct muster_test *t, uint32_t kind, const struct muster_agent *agent)
{
    const char *fault = roster_fault(agent);

    if (kind == MUSTER_ROSTER_LEAVE || kind > MUSTER_ROSTER_REPLACED)
        return breach(t, CALL_ROSTER_PUT, "kind is %u: expected 0 or one of MUSTER_ROSTER_JOIN, STATUS, SUSPECT, REPLACED", kind);
    return fault ? breach(t, CALL_ROSTER_PUT, "%s", fault) : 0;
}

static int put_agent(const struct muster_host *host, const struct muster_tenant *tenant, uint32_t kind, const char *reason,
                     const struct muster_agent *agent)
{
    struct muster_test *t = test_of(host, CALL_ROSTER_PUT);
    int err = begin_change(t, CALL_ROSTER_PUT);

    if (!err && (!tenant_is(t, CALL_ROSTER_PUT, tenant) || is_stale(t, CALL_ROSTER_PUT, "agent", agent)))
        err = MUSTER_EINVAL;
    if (!err)
        err = check_put(t, kind, agent);
    return err ? err : roster_put(t->roster, tenant, kind, reason, agent);
}

static int remove_agent(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, const char *reason)
{
    struct muster_test *t = test_of(host, CALL_ROSTER_REMOVE);
    int err = begin_change(t, CALL_ROSTER_REMOVE);

    if (!err && (!tenant_is(t, CALL_ROSTER_REMOVE, tenant) || is_stale(t, CALL_ROSTER_REMOVE, "agent", agent)))
        err = MUSTER_EINVAL;
    if (!err && !agent)
        err = breach(t, CALL_ROSTER_REMOVE, "agent is NULL");
    return err ? err : roster_remove(t->roster, tenant, agent, reason);
}

static int clear_agents(const struct muster_host *host, const struct muster_tenant *tenant)
{
    struct muster_test *t = test_of(host, CALL_ROSTER_CLEAR);
    int err = begin_change(t, CALL_ROSTER_CLEAR);

    if (!err && tenant && !tenant_is(t, CALL_ROSTER_CLEAR, tenant))
        err = MUSTER_EINVAL;
    if (!err)
        roster_clear(t->roster, tenant);
    return err;
}

const struct muster_roster test_roster = {.size = sizeof test_roster,
                                          .get = get_agent,
                                          .find = find_agents,
                                          .count = count_agents,
                                          .watch = roster_watch,
                                          .unwatch = roster_unwatch,
                                          .put = put_agent,
                                          .remove = remove_agent,
                                          .clear = clear_agents};

/* ---- what the test does --------------------------------------------------------------------------------------------------------- */

void muster_test_present(struct muster_test *t, const char *tenant_name, uint32_t kind, const char *reason, const struct muster_agent *agent)
{
    const struct muster_tenant *tenant = tenant_need(t, tenant_name);
    const char *fault = roster_fault(agent);

    if (fault)
        fail_test(t, "muster_test_present(): %s", fault);
    else if (tenant)
        (void)roster_put(t->roster, tenant, kind, reason, agent);
    muster_test_run(t);
}

void muster_test_absent(struct muster_test *t, const char *tenant_name, const char *agent, const char *reason)
{
    const struct muster_tenant *tenant = tenant_need(t, tenant_name);

    if (tenant && roster_remove(t->roster, tenant, agent, reason) != 0)
        fail_test(t, "muster_test_absent(): %s is not present", agent);
    muster_test_run(t);
}

int64_t muster_test_roster(struct muster_test *t, const char *tenant_name, const struct muster_roster_query *query, muster_agent_fn fn, void *arg)
{
    const struct muster_roster_query all = {.size = sizeof all};
    const struct muster_tenant *tenant = tenant_need(t, tenant_name);

    return tenant ? roster_find(t->roster, tenant, query ? query : &all, fn, arg) : 0;
}

void muster_test_roster_reset(struct muster_test *t)
{
    for (size_t i = 0; i < t->roster_watches.n; i++)
        queue_reset(t, t->roster_watches.items[i]);
    muster_test_run(t);
}

void roster_begin(struct muster_test *t)
{
    ASSERT(roster_new(on_change, t, &t->roster) == 0);
}

void roster_end(struct muster_test *t)
{
    for (size_t i = 0; i < t->roster_watches.n; i++)
        free(t->roster_watches.items[i]);
    list_done(&t->roster_watches);
}

void roster_done(struct muster_test *t)
{
    roster_end(t);
    roster_free(t->roster);
}
