/*
 * testhost/arena.h - memory that is lent to a plugin and taken away again.
 *
 * Pages of their own for each loan. When it ends they cannot be read any more: who does gets SIGSEGV, and a handler writes whose memory it
 * was before the one that was there before, or the default, has its turn. The last loans are remembered, so that a pointer into one can
 * be told before it is used. Any thread.
 */
#ifndef MUSTER_TESTHOST_ARENA_H
#define MUSTER_TESTHOST_ARENA_H

#include <stddef.h>

struct arena;

/* Room for size bytes, plus what alignment costs for 64 pieces. */
struct arena *arena_new(size_t size);
void *arena_take(struct arena *a, size_t size); /* zeroed */
void *arena_copy(struct arena *a, const void *data, size_t len); /* with a NUL behind it */
char *arena_text(struct arena *a, const char *s);                /* NULL gives NULL */
/* The loan is over; what: for the message, "the message of rpc.ann.hello.say". NULL is accepted. */
void arena_end(struct arena *a, const char *what);
/* Free it without remembering. */
void arena_free(struct arena *a);
/* What p was lent as; NULL: it is in no loan that is over. */
const char *arena_stale(const void *p);
/* Install the handler of SIGSEGV where it is not. */
void arena_watch(void);

#endif
