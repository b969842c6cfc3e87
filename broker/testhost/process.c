/* What a plugin may not change; see process.h. Linux: /proc tells of threads and descriptors. */
#include "testhost/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"

extern char **environ;

enum { RESTORER = 0x04000000 }; /* the C library's own flag: of handlers that were ever set */

static size_t count_threads(void)
{
    DIR *dir = opendir("/proc/self/task");
    size_t n = 0;

    while (dir && readdir(dir))
        n++;
    if (dir)
        (void)closedir(dir);
    return n;
}

static void look_at_fds(uint8_t fds[PROCESS_MAX_FDS])
{
    for (int fd = 0; fd < PROCESS_MAX_FDS; fd++)
        fds[fd] = fcntl(fd, F_GETFD) >= 0;
}

static mode_t umask_now(void)
{
    mode_t mask = umask(0);

    (void)umask(mask);
    return mask;
}

static char *folder_now(void)
{
    char path[PATH_MAX];

    return strdup(getcwd(path, sizeof path) ? path : "?");
}

static char *environment_now(void)
{
    struct buf b = {0};

    for (char **at = environ; at && *at; at++)
        buf_printf(&b, "%s\n", *at);
    buf_puts(&b, "");
    return buf_take(&b);
}

/* ThreadSanitizer starts a thread of its own beside the first of the program. */
extern void __tsan_init(void) __attribute__((weak));

static void *nothing(void *arg)
{
    return arg;
}

static void wake_sanitizer(void)
{
    pthread_t thread;

    if (__tsan_init && pthread_create(&thread, NULL, nothing, NULL) == 0)
        (void)pthread_join(thread, NULL);
}

void process_look(struct process *p)
{
    wake_sanitizer();
    p->n_threads = count_threads();
    look_at_fds(p->fds);
    for (int s = 1; s < 65; s++)
        (void)sigaction(s, NULL, &p->handlers[s]); /* those of the C library refuse: they stay zero on both sides */
    (void)sigprocmask(SIG_BLOCK, NULL, &p->blocked);
    p->mask = umask_now();
    p->folder = folder_now();
    p->locale = strdup(setlocale(LC_ALL, NULL));
    p->environment = environment_now();
}

void process_done(struct process *p)
{
    free(p->folder);
    free(p->locale);
    free(p->environment);
    p->folder = p->locale = p->environment = NULL;
}

/* pthread_join() returns before the kernel has forgotten the thread. */
static size_t threads_left(size_t before)
{
    const struct timespec moment = {.tv_nsec = 10 * 1000 * 1000};
    size_t now = count_threads();

    for (int i = 0; i < 100 && now > before; i++) {
        (void)nanosleep(&moment, NULL);
        now = count_threads();
    }
    return now > before ? now - before : 0;
}

struct telling {
    void (*fn)(void *arg, const char *text);
    void *arg;
};

static void tell(const struct telling *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tell(const struct telling *t, const char *fmt, ...)
{
    char text[400];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    t->fn(t->arg, text);
}

static void compare_fds(const struct process *p, const struct telling *t)
{
    uint8_t now[PROCESS_MAX_FDS];

    look_at_fds(now);
    for (int fd = 0; fd < PROCESS_MAX_FDS; fd++) {
        char link[40], what[200];
        ssize_t n;

        if (now[fd] && !p->fds[fd]) {
            (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            n = readlink(link, what, sizeof what - 1);
            what[n > 0 ? n : 0] = '\0';
            tell(t, "left file descriptor %d open (%s)", fd, what);
        } else if (!now[fd] && p->fds[fd]) {
            tell(t, "closed file descriptor %d, which is not its own", fd);
        }
    }
}

static void compare_signals(const struct process *p, const struct telling *t)
{
    sigset_t blocked;

    (void)sigprocmask(SIG_BLOCK, NULL, &blocked);
    for (int s = 1; s < 65; s++) {
        struct sigaction now = {0};

        if (sigaction(s, NULL, &now) == 0 &&
            (now.sa_handler != p->handlers[s].sa_handler || ((now.sa_flags ^ p->handlers[s].sa_flags) & ~RESTORER)))
            tell(t, "changed what signal %d (%s) does", s, strsignal(s));
        if (sigismember(&blocked, s) != sigismember(&p->blocked, s))
            tell(t, "changed whether signal %d (%s) is blocked", s, strsignal(s));
    }
}

static void compare_text(const struct telling *t, const char *what, const char *before, char *now)
{
    if (now && strcmp(before, now) != 0)
        tell(t, "changed the %s%s%.100s", what, strchr(now, '\n') ? "" : " to ", strchr(now, '\n') ? "" : now);
    free(now);
}

void process_compare(const struct process *p, void (*fn)(void *arg, const char *text), void *arg)
{
    struct telling t = {fn, arg};
    size_t n = threads_left(p->n_threads);

    if (n)
        tell(&t, "left %zu thread%s running", n, n > 1 ? "s" : "");
    compare_fds(p, &t);
    compare_signals(p, &t);
    if (umask_now() != p->mask)
        tell(&t, "changed the umask to %03o", (unsigned int)umask_now());
    compare_text(&t, "working folder", p->folder, folder_now());
    compare_text(&t, "locale", p->locale, strdup(setlocale(LC_ALL, NULL)));
    compare_text(&t, "environment", p->environment, environment_now());
}
