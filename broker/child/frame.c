/* Frames; see frame.h. Both ends run on one machine and are one program: numbers go as they lie in memory. */
#include "child/frame.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frame.h says little-endian");

struct header {
    uint32_t len; /* of what follows this member */
    uint16_t type, zero;
    uint64_t id;
};
_Static_assert(sizeof(struct header) == FRAME_HEADER, "frame.h says so");

/* ---- writing -------------------------------------------------------------------------------------------------------------------- */

struct frame frame_begin(struct buf *buf, uint16_t type, uint64_t id)
{
    const struct header header = {.type = type, .id = id};
    struct frame f = {.buf = buf, .start = buf->len};

    buf_put(buf, &header, sizeof header);
    return f;
}

int frame_end(struct frame *f)
{
    size_t len = f->buf->len - f->start;
    uint32_t behind = (uint32_t)(len - sizeof behind);
    int err = buf_failed(f->buf) ? MUSTER_ENOMEM : len > FRAME_MAX ? MUSTER_EINVAL : 0;

    if (err) {
        f->buf->len = f->start;
        f->buf->failed = false;
    } else {
        memcpy(f->buf->data + f->start, &behind, sizeof behind);
    }
    return err;
}

void frame_put_u8(struct frame *f, uint8_t v)
{
    buf_put(f->buf, &v, sizeof v);
}

void frame_put_u32(struct frame *f, uint32_t v)
{
    buf_put(f->buf, &v, sizeof v);
}

void frame_put_u64(struct frame *f, uint64_t v)
{
    buf_put(f->buf, &v, sizeof v);
}

void frame_put_i32(struct frame *f, int32_t v)
{
    buf_put(f->buf, &v, sizeof v);
}

void frame_put_i64(struct frame *f, int64_t v)
{
    buf_put(f->buf, &v, sizeof v);
}

void frame_put_f64(struct frame *f, double v)
{
    buf_put(f->buf, &v, sizeof v);
}

/* What is longer than a frame is cut there, and frame_end() refuses it. */
static uint32_t length_of(size_t len)
{
    return len < FRAME_MAX ? (uint32_t)len : FRAME_MAX;
}

void frame_put_str(struct frame *f, const char *s)
{
    uint32_t len = s ? length_of(strlen(s)) : FRAME_NULL;

    frame_put_u32(f, len);
    if (!s)
        return;
    buf_put(f->buf, s, len);
    frame_put_u8(f, 0);
}

void frame_put_bytes(struct frame *f, struct muster_bytes bytes)
{
    uint32_t len = length_of(bytes.len);

    frame_put_u32(f, len);
    buf_put(f->buf, bytes.data, len);
}

void frame_put_headers(struct frame *f, const struct muster_header *headers, uint32_t n)
{
    frame_put_u32(f, n);
    for (uint32_t i = 0; i < n; i++) {
        frame_put_str(f, headers[i].name);
        frame_put_str(f, headers[i].value);
    }
}

/* ---- reading -------------------------------------------------------------------------------------------------------------------- */

int frame_peek(const void *data, size_t len, struct frame_reader *ret_reader, size_t *ret_len)
{
    struct header header;
    size_t whole;

    if (len < sizeof header)
        return 0;
    memcpy(&header, data, sizeof header);
    whole = (size_t)header.len + sizeof header.len;
    if (whole < sizeof header || whole > FRAME_MAX || !header.type || header.type >= FRAME_N_TYPES || header.zero)
        return MUSTER_EINVAL;
    if (len < whole)
        return 0;
    *ret_len = whole;
    *ret_reader = (struct frame_reader){.type = header.type,
                                        .id = header.id,
                                        .at = (const unsigned char *)data + sizeof header,
                                        .end = (const unsigned char *)data + whole};
    return 1;
}

/* NULL, and bad, where fewer than len bytes are left. */
static const void *take(struct frame_reader *r, size_t len)
{
    const void *at = r->at;

    if (r->bad || (size_t)(r->end - r->at) < len) {
        r->bad = true;
        return NULL;
    }
    r->at += len;
    return at;
}

/* out keeps its zeros once bad. */
static void take_into(struct frame_reader *r, void *out, size_t len)
{
    const void *at = take(r, len);

    if (at)
        memcpy(out, at, len);
}

uint8_t frame_get_u8(struct frame_reader *r)
{
    uint8_t v = 0;

    take_into(r, &v, sizeof v);
    return v;
}

uint32_t frame_get_u32(struct frame_reader *r)
{
    uint32_t v = 0;

    take_into(r, &v, sizeof v);
    return v;
}

uint64_t frame_get_u64(struct frame_reader *r)
{
    uint64_t v = 0;

    take_into(r, &v, sizeof v);
    return v;
}

int32_t frame_get_i32(struct frame_reader *r)
{
    int32_t v = 0;

    take_into(r, &v, sizeof v);
    return v;
}

int64_t frame_get_i64(struct frame_reader *r)
{
    int64_t v = 0;

    take_into(r, &v, sizeof v);
    return v;
}

