/*
 * The two ends of a test of `muster plugin check`: the parent starts, bounds and hears the child; the child says what it finds.
 *
 * Lines of the child: "F text" a failure, "S text" skipped, "N text" a note, "L" what the test shows was seen, "D text" what ran when a
 * signal or an exit ended it, "R seed" a life of the fuzz, "." the end in order.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/plugin_check.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOWER = 8, BOUND_MEMORY = 0 }; /* a sanitizer maps terabytes that it does not use */
#else
enum { SLOWER = 1, BOUND_MEMORY = 1 };
#endif
enum { REPORT_FD = 3, LIMIT_S = 15 * SLOWER, MAX_WAITED_S = 4 * LIMIT_S, ASK_MS = 1000, MAX_LINES = 256 * 1024, MAX_OUTPUT = 64 * 1024 };
static const rlim_t max_memory = 1u << 30, max_file = 64u << 20, max_files = 512;

/* ---- the child's end ----------------------------------------------------------------------------------------------------------- */

static struct plugin_check child; /* of this process, for signal handlers */
static bool finished;

static void say(char what, const char *fmt, va_list ap)
{
    char line[900];
    int n = snprintf(line, sizeof line - 1, "%c ", what);
    ssize_t sent;

    n += vsnprintf(line + n, sizeof line - 1 - (size_t)n, fmt, ap);
    if (n > (int)sizeof line - 2)
        n = (int)sizeof line - 2;
    for (int i = 0; i < n; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[n++] = '\n';
    sent = write(REPORT_FD, line, (size_t)n); /* one write: lines of threads do not mix */
    (void)sent;                               /* who does not hear it sees the end */
}

void check_failed(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say('F', fmt, ap);
    va_end(ap);
}

void check_skipped(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say('S', fmt, ap);
    va_end(ap);
}

void check_note(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say('N', fmt, ap);
    va_end(ap);
}

static void tell(const char *line)
{
    ssize_t sent = write(REPORT_FD, line, strlen(line));

    (void)sent;
}

void check_seed(uint64_t seed)
{
    char line[32];

    (void)snprintf(line, sizeof line, "R %llu\n", (unsigned long long)seed);
    tell(line);
}

void check_shown(void)
{
    tell("L\n");
}

/* Only what a signal handler may do. */
static void tell_doing(void)
{
    tell("D ");
    tell(child.t ? muster_test_doing(child.t) : "");
    tell("\n");
}

static void on_signal(int s)
{
    tell_doing();
    if (s == SIGALRM)
        _exit(1);
    (void)signal(s, SIG_DFL);
    (void)raise(s);
}

static void on_exit_early(void)
{
    if (!finished)
        tell_doing();
}

/* A stack of its own, because an endless recursion has none left. */
static void catch_signals(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM};
    static char memory[64 * 1024];
    const stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_NODEFER};

    (void)sigaltstack(&stack, NULL);
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        (void)sigaction(signals[i], &action, NULL);
    (void)atexit(on_exit_early);
}

static void read_all(int fd, struct buf *out)
{
    char piece[4096];
    ssize_t n;

    while ((n = read(fd, piece, sizeof piece)) > 0)
        buf_put(out, piece, (size_t)n);
    buf_puts(out, "");
}

int check_one(int argc, char **argv)
{
    struct buf config = {0};

    if (argc != 6 || fcntl(REPORT_FD, F_GETFD) < 0)
        return 2; /* not started by check_run() */
    (void)fcntl(REPORT_FD, F_SETFD, FD_CLOEXEC);
    read_all(STDIN_FILENO, &config);
    child = (struct plugin_check){.file = argv[1],
                                  .config = config.data,
                                  .seed = strtoull(argv[3], NULL, 10),
                                  .runs = (uint32_t)strtoul(argv[4], NULL, 10),
                                  .tell_events = argv[5][0] == 'v'};
    catch_signals();
    for (size_t i = 0; i < n_plugin_tests; i++)
        if (strcmp(plugin_tests[i].name, argv[2]) == 0)
            plugin_tests[i].run(&child);
    finished = true;
    tell(".\n");
    buf_done(&config);
    return 0;
}

/* ---- the parent's end ---------------------------------------------------------------------------------------------------------- */

