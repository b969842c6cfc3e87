/* One NATS connection, its outbox and its thread; see link.h. */
#include "bus/link.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "bus/greeting.h"
#include "bus/tls.h"

enum {
    TICK_MS = 100,
    SOON_MS = 5,
    BUFFERED_MAX = 1 << 20, /* in the library's write buffer before more is taken from the outbox */
    SEND_BATCH = 64,        /* messages a write(2), and the library's collector is woken for them once */
    SEND_BYTES = 1 << 18,
    SEND_BATCHES = 128, /* between two reads: one may bring thousands of requests, which are judged and refused on this thread */
    GREETING_MS = 1000,
};
static const int64_t backoff_min_ns = 50 * CLOCK_MS, backoff_max_ns = 2 * CLOCK_S, steady_ns = 5 * CLOCK_S;
/* The server gives up a connection that reads more slowly than it has to send; pings stand in that queue, too. A herd is over before. */
static const int64_t behind_ns = CLOCK_S;

struct out {
    natsMsg *msg;
    size_t n_bytes;
    bool more, answer;
};

struct link {
    char name[32];
    struct link_hooks hooks;
    struct bus_options how; /* its name is client_name */
    char client_name[128];
    natsOptions *opts;        /* link thread, once it runs */
    struct tls_stamps stamps; /* what opts were made of, or could not be */
    pthread_t thread;
    int wake_fd;
    atomic_bool stop, resync;
    atomic_bool up; /* changes under lock, so that nothing is queued on a link that was given up */

    /* The poll set as the library wants it: set by its callbacks from any of its threads. */
    atomic_int fd;
    atomic_bool want_read, want_write;

    natsConnection *nc; /* link thread only */
    int64_t backoff_ns, retry_at_ns, next_tick_ns, up_since_ns;
    char last_error[256];
    bool told_pressed; /* what on_pressure said last */
    bool soon;         /* on_read is to be called */
    int64_t unread_ns; /* since when each read has left something behind; 0: the last one did not */

    pthread_mutex_t lock; /* guards the outbox, server, client and version */
    pthread_cond_t drained;
    struct out *ring;
    uint32_t cap, head, n;
    size_t n_bytes, max_bytes;
    bool starved; /* somebody was refused and waits for on_writable */
    bool pressed; /* four fifths were full, and half is not free since */
    char server[BUS_SERVER_SIZE]; /* which client of which server this is, while it is up */
    uint64_t client;
    bool version_known;
    struct bus_version version; /* of that server */
    bool asleep;  /* the thread saw the outbox empty and has not been woken since */

    _Atomic uint64_t sent_msgs, sent_bytes, received_msgs, dropped_away, refused_full, connects, slow;
};

static void wake(struct link *l)
{
    uint64_t one = 1;

    (void)!write(l->wake_fd, &one, sizeof one); /* fails only when it is already awake */
}

/* ---- what the library calls ------------------------------------------------------------------------------------- */

static natsStatus on_attach(void **user, void *loop, natsConnection *nc, natsSock fd)
{
    struct link *l = loop;

    (void)nc;
    *user = l;
    atomic_store(&l->fd, (int)fd);
    atomic_store(&l->want_read, true);
    atomic_store(&l->want_write, false);
    return NATS_OK;
}

static natsStatus on_read(void *user, bool add)
{
    struct link *l = user;

    atomic_store(&l->want_read, add);
    return NATS_OK;
}

static natsStatus on_write(void *user, bool add)
{
    struct link *l = user;

    atomic_store(&l->want_write, add);
    if (add && !pthread_equal(pthread_self(), l->thread))
        wake(l); /* the library's ping timer wrote */
    return NATS_OK;
}

static natsStatus on_detach(void *user)
{
    struct link *l = user;

    atomic_store(&l->fd, -1);
    atomic_store(&l->want_read, false);
    atomic_store(&l->want_write, false);
    return NATS_OK;
}

/* Perhaps of a connection that was given up already: the thread looks at the one that it has. */
static void on_closed(natsConnection *nc, void *arg)
{
    (void)nc;
    wake(arg);
}

