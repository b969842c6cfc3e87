/* A receiver; see hook.h. */
#include "hook.h"

#include "pattern.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const int64_t second_ns = 1000000000, backoff_max_ns = INT64_C(3600000000000);
enum { QUEUED_BYTES_MAX = 64 << 20 };

struct delivery {
    struct delivery *next;
    struct hook *hook;
    const struct muster_tenant *tenant;
    struct http_call *call; /* NULL: waits for next_ns */
    char id[SIGN_ID_SIZE], *subject, *body;
    size_t len;
    int64_t came_ns, began_ns, next_ns, attempts;
    int status; /* of the last answer */
};

void hook_init(struct hook *hook, struct hook_tools *tools, const char *name, const struct hook_config *config)
{
    *hook = (struct hook){.tools = tools, .name = name, .config = config};
    hook->end = &hook->first;
}

static int64_t now_of(const struct hook *hook)
{
    return hook->tools->timer->now(hook->tools->host);
}

/* ---- the queue ---- */

static void free_delivery(struct delivery *d)
{
    if (d->call)
        http_cancel(d->call);
    free(d->subject);
    free(d->body);
    free(d);
}

static void count_queue(struct hook *hook)
{
    hook->tools->metrics->set(hook->tools->host, hook->tools->counts.queued, hook->name, hook->n_queued);
}

static void push(struct hook *hook, struct delivery *d)
{
    d->hook = hook;
    d->next = NULL;
    *hook->end = d;
    hook->end = &d->next;
    hook->n_queued++;
    hook->n_bytes += (int64_t)d->len;
    hook->n_open += d->call != NULL;
}

static void take_out(struct delivery *d)
{
    struct hook *hook = d->hook;
    struct delivery **at = &hook->first;

    while (*at != d)
        at = &(*at)->next;
    *at = d->next;
    if (hook->end == &d->next)
        hook->end = at;
    hook->n_queued--;
    hook->n_bytes -= (int64_t)d->len;
    hook->n_open -= d->call != NULL;
    count_queue(hook);
}

static bool has_tenant(const struct hook *hook, const char *tenant)
{
    const struct muster_list *tenants = &hook->config->tenants;
    bool found = tenants->n == 0;

    for (size_t i = 0; i < tenants->n && !found; i++)
        found = strcmp(tenants->items[i], tenant) == 0;
    return found;
}

static bool wants(const struct hook *hook, const struct muster_msg *msg)
{
    for (size_t i = 0; i < hook->config->subjects.n; i++)
        if (pattern_covers(hook->config->subjects.items[i], msg->subject))
            return has_tenant(hook, hook->tools->bodies.tenants->name(msg->tenant));
    return false;
}

static bool is_full(const struct hook *hook)
{
    return hook->n_queued >= hook->config->max_queued || hook->n_bytes >= QUEUED_BYTES_MAX;
}

static int new_delivery(struct hook *hook, const struct muster_msg *msg, struct delivery **ret)
{
    struct delivery *d = calloc(1, sizeof *d);
    int err;

    if (!d)
        return MUSTER_ENOMEM;
    d->tenant = msg->tenant;
    d->came_ns = now_of(hook);
    d->subject = strdup(msg->subject);
    err = d->subject && sign_new_id(d->id) ? body_of(&hook->tools->bodies, msg, &d->body, &d->len) : MUSTER_ENOMEM;
    if (err) {
        free_delivery(d);
        return err;
    }
    *ret = d;
    return 0;
}

int hook_take(struct hook *hook, const struct muster_msg *msg)
{
    struct hook_tools *t = hook->tools;
    struct delivery *d;
    int err;

    if (!wants(hook, msg))
        return 0;
    if (hook->gone || is_full(hook)) {
        t->metrics->add(t->host, t->counts.dropped, hook->name, 1);
        t->host->log(t->host, MUSTER_LOG_WARN, "hook %s: %s was dropped: %s", hook->name, msg->subject,
                     hook->gone ? "the receiver is gone" : "its queue is full");
        return 0;
    }
    err = new_delivery(hook, msg, &d);
    if (err)
        return err;
    push(hook, d);
    count_queue(hook);
    t->on_change(t->arg);
    return 0;
}

