/*
 * child/host.h - the host of the one plugin that a child runs: every table of plugin.h over frames. Private to child/host*.c and program.c.
 *
 * Shape    It begins with the broker's struct instance, so that lanes, timers, descriptors, posts, reasons and statements are the
 *          broker's own code; what the broker would do with NATS goes to the parent as frames, whose answers come back by id.
 * Threads  The lane has the loop, the pipe and the plugin. The main thread waits, watches the lane and tells when it hangs (program.c).
 *          What other threads may call is atomic or under `lock`.
 * Trust    What the parent says is believed; a frame that does not fit ends the process. What the plugin asks is checked here, so that
 *          it hears at once what was wrong, and again by the parent.
 */
#ifndef MUSTER_CHILD_HOST_H
#define MUSTER_CHILD_HOST_H

#include <muster/plugin.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/map.h"
#include "base/name.h"
#include "child/arena.h"
#include "child/bounds.h"
#include "child/frame.h"
#include "child/idmap.h"
#include "child/pipe.h"
#include "child/policy.h"
#include "child/limits.h"
#include "core/host.h"
#include "core/instance.h"

enum { CHILD_MAX_SUBJECT = 512, CHILD_HEADERS = 32 };

struct child_call;
struct child_delivery;
struct child_later;
struct child_metric;
struct child_tables;
struct metrics;

/* A handle of a tenant: struct muster_tenant to the plugin. */
struct child_tenant {
    uint64_t id;
    char name[NAME_MAX_LEN + 1];
    _Atomic uint32_t encoding;
    _Atomic int64_t requests_per_s, burst;
    _Atomic int64_t named[CHILD_LIMITS_MAX]; /* in the order of the child's limits */
    bool known;       /* lane only, like the next */
    struct child_later *later, **later_tail; /* its messages that wait here, in their order: what comes must wait behind them */
    struct child_tenant *next;               /* of those whose messages wait */
};

struct child_ring {
    struct child_tenant *first, **tail;
};

/* Settings as they came: the values live as long as the memory. */
struct child_settings {
    void *values;
    struct arena memory;
    int code; /* other than 0: they could not be bound */
};

struct child_health {
    int state;
    bool said, waits; /* the text that is here has not been sent */
    char code[49], text[513];
};

struct child {
    struct instance in; /* first: host->impl is both */
    struct pipe *pipe;
    const char *file, *dsn;              /* dsn: of the plugin's own link to PostgreSQL; NULL: none */
    int fd;
    uint32_t lacks;                      /* SANDBOX_* */
    const struct muster_plugin *loaded;  /* as the file has it */
    struct child_limits limits;          /* that it may ask for */
    struct muster_plugin plugin;         /* the same with the capabilities that were granted; in.plugin */
    struct arena memory;                 /* what SETTINGS said, for good */
    struct child_settings settings;
    struct policy policy;
    struct metrics *registry;            /* for their rules, and to gather in */
    struct child_metric *metrics;        /* made in create(), before anything else can look */
    struct map places;                   /* where keys stand; texts in memory */
    uv_timer_t gather;                   /* runs while something gathered waits to be told */
    uv_timer_t again;                    /* runs while a message waits to be tried again */
    uv_idle_t soon;                      /* messages wait for their turn */
    uv_prepare_t before_wait;
    atomic_bool gathered;
    atomic_bool link_is_down;
    atomic_bool is_through;              /* the lane has nothing more to do; the process ends */

    pthread_mutex_t lock;                /* guards the next two */
    struct idmap requests;               /* messages that wait for an answer */
    struct child_health health;
    atomic_size_t n_held, n_held_bytes;

