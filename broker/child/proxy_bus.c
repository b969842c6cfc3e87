/* Subscriptions of a child, the messages that it has, and its answers; see proxy.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "child/proxy_parts.h"

/* ---- messages that a child has --------------------------------------------------------------------------------------------------- */

static uint64_t number_of(const struct proxy *p, const struct flight *f)
{
    return (uint64_t)f->turn << 32 | (uint64_t)(f - p->flights + 1);
}

/* NULL: it is through with that one. *ret_never: it never had it. */
static struct flight *find_flight(struct proxy *p, uint64_t number, bool *ret_never)
{
    uint32_t index = (uint32_t)number - 1, turn = (uint32_t)(number >> 32);
    struct flight *f = index < p->n_flights ? &p->flights[index] : NULL;

    *ret_never = !f || turn > f->turn || (turn == f->turn && f->state == FLIGHT_WAITS);
    if (*ret_never || f->turn != turn || f->state == FLIGHT_FREE)
        return NULL;
    return f;
}

static bool grow(struct proxy *p)
{
    uint32_t cap = p->cap_flights ? p->cap_flights * 2 : 64;
    struct flight *more = cap <= MAX_FLIGHTS * 2 ? realloc(p->flights, cap * sizeof *more) : NULL;

    if (!more)
        return false;
    p->flights = more;
    p->cap_flights = cap;
    return true;
}

static struct flight *flight_new(struct proxy *p)
{
    struct flight *f;

    if (p->free_flight) {
        f = &p->flights[p->free_flight - 1];
        p->free_flight = f->next_free;
    } else if (p->n_flights < MAX_FLIGHTS && (p->n_flights < p->cap_flights || grow(p))) {
        f = &p->flights[p->n_flights++];
        *f = (struct flight){0};
    } else {
        return NULL;
    }
    *f = (struct flight){.turn = f->turn + 1, .order = ++p->next_order};
    p->n_had++;
    return f;
}

static size_t bytes_of(const struct flight *f)
{
    return f->msg->payload.len + sizeof *f;
}

/* NULL: no memory. */
static struct share *share_of(struct proxy *p, const struct muster_tenant *tenant)
{
    struct share *share = map_get(&p->shares, &tenant, sizeof(tenant));

    if (share)
        return share;
    share = calloc(1, sizeof *share);
    if (share && map_put(&p->shares, &tenant, sizeof(tenant), share))
        return share;
    free(share);
    return NULL;
}

/* One more of a tenant fits when it has no more then than is left for all others. What is too long for that goes alone. */
static bool has_place(const struct proxy *p, const struct share *share, size_t bytes)
{
    return share->n + 1 + p->n_under_way < MAX_UNDER_WAY &&
           (!share->n || share->bytes + bytes + p->bytes_under_way + bytes <= MAX_UNDER_WAY_BYTES);
}

/* One that was at its bound goes on once it has half of that: a look for each message would cost more. */
static void look_at_waiting(struct proxy *p, const struct share *share)
{
    if (!p->tenant_waits || share->n > MAX_UNDER_WAY / 8 || share->bytes > MAX_UNDER_WAY_BYTES / 8)
        return;
    p->tenant_waits = false;
    p->how.hooks->go_on(p->how.arg);
}

/* It counts among those under way from now on, or not any more. */
static void set_state(struct proxy *p, struct flight *f, uint8_t state)
{
    bool was = f->state == FLIGHT_SENT, is = state == FLIGHT_SENT;

    f->state = state;
    if (was == is)
        return;
    p->n_under_way += is ? 1 : UINT32_MAX;
    p->bytes_under_way += is ? bytes_of(f) : -bytes_of(f);
    f->share->n += is ? 1 : UINT32_MAX;
    f->share->bytes += is ? bytes_of(f) : -bytes_of(f);
    if (p->n_under_way >= MAX_UNDER_WAY || p->bytes_under_way >= MAX_UNDER_WAY_BYTES)
        p->is_full = true;
    else if (p->n_under_way <= MAX_UNDER_WAY / 2 && p->bytes_under_way <= MAX_UNDER_WAY_BYTES / 2)
        p->is_full = false;
    if (!is)
        look_at_waiting(p, f->share);
}

static void put_back(struct proxy *p, struct flight *f)
{
    p->n_had--;
    f->state = FLIGHT_FREE;
    f->next_free = p->free_flight;
    p->free_flight = (uint32_t)(f - p->flights) + 1;
}

/* The broker answers for it where nobody has. */
static void let_go(struct proxy *p, struct flight *f)
{
    const struct muster_msg *msg = f->msg;

    set_state(p, f, FLIGHT_FREE);
    put_back(p, f);
    p->bus->drop(p->host, msg);
}

/* ---- to the child ---------------------------------------------------------------------------------------------------------------- */

