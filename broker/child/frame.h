/*
 * child/frame.h - what a broker and the child of one plugin say to each other over their socket pair.
 *
 * Shape    A frame is a header {u32 length of what follows, u16 type, u16 0, u64 id} and its fields one after another, in the order told
 *          beside its type. Numbers are little-endian, as both ends are one machine; str: u32 length, bytes, NUL; bytes: u32
 *          length, bytes; list of X: u32 count, then each. An absent str is told by the length FRAME_NULL.
 * Trust    The parent believes nothing: frame_get_*() never read past the frame, and set `bad` on what is cut, too long or not a string; a
 *          frame that is bad, or comes when it may not, ends the child. FRAME_MAX bounds one frame, child/pipe.h all that wait.
 * Ids      `id` is of the thing that the frame is about, counted by who makes it: the child counts subscriptions, calls, streams, leases
 *          and metrics, the parent messages and tenants. A call is answered by exactly one CALL_DONE-like frame (the table says
 *          which), but for scans and listings, whose last frame says so.
 * Order    Frames arrive in the order in which they were sent.
 * Threads  A writer or a reader belongs to one thread at a time.
 */
#ifndef MUSTER_CHILD_FRAME_H
#define MUSTER_CHILD_FRAME_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum {
    FRAME_VERSION = 2,
    FRAME_HEADER = 16,
    FRAME_MAX = 2 << 20, /* header and fields: a body of 1,000,000 bytes, 32 KiB of headers, and the rest */
};
#define FRAME_NULL UINT32_MAX
enum { FRAME_METRIC_ADD, FRAME_METRIC_SET, FRAME_METRIC_OBSERVED };

/* msg: u32 encoding, u64 tenant (0: none), str agent, str subject, str service, str verb, list of headers {str name, str value},
 *      u8 wants_answer, bytes payload, i64 recv_ns, u64 seq, u32 role.
 * out: u64 tenant, str subject, list of headers, bytes payload.
 * settings: the values of the option table in its order (child/describe.h). */
enum frame_type {
    /* ---- the life of the child. The parent begins. ---- */
    FRAME_SANDBOX = 1, /* P: u32 FRAME_VERSION, str file, then the walls (child/sandbox.h), which the child builds before it loads the file */
    FRAME_HELLO,      /* C: u32 FRAME_VERSION, u32 what the kernel lacks (SANDBOX_* bits), then the descriptor (child/describe.h) */
    FRAME_REFUSED,    /* C: i32 code, str why: the file does not load; the child ends */
    FRAME_SETTINGS,   /* P: str instance, u32 lane, u32 n_lanes, str broker_id, str root, str postgres_dsn, list of granted capabilities (str), list of
                       * subscribe patterns, list of publish patterns, list of {str key, str position}, settings; to check() and create() */
    FRAME_CHECK,      /* P: nothing. Run check() */
    FRAME_CHECKED,    /* C: i32 code, str reason */
    FRAME_CREATE,     /* P: nothing. Run create(); METRIC_MAKE and the like may come before the answer */
    FRAME_CREATED,    /* C: i32 code, str reason */
    FRAME_START,      /* P: nothing */
    FRAME_STARTED,    /* C: i32 code, str reason */
    FRAME_RELOAD,     /* P: list of {str key, str position}, settings */
    FRAME_RELOADED,   /* C: i32 code, str reason */
    FRAME_DRAIN,      /* P: i64 deadline_ns, of the clock that both share (CLOCK_MONOTONIC) */
    FRAME_DRAINED,    /* C: nothing: drain() has returned; what is held is still answered */
    FRAME_DESTROY,    /* P: nothing. Open calls end with MUSTER_ELINK, then destroy() */
    FRAME_GONE,       /* C: nothing; the child ends with code 0 */
    FRAME_PING,       /* P: id counts */
    FRAME_PONG,       /* C: the id of the PING; sent by the lane itself, so a lane that hangs does not answer */
    FRAME_STALLED,    /* C, from its watching thread: str callback, str subject, i64 busy_ns; while a callback runs for longer than WATCH_WARN_NS */

