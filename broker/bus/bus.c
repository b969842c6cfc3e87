/* The links, open calls and subscriptions; see bus.h. */
#include "bus/bus.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "bus/link.h"

enum { MAX_REPLY = 352 };
enum { RUN_MSGS = 256, SHORT_RUN_MSGS = 16 }; /* of a direct subscription, before lanes are woken and messages given back */
static const int64_t hear_ns = 2 * CLOCK_MS; /* a read and subscription, where the link is behind */
enum { MAX_CALLS = 1 << 16, MAX_PENDING_MSGS = 1 << 16, MAX_PENDING_BYTES = 64 << 20, SYSTEM_OUT_MSGS = 1024, MAX_ANSWERS = 1024 };

/* One open call. Owned by the table until it completes, then by the lane. */
struct call {
    struct lane_item item;
    struct bus_call how;
    int64_t deadline_ns;
    int link, code;
    uint32_t n_answers; /* of many; the lock guards it */
    uint32_t slot;
    natsMsg *answer;
    char reply[MAX_REPLY]; /* where it is answered, and nowhere else: the subject says who did, and one call's says nothing of another's */
};

/* One reference for being in the list, one for each of the library's subscriptions whose functions may still run. */
struct subscription {
    struct subscription *next;
    uint64_t id;
    char *subject, *queue;
    struct bus_sub how;
    struct bus *bus;
    atomic_int refs;
    natsSubscription *sub; /* the link's thread only */
    struct subscription *next_direct; /* likewise */
};

struct side { /* what a link's hooks need to know */
    struct bus *bus;
    int index;
    struct link *link;
    char id[CLOCK_UUID_SIZE]; /* last token but one of the reply subjects */
    natsSubscription *inboxes[1 + BUS_N_ANSWERS]; /* link thread only */
    struct subscription *direct; /* likewise: those that it reads itself, in the order in which it does */
};

struct bus {
    struct bus_options options;
    struct side sides[BUS_N_LINKS];

    pthread_mutex_t lock; /* guards all below */
    struct call **calls;  /* by slot */
    uint32_t *free_slots;
    uint32_t n_free, n_slots;
    bool calls_starved;  /* somebody got no slot, and waits for on_writable */
    uint32_t generation; /* part of the reply subject, so that a late answer never meets a new call */
    uint32_t *generations;
    struct subscription *subs;
    struct subscription *dead; /* unsubscribed, and the link thread has not seen it yet */
    uint64_t next_sub;
    size_t n_attached; /* subscriptions of the library that have not said their last word */
    pthread_cond_t detached;
};

static const char *const link_names[] = {"bulk", "live", "system", "callout"};

/* ---- open calls ---------------------------------------------------------------------------------------------------- */

static void run_call(struct lane_item *item)
{
    struct call *c = (struct call *)item;

    c->how.fn(c->how.arg, c->code, c->code ? NULL : (const struct bus_msg *)c->answer);
    natsMsg_Destroy(c->answer);
    free(c);
}

/* Take the call out of the table and hand it to its lane; the lock is held, so that bus_cancel() leaves nothing behind. */
static void complete_locked(struct bus *b, struct call *c, int code, natsMsg *answer)
{
    b->calls[c->slot] = NULL;
    b->free_slots[b->n_free++] = c->slot;
    c->code = code;
    c->answer = answer;
    lane_push(c->how.lane, &c->item);
}

static void complete_where(struct bus *b, bool (*match)(const struct call *c, const void *arg), const void *arg, int code)
{
    pthread_mutex_lock(&b->lock);
    for (uint32_t i = 0; i < b->n_slots; i++)
        if (b->calls[i] && match(b->calls[i], arg))
            complete_locked(b, b->calls[i], code, NULL);
    pthread_mutex_unlock(&b->lock);
}

static bool is_of_link(const struct call *c, const void *arg)
{
    return c->link == *(const int *)arg;
}

struct late {
    int link;
    int64_t now_ns;
};

static bool is_late(const struct call *c, const void *arg)
{
    const struct late *late = arg;

    return c->link == late->link && c->deadline_ns <= late->now_ns;
}

static bool is_of_lane(const struct call *c, const void *arg)
{
    return c->how.lane == arg;
}

