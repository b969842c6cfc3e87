/*
 * fanout/send.h - one message.send on its way into the inboxes.
 *
 * Shape    send.c says who receives it and answers; send_append.c has it stored. With a request_id it is claimed in the database first
 *          (SQL: muster.message_begin), each message carries the claim's id as its Nats-Msg-Id, and the answer is kept before it is given:
 *          whoever asks again, at whatever broker, has it stored once. An append whose outcome is unknown is tried again then; without a
 *          request_id nobody could tell whether it had been stored.
 * Order    The sends of one sender stand in a line (send_line.c). Those in front are looked up and claimed side by side, but only the first is
 *          appended; it leaves the line when all of it is handed to the stream, which keeps that order. Those behind one that is tried again
 *          wait for its end. Nobody waits for another sender.
 * Bounds   256 appends of one message under way, SENDS_UNDER_WAY of all together: what the broker asks NATS besides has room beside them.
 *          A message that finds none waits its turn. SENDS_AHEAD of one sender have begun and are not handed over, WIDE_AHEAD of
 *          them to groups, whose names they hold; of those behind there is the request, and the subscription holds so many.
 * Threads  The lane.
 */
#ifndef MUSTER_FANOUT_SEND_H
#define MUSTER_FANOUT_SEND_H

#include "base/clock.h"
#include "fanout/inbox.h"
#include "fanout/roll.h"

enum { SENDS_UNDER_WAY = 4096, SENDS_AHEAD = 256, WIDE_AHEAD = 16 };

struct line;

struct send {
    struct send *next; /* while it is stalled or waits its turn */
    struct ask *a;
    struct buf payload;
    char id[CLOCK_UUID_SIZE], expires[CLOCK_RFC3339_SIZE];
    bool once, single, stalled; /* stalled: also while it waits its turn */
    struct line *line;
    struct send *behind;              /* of the same sender */
    bool ready, in_line, tries_again; /* ready: its receivers are known */
    roll_name *names;
    size_t n, under_way, stored;
    uint32_t *order, *again; /* which to append: now, from at to end; and, of once, with the next tick */
    size_t at, end, n_again;
    uint64_t seq;
    int code; /* the first failure */
    int64_t since_ns;
};

/* It is among the first of its line: find out who receives it (send.c). */
void send_begin(struct send *s);
/* The receivers are there, and nobody is before it: append to all of them, then send_over(). */
void send_append(struct send *s);
/* What held it up is gone. */
void send_go_on(struct send *s);
/* Nothing of it is under way any more. It is gone then (send.c). */
void send_over(struct send *s);

/* It is the last of its sender. It may be gone when this gave 0. */
int line_join(struct send *s);
/* All of it is handed over, or will never be. */
void line_leave(struct send *s);
/* It is tried again: those behind it wait until it is released. */
void line_hold(struct send *s);
void line_release(struct send *s);
/* It is answered. */
void line_end(struct send *s);

#endif