/* What the child begins with: nothing of ours but the file's name and the three descriptors. Only async-signal-safe calls. */
static void become_child(const int fds[3], char *const *argv, const char *folder)
{
    static char *const environment[] = {(char *)(uintptr_t)"PATH=/usr/bin:/bin", (char *)(uintptr_t)"LANG=C",
                                        /* Freed memory counts as free at once, whoever freed it: the test of leaks counts. */
                                        (char *)(uintptr_t)"GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1",
                                        (char *)(uintptr_t)"ASAN_OPTIONS=abort_on_error=1:allow_user_segv_handler=1:handle_abort=0", NULL};
    const struct rlimit memory = {max_memory, max_memory}, file = {max_file, max_file}, none = {0, 0}, files = {max_files, max_files};

    (void)setsid();
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (BOUND_MEMORY)
        (void)setrlimit(RLIMIT_AS, &memory);
    (void)setrlimit(RLIMIT_FSIZE, &file);
    (void)setrlimit(RLIMIT_NOFILE, &files);
    (void)setrlimit(RLIMIT_CORE, &none);
    if (chdir(folder) != 0 || dup2(fds[0], STDIN_FILENO) < 0 || dup2(fds[1], STDOUT_FILENO) < 0 || dup2(fds[1], STDERR_FILENO) < 0 ||
        dup2(fds[2], REPORT_FD) < 0)
        _exit(127);
    (void)execve("/proc/self/exe", argv, environment);
    _exit(127);
}

static int settings_file(const char *config)
{
    int fd = memfd_create("settings", MFD_CLOEXEC);
    size_t len = strlen(config);

    if (fd >= 0 && (write(fd, config, len) != (ssize_t)len || lseek(fd, 0, SEEK_SET) != 0)) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static void take_line(struct check_result *r, const char *line, size_t len)
{
    struct buf *to = line[0] == 'F' ? &r->failures : line[0] == 'S' ? &r->skips : line[0] == 'N' ? &r->notes : NULL;

    if (line[0] == '.')
        r->finished = true;
    else if (line[0] == 'L')
        r->shown = true;
    else if (line[0] == 'R' && len > 2) {
        r->lived = true;
        r->seed = strtoull(line + 2, NULL, 10);
    } else if (line[0] == 'D' && len > 2)
        buf_printf(&r->end, " in %.*s", (int)(len < 200 ? len - 2 : 198), line + 2);
    else if (to && len > 2 && to->len < MAX_LINES)
        buf_printf(to, "%.*s\n", (int)(len - 2), line + 2);
}

/* What is left of a line waits for its end. */
static void take_lines(struct check_result *r, struct buf *heard)
{
    const char *at = heard->data, *end = at + heard->len, *nl;
    size_t left;

    while ((nl = memchr(at, '\n', (size_t)(end - at)))) {
        take_line(r, at, (size_t)(nl - at));
        at = nl + 1;
    }
    left = (size_t)(end - at);
    memmove(heard->data, at, left);
    heard->len = left < MAX_LINES ? left : 0;
}

/* What a child, or a life of its fuzz, has of time. */
struct time_limit {
    pid_t pid;
    int64_t began_ns, ns;
    int64_t waited_ns; /* as waited_ns(pid) was then */
};

/* How long it has stood ready and waited for a processor: that is the machine's time, not the plugin's. Its tests run on its first thread. */
static int64_t waited_ns(pid_t pid)
{
    char path[40];
    unsigned long long ran, waited = 0;
    FILE *f;

    (void)snprintf(path, sizeof path, "/proc/%d/schedstat", (int)pid);
    f = fopen(path, "re");
    if (!f)
        return 0; /* a kernel that does not count it */
    if (fscanf(f, "%llu %llu", &ran, &waited) != 2)
        waited = 0;
    (void)fclose(f);
    return (int64_t)waited;
}

static struct time_limit limit_from_now(pid_t pid, int64_t ns)
{
    return (struct time_limit){.pid = pid, .began_ns = clock_now_ns(), .ns = ns, .waited_ns = waited_ns(pid)};
}

static int left_ms(const struct time_limit *l)
{
    int64_t waited = waited_ns(l->pid) - l->waited_ns, max = MAX_WAITED_S * CLOCK_S;

    waited = waited < 0 ? 0 : waited < max ? waited : max; /* below 0: it has ended */
    return (int)((l->began_ns + l->ns + waited - clock_now_ns()) / CLOCK_MS);
}

/* False: there is nothing more to read. */
static bool hear_piece(int fd, struct check_result *r, struct buf *heard)
{
    char piece[4096];
    ssize_t n = read(fd, piece, sizeof piece);

    if (n <= 0)
        return false;
    buf_put(heard, piece, (size_t)n);
    take_lines(r, heard);
    return true;
}

/* Hear the child until it has closed its end or the time is over; each life of the fuzz has it anew. False: it is over. */
static bool hear(int fd, struct time_limit l, struct check_result *r)
{
    struct buf heard = {0};
    int ms;

    while ((ms = left_ms(&l)) > 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint64_t seed = r->seed;

        if (poll(&p, 1, ms) == 0)
            continue;
        if (!hear_piece(fd, r, &heard))
            break;
        if (r->seed != seed)
            l = limit_from_now(l.pid, l.ns);
    }
    buf_done(&heard);
    return ms > 0;
}

/* 1: a status; 0: it runs on. */
static int wait_for(pid_t pid, int ms, int *ret_status)
{
    for (; ms >= 0; ms -= 10) {
        pid_t got = waitpid(pid, ret_status, WNOHANG);

        if (got == pid)
            return 1;
        (void)poll(NULL, 0, 10);
    }
    return 0;
}

static void put_end(struct check_result *r, const char *how)
{
    char *doing = buf_take(&r->end);

    buf_printf(&r->end, "%s%s", how, doing ? doing : "");
    free(doing);
}

static void judge_status(struct check_result *r, int status, bool in_time)
{
    char how[120];

    if (!in_time)
        (void)snprintf(how, sizeof how, "did not return within %d s", LIMIT_S);
    else if (WIFSIGNALED(status))
        (void)snprintf(how, sizeof how, "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (!r->finished)
        (void)snprintf(how, sizeof how, "ended the process with exit code %d", WEXITSTATUS(status));
    else
        return;
    r->finished = false;
    put_end(r, how);
}

/* Its first and last words are worth most: a sanitizer's summary, or our line about borrowed memory. */
static void judge_output(struct check_result *r, int fd)
{
    static const char ours[] = "muster-testhost: ";
    struct buf said = {0};
    size_t len;

    if (lseek(fd, 0, SEEK_SET) != 0)
        return;
    read_all(fd, &said);
    len = said.len < MAX_OUTPUT ? said.len : MAX_OUTPUT;
    while (len && said.data[len - 1] == '\n')
        len--;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)said.data[i] < ' ')
            said.data[i] = ' ';
    if (len > sizeof ours && memcmp(said.data, ours, sizeof ours - 1) == 0)
        buf_printf(&r->failures, "%.*s\n", (int)(len < 600 ? len : 600) - (int)sizeof ours + 1, said.data + sizeof ours - 1);
    else if (len)
        buf_printf(&r->failures, "wrote to stdout or stderr, which are not a plugin's: %.*s%s%.*s\n", (int)(len < 300 ? len : 300), said.data,
                   len > 300 ? " … " : "", (int)(len > 600 ? 300 : len > 300 ? len - 300 : 0), said.data + (len > 600 ? len - 300 : 300));
    buf_done(&said);
}

