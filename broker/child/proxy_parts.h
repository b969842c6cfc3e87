/*
 * child/proxy_parts.h - what the files of the proxy share; see proxy.h. Private to child/proxy*.c. All on the lane.
 *
 * proxy.c        the instance: which child is the present one, pauses, restarts
 * proxy_ward.c  one child: its process, its life from the first frame to the last, which frame may come when
 * proxy_bus.c    subscriptions, messages and answers
 * proxy_calls.c  what a child asks and is answered later: publications, requests, tenants, connections
 * proxy_store.c  the same of streams and keys
 * proxy_held.c   what a child has until it lets go: leases, and watched connections
 * proxy_tell.c   what a child says (log, health, metrics) and is told (tenants, tables)
 */
#ifndef MUSTER_CHILD_PROXY_PARTS_H
#define MUSTER_CHILD_PROXY_PARTS_H

#include "base/clock.h"
#include "base/map.h"
#include "child/bounds.h"
#include "child/limits.h"
#include "child/pipe.h"
#include "child/proxy.h"
#include "child/throttle.h"

enum { /* bounds of one child; what it has more is a breach, or MUSTER_EAGAIN where it is said */
    MAX_UNDER_WAY = 512,   /* messages that it has and is not through with; then the subscriptions pause, until half */
    MAX_FLIGHTS = 17408,   /* and those that it holds: the host's own bound is below */
    MAX_CALLS = CHILD_MAX_CALLS, /* MUSTER_EAGAIN */
    MAX_SUBSCRIPTIONS = CHILD_MAX_SUBSCRIPTIONS,
    MAX_STREAMS = CHILD_MAX_STREAMS,
    MAX_LEASES = CHILD_MAX_LEASES,
    MAX_WATCHES = CHILD_MAX_WATCHES,
    MAX_METRICS = CHILD_MAX_METRICS, /* of all children of a proxy */
    MAX_HEADERS = CHILD_MAX_HEADERS,
    MAX_LOG_LINES = 200,   /* in ten seconds */
    LINE_SIZE = 1024,      /* of what it writes to its standard error */
    WORDS_SIZE = 256,
};
#define MAX_UNDER_WAY_BYTES ((size_t)8 << 20)
#define MAX_UNREAD ((size_t)256 << 20) /* bytes that it is told and does not read */
#define PIPE_FRAMES 32768
#define PIPE_BYTES ((size_t)64 << 20)

#define PING_NS (CLOCK_S / 2)
#define STALL_NS (2 * CLOCK_S)  /* without an answer: others get its leases, it gets no messages */
#define LEASE_TOLD_NS (7 * CLOCK_S / 5) /* below STALL_NS without a PING */
#define KILL_NS (10 * CLOCK_S)  /* it is ended */
#define CREATE_NS (30 * CLOCK_S) /* for create(), and for start() */
#define CHECK_NS (10 * CLOCK_S)  /* to load the file, and for check() */
#define RELOAD_CHILD_NS (2 * CLOCK_S)
#define RETIRE_NS (5 * CLOCK_S) /* to finish what it has, when another takes its place */
#define END_NS (3 * CLOCK_S / 2) /* for destroy() */
#define LINGER_NS (CLOCK_S / 2)  /* for a process whose socket has ended */
#define HEALTHY_NS (60 * CLOCK_S) /* after that the delay begins anew */

enum ward_state {
    WARD_LOADING,  /* SANDBOX was sent */
    WARD_CREATING, /* CREATE, or CHECK, was sent */
    WARD_CREATED,
    WARD_STARTING, /* START was sent */
    WARD_RUNNING,
    WARD_DRAINING,
    WARD_ENDING,   /* DESTROY was sent */
    WARD_OVER,     /* nothing of it counts any more; its process may still end */
};