    /* Lane only. */
    uint64_t next_id;
    struct idmap subs, calls, streams, tenants, leases, watches;
    struct child_call *ending;           /* calls to be ended outside of the call that did it */
    struct lane_item end_them;
    struct map tenants_by_name;
    struct child_tenant **roster;        /* those known, by name; NULL: to be made */
    size_t n_roster;
    struct child_tables *tables, *next_tables;
    struct child_delivery *running;      /* whose function runs */
    struct child_ring ring, resting; /* tenants whose messages wait: for their turn, or to be tried again */
    struct child_tenant no_tenant;   /* of messages that have none */
    int64_t turn_ns, again_ns;       /* when this turn of messages began, 0: not yet; when those that rest are tried */
    bool turn_is_over;
    bool paused, told_paused;            /* by bus->pause(); as the parent has it */
    bool calls_are_full;                 /* somebody was told so */
    bool pause_is_closed;                /* it drains: what would wait for the end of a pause would wait for nothing */
    bool parent_is_narrow, pipe_is_narrow;
};

static inline struct child *child_of(const struct muster_host *host)
{
    return host->impl;
}

/* ---- host.c: the core table ---- */
int child_new(const char *file, int fd, struct child **ret_child);
void child_free(struct child *c); /* after its lane has ended */
/* Load the file and say HELLO, or REFUSED. On the lane. */
void child_load(struct child *c);
/* MUSTER_EAGAIN with a reason: so many are open already. */
int child_refuse_more(struct child *c, const char *things, int max);
/* End a frame that the plugin asked for: as pipe_end(), and on_writable follows MUSTER_EAGAIN. */
int child_send(struct child *c, struct frame *f);
/* MUSTER_EINVAL with a reason: more than a message may have. */
int child_check_headers(struct child *c, const struct muster_header *headers, uint32_t n);
void child_put_out(struct frame *f, const struct muster_tenant *tenant, const char *subject, const struct muster_header *headers,
                   uint32_t n_headers, struct muster_bytes payload);
uint64_t child_next_id(struct child *c);
/* The parent has said what cannot be: end the process. */
_Noreturn void child_confused(const char *what);
/* Something gathers (metrics, a text of health): it will be told in a moment. Any thread. */
void child_gather(struct child *c);
void child_tell_health(struct child *c, bool force);

/* ---- host_frames.c ---- */
bool child_on_frame(void *arg, struct frame_reader *r);

/* ---- host_life.c: frames of the child's life ---- */
void life_settings(struct child *c, struct frame_reader *r);
void life_check(struct child *c);
void life_create(struct child *c);
void life_start(struct child *c);
void life_reload(struct child *c, struct frame_reader *r);
void life_drain(struct child *c, struct frame_reader *r);
void life_destroy(struct child *c);
void life_on_link(struct child *c, struct frame_reader *r);
void life_on_tables(struct child *c, struct frame_reader *r);
/* Tell on_pause() or on_resume() where that has changed. */
void life_tell_narrow(struct child *c);
void life_done(struct child *c);

/* ---- host_call.c: calls whose answer is a frame ---- */
/* end: the plugin's function gets the code, MUSTER_ELINK, and nothing else. */
struct child_call {
    struct child_call *next;
    uint64_t id, stream; /* stream: that it is about, 0: none */
    uint16_t answer;     /* FRAME_* */
    void (*end)(struct child *c, struct child_call *call, int code);
    union {
        muster_done_fn done;
        muster_reply_fn reply;
        muster_tenant_found_fn found;
        muster_stream_info_fn info;
        muster_stream_msg_fn msg;
        muster_stream_ack_fn ack;
        muster_kv_fn kv;
        muster_kv_scan_fn scan;
        muster_connections_fn list;
    } fn;
    void *arg;
    char about[160]; /* a subject or key, for the crumb */
};
/* For what makes a call: as instance_may_begin(), and MUSTER_EAGAIN where too many are open; on_writable follows. */
int call_may_begin(struct child *c, const char *function);
#define MAY_CALL(c) call_may_begin((c), __func__)
/* One that is open from now on. NULL: no memory. */
struct child_call *call_new(struct child *c, uint16_t answer, void (*end)(struct child *c, struct child_call *call, int code), void *arg);
void call_note(struct child_call *call, const char *about);
/* End the frame; what it gives is the call's result, and without 0 there is no call. */
int call_send(struct child *c, struct child_call *call, struct frame *f);
/* The open call that r answers; NULL: it has ended. last: it is not open any more, and the caller's to free(), so that nothing that its
 * function does can end it twice. */