    /* ---- told to the plugin ---- */
    FRAME_ON_LINK,     /* P: u8 up */
    FRAME_ON_WRITABLE, /* P */
    FRAME_ON_TABLES,   /* P: u64 serial of the tables, 0: not told. Behind the TENANT frames; with the capability cross_tenant, where the serial
                        * is new, also behind all TABLE frames of it */
    FRAME_ON_PAUSE,    /* P */
    FRAME_ON_RESUME,   /* P */

    /* ---- tenants ---- */
    FRAME_TENANT,      /* P: id: tenant; str name, u32 encoding, i64 requests_per_s, i64 burst, u8 known, list of i64 (child/limits.h): before a
                        * tenant is named first, and when it changes. known 0: removed from the registry */
    FRAME_TABLE,       /* P: u64 serial, str schema, str table, str tenant_column, str tenant, str owner_column, u32 subject_key */
    FRAME_REFRESH,     /* C: id: call; str name. Answer: FOUND */
    FRAME_FOUND,       /* P: id: call; i32 code, u64 tenant */

    /* ---- core table ---- */
    FRAME_LOG,         /* C: u32 level, str text */
    FRAME_HEALTH,      /* C: u32 state, str code, str text */
    FRAME_METRIC_MAKE, /* C: id: metric; u32 type, str name, str help, str label */
    FRAME_METRIC,      /* C: id: metric; u32 op (FRAME_METRIC_*), str label value, i64 number, list of counts (u64): what has gathered since
                        * the last. Counts, one a bucket and not summed up, are a histogram's; its number is the sum in nanoseconds */

    /* ---- bus ---- */
    FRAME_SUBSCRIBE,   /* C: id: subscription; u32 overflow, str subject, u32 max_msgs, u32 queue, u64 max_bytes */
    FRAME_UNSUBSCRIBE, /* C: id: subscription */
    FRAME_PAUSE,       /* C: u8 on */
    FRAME_MSG,         /* P: id: message; u64 subscription, msg */
    FRAME_DONE,        /* C: id: message; i32 code of the callback, u8 held. Every MSG gets one. With held the parent keeps it until DROP */
    FRAME_DROP,        /* C: id: message */
    FRAME_REPLY,       /* C: id: message; bytes payload. Once; later ones are ignored */
    FRAME_REPLY_ERROR, /* C: id: message; str code, str field, str message */
    FRAME_PUBLISH,     /* C: id: call, 0: nobody waits; out, str reply. Answer, unless 0: SENT */
    FRAME_SENT,        /* P: id: call; i32 code */
    FRAME_REQUEST,     /* C: id: call; i64 timeout_ns, out. Answer: ANSWER */
    FRAME_ANSWER,      /* P: id: call; i32 code, then where it is 0: msg */

    /* ---- streams; id: call, but for OPEN and CLOSE, which name the stream ---- */
    FRAME_STREAM_OPEN,  /* C: id: stream; u64 call, str name, str subjects, u32 replicas, i64 max_age_ns, i64 max_bytes, i64 max_msgs,
                         * i64 max_msgs_per_subject. Answer: INFO */
    FRAME_STREAM_CLOSE, /* C: id: stream */
    FRAME_STREAM_INFO,  /* C: u64 stream. Answer: INFO */
    FRAME_STREAM_LAST,  /* C: u64 stream, u64 tenant, str subject. Answer: STORED, once */
    FRAME_STREAM_READ,  /* C: u64 stream, u64 tenant, str subject, u64 from_seq, u32 max_msgs. Answer: STORED, the last with more = 0 */
    FRAME_APPEND,       /* C: id: call, 0: nobody waits; u64 stream, out, u64 expected_seq, u64 lease. Answer, unless 0: APPENDED */
    FRAME_INFO,         /* P: i32 code, str reason, u64 first_seq, u64 last_seq, u64 n_msgs, u64 n_bytes, i64 created_wall_ns */
    FRAME_STORED,       /* P: i32 code, u8 has_msg, u8 more, then where has_msg: msg */
    FRAME_APPENDED,     /* P: i32 code, u64 seq */

