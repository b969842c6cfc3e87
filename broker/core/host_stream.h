/*
 * core/host_stream.h - what the files of muster.stream/1 share: open streams, and messages as plugins see them. Lane only. Private to core/.
 */
#ifndef MUSTER_CORE_HOST_STREAM_H
#define MUSTER_CORE_HOST_STREAM_H

#include "base/name.h"
#include "core/host_js.h"

enum { HOST_STREAM_MAX_SUBJECT = 512 };

#define HOST_STREAM_HISTORY "MSG" /* what a tenant's agents said to each other: stream MSG_<tenant> */

struct handover_out;

struct host_stream {
    struct host_stream *next;
    uint64_t id;
    uint32_t replicas;
    bool attached;                      /* kept by others: nothing is appended */
    struct handover_out *own;           /* of what is appended here to followers in this broker; NULL: nothing is handed over */
    const struct muster_tenant *tenant; /* whose history it is; NULL: a stream of what is stored and then republished */
    char name[sizeof HOST_STREAM_HISTORY + 1 + NAME_MAX_LEN];
    char all[HOST_STREAM_MAX_SUBJECT]; /* the subject that matches every message of it */
};

struct host_stream *host_stream_find(struct instance *in, uint64_t id); /* NULL: it is closed */
/* Write which messages are meant: "" for all of them. On failure with a reason. */
int host_stream_wanted(struct instance *in, const struct host_stream *s, const struct muster_tenant *tenant, const char *subject,
                       char out[HOST_STREAM_MAX_SUBJECT]);
/* Borrowed from `from`. */
void host_stream_show(struct instance *in, const struct js_msg *from, struct muster_msg *to);

/* host_read.c */
int host_stream_last(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                     muster_stream_msg_fn fn, void *arg);
int host_stream_read(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                     uint64_t from_seq, uint32_t max_msgs, muster_stream_msg_fn fn, void *arg);
void host_read_close(struct instance *in, uint64_t stream); /* its reads end, soon */
void host_read_done(struct instance *in);

/* host_follow.c */
int host_stream_follow(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                       uint64_t from_seq, uint32_t max_msgs, muster_stream_follow_fn fn, void *arg, uint64_t *ret_follow);
void host_stream_unfollow(const struct muster_host *host, uint64_t follow);
void host_stream_hold_back(const struct muster_host *host, uint64_t follow, uint32_t on);
void host_follow_close(struct instance *in, uint64_t stream); /* 0: all streams */

#endif
