/* The thread that writes; see writer.h. */
#include "writer.h"

#include "logfile.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const int64_t second_ns = 1000000000;
static const int64_t first_retry_ns = 100000000, last_retry_ns = 5000000000;

struct lines {
    char *data;
    size_t len, cap, n;
};

struct writer {
    struct writer_host host;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under the lock */
    struct writer_settings next; /* what writer_set() said last; path is owned */
    struct lines queue;
    size_t n_unwritten, unwritten; /* bytes and lines of queue and batch together */
    bool changed, starved, quiet, ending, over;
    int64_t end_ns;
    /* the thread's */
    struct writer_settings now;
    struct lines batch;
    size_t done; /* of the batch's bytes */
    struct logfile file;
    int64_t retry_ns, retry_at_ns, sync_at_ns, look_at_ns;
    bool unsynced, failing, reopen, hurried;
    atomic_bool stop; /* the file's: what cannot be written at the end is lost, and that is told */
};

static int64_t clock_ns(void)
{
    struct timespec at;

    (void)clock_gettime(CLOCK_MONOTONIC, &at); /* cannot fail on Linux */
    return (int64_t)at.tv_sec * second_ns + at.tv_nsec;
}

static bool add(struct lines *l, const char *line, size_t len)
{
    size_t cap = l->cap ? l->cap : 65536;
    char *data = l->data;

    while (cap - l->len < len)
        cap *= 2;
    if (cap != l->cap)
        data = realloc(l->data, cap);
    if (!data)
        return false;
    memcpy(data + l->len, line, len);
    *l = (struct lines){.data = data, .len = l->len + len, .cap = cap, .n = l->n + 1};
    return true;
}

/* ---- the thread ---- */

static void tell_failure(struct writer *w, const char *what, int err)
{
    int64_t now = clock_ns();

    w->failing = true;
    w->retry_ns = w->retry_ns ? w->retry_ns * 2 : first_retry_ns;
    if (w->retry_ns > last_retry_ns)
        w->retry_ns = last_retry_ns;
    w->retry_at_ns = now + w->retry_ns;
    w->host.metrics->add(w->host.host, w->host.failures, NULL, 1);
    w->host.host->health(w->host.host, MUSTER_HEALTH_DEGRADED, "cannot_write", "%s: %s: %s; what comes waits in memory", w->now.path,
                         what, strerror(err));
}

static void tell_works(struct writer *w)
{
    w->failing = false;
    w->retry_ns = w->retry_at_ns = 0;
    w->host.host->health(w->host.host, MUSTER_HEALTH_OK, "ok", "writing %s", w->now.path);
}

/* A line that is there in part is taken out and written again, whole. */
static void give_up_file(struct writer *w, const char *what, int err)
{
    size_t end = w->done;

    while (w->done > 0 && w->batch.data[w->done - 1] != '\n')
        w->done--;
    logfile_cut(&w->file, end - w->done);
    logfile_close(&w->file);
    tell_failure(w, what, err);
}

/* Between two batches: whatever of the old file could not be synced is told, and that is all that can be done. */
static void let_go(struct writer *w)
{
    int err = w->unsynced && w->now.sync != SYNC_NEVER ? logfile_sync(&w->file) : 0;

    if (err)
        tell_failure(w, "sync", err);
    w->unsynced = false;
    logfile_close(&w->file);
}

static bool is_due_for_a_look(struct writer *w)
{
    if (clock_ns() < w->look_at_ns)
        return false;
    w->look_at_ns = clock_ns() + second_ns;
    return true;
}

static bool open_file(struct writer *w)
{
    int err;

    if (w->file.fd >= 0 && (w->reopen || (is_due_for_a_look(w) && logfile_moved(&w->file, w->now.path))))
        let_go(w);
    w->reopen = false;
    if (w->file.fd >= 0)
        return true;
    err = logfile_open(&w->file, w->now.path);
    if (err)
        give_up_file(w, "open", err);
    return !err;
}

/* How much of the batch goes into the file before it is full: whole lines, and one at least into an empty file. 0: turn it over. */
static size_t next_piece(const struct writer *w)
{
    const char *data = w->batch.data + w->done, *end;
    size_t len = w->batch.len - w->done;
    int64_t room = w->file.regular ? w->now.max_bytes - w->file.size : INT64_MAX;

    if (room > 0 && (uint64_t)room >= len)
        return len;
    end = room > 0 ? memrchr(data, '\n', (size_t)room) : NULL;
    if (!end && w->file.size == 0)
        end = memchr(data, '\n', len);
    return end ? (size_t)(end - data) + 1 : 0;
}

