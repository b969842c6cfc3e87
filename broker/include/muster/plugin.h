/*
 * muster/plugin.h - the whole contract between the broker and a plugin.
 *
 * Shape    A plugin is one .so that exports one function, muster_plugin_entry_v0(). It calls the broker only through
 *          struct muster_host and the service tables found by it; no symbol of the broker is linked by name, so a plugin
 *          builds against this file alone.
 * Threads  Every function below carries one tag.
 *            [init]  inside create() and check(), on the thread that starts the broker, before the lane runs
 *            [lane]  on the instance's own lane, from start() on; every callback of the instance runs there, one at a time
 *            [any]   on any thread, between the begin of create() and the end of destroy()
 *          A [lane] or [init] function that is called from elsewhere is told in the log and gives MUSTER_EINVAL; debug builds of the
 *          broker abort. No call blocks. A callback never runs inside the call that asked for it, except where it is said; those of calls
 *          still open when the instance ends run before destroy(), with MUSTER_ELINK.
 * Errors   An int result is 0 or a negative MUSTER_E*. A parameter named ret_x is written on success only.
 *          A call that fails has had no effect and calls nothing back.
 * Memory   "borrowed": valid until the callback returns. "owned": the receiver releases it with the function named beside it.
 *          Neither side ever frees what the other side allocated. What a call takes by pointer it has copied when it returns;
 *          an `arg` is handed back as it came.
 * Units    _ns: nanoseconds, monotonic; wall_ns: since 1970-01-01 UTC. Sizes are bytes. Strings are UTF-8 and end in NUL.
 * Growth   Structs that cross the border begin with `size`, set by who fills them; members are only ever appended; read a
 *          member that may be missing through MUSTER_HAS. A plugin loads where the major is equal and its minor is one of
 *          MUSTER_ABI_OLDEST … MUSTER_ABI_MINOR of the broker. ABI.md says for how long that is promised.
 */
#ifndef MUSTER_PLUGIN_H
#define MUSTER_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MUSTER_ABI_MAJOR 0 /* raised when an old plugin can no longer be loaded */
#define MUSTER_ABI_MINOR 4 /* raised when a member or a service is appended */
#define MUSTER_ABI_OLDEST 2 /* the oldest minor whose plugins a broker with this header loads */

#define MUSTER_EXPORT __attribute__((visibility("default")))
#define MUSTER_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* True when the other side's struct is long enough to have the member. */
#define MUSTER_HAS(p, member) ((p)->size >= offsetof(__typeof__(*(p)), member) + sizeof (p)->member)

enum { /* the values are frozen; new ones are appended */
    MUSTER_EINVAL = -1,    /* the caller broke this contract, or the data is not what was expected */
    MUSTER_ENOMEM = -2,    /* no memory; the operation had no effect */
    MUSTER_EAGAIN = -3,    /* a bound was reached; wait for on_writable, or try later */
    MUSTER_EACCES = -4,    /* the tenant or the capability does not permit it */
    MUSTER_ETIME = -5,     /* the deadline passed */
    MUSTER_EABI = -6,      /* the other side does not have what was asked, or is of another version */
    MUSTER_ESTALE = -7,    /* somebody else has written since: a fence refused this */
    MUSTER_ENOTFOUND = -8, /* there is no such thing */
    MUSTER_EEXIST = -9,    /* there is one already, and it is another */
    MUSTER_ELINK = -10,    /* the link to NATS or PostgreSQL is away; nothing is known of the outcome */
};
enum { MUSTER_LOG_ERROR, MUSTER_LOG_WARN, MUSTER_LOG_INFO, MUSTER_LOG_DEBUG };
enum { MUSTER_JSON = 1, MUSTER_MSGPACK = 2 }; /* encodings of bodies */

enum { /* what the name that sent a message may do in its tenant; new ones are appended */
    MUSTER_ROLE_NONE = 0,     /* no agent: the broker, a plugin, or nobody known */
    MUSTER_ROLE_AGENT = 1,
    MUSTER_ROLE_OBSERVER = 2, /* reads */
    MUSTER_ROLE_USER = 3,     /* an end user: sees what is its own */
    MUSTER_ROLE_HUMAN = 4,    /* a person who may answer escalations and verify */
    MUSTER_ROLE_ADMIN = 5,    /* of its tenant */
    MUSTER_ROLE_OPERATOR = 6, /* of all tenants; outside its own its name begins with "_op_" */
    MUSTER_ROLE_PLUGIN = 7,   /* the process of a third-party plugin */
};

/* What an instance says of itself in /readyz, metrics and `muster doctor`. Before its first word it counts as down. */
enum {
    MUSTER_HEALTH_OK = 0,       /* works */
    MUSTER_HEALTH_STANDBY = 1,  /* works, another broker has the job; ready */
    MUSTER_HEALTH_DEGRADED = 2, /* works in part; ready, and said */
    MUSTER_HEALTH_DOWN = 3,     /* does not work now; the broker is not ready, unless the instance has `required: false` */
};

struct muster_tenant; /* opaque; comes with a message or from muster.tenant/1; lives as long as the host */

struct muster_bytes {
    const void *data; /* may be NULL when len is 0 */
    size_t len;
};

struct muster_header {
    const char *name, *value;
};

/* One message. Borrowed; one of a subscription can be kept past its callback with bus->hold(). */
struct muster_msg {
    uint32_t size;
    uint32_t encoding;                  /* of the payload: MUSTER_JSON or MUSTER_MSGPACK */
    const struct muster_tenant *tenant; /* whose data this is; NULL only in a reply to request() and, where the tenant is gone, in
                                         * stream results */
    const char *agent;                  /* who sent it, as the server's permissions prove it; NULL: the broker, or nobody known */
    const char *subject;                /* what follows R.T., e.g. "rpc.a1.presence.beat" */
    const char *service, *verb;         /* of a request; NULL otherwise */
    const struct muster_header *headers;
    uint32_t n_headers;                 /* at most 32 are shown */
    uint64_t request;                   /* the handle for reply(); 0: nobody waits */
    struct muster_bytes payload;        /* as it came: decode it with muster.codec/1; an empty one of a subscription comes as "{}" */
    int64_t recv_ns;                    /* 0 where it is not a subscription's */
    uint64_t seq;                       /* in its stream; 0 when it was not read from one */
    uint32_t role;                      /* MUSTER_ROLE_*: of agent, when the message came; NONE where agent is NULL or a plugin, and of
                                         * what was stored ("log.…"). 0.3 */
    int64_t stored_wall_ns;             /* when its stream stored it, by the server's clock, or the broker's that appended it; 0 when it was
                                         * not read from one. 0.4 */
};

/* 0: done, or held. MUSTER_EAGAIN: deliver it again in a moment, before the others of its tenant, which wait too; for 30 s at most.
 * Any other error, and MUSTER_EAGAIN after that: counted as failed, and who waits gets the error that goes with the code
 * ("not_found" for MUSTER_ENOTFOUND). [lane] */
