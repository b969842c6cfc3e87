/*
 * audit/logfile.h - a file of lines that is appended to and turned over by size.
 *
 * Errors   0 or an errno. ENXIO: nobody reads the pipe.
 * Threads  One, the writer's: every call may block as long as the disk does.
 */
#ifndef AUDIT_LOGFILE_H
#define AUDIT_LOGFILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct logfile {
    int fd; /* -1: closed */
    int64_t size;
    bool regular;      /* otherwise a named pipe, as log shippers read */
    atomic_bool *stop; /* set by another thread: a pipe that nobody reads is waited for no longer */
};

/* Open for appending, making the file where it is missing. A last line that a crash or a full disk cut off is ended first, so that
 * it does not swallow the next one. */
int logfile_open(struct logfile *f, const char *path);
void logfile_close(struct logfile *f);
/* True when path is no longer this file: somebody has renamed or removed it. */
bool logfile_moved(const struct logfile *f, const char *path);
/* Append lines; *ret_done says how many bytes there are now of data, also after an error. */
int logfile_append(struct logfile *f, const char *data, size_t len, size_t *ret_done);
/* Take the last n bytes away again; of a regular file. */
void logfile_cut(struct logfile *f, size_t n);
int logfile_sync(const struct logfile *f);
/* path becomes path.1, path.1 becomes path.2, and so on; path.<keep> goes. Then a new one is open. */
int logfile_rotate(struct logfile *f, const char *path, int64_t keep);

#endif