struct ward {
    struct proxy *proxy;
    const struct proxy_options *how; /* the proxy's, or those that it is to have next */
    struct ward *next_late;
    enum ward_state state;
    int64_t since_ns; /* of the state */
    struct spawn process;
    struct throttle throttle;
    bool brakes; /* throttle is at work */
    struct pipe *pipe;  /* NULL once it is over */
    struct buf nowhere; /* what is told it then */
    bool stalled, is_drained, is_reloading;
    bool was_next; /* it was over before it took the place of another */
    int code;                     /* of what it refused */
    char reason[PROXY_WHY_SIZE];  /* why it refused changed settings */
    char why[PROXY_WHY_SIZE];     /* it is over */
    char words[WORDS_SIZE];       /* the last line of its standard error */
    char line[LINE_SIZE];
    size_t line_len;
    uint64_t err_watch; /* of muster.io/1 */
    uint32_t lacks;     /* of the kernel: SANDBOX_* */

    uint64_t pings;
    int64_t heard_ns; /* the last PONG, or what counts as one */
    int64_t stopped_ns; /* for how long it had been stopped by then */
    int64_t told_stopped_ms; /* to the metric */
    bool refusing;    /* a frame waits for room */
    char stalled_in[96], stalled_on[160];

    int64_t log_since_ns;
    uint32_t n_log_lines, n_log_dropped;

    struct map tenants;       /* handle → struct told */
    struct told **by_number;  /* from 1 */
    size_t n_tenants, cap_tenants;
    struct child_limits limits; /* that its plugin may ask for */
    uint64_t tables_serial, tables_turn;
    int health; /* what it said last */
    char health_code[49], health_text[513];
    struct map metrics, streams, leases, watches; /* by the child's number */
    struct call *calls;
    size_t n_calls;
};

/* A tenant that the child knows, and what it was told. */
struct told {
    const struct muster_tenant *tenant;
    uint64_t number, seen;
    struct muster_tenant_limits limits;
    int64_t named[CHILD_LIMITS_MAX]; /* in the order of the ward's names */
    bool known;
};

struct metric_of_child {
    int type;
    uint64_t host_id;
};

/* One subscription of the plugin; it outlives the child that made it, so that messages wait for the next one. */
struct proxy_sub {
    struct proxy_sub *next;
    uint64_t host_id, child_id; /* child_id 0: the present child has not asked for it (yet) */
    struct muster_subscription how;
    char pattern[];
};

/* What one tenant has under way. */
struct share {
    uint32_t n;
    size_t bytes;
};

enum { FLIGHT_FREE, FLIGHT_SENT, FLIGHT_HELD, FLIGHT_WAITS }; /* WAITS: for the next child */

/* A message that the child has. Its number is {turn, index + 1}. */
struct flight {
    const struct muster_msg *msg; /* held */
    struct proxy_sub *sub;
    struct share *share;
    uint64_t order;
    uint32_t turn, next_free;
    uint8_t state;
    bool answered, again;
};

struct proxy {
    struct proxy_options how;
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_stream *stream; /* NULL: it has no such capability */
    const struct muster_kv *kv;
    const struct muster_lease *lease;
    const struct muster_sys *sys;
    const struct muster_tenants *tenants;
    const struct muster_timer *timer;
    const struct muster_io *io;
    const struct muster_metrics *metrics;

    struct ward *child; /* the present one; NULL: there is none now */
    struct ward *next;  /* made beside it, to take its place; NULL: none */
    struct ward *late;  /* those that are over, whose processes have not ended yet */
    struct proxy_options next_how;
    bool is_retiring;   /* the present one is to end, because the next is made */
    int64_t retire_ns;  /* by when it has finished what it has */
    bool started, ending, link_up, paused, is_full, wants_pause, knows_tables;
    uint64_t tick, restart, reap, brake; /* timers */
    int64_t delay_ns, ticked_ns;
    uint64_t m_restarts, m_throttled, m_paced;
    int64_t pace_ns;    /* when all that was sent would have been, one by one; see proxy_pace.c */
    uint64_t pace;      /* its timer */
    bool pace_waits;

    struct proxy_sub *subs;
    struct map subs_by_id; /* the host's */
    size_t n_subs;
    struct flight *flights;
    uint32_t n_flights, cap_flights, free_flight; /* free_flight: index + 1 */
    uint64_t next_order;
    uint32_t n_under_way, n_had; /* n_had: with those that it holds */
    size_t bytes_under_way;
    struct map shares;  /* tenant's handle → struct share */
    bool tenant_waits;  /* for what is left to the others */
    struct map metrics_made; /* "type name label" → struct metric_of_child */
};