typedef int (*muster_msg_fn)(void *self, const struct muster_msg *msg);
typedef void (*muster_timer_fn)(void *self, int64_t now_ns); /* [lane] */

/* The core table. Members are only ever appended within a major version. */
struct muster_host {
    uint32_t size;
    uint16_t abi_major, abi_minor;
    void *impl; /* the broker's; hands off */

    /* Write one log line; the broker adds plugin and instance. A format string may write 20 lines in ten seconds; the rest is
     * counted and told with the next one. Never pass a secret. [any] */
    void (*log)(const struct muster_host *host, int level, const char *fmt, ...) MUSTER_PRINTF(3, 4);

    /* Keep the text as the reason of this failure and return code unchanged, so that
     * `return host->fail(host, MUSTER_EINVAL, "...")` is the whole error path. Nothing is logged here: the reason is told when
     * create() or start() fails. [any] */
    int (*fail)(const struct muster_host *host, int code, const char *fmt, ...) MUSTER_PRINTF(3, 4);

    /* Run fn(arg) on the lane, in order of posting, never inside this call; the one way from a thread of the plugin's own to its
     * lane. MUSTER_EAGAIN when too many posts wait. Stop posting in drain(): what is posted once destroy() is due is not
     * run any more. [any] */
    int (*post)(const struct muster_host *host, void (*fn)(void *arg), void *arg);

    /* Find a service table by its versioned name, e.g. MUSTER_BUS. The table lives as long as host does. MUSTER_EABI when this
     * broker has no such service, MUSTER_EACCES when the descriptor does not list the capability it needs; both with a reason,
     * so that create() can just return the code. [init] */
    int (*service)(const struct muster_host *host, const char *id, const void **ret_table);

    /* Say how this instance is: state is MUSTER_HEALTH_*, code a short stable word ("slot_missing") that people and scripts can
     * look up, text a sentence that helps. A change of state or code is logged once; saying the same again, also in other
     * words, is not. Takes effect before it returns. [any] */
    void (*health)(const struct muster_host *host, int state, const char *code, const char *fmt, ...) MUSTER_PRINTF(4, 5);

    const char *plugin, *instance; /* names, for subjects and messages */
    uint32_t lane, n_lanes;        /* which of n_lanes this is, from 0; each has its own self and its share of the tenants */
    const char *broker_id;         /* which broker this is, for people */
    const char *postgres_dsn;      /* NULL unless the capability "postgres" is listed; never log it */
    const char *root;              /* the R of all subjects. 0.4 */
};

#define MUSTER_BUS "muster.bus/1"

enum { /* what happens to a message that arrives when the subscription's bound is reached */
    MUSTER_OVERFLOW_REJECT,   /* a request is answered resource_exhausted at once; a message without reply is dropped */
    MUSTER_OVERFLOW_DROP_NEW, /* the arriving one is dropped */
    MUSTER_OVERFLOW_DROP_OLD, /* the tenant's oldest of this subscription make room; for beats and the like */
};

struct muster_subscription {
    uint32_t size;
    uint32_t overflow;   /* MUSTER_OVERFLOW_*; also when a bound of the tenant or of the lane is reached */
    const char *subject; /* what follows R.T., e.g. "rpc.*.presence.beat" or "evt.presence.>"; of every tenant */
    uint32_t max_msgs;   /* that may wait; > 0 */
    uint32_t queue;      /* 1: one of the brokers gets each message (requests); 0: every broker does, and of a request that no plugin
                          * answers there is no answer: which of them should give it only the plugins know */
    size_t max_bytes;    /* that may wait; > 0 */
    muster_msg_fn fn;
};

/* code 0: an event is committed, another message is queued to be sent. Otherwise MUSTER_E*, and with MUSTER_ELINK it may or may
 * not have arrived. Runs exactly once when publish() gave 0. [lane] */
typedef void (*muster_done_fn)(void *arg, int code);
/* msg is NULL unless code is 0. MUSTER_ETIME: the deadline passed; MUSTER_ENOTFOUND: nobody listens; MUSTER_ELINK. Runs exactly
 * once when request() gave 0. [lane] */
typedef void (*muster_reply_fn)(void *arg, int code, const struct muster_msg *msg);

struct muster_publication {
    uint32_t size;
    uint32_t n_headers;
    const struct muster_tenant *tenant; /* never NULL */
    const char *subject;                /* what follows R.T., without wildcards. "evt.<service>.<event>.<key>" is emitted through
                                         * the database, in a transaction of its own; its payload is a JSON object then */
    const struct muster_header *headers; /* of an event: none */
    struct muster_bytes payload;
    muster_done_fn done; /* may be NULL */
    void *arg;
    const char *reply; /* of a message to an agent, "to.B.<from>.<type>": where B's respond() goes, "rpc.B.<service>.<verb>.<ref>" with a service of
                        * this plugin. It comes to the subscriptions on that verb, as B's, with any body and maybe twice. NULL: nowhere. 0.4 */
};

struct muster_bus {
    uint32_t size;

    /* Deliver every message on the subject to fn, in the order received per tenant; with lanes > 1 those of the lane's tenants.
     * MUSTER_EACCES: a plugin given by path would hear requests to a service that comes with Muster. [lane] */
    int (*subscribe)(const struct muster_host *host, const struct muster_subscription *sub, uint64_t *ret_sub);
    /* What waits is not delivered any more; who waits for an answer gets `unavailable`. [lane] */
    void (*unsubscribe)(const struct muster_host *host, uint64_t sub);

    /* Copy and queue a message. MUSTER_EAGAIN when a bound is reached: nothing was queued, on_writable follows. MUSTER_ELINK: NATS
     * is away; what is no event is worth nothing later. [any]; with done, or on "evt.…", [lane] */
    int (*publish)(const struct muster_host *host, const struct muster_publication *pub);

    /* Publish and wait for one answer; of a message to an agent ("to.<agent>.…") only its own answer counts. A service is asked on
     * "rpc._p_<plugin>.<service>.<verb>", under this plugin's name: MUSTER_EACCES for any other, in publish() too. pub->done is
     * ignored. [lane] */
    int (*request)(const struct muster_host *host, const struct muster_publication *pub, int64_t timeout_ns,
                   muster_reply_fn fn, void *arg);

    /* Answer a request, once; the body in the request's encoding, at most 1,000,000 bytes. Where fn returns without reply() and
     * without hold(), the broker answers `internal`. MUSTER_ENOTFOUND: it has been answered. MUSTER_EAGAIN: nothing was sent and
     * the request stays open; on_writable follows. [any] */
    int (*reply)(const struct muster_host *host, uint64_t request, struct muster_bytes payload);
    /* Answer with {"error": {code, message, field?}} and the two Nats-Service-Error headers; code is one of the words that
     * ABI.md lists ("not_found"), field may be NULL. MUSTER_ENOTFOUND and MUSTER_EAGAIN as with reply(). [any] */
    int (*reply_error)(const struct muster_host *host, uint64_t request, const char *code, const char *field,
                       const char *message);

