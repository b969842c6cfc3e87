/*
 * base/stamp.h - tells one state of a file from another, without reading it. Any thread.
 */
#ifndef MUSTER_BASE_STAMP_H
#define MUSTER_BASE_STAMP_H

#include <stdint.h>

struct stamp {
    uint64_t device, inode;
    int64_t size, changed_ns;
};

/* All zero where there is no file, or path is NULL. Links are followed. */
struct stamp stamp_of(const char *path);

#endif
