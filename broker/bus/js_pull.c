/* One pull consumer; see js_pull.h. */
#include "bus/js_pull.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "bus/js_api.h"

enum { MAX_NAME = 128, INBOX_SIZE = CLOCK_UUID_SIZE + 16, MAX_SPARE = 1024, REST_MS = 2 };
static const int64_t forget_ns = 60 * CLOCK_S;

/* One reference for its owner, one for the subscription, one for the timer, one for the call that makes the consumer, one while the item is
 * on its way. */
struct js_pull {
    struct lane_item item;
    struct js_target t;
    struct js_pull_how how;
    char stream[MAX_NAME], consumer[MAX_NAME], inbox[INBOX_SIZE];
    uint64_t sub;
    bool dead, due;                  /* these are the lane's; due: fn is called after the rest, whatever has come */
    struct js_pulled *taken, *spent; /* off the shared list; to be used again */
    uint32_t n_spent;
    uv_timer_t rest;
    atomic_int refs;
    _Atomic int64_t heard_ns;

    pthread_mutex_t lock; /* guards these */
    struct js_pulled *first, **last, *spare;
    bool scheduled, resting; /* the item is on its way; the timer runs, and what arrives meanwhile wakes nobody */
};

/* ---- what was pulled --------------------------------------------------------------------------------------------------------- */

void js_pulled_free(struct js_pulled *got)
{
    if (!got)
        return;
    bus_msg_free(got->msg);
    free(got);
}

void js_pull_spend(struct js_pull *p, struct js_pulled *got)
{
    if (p->n_spent >= MAX_SPARE) {
        js_pulled_free(got);
        return;
    }
    bus_msg_free(got->msg);
    got->next = p->spent;
    p->spent = got;
    p->n_spent++;
}

void js_pulled_msg(const struct js_pulled *got, struct muster_header *headers, uint32_t n, struct js_msg *ret_msg)
{
    *ret_msg = (struct js_msg){.subject = bus_msg_subject(got->msg),
                               .seq = got->seq,
                               .headers = headers,
                               .n_headers = bus_msg_take_headers(got->msg, headers, n),
                               .data = bus_msg_data(got->msg),
                               .stored_wall_ns = got->stored_wall_ns};
}

/* The number in front of *end, which then stands at the dot before it. False: it is none. */
static bool read_number(const char *begin, const char **end, uint64_t *ret)
{
    uint64_t n = 0, place = 1;
    const char *p = *end;

    while (p > begin && p[-1] >= '0' && p[-1] <= '9') {
        n += place * (uint64_t)(*--p - '0');
        place *= 10;
    }
    if (p == *end || p == begin || p[-1] != '.')
        return false;
    *end = p - 1;
    *ret = n;
    return true;
}

/* "$JS.ACK.<stream>.<consumer>.<times>.<seq>.<delivered>.<time>.<pending>"; some servers put domain and account behind ACK, and a word of
 * their own at the end (ADR-15), which the count of dots tells. */
static bool read_ack(const char *reply, struct js_pulled *out)
{
    const char *end, *extra = NULL; /* where what a newer server says begins */
    uint64_t stored = 0;
    size_t dots = 0;

    if (!reply || strncmp(reply, "$JS.ACK.", 8) != 0)
        return false;
    for (end = reply; *end; end++)
        if (*end == '.' && ++dots == 11)
            extra = end;
    if (dots < 8 || dots == 9)
        return false;
    if (extra)
        end = extra;
    if (!read_number(reply, &end, &out->n_pending) || !read_number(reply, &end, &stored) || !read_number(reply, &end, &out->delivered) ||
        !read_number(reply, &end, &out->seq))
        return false;
    out->stored_wall_ns = (int64_t)stored;
    return true;
}

/* 0: it has none. */
static int read_status(const struct bus_msg *msg)
{
    const char *status = bus_msg_header(msg, "Status"), *text = bus_msg_header(msg, "Description");
    int code = status ? atoi(status) : 0;

    if (code != JS_PULL_CONFLICT || !text)
        return code;
    return strstr(text, "MaxBytes") ? JS_PULL_TOO_LARGE : strstr(text, "Batch Completed") ? JS_PULL_COMPLETE : code;
}

/* Of the last message that the consumer has delivered; 0: it is not said. */
static uint64_t read_last(const struct bus_msg *msg)
{
    const char *last = bus_msg_header(msg, "Nats-Last-Consumer");

    return last ? strtoull(last, NULL, 10) : 0;
}

/* False: nobody knows what it is. */
static bool read_msg(struct bus_msg *msg, struct js_pulled *got)
{
    *got = (struct js_pulled){.msg = msg};
    if (read_ack(bus_msg_reply(msg), got))
        return true;
    got->status = read_status(msg);
    got->delivered = read_last(msg);
    return got->status != 0;
}

/* ---- arrival ----------------------------------------------------------------------------------------------------------------- */

static void free_list(struct js_pulled *list)
{
    while (list) {
        struct js_pulled *got = list;

        list = got->next;
        free(got);
    }
}