/* ---- dead letters ---- */

static void on_told(void *arg, int code)
{
    struct hook_tools *t = arg;

    if (code)
        t->host->log(t->host, MUSTER_LOG_ERROR, "the event of a dead message could not be emitted (%d)", code);
}

static void tell_dead(const struct delivery *d, const char *why)
{
    const struct hook *hook = d->hook;
    struct hook_tools *t = hook->tools;
    const struct body_of_dead dead = {
        .hook = hook->name, .id = d->id, .subject = d->subject, .why = why, .attempts = d->attempts, .status = d->status};
    char subject[128], *body;
    struct muster_publication pub = {.size = sizeof pub, .tenant = d->tenant, .subject = subject, .done = on_told, .arg = t};

    (void)snprintf(subject, sizeof subject, "evt.webhook.dead.%s", hook->name);
    t->metrics->add(t->host, t->counts.dead, hook->name, 1);
    t->host->log(t->host, MUSTER_LOG_WARN, "hook %s: %s (%s) is dead after %" PRId64 " attempts: %s", hook->name, d->id, d->subject,
                 d->attempts, why);
    if (body_of_dead(&t->bodies, &dead, &body, &pub.payload.len) != 0)
        return; /* no memory: the log has it */
    pub.payload.data = body;
    if (t->bus->publish(t->host, &pub) != 0)
        on_told(t, MUSTER_EAGAIN);
    free(body);
}

static void bury(struct delivery *d, const char *why)
{
    take_out(d);
    tell_dead(d, why);
    free_delivery(d);
}

void hook_give_up(struct hook *hook, const char *why)
{
    while (hook->first)
        bury(hook->first, why);
}

/* ---- attempts ---- */

/* Doubled with each attempt; half of it by chance, so that those that failed together do not come back together. */
static int64_t backoff_of(const struct delivery *d)
{
    int64_t wait = d->hook->config->backoff_ns;
    uint32_t chance = 0;

    for (int64_t i = 1; i < d->attempts && wait < backoff_max_ns; i++)
        wait *= 2;
    if (wait > backoff_max_ns)
        wait = backoff_max_ns;
    if (getrandom(&chance, sizeof chance, GRND_NONBLOCK) != (ssize_t)sizeof chance)
        chance = UINT32_MAX; /* the whole wait then */
    return wait - (int64_t)((double)wait * 0.5 * (1.0 - (double)chance / UINT32_MAX));
}

static void delivered(struct delivery *d)
{
    struct hook_tools *t = d->hook->tools;

    t->metrics->add(t->host, t->counts.delivered, d->hook->name, 1);
    t->metrics->observe(t->host, t->counts.took, now_of(d->hook) - d->began_ns);
    d->hook->n_failures = 0;
    take_out(d);
    free_delivery(d);
}

static void put_off(struct delivery *d, const char *why, int64_t retry_after_ns)
{
    struct hook *hook = d->hook;
    int64_t now = now_of(hook), wait = backoff_of(d);

    if (retry_after_ns > 0) {
        hook->not_before_ns = now + retry_after_ns;
        wait = wait > retry_after_ns ? wait : retry_after_ns;
    }
    if (now + wait > d->came_ns + hook->config->deadline_ns) {
        bury(d, why);
        return;
    }
    d->next_ns = now + wait;
    hook->tools->host->log(hook->tools->host, MUSTER_LOG_INFO, "hook %s: attempt %" PRId64 " for %s: %s; the next in %" PRId64 " ms",
                           hook->name, d->attempts, d->id, why, wait / 1000000);
}