    /* Keep the message of the callback that runs past its end; *ret_msg is owned, drop() releases it, and answers `internal` where
     * nobody has answered. MUSTER_EAGAIN: this instance holds 16,384 messages or 64 MiB, or of this tenant more than would then be
     * left for all others: one alone may have half. [lane] */
    int (*hold)(const struct muster_host *host, const struct muster_msg *msg, const struct muster_msg **ret_msg);
    void (*drop)(const struct muster_host *host, const struct muster_msg *msg); /* [any] */

    /* on 1: deliver nothing more to this instance until it says 0; what arrives waits within the bounds of its subscriptions, and
     * beyond them goes the way of their `overflow`. Answers to request() and other callbacks come all the same. [lane] */
    void (*pause)(const struct muster_host *host, uint32_t on);
};

#define MUSTER_STREAM "muster.stream/1" /* needs the capability "stream" */

struct muster_stream_info {
    uint32_t size;
    uint32_t reserved;
    uint64_t first_seq, last_seq; /* last_seq 0: nothing was ever stored */
    uint64_t n_msgs, n_bytes;
    int64_t created_wall_ns; /* tells a stream that was made anew */
};

struct muster_stream_options {
    uint32_t size;
    uint32_t replicas;    /* 0: 1 */
    const char *name;     /* "CDC_main": [A-Z0-9_a-z-]{1,64}; the broker owns the name space */
    const char *subjects; /* what follows R._in.*., e.g. "cdc.main.>"; what is stored is republished to R.T.<same> */
    int64_t max_age_ns;   /* 0: for ever */
    int64_t max_bytes;    /* 0: unlimited; when full the oldest go */
    const char *republish; /* what follows R.T. in what agents hear, where it is not as in `subjects`: "evt.presence.>" for "pres.3.>"; what
                            * the > stands for is kept. NULL: the same. 0.4 */
    int64_t max_msgs, max_msgs_per_subject; /* 0: unlimited; when full the oldest go. 0.4 */
};

/* info and msg are NULL unless code is 0; borrowed. MUSTER_ENOTFOUND: there is no such stream, or no such message. [lane] */
typedef void (*muster_stream_info_fn)(void *arg, int code, const struct muster_stream_info *info);
typedef void (*muster_stream_msg_fn)(void *arg, int code, const struct muster_msg *msg);
/* What follow() tells. code 0: a message, with its seq. MUSTER_EAGAIN, msg NULL: all that was stored is delivered; what comes now is new. It is
 * told after the first messages, and each time that the flow was away. MUSTER_ELINK, msg NULL: the flow is away and goes on by itself after the last
 * message that was told. MUSTER_ESTALE, msg NULL: messages from the one expected next up to the next one told are gone from the stream, by its bounds.
 * MUSTER_ENOTFOUND, msg NULL: there is no such stream, it was made anew, or it ends before what is expected next; nothing more comes. [lane] */
typedef void (*muster_stream_follow_fn)(void *arg, int code, const struct muster_msg *msg);
/* code 0: stored under seq. MUSTER_ESTALE: refused by the fence, seq is what the stream has as its last. MUSTER_ENOTFOUND: the
 * stream is gone. MUSTER_ENOMEM: the server has no room. MUSTER_ETIME and MUSTER_ELINK: nobody knows. [lane] */
typedef void (*muster_stream_ack_fn)(void *arg, int code, uint64_t seq);

struct muster_append {
    uint32_t size;
    uint32_t n_headers;
    const struct muster_tenant *tenant; /* whose data it is: the subject is R._in.<tenant>.<subject> */
    const char *subject;                /* within the stream's subjects */
    const struct muster_header *headers;
    struct muster_bytes payload;
    uint64_t expected_seq; /* last sequence that the stream must have; MUSTER_UNFENCED for none */
    muster_stream_ack_fn acked; /* NULL: no acknowledgement is asked for. In a fenced stream the acknowledgement of a later
                                 * append tells that this one is stored as well, because it was refused otherwise. Such an
                                 * append may wait for the next one that asks, at most 100 ms. */
    void *arg;
    uint64_t lease; /* of muster.lease/1: MUSTER_ESTALE, and nothing is sent, unless it is held now. 0: none is needed */
};
#define MUSTER_UNFENCED UINT64_MAX

struct muster_stream {
    uint32_t size;

    /* Make the stream where it is missing, check it where it is not: fn gets MUSTER_EEXIST, with a reason kept as by host->fail(),
     * when it has other subjects, another republishing or acknowledges otherwise, and MUSTER_EAGAIN when fewer servers can take a copy
     * than it has replicas: close it, and open it again in a moment. Age, size and replicas are brought to what options say. The
     * handle is good until close(), whatever fn gets. [lane] */
    int (*open)(const struct muster_host *host, const struct muster_stream_options *options, muster_stream_info_fn fn,
                void *arg, uint64_t *ret_stream);
    void (*close)(const struct muster_host *host, uint64_t stream); /* callbacks still due come with MUSTER_ELINK. [lane] */
    int (*info)(const struct muster_host *host, uint64_t stream, muster_stream_info_fn fn, void *arg); /* [lane] */
    /* Read the last message: of all (tenant NULL; subject is not looked at), or under R._in.<tenant>.<subject>, which may hold
     * wildcards. [lane] */
    int (*last)(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                muster_stream_msg_fn fn, void *arg);
    /* Copy and queue one message; they are sent in the order of these calls. MUSTER_EAGAIN when the outbox is full: nothing was
     * queued, on_writable follows. MUSTER_ELINK: NATS is away. [lane] */
    int (*append)(const struct muster_host *host, uint64_t stream, const struct muster_append *append);
    /* Read up to max_msgs (1 … 1,000) stored messages from sequence from_seq on, oldest first: fn gets each, then MUSTER_ENOTFOUND where
     * fewer were there, or 0 with msg NULL after the last of max_msgs: call again from the next sequence. tenant and subject as with
     * last(). Any other code ends it too. A few messages are a round trip to NATS each; more come by a consumer that lives as long as the
     * read, of which an instance has 8 at a time on all its streams: 1,024 other reads wait for one, and of more there is MUSTER_EAGAIN, which
     * on_writable follows. A read that was begun never ends with MUSTER_ENOTFOUND or 0 where a message was left out. [lane] */
    int (*read)(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                uint64_t from_seq, uint32_t max_msgs, muster_stream_msg_fn fn, void *arg);