    /* ---- kv ---- */
    FRAME_KV_GET,  /* C: id: call; u64 tenant, str key. Answer: VALUE */
    FRAME_KV_PUT,  /* C: id: call; u64 tenant, str key, bytes value, u64 revision, i64 ttl_ns, u64 lease. Answer: VALUE */
    FRAME_KV_DEL,  /* C: id: call; u64 tenant, str key, u64 revision. Answer: VALUE */
    FRAME_KV_SCAN, /* C: id: call; u64 tenant, str prefix. Answer: ENTRY, the last with more = 0 */
    FRAME_VALUE,   /* P: id: call; i32 code, str reason, bytes value, u64 revision */
    FRAME_ENTRY,   /* P: id: call; i32 code, u8 more, then where more: str key, bytes value, u64 revision, i64 expires_wall_ns */

    /* ---- leases; id: lease ---- */
    FRAME_LEASE,         /* C: str name, i64 ttl_ns: contend */
    FRAME_LEASE_RELEASE, /* C */
    FRAME_LEASE_GOT,     /* P: u64 epoch, i64 until_ns: CLOCK_BOOTTIME, and soon; told again twice a second while it is held */
    FRAME_LEASE_LOST,    /* P: i32 code */

    /* ---- sys; connection: u32 kind, u64 tenant, str agent, str server, u64 client, str name, str reason, i64 at_wall_ns ---- */
    FRAME_SYS_WATCH,   /* C: id: watch */
    FRAME_SYS_UNWATCH, /* C: id: watch */
    FRAME_SYS_EVENT,   /* P: id: watch; connection */
    FRAME_SYS_LIST,    /* C: id: call. Answer: SYS_LISTED, the last with more = 0 */
    FRAME_SYS_LISTED,  /* P: id: call; i32 code, u8 more, then where more: connection */
    FRAME_SYS_KICK,    /* C: id: call; str server, u64 client. Answer: SENT */

    FRAME_N_TYPES,
};

/* One frame being written, at the end of a buffer that may hold others before it. */
struct frame {
    struct buf *buf;
    size_t start;
};

struct frame_reader {
    uint16_t type;
    uint64_t id;
    bool bad; /* what was asked for is not there */
    const unsigned char *at, *end;
};

struct frame frame_begin(struct buf *buf, uint16_t type, uint64_t id);
/* Fill in the length. MUSTER_EINVAL: longer than FRAME_MAX; MUSTER_ENOMEM: the buffer could not grow. Either way the frame is taken off the
 * buffer again, and the buffer is usable. */
int frame_end(struct frame *f);
void frame_put_u8(struct frame *f, uint8_t v);
void frame_put_u32(struct frame *f, uint32_t v);
void frame_put_u64(struct frame *f, uint64_t v);
void frame_put_i32(struct frame *f, int32_t v);
void frame_put_i64(struct frame *f, int64_t v);
void frame_put_f64(struct frame *f, double v);
void frame_put_str(struct frame *f, const char *s); /* NULL may be */
void frame_put_bytes(struct frame *f, struct muster_bytes bytes);
void frame_put_headers(struct frame *f, const struct muster_header *headers, uint32_t n);

/* Look at the first frame of len bytes: 1 and *ret_reader, its whole length in *ret_len; 0: it is not whole yet; MUSTER_EINVAL: this is no
 * frame (its length or type). */
int frame_peek(const void *data, size_t len, struct frame_reader *ret_reader, size_t *ret_len);
/* Zero, "" or NULL once bad. Strings and bytes are borrowed from the frame. A string holds no NUL but its last byte. */
uint8_t frame_get_u8(struct frame_reader *r);
uint32_t frame_get_u32(struct frame_reader *r);
uint64_t frame_get_u64(struct frame_reader *r);
int32_t frame_get_i32(struct frame_reader *r);
int64_t frame_get_i64(struct frame_reader *r);
double frame_get_f64(struct frame_reader *r);
const char *frame_get_str(struct frame_reader *r); /* NULL: absent, or bad */
struct muster_bytes frame_get_bytes(struct frame_reader *r);
/* At most max of them are kept in out, all are read; the count kept. */
uint32_t frame_get_headers(struct frame_reader *r, struct muster_header *out, uint32_t max);
/* The count of a list of which each takes at least least bytes: bad when it cannot be. */
uint32_t frame_get_count(struct frame_reader *r, size_t least);
/* True when every field was there and nothing is left over. */
bool frame_is_read(const struct frame_reader *r);
const char *frame_name(uint16_t type); /* "reply", for messages; "?" when there is none */

#endif