struct child_call *call_answered(struct child *c, const struct frame_reader *r, bool last);
/* Forget one that was not sent. */
void call_done(struct child *c, struct child_call *call);
/* End those of a stream with MUSTER_ELINK, in a moment. */
void call_cancel_stream(struct child *c, uint64_t stream);
/* End all, now; outside of every callback. */
void call_cancel_all(struct child *c);

/* ---- host_message.c: what the parent brings ---- */
struct child_message {
    struct muster_msg msg;
    struct muster_header headers[CHILD_HEADERS];
};
/* Read the fields msg. Borrowed from the frame. */
void message_get(struct child *c, struct frame_reader *r, struct child_message *out);
void message_arrives(struct child *c, struct frame_reader *r);
/* pause() has ended: what waits here comes in a moment. */
void message_init(struct child *c);
void message_new_turn(struct child *c); /* the loop has looked at all else */
void message_resume(struct child *c);
void message_close_pause(struct child *c);
void message_drop_later(struct child *c);
int message_hold(const struct muster_host *host, const struct muster_msg *msg, const struct muster_msg **ret_msg);
void message_drop(const struct muster_host *host, const struct muster_msg *msg);

/* ---- tables, and the frames that answer them ---- */
extern const struct muster_bus child_bus;
extern const struct muster_stream child_stream;
extern const struct muster_kv child_kv;
extern const struct muster_lease child_lease;
extern const struct muster_sys child_sys;
extern const struct muster_tenants child_tenants;
extern const struct muster_config child_config;
extern const struct muster_metrics child_metrics;
extern const struct muster_sql child_sql;
/* Begin to connect, where statements were prepared. */
int child_sql_start(struct child *c);

struct child_sub {
    muster_msg_fn fn;
};
void bus_tell_pause(struct child *c);
void bus_sent(struct child *c, struct frame_reader *r);
void bus_answer(struct child *c, struct frame_reader *r);

void store_info(struct child *c, struct frame_reader *r);
void store_stored(struct child *c, struct frame_reader *r);
void store_appended(struct child *c, struct frame_reader *r);
void kv_value(struct child *c, struct frame_reader *r);
void kv_entry(struct child *c, struct frame_reader *r);

void lease_got(struct child *c, struct frame_reader *r);
void lease_lost(struct child *c, struct frame_reader *r);
/* 0, or MUSTER_ESTALE: it is not held now. id 0: none is needed. */
int lease_check(struct child *c, uint64_t id);
void lease_forget_all(struct child *c);

void sys_event(struct child *c, struct frame_reader *r);
void sys_listed(struct child *c, struct frame_reader *r);
void sys_forget_all(struct child *c);

void tenant_told(struct child *c, struct frame_reader *r);
void tenant_table(struct child *c, struct frame_reader *r);
void tenant_tables_told(struct child *c, uint64_t serial);
void tenant_found(struct child *c, struct frame_reader *r);
/* NULL for 0. One that was never told ends the process. */
struct child_tenant *tenant_of_id(struct child *c, uint64_t id);
uint64_t tenant_id(const struct muster_tenant *tenant); /* 0 for NULL */
void tenant_forget_all(struct child *c);

/* Tell what has gathered. False: not all went. force: whatever waits. */
bool metrics_tell(struct child *c, bool force);
void metrics_forget_all(struct child *c);
/* Take over where keys stand. */
int config_places(struct child *c, struct frame_reader *r);

#endif