static inline void *id_get(const struct map *m, uint64_t id)
{
    return map_get(m, &id, sizeof id);
}
static inline bool id_put(struct map *m, uint64_t id, void *value)
{
    return map_put(m, &id, sizeof id, value);
}
static inline void *id_take(struct map *m, uint64_t id)
{
    return map_take(m, &id, sizeof id);
}

/* What a handler says of its frame. */
enum taken { TAKEN, LATER, BROKEN }; /* LATER: it comes again when there is room; BROKEN: the child is over */

/* ---- proxy_ward.c ---- */
int ward_new(struct proxy *p, const struct proxy_options *how, struct ward **ret_child, char why[PROXY_WHY_SIZE]);
/* Its process has ended. */
void ward_free(struct ward *c);
/* It broke a rule: say so, and end it. Always BROKEN. */
enum taken ward_breach(struct ward *c, const char *fmt, ...) MUSTER_PRINTF(2, 3);
enum taken ward_malformed(struct ward *c, const struct frame_reader *r);
/* End it at once; why is told. */
void ward_kill(struct ward *c, const char *fmt, ...) MUSTER_PRINTF(2, 3);
/* One turn without the loop, as pipe_pump(); what a turn of the loop does besides is done as well. */
void ward_pump(struct ward *c, int64_t deadline_ns);
/* Run it without the loop until it is in that state or over. MUSTER_ETIME; MUSTER_ELINK: it is over. */
int ward_run_until(struct ward *c, enum ward_state state, int64_t deadline_ns);
void ward_set_state(struct ward *c, enum ward_state state);
void ward_hear(struct ward *c); /* it lives */
/* Watch its standard error; on the lane. */
int ward_watch(struct ward *c);
/* One piece, so that who writes without end does not keep the lane. False: there was none. */
bool ward_read_err(struct ward *c);
/* What it said and had to wait comes again. */
void ward_resume(struct ward *c);
/* Look whether the process of one that is over has ended, and end it where it lingers; c->why has its status then. */
bool ward_reap(struct ward *c);
/* Wait for that: at most as long as it may linger. */
void ward_wait(struct ward *c);
struct frame ward_begin(struct ward *c, uint16_t type, uint64_t id);
/* Queue it past all bounds, for what is bounded elsewhere. What cannot be told any more ends the child. */
void ward_end(struct ward *c, struct frame *f);
void ward_put(struct ward *c, uint16_t type, uint64_t id);

/* ---- proxy.c ---- */
/* How far it is has changed; what it asked may be answered now. */
void proxy_child_created(struct ward *c);
void proxy_child_started(struct ward *c);
/* It is over. Its process may not have ended yet, and nothing is freed. */
void proxy_child_over(struct ward *c);
void proxy_set_pause(struct proxy *p);
/* It is through with something: whether it is through with all, where it is to be replaced. */
void proxy_look_at_retiring(struct proxy *p);

/* ---- proxy_bus.c ---- */
enum taken take_subscribe(struct ward *c, struct frame_reader *r);
enum taken take_unsubscribe(struct ward *c, struct frame_reader *r);
enum taken take_pause(struct ward *c, struct frame_reader *r);
enum taken take_done(struct ward *c, struct frame_reader *r);
enum taken take_drop(struct ward *c, struct frame_reader *r);
enum taken take_reply(struct ward *c, struct frame_reader *r);
enum taken take_reply_error(struct ward *c, struct frame_reader *r);
/* The child that had the messages is gone: answer, and keep what the next one is to get. */
void bus_child_over(struct proxy *p);
/* The next one runs: subscriptions that it did not make go, and what was kept is sent. */
void bus_child_started(struct ward *c);
void bus_done(struct proxy *p);
void put_msg(struct frame *f, const struct muster_msg *msg, bool wants_answer, uint64_t tenant);

/* ---- proxy_pace.c ---- */
/* Whether one more message may leave now; if not, its frame comes again. */
bool pace_admits(struct ward *c);
void pace_count(struct ward *c, size_t bytes); /* it has left */

/* ---- proxy_calls.c ---- */
enum { MAX_PAYLOAD = FRAME_MAX - (256 << 10) }; /* of a message that it is told: 32 headers of 4 KiB, and the rest */
typedef void (*answer_fn)(struct ward *c, uint64_t id, int code);