static bool is_of_owner(const struct call *c, const void *arg)
{
    return c->how.owner == arg;
}

/* One answer of many, on its way to the lane: before what ends the call, which is pushed behind it. */
struct answer {
    struct lane_item item;
    bus_reply_fn fn;
    void *arg;
    natsMsg *msg;
};

static void drop_answer(struct lane_item *item)
{
    struct answer *a = (struct answer *)item;

    natsMsg_Destroy(a->msg);
    free(a);
}

static void run_answer(struct lane_item *item)
{
    struct answer *a = (struct answer *)item;

    a->fn(a->arg, 0, (const struct bus_msg *)a->msg);
    drop_answer(item);
}

/* The lock is held. */
static void add_answer_locked(struct call *c, natsMsg *msg)
{
    struct answer *a = c->n_answers < MAX_ANSWERS ? malloc(sizeof *a) : NULL;

    if (!a) {
        natsMsg_Destroy(msg);
        return;
    }
    c->n_answers++;
    *a = (struct answer){{.run = run_answer, .drop = drop_answer}, c->how.fn, c->how.arg, msg};
    lane_push(c->how.lane, &a->item);
}

/* A NATS status message "503" says that nobody listens (ADR-4). */
static int answer_code(natsMsg *msg)
{
    const char *status = natsMsg_GetDataLength(msg) == 0 ? bus_msg_header((struct bus_msg *)msg, "Status") : NULL;

    return status && strcmp(status, "503") == 0 ? MUSTER_ENOTFOUND : 0;
}

static void on_inbox(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    struct side *side = arg;
    struct bus *b = side->bus;
    const char *subject = natsMsg_GetSubject(msg), *token = strrchr(subject, '.');
    unsigned long id = token ? strtoul(token + 1, NULL, 10) : 0;
    uint32_t slot = (uint32_t)(id % MAX_CALLS), generation = (uint32_t)(id / MAX_CALLS);
    int code = answer_code(msg);
    struct call *c;

    (void)nc;
    (void)sub;
    link_count_received(side->link, 1);
    pthread_mutex_lock(&b->lock);
    c = slot < b->n_slots && b->generations[slot] == generation ? b->calls[slot] : NULL;
    if (c && strcmp(subject, c->reply) != 0)
        c = NULL; /* somebody else's word: agents write under their own names only */
    if (c && c->how.many && !code) {
        add_answer_locked(c, msg);
    } else if (c) {
        if (code) {
            natsMsg_Destroy(msg);
            msg = NULL;
        }
        complete_locked(b, c, code, msg);
    }
    pthread_mutex_unlock(&b->lock);
    if (!c)
        natsMsg_Destroy(msg); /* late, too: its call was completed by its deadline */
}

static bool grow_slots(struct bus *b)
{
    uint32_t n = b->n_slots ? b->n_slots * 2 : 256;
    struct call **calls = n <= MAX_CALLS ? calloc(n, sizeof(struct call *)) : NULL;
    uint32_t *slots = calls ? calloc(n, sizeof *slots) : NULL;
    uint32_t *generations = slots ? calloc(n, sizeof *generations) : NULL;

    if (!generations) {
        free(calls);
        free(slots);
        return false;
    }
    if (b->n_slots) {
        memcpy(calls, b->calls, b->n_slots * sizeof(struct call *));
        memcpy(generations, b->generations, b->n_slots * sizeof *generations);
    }
    free(b->calls);
    free(b->free_slots);
    free(b->generations);
    b->calls = calls;
    b->free_slots = slots;
    b->generations = generations;
    for (uint32_t i = n; i > b->n_slots; i--)
        b->free_slots[b->n_free++] = i - 1;
    b->n_slots = n;
    return true;
}

enum { MAX_LAST_TOKEN = 48 };

/* Who was asked once must not be able to answer what others are asked: what the server keeps agents from needs no secret. */
static void put_last_token(struct call *c, unsigned long id)
{
    size_t len = strlen(c->reply);

    if (c->how.answers)
        (void)snprintf(c->reply + len, sizeof c->reply - len, "%lu-%016llx", id, (unsigned long long)clock_random());
    else
        (void)snprintf(c->reply + len, sizeof c->reply - len, "%lu", id);
}