void put_msg(struct frame *f, const struct muster_msg *msg, bool wants_answer, uint64_t tenant)
{
    frame_put_u32(f, msg->encoding);
    frame_put_u64(f, tenant);
    frame_put_str(f, msg->agent);
    frame_put_str(f, msg->subject);
    frame_put_str(f, msg->service);
    frame_put_str(f, msg->verb);
    frame_put_headers(f, msg->headers, msg->n_headers);
    frame_put_u8(f, wants_answer);
    frame_put_bytes(f, msg->payload);
    frame_put_i64(f, msg->recv_ns);
    frame_put_u64(f, msg->seq);
    frame_put_u32(f, msg->role);
}

static void send_flight(struct ward *c, struct flight *flight)
{
    uint64_t tenant;
    struct frame f;

    set_state(c->proxy, flight, FLIGHT_SENT); /* first: what ends the child now finds it */
    tenant = tenant_number(c, flight->msg->tenant);
    if (c->state == WARD_OVER)
        return;
    f = ward_begin(c, FRAME_MSG, number_of(c->proxy, flight));
    frame_put_u64(&f, flight->sub->child_id);
    put_msg(&f, flight->msg, flight->msg->request != 0, tenant);
    ward_end(c, &f);
}

/* Held from the first, so that it can be answered for, and given to the next child. */
static int hand_over(struct proxy *p, struct proxy_sub *sub, const struct muster_msg *msg, struct share *share)
{
    struct flight *f = flight_new(p);
    int err;

    if (!f)
        return MUSTER_EAGAIN;
    f->share = share;
    err = p->bus->hold(p->host, msg, &f->msg);
    if (err) {
        put_back(p, f);
        return err;
    }
    f->sub = sub;
    send_flight(p->child, f);
    proxy_set_pause(p);
    return 0;
}

static int wait_for_place(struct proxy *p)
{
    p->how.hooks->waits(p->how.arg);
    return MUSTER_EAGAIN;
}

static int on_msg(void *self, const struct muster_msg *msg)
{
    struct proxy *p = self;
    struct proxy_sub *sub = id_get(&p->subs_by_id, p->how.hooks->subscription(p->how.arg));
    struct share *share;

    if (!sub || !sub->child_id || p->paused || p->is_full || !pipe_is_wide(p->child->pipe))
        return wait_for_place(p); /* it was on its way when the pause began */
    if (!may_see(p, msg->tenant)) {
        if (msg->request)
            (void)p->bus->reply_error(p->host, msg->request, "not_found", NULL, "there is no such service or verb for this tenant");
        return 0;
    }
    if (msg->payload.len > MAX_PAYLOAD)
        return MUSTER_EINVAL;
    share = share_of(p, msg->tenant);
    if (!share)
        return MUSTER_EAGAIN;
    if (has_place(p, share, msg->payload.len))
        return hand_over(p, sub, msg, share);
    p->tenant_waits = true;
    return wait_for_place(p);
}

/* ---- what the child says of them -------------------------------------------------------------------------------------------------- */

/* *ret_flight NULL: it is through with that one, and this came late. */
static enum taken flight_of(struct ward *c, const struct frame_reader *r, struct flight **ret_flight)
{
    bool never;

    if (!frame_is_read(r))
        return ward_malformed(c, r);
    *ret_flight = find_flight(c->proxy, r->id, &never);
    return never ? ward_breach(c, "its frame \"%s\" is about a message that it was not given", frame_name(r->type)) : TAKEN;
}

enum taken take_done(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    int32_t code = frame_get_i32(r);
    uint8_t held = frame_get_u8(r);
    struct flight *f = NULL;
    enum taken is = flight_of(c, r, &f);

    if (is != TAKEN || !f || f->state != FLIGHT_SENT)
        return is;
    if (code == MUSTER_ELINK && c->state == WARD_ENDING && p->is_retiring && !f->msg->request && !f->again) {
        set_state(p, f, FLIGHT_WAITS); /* the next one has the time for it */
        return TAKEN;
    }
    if (code == MUSTER_ELINK && f->msg->request && !f->answered) /* its subscription was gone */
        (void)p->bus->reply_error(p->host, f->msg->request, "unavailable", NULL, "the service stops; try again");
    else if (code)
        p->how.hooks->failed(p->how.arg, f->msg, code);
    if (held)
        set_state(p, f, FLIGHT_HELD);
    else
        let_go(p, f);
    proxy_set_pause(p);
    proxy_look_at_retiring(p);
    return TAKEN;
}

enum taken take_drop(struct ward *c, struct frame_reader *r)
{
    struct flight *f = NULL;
    enum taken is = flight_of(c, r, &f);