static bool turn_over(struct writer *w)
{
    int err = w->unsynced && w->now.sync != SYNC_NEVER ? logfile_sync(&w->file) : 0;

    if (err) {
        give_up_file(w, "sync", err);
        return false;
    }
    err = logfile_rotate(&w->file, w->now.path, w->now.keep);
    if (err) {
        give_up_file(w, "rotate", err);
        return false;
    }
    w->host.metrics->add(w->host.host, w->host.rotations, NULL, 1);
    return true;
}

static bool write_batch(struct writer *w)
{
    while (w->done < w->batch.len) {
        size_t piece = next_piece(w), done;
        int err;

        if (piece == 0) {
            if (!turn_over(w))
                return false;
            continue;
        }
        err = logfile_append(&w->file, w->batch.data + w->done, piece, &done);
        w->done += done;
        w->unsynced = true;
        w->host.metrics->add(w->host.host, w->host.bytes, NULL, (int64_t)done);
        if (err) {
            give_up_file(w, "write", err);
            return false;
        }
    }
    return true;
}

/* Nobody knows what is on the disk after a failed sync: the batch is written once more, twice is better than not at all. */
static bool sync_file(struct writer *w)
{
    int err;

    w->sync_at_ns = clock_ns() + second_ns;
    if (!w->unsynced || w->file.fd < 0)
        return true;
    err = logfile_sync(&w->file);
    w->unsynced = false;
    if (!err)
        return true;
    w->done = 0;
    give_up_file(w, "sync", err);
    return false;
}

static bool work(struct writer *w)
{
    if (!open_file(w) || !write_batch(w))
        return false;
    if (w->now.sync == SYNC_ALWAYS || (w->now.sync == SYNC_SECOND && clock_ns() >= w->sync_at_ns))
        if (!sync_file(w))
            return false;
    if (w->failing)
        tell_works(w);
    return true;
}

/* The rest: with the lock, which is given back only for the work and while there is nothing to do. */

static void take_settings(struct writer *w)
{
    struct writer_settings old = w->now;
    char *path = strdup(w->next.path);

    w->changed = false;
    if (!path)
        return; /* the file that is open stays; the next change tries again */
    w->now = w->next;
    w->now.path = path;
    free((char *)old.path);
    w->reopen = true;
    w->retry_at_ns = w->retry_ns = 0;
}

static void tell_room(struct writer *w)
{
    w->host.metrics->set(w->host.host, w->host.queued, NULL, (int64_t)w->unwritten);
    if (w->starved && !w->quiet && (int64_t)w->unwritten <= w->next.queue_bytes / 2)
        w->starved = w->host.host->post(w->host.host, w->host.on_room, w->host.arg) != 0;
}

static void finish_batch(struct writer *w)
{
    w->unwritten -= w->batch.len;
    w->n_unwritten -= w->batch.n;
    w->host.metrics->add(w->host.host, w->host.lines, NULL, (int64_t)w->batch.n);
    w->batch.len = w->batch.n = w->done = 0;
    tell_room(w);
}

static void take_batch(struct writer *w)
{
    struct lines empty = w->batch;

    if (w->batch.len > 0)
        return; /* it failed before */
    w->batch = w->queue;
    w->queue = empty;
}

static bool has_work(const struct writer *w, int64_t now)
{
    if (now < w->retry_at_ns)
        return false;
    if (w->file.fd < 0 || w->reopen)
        return true;
    return w->batch.len > 0 || w->queue.len > 0 || (w->unsynced && w->now.sync == SYNC_SECOND && now >= w->sync_at_ns);
}

/* Whichever comes first: the next attempt, the sync, the end; never more than a second, to see a file that was moved. */
static void wait_a_while(struct writer *w)
{
    int64_t now = clock_ns(), until = now + second_ns;
    struct timespec at;

    if (w->retry_at_ns > now && w->retry_at_ns < until)
        until = w->retry_at_ns;
    else if (w->unsynced && w->now.sync == SYNC_SECOND && w->sync_at_ns > now && w->sync_at_ns < until)
        until = w->sync_at_ns;
    at = (struct timespec){.tv_sec = (time_t)(until / second_ns), .tv_nsec = (long)(until % second_ns)};
    (void)pthread_cond_timedwait(&w->wake, &w->lock, &at);
    tell_room(w); /* in case the first post found no place */
}

static bool is_over(const struct writer *w)
{
    return w->ending && (w->unwritten == 0 || clock_ns() >= w->end_ns);
}