    /* The rest since 0.4. */
    /* A stream that is kept by others, for info(), last(), read() and follow() alone: "EVT", "MAIL", "CDC_main", "PRES_3", whose messages' subjects
     * are what follows R._in.T.; or "MSG" with a tenant (NULL otherwise): its messages between agents, whose subjects are what follows R.T.,
     * "all.>", "to.>", "grp.>". fn gets MUSTER_ENOTFOUND where there is none; the handle is good until close() all the same, and the stream may
     * come. MUSTER_EABI, of follow() too: the plugin runs in a process of its own. [lane] */
    int (*attach)(const struct muster_host *host, const char *name, const struct muster_tenant *tenant, muster_stream_info_fn fn, void *arg,
                  uint64_t *ret_stream);
    /* Have fn called with each message from sequence from_seq on (0: what comes from now on), oldest first, until unfollow() or close(). tenant and
     * subject as with last(). It is one consumer at the server, made anew when it is lost; no message comes twice or is left out in silence. Of
     * some subjects alone MUSTER_ESTALE may be told where none of them was among what is gone. At most max_msgs (0: 500; up to 5,000) and 8 MiB of
     * them wait for the lane; the server holds the rest. An instance follows 256 times at most. MUSTER_ELINK: NATS is away. [lane] */
    int (*follow)(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject, uint64_t from_seq,
                  uint32_t max_msgs, muster_stream_follow_fn fn, void *arg, uint64_t *ret_follow);
    void (*unfollow)(const struct muster_host *host, uint64_t follow); /* calls nothing back. [lane] */
    /* on 1: deliver no more of it until 0. [lane] */
    void (*hold_back)(const struct muster_host *host, uint64_t follow, uint32_t on);
};

/* Small state of this plugin, shared by all brokers and instances: bucket muster_<plugin>, and muster__<plugin> for what belongs to
 * tenants. */
#define MUSTER_KV "muster.kv/1"

/* value is empty and revision 0 when code is not 0; value is empty after a put or a del. Borrowed. Runs exactly once when the call gave
 * 0. [lane] */
typedef void (*muster_kv_fn)(void *arg, int code, struct muster_bytes value, uint64_t revision);

struct muster_kv_put {
    uint32_t size;
    uint32_t reserved;
    const struct muster_tenant *tenant; /* NULL: the plugin's own, of no tenant. The same key under two tenants is two keys */
    const char *key;                    /* [A-Za-z0-9_./=~-]{1,200}, no dot at either end and no two together */
    struct muster_bytes value;          /* at most 64 KiB */
    uint64_t revision;                  /* that the key must have: 0: there must be none; MUSTER_UNFENCED: whatever it is */
    int64_t ttl_ns;                     /* gone after that, by the brokers' wall clocks; 0: never. At least 1 s */
    uint64_t lease;                     /* as in struct muster_append */
    muster_kv_fn fn;                    /* gets the new revision, or MUSTER_ESTALE */
    void *arg;
};

struct muster_kv_entry {
    uint32_t size;
    uint32_t reserved;
    const char *key;
    struct muster_bytes value;
    uint64_t revision;
    int64_t expires_wall_ns; /* 0: never */
};
/* entry is NULL once: with code 0 after the last, or with the error that ended the scan. Borrowed. [lane] */
typedef void (*muster_kv_scan_fn)(void *arg, int code, const struct muster_kv_entry *entry);

/* A call gives MUSTER_EAGAIN when the outbox is full, and on_writable follows; MUSTER_ELINK when NATS is away. */
struct muster_kv {
    uint32_t size;
    /* Reads come from the stream's leader, never from a follower. MUSTER_ENOTFOUND: there is no such key, or it has expired. [lane] */
    int (*get)(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, muster_kv_fn fn, void *arg);
    /* The bucket has as many replicas as any stream that a writer has open. MUSTER_EAGAIN: 16 MiB of this instance's values are on their
     * way; on_writable follows. [lane] */
    int (*put)(const struct muster_host *host, const struct muster_kv_put *put);
    /* Remove the key when its revision still is `revision` (MUSTER_UNFENCED: whatever it is); one that is not there is removed
     * already. [lane] */
    int (*del)(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, uint64_t revision, muster_kv_fn fn,
               void *arg);
    /* Every key of tenant that begins with prefix ("" for all), in no order; what changes meanwhile may be told or not. Costs a round trip to
     * NATS for each key below the last dot of the prefix (10,000 take seconds), and holds one value at a time. [lane] */
    int (*scan)(const struct muster_host *host, const struct muster_tenant *tenant, const char *prefix, muster_kv_scan_fn fn, void *arg);
};

#define MUSTER_LEASE "muster.lease/1" /* one holder among all brokers of a thing that the plugin names */

typedef void (*muster_lease_got_fn)(void *arg, uint64_t epoch); /* [lane] */
/* MUSTER_ESTALE: another has it. MUSTER_ETIME: it could not be renewed in time. [lane] */
typedef void (*muster_lease_lost_fn)(void *arg, int code);

struct muster_lease_options {
    uint32_t size;
    uint32_t reserved;
    const char *name; /* as a key of muster.kv/1; of this plugin */
    int64_t ttl_ns;   /* 0: 15 s. From 3 s to 1 h; renewed every fifth of it. All contenders should say the same */
    muster_lease_got_fn on_got;
    muster_lease_lost_fn on_lost;
    void *arg;
};

/* The epoch is a fence: it grows with each new holder, also after the bucket was lost, and what the holder writes should carry it, so
 * that who comes late is refused: a stream by expected_seq, SQL by `WHERE epoch <= $n`. Time is measured by each broker's monotonic
 * clock alone. It is renewed on the lane: a lane that hangs lets its leases go. No two hold at one time, with two exceptions. Where the
 * bucket muster_leases itself is lost, an older holder may go on until its next renewal. And the lease of a broker whose NATS connections
 * have all ended is taken 0.75 s later, so that who dies is replaced within 2 s; a holder that lives and was only cut off may count as
 * holding meanwhile, but what it put, appended or said has gone nowhere, and until it has renewed, put() under the lease gives
 * MUSTER_ELINK. They are released after destroy(). */
struct muster_lease {
    uint32_t size;
    uint32_t reserved;
    /* Contend until release(): on_got and on_lost alternate, beginning with on_got. MUSTER_EEXIST: this instance does already. [lane] */
    int (*acquire)(const struct muster_host *host, const struct muster_lease_options *options, uint64_t *ret_lease);
    /* Contend no more; another may have it at once. Calls nothing back. [lane] */
    void (*release)(const struct muster_host *host, uint64_t lease);
    /* 0: not held, by the clock: also before on_lost has been called. [lane] */
    uint64_t (*epoch)(const struct muster_host *host, uint64_t lease);
};

#define MUSTER_SYS "muster.sys/1" /* connections of the NATS servers; needs the capability "system" and nats.system_creds */