    if (is != TAKEN || !f)
        return is;
    if (f->state != FLIGHT_HELD)
        return ward_breach(c, "it drops a message that it does not hold");
    let_go(c->proxy, f);
    proxy_look_at_retiring(c->proxy);
    return TAKEN;
}

/* What an answer came to. */
static enum taken answered(struct ward *c, const struct frame_reader *r, struct flight *f, int err)
{
    if (err == MUSTER_EAGAIN || err == MUSTER_ENOMEM)
        return LATER;
    if (err == MUSTER_EINVAL)
        return ward_breach(c, "its frame \"%s\" is no answer that may be given", frame_name(r->type));
    f->answered = true;
    return TAKEN;
}

enum taken take_reply(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    struct muster_bytes payload = frame_get_bytes(r);
    struct flight *f = NULL;
    enum taken is = flight_of(c, r, &f);

    if (is != TAKEN || !f || f->answered)
        return is;
    if (!f->msg->request)
        return ward_breach(c, "it answers a message of which nobody waits for an answer");
    return answered(c, r, f, p->bus->reply(p->host, f->msg->request, payload));
}

enum taken take_reply_error(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    const char *code = frame_get_str(r), *field = frame_get_str(r), *message = frame_get_str(r);
    struct flight *f = NULL;
    enum taken is = flight_of(c, r, &f);

    if (is != TAKEN || !f || f->answered)
        return is;
    if (!f->msg->request || !code || !message)
        return ward_breach(c, "it answers a message of which nobody waits for an answer, or without code and text");
    return answered(c, r, f, p->bus->reply_error(p->host, f->msg->request, code, field, message));
}

/* ---- subscriptions --------------------------------------------------------------------------------------------------------------- */

/* One that a child before made, with the same words, and that this one has not asked for yet. */
static struct proxy_sub *find_same(const struct proxy *p, const char *pattern, const struct muster_subscription *how)
{
    for (struct proxy_sub *s = p->subs; s; s = s->next)
        if (!s->child_id && strcmp(s->pattern, pattern) == 0 && s->how.overflow == how->overflow && s->how.max_msgs == how->max_msgs &&
            s->how.queue == how->queue && s->how.max_bytes == how->max_bytes)
            return s;
    return NULL;
}

static struct proxy_sub *find_sub(const struct proxy *p, uint64_t child_id)
{
    struct proxy_sub *s = p->subs;

    while (s && s->child_id != child_id)
        s = s->next;
    return s;
}

static int make_sub(struct proxy *p, const char *pattern, const struct muster_subscription *how, uint64_t child_id)
{
    size_t len = strlen(pattern) + 1;
    struct proxy_sub *s = calloc(1, sizeof *s + len);
    int err;

    if (!s)
        return MUSTER_ENOMEM;
    memcpy(s->pattern, pattern, len);
    s->how = *how;
    s->how.subject = s->pattern;
    s->child_id = child_id;
    err = p->bus->subscribe(p->host, &s->how, &s->host_id);
    if (!err && !id_put(&p->subs_by_id, s->host_id, s)) {
        p->bus->unsubscribe(p->host, s->host_id);
        err = MUSTER_ENOMEM;
    }
    if (err) {
        free(s);
        return err;
    }
    s->next = p->subs;
    p->subs = s;
    p->n_subs++;
    return 0;
}

/* Messages of it that the child has are answered and dropped by the child's word. */
static void remove_sub(struct proxy *p, struct proxy_sub *sub)
{
    struct proxy_sub **at = &p->subs;

    while (*at != sub)
        at = &(*at)->next;
    *at = sub->next;
    p->n_subs--;
    (void)id_take(&p->subs_by_id, sub->host_id);
    p->bus->unsubscribe(p->host, sub->host_id);
    for (uint32_t i = 0; i < p->n_flights; i++)
        if (p->flights[i].state != FLIGHT_FREE && p->flights[i].sub == sub)
            p->flights[i].sub = NULL;
    free(sub);
}

enum taken take_subscribe(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    struct muster_subscription how = {.size = sizeof how, .fn = on_msg};
    struct proxy_sub *same;
    const char *pattern;
    char why[POLICY_WHY_SIZE];
    int err;

    how.overflow = frame_get_u32(r);
    pattern = frame_get_str(r);
    how.max_msgs = frame_get_u32(r);
    how.queue = frame_get_u32(r);
    how.max_bytes = frame_get_u64(r);
    if (!frame_is_read(r) || !pattern || !r->id || find_sub(p, r->id))
        return ward_malformed(c, r);
    if (policy_subscribe(&p->how.policy, pattern, why) != 0)
        return ward_breach(c, "%s", why);
    same = find_same(p, pattern, &how);
    if (same) {
        same->child_id = r->id;
        return TAKEN;
    }
    if (p->n_subs >= MAX_SUBSCRIPTIONS)
        return ward_breach(c, "it has more than %d subscriptions", MAX_SUBSCRIPTIONS);
    err = make_sub(p, pattern, &how, r->id);
    if (!err || err == MUSTER_ELINK) /* the instance ends */
        return TAKEN;
    ward_kill(c, "its subscription to \"%s\" cannot be made (error %d)", pattern, err);
    return BROKEN;
}