static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus err, void *arg)
{
    struct link *l = arg;
    const char *text = NULL;

    (void)sub;
    if (err == NATS_SLOW_CONSUMER)
        atomic_fetch_add(&l->slow, 1);
    (void)natsConnection_GetLastError(nc, &text); /* text stays NULL when there is none */
    log_warn("bus", "%s link: %s%s%s", l->name, natsStatus_GetText(err), text ? ": " : "", text ? text : "");
}

/* ---- the outbox --------------------------------------------------------------------------------------------------- */

/* Take up to SEND_BATCH messages, no more once they have SEND_BYTES; their number. */
static uint32_t outbox_take(struct link *l, struct out *batch)
{
    uint32_t n = 0;
    size_t n_bytes = 0;
    bool tell, room;

    pthread_mutex_lock(&l->lock);
    while (l->n && n < SEND_BATCH && n_bytes < SEND_BYTES) {
        batch[n] = l->ring[l->head];
        l->head = (l->head + 1) % l->cap;
        l->n--;
        n_bytes += batch[n++].n_bytes;
    }
    l->n_bytes -= n_bytes;
    room = l->n <= l->cap / 2 && l->n_bytes <= l->max_bytes / 2;
    tell = l->starved && room;
    if (room)
        l->starved = l->pressed = false;
    if (n && !l->n)
        pthread_cond_broadcast(&l->drained);
    pthread_mutex_unlock(&l->lock);
    if (tell)
        l->hooks.on_writable(l->hooks.arg);
    return n;
}

/* True when it has just become so. The lock is held. */
static bool becomes_pressed(struct link *l)
{
    if (l->pressed || (l->n < l->cap - l->cap / 5 && l->n_bytes < l->max_bytes - l->max_bytes / 5))
        return false;
    l->pressed = true;
    return true;
}

/* By the link's thread alone, so that what is told last is how it is. */
static void tell_pressure(struct link *l)
{
    bool pressed;

    pthread_mutex_lock(&l->lock);
    pressed = l->pressed;
    pthread_mutex_unlock(&l->lock);
    if (pressed == l->told_pressed)
        return;
    l->told_pressed = pressed;
    l->hooks.on_pressure(l->hooks.arg, pressed);
}

static int outbox_put(struct link *l, const struct out *out)
{
    /* A sixteenth is for answers: whoever floods the link must not hold them up. */
    uint32_t cap = out->answer ? l->cap : l->cap - l->cap / 16;
    size_t max_bytes = out->answer ? l->max_bytes : l->max_bytes - l->max_bytes / 16;
    int err = 0;
    bool call, press = false;

    pthread_mutex_lock(&l->lock);
    if (!atomic_load(&l->up)) {
        err = MUSTER_ELINK;
    } else if (l->n >= cap || (l->n && l->n_bytes + out->n_bytes > max_bytes)) {
        l->starved = true;
        err = MUSTER_EAGAIN;
    } else {
        l->ring[(l->head + l->n) % l->cap] = *out;
        l->n++;
        l->n_bytes += out->n_bytes;
        press = becomes_pressed(l);
    }
    call = l->asleep && (err || !out->more || l->n_bytes >= SEND_BYTES);
    if (call)
        l->asleep = false;
    pthread_mutex_unlock(&l->lock);
    if (call || press)
        wake(l);
    return err;
}

/* What waited for a connection that is gone is not sent on the next: its senders have been told MUSTER_ELINK. */
static void outbox_discard(struct link *l)
{
    struct out batch[SEND_BATCH];
    uint32_t n;

    while ((n = outbox_take(l, batch)) > 0) {
        for (uint32_t i = 0; i < n; i++)
            natsMsg_Destroy(batch[i].msg);
        atomic_fetch_add(&l->dropped_away, n);
    }
}

static void send_one(struct link *l, const struct out *out)
{
    natsStatus s = natsConnection_PublishMsg(l->nc, out->msg);

    if (s != NATS_OK) {
        atomic_fetch_add(&l->dropped_away, 1);
        log_warn("bus", "%s link: a message was not sent: %s", l->name, natsStatus_GetText(s));
        return;
    }
    atomic_fetch_add_explicit(&l->sent_msgs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&l->sent_bytes, out->n_bytes, memory_order_relaxed);
}