/* Give the call a slot, and its reply subject a last token that finds it. */
static int open_call(struct bus *b, struct call *c)
{
    int err = 0;

    pthread_mutex_lock(&b->lock);
    if (!b->n_free && !grow_slots(b)) {
        b->calls_starved = true;
        err = MUSTER_EAGAIN;
    } else {
        c->slot = b->free_slots[--b->n_free];
        b->calls[c->slot] = c;
        b->generations[c->slot] = ++b->generation;
        put_last_token(c, (unsigned long)b->generation * MAX_CALLS + c->slot);
    }
    pthread_mutex_unlock(&b->lock);
    return err;
}

/* Undo open_call(). False when somebody completed it meanwhile: it belongs to its lane then. */
static bool withdraw_call(struct bus *b, struct call *c, uint32_t slot)
{
    bool mine;

    pthread_mutex_lock(&b->lock);
    mine = b->calls[slot] == c;
    if (mine) {
        b->calls[slot] = NULL;
        b->free_slots[b->n_free++] = slot;
    }
    pthread_mutex_unlock(&b->lock);
    return mine;
}

/* ---- messages out -------------------------------------------------------------------------------------------------- */

/* A name that ends its line would put headers of somebody else's choice into the message; of values the library takes care. */
static bool is_header_name(const char *name)
{
    return *name && !name[strcspn(name, ": \r\n")];
}

static bool fits(const struct bus_out *out, size_t *ret_bytes)
{
    size_t n = out->payload.len;

    for (uint32_t i = 0; i < out->n_headers && n <= BUS_MAX_BYTES; i++) {
        if (!is_header_name(out->headers[i].name))
            return false;
        n += strlen(out->headers[i].name) + strlen(out->headers[i].value) + 4;
    }
    *ret_bytes = n + strlen(out->subject) + 64;
    return n <= BUS_MAX_BYTES;
}

static int make_msg(const struct bus_out *out, const char *reply, natsMsg **ret_msg)
{
    natsMsg *msg = NULL;
    natsStatus s = natsMsg_Create(&msg, out->subject, reply, out->payload.data, (int)out->payload.len);
    char fence[BUF_U64_SIZE];

    for (uint32_t i = 0; s == NATS_OK && i < out->n_headers; i++)
        s = natsMsgHeader_Set(msg, out->headers[i].name, out->headers[i].value);
    if (s == NATS_OK && out->fence >= 0)
        s = natsMsgHeader_Set(msg, "Nats-Expected-Last-Sequence", buf_u64((uint64_t)out->fence, fence));
    if (s != NATS_OK) {
        natsMsg_Destroy(msg);
        return s == NATS_NO_MEMORY ? MUSTER_ENOMEM : MUSTER_EINVAL;
    }
    *ret_msg = msg;
    return 0;
}

static int send_with_reply(struct bus *b, int link, const struct bus_out *out, const char *reply)
{
    natsMsg *msg;
    size_t n_bytes;
    int err;

    if (!fits(out, &n_bytes))
        return MUSTER_EINVAL;
    err = bus_is_up(b, link) ? make_msg(out, reply, &msg) : MUSTER_ELINK;
    if (err)
        return err;
    err = link_send(b->sides[link].link, msg, n_bytes, out);
    if (err)
        natsMsg_Destroy(msg);
    return err;
}

int bus_send(struct bus *b, int link, const struct bus_out *out)
{
    return send_with_reply(b, link, out, out->reply);
}

static struct call *call_new(const struct side *side, const struct bus_call *how)
{
    struct call *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    *c = (struct call){.item = {.run = run_call}, .how = *how, .link = side->index};
    c->deadline_ns = clock_now_ns() + how->timeout_ns;
    if (snprintf(c->reply, sizeof c->reply, "%s.%s.", how->answers ? how->answers : "_INBOX", side->id) < MAX_REPLY - MAX_LAST_TOKEN)
        return c;
    free(c);
    return NULL;
}