/* What one whose place another takes gives up in drain() goes on filling for that one; what that does not ask for is removed then. */
enum taken take_unsubscribe(struct ward *c, struct frame_reader *r)
{
    struct proxy_sub *s = r->id ? find_sub(c->proxy, r->id) : NULL;

    if (!frame_is_read(r))
        return ward_malformed(c, r);
    if (s && c->proxy->is_retiring)
        s->child_id = 0;
    else if (s)
        remove_sub(c->proxy, s);
    return TAKEN;
}

enum taken take_pause(struct ward *c, struct frame_reader *r)
{
    uint8_t on = frame_get_u8(r);

    if (!frame_is_read(r))
        return ward_malformed(c, r);
    c->proxy->wants_pause = on;
    proxy_set_pause(c->proxy);
    return TAKEN;
}

/* ---- from one child to the next --------------------------------------------------------------------------------------------------- */

/* Its callback has not returned in two children. */
static void give_up(struct proxy *p, const struct flight *f)
{
    char line[PROXY_WHY_SIZE];

    (void)snprintf(line, sizeof line, "plugin %s %s: its message \"%.160s\" was with two processes that ended, and is dropped", p->how.plugin->name,
                   p->how.plugin->version, f->msg->subject);
    p->how.hooks->log(p->how.arg, LOG_ERROR, line);
    p->how.hooks->failed(p->how.arg, f->msg, MUSTER_ELINK);
}

void bus_child_over(struct proxy *p)
{
    for (struct proxy_sub *s = p->subs; s; s = s->next)
        s->child_id = 0;
    for (uint32_t i = 0; i < p->n_flights; i++) {
        struct flight *f = &p->flights[i];

        if (f->state == FLIGHT_FREE || (f->state == FLIGHT_WAITS && !p->ending)) /* that child has not started */
            continue;
        if (f->state == FLIGHT_SENT && !f->msg->request && !f->again && f->sub && !p->ending) {
            set_state(p, f, FLIGHT_WAITS);
            continue;
        }
        if (f->again && f->state == FLIGHT_SENT && !p->ending)
            give_up(p, f);
        if (f->msg->request && !f->answered)
            (void)p->bus->reply_error(p->host, f->msg->request, "unavailable", NULL, "the service was interrupted; try again");
        let_go(p, f);
    }
    p->is_full = false;
}

static int by_order(const void *a, const void *b)
{
    const struct flight *const *x = a, *const *y = b;

    return (*x)->order < (*y)->order ? -1 : (*x)->order > (*y)->order;
}

/* At most MAX_UNDER_WAY wait. */
static size_t list_waiting(struct proxy *p, struct flight *out[MAX_UNDER_WAY])
{
    size_t n = 0;

    for (uint32_t i = 0; i < p->n_flights && n < MAX_UNDER_WAY; i++)
        if (p->flights[i].state == FLIGHT_WAITS)
            out[n++] = &p->flights[i];
    qsort(out, n, sizeof *out, by_order);
    return n;
}

static void remove_orphans(struct proxy *p)
{
    for (struct proxy_sub *s = p->subs, *next; s; s = next) {
        next = s->next;
        if (!s->child_id)
            remove_sub(p, s);
    }
}

void bus_child_started(struct ward *c)
{
    struct proxy *p = c->proxy;
    struct flight *waiting[MAX_UNDER_WAY];
    size_t n;

    remove_orphans(p);
    n = list_waiting(p, waiting);
    for (size_t i = 0; i < n && c->state != WARD_OVER; i++) {
        waiting[i]->again = true;
        waiting[i]->turn++; /* the child before knew it by another number */
        if (waiting[i]->sub)
            send_flight(c, waiting[i]);
        else
            let_go(p, waiting[i]);
    }
}

/* The broker has forgotten its side of the subscriptions, or does so with the instance. */
void bus_done(struct proxy *p)
{
    void *share;

    for (uint32_t i = 0; i < p->n_flights; i++)
        if (p->flights[i].state != FLIGHT_FREE)
            let_go(p, &p->flights[i]);
    while (p->subs) {
        struct proxy_sub *next = p->subs->next;

        free(p->subs);
        p->subs = next;
    }
    map_done(&p->subs_by_id);
    free(p->flights);
    for (size_t at = 0; map_next(&p->shares, &at, NULL, &share);)
        free(share);
    map_done(&p->shares);
}
