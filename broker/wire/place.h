/*
 * wire/place.h - where in a body something is wrong, and the one sentence about it.
 *
 * Readers and the schema check walk a body top down; each level keeps a struct place on its C stack
 * that points to the level above, so that a path is made only when there is something to refuse.
 * Any thread.
 */
#ifndef MUSTER_WIRE_PLACE_H
#define MUSTER_WIRE_PLACE_H

#include <stddef.h>

/* NULL stands for the whole body. */
struct place {
    const struct place *up;
    const char *key; /* of a map; NULL: an element of an array */
    size_t n;        /* length of key, or the index */
};

#define WIRE_NO_OFFSET ((size_t)-1)

struct wire_error {
    size_t offset;   /* bytes from the start of the body, or WIRE_NO_OFFSET */
    char field[160]; /* path such as tasks[3].deadline, "" for the whole body; cut when longer */
    char text[640];  /* one line, valid UTF-8: the place, what came, what was expected */
};

/* Fill err with the place, err->offset (set before) and the sentence. Returns MUSTER_EINVAL. */
int place_refuse(struct wire_error *err, const struct place *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
