/* Memory that is lent and taken away; see arena.h. */
#include "testhost/arena.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"

enum { N_REMEMBERED = 1024, WHAT_SIZE = 120, ALIGN = 16, SLACK = 64 * ALIGN };

struct arena {
    char *base;
    size_t size, used;
};

/* The handler reads these without the lock: an entry is written before its end is set. */
static struct gone {
    char *base, *volatile end;
    char what[WHAT_SIZE];
} gone[N_REMEMBERED];
static size_t next_gone;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before;

struct arena *arena_new(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct arena *a = calloc(1, sizeof *a);

    ASSERT(a);
    a->size = (size + SLACK + page - 1) / page * page;
    a->base = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT(a->base != MAP_FAILED);
    return a;
}

void *arena_take(struct arena *a, size_t size)
{
    char *p = a->base + a->used;

    a->used += (size + ALIGN - 1) / ALIGN * ALIGN;
    ASSERT(a->used <= a->size);
    return p;
}

void *arena_copy(struct arena *a, const void *data, size_t len)
{
    char *p = arena_take(a, len + 1);

    if (len)
        memcpy(p, data, len);
    return p;
}

char *arena_text(struct arena *a, const char *s)
{
    return s ? arena_copy(a, s, strlen(s)) : NULL;
}

void arena_end(struct arena *a, const char *what)
{
    struct gone *g;

    if (!a)
        return;
    ASSERT(mprotect(a->base, a->size, PROT_NONE) == 0);
    pthread_mutex_lock(&lock);
    g = &gone[next_gone++ % N_REMEMBERED];
    if (g->end) {
        size_t size = (size_t)(g->end - g->base);

        g->end = NULL;
        (void)munmap(g->base, size);
    }
    g->base = a->base;
    (void)snprintf(g->what, sizeof g->what, "%s", what);
    g->end = a->base + a->size;
    pthread_mutex_unlock(&lock);
    free(a);
}

void arena_free(struct arena *a)
{
    if (!a)
        return;
    (void)munmap(a->base, a->size);
    free(a);
}

static const struct gone *find(const void *p)
{
    const char *at = p;

    for (size_t i = 0; i < N_REMEMBERED; i++)
        if (gone[i].end && at >= gone[i].base && at < gone[i].end)
            return &gone[i];
    return NULL;
}

const char *arena_stale(const void *p)
{
    const struct gone *g;

    pthread_mutex_lock(&lock);
    g = find(p);
    pthread_mutex_unlock(&lock);
    return g ? g->what : NULL;
}

static void say(const char *s)
{
    ssize_t n = write(STDERR_FILENO, s, strlen(s));

    (void)n; /* there is nobody left to tell */
}

/* Back to who was there before: the instruction runs again and meets them. */
static void on_segv(int signal, siginfo_t *info, void *context)
{
    const struct gone *g = find(info->si_addr);

    (void)context;
    if (g) {
        say("muster-testhost: borrowed memory was used after its time: ");
        say(g->what);
        say("\n");
    }
    (void)sigaction(signal, &before, NULL);
}

/* Test frameworks set and put back handlers of their own around each test. */
void arena_watch(void)
{
    struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK}, now;

    (void)sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&lock);
    if (sigaction(SIGSEGV, NULL, &now) == 0 && now.sa_sigaction != on_segv)
        (void)sigaction(SIGSEGV, &action, &before);
    pthread_mutex_unlock(&lock);
}