enum {
    MUSTER_SYS_CONNECT = 1,
    MUSTER_SYS_DISCONNECT = 2,
    MUSTER_SYS_GAP = 3, /* events may have been missed, and come again from now on: list() tells how it is. Also the first call */
    /* Since 0.4, to plugins compiled against it: tenant and agent are NULL, server is the one meant. */
    MUSTER_SYS_SERVER_LOST = 4, /* it is stopped, or has not answered for 4 to 6 s: its connections are gone, or are out of sight; no disconnects of
                                 * them are told */
    MUSTER_SYS_SERVER_BACK = 5, /* one that was lost answers again: list() tells who is connected there */
};
struct muster_connection {
    uint32_t size;
    uint32_t kind;                      /* MUSTER_SYS_* */
    const struct muster_tenant *tenant; /* NULL only with MUSTER_SYS_GAP and the two of servers */
    const char *agent;                  /* as the credentials prove it */
    const char *server;                 /* the server's id; with client it names the connection, and no other ever */
    uint64_t client;
    const char *name;   /* what the client calls itself: proves nothing */
    const char *reason; /* of a disconnect, as the server words it; NULL otherwise */
    int64_t at_wall_ns; /* by the server's clock */
};
typedef void (*muster_connection_fn)(void *arg, const struct muster_connection *connection); /* borrowed. [lane] */
/* connection is NULL once: with code 0 after the last, or with the error that ended the listing. Borrowed. [lane] */
typedef void (*muster_connections_fn)(void *arg, int code, const struct muster_connection *connection);

/* Only connections of agents of known tenants are shown, with lanes > 1 those of the lane's tenants. A connection may be told twice,
 * by list() and then by its connect. */
struct muster_sys {
    uint32_t size;
    uint32_t reserved;
    /* Events in the order of each server. 8,192 may wait; of more none is kept, and a gap stands for them. MUSTER_EAGAIN: the
     * instance has 16 already. [lane] */
    int (*watch)(const struct muster_host *host, muster_connection_fn fn, void *arg, uint64_t *ret_id);
    void (*unwatch)(const struct muster_host *host, uint64_t id);                                       /* [lane] */
    /* Ask all servers who is connected. A server that does not answer within 2 s is not waited for: MUSTER_ETIME ends the listing then,
     * after those of the others. Each comes once, with kind MUSTER_SYS_CONNECT; one whose end watch() has told meanwhile does not
     * come. MUSTER_ELINK: the link is away. MUSTER_EAGAIN: four listings of the instance are under way. [lane] */
    int (*list)(const struct muster_host *host, muster_connections_fn fn, void *arg);
    /* Cut one connection of an agent; its client may come back. MUSTER_ENOTFOUND: there is no such one; MUSTER_EABI: the server is
     * older than 2.10 and cannot. done may be NULL. [lane] */
    int (*kick)(const struct muster_host *host, const char *server, uint64_t client, muster_done_fn done, void *arg);
};

#define MUSTER_LOGIN "muster.login/1" /* who may log in with a token; needs the capability "login", nats.callout_* and a server of 2.10 or newer */

/* Somebody who connects to a NATS server, without credentials of which the server itself knows. What it says of itself proves nothing,
 * the token does or does not. Borrowed. */
struct muster_login {
    uint32_t size;
    uint32_t reserved;
    uint64_t id;             /* for admit() or refuse() */
    const char *token;       /* what it brought as its token, else as its password; "" when neither. A secret: never log it */
    const char *user;        /* "" when it named none */
    const char *client_name; /* what the client calls itself; "" when nothing */
    const char *host;        /* the address that the server sees */
    int64_t recv_ns;
};
struct muster_admission {
    uint32_t size;
    uint32_t reserved;
    const char *tenant, *agent; /* names; the tenant must be there already */
    const char *role;           /* "agent", "observer", "user", "human", "admin"; another than the name has already is refused */
    int64_t expires_wall_ns;    /* the server cuts the connection then; 0: never */
};
typedef void (*muster_login_fn)(void *arg, const struct muster_login *login); /* [lane] */

/* Each login is answered once, now or later; who is not answered within the server's time (10 s, as `muster nats-config` sets it) is
 * refused by the server, and tries again. Each goes to one broker of all, and of instances that serve there to one. Clients hear
 * "Authorization Violation" alone; why stands in the log, the audit and muster_logins_refused_total{reason}. */
struct muster_logins {
    uint32_t size;
    uint32_t reserved;
    /* Have fn called for each login from now on; once. At most 16,384 wait to be answered, of more the server hears nothing, and the
     * clients try again. MUSTER_EEXIST: the instance serves already. [lane] */
    int (*serve)(const struct muster_host *host, muster_login_fn fn, void *arg);
    /* Let it in as that agent: the host writes the name into muster.credentials where it is new and refuses what contradicts what
     * stands there (a role that is another, a name that was revoked, no such tenant). MUSTER_EINVAL, with a reason, for what is no
     * name or no role: the login is still open then. MUSTER_ENOTFOUND: it is over. [lane] */
    int (*admit)(const struct muster_host *host, uint64_t id, const struct muster_admission *admission);
    /* code is a short stable word, [a-z_]{1,32}, that is counted ("expired"); why a sentence for the log, without secrets. MUSTER_ENOTFOUND
     * as above. [lane] */
    int (*refuse)(const struct muster_host *host, uint64_t id, const char *code, const char *why);
};

#define MUSTER_ROSTER "muster.roster/1" /* who is present; one copy in each broker, which the plugin presence keeps. Since 0.4 */

enum { /* what an agent says of itself */
    MUSTER_AGENT_ONLINE = 1,
    MUSTER_AGENT_BUSY = 2,
    MUSTER_AGENT_AWAY = 3,
};
enum { /* flags of an agent */
    MUSTER_AGENT_SUSPECT = 1u << 0, /* it may be gone: its NATS server is lost, or its beats are missing; it holds what it holds */
    MUSTER_AGENT_PULLS = 1u << 1,   /* delivery: pull */
    MUSTER_AGENT_ASKS = 1u << 2,    /* auto_accept: false */
};

/* One agent that is present. Borrowed. */
struct muster_agent {
    uint32_t size;
    uint32_t status; /* MUSTER_AGENT_ONLINE … */
    uint32_t flags;
    uint32_t capacity; /* tasks at once */
    double load;       /* as it said; NaN: it said none */
    uint64_t serial;   /* set by the roster: its place in the order of list(), of this broker's copy */
    const char *agent, *session;
    const char *name, *task; /* NULL: none */
    const char *const *capabilities;
    const struct muster_header *labels;
    uint32_t n_capabilities, n_labels;
    struct muster_bytes metadata; /* a JSON object, or empty */
    int64_t started_wall_ns;      /* of the session */
};

struct muster_roster_query { /* all that is said must hold */
    uint32_t size;
    uint32_t statuses;      /* bits 1 << MUSTER_AGENT_*; 0: any */
    uint32_t without_flags; /* none of these */
    uint32_t n_capabilities, n_labels;
    uint32_t limit; /* 0: all */
    const char *const *capabilities;
    const struct muster_header *labels;
    uint64_t after; /* the serial of the last one seen; 0: from the first */
};
/* Not 0: no more of them. It runs inside the call, under the roster's lock: it copies what it needs and calls nothing of the host but
 * codec and log. [any] */