/* out NULL: what is sent is its own answer. */
static int make_call(struct bus *b, int link, const struct bus_out *out, const struct bus_call *how)
{
    struct call *c = call_new(&b->sides[link], how);
    struct bus_out echo = {.fence = -1};
    char reply[MAX_REPLY];
    uint32_t slot;
    int err;

    if (!c)
        return MUSTER_ENOMEM;
    err = open_call(b, c);
    if (err) {
        free(c);
        return err;
    }
    slot = c->slot; /* it may be completed, and gone, from now on */
    memcpy(reply, c->reply, sizeof reply);
    echo.subject = reply;
    err = out ? send_with_reply(b, link, out, reply) : send_with_reply(b, link, &echo, NULL);
    if (!err || !withdraw_call(b, c, slot))
        return 0;
    free(c);
    return err;
}

int bus_request(struct bus *b, int link, const struct bus_out *out, const struct bus_call *how)
{
    return make_call(b, link, out, how);
}

int bus_flush(struct bus *b, int link, const struct bus_call *how)
{
    return make_call(b, link, NULL, how);
}

void bus_cancel(struct bus *b, const void *owner)
{
    if (b)
        complete_where(b, is_of_owner, owner, MUSTER_ELINK);
}

void bus_cancel_lane(struct bus *b, const struct lane *lane)
{
    if (b)
        complete_where(b, is_of_lane, lane, MUSTER_ELINK);
}

/* ---- subscriptions ------------------------------------------------------------------------------------------------- */

static void unref(struct subscription *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    if (s->how.gone)
        s->how.gone(s->how.arg);
    free(s->subject);
    free(s->queue);
    free(s);
}

static int link_named(const struct bus_sub *how)
{
    return how->system ? BUS_SYSTEM : how->callout ? BUS_CALLOUT : BUS_LIVE;
}

static int link_of(const struct subscription *s)
{
    return link_named(&s->how);
}

static void on_message(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    struct subscription *s = arg;

    (void)nc;
    (void)sub;
    link_count_received(s->bus->sides[link_of(s)].link, 1);
    s->how.fn(s->how.arg, (struct bus_msg *)msg);
}

/* Hear some of what waits; how many it was. What the library has dropped for want of room it says once, in place of a message. */
static uint64_t hear_some(struct subscription *s, uint64_t max)
{
    uint64_t n = 0;

    while (n < max) {
        natsMsg *msg;
        natsStatus status = natsSubscription_NextMsg(&msg, s->sub, 0);

        if (status == NATS_SLOW_CONSUMER)
            continue;
        if (status != NATS_OK)
            break;
        n++;
        s->how.fn(s->how.arg, (struct bus_msg *)msg);
    }
    return n;
}

/* Where the link is behind, for a moment only: of what waits meanwhile the library keeps as much as bound() says. True: more waits. */
static bool hear(struct side *side, struct subscription *s, bool behind)
{
    int64_t until_ns = behind ? clock_now_ns() + hear_ns : INT64_MAX;
    uint64_t waiting = 0, n = 1;

    while (n && natsSubscription_QueuedMsgs(s->sub, &waiting) == NATS_OK && waiting) {
        lane_hold_wakes();
        n = hear_some(s, behind ? SHORT_RUN_MSGS : RUN_MSGS);
        lane_let_wakes();
        link_count_received(side->link, n);
        if (behind && clock_now_ns() >= until_ns)
            return waiting > n;
    }
    return false;
}

static bool on_read(void *arg, bool behind)
{
    struct side *side = arg;
    bool more = false;

    bus_msgs_gather(); /* until the next tick */
    for (struct subscription *s = side->direct; s; s = s->next_direct)
        more = hear(side, s, behind) || more;
    return lane_let_late_wakes(clock_now_ns()) || more;
}

static void count_detached(struct bus *b)
{
    pthread_mutex_lock(&b->lock);
    if (--b->n_attached == 0)
        pthread_cond_signal(&b->detached);
    pthread_mutex_unlock(&b->lock);
}

/* The library's last word on one of its subscriptions. */
static void on_complete(void *arg)
{
    struct subscription *s = arg;
    struct bus *b = s->bus;

    unref(s);
    count_detached(b);
}

static void on_inbox_complete(void *arg)
{
    count_detached(arg);
}

/* Our bounds rule as soon as its thread comes to a message; this one holds when it does not. What is over is dropped and counted as slow. */
static natsStatus bound(natsSubscription *sub)
{
    return natsSubscription_SetPendingLimits(sub, MAX_PENDING_MSGS, MAX_PENDING_BYTES);
}

