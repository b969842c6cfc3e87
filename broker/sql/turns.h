/*
 * sql/turns.h - items that wait, by tenant, and whose turn it is. Private to sql/.
 *
 * Turns    Deficit round robin: each tenant has a line of its own; at its turn it gets a quantum of bytes and sends what that pays for. So an item
 *          waits for a turn of each other tenant and not for all that they have; one tenant alone has every turn.
 * Light    Who has little waiting does not share a batch with who has much, and for whose many statements it would wait: the two are taken apart.
 * Order    Of a tenant as the items came. Of those of which max_out are out (taken, and neither answered nor put back) nothing is taken, but in one
 *          batch: with 1 what is taken later begins when what was taken before has ended.
 * Memory   Items are borrowed. A line goes when it has long been empty.
 * Threads  None: one owner.
 */
#ifndef MUSTER_SQL_TURNS_H
#define MUSTER_SQL_TURNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/map.h"
#include "base/ring.h"

struct item; /* parts.h */

struct queue {
    struct item *first, *last;
};

struct line {
    struct link link; /* of those whose turn comes, or of the empty ones */
    struct turns *turns;
    struct queue waiting;
    size_t n_items, n_bytes; /* that wait */
    size_t n_refused;        /* how many waited when another one had no room; 0: none was refused since there was some */
    unsigned int n_out;
    int64_t deficit;
    bool paid; /* it has had the quantum of its turn */
    uint8_t load; /* TURNS_*: the ring that it is in, or was last */
    char tenant[];
};

enum { TURNS_LIGHT, TURNS_HEAVY, TURNS_LOADS };

struct turns {
    unsigned int max_out; /* of a tenant; at least 1 */
    int64_t light;        /* what a line has at most that is light, as what it costs; 0: all are */
    struct map lines;
    struct link rings[TURNS_LOADS], idle;
    size_t n_idle;
    bool has_room; /* a line of which an item was refused is down to half; who reads it clears it */
};

void turns_init(struct turns *t, unsigned int max_out, int64_t light);
/* Nothing waits and nothing is out. */
void turns_done(struct turns *t);
/* NULL: no memory. Stays until something else of turns is called, for ever where an item waits in it or is out. */
struct line *turns_line(struct turns *t, const char *tenant);

void line_put(struct line *line, struct item *item);
/* The item, which was out, is the first of its line again. */
void line_put_back(struct item *item);
/* The item, which was out, has ended. */
void line_end(struct item *item);

static inline bool turns_any(const struct turns *t, int load)
{
    return link_is_in(&t->rings[load]);
}
/* The next one of those that are light; NULL: nobody has a turn. */
struct item *turns_take(struct turns *t);
/* The next ones of a load, at most max of max_bytes; or one, whatever it has. Returns how many. */
unsigned int turns_take_batch(struct turns *t, int load, struct item **batch, unsigned int max, size_t max_bytes);
/* Take those out that have waited until now_ns, and do not count as out. */
struct queue turns_expire(struct turns *t, int64_t now_ns);

struct item *queue_pop(struct queue *q);

#endif
