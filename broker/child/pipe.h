/*
 * child/pipe.h - one end of the socket pair: frames in and out on an event loop.
 *
 * Bounds   What waits to be written: messages and bytes of the options; beyond them pipe_end() gives MUSTER_EAGAIN and on_room follows
 *          once half of both is free. What is read: one buffer, at most FRAME_MAX and what one read brings.
 * Threads  pipe_begin() … pipe_end() on any thread, and they hold a lock between them; pipe_is_wide() and pipe_flush() on any; all else on
 *          the loop's thread.
 * Errors   on_end is called once, when the other end is gone or says what is no frame; nothing comes after it.
 */
#ifndef MUSTER_CHILD_PIPE_H
#define MUSTER_CHILD_PIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "child/frame.h"

struct pipe;

struct pipe_options {
    uv_loop_t *loop;
    int fd; /* a stream socket, owned from a pipe_new() that gave 0 on */
    uint32_t max_frames;
    size_t max_bytes;
    /* False: it cannot be taken now; it comes again after pipe_resume(), and nothing before it. May call pipe_free(). */
    bool (*on_frame)(void *arg, struct frame_reader *r);
    void (*on_room)(void *arg);
    void (*on_end)(void *arg, const char *why); /* "the other end is gone", "…: no frame" */
    void *arg;
};

int pipe_new(const struct pipe_options *options, struct pipe **ret_pipe);
/* What was not written is lost; the other end sees the end. Accepts NULL. */
void pipe_free(struct pipe *p);

struct frame pipe_begin(struct pipe *p, uint16_t type, uint64_t id);
/* Queue the frame. force: past the bounds, for what is bounded elsewhere (answers to what was asked). MUSTER_EAGAIN, MUSTER_EINVAL (longer
 * than FRAME_MAX), MUSTER_ENOMEM, MUSTER_ELINK (the other end is gone): nothing was queued. */
int pipe_end(struct pipe *p, struct frame *f, bool force);
/* A frame without fields, forced. */
int pipe_put(struct pipe *p, uint16_t type, uint64_t id);
/* The frame that on_frame refused comes again. */
void pipe_resume(struct pipe *p);
/* True while less than four fifths of both bounds are in use. */
bool pipe_is_wide(struct pipe *p);
/* The same, for who waits for it: after false on_room follows. */
bool pipe_has_room(struct pipe *p);
/* Bytes that wait to be written. */
size_t pipe_waiting(struct pipe *p);
/* One turn without the loop, for who may not return to it yet: write, wait for what the other end says at most until the deadline, hand
 * it over. 0: once more; MUSTER_ETIME; MUSTER_EAGAIN: a frame was refused, and nothing comes behind it; MUSTER_ELINK: the end. */
int pipe_pump(struct pipe *p, int64_t deadline_ns);
/* Write what waits, and wait for that at most until the deadline. For the end of a child; and, from another thread, for a lane that hangs
 * while the loop's own thread cannot write. */
void pipe_flush(struct pipe *p, int64_t deadline_ns);

#endif
