/*
 * The health of the broker's parts; see health.h. Owns the list of components; any thread.
 *
 * Who reports and who reads meet in one lock for the whole list: reports are rare (a change, or a
 * lane's tick), and a page that shows all components at one moment must not mix two moments. Log
 * lines are written after the lock is given back, so that two changes of one component at the same
 * moment may be logged in either order; the state is the last.
 */
#include "core/health.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/utf8.h"

/* What a component says of itself; valid UTF-8. */
struct report {
    int state;
    char code[HEALTH_CODE_SIZE];
    char text[HEALTH_TEXT_SIZE];
};

/* All but owner, kind, name and required is guarded by owner->lock. */
struct health_component {
    struct health *owner;
    struct health_component *next;
    char *kind, *name;
    bool required, reported;
    struct report last; /* down until it has reported */
    int64_t since_wall_ns;
};

struct health {
    pthread_mutex_t lock;
    char *broker;
    struct health_component *first; /* in order of adding */
    size_t n;
};

static const char *const state_words[] = {
    [MUSTER_HEALTH_OK] = "ok",
    [MUSTER_HEALTH_STANDBY] = "standby",
    [MUSTER_HEALTH_DEGRADED] = "degraded",
    [MUSTER_HEALTH_DOWN] = "down",
};

/* Copy what is valid UTF-8 into out, cut at a character's border; the rest of a broken text is
 * mended, not lost. */
static void copy_text(char *out, size_t size, const char *text)
{
    struct buf mended = {0};
    size_t len;

    utf8_put(&mended, text, strlen(text));
    len = mended.len < size ? mended.len : size - 1;
    if (len)
        len = utf8_prefix(mended.data, len);
    if (len)
        memcpy(out, mended.data, len);
    out[len] = '\0';
    buf_done(&mended);
}

struct health *health_new(const char *broker)
{
    struct health *h = calloc(1, sizeof *h);

    if (!h)
        return NULL;
    (void)pthread_mutex_init(&h->lock, NULL); /* cannot fail with default attributes on Linux */
    h->broker = strdup(broker);
    if (h->broker)
        return h;
    health_free(h);
    return NULL;
}

static void component_free(struct health_component *c)
{
    if (!c)
        return;
    free(c->kind);
    free(c->name);
    free(c);
}

void health_free(struct health *h)
{
    if (!h)
        return;
    for (struct health_component *c = h->first, *next; c; c = next) {
        next = c->next;
        component_free(c);
    }
    (void)pthread_mutex_destroy(&h->lock); /* nobody uses it any more */
    free(h->broker);
    free(h);
}

static struct health_component *component_new(struct health *h, const char *kind, const char *name)
{
    struct health_component *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    c->owner = h;
    c->kind = strdup(kind);
    c->name = strdup(name);
    c->last = (struct report){
        .state = MUSTER_HEALTH_DOWN, .code = "starting", .text = "has not reported yet"};
    c->since_wall_ns = clock_wall_ns();
    if (c->kind && c->name)
        return c;
    component_free(c);
    return NULL;
}

/* Append c unless there is one of its kind and name. A walk each time is no matter: there are a few
 * dozen, and HEALTH_MAX bounds them. Locked. */
static int link_component(struct health *h, struct health_component *c)
{
    struct health_component **end = &h->first;

    if (h->n == HEALTH_MAX)
        return MUSTER_EAGAIN;
    for (; *end; end = &(*end)->next)
        if (strcmp((*end)->kind, c->kind) == 0 && strcmp((*end)->name, c->name) == 0)
            return MUSTER_EEXIST;
    *end = c;
    h->n++;
    return 0;
}

int health_add(struct health *h, const char *kind, const char *name, bool required,
               struct health_component **ret_component)
{
    struct health_component *c = component_new(h, kind, name);
    int err;

    if (!c)
        return MUSTER_ENOMEM;
    c->required = required;
    pthread_mutex_lock(&h->lock);
    err = link_component(h, c);
    pthread_mutex_unlock(&h->lock);
    if (err) {
        component_free(c);
        return err;
    }
    *ret_component = c;
    return 0;
}

void health_remove(struct health_component *c)
{
    struct health_component **at;

    if (!c)
        return;
    pthread_mutex_lock(&c->owner->lock);
    for (at = &c->owner->first; *at != c;)
        at = &(*at)->next;
    *at = c->next;
    c->owner->n--;
    pthread_mutex_unlock(&c->owner->lock);
    component_free(c);
}

static void log_change(const struct health_component *c, const struct report *r)
{
    static const int levels[] = {
        [MUSTER_HEALTH_OK] = LOG_INFO,
        [MUSTER_HEALTH_STANDBY] = LOG_INFO,
        [MUSTER_HEALTH_DEGRADED] = LOG_WARN,
        [MUSTER_HEALTH_DOWN] = LOG_ERROR,
    };
    const char *word = state_words[r->state];
    const char *colon = *r->text ? ": " : "";
    char area[128]; /* of its own for each component: one that flaps must not silence the others */

    (void)snprintf(area, sizeof area, "%s.%s", c->kind, c->name);
    if (strcmp(r->code, word) == 0)
        log_line(levels[r->state], area, "%s%s%s", word, colon, r->text);
    else
        log_line(levels[r->state], area, "%s (%s)%s%s", word, r->code, colon, r->text);
}

