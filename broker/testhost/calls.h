/*
 * testhost/calls.h - every function of muster/plugin.h that a plugin calls: where it may be called, and how it can fail.
 */
#ifndef MUSTER_TESTHOST_CALLS_H
#define MUSTER_TESTHOST_CALLS_H

#include <muster/plugin.h>

enum { AT_ANY, AT_LANE, AT_BEGIN, AT_INIT, AT_CALLBACK }; /* BEGIN: on the lane, but not in create() */

/* name, what it is called, where, how it can fail. A CALLBACK is what the callback of the call before it is told. */
#define CALLS(X)                                                                                                       \
    X(HOST_LOG, "host.log", AT_ANY, 0)                                                                                 \
    X(HOST_FAIL, "host.fail", AT_ANY, 0)                                                                               \
    X(HOST_POST, "host.post", AT_ANY, MUSTER_EAGAIN, MUSTER_ENOMEM)                                                    \
    X(HOST_SERVICE, "host.service", AT_INIT, MUSTER_EABI, MUSTER_EACCES)                                               \
    X(HOST_HEALTH, "host.health", AT_ANY, 0)                                                                           \
    X(BUS_SUBSCRIBE, "bus.subscribe", AT_BEGIN, MUSTER_ENOMEM)                                                         \
    X(BUS_UNSUBSCRIBE, "bus.unsubscribe", AT_LANE, 0)                                                                  \
    X(BUS_PUBLISH, "bus.publish", AT_ANY, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                  \
    X(BUS_PUBLISH_CB, "bus.publish:callback", AT_CALLBACK, MUSTER_ELINK)                                               \
    X(BUS_REQUEST, "bus.request", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                \
    X(BUS_REQUEST_CB, "bus.request:callback", AT_CALLBACK, MUSTER_ETIME, MUSTER_ENOTFOUND, MUSTER_ELINK)               \
    X(BUS_REPLY, "bus.reply", AT_ANY, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                      \
    X(BUS_REPLY_ERROR, "bus.reply_error", AT_ANY, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                          \
    X(BUS_HOLD, "bus.hold", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ENOMEM)                                                    \
    X(BUS_DROP, "bus.drop", AT_ANY, 0)                                                                                 \
    X(BUS_PAUSE, "bus.pause", AT_LANE, 0)                                                                              \
    X(STREAM_OPEN, "stream.open", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                \
    X(STREAM_OPEN_CB, "stream.open:callback", AT_CALLBACK, MUSTER_EEXIST, MUSTER_ETIME, MUSTER_ELINK)                  \
    X(STREAM_CLOSE, "stream.close", AT_LANE, 0)                                                                        \
    X(STREAM_INFO, "stream.info", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                \
    X(STREAM_INFO_CB, "stream.info:callback", AT_CALLBACK, MUSTER_ENOTFOUND, MUSTER_ETIME, MUSTER_ELINK)               \
    X(STREAM_LAST, "stream.last", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                \
    X(STREAM_LAST_CB, "stream.last:callback", AT_CALLBACK, MUSTER_ENOTFOUND, MUSTER_ETIME, MUSTER_ELINK)               \
    X(STREAM_APPEND, "stream.append", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ESTALE, MUSTER_ENOMEM)             \
    X(STREAM_APPEND_CB, "stream.append:callback", AT_CALLBACK, MUSTER_ESTALE, MUSTER_ENOTFOUND, MUSTER_ENOMEM,         \
      MUSTER_ETIME, MUSTER_ELINK)                                                                                      \
    X(STREAM_READ, "stream.read", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                \
    X(STREAM_READ_CB, "stream.read:callback", AT_CALLBACK, MUSTER_ETIME, MUSTER_ELINK)                                 \
    X(STREAM_ATTACH, "stream.attach", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                            \
    X(STREAM_ATTACH_CB, "stream.attach:callback", AT_CALLBACK, MUSTER_ETIME, MUSTER_ELINK)                             \
    X(STREAM_FOLLOW, "stream.follow", AT_BEGIN, MUSTER_ELINK, MUSTER_ENOMEM)                                           \
    X(STREAM_FOLLOW_CB, "stream.follow:callback", AT_CALLBACK, MUSTER_ELINK)                                           \
    X(STREAM_UNFOLLOW, "stream.unfollow", AT_LANE, 0)                                                                  \
    X(STREAM_HOLD_BACK, "stream.hold_back", AT_LANE, 0)                                                                \
    X(KV_GET, "kv.get", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                          \
    X(KV_GET_CB, "kv.get:callback", AT_CALLBACK, MUSTER_ENOTFOUND, MUSTER_ETIME, MUSTER_ELINK)                         \
    X(KV_PUT, "kv.put", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ESTALE, MUSTER_ENOMEM)                           \
    X(KV_PUT_CB, "kv.put:callback", AT_CALLBACK, MUSTER_ESTALE, MUSTER_ETIME, MUSTER_ELINK)                            \
    X(KV_DEL, "kv.del", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                          \
    X(KV_DEL_CB, "kv.del:callback", AT_CALLBACK, MUSTER_ESTALE, MUSTER_ETIME, MUSTER_ELINK)                            \
    X(KV_SCAN, "kv.scan", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                        \
    X(KV_SCAN_CB, "kv.scan:callback", AT_CALLBACK, MUSTER_ETIME, MUSTER_ELINK)                                         \
    X(LEASE_ACQUIRE, "lease.acquire", AT_BEGIN, MUSTER_ENOMEM)                                                         \
    X(LEASE_RELEASE, "lease.release", AT_LANE, 0)                                                                      \
    X(LEASE_EPOCH, "lease.epoch", AT_LANE, 0)                                                                          \
    X(SYS_WATCH, "sys.watch", AT_BEGIN, MUSTER_ENOMEM)                                                                 \
    X(SYS_UNWATCH, "sys.unwatch", AT_LANE, 0)                                                                          \
    X(SYS_LIST, "sys.list", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                      \
    X(SYS_LIST_CB, "sys.list:callback", AT_CALLBACK, MUSTER_ETIME, MUSTER_ELINK)                                       \
    X(SYS_KICK, "sys.kick", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM)                                      \
    X(SYS_KICK_CB, "sys.kick:callback", AT_CALLBACK, MUSTER_ENOTFOUND, MUSTER_EABI, MUSTER_ELINK)                      \
    X(ROSTER_GET, "roster.get", AT_ANY, 0)                                                                             \
    X(ROSTER_FIND, "roster.find", AT_ANY, 0)                                                                           \
    X(ROSTER_COUNT, "roster.count", AT_ANY, 0)                                                                         \
    X(ROSTER_WATCH, "roster.watch", AT_BEGIN, MUSTER_ENOMEM)                                                           \
    X(ROSTER_UNWATCH, "roster.unwatch", AT_LANE, 0)                                                                    \
    X(ROSTER_PUT, "roster.put", AT_ANY, MUSTER_ENOMEM)                                                                 \
    X(ROSTER_REMOVE, "roster.remove", AT_ANY, 0)                                                                       \
    X(ROSTER_CLEAR, "roster.clear", AT_ANY, 0)                                                                         \
    X(TIMER_EVERY, "timer.every", AT_BEGIN, MUSTER_ENOMEM)                                                             \
    X(TIMER_ONCE, "timer.once", AT_BEGIN, MUSTER_ENOMEM)                                                               \
    X(TIMER_STOP, "timer.stop", AT_LANE, 0)                                                                            \
    X(TIMER_NOW, "timer.now", AT_ANY, 0)                                                                               \
    X(TIMER_WALL_NOW, "timer.wall_now", AT_ANY, 0)                                                                     \
    X(IO_WATCH, "io.watch", AT_BEGIN, MUSTER_ENOMEM)                                                                   \
    X(IO_CHANGE, "io.change", AT_LANE, 0)                                                                              \
    X(IO_UNWATCH, "io.unwatch", AT_LANE, 0)                                                                            \
    X(TENANT_NAME, "tenant.name", AT_ANY, 0)                                                                           \
    X(TENANT_LIMITS, "tenant.limits", AT_ANY, 0)                                                                       \
    X(TENANT_LIMIT, "tenant.limit", AT_ANY, 0)                                                                         \
    X(TENANT_MAY_HEAR, "tenant.may_hear", AT_ANY, MUSTER_ENOTFOUND)                                                    \
    X(TENANT_FIND, "tenant.find", AT_LANE, 0)                                                                          \
    X(TENANT_EACH, "tenant.each", AT_LANE, 0)                                                                          \
    X(TENANT_REFRESH, "tenant.refresh", AT_BEGIN, MUSTER_ENOMEM)                                                       \
    X(TENANT_REFRESH_CB, "tenant.refresh:callback", AT_CALLBACK, MUSTER_ENOTFOUND, MUSTER_ELINK)                       \
    X(TENANT_TABLES, "tenant.tables", AT_LANE, 0)                                                                      \
    X(CONFIG_POSITION, "config.position", AT_LANE, 0)                                                                  \
    X(METRICS_MAKE, "metrics.make", AT_INIT, MUSTER_EAGAIN, MUSTER_EEXIST)                                             \
    X(METRICS_ADD, "metrics.add", AT_ANY, 0)                                                                           \
    X(METRICS_SET, "metrics.set", AT_ANY, 0)                                                                           \
    X(METRICS_OBSERVE, "metrics.observe", AT_ANY, 0)                                                                   \
    X(SQL_PREPARE, "sql.prepare", AT_INIT, MUSTER_ENOMEM)                                                              \
    X(SQL_EXEC, "sql.exec", AT_BEGIN, MUSTER_EAGAIN, MUSTER_ENOMEM)                                                    \
    X(SQL_EXEC_CB, "sql.exec:callback", AT_CALLBACK, MUSTER_EINVAL, MUSTER_ETIME, MUSTER_EAGAIN, MUSTER_ELINK)         \
    X(CODEC_DECODE, "codec.decode", AT_ANY, MUSTER_ENOMEM)                                                             \
    X(CODEC_FREE_DOC, "codec.free_doc", AT_ANY, 0)                                                                     \
    X(CODEC_WRITER_NEW, "codec.writer_new", AT_ANY, MUSTER_ENOMEM)                                                     \
    X(CODEC_WRITER_FREE, "codec.writer_free", AT_ANY, 0)                                                               \
    X(CODEC_BYTES, "codec.bytes", AT_ANY, 0)

#define CALL_ID(id, name, where, ...) CALL_##id,
enum { CALLS(CALL_ID) N_CALLS };
#undef CALL_ID

struct call {
    const char *name;
    int where;
    int codes[6]; /* ended by 0 */
};
extern const struct call calls[N_CALLS];

#endif