static void on_result(void *arg, const struct http_result *r)
{
    struct delivery *d = arg;
    struct hook *hook = d->hook;
    struct hook_tools *t = hook->tools;
    char why[300];

    d->call = NULL;
    hook->n_open--;
    d->status = r->status;
    if (r->status >= 200 && r->status < 300) {
        delivered(d);
        t->on_change(t->arg);
        return;
    }
    hook->n_failures++;
    t->metrics->add(t->host, t->counts.failed, hook->name, 1);
    if (r->status)
        (void)snprintf(why, sizeof why, "status %d", r->status);
    else
        (void)snprintf(why, sizeof why, "%s", r->why);
    if (r->status == 410) {
        hook->gone = true;
        hook_give_up(hook, "the receiver answered 410: it is gone");
    } else {
        put_off(d, why, r->retry_after_ns);
    }
    t->on_change(t->arg);
}

static const char agent[] = "User-Agent: muster-webhook/" MUSTER_PLUGIN_VERSION;

static int post(struct delivery *d)
{
    struct hook *hook = d->hook;
    int64_t wall_s = hook->tools->timer->wall_now(hook->tools->host) / second_ns;
    char signature[SIGN_TEXT_SIZE], id[SIGN_ID_SIZE + 16], at[48], signed_by[SIGN_TEXT_SIZE + 24];
    const char *const headers[] = {"Content-Type: application/json", agent, "Expect:", id, at,
                                   signed_by, NULL};
    const struct http_request request = {.url = hook->config->url, .ca_file = hook->config->ca_file, .headers = headers, .body = d->body,
                                         .body_len = d->len, .timeout_ns = hook->config->timeout_ns, .anywhere = hook->anywhere,
                                         .done = on_result, .arg = d};

    if (!sign_make(hook->keys, d->id, wall_s, d->body, d->len, signature))
        return MUSTER_ENOMEM;
    (void)snprintf(id, sizeof id, "webhook-id: %s", d->id);
    (void)snprintf(at, sizeof at, "webhook-timestamp: %" PRId64, wall_s);
    (void)snprintf(signed_by, sizeof signed_by, "webhook-signature: %s", signature);
    return http_post(hook->tools->http, &request, &d->call);
}

static void begin(struct delivery *d)
{
    struct hook *hook = d->hook;

    d->began_ns = now_of(hook);
    d->attempts++;
    if (post(d) == 0)
        hook->n_open++;
    else
        d->next_ns = d->began_ns + second_ns; /* no memory: a moment later */
}

int64_t hook_run(struct hook *hook)
{
    int64_t now = now_of(hook), next = INT64_MAX;

    for (struct delivery *d = hook->first; d && hook->n_open < hook->config->concurrency; d = d->next) {
        int64_t due = d->next_ns > hook->not_before_ns ? d->next_ns : hook->not_before_ns;

        if (!d->call && due <= now)
            begin(d);
        if (!d->call)
            due = d->next_ns > hook->not_before_ns ? d->next_ns : hook->not_before_ns;
        if (!d->call && due < next)
            next = due;
        if (hook->config->concurrency == 1)
            break; /* those behind wait for this one */
    }
    return next;
}

void hook_hand_over(struct hook *from, struct hook *to)
{
    struct delivery *d = from->first, *next;

    for (; d; d = next) {
        next = d->next;
        push(to, d);
    }
    from->first = NULL;
    from->end = &from->first;
    from->n_queued = from->n_bytes = from->n_open = 0;
    to->n_failures = from->n_failures;
    to->not_before_ns = from->not_before_ns;
}

int64_t hook_done(struct hook *hook)
{
    int64_t n = hook->n_queued;
    struct delivery *next;

    for (struct delivery *d = hook->first; d; d = next) {
        next = d->next;
        free_delivery(d);
    }
    hook->first = NULL;
    explicit_bzero(hook->keys, sizeof hook->keys);
    return n;
}
