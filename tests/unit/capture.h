/*
 * What the code under test writes to stderr, for tests of the log: descriptor 2 points at a memory
 * file in between.
 */
#ifndef MUSTER_TESTS_CAPTURE_H
#define MUSTER_TESTS_CAPTURE_H

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct capture {
    int file, saved;
};

static inline struct capture capture_begin(void)
{
    struct capture c = {.file = memfd_create("stderr", MFD_CLOEXEC), .saved = dup(STDERR_FILENO)};

    /* Appending, because threads that share a file's position may overwrite each other. */
    if (c.file < 0 || c.saved < 0 || fcntl(c.file, F_SETFL, O_APPEND) < 0 ||
        dup2(c.file, STDERR_FILENO) < 0)
        abort();
    return c;
}

/* What was written, for free(). */
static inline char *capture_end(struct capture *c)
{
    off_t len = lseek(c->file, 0, SEEK_END);
    char *text = len < 0 ? NULL : calloc(1, (size_t)len + 1);

    if (!text || dup2(c->saved, STDERR_FILENO) < 0 || pread(c->file, text, (size_t)len, 0) != len)
        abort();
    (void)close(c->saved);
    (void)close(c->file);
    return text;
}

#endif