/* The lock is held. */
static natsStatus adopt(struct bus *b, natsSubscription *sub, natsOnCompleteCB last_word, void *arg)
{
    b->n_attached++;
    ASSERT(natsSubscription_SetOnCompleteCB(sub, last_word, arg) == NATS_OK);
    return bound(sub);
}

static natsStatus subscribe_direct(natsConnection *nc, struct subscription *s)
{
    return s->queue ? natsConnection_QueueSubscribeSync(&s->sub, nc, s->subject, s->queue)
                    : natsConnection_SubscribeSync(&s->sub, nc, s->subject);
}

static natsStatus subscribe(natsConnection *nc, struct subscription *s)
{
    return s->queue ? natsConnection_QueueSubscribe(&s->sub, nc, s->subject, s->queue, on_message, s)
                    : natsConnection_Subscribe(&s->sub, nc, s->subject, on_message, s);
}

/* The lock is held. */
static natsStatus attach(natsConnection *nc, struct subscription *s)
{
    natsStatus status = s->how.direct ? subscribe_direct(nc, s) : subscribe(nc, s);

    if (status != NATS_OK) {
        log_error("bus", "cannot subscribe to %s: %s", s->subject, nats_GetLastError(NULL));
        return status;
    }
    if (s->how.direct)
        return bound(s->sub);
    atomic_fetch_add(&s->refs, 1);
    return adopt(s->bus, s->sub, on_complete, s);
}

static void detach(struct subscription *s)
{
    natsSubscription_Destroy(s->sub);
    s->sub = NULL;
}

/* Those of a link, or of all. */
static struct subscription *take_dead(struct bus *b, int link)
{
    struct subscription *dead = NULL;

    for (struct subscription **at = &b->dead; *at;) {
        struct subscription *s = *at;

        if (link != BUS_N_LINKS && link_of(s) != link) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        s->next = dead;
        dead = s;
    }
    return dead;
}

static void drop_all(struct subscription *s)
{
    while (s) {
        struct subscription *next = s->next;

        detach(s);
        unref(s);
        s = next;
    }
}

/* The lock is held. */
static void put_direct(struct side *side, bool queued)
{
    for (struct subscription *s = side->bus->subs; s; s = s->next) {
        if (!s->how.direct || !s->sub || link_of(s) != side->index || queued != (s->queue != NULL))
            continue;
        s->next_direct = side->direct;
        side->direct = s;
    }
}

/* The lock is held. */
static void list_direct(struct side *side)
{
    side->direct = NULL;
    put_direct(side, true);
    put_direct(side, false); /* in front of them */
}

/* Bring the library's subscriptions to what the list says. */
static void on_resync(void *arg, natsConnection *nc)
{
    struct side *side = arg;
    struct bus *b = side->bus;
    struct subscription *dead;

    pthread_mutex_lock(&b->lock);
    dead = take_dead(b, side->index);
    for (struct subscription *s = b->subs; s; s = s->next)
        if (!s->sub && link_of(s) == side->index)
            (void)attach(nc, s); /* was logged; the connection's end, which is near, makes it good */
    list_direct(side);
    pthread_mutex_unlock(&b->lock);
    drop_all(dead);
}

/* The lock is held. */
static natsStatus attach_inboxes(struct side *side, natsConnection *nc)
{
    const struct bus_options *options = &side->bus->options;
    int n = side->index >= BUS_SYSTEM ? 1 : 1 + BUS_N_ANSWERS; /* nobody answers a plugin there */
    char pattern[MAX_REPLY];
    natsStatus status = NATS_OK;

    for (int i = 0; status == NATS_OK && i < n; i++) {
        const char *prefix = i ? options->answers[i - 1] : "_INBOX";

        if (!prefix)
            break;
        natsSubscription_Destroy(side->inboxes[i]);
        side->inboxes[i] = NULL;
        (void)snprintf(pattern, sizeof pattern, "%s.%s.*", prefix, side->id);
        status = natsConnection_Subscribe(&side->inboxes[i], nc, pattern, on_inbox, side);
        if (status == NATS_OK)
            status = adopt(side->bus, side->inboxes[i], on_inbox_complete, side->bus);
    }
    return status;
}