/* ---- the thread ---------------------------------------------------------------------------------------------------- */

static bool set_up(struct link *l, bool up)
{
    bool was_up;

    pthread_mutex_lock(&l->lock);
    was_up = atomic_exchange(&l->up, up);
    pthread_mutex_unlock(&l->lock);
    return was_up;
}

static void set_down(struct link *l, const char *reason)
{
    bool was_up = set_up(l, false);

    if (l->nc) {
        natsConnection_Destroy(l->nc);
        l->nc = NULL;
    }
    (void)on_detach(l);
    outbox_discard(l);
    if (was_up || strcmp(l->last_error, reason) != 0)
        l->hooks.on_state(l->hooks.arg, false, reason);
    (void)snprintf(l->last_error, sizeof l->last_error, "%s", reason);
    if (was_up && clock_now_ns() - l->up_since_ns >= steady_ns)
        l->backoff_ns = backoff_min_ns; /* a server that accepts and drops at once is not to be run against */
    l->retry_at_ns = clock_now_ns() + l->backoff_ns / 2 + clock_now_ns() % (l->backoff_ns / 2); /* nanoseconds are jitter enough */
    l->backoff_ns = l->backoff_ns * 2 > backoff_max_ns ? backoff_max_ns : l->backoff_ns * 2;
}

/* The library has them from the server's greeting. */
static natsStatus learn_where(struct link *l)
{
    uint64_t client = 0;
    char server[BUS_SERVER_SIZE];
    natsStatus s = natsConnection_GetConnectedServerId(l->nc, server, sizeof server);

    if (s == NATS_OK)
        s = natsConnection_GetClientID(l->nc, &client);
    if (s != NATS_OK)
        return s;
    pthread_mutex_lock(&l->lock);
    memcpy(l->server, server, sizeof server);
    l->client = client;
    pthread_mutex_unlock(&l->lock);
    return NATS_OK;
}

/* The library does not say it, so the server is asked once more. Behind an address there may be several: one with another id says
 * nothing of ours. A version that is not known is no reason to stay away. */
static void learn_version(struct link *l)
{
    char url[256];
    struct greeting greeting;
    bool known = natsConnection_GetConnectedUrl(l->nc, url, sizeof url) == NATS_OK && greeting_ask(url, GREETING_MS, &greeting) == 0 &&
                 strcmp(greeting.server, l->server) == 0;

    pthread_mutex_lock(&l->lock);
    l->version_known = known;
    if (known)
        l->version = greeting.number;
    pthread_mutex_unlock(&l->lock);
}

static natsStatus make_options(struct link *l, natsOptions **ret_opts);

/* The certificates have changed since the last connect, perhaps. */
static void renew_options(struct link *l)
{
    struct tls_stamps now = tls_stamps(&l->how);
    natsOptions *opts = NULL;

    if (memcmp(&now, &l->stamps, sizeof now) == 0)
        return;
    l->stamps = now;
    if (make_options(l, &opts) != NATS_OK) {
        natsOptions_Destroy(opts);
        log_warn("bus", "%s link: nats.tls has changed and cannot be used, what was there before stays: %s", l->name, nats_GetLastError(NULL));
        return;
    }
    natsOptions_Destroy(l->opts);
    l->opts = opts;
}

static void try_connect(struct link *l)
{
    natsConnection *nc = NULL;
    natsStatus s;

    renew_options(l);
    s = natsConnection_Connect(&nc, l->opts);
    /* Before 3.9 the library leaves out a signature that begins with a NUL byte (its change #705): one good login in 256 is refused. */
    if (s == NATS_CONNECTION_AUTH_FAILED)
        s = natsConnection_Connect(&nc, l->opts);
    l->nc = nc;
    if (s == NATS_OK && natsConnection_GetMaxPayload(nc) < BUS_MAX_BYTES) {
        char why[128];

        (void)snprintf(why, sizeof why, "the server's max_payload is %lld, expected at least %d: raise it",
                       (long long)natsConnection_GetMaxPayload(nc), BUS_MAX_BYTES);
        set_down(l, why);
        return;
    }
    if (s == NATS_OK)
        s = learn_where(l);
    if (s == NATS_OK)
        learn_version(l);
    if (s == NATS_OK)
        s = l->hooks.on_connected(l->hooks.arg, nc);
    if (s != NATS_OK) {
        const char *text = nats_GetLastError(NULL);

        set_down(l, text && *text ? text : natsStatus_GetText(s));
        return;
    }
    l->up_since_ns = clock_now_ns();
    l->last_error[0] = '\0';
    atomic_fetch_add(&l->connects, 1);
    (void)set_up(l, true);
    l->hooks.on_state(l->hooks.arg, true, "");
}

