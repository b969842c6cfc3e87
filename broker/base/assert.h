/*
 * base/assert.h - checks of the broker's own invariants; always on.
 *
 * ASSERT is for what can only be false through a bug in the broker; it prints file, line and expression and
 * aborts. What comes from outside (a message, a file, a server) is never asserted: it is checked and refused.
 */
#ifndef MUSTER_BASE_ASSERT_H
#define MUSTER_BASE_ASSERT_H

#include <stdio.h>
#include <stdlib.h>

#define ASSERT(cond)                                                                               \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0)) {                                                        \
            fprintf(stderr, "%s:%d: %s: broken invariant: %s\n", __FILE__, __LINE__, __func__,     \
                    #cond);                                                                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