typedef int (*muster_agent_fn)(void *arg, const struct muster_agent *agent);

enum {
    MUSTER_ROSTER_JOIN = 1,
    MUSTER_ROSTER_LEAVE = 2,
    MUSTER_ROSTER_STATUS = 3,  /* status, task, load or metadata changed, or it is suspect no longer */
    MUSTER_ROSTER_SUSPECT = 4,
    MUSTER_ROSTER_REPLACED = 5, /* another session of the same agent is in its place: what the old one held is free */
    MUSTER_ROSTER_RESET = 6,    /* agent NULL; tenant NULL: of all. Changes may have been missed: find() tells how it is */
};
struct muster_roster_change {
    uint32_t size;
    uint32_t kind;
    const struct muster_tenant *tenant;
    const char *agent, *session; /* session: with REPLACED and LEAVE the one that is over */
    const char *reason;          /* "disconnected", "timeout" …, cut to 31 bytes; NULL: none */
};
typedef void (*muster_roster_fn)(void *arg, const struct muster_roster_change *change); /* borrowed. [lane] */

struct muster_roster {
    uint32_t size;
    uint32_t reserved;
    /* The agent as fn's argument, inside this call. MUSTER_ENOTFOUND: it is not present here. [any] */
    int (*get)(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, muster_agent_fn fn, void *arg);
    /* Those that match, in the order of their serials; returns how many, or MUSTER_E*. fn NULL: only counted. Costs as much as the rarest
     * capability asked for has agents. Among very many, one that comes or goes meanwhile may show or not. [any] */
    int64_t (*find)(const struct muster_host *host, const struct muster_tenant *tenant, const struct muster_roster_query *query, muster_agent_fn fn,
                    void *arg);
    /* How many are present; by_status gets those of each status, [0] those that are suspect, whatever their status, and may be NULL. [any] */
    int64_t (*count)(const struct muster_host *host, const struct muster_tenant *tenant, int64_t by_status[4]);
    /* Have fn called for each change, on the lane, with lanes > 1 those of the lane's tenants; 4,096 may wait, and a RESET stands for what found no
     * room. The first call is a RESET. [lane] */
    int (*watch)(const struct muster_host *host, muster_roster_fn fn, void *arg, uint64_t *ret_id);
    void (*unwatch)(const struct muster_host *host, uint64_t id); /* [lane] */

    /* The rest needs the capability "presence", of which one plugin in a broker may make use: MUSTER_EEXIST from host->service() for a second.
     * kind is a MUSTER_ROSTER_* for those who watch; 0: nobody is told. An agent has at most 64 capabilities and 64 labels, and 16 KiB of text;
     * its name is a name, its session has at most 64 bytes. serial is not looked at. */
    int (*put)(const struct muster_host *host, const struct muster_tenant *tenant, uint32_t kind, const char *reason,
               const struct muster_agent *agent); /* new, or in place of what is there. [any] */
    int (*remove)(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, const char *reason); /* [any] */
    /* And tells a RESET; tenant NULL: of all. So does the end of the instance. [any] */
    int (*clear)(const struct muster_host *host, const struct muster_tenant *tenant);
};

#define MUSTER_TIMER "muster.timer/1"
struct muster_timer {
    uint32_t size;
    uint32_t reserved;
    /* Call fn on the lane every period_ns (> 0) until stop(). Late ticks coalesce into one. fn gets what create() put into
     * *ret_self. Times are rounded up to milliseconds. [lane] */
    int (*every)(const struct muster_host *host, int64_t period_ns, muster_timer_fn fn, uint64_t *ret_id);
    int (*once)(const struct muster_host *host, int64_t delay_ns, muster_timer_fn fn, uint64_t *ret_id); /* [lane] */
    void (*stop)(const struct muster_host *host, uint64_t id); /* of a timer that has run: no effect. [lane] */
    int64_t (*now)(const struct muster_host *host);            /* monotonic. [any] */
    int64_t (*wall_now)(const struct muster_host *host);       /* [any] */
};

#define MUSTER_IO "muster.io/1"
enum { MUSTER_READABLE = 1, MUSTER_WRITABLE = 2 };
typedef void (*muster_io_fn)(void *arg, uint32_t events); /* both bits after an error: reading or writing finds it. [lane] */
struct muster_io {
    uint32_t size;
    uint32_t reserved;
    /* Call fn while fd is ready for any of events (level, not edge); unwatch before you close it. [lane] */
    int (*watch)(const struct muster_host *host, int fd, uint32_t events, muster_io_fn fn, void *arg, uint64_t *ret_id);
    int (*change)(const struct muster_host *host, uint64_t id, uint32_t events); /* 0 pauses it. [lane] */
    void (*unwatch)(const struct muster_host *host, uint64_t id);                /* [lane] */
};

#define MUSTER_TENANT "muster.tenant/1"
struct muster_tenant_limits {
    uint32_t size;
    uint32_t encoding;          /* of events and changes: MUSTER_JSON or MUSTER_MSGPACK */
    int64_t requests_per_s;     /* 0: no limit; the broker enforces it before a plugin sees a request */
    int64_t burst;
};
typedef void (*muster_tenant_fn)(void *arg, const struct muster_tenant *tenant);
typedef void (*muster_tenant_found_fn)(void *arg, int code, const struct muster_tenant *tenant);
/* A row of muster.tables, which `muster publish` writes: how the rows of a table find their tenant. */
struct muster_table {
    uint32_t size;
    uint32_t subject_key;
    const char *schema, *table;
    const char *tenant_column, *tenant, *owner_column; /* NULL when not set */
};
typedef void (*muster_table_fn)(void *arg, const struct muster_table *table); /* [lane] */
struct muster_tenants {
    uint32_t size;
    uint32_t reserved;
    const char *(*name)(const struct muster_tenant *tenant); /* lives as long as the handle. [any] */
    int (*limits)(const struct muster_host *host, const struct muster_tenant *tenant,
                  struct muster_tenant_limits *limits); /* limits->size set by the caller. [any] */
    /* The rest needs the capability "cross_tenant" (MUSTER_EACCES, NULL): handles cannot be made, only found. each() and tables()
     * call fn before they return. */
    const struct muster_tenant *(*find)(const struct muster_host *host, const char *name, size_t len); /* NULL: not known here. [lane] */
    int (*each)(const struct muster_host *host, muster_tenant_fn fn, void *arg);                       /* by name. [lane] */
    /* Ask the database, because a tenant may have been added a moment ago: fn gets it, MUSTER_ENOTFOUND, or MUSTER_ELINK. [lane] */
    int (*refresh)(const struct muster_host *host, const char *name, size_t len, muster_tenant_found_fn fn, void *arg);
    /* The rows of muster.tables as last seen; serial changes when they do, and is 0 before they were read. [lane] */
    int (*tables)(const struct muster_host *host, muster_table_fn fn, void *arg, uint64_t *ret_serial);
    /* A limit of the tenant by its name: "watches" and the others of `muster tenant limits`, or "<service>.<name>" of a count that a
     * service of this broker declares in its definition (`limits`). -1: none, or no such name. Since 0.3. [any] */
    int64_t (*limit)(const struct muster_host *host, const struct muster_tenant *tenant, const char *name);
    /* Whether the subscriptions that an agent's role and narrowing give it cover a subject (what follows R.T.; wildcards cover what they match):
     * 0, MUSTER_EACCES, or MUSTER_ENOTFOUND for a name that this broker does not hold: one that has just asked is held. A plugin that asks
     * ("_p_<name>") may hear all. Since 0.4. [any] */
    int (*may_hear)(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, const char *subject);
};