static void unref(struct js_pull *p)
{
    struct js_pulled *got;

    if (atomic_fetch_sub(&p->refs, 1) != 1)
        return;
    while ((got = js_pull_take(p)))
        js_pulled_free(got);
    free_list(p->spent);
    free_list(p->spare);
    (void)pthread_mutex_destroy(&p->lock);
    free(p);
}

/* The lock is held. */
static void schedule(struct js_pull *p)
{
    if (p->scheduled)
        return;
    p->scheduled = true;
    atomic_fetch_add(&p->refs, 1);
    lane_push(p->t.lane, &p->item);
}

/* The lock is held. NULL: no memory. */
static struct js_pulled *new_pulled(struct js_pull *p)
{
    struct js_pulled *got = p->spare;

    if (!got)
        return malloc(sizeof *got);
    p->spare = got->next;
    return got;
}

/* The lock is held. */
static bool keep(struct js_pull *p, const struct js_pulled *arrived)
{
    struct js_pulled *got = new_pulled(p);

    if (!got)
        return false;
    *got = *arrived;
    *p->last = got;
    p->last = &got->next;
    if (!p->resting)
        schedule(p);
    return true;
}

/* What cannot be kept is missed: the next one's number tells. On a thread of the library. */
static void on_arrival(void *arg, struct bus_msg *msg)
{
    struct js_pull *p = arg;
    struct js_pulled arrived;
    bool kept = read_msg(msg, &arrived);

    atomic_store_explicit(&p->heard_ns, clock_now_ns(), memory_order_relaxed);
    if (kept) {
        pthread_mutex_lock(&p->lock);
        kept = keep(p, &arrived);
        pthread_mutex_unlock(&p->lock);
    }
    if (!kept)
        bus_msg_free(msg);
}

static void on_gone(void *arg)
{
    unref(arg);
}

static void on_rested(uv_timer_t *timer);

static void rest(struct js_pull *p, uint32_t ms)
{
    pthread_mutex_lock(&p->lock);
    p->resting = true;
    pthread_mutex_unlock(&p->lock);
    uv_update_time(p->rest.loop);
    ASSERT(uv_timer_start(&p->rest, on_rested, ms, 0) == 0);
}

/* Where much comes, the lane wakes once for what has come in a while, not for each message. */
static void run_then_rest(struct js_pull *p)
{
    p->due = false;
    if (p->how.rests)
        rest(p, REST_MS);
    p->how.fn(p->how.arg); /* it may be freed in there */
}

static void on_rested(uv_timer_t *timer)
{
    struct js_pull *p = timer->data;
    bool some;

    pthread_mutex_lock(&p->lock);
    some = p->first || p->due;
    p->resting = some;
    pthread_mutex_unlock(&p->lock);
    if (some)
        run_then_rest(p);
}

static void run_item(struct lane_item *item)
{
    struct js_pull *p = (struct js_pull *)item;

    pthread_mutex_lock(&p->lock);
    p->scheduled = false;
    pthread_mutex_unlock(&p->lock);
    if (!p->dead)
        run_then_rest(p);
    unref(p);
}

static void drop_item(struct lane_item *item)
{
    unref((struct js_pull *)item);
}

/* All that has arrived is taken over at once, and what is spent given back for it. */
static void take_over(struct js_pull *p)
{
    pthread_mutex_lock(&p->lock);
    p->taken = p->first;
    p->first = NULL;
    p->last = &p->first;
    if (!p->spare) {
        p->spare = p->spent;
        p->spent = NULL;
        p->n_spent = 0;
    }
    pthread_mutex_unlock(&p->lock);
}

struct js_pulled *js_pull_take(struct js_pull *p)
{
    struct js_pulled *got;

    if (!p->taken)
        take_over(p);
    got = p->taken;
    if (!got)
        return NULL;
    p->taken = got->next;
    got->next = NULL;
    return got;
}

void js_pull_again(struct js_pull *p)
{
    pthread_mutex_lock(&p->lock);
    schedule(p);
    pthread_mutex_unlock(&p->lock);
}

void js_pull_rest(struct js_pull *p, uint32_t ms)
{
    p->due = true;
    rest(p, ms);
}

int64_t js_pull_heard_ns(const struct js_pull *p)
{
    return atomic_load(&p->heard_ns);
}

/* ---- the consumer ------------------------------------------------------------------------------------------------------------ */

static void remove_consumer(struct js_pull *p)
{
    char subject[2 * MAX_NAME + 32];
    const struct bus_out out = {.subject = subject, .fence = -1};

    (void)snprintf(subject, sizeof subject, "$JS.API.CONSUMER.DELETE.%s.%s", p->stream, p->consumer);
    (void)bus_send(p->t.bus, BUS_LIVE, &out); /* what is not told so is gone after forget_ns */
}

