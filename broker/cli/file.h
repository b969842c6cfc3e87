/*
 * cli/file.h - files that are there whole or not at all: written beside their place and renamed.
 *
 * Errors   0 or a negative MUSTER_E*, with the whole sentence in *err. MUSTER_ENOTFOUND: no such file or folder.
 * Threads  None: the temporary name is one a process.
 */
#ifndef MUSTER_CLI_FILE_H
#define MUSTER_CLI_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/buf.h"

enum { FILE_ERROR_SIZE = 512 };

/* Who may read what: a secret is its owner's alone. */
enum { FILE_SECRET = 0600, FILE_PUBLIC = 0644 };

struct file_error {
    char text[FILE_ERROR_SIZE]; /* "path: what failed", filled on every failure */
};

/* Append the file's bytes; more than max of them is MUSTER_EINVAL, no file MUSTER_ENOTFOUND. */
int file_read(const char *path, size_t max, struct buf *out, struct file_error *err);
/* Write and replace in one step, through to the disk. */
int file_write(const char *path, mode_t mode, const struct buf *data, struct file_error *err);

/* The same in two steps, for several files that must appear together with something else: stage
 * all, then commit all. */
int file_stage(const char *path, mode_t mode, const struct buf *data, struct file_error *err);
int file_commit(const char *path, struct file_error *err);
void file_discard(const char *path);

bool file_exists(const char *path);
bool file_is_folder(const char *path);
/* Make the folder; one that is there already is fine. */
int file_make_folder(const char *path, mode_t mode, struct file_error *err);
/* Take the folder's lock, so that two commands do not change it at once; close(2) the result to
 * give it back. Waits. */
int file_lock(const char *folder, int *ret_fd, struct file_error *err);

/* Append "folder/name". */
void file_join(struct buf *out, const char *folder, const char *name);

#endif