static void *run(void *arg)
{
    struct writer *w = arg;
    bool done;

    pthread_mutex_lock(&w->lock);
    while (!is_over(w)) {
        if (w->changed)
            take_settings(w);
        if (w->ending && !w->hurried) {
            w->hurried = true; /* a last attempt at once */
            w->retry_at_ns = w->retry_ns = 0;
        }
        if (!has_work(w, clock_ns())) {
            wait_a_while(w);
            continue;
        }
        take_batch(w);
        pthread_mutex_unlock(&w->lock);
        done = work(w);
        pthread_mutex_lock(&w->lock);
        if (done)
            finish_batch(w);
    }
    pthread_mutex_unlock(&w->lock);
    if (w->now.sync != SYNC_NEVER)
        (void)sync_file(w); /* the end: whom could it be told */
    logfile_close(&w->file);
    pthread_mutex_lock(&w->lock);
    w->over = true;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* ---- the lane ---- */

static int start_thread(struct writer *w)
{
    pthread_condattr_t monotonic;
    sigset_t all, before;
    int err = pthread_condattr_init(&monotonic);

    if (err)
        return err;
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC); /* a clock that there is */
    err = pthread_cond_init(&w->wake, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    if (err)
        return err;
    /* Signals are for the program's own threads; a reader of a pipe that goes away is an error of write() then. */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&w->thread, NULL, run, w);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

static void free_memory(struct writer *w)
{
    free((char *)w->next.path);
    free((char *)w->now.path);
    free(w->queue.data);
    free(w->batch.data);
    free(w);
}

int writer_new(const struct writer_host *host, const struct writer_settings *settings, struct writer **ret_w)
{
    struct writer *w = calloc(1, sizeof *w);

    if (!w)
        return MUSTER_ENOMEM;
    w->host = *host;
    w->file = (struct logfile){.fd = -1, .stop = &w->stop};
    w->next = w->now = *settings;
    w->next.path = strdup(settings->path);
    w->now.path = strdup(settings->path);
    w->failing = true; /* until the first line is written, nobody knows */
    if (!w->next.path || !w->now.path || pthread_mutex_init(&w->lock, NULL) || start_thread(w)) {
        free_memory(w);
        return MUSTER_ENOMEM;
    }
    *ret_w = w;
    return 0;
}

int writer_set(struct writer *w, const struct writer_settings *settings)
{
    char *path = strdup(settings->path);

    if (!path)
        return MUSTER_ENOMEM;
    pthread_mutex_lock(&w->lock);
    free((char *)w->next.path);
    w->next = *settings;
    w->next.path = path;
    w->changed = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    return 0;
}

static bool is_full(const struct writer *w)
{
    return (int64_t)w->unwritten >= w->next.queue_bytes;
}

bool writer_put(struct writer *w, const char *line, size_t len, bool force)
{
    bool room;

    pthread_mutex_lock(&w->lock);
    w->starved |= is_full(w);
    room = (force || !is_full(w)) && add(&w->queue, line, len);
    if (room) {
        w->unwritten += len;
        w->n_unwritten++;
    }
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    return room;
}

bool writer_is_full(struct writer *w)
{
    bool full;

    pthread_mutex_lock(&w->lock);
    full = is_full(w);
    w->starved |= full;
    pthread_mutex_unlock(&w->lock);
    return full;
}

void writer_quiet(struct writer *w)
{
    pthread_mutex_lock(&w->lock);
    w->quiet = true;
    pthread_mutex_unlock(&w->lock);
}

/* Until the thread is through, or its time is. A disk that hangs is waited for without end: the thread is in a call of the kernel, and
 * its memory is in use. */
static void join(struct writer *w)
{
    const struct timespec at = {.tv_sec = (time_t)(w->end_ns / second_ns), .tv_nsec = (long)(w->end_ns % second_ns)};

    pthread_mutex_lock(&w->lock);
    while (!w->over && pthread_cond_timedwait(&w->wake, &w->lock, &at) == 0)
        ;
    pthread_mutex_unlock(&w->lock);
    atomic_store(&w->stop, true);
    (void)pthread_join(w->thread, NULL); /* it is there, and nobody else joins it */
}

uint64_t writer_free(struct writer *w, int64_t timeout_ns)
{
    uint64_t lost;

    if (!w)
        return 0;
    pthread_mutex_lock(&w->lock);
    w->ending = true;
    w->end_ns = clock_ns() + timeout_ns;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->lock);
    join(w);
    lost = w->n_unwritten;
    (void)pthread_cond_destroy(&w->wake);
    (void)pthread_mutex_destroy(&w->lock);
    free_memory(w);
    return lost;
}