/* A question that the broker works on. Once the child is gone, nobody hears the answer. */
struct call {
    struct call *next, **at;
    struct ward *child; /* NULL: gone */
    uint64_t id;
};
/* Room for a call, or the answer that there is none (*ret_call is not written then). LATER: it reads before it asks more. */
enum taken call_make(struct ward *c, uint64_t id, struct call **ret_call, answer_fn answer);
/* What came of beginning it: a call that could not be begun calls nothing back, and the child is told here. LATER: when there is room. */
enum taken call_begun(struct ward *c, struct call *call, int err, answer_fn answer);
void call_free(struct call *call);

/* The fields `out` of a frame. */
struct out {
    const struct muster_tenant *tenant;
    const char *subject;
    struct muster_header headers[MAX_HEADERS];
    uint32_t n_headers, n_sent; /* n_sent: as many as came */
    struct muster_bytes payload;
};
/* Returns the tenant's number. */
uint64_t out_get(struct frame_reader *r, struct out *out);
/* Once the whole frame is read. */
enum taken out_check(struct ward *c, const struct frame_reader *r, uint64_t tenant, struct out *out);
enum taken take_publish(struct ward *c, struct frame_reader *r);
enum taken take_request(struct ward *c, struct frame_reader *r);
enum taken take_refresh(struct ward *c, struct frame_reader *r);
enum taken take_sys_list(struct ward *c, struct frame_reader *r);
enum taken take_sys_kick(struct ward *c, struct frame_reader *r);
void calls_child_over(struct ward *c);

/* ---- proxy_store.c ---- */
enum taken take_stream_open(struct ward *c, struct frame_reader *r);
enum taken take_stream_close(struct ward *c, struct frame_reader *r);
enum taken take_stream_info(struct ward *c, struct frame_reader *r);
enum taken take_stream_last(struct ward *c, struct frame_reader *r);
enum taken take_stream_read(struct ward *c, struct frame_reader *r);
enum taken take_append(struct ward *c, struct frame_reader *r);
enum taken take_kv_get(struct ward *c, struct frame_reader *r);
enum taken take_kv_put(struct ward *c, struct frame_reader *r);
enum taken take_kv_del(struct ward *c, struct frame_reader *r);
enum taken take_kv_scan(struct ward *c, struct frame_reader *r);
void store_child_over(struct ward *c);

/* ---- proxy_held.c ---- */
enum taken take_lease(struct ward *c, struct frame_reader *r);
enum taken take_lease_release(struct ward *c, struct frame_reader *r);
enum taken take_sys_watch(struct ward *c, struct frame_reader *r);
enum taken take_sys_unwatch(struct ward *c, struct frame_reader *r);
/* The host's lease of the child's, 0 where it is not held; false: there is none. */
bool held_lease(struct ward *c, uint64_t id, uint64_t *ret_host_id);
void held_tick(struct ward *c);
/* Others may have its leases; it contends again afterwards. */
void held_stalled(struct ward *c, bool on);
void held_child_over(struct ward *c);
void put_connection(struct frame *f, const struct muster_connection *connection, uint64_t tenant);

/* ---- proxy_tell.c ---- */
enum taken take_log(struct ward *c, struct frame_reader *r);
enum taken take_health(struct ward *c, struct frame_reader *r);
enum taken take_metric_make(struct ward *c, struct frame_reader *r);
enum taken take_metric(struct ward *c, struct frame_reader *r);
/* Within the bound of its lines. */
void ward_log(struct ward *c, int level, const char *text);
void tell_health_again(struct ward *c);
bool proxy_has_capability(const struct proxy *p, const char *capability);
/* Of allow.tenants, or all. */
bool may_see(const struct proxy *p, const struct muster_tenant *tenant);
/* Its number in this child, which is told of it before; 0: no memory, or it may not be seen. */
uint64_t tenant_number(struct ward *c, const struct muster_tenant *tenant);
/* False: it was never told that number. 0 is NULL. */
bool tenant_by_number(const struct ward *c, uint64_t number, const struct muster_tenant **ret_tenant);
void tell_tables(struct ward *c);
void tell_child_over(struct ward *c);

#endif
