/*
 * Files written whole; see file.h.
 *
 * The folder itself is not synced after a rename: a crash then leaves the old file or the new one,
 * and both are whole. Whoever needs the new one (a key that was just used) has it synced before the
 * rename.
 */
#include "cli/file.h"

#include <errno.h>
#include <fcntl.h>
#include <muster/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Keep the reason; the code tells callers apart only what they act on. */
static int fail(struct file_error *err, const char *path, const char *what)
{
    int code = errno;

    (void)snprintf(err->text, sizeof err->text, "%s: %s: %s", path, what,
                   strerror(code)); /* cut when long */
    return code == ENOENT ? MUSTER_ENOTFOUND : code == EEXIST ? MUSTER_EEXIST : MUSTER_EINVAL;
}

static int no_memory(struct file_error *err, const char *path)
{
    errno = ENOMEM;
    (void)fail(err, path, "file");
    return MUSTER_ENOMEM;
}

/* The first room is larger than any secret, so that no growing leaves a copy of one behind. */
static int read_all(int fd, const char *path, size_t max, struct buf *out, struct file_error *err)
{
    size_t start = out->len;

    for (;;) {
        if (!buf_reserve(out, out->cap - out->len > 1 ? 1 : 16384))
            return no_memory(err, path);
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(err, path, "read");
        out->len += (size_t)n;
        out->data[out->len] = '\0';
        if (n == 0)
            return 0;
        if (out->len - start > max) {
            errno = EFBIG;
            return fail(err, path, "read");
        }
    }
}

int file_read(const char *path, size_t max, struct buf *out, struct file_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int code;

    if (fd < 0)
        return fail(err, path, "open");
    code = read_all(fd, path, max, out, err);
    close(fd);
    return code;
}

/* One name a process, in the same folder so that rename(2) stays atomic. */
static char *staged_name(const char *path)
{
    struct buf name = {0};

    buf_printf(&name, "%s.tmp.%ld", path, (long)getpid());
    return buf_take(&name);
}

static bool write_all(int fd, const struct buf *data)
{
    for (size_t done = 0; done < data->len;) {
        ssize_t n = write(fd, data->data + done, data->len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static int stage(const char *path, mode_t mode, const struct buf *data, bool sync,
                 struct file_error *err)
{
    char *name = buf_failed(data) ? NULL : staged_name(path);
    int code = 0;

    if (!name)
        return no_memory(err, path);
    (void)unlink(name); /* a leftover of an earlier process with our id */
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode & FILE_SECRET);

    /* The mode is set by hand: the umask must not decide it, and a secret is never wider than its
     * mode on the way. */
    if (fd < 0)
        code = fail(err, path, "create");
    else if (!write_all(fd, data) || fchmod(fd, mode) || (sync && fsync(fd)))
        code = fail(err, path, "write");
    if (fd >= 0 && close(fd) && !code)
        code = fail(err, path, "close");
    if (code && fd >= 0)
        (void)unlink(name);
    free(name);
    return code;
}

int file_stage(const char *path, mode_t mode, const struct buf *data, struct file_error *err)
{
    return stage(path, mode, data, false, err);
}

int file_commit(const char *path, struct file_error *err)
{
    char *name = staged_name(path);
    int code = 0;

    if (!name)
        return no_memory(err, path);
    if (rename(name, path))
        code = fail(err, path, "rename");
    free(name);
    return code;
}

void file_discard(const char *path)
{
    char *name = staged_name(path);

    if (name)
        (void)unlink(name); /* nothing more can be done for it */
    free(name);
}

int file_write(const char *path, mode_t mode, const struct buf *data, struct file_error *err)
{
    int code = stage(path, mode, data, true, err);

    if (!code)
        code = file_commit(path, err);
    if (code)
        file_discard(path);
    return code;
}

bool file_exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

bool file_is_folder(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int file_make_folder(const char *path, mode_t mode, struct file_error *err)
{
    if (mkdir(path, mode) == 0 || (errno == EEXIST && file_is_folder(path)))
        return 0;
    return fail(err, path, "make folder");
}

int file_lock(const char *folder, int *ret_fd, struct file_error *err)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return fail(err, folder, "open");
    while (flock(fd, LOCK_EX)) {
        if (errno == EINTR)
            continue;
        int code = fail(err, folder, "lock");
        close(fd);
        return code;
    }
    *ret_fd = fd;
    return 0;
}

void file_join(struct buf *out, const char *folder, const char *name)
{
    buf_printf(out, "%s/%s", folder, name);
}
