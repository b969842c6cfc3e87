/*
 * The processes of `muster dev`. A pidfd stands for each: signals sent through it cannot hit a later owner of the pid, and
 * poll(2) tells of its end.
 */
#include "cli/dev_proc.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

enum { STOP_MS = 15000, KILL_MS = 5000, PID_FILE_SIZE = 64 };

static void stop_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

bool dev_group_open(struct dev_group *g)
{
    sigset_t set;

    *g = (struct dev_group){.signal_fd = -1};
    stop_signals(&set);
    if (sigprocmask(SIG_BLOCK, &set, NULL))
        return false;
    g->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return g->signal_fd >= 0;
}

/* In clock ticks since boot: with the pid it names one process for ever. 0: there is no such process. */
static unsigned long long start_time(pid_t pid)
{
    char path[PID_FILE_SIZE], text[1024];
    unsigned long long ticks = 0;
    const char *at;
    FILE *file;
    size_t len;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    file = fopen(path, "re");
    if (!file)
        return 0;
    len = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file); /* was only read */
    text[len] = '\0';
    at = strrchr(text, ')'); /* the command's name may hold anything, also brackets and blanks */
    if (at)
        (void)sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks);
    return ticks;
}

static void pid_file(const char *name, char out[PID_FILE_SIZE])
{
    snprintf(out, PID_FILE_SIZE, "run/%s.pid", name);
}

/* A loss is no harm: the death signal ends the child, the file only lets the next start wait for that. */
static void write_pid_file(const char *name, pid_t pid)
{
    char path[PID_FILE_SIZE];
    FILE *file;

    pid_file(name, path);
    file = fopen(path, "we");
    if (!file)
        return;
    fprintf(file, "%d %llu\n", (int)pid, start_time(pid));
    (void)fclose(file);
}

static void remove_pid_file(const char *name)
{
    char path[PID_FILE_SIZE];

    pid_file(name, path);
    (void)unlink(path); /* a file that stays names a process that is gone, and is found to be stale */
}

/* Groups first: after setuid() we may not change them any more. */
static bool become(const struct passwd *user)
{
    return !user || (setgroups(0, NULL) == 0 && setgid(user->pw_gid) == 0 && setuid(user->pw_uid) == 0);
}

/* Opened before the change of user: logs belong to us, and a server cannot read what others wrote. */
static bool set_outputs(const char *log)
{
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int out = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : STDERR_FILENO;

    return in >= 0 && out >= 0 && dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 && dup2(out, STDERR_FILENO) >= 0;
}

/* Between fork and exec. The death signal is set after the change of user, which clears it; a parent that died before it was set
 * shows in getppid(). */
static void run_child(const struct dev_command *command, pid_t parent)
{
    sigset_t set;

    stop_signals(&set);
    (void)setpgid(0, 0); /* Ctrl-C in the terminal is for us alone: we stop the servers in order */
    if (set_outputs(command->log) && become(command->user) && sigprocmask(SIG_UNBLOCK, &set, NULL) == 0 &&
        prctl(PR_SET_PDEATHSIG, command->death_signal) == 0 && getppid() == parent)
        (void)execv(command->argv[0], command->argv);
    fprintf(stderr, "%s: %s\n", command->argv[0], strerror(errno));
    _exit(127);
}

/* A process that cannot be watched is not started. */
static pid_t spawn(const struct dev_command *command, int *ret_fd)
{
    pid_t parent = getpid(), pid = fork();
    int fd;

    if (pid == 0)
        run_child(command, parent);
    if (pid < 0)
        return -1;
    fd = pidfd_open(pid, 0);
    if (fd < 0) {
        int saved = errno;

        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        errno = saved;
        return -1;
    }
    *ret_fd = fd;
    return pid;
}

bool dev_group_start(struct dev_group *g, const struct dev_command *command)
{
    struct dev_server *server = &g->servers[g->n];

    if (g->n == DEV_SERVERS_MAX) {
        errno = EAGAIN;
        return false;
    }
    *server = (struct dev_server){.name = command->name, .log = command->log, .stop_signal = command->stop_signal};
    server->pid = spawn(command, &server->fd);
    if (server->pid < 0)
        return false;
    write_pid_file(server->name, server->pid);
    g->n++;
    return true;
}