static natsStatus on_connected(void *arg, natsConnection *nc)
{
    struct side *side = arg;
    struct bus *b = side->bus;
    natsStatus status;

    pthread_mutex_lock(&b->lock);
    status = attach_inboxes(side, nc);
    for (struct subscription *s = b->subs; s; s = s->next) {
        if (link_of(s) != side->index)
            continue;
        detach(s); /* from the connection that was */
        if (status == NATS_OK)
            status = attach(nc, s);
    }
    list_direct(side);
    pthread_mutex_unlock(&b->lock);
    return status;
}

int bus_subscribe(struct bus *b, const struct bus_sub *how, uint64_t *ret_id)
{
    int link = link_named(how);
    struct subscription *s = b->sides[link].link ? calloc(1, sizeof *s) : NULL;

    if (!s)
        return b->sides[link].link ? MUSTER_ENOMEM : MUSTER_ELINK;
    *s = (struct subscription){
        .subject = strdup(how->subject), .queue = how->queue ? strdup(how->queue) : NULL, .how = *how, .bus = b, .refs = 1};
    if (!s->subject || (how->queue && !s->queue)) {
        free(s->subject);
        free(s);
        return MUSTER_ENOMEM;
    }
    pthread_mutex_lock(&b->lock);
    s->id = ++b->next_sub;
    s->next = b->subs;
    b->subs = s;
    *ret_id = s->id;
    pthread_mutex_unlock(&b->lock);
    link_resync(b->sides[link].link);
    return 0;
}

