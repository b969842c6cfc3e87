/*
 * audit/writer.h - the thread that writes lines, so that a slow disk never holds the lane.
 *
 * Shape    The lane puts lines into a queue, the thread writes them in order. A file that cannot be written is tried again and again,
 *          100 ms after the first failure and up to 5 s apart; nothing is thrown away meanwhile. Its bound is settings.queue_bytes.
 * Owns     The thread, the queue, the file.
 * Threads  All calls on the lane. The thread itself makes [any] calls of the host only, and post() until writer_quiet().
 */
#ifndef AUDIT_WRITER_H
#define AUDIT_WRITER_H

#include <muster/plugin.h>

#include <stdbool.h>

enum { SYNC_NEVER, SYNC_SECOND, SYNC_ALWAYS }; /* the order of the option's choices */

struct writer_settings {
    const char *path; /* copied */
    int64_t max_bytes, keep, queue_bytes;
    int sync;
};

struct writer_host {
    const struct muster_host *host;
    const struct muster_metrics *metrics;
    uint64_t lines, bytes, failures, rotations, queued; /* metrics */
    void (*on_room)(void *arg); /* posted when a queue that was full is half empty. [lane] */
    void *arg;
};

struct writer;

/* MUSTER_ENOMEM: no memory, or no thread. */
int writer_new(const struct writer_host *host, const struct writer_settings *settings, struct writer **ret_w);
/* The file is opened anew, also when nothing has changed. MUSTER_ENOMEM: nothing has changed. */
int writer_set(struct writer *w, const struct writer_settings *settings);
/* Queue a line, which ends in a newline. False: there is no room, and on_room comes when there is. With force there is room. */
bool writer_put(struct writer *w, const char *line, size_t len, bool force);
/* Whether the bound is reached; on_room comes then. */
bool writer_is_full(struct writer *w);
/* Post nothing more. */
void writer_quiet(struct writer *w);
/* Write what is left, for timeout_ns at most, and end the thread; accepts NULL. Returns how many lines were lost. */
uint64_t writer_free(struct writer *w, int64_t timeout_ns);

#endif