/* As dev_group_wait(), and DEV_ENDED when tool_fd (-1: none) has ended. */
static int wait_any(struct dev_group *g, int tool_fd, int ms)
{
    struct pollfd fds[DEV_SERVERS_MAX + 2];
    struct signalfd_siginfo info;

    fds[0] = (struct pollfd){.fd = g->signal_fd, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = tool_fd, .events = POLLIN};
    for (size_t i = 0; i < g->n; i++)
        fds[i + 2] = (struct pollfd){.fd = g->servers[i].fd, .events = POLLIN};
    if (poll(fds, (nfds_t)g->n + 2, ms) <= 0)
        return DEV_QUIET; /* also after a signal that is not ours, such as SIGCONT: callers wait again */
    if (fds[0].revents && read(g->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        return DEV_SIGNAL;
    for (size_t i = 0; i < g->n; i++)
        if (fds[i + 2].revents) {
            g->dead = &g->servers[i];
            return DEV_DIED;
        }
    return fds[1].revents ? DEV_ENDED : DEV_QUIET;
}

int dev_group_wait(struct dev_group *g, int ms)
{
    return wait_any(g, -1, ms);
}

int dev_group_run(struct dev_group *g, const struct dev_command *command, int *ret_code)
{
    int fd = -1, seen, status = 0;
    pid_t pid = spawn(command, &fd);

    if (pid < 0) {
        *ret_code = 127;
        return DEV_ENDED;
    }
    do
        seen = wait_any(g, fd, -1);
    while (seen == DEV_QUIET);
    if (seen != DEV_ENDED)
        (void)pidfd_send_signal(fd, SIGKILL, NULL, 0);
    (void)waitpid(pid, &status, 0);
    (void)close(fd);
    *ret_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return seen;
}

/* True when the process behind fd ended within ms. */
static bool ended_within(int fd, int64_t ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int64_t end = clock_now_ns() + ms * CLOCK_MS;
    int n;

    do {
        int64_t left = (end - clock_now_ns()) / CLOCK_MS;

        n = poll(&p, 1, left > 0 ? (int)left : 0);
    } while (n < 0 && errno == EINTR);
    return n > 0;
}

/* Ask, and after a while do not ask. */
static void stop(int fd, int stop_signal)
{
    (void)pidfd_send_signal(fd, stop_signal, NULL, 0); /* fails only when it has ended */
    (void)pidfd_send_signal(fd, SIGCONT, NULL, 0);     /* a stopped process hears no other signal */
    if (ended_within(fd, STOP_MS))
        return;
    (void)pidfd_send_signal(fd, SIGKILL, NULL, 0);
    (void)ended_within(fd, KILL_MS);
}

void dev_group_close(struct dev_group *g)
{
    while (g->n > 0) {
        struct dev_server *server = &g->servers[--g->n];

        stop(server->fd, server->stop_signal);
        (void)waitpid(server->pid, NULL, WNOHANG);
        (void)close(server->fd);
        remove_pid_file(server->name);
    }
    if (g->signal_fd >= 0)
        (void)close(g->signal_fd);
    g->signal_fd = -1;
}

bool dev_sweep(const char *name, int stop_signal)
{
    unsigned long long started = 0;
    char path[PID_FILE_SIZE];
    bool ours = false;
    FILE *file;
    int pid = 0, fd;

    pid_file(name, path);
    file = fopen(path, "re");
    if (!file)
        return false;
    if (fscanf(file, "%d %llu", &pid, &started) != 2)
        pid = 0;
    (void)fclose(file); /* was only read */
    fd = pid > 0 ? pidfd_open(pid, 0) : -1;
    if (fd >= 0) {
        ours = started != 0 && start_time(pid) == started; /* looked at while fd holds the process fast */
        if (ours)
            stop(fd, stop_signal);
        (void)close(fd);
    }
    remove_pid_file(name);
    return ours;
}
