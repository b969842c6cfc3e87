/*
 * cli/dev_proc.h - the processes of `muster dev`: none outlives it, whatever ends it.
 *
 * Shape    A server is started, watched and stopped as a member of one group; a tool is run to its end. Paths are relative to the
 *          working folder, which is the folder of the installation; run/NAME.pid holds a server's pid and start time.
 * Ends     Ours by a signal: dev_group_close() stops the servers in reverse order. Ours by kill -9: the kernel sends every child
 *          its death signal, and the next start ends what is still there (dev_sweep). A pid that by then belongs to somebody
 *          else has another start time and is left alone.
 * Threads  The main thread only: the kernel binds death signals to the thread that forked.
 */
#ifndef MUSTER_CLI_DEV_PROC_H
#define MUSTER_CLI_DEV_PROC_H

#include <pwd.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { DEV_SERVERS_MAX = 4 };

/* What dev_group_wait() and dev_group_run() saw first. */
enum { DEV_QUIET, DEV_ENDED, DEV_SIGNAL, DEV_DIED };

struct dev_command {
    const char *name; /* of the pid file and in messages; borrowed, a literal */
    char *const *argv;
    const char *log;           /* both outputs are appended there; NULL: they go where ours go */
    const struct passwd *user; /* NULL: ours */
    int stop_signal;           /* of a server: asks it to end in order */
    int death_signal;          /* sent by the kernel when we die */
};

struct dev_server {
    const char *name;
    const char *log;
    int stop_signal;
    pid_t pid;
    int fd; /* pidfd */
};

struct dev_group {
    int signal_fd;
    struct dev_server servers[DEV_SERVERS_MAX];
    size_t n;
    const struct dev_server *dead; /* set with DEV_DIED */
};

/* Take SIGINT, SIGTERM and SIGHUP: from now on they are DEV_SIGNAL. False with errno. */
bool dev_group_open(struct dev_group *g);
/* Stop the servers, last started first, each within its time, after that with SIGKILL. */
void dev_group_close(struct dev_group *g);

/* Start a server. False with errno. */
bool dev_group_start(struct dev_group *g, const struct dev_command *command);
/* Run a tool: DEV_ENDED with its exit code (128 + n after signal n), or what came before its end; it is killed then. */
int dev_group_run(struct dev_group *g, const struct dev_command *command, int *ret_code);
/* Wait until something happens or ms have passed (DEV_QUIET); -1: without end. */
int dev_group_wait(struct dev_group *g, int ms);

/* End what an earlier run left of this server; true when there was something. */
bool dev_sweep(const char *name, int stop_signal);

#endif
