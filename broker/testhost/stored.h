/*
 * testhost/stored.h - the streams of a test host and what is in them; beside stream.c and follow.c. Lane only.
 */
#ifndef MUSTER_TESTHOST_STORED_H
#define MUSTER_TESTHOST_STORED_H

#include "testhost/inside.h"

#define HISTORY "MSG" /* what a tenant's agents said to each other: stream MSG_<tenant> */

struct stream {
    char *name, *subjects, *republish;
    struct list msgs; /* of struct sent, NULL where one is gone; the one of sequence n is at n - first_seq */
    uint64_t first_seq, last_seq, n_msgs, n_bytes;
    int64_t max_msgs, max_msgs_per_subject; /* 0: unlimited */
    int64_t created_wall_ns;
    uint64_t number; /* tells one made anew */
};

struct handle {
    uint64_t id;
    char *name, *subjects, *republish;
    int64_t max_msgs, max_msgs_per_subject;
    bool attached;                      /* kept by others */
    const struct muster_tenant *tenant; /* whose history it is */
};

struct stream *stream_named(struct muster_test *t, const char *name); /* NULL: there is none */
struct handle *handle_find(struct muster_test *t, uint64_t id);       /* NULL: it is closed */
struct handle *handle_need(struct muster_test *t, int call, uint64_t stream, bool fn); /* NULL: told; fn: one was given */
void handle_drop(struct muster_test *t, size_t i); /* of the list */
struct stream *stream_make(struct muster_test *t, const char *name, const char *subjects);
/* NULL: it is gone, or was never there. */
struct sent *stream_at(const struct stream *s, uint64_t seq);
/* pattern "acme.cdc.>", NULL: all; m may be NULL, which nothing has. */
bool stream_has(const char *pattern, const struct sent *m);
void stream_store(struct muster_test *t, struct stream *s, struct sent *m);
void stream_keep(struct muster_test *t, struct stream *s); /* drop what is beyond its bounds */
void stream_show(const struct stream *s, struct muster_stream_info *info);
struct muster_msg *stored_msg(struct muster_test *t, struct arena *a, const struct sent *m);

struct wanted {
    const struct muster_tenant *tenant; /* NULL: all */
    const char *subject;
};
/* Check what last(), read() and follow() are asked for. */
int handle_wanted(struct muster_test *t, int call, uint64_t stream, bool fn, const struct wanted *wanted, char **ret_pattern);

/* follow.c */
int follow_begin(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject, uint64_t from_seq,
                 uint32_t max_msgs, muster_stream_follow_fn fn, void *arg, uint64_t *ret_follow);
void follow_end(const struct muster_host *host, uint64_t follow);
void follow_hold(const struct muster_host *host, uint64_t follow, uint32_t on);
void follow_close(struct muster_test *t, uint64_t handle);
void follow_wake(struct muster_test *t, const char *stream);                                       /* something is new there */
void follow_missed(struct muster_test *t, const struct stream *s, const struct sent *m);           /* that m goes, unseen */
void follow_free(struct muster_test *t);

#endif