static void resync(struct link *l)
{
    if (atomic_exchange(&l->resync, false))
        l->hooks.on_resync(l->hooks.arg, l->nc);
}

/* Hand a batch to the library unless its buffer is full, and let it write before the messages are given up. True: there may be more. */
static bool pump_out(struct link *l)
{
    struct out batch[SEND_BATCH];
    uint32_t n = natsConnection_Buffered(l->nc) < BUFFERED_MAX ? outbox_take(l, batch) : 0;

    bus_msgs_gather(); /* until the next tick */
    resync(l); /* who subscribed before sending must hear what was sent */
    for (uint32_t i = 0; i < n; i++)
        send_one(l, &batch[i]);
    if (atomic_load(&l->want_write))
        natsConnection_ProcessWriteEvent(l->nc);
    for (uint32_t i = 0; i < n; i++)
        bus_msg_free((struct bus_msg *)batch[i].msg);
    return n == SEND_BATCH;
}

static void pump_all(struct link *l)
{
    for (int i = 0; i < SEND_BATCHES && pump_out(l) && !natsConnection_IsClosed(l->nc); i++)
        ;
}

/* True when the outbox is empty: who fills it wakes the thread. */
static bool may_sleep(struct link *l)
{
    bool empty;

    pthread_mutex_lock(&l->lock);
    empty = l->n == 0;
    l->asleep = empty;
    pthread_mutex_unlock(&l->lock);
    return empty;
}

/* True when more comes, for some time now, than is read. */
static bool is_behind(struct link *l)
{
    int n = 0, fd = atomic_load(&l->fd);

    if (fd < 0 || ioctl(fd, FIONREAD, &n) != 0 || n == 0)
        l->unread_ns = 0;
    else if (!l->unread_ns)
        l->unread_ns = clock_now_ns();
    return l->unread_ns && clock_now_ns() - l->unread_ns > behind_ns;
}

static void wait_and_read(struct link *l)
{
    int fd = atomic_load(&l->fd);
    short events = (short)((atomic_load(&l->want_read) ? POLLIN : 0) | (atomic_load(&l->want_write) ? POLLOUT : 0));
    struct pollfd fds[2] = {{.fd = l->wake_fd, .events = POLLIN}, {.fd = events ? fd : -1, .events = events}};
    bool full = atomic_load(&l->want_write) && l->nc && natsConnection_Buffered(l->nc) >= BUFFERED_MAX;
    uint64_t count;

    (void)poll(fds, 2, l->nc && !full && !may_sleep(l) ? 0 : l->soon ? SOON_MS : TICK_MS); /* EINTR is a short wait */
    if (fds[0].revents)
        (void)!read(l->wake_fd, &count, sizeof count); /* non-blocking; only resets it */
    if (l->nc && fds[1].revents & (POLLIN | POLLERR | POLLHUP))
        natsConnection_ProcessReadEvent(l->nc);
    else if (!l->soon)
        return;
    l->soon = l->hooks.on_read(l->hooks.arg, is_behind(l));
}

static void tick(struct link *l)
{
    int64_t now = clock_now_ns();

    if (now < l->next_tick_ns)
        return;
    l->next_tick_ns = now + TICK_MS * CLOCK_MS;
    l->hooks.on_tick(l->hooks.arg, now);
}