static int stop(pid_t pid)
{
    int status = 0;

    (void)kill(pid, SIGALRM); /* it says what runs, if it can */
    if (!wait_for(pid, ASK_MS, &status)) {
        (void)kill(-pid, SIGKILL);
        (void)waitpid(pid, &status, 0);
    }
    return status;
}

static void follow(pid_t pid, int fd, struct check_result *r)
{
    int64_t began = clock_now_ns();
    bool in_time = hear(fd, limit_from_now(pid, LIMIT_S * CLOCK_S), r);
    int status;

    if (in_time) {
        if (!wait_for(pid, ASK_MS, &status))
            status = stop(pid);
    } else {
        status = stop(pid);
        (void)hear(fd, limit_from_now(pid, CLOCK_S / 10), r);
    }
    (void)kill(-pid, SIGKILL); /* what it has started */
    r->took_ms = (clock_now_ns() - began) / CLOCK_MS;
    judge_status(r, status, in_time);
}

static pid_t start(const struct plugin_check *c, const char *name, const int fds[3], const char *folder)
{
    char seed[24], runs[12], verbose[] = {c->tell_events ? 'v' : '-', '\0'};
    char *const argv[] = {(char *)(uintptr_t)"muster", (char *)(uintptr_t)"plugin", (char *)(uintptr_t)CHECK_CHILD,
                          (char *)(uintptr_t)c->file, (char *)(uintptr_t)name, seed, runs, verbose, NULL};
    pid_t pid;

    (void)snprintf(seed, sizeof seed, "%llu", (unsigned long long)c->seed);
    (void)snprintf(runs, sizeof runs, "%u", c->runs);
    pid = fork();
    if (pid == 0)
        become_child(fds, argv, folder);
    return pid;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

bool check_run(const struct plugin_check *c, const char *name, struct check_result *r)
{
    char folder[] = "/tmp/muster-check-XXXXXX";
    int report[2] = {-1, -1}, in = settings_file(c->config), out = memfd_create("output", MFD_CLOEXEC);
    bool ok = in >= 0 && out >= 0 && pipe2(report, O_CLOEXEC) == 0 && mkdtemp(folder);
    pid_t pid = ok ? start(c, name, (const int[]){in, out, report[1]}, folder) : -1;

    *r = (struct check_result){0};
    (void)close(report[1]);
    if (pid > 0) {
        follow(pid, report[0], r);
        judge_output(r, out);
    }
    (void)close(report[0]);
    (void)close(in);
    (void)close(out);
    if (ok)
        (void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS); /* with what the plugin has left there */
    return pid > 0;
}

void check_result_done(struct check_result *r)
{
    buf_done(&r->failures);
    buf_done(&r->skips);
    buf_done(&r->notes);
    buf_done(&r->end);
}
