/*
 * Edit distance between short names; see near.h.
 *
 * Names are offered one by one; only those at the least distance so far are kept, at most NAMES_MAX. Work
 * is bounded by WORD_MAX squared for a name, whatever was written in the file.
 */
#include "config/near.h"

#include <string.h>

enum { WORD_MAX = 64, NEAR_MAX = 2, PREFIX_MIN = 3, NAMES_MAX = 3 };

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    unsigned ab = a < b ? a : b;

    return ab < c ? ab : c;
}

/* Levenshtein, one row at a time: row[j] is the distance of a's beginning to b's first j letters. */
static unsigned edits(const char *a, size_t a_len, const char *b, size_t b_len)
{
    unsigned row[WORD_MAX + 1];

    for (size_t j = 0; j <= b_len; j++)
        row[j] = (unsigned)j;
    for (size_t i = 0; i < a_len; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i + 1;
        for (size_t j = 0; j < b_len; j++) {
            unsigned above = row[j + 1];

            row[j + 1] = min3(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
            diagonal = above;
        }
    }
    return row[b_len];
}

/* A distance as long as the shorter word means that nothing of it is left: "ca" is not near "id". A common
 * beginning counts less than a slip of the finger. */
static unsigned distance(const char *word, size_t word_len, const char *name, size_t len)
{
    size_t shorter = word_len < len ? word_len : len;
    unsigned d;

    if (word_len > WORD_MAX || len > WORD_MAX)
        return NEAR_FAR;
    d = edits(word, word_len, name, len);
    if (d <= NEAR_MAX && d < shorter)
        return d;
    if (shorter >= PREFIX_MIN && strncmp(word, name, shorter) == 0)
        return NEAR_MAX + 1;
    return NEAR_FAR;
}

void near_offer(struct near *near, const char *name, size_t len)
{
    unsigned d = distance(near->word, strlen(near->word), name, len);

    if (d == NEAR_FAR || d > near->best)
        return;
    if (d < near->best) {
        buf_clear(&near->names);
        near->n = 0;
        near->best = d;
    }
    if (++near->n > NAMES_MAX)
        return;
    if (near->n > 1)
        buf_put_lit(&near->names, " or ");
    buf_put(&near->names, name, len);
}

void near_done(struct near *near)
{
    buf_done(&near->names);
}
