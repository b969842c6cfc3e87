/*
 * child/sandbox.h - the walls of a child: what its process may do, whatever code runs in it.
 *
 * Shape    The parent tells the walls in FRAME_SANDBOX; the child builds them around itself before it loads the file. They cannot be taken
 *          down again: limits of memory, descriptors and threads; another user where the broker is root; no new privileges; Landlock,
 *          so that it reads and writes only the files told, connects only to the ports told and signals only itself; seccomp, so that
 *          it starts no program or process, looks into no other, mounts nothing and opens no socket unless that is allowed.
 * Kernel   What the kernel does not have is left out and told in SANDBOX_* bits; whatever else fails is an error.
 * Threads  sandbox_build() before there is a second thread.
 */
#ifndef MUSTER_CHILD_SANDBOX_H
#define MUSTER_CHILD_SANDBOX_H

#include <muster/plugin.h>

#include "child/arena.h"
#include "child/frame.h"

enum { /* what may be missing */
    SANDBOX_LACKS_FILES = 1u << 0,   /* Landlock */
    SANDBOX_LACKS_PORTS = 1u << 1,   /* Landlock of version 4 */
    SANDBOX_LACKS_SIGNALS = 1u << 2, /* Landlock of version 6 */
    SANDBOX_LACKS_CALLS = 1u << 3,   /* seccomp */
    SANDBOX_LACKS_USER = 1u << 4,    /* the right to become another user */
    SANDBOX_N_LACKS = 5,
};
enum { SANDBOX_WHY_SIZE = 256, SANDBOX_MAX_PATHS = 512, SANDBOX_MAX_PORTS = 16 };

/* Sockets that it may make. */
enum {
    SANDBOX_NO_SOCKETS,
    SANDBOX_POSTGRES,         /* streams, connected to the ports told */
    SANDBOX_POSTGRES_BY_NAME, /* and datagrams, to look up the name of a host */
    SANDBOX_ALL_SOCKETS,
};

struct sandbox {
    uint32_t parent;   /* its process id: the child ends with it */
    uint32_t uid, gid; /* whom it becomes; 0: it stays who it is */
    uint32_t must_become; /* 1: that the user was asked for; 0: without the right to it it stays, and that is told */
    int64_t memory;    /* bytes that it may write to, used or not; 0: no limit */
    int64_t files;     /* descriptors; 0: no limit */
    int64_t threads;   /* of its user, which must be its own then; 0: no limit */
    uint32_t sockets;
    uint32_t local;    /* 1: and local ones; all sockets are so anyway */
    struct muster_list read, write; /* files and folders; write: to read too */
    uint32_t ports[SANDBOX_MAX_PORTS], n_ports;
};

void sandbox_put(struct frame *f, const struct sandbox *s);
/* The lists live in memory, their texts in the frame. MUSTER_EINVAL: the frame is bad; MUSTER_ENOMEM. */
int sandbox_get(struct frame_reader *r, struct sandbox *ret_walls, struct arena *memory);
/* Build them around this process and its file (NULL: none). *ret_lacks: SANDBOX_LACKS_*. MUSTER_EACCES with why: the process must end then. */
int sandbox_build(const struct sandbox *s, const char *file, uint32_t *ret_lacks, char why[SANDBOX_WHY_SIZE]);
/* The word of one bit ("files"), and what is open without it. */
const char *sandbox_lack_word(uint32_t bit);
const char *sandbox_lack_text(uint32_t bit);

#endif