/* Take over what is said; true when it is a change that people must hear of. */
static bool update(struct health_component *c, const struct report *r)
{
    bool changed;

    pthread_mutex_lock(&c->owner->lock);
    changed = !c->reported || c->last.state != r->state || strcmp(c->last.code, r->code) != 0;
    if (changed)
        c->since_wall_ns = clock_wall_ns();
    c->reported = true;
    c->last = *r;
    pthread_mutex_unlock(&c->owner->lock);
    return changed;
}

void health_vset(struct health_component *c, int state, const char *code, const char *fmt,
                 va_list ap)
{
    struct report r = {.state = state};
    struct buf text = {0};

    ASSERT(state >= MUSTER_HEALTH_OK && state <= MUSTER_HEALTH_DOWN);
    if (!c)
        return;
    buf_vprintf(&text, fmt, ap);
    copy_text(r.text, sizeof r.text, text.data ? text.data : "");
    copy_text(r.code, sizeof r.code, code ? code : "ok");
    buf_done(&text);
    if (update(c, &r))
        log_change(c, &r);
}

void health_set(struct health_component *c, int state, const char *code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    health_vset(c, state, code, fmt, ap);
    va_end(ap);
}

/* Silence counts as down: a component that never reports must not pass for one that works. */
static bool holds_up(const struct health_component *c)
{
    return c->required && (!c->reported || c->last.state == MUSTER_HEALTH_DOWN);
}

/* Locked. */
static bool is_ready(const struct health *h)
{
    for (const struct health_component *c = h->first; c; c = c->next)
        if (holds_up(c))
            return false;
    return h->first != NULL; /* a broker that has not said what it consists of is not ready */
}

bool health_is_ready(struct health *h)
{
    bool ready;

    pthread_mutex_lock(&h->lock);
    ready = is_ready(h);
    pthread_mutex_unlock(&h->lock);
    return ready;
}

static const char *state_word(const struct health_component *c)
{
    return c->reported ? state_words[c->last.state] : "starting";
}

static void put_member(struct buf *out, const char *key, const char *value)
{
    buf_putc(out, '"');
    buf_puts(out, key);
    buf_put_lit(out, "\":");
    buf_put_json(out, value, strlen(value));
}

static void put_component(struct buf *out, const struct health_component *c)
{
    char since[CLOCK_RFC3339_SIZE];

    clock_rfc3339(c->since_wall_ns, since);
    buf_putc(out, '{');
    put_member(out, "kind", c->kind);
    buf_putc(out, ',');
    put_member(out, "name", c->name);
    buf_printf(out, ",\"required\":%s,", c->required ? "true" : "false");
    put_member(out, "state", state_word(c));
    buf_putc(out, ',');
    put_member(out, "code", c->last.code);
    buf_putc(out, ',');
    put_member(out, "text", c->last.text);
    buf_putc(out, ',');
    put_member(out, "since", since);
    buf_putc(out, '}');
}

bool health_put_json(struct health *h, struct buf *out)
{
    bool ready;

    pthread_mutex_lock(&h->lock);
    ready = is_ready(h);
    buf_printf(out, "{\"ready\":%s,", ready ? "true" : "false");
    put_member(out, "broker", h->broker);
    buf_put_lit(out, ",\"components\":[");
    for (const struct health_component *c = h->first; c; c = c->next) {
        put_component(out, c);
        if (c->next)
            buf_putc(out, ',');
    }
    pthread_mutex_unlock(&h->lock);
    buf_put_lit(out, "]}\n");
    return ready;
}

void health_put_line(struct health *h, struct buf *out)
{
    const char *between = ": ";

    pthread_mutex_lock(&h->lock);
    buf_puts(out, is_ready(h) ? "ready" : "not ready");
    for (const struct health_component *c = h->first; c; c = c->next) {
        /* What does not work is told also where it is not required: people want to know. */
        if (!holds_up(c) && c->last.state != MUSTER_HEALTH_DEGRADED &&
            c->last.state != MUSTER_HEALTH_DOWN)
            continue;
        buf_printf(out, "%s%s %s is %s", between, c->kind, c->name, state_word(c));
        if (c->reported)
            buf_printf(out, " (%s)%s%s", c->last.code, *c->last.text ? ": " : "", c->last.text);
        between = "; ";
    }
    pthread_mutex_unlock(&h->lock);
}

static void read_states(void *arg, struct metrics_out *out)
{
    struct health *h = arg;

    pthread_mutex_lock(&h->lock);
    for (const struct health_component *c = h->first; c; c = c->next) {
        struct metric_label labels[] = {{"kind", c->kind}, {"name", c->name}};

        metrics_emit(out, labels, 2, c->last.state);
    }
    pthread_mutex_unlock(&h->lock);
}

static void read_ready(void *arg, struct metrics_out *out)
{
    metrics_emit(out, NULL, 0, health_is_ready(arg));
}

int health_watch(struct health *h, struct metrics *m)
{
    static const struct metric_spec states = {
        .type = MUSTER_GAUGE,
        .name = "muster_health",
        .help = "State of a component: 0 ok, 1 standby, 2 degraded, 3 down or not yet reported.",
    };
    static const struct metric_spec ready = {
        .type = MUSTER_GAUGE,
        .name = "muster_ready",
        .help = "1 when every required component works, as /readyz says.",
    };
    int err = metrics_watch(m, &states, read_states, h);

    return err ? err : metrics_watch(m, &ready, read_ready, h);
}