double frame_get_f64(struct frame_reader *r)
{
    double v = 0;

    take_into(r, &v, sizeof v);
    return v;
}

const char *frame_get_str(struct frame_reader *r)
{
    uint32_t len = frame_get_u32(r);
    const char *s;

    if (r->bad || len == FRAME_NULL)
        return NULL;
    s = take(r, (size_t)len + 1);
    if (s && (s[len] != '\0' || memchr(s, '\0', len)))
        r->bad = true;
    return r->bad ? NULL : s;
}

struct muster_bytes frame_get_bytes(struct frame_reader *r)
{
    uint32_t len = frame_get_u32(r);
    const void *data = take(r, len);

    return (struct muster_bytes){data, data ? len : 0};
}

uint32_t frame_get_headers(struct frame_reader *r, struct muster_header *out, uint32_t max)
{
    uint32_t n = frame_get_count(r, 2 * (sizeof(uint32_t) + 1)), kept = 0;

    for (uint32_t i = 0; i < n && !r->bad; i++) {
        struct muster_header header = {.name = frame_get_str(r)};

        header.value = frame_get_str(r);
        r->bad |= !header.name || !header.value;
        if (!r->bad && kept < max)
            out[kept++] = header;
    }
    return r->bad ? 0 : kept;
}

uint32_t frame_get_count(struct frame_reader *r, size_t least)
{
    uint32_t n = frame_get_u32(r);

    if (n > (size_t)(r->end - r->at) / least)
        r->bad = true;
    return r->bad ? 0 : n;
}

bool frame_is_read(const struct frame_reader *r)
{
    return !r->bad && r->at == r->end;
}

const char *frame_name(uint16_t type)
{
    static const char *const names[FRAME_N_TYPES] = {
        [FRAME_SANDBOX] = "sandbox", [FRAME_HELLO] = "hello", [FRAME_REFUSED] = "refused", [FRAME_SETTINGS] = "settings", [FRAME_CHECK] = "check",
        [FRAME_CHECKED] = "checked", [FRAME_CREATE] = "create", [FRAME_CREATED] = "created", [FRAME_START] = "start",
        [FRAME_STARTED] = "started", [FRAME_RELOAD] = "reload", [FRAME_RELOADED] = "reloaded", [FRAME_DRAIN] = "drain",
        [FRAME_DRAINED] = "drained", [FRAME_DESTROY] = "destroy", [FRAME_GONE] = "gone", [FRAME_PING] = "ping", [FRAME_PONG] = "pong",
        [FRAME_STALLED] = "stalled", [FRAME_ON_LINK] = "on_link", [FRAME_ON_WRITABLE] = "on_writable", [FRAME_ON_TABLES] = "on_tables",
        [FRAME_ON_PAUSE] = "on_pause", [FRAME_ON_RESUME] = "on_resume", [FRAME_TENANT] = "tenant", [FRAME_TABLE] = "table",
        [FRAME_REFRESH] = "refresh", [FRAME_FOUND] = "found", [FRAME_LOG] = "log", [FRAME_HEALTH] = "health",
        [FRAME_METRIC_MAKE] = "metric_make", [FRAME_METRIC] = "metric", [FRAME_SUBSCRIBE] = "subscribe",
        [FRAME_UNSUBSCRIBE] = "unsubscribe", [FRAME_PAUSE] = "pause", [FRAME_MSG] = "msg", [FRAME_DONE] = "done", [FRAME_DROP] = "drop",
        [FRAME_REPLY] = "reply", [FRAME_REPLY_ERROR] = "reply_error", [FRAME_PUBLISH] = "publish", [FRAME_SENT] = "sent",
        [FRAME_REQUEST] = "request", [FRAME_ANSWER] = "answer", [FRAME_STREAM_OPEN] = "stream_open", [FRAME_STREAM_CLOSE] = "stream_close",
        [FRAME_STREAM_INFO] = "stream_info", [FRAME_STREAM_LAST] = "stream_last", [FRAME_STREAM_READ] = "stream_read",
        [FRAME_APPEND] = "append", [FRAME_INFO] = "info", [FRAME_STORED] = "stored", [FRAME_APPENDED] = "appended",
        [FRAME_KV_GET] = "kv_get", [FRAME_KV_PUT] = "kv_put", [FRAME_KV_DEL] = "kv_del", [FRAME_KV_SCAN] = "kv_scan",
        [FRAME_VALUE] = "value", [FRAME_ENTRY] = "entry", [FRAME_LEASE] = "lease", [FRAME_LEASE_RELEASE] = "lease_release",
        [FRAME_LEASE_GOT] = "lease_got", [FRAME_LEASE_LOST] = "lease_lost", [FRAME_SYS_WATCH] = "sys_watch",
        [FRAME_SYS_UNWATCH] = "sys_unwatch", [FRAME_SYS_EVENT] = "sys_event", [FRAME_SYS_LIST] = "sys_list",
        [FRAME_SYS_LISTED] = "sys_listed", [FRAME_SYS_KICK] = "sys_kick"};

    return type < FRAME_N_TYPES && names[type] ? names[type] : "?";
}
