/* The file of lines; see logfile.h. */
#include "logfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { POLL_MS = 100 };

/* A pipe that is full: until there is room, or the end is asked for. */
static int wait_for_room(const struct logfile *f)
{
    struct pollfd p = {.fd = f->fd, .events = POLLOUT};

    while (!atomic_load(f->stop)) {
        int n = poll(&p, 1, POLL_MS);

        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return errno;
    }
    return EAGAIN;
}

static int write_all(const struct logfile *f, const char *data, size_t len, size_t *ret_done)
{
    for (*ret_done = 0; *ret_done < len;) {
        ssize_t n = write(f->fd, data + *ret_done, len - *ret_done);
        int err = n < 0 ? errno : 0;

        *ret_done += n < 0 ? 0 : (size_t)n;
        if (err == EAGAIN)
            err = wait_for_room(f);
        if (err && err != EINTR)
            return err;
    }
    return 0;
}

static int end_last_line(const struct logfile *f)
{
    size_t done;
    char last;

    if (!f->regular || f->size == 0)
        return 0;
    if (pread(f->fd, &last, 1, f->size - 1) != 1)
        return errno;
    return last == '\n' ? 0 : write_all(f, "\n", 1, &done);
}

static int look_at(struct logfile *f)
{
    struct stat st;

    if (fstat(f->fd, &st) != 0)
        return errno;
    f->regular = S_ISREG(st.st_mode);
    f->size = f->regular ? st.st_size : 0;
    return 0;
}

int logfile_open(struct logfile *f, const char *path)
{
    struct stat st;
    /* A pipe that is opened for both would never miss its reader; a file has to be read for its last byte. */
    bool regular = stat(path, &st) != 0 || S_ISREG(st.st_mode);
    int err;

    logfile_close(f);
    f->fd = open(path, (regular ? O_RDWR : O_WRONLY | O_NONBLOCK) | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
    if (f->fd < 0)
        return errno;
    err = look_at(f);
    if (!err)
        err = end_last_line(f);
    if (!err)
        err = look_at(f);
    if (err)
        logfile_close(f);
    return err;
}

void logfile_close(struct logfile *f)
{
    if (f->fd >= 0)
        (void)close(f->fd); /* what it could say, write and sync have said */
    f->fd = -1;
    f->size = 0;
}

bool logfile_moved(const struct logfile *f, const char *path)
{
    struct stat here, there;

    return fstat(f->fd, &here) != 0 || stat(path, &there) != 0 || here.st_dev != there.st_dev || here.st_ino != there.st_ino;
}

int logfile_append(struct logfile *f, const char *data, size_t len, size_t *ret_done)
{
    int err = write_all(f, data, len, ret_done);

    f->size += (int64_t)*ret_done;
    return err;
}

/* Where that fails, logfile_open() ends the line. */
void logfile_cut(struct logfile *f, size_t n)
{
    if (f->fd >= 0 && f->regular && n > 0 && ftruncate(f->fd, f->size - (int64_t)n) == 0)
        f->size -= (int64_t)n;
}

int logfile_sync(const struct logfile *f)
{
    return !f->regular || fdatasync(f->fd) == 0 ? 0 : errno;
}

/* The name of the n-th old one; of 0 the file itself. False: it is longer than a path may be. */
static bool old_name(char out[PATH_MAX], const char *path, int64_t n)
{
    int len = n ? snprintf(out, PATH_MAX, "%s.%lld", path, (long long)n) : snprintf(out, PATH_MAX, "%s", path);

    return len > 0 && len < PATH_MAX;
}

int logfile_rotate(struct logfile *f, const char *path, int64_t keep)
{
    char from[PATH_MAX], to[PATH_MAX];

    for (int64_t n = keep; n > 0; n--) {
        if (!old_name(from, path, n - 1) || !old_name(to, path, n))
            return ENAMETOOLONG;
        if (rename(from, to) != 0 && errno != ENOENT)
            return errno;
    }
    return logfile_open(f, path);
}