#define MUSTER_CONFIG "muster.config/1"
struct muster_config {
    uint32_t size;
    uint32_t reserved;
    /* Where a key of this instance's config stands, "muster.yaml:41:9", for messages; NULL when it was not given. Of the configuration
     * in force: in reload() of the one before. Borrowed until the instance ends. [init] [lane] */
    const char *(*position)(const struct muster_host *host, const char *key);
};

#define MUSTER_METRICS "muster.metrics/1"
enum { MUSTER_COUNTER, MUSTER_GAUGE, MUSTER_HISTOGRAM };
struct muster_metrics {
    uint32_t size;
    uint32_t reserved;
    /* Make a metric muster_<plugin>_<name> with the labels plugin, instance and, where there are several, lane; and one more where
     * label is not NULL (its values come with add() and set(); at most 1,000 of them, then "other"). A histogram is of
     * durations: it takes nanoseconds, shows seconds, has buckets from 50 µs to 50 s and no label of its own. [init] */
    int (*make)(const struct muster_host *host, int type, const char *name, const char *help, const char *label,
                uint64_t *ret_metric);
    void (*add)(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t by);   /* [any] */
    void (*set)(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t to);   /* [any] */
    void (*observe)(const struct muster_host *host, uint64_t metric, int64_t ns);                        /* [any] */
};

#define MUSTER_SQL "muster.sql/1" /* needs the capability "sql" */
enum {
    MUSTER_SQL_READ,  /* one statement of its own */
    MUSTER_SQL_WRITE, /* group commit: a function that returns one jsonb outcome and never raises for reasons of data */
};
struct muster_sql_result {
    uint32_t size;
    int32_t code;        /* 0 or MUSTER_E*: EINVAL the server refused it, ETIME a lock, the statement or the wait for a connection
                          * took too long, EAGAIN the server lacks memory or disk, ELINK */
    const char *error;   /* one line, "" when code is 0 */
    const char *sqlstate; /* "" when the server did not say one */
    uint32_t n_rows, n_columns;
    /* NULL for SQL NULL; borrowed. [lane] */
    const char *(*get)(const struct muster_sql_result *result, uint32_t row, uint32_t column);
};
typedef void (*muster_sql_fn)(void *arg, const struct muster_sql_result *result); /* [lane] */
struct muster_sql {
    uint32_t size;
    uint32_t reserved;
    /* Register a statement with $1…$n text parameters. The same name again must mean the same statement. [init] */
    int (*prepare)(const struct muster_host *host, const char *name, int kind, const char *statement, uint64_t *ret_stmt);
    /* Run it with app.current_tenant set to tenant (NULL needs "cross_tenant": set to ''). A parameter whose data is NULL is SQL
     * NULL. order_key sorts the items of a group commit and should be the id of what is changed. fn runs exactly once when
     * this gave 0. MUSTER_EAGAIN when the queue is full, on_writable follows. [lane] */
    int (*exec)(const struct muster_host *host, uint64_t stmt, const struct muster_tenant *tenant, const char *order_key,
                uint32_t n_params, const struct muster_bytes *params, muster_sql_fn fn, void *arg);
};

#define MUSTER_CODEC "muster.codec/1"
/* A value of a decoded body. Nodes live until free_doc(). */
struct muster_value;
enum { MUSTER_NULL, MUSTER_BOOL, MUSTER_INT, MUSTER_FLOAT, MUSTER_STR, MUSTER_BIN, MUSTER_ARRAY, MUSTER_MAP };
struct muster_writer; /* opaque; one value after another, maps as key, value, key, value … */
/* Everything here is [any]: a document and a writer belong to one thread at a time. */
struct muster_codec {
    /* Every function here: [any]. A document and a writer have one user at a time. */
    uint32_t size;
    uint32_t reserved;
    /* Decode a whole body: at most 1,000,000 bytes, depth 32, 1,024 keys a map, 4,096 elements an array, no key twice.
     * MUSTER_EINVAL with a reason, kept as by host->fail(), that names the place. */
    int (*decode)(const struct muster_host *host, uint32_t encoding, struct muster_bytes body, struct muster_value **ret_doc);
    void (*free_doc)(struct muster_value *doc);
    int (*type)(const struct muster_value *v);
    size_t (*count)(const struct muster_value *v); /* elements of an array, keys of a map */
    const struct muster_value *(*at)(const struct muster_value *array, size_t i);
    const struct muster_value *(*key)(const struct muster_value *map, size_t i, const char **ret_key, size_t *ret_len);
    const struct muster_value *(*get)(const struct muster_value *map, const char *key); /* NULL: not there */
    int64_t (*as_int)(const struct muster_value *v);  /* 0 unless MUSTER_INT (BOOL: 0 or 1) */
    double (*as_float)(const struct muster_value *v); /* of INT and FLOAT */
    const char *(*as_str)(const struct muster_value *v, size_t *ret_len); /* STR and BIN; NULL otherwise */

    int (*writer_new)(const struct muster_host *host, uint32_t encoding, struct muster_writer **ret_writer);
    void (*writer_free)(struct muster_writer *w);
    void (*put_map)(struct muster_writer *w, size_t n_keys); /* followed by n_keys pairs */
    void (*put_array)(struct muster_writer *w, size_t n);
    void (*put_str)(struct muster_writer *w, const char *s, size_t len);
    void (*put_bin)(struct muster_writer *w, const void *data, size_t len);
    void (*put_int)(struct muster_writer *w, int64_t v);
    void (*put_float)(struct muster_writer *w, double v);
    void (*put_bool)(struct muster_writer *w, int v);
    void (*put_null)(struct muster_writer *w);
    void (*put_value)(struct muster_writer *w, const struct muster_value *v);
    /* The bytes so far; borrowed until the next put or free. MUSTER_EINVAL while a map or an array is not complete. */
    int (*bytes)(const struct muster_writer *w, struct muster_bytes *ret_bytes);
};

