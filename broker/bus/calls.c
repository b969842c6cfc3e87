/*
 * Messages out, and open calls: what is asked, and which answer belongs to it; see bus.h.
 *
 * Each link has reply subjects of its own, whose last token finds the call. A call is the table's until it completes, then its lane's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "bus/parts.h"

enum { MAX_CALLS = 1 << 16, MAX_ANSWERS = 1024 };

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

/* ---- open calls ---------------------------------------------------------------------------------------------------- */

static void run_call(struct lane_item *item)
{
    struct call *c = (struct call *)item;

    c->how.fn(c->how.arg, c->code, c->code ? NULL : (const struct bus_msg *)c->answer);
    bus_msgs_gather();
    bus_msg_free((struct bus_msg *)c->answer);
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

void calls_end_of_link(struct bus *b, int link)
{
    complete_where(b, is_of_link, &link, MUSTER_ELINK);
}

void calls_end_late(struct bus *b, int link, int64_t now_ns)
{
    complete_where(b, is_late, &(struct late){link, now_ns}, MUSTER_ETIME);
}

bool calls_relieved(struct bus *b)
{
    bool relieved;

    pthread_mutex_lock(&b->lock);
    relieved = b->calls_starved && b->n_free >= b->n_slots / 2;
    if (relieved)
        b->calls_starved = false;
    pthread_mutex_unlock(&b->lock);
    return relieved;
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

void calls_on_inbox(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
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
