/* See stamp.h. */
#include "base/stamp.h"

#include <stddef.h>
#include <sys/stat.h>

#include "base/clock.h"

struct stamp stamp_of(const char *path)
{
    struct stat st;

    if (!path || stat(path, &st) != 0)
        return (struct stamp){0};
    return (struct stamp){.device = st.st_dev,
                          .inode = st.st_ino,
                          .size = st.st_size,
                          .changed_ns = st.st_mtim.tv_sec * CLOCK_S + st.st_mtim.tv_nsec};
}
