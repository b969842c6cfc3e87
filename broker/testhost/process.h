/*
 * testhost/process.h - what a plugin may not change in the process: threads, descriptors, signal handlers, umask, folder, environment,
 * locale.
 */
#ifndef MUSTER_TESTHOST_PROCESS_H
#define MUSTER_TESTHOST_PROCESS_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { PROCESS_MAX_FDS = 1024 };

struct process {
    size_t n_threads;
    uint8_t fds[PROCESS_MAX_FDS]; /* 1: open */
    struct sigaction handlers[65];
    sigset_t blocked;
    mode_t mask;
    char *folder, *locale, *environment; /* owned */
};

void process_look(struct process *p);
void process_done(struct process *p);
/* Tell fn of each thing that is other now than it was. A thread that ends has a second for it. */
void process_compare(const struct process *p, void (*fn)(void *arg, const char *text), void *arg);

#endif