void bus_unsubscribe(struct bus *b, uint64_t id)
{
    struct subscription **at, *s;
    int link = BUS_LIVE;

    pthread_mutex_lock(&b->lock);
    for (at = &b->subs; *at && (*at)->id != id; at = &(*at)->next)
        ;
    s = *at;
    if (s) {
        *at = s->next;
        s->next = b->dead;
        b->dead = s;
        link = link_of(s);
    }
    pthread_mutex_unlock(&b->lock);
    link_resync(b->sides[link].link);
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static void on_state(void *arg, bool up, const char *reason)
{
    struct side *side = arg;

    if (!up) {
        (void)lane_let_late_wakes(INT64_MAX); /* nothing is read for a while */
        complete_where(side->bus, is_of_link, &side->index, MUSTER_ELINK);
    }
    side->bus->options.on_link(side->bus->options.arg, side->index, up, reason);
}

static void on_writable(void *arg)
{
    struct side *side = arg;

    side->bus->options.on_writable(side->bus->options.arg, side->index);
}

static void on_pressure(void *arg, bool on)
{
    struct side *side = arg;

    if (side->bus->options.on_pressure)
        side->bus->options.on_pressure(side->bus->options.arg, side->index, on);
}

static void on_tick(void *arg, int64_t now_ns)
{
    struct side *side = arg;
    struct bus *b = side->bus;
    bool tell;

    bus_msgs_flush();
    complete_where(b, is_late, &(struct late){side->index, now_ns}, MUSTER_ETIME);
    pthread_mutex_lock(&b->lock);
    tell = b->calls_starved && b->n_free >= b->n_slots / 2;
    if (tell)
        b->calls_starved = false;
    pthread_mutex_unlock(&b->lock);
    for (int link = 0; link < BUS_N_LINKS && tell; link++) /* whose call it was is not known */
        b->options.on_writable(b->options.arg, link);
}

static void on_end(void *arg)
{
    (void)arg; /* it is the thread's */
    (void)lane_let_late_wakes(INT64_MAX);
    bus_msgs_flush();
}

/* NULL: that of the options themselves. */
static const struct bus_login *login_of(const struct bus_options *options, int index)
{
    return index == BUS_SYSTEM ? options->system : index == BUS_CALLOUT ? options->callout : NULL;
}

static int open_side(struct bus *b, int index)
{
    struct side *side = &b->sides[index];
    struct link_hooks hooks = {on_connected, on_resync, on_read, on_state, on_writable, on_pressure, on_tick, on_end, side};
    struct bus_options options = b->options;
    const struct bus_login *login = login_of(&options, index);

    clock_uuid7(side->id);
    side->bus = b;
    side->index = index;
    if (login) {
        options.creds = login->creds;
        options.user = login->user;
        options.password = login->password;
    }
    if (index == BUS_SYSTEM)
        options.max_out_msgs = SYSTEM_OUT_MSGS;
    /* The server judges each answer where it reads this link: in a burst of logins it comes to a ping late, and a link that is given up
     * takes all answers with it. */
    options.patient = index == BUS_CALLOUT;
    return link_open(&options, link_names[index], &hooks, &side->link);
}

int bus_open(const struct bus_options *options, struct bus **ret_bus)
{
    struct bus *b = calloc(1, sizeof *b);
    int err = b ? 0 : MUSTER_ENOMEM;

    if (err)
        return err;
    b->options = *options;
    ASSERT(pthread_mutex_init(&b->lock, NULL) == 0 && pthread_cond_init(&b->detached, NULL) == 0);
    *ret_bus = b; /* before the first link may be up: on_link asks about it */
    if (nats_Open(-1) != NATS_OK || nats_SetMessageDeliveryPoolSize(2) != NATS_OK)
        err = MUSTER_ENOMEM;
    for (int i = 0; !err && i < BUS_N_LINKS; i++)
        err = i >= BUS_SYSTEM && !login_of(options, i) ? 0 : open_side(b, i);
    b->options.system = b->options.callout = NULL; /* their strings were copied */
    if (err) {
        bus_close(b, 0);
        *ret_bus = NULL;
    }
    return err;
}

/* The library's threads stop in no order: what one of them frees late is lost to its garbage collector. So nothing is left to free. */
static void wait_for_last_words(struct bus *b)
{
    pthread_mutex_lock(&b->lock);
    while (b->n_attached)
        (void)pthread_cond_wait(&b->detached, &b->lock);
    pthread_mutex_unlock(&b->lock);
}

void bus_close(struct bus *b, int64_t timeout_ns)
{
    struct subscription *subs, *dead;

    if (!b)
        return;
    for (int i = 0; i < BUS_N_LINKS; i++) {
        if (b->sides[i].link)
            link_drain(b->sides[i].link, timeout_ns);
        link_stop(b->sides[i].link);
        for (int k = 0; k < 1 + BUS_N_ANSWERS; k++)
            natsSubscription_Destroy(b->sides[i].inboxes[k]);
    }
    pthread_mutex_lock(&b->lock);
    subs = b->subs;
    dead = take_dead(b, BUS_N_LINKS);
    b->subs = NULL;
    pthread_mutex_unlock(&b->lock);
    drop_all(subs);
    drop_all(dead);
    wait_for_last_words(b);
    (void)nats_CloseAndWait(0); /* until its threads have ended; fails only when nats_Open() did */
    for (int i = 0; i < BUS_N_LINKS; i++)
        link_free(b->sides[i].link);
    free(b->calls);
    free(b->free_slots);
    free(b->generations);
    (void)pthread_cond_destroy(&b->detached);
    (void)pthread_mutex_destroy(&b->lock);
    free(b);
}

bool bus_is_up(const struct bus *b, int link)
{
    return b->sides[link].link && link_is_up(b->sides[link].link);
}

int bus_where(const struct bus *b, int link, char server[BUS_SERVER_SIZE], uint64_t *ret_client)
{
    return b->sides[link].link ? link_where(b->sides[link].link, server, ret_client) : MUSTER_ELINK;
}

int bus_server_version(const struct bus *b, int link, struct bus_version *ret_version)
{
    return b->sides[link].link ? link_server_version(b->sides[link].link, ret_version) : MUSTER_ELINK;
}

void bus_go(struct bus *b, int link)
{
    link_go(b->sides[link].link);
}

bool bus_is_starved(struct bus *b, int link)
{
    bool starved;

    pthread_mutex_lock(&b->lock);
    starved = b->calls_starved;
    pthread_mutex_unlock(&b->lock);
    return starved || (b->sides[link].link && link_is_starved(b->sides[link].link));
}

void bus_counters(const struct bus *b, int link, struct bus_counters *ret)
{
    *ret = (struct bus_counters){0};
    if (b->sides[link].link)
        link_counters(b->sides[link].link, ret);
}