enum { /* types of options; what the member at `offset` is */
    MUSTER_T_BOOL,        /* int32_t */
    MUSTER_T_INT,         /* int64_t */
    MUSTER_T_FLOAT,       /* double */
    MUSTER_T_ENUM,        /* int32_t: the index in choices, from 0 */
    MUSTER_T_DURATION_NS, /* int64_t; written 250ms, 5s, 2m, 1h, 7d */
    MUSTER_T_BYTES,       /* int64_t; written 64KiB, 8MiB, 1GiB, or a plain number */
    MUSTER_T_STRING,      /* const char * */
    MUSTER_T_LIST,        /* struct muster_list */
    MUSTER_T_MAP,         /* struct muster_map: names to maps of the options in `fields` */
};
enum {
    MUSTER_O_REQUIRED = 1u << 0,   /* the start fails when it is not given */
    MUSTER_O_SECRET = 1u << 1,     /* shown nowhere */
    MUSTER_O_RELOADABLE = 1u << 2, /* reload() takes a change of it over; without this flag, or with UNIQUE or ONCE, a change waits for a
                                    * restart. Of a MAP: whatever changes in it; of its fields: their change alone */
    MUSTER_O_UNIQUE = 1u << 3,     /* STRING, outside of maps: no two instances of the plugin may have the same value */
    MUSTER_O_ONCE = 1u << 4,       /* outside of maps: one instance of the plugin at most may give it; an empty list is not given */
};

struct muster_list {
    const char *const *items;
    size_t n;
};

/* A map option: each entry is a struct of entry_size bytes, filled by the table `fields`. */
struct muster_map {
    const char *const *keys;
    const void *entries; /* n structs of entry_size bytes */
    size_t n;
};

/* One setting. The broker parses, checks and stores it in the config struct at offset before create() runs;
 * schemas/plugins/<name>.json is made from the table. A key with a dot, "unroutable.tenant", stands in the file as
 * `unroutable: {tenant: …}`; of a STRING whose key ends in _file the value is a path, seen from the configuration's folder.
 * def is what would stand in the file ("5s", "16MiB", "true"); of a LIST "a,b"; a MAP has none. */
struct muster_option {
    const char *key, *help, *def; /* def NULL: no default (zero, NULL, empty) */
    uint32_t type, flags;
    size_t offset;
    int64_t min, max;    /* inclusive, in the unit of the type (STRING, LIST: length); both 0: unchecked */
    const char *choices; /* ENUM: "never|always" */
    const struct muster_option *fields; /* MAP: the options of one entry */
    uint32_t n_fields, reserved;
    size_t entry_size;
};

/* A service that the plugin answers: R.T.rpc.A.<name>.<verb>. Requests reach the plugin by its subscriptions; those to a verb of the
 * list are checked against its definition before the plugin sees them, counted, and told by $SRV.INFO and `muster plugin list`. */
struct muster_service {
    uint32_t size;
    uint32_t reserved;
    const char *name;
    const char *verbs; /* "store search get", separated by blanks */
    const char *schema; /* definitions of the bodies, as in schemas/messages/ but in JSON; NULL: bodies are held to the limits only */
};

struct muster_plugin {
    uint32_t size;
    uint16_t abi_major, abi_minor; /* what the plugin was compiled against */
    const char *name, *version;
    const char *source_id;    /* a commit or build id, for crash reports; may be NULL */
    const char *capabilities; /* of "cross_tenant stream sql postgres system login presence", separated by blanks; NULL: none */
    const struct muster_option *options;
    uint32_t n_options, option_size; /* option_size: the stride of options */
    size_t config_size;
    const struct muster_service *services;
    uint32_t n_services, service_size;

    /* Build one instance: find services, make metrics, register statements. config is borrowed until destroy() returns. On failure
     * nothing of the instance may remain; destroy() is not called. [init] */
    int (*create)(const struct muster_host *host, const void *config, void **ret_self);
    int (*start)(void *self);                       /* subscribe, start timers. NATS may be away still. Once. [lane] */
    void (*drain)(void *self, int64_t deadline_ns); /* take no more, finish what is held; may be NULL. The broker waits until the
                                                     * deadline for requests that are held. [lane] */
    void (*destroy)(void *self);                    /* accepts NULL; joins the plugin's own threads. [lane] */
    /* The next three may be NULL, come after start(), and run on the lane. */
    void (*on_writable)(void *self);     /* what gave MUSTER_EAGAIN has room again: half of it is free. [lane] */
    void (*on_link)(void *self, int up); /* NATS is there (both links), or went away: what was on its way may be lost. [lane] */
    void (*on_tables)(void *self);       /* tenants or muster.tables changed, or were read for the first time. [lane] */
    /* Say whether the settings can be used, beyond what the option table says: 0, or an error with a reason by host->fail(). A reason
     * that begins with a key, "slot: …", "tables.public.orders.tenant: …", is told with the key's place in the file. Runs before
     * create(), at a reload beside the lanes of instances that run, and for `musterd --check`, where nothing is started: no side
     * effects, and of host only log, fail and the members that are values work. May be NULL. [init] */
    int (*check)(const struct muster_host *host, const void *config);
    /* Take over settings that have changed, all of options that are MUSTER_O_RELOADABLE and checked by check(). config is borrowed until
     * the next reload() or destroy() returns, and the one before it until this returns. On failure, with a reason by host->fail(),
     * the instance goes on with what it had. May be NULL: every change waits for a restart. [lane] */
    int (*reload)(void *self, const void *config);
    /* What the instance sends finds less and less room (an outbox or its statements are four fifths full): read less of what is read
     * from elsewhere. And: there is room again (half of it). An outbox is shared by all instances, and all are told, whoever has filled
     * it. The two take turns; what comes and goes while a callback runs is not told. May be NULL. [lane] */
    void (*on_pause)(void *self);
    void (*on_resume)(void *self);
};

/* Define the one exported function. Arguments are designated initialisers. */
#define MUSTER_PLUGIN(...)                                                                         \
    MUSTER_EXPORT const struct muster_plugin *muster_plugin_entry_v0(void);                        \
    const struct muster_plugin *muster_plugin_entry_v0(void)                                       \
    {                                                                                              \
        static const struct muster_plugin plugin = {                                               \
            .size = sizeof plugin,                                                                 \
            .abi_major = MUSTER_ABI_MAJOR,                                                         \
            .abi_minor = MUSTER_ABI_MINOR,                                                         \
            .option_size = sizeof(struct muster_option),                                           \
            .service_size = sizeof(struct muster_service),                                         \
            __VA_ARGS__};                                                                          \
        return &plugin;                                                                            \
    }                                                                                              \
    _Static_assert(MUSTER_ABI_MAJOR == 0, "muster_plugin_entry_v0 is major 0")

#ifdef __cplusplus
}
#endif
#endif