static void *run(void *arg)
{
    struct link *l = arg;

    (void)pthread_setname_np(pthread_self(), l->name); /* cosmetic */
    while (!atomic_load(&l->stop)) {
        if (l->nc && natsConnection_IsClosed(l->nc)) {
            const char *text = NULL;

            (void)natsConnection_GetLastError(l->nc, &text); /* text stays NULL when there is none */
            set_down(l, text && *text ? text : "the server closed the connection");
        } else if (!l->nc && clock_now_ns() >= l->retry_at_ns) {
            try_connect(l);
        }
        if (l->nc)
            pump_all(l);
        tell_pressure(l);
        wait_and_read(l);
        tick(l);
    }
    set_down(l, "the broker stops");
    l->hooks.on_end(l->hooks.arg);
    return NULL;
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static natsStatus set_identity(natsOptions *opts, const struct bus_options *o)
{
    natsStatus s = NATS_OK;
    const char *key;

    if (o->creds)
        s = natsOptions_SetUserCredentialsFromFiles(opts, o->creds, NULL);
    if (s == NATS_OK && o->user)
        s = natsOptions_SetUserInfo(opts, o->user, o->password ? o->password : "");
    return s == NATS_OK ? tls_load(opts, o, &key) : s; /* which file it was, bus_check_tls() has told */
}

/* *ret_opts is the caller's to free, also on failure; it may be NULL then. */
static natsStatus make_options(struct link *l, natsOptions **ret_opts)
{
    const struct bus_options *o = &l->how;
    natsStatus s = natsOptions_Create(ret_opts);
    natsOptions *opts = *ret_opts;

    if (s == NATS_OK)
        s = natsOptions_SetServers(opts, (const char **)o->urls, (int)o->n_urls);
    if (s == NATS_OK)
        s = natsOptions_SetName(opts, o->name);
    if (s == NATS_OK)
        s = natsOptions_SetAllowReconnect(opts, false);
    if (s == NATS_OK)
        s = natsOptions_SetTimeout(opts, o->patient ? 10000 : 2000);
    if (s == NATS_OK)
        s = natsOptions_SetPingInterval(opts, o->patient ? 10000 : 2000);
    if (s == NATS_OK)
        s = natsOptions_SetMaxPingsOut(opts, 2);
    if (s == NATS_OK)
        s = natsOptions_SetIOBufSize(opts, 256 * 1024);
    if (s == NATS_OK)
        s = natsOptions_SetClosedCB(opts, on_closed, l);
    if (s == NATS_OK)
        s = natsOptions_SetErrorHandler(opts, on_error, l);
    if (s == NATS_OK)
        s = natsOptions_UseGlobalMessageDelivery(opts, true);
    if (s == NATS_OK)
        s = natsOptions_SetSendAsap(opts, true); /* in event-loop mode: ask to be told to write, start no flusher */
    if (s == NATS_OK)
        s = natsOptions_SetEventLoop(opts, l, on_attach, on_read, on_write, on_detach);
    return s == NATS_OK ? set_identity(opts, o) : s;
}

int link_open(const struct bus_options *o, const char *name, const struct link_hooks *hooks, struct link **ret_link)
{
    struct link *l = calloc(1, sizeof *l);

    if (!l)
        return MUSTER_ENOMEM;
    (void)snprintf(l->name, sizeof l->name, "%s", name);
    l->hooks = *hooks;
    l->how = *o;
    (void)snprintf(l->client_name, sizeof l->client_name, "%s", o->name);
    l->how.name = l->client_name;
    l->how.system = NULL; /* was of use to the bus, and is not kept */
    l->stamps = tls_stamps(o);
    l->backoff_ns = backoff_min_ns;
    l->cap = o->max_out_msgs;
    l->max_bytes = o->max_out_bytes;
    atomic_store(&l->fd, -1);
    ASSERT(pthread_mutex_init(&l->lock, NULL) == 0 && pthread_cond_init(&l->drained, NULL) == 0);
    l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    l->ring = calloc(l->cap, sizeof *l->ring);
    *ret_link = l; /* its thread calls hooks that ask about it */
    if (l->wake_fd >= 0 && l->ring && make_options(l, &l->opts) == NATS_OK &&
        pthread_create(&l->thread, NULL, run, l) == 0)
        return 0;
    *ret_link = NULL;
    log_error("bus", "%s link: cannot be set up: %s", name, nats_GetLastError(NULL));
    natsOptions_Destroy(l->opts);
    free(l->ring);
    if (l->wake_fd >= 0)
        (void)close(l->wake_fd);
    free(l);
    return MUSTER_EINVAL;
}

void link_drain(struct link *l, int64_t timeout_ns)
{
    int64_t until = clock_wall_ns() + timeout_ns;
    struct timespec ts = {.tv_sec = until / CLOCK_S, .tv_nsec = until % CLOCK_S};

    pthread_mutex_lock(&l->lock);
    while (l->n && atomic_load(&l->up))
        if (pthread_cond_timedwait(&l->drained, &l->lock, &ts) == ETIMEDOUT)
            break;
    pthread_mutex_unlock(&l->lock);
}

void link_stop(struct link *l)
{
    if (!l)
        return;
    atomic_store(&l->stop, true);
    wake(l);
    (void)pthread_join(l->thread, NULL);
}

void link_free(struct link *l)
{
    if (!l)
        return;
    natsOptions_Destroy(l->opts);
    (void)close(l->wake_fd);
    free(l->ring);
    (void)pthread_cond_destroy(&l->drained);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}

bool link_is_up(const struct link *l)
{
    return atomic_load(&l->up);
}

int link_send(struct link *l, natsMsg *msg, size_t n_bytes, const struct bus_out *how)
{
    int err = outbox_put(l, &(struct out){.msg = msg, .n_bytes = n_bytes, .more = how->more, .answer = how->answer});

    if (err == MUSTER_EAGAIN)
        atomic_fetch_add(&l->refused_full, 1);
    return err;
}

void link_go(struct link *l)
{
    bool call;

    pthread_mutex_lock(&l->lock);
    call = l->asleep && l->n;
    if (call)
        l->asleep = false;
    pthread_mutex_unlock(&l->lock);
    if (call)
        wake(l);
}

bool link_is_starved(struct link *l)
{
    bool starved;

    pthread_mutex_lock(&l->lock);
    starved = l->starved;
    pthread_mutex_unlock(&l->lock);
    return starved;
}

void link_resync(struct link *l)
{
    atomic_store(&l->resync, true);
    wake(l);
}

void link_count_received(struct link *l, uint64_t n)
{
    atomic_fetch_add_explicit(&l->received_msgs, n, memory_order_relaxed);
}

int link_where(const struct link *cl, char server[BUS_SERVER_SIZE], uint64_t *ret_client)
{
    struct link *l = (struct link *)cl; /* the lock is the only thing that changes */
    bool up;

    pthread_mutex_lock(&l->lock);
    up = atomic_load(&l->up);
    memcpy(server, l->server, sizeof l->server);
    *ret_client = l->client;
    pthread_mutex_unlock(&l->lock);
    return up ? 0 : MUSTER_ELINK;
}

int link_server_version(const struct link *cl, struct bus_version *ret_version)
{
    struct link *l = (struct link *)cl; /* the lock is the only thing that changes */
    int err;

    pthread_mutex_lock(&l->lock);
    if (!atomic_load(&l->up))
        err = MUSTER_ELINK;
    else
        err = l->version_known ? 0 : MUSTER_ENOTFOUND;
    *ret_version = l->version;
    pthread_mutex_unlock(&l->lock);
    return err;
}

uint64_t link_connects(const struct link *l)
{
    return atomic_load(&l->connects);
}

void link_counters(const struct link *cl, struct bus_counters *ret)
{
    struct link *l = (struct link *)cl; /* the lock is the only thing that changes */

    *ret = (struct bus_counters){.sent_msgs = atomic_load(&l->sent_msgs),
                                 .sent_bytes = atomic_load(&l->sent_bytes),
                                 .received_msgs = atomic_load(&l->received_msgs),
                                 .dropped_away = atomic_load(&l->dropped_away),
                                 .refused_full = atomic_load(&l->refused_full),
                                 .connects = atomic_load(&l->connects),
                                 .slow = atomic_load(&l->slow)};
    pthread_mutex_lock(&l->lock);
    ret->waiting_msgs = l->n;
    ret->waiting_bytes = l->n_bytes;
    pthread_mutex_unlock(&l->lock);
}