static void on_made(void *arg, int code, const struct bus_msg *msg)
{
    struct js_pull *p = arg;
    const char *why, *name;
    cJSON *root;

    code = js_api_parse(code, msg, &root, &why);
    name = code ? "" : js_api_text(root, "name");
    if (!code && (!*name || strlen(name) >= sizeof p->consumer)) {
        code = MUSTER_EINVAL;
        why = "JetStream made a consumer without a name";
    }
    if (!code)
        (void)snprintf(p->consumer, sizeof p->consumer, "%s", name);
    if (p->dead && !code)
        remove_consumer(p);
    if (!p->dead)
        p->how.made(p->how.arg, code, why, code ? 0 : js_api_number(root, "num_pending"));
    cJSON_Delete(root);
    unref(p);
}

static void put_wanted(struct buf *b, const struct js_pull_how *how)
{
    buf_put_lit(b, "{\"stream_name\":");
    buf_put_json(b, how->stream, strlen(how->stream));
    buf_printf(b,
               ",\"config\":{\"deliver_policy\":\"by_start_sequence\",\"opt_start_seq\":%llu,\"ack_policy\":\"none\","
               "\"replay_policy\":\"instant\",\"mem_storage\":true,\"num_replicas\":1,\"inactive_threshold\":%lld",
               (unsigned long long)how->from_seq, (long long)forget_ns);
    if (how->subject) {
        buf_put_lit(b, ",\"filter_subject\":");
        buf_put_json(b, how->subject, strlen(how->subject));
    }
    buf_put_lit(b, "}}");
}

static int ask_for_consumer(struct js_pull *p)
{
    struct bus_call call = {.lane = p->t.lane, .owner = p->t.owner, .timeout_ns = p->t.timeout_ns, .fn = on_made, .arg = p};
    struct buf b = {0};
    char subject[MAX_NAME + 32];
    struct bus_out out = {.subject = subject, .fence = -1};
    int err = MUSTER_ENOMEM;

    (void)snprintf(subject, sizeof subject, "$JS.API.CONSUMER.CREATE.%s", p->stream);
    put_wanted(&b, &p->how);
    if (!buf_failed(&b)) {
        out.payload = (struct muster_bytes){b.data, b.len};
        err = bus_request(p->t.bus, BUS_LIVE, &out, &call);
    }
    buf_done(&b);
    return err;
}

static int subscribe(struct js_pull *p)
{
    const struct bus_sub how = {.subject = p->inbox, .fn = on_arrival, .gone = on_gone, .arg = p};
    char id[CLOCK_UUID_SIZE];

    clock_uuid7(id);
    (void)snprintf(p->inbox, sizeof p->inbox, "_INBOX.%s.pull", id);
    return bus_subscribe(p->t.bus, &how, &p->sub);
}

int js_pull_new(const struct js_target *t, const struct js_pull_how *how, struct js_pull **ret_pull)
{
    struct js_pull *p = calloc(1, sizeof *p);
    int err;

    if (!p)
        return MUSTER_ENOMEM;
    *p = (struct js_pull){.item = {.run = run_item, .drop = drop_item}, .t = *t, .how = *how, .last = &p->first, .rest = {.data = p}, .refs = 1};
    ASSERT(pthread_mutex_init(&p->lock, NULL) == 0);
    (void)snprintf(p->stream, sizeof p->stream, "%s", how->stream);
    atomic_fetch_add(&p->refs, 1);
    err = subscribe(p);
    if (err) {
        unref(p);
        unref(p);
        return err;
    }
    ASSERT(uv_timer_init(lane_loop(t->lane), &p->rest) == 0);
    atomic_fetch_add(&p->refs, 1);
    atomic_fetch_add(&p->refs, 1);
    err = ask_for_consumer(p);
    if (err) {
        unref(p);
        js_pull_free(p);
        return err;
    }
    p->how.stream = p->how.subject = NULL; /* the caller's */
    *ret_pull = p;
    return 0;
}

static void on_closed(uv_handle_t *timer)
{
    unref(timer->data);
}

void js_pull_free(struct js_pull *p)
{
    if (!p)
        return;
    p->dead = true;
    uv_close((uv_handle_t *)&p->rest, on_closed);
    bus_unsubscribe(p->t.bus, p->sub);
    if (*p->consumer)
        remove_consumer(p);
    unref(p);
}

int js_pull_next(struct js_pull *p, const struct js_pull_request *r)
{
    char subject[2 * MAX_NAME + 40], body[160];
    struct bus_out out = {.subject = subject, .reply = p->inbox, .payload = {body, 0}, .fence = -1};
    size_t n = (size_t)snprintf(body, sizeof body, "{\"batch\":%u", r->batch);

    if (r->max_bytes)
        n += (size_t)snprintf(body + n, sizeof body - n, ",\"max_bytes\":%zu", r->max_bytes);
    if (r->expires_ns)
        n += (size_t)snprintf(body + n, sizeof body - n, ",\"expires\":%lld,\"idle_heartbeat\":%lld}", (long long)r->expires_ns,
                              (long long)r->heartbeat_ns);
    else
        n += (size_t)snprintf(body + n, sizeof body - n, ",\"no_wait\":true}");
    out.payload.len = n;
    (void)snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT.%s.%s", p->stream, p->consumer);
    return bus_send(p->t.bus, BUS_LIVE, &out);
}
