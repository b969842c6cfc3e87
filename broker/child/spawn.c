/* The process of a child; see spawn.h. */
#include "child/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <muster/plugin.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "child/platform.h"

/* Descriptors that go into the child are first moved above what they become there. */
enum { ABOVE = 16, N_ENV = 4, ENV_SIZE = 512 };

/* What the child gets, in the order of its descriptors 0 to SPAWN_FD. */
struct ends {
    int null, err, socket;           /* the child's */
    int parent_err, parent_socket; /* ours */
};

static int why_not(char why[SPAWN_WHY_SIZE], const char *what, int error)
{
    (void)snprintf(why, SPAWN_WHY_SIZE, "the process of a plugin cannot be started: %s: %s", what, strerror(error));
    return MUSTER_EAGAIN;
}

/* fd itself is closed; -1 stays -1. */
static int move_up(int fd)
{
    int moved = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, ABOVE);

    if (fd >= 0)
        (void)close(fd);
    return moved;
}

static void close_ends(const struct ends *e)
{
    const int fds[] = {e->null, e->err, e->socket, e->parent_err, e->parent_socket};

    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
}

static bool open_ends(struct ends *e)
{
    int sockets[2] = {-1, -1}, errs[2] = {-1, -1};
    int failed = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets);

    if (!failed)
        failed = pipe2(errs, O_CLOEXEC);
    *e = (struct ends){.null = move_up(open("/dev/null", O_RDONLY | O_CLOEXEC)), .err = move_up(errs[1]), .socket = move_up(sockets[1]),
                       .parent_err = move_up(errs[0]), .parent_socket = move_up(sockets[0])};
    if (failed || e->null < 0 || e->err < 0 || e->socket < 0 || e->parent_err < 0 || e->parent_socket < 0)
        return false;
    return fcntl(e->parent_err, F_SETFL, O_NONBLOCK) == 0 && fcntl(e->parent_socket, F_SETFL, O_NONBLOCK) == 0;
}

/* The zone of its clock for the plugin; the options of the sanitizers where there is one, without what needs a second process. */
static void make_environment(char texts[N_ENV][ENV_SIZE], char *env[N_ENV + 1])
{
    static const char *const names[N_ENV] = {"TZ", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"};
    size_t n = 0;

    for (size_t i = 0; i < (PLATFORM_SANITIZED ? N_ENV : 1); i++) {
        const char *value = getenv(names[i]);

        if (!value && i != 1)
            continue;
        (void)snprintf(texts[n], ENV_SIZE, "%s=%s%s", names[i], value ? value : "", i == 1 ? ":detect_leaks=0" : "");
        env[n] = texts[n];
        n++;
    }
    env[n] = NULL;
}

static int spawn_with(posix_spawn_file_actions_t *actions, posix_spawnattr_t *how, const char *name, pid_t *ret_pid)
{
    char texts[N_ENV][ENV_SIZE], who[96];
    char *env[N_ENV + 1], *argv[] = {"musterd", SPAWN_OPTION, who, NULL};
    sigset_t none, all;
    int err;

    (void)snprintf(who, sizeof who, "%s", name);
    make_environment(texts, env);
    sigemptyset(&none);
    sigfillset(&all);
    err = posix_spawnattr_setflags(how, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (!err)
        err = posix_spawnattr_setsigmask(how, &none);
    if (!err)
        err = posix_spawnattr_setsigdefault(how, &all);
    return err ? err : posix_spawn(ret_pid, "/proc/self/exe", actions, how, argv, env);
}

static int spawn_process(const struct ends *e, const char *name, pid_t *ret_pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t how;
    int err;

    ASSERT(posix_spawn_file_actions_init(&actions) == 0 && posix_spawnattr_init(&how) == 0); /* glibc: nothing to fail */
    err = posix_spawn_file_actions_adddup2(&actions, e->null, STDIN_FILENO);
    if (!err)
        err = posix_spawn_file_actions_adddup2(&actions, e->err, STDOUT_FILENO);
    if (!err)
        err = posix_spawn_file_actions_adddup2(&actions, e->err, STDERR_FILENO);
    if (!err)
        err = posix_spawn_file_actions_adddup2(&actions, e->socket, SPAWN_FD);
    if (!err)
        err = posix_spawn_file_actions_addclosefrom_np(&actions, SPAWN_FD + 1);
    if (!err)
        err = spawn_with(&actions, &how, name, ret_pid);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&how);
    return err;
}

int spawn_start(const char *name, struct spawn *ret_child, char why[SPAWN_WHY_SIZE])
{
    struct ends e;
    pid_t pid;
    int err;

    if (!open_ends(&e)) {
        err = errno;
        close_ends(&e);
        return why_not(why, "its socket and pipe", err);
    }
    err = spawn_process(&e, name, &pid);
    if (err) {
        close_ends(&e);
        return why_not(why, "posix_spawn", err);
    }
    (void)close(e.null);
    (void)close(e.err);
    (void)close(e.socket);
    *ret_child = (struct spawn){.pid = pid, .socket = e.parent_socket, .err = e.parent_err, .pidfd = (int)syscall(SYS_pidfd_open, pid, 0)};
    return 0;
}

bool spawn_reap(struct spawn *s, int *ret_status)
{
    if (!s->pid || waitpid(s->pid, ret_status, WNOHANG) != s->pid)
        return false;
    s->pid = 0;
    return true;
}

/* Sleeps in small pieces where there is no descriptor to wait for. */
static void wait_for_end(const struct spawn *s, int64_t left_ns)
{
    struct pollfd ended = {.fd = s->pidfd, .events = POLLIN};
    int64_t ms = left_ns / CLOCK_MS + 1;

    (void)poll(&ended, 1, (int)(s->pidfd < 0 && ms > 5 ? 5 : ms > 1000 ? 1000 : ms)); /* the caller looks itself */
}

bool spawn_wait(struct spawn *s, int64_t deadline_ns, int *ret_status)
{
    bool ended = spawn_reap(s, ret_status);

    while (s->pid && !ended) {
        int64_t left = deadline_ns - clock_now_ns();

        if (left <= 0)
            return false;
        wait_for_end(s, left);
        ended = spawn_reap(s, ret_status);
    }
    return ended;
}

int spawn_kill(struct spawn *s)
{
    int status = 0;

    if (!s->pid)
        return 0;
    (void)kill(s->pid, SIGKILL); /* it is our child and not reaped: the number is still its own */
    while (waitpid(s->pid, &status, 0) < 0 && errno == EINTR)
        ;
    s->pid = 0;
    return status;
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

void spawn_done(struct spawn *s)
{
    close_one(&s->socket);
    close_one(&s->err);
    close_one(&s->pidfd);
}

const char *spawn_status(int status, char out[SPAWN_STATUS_SIZE])
{
    if (WIFSIGNALED(status))
        (void)snprintf(out, SPAWN_STATUS_SIZE, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        (void)snprintf(out, SPAWN_STATUS_SIZE, "exit code %d", WEXITSTATUS(status));
    return out;
}
