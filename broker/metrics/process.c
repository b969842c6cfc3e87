/*
 * What the broker's process costs, under the names that every Prometheus client uses, and how much
 * it has logged. Nothing is kept here but the start time: all is read at the scrape, on the
 * scraping thread. What cannot be read is left out, as the format wants it: a zero would be
 * believed.
 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "metrics/metrics.h"

/* When this process was started (field 22 of its stat), in seconds since the epoch; when that
 * cannot be read, now. */
static double start_time(void)
{
    char line[1024];
    const char *rest;
    unsigned long long ticks; /* since boot */
    struct timespec up;
    FILE *f = fopen("/proc/self/stat", "re");
    size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
    double now = (double)clock_wall_ns() / 1e9;

    if (f)
        (void)fclose(f); /* it was only read */
    line[n] = '\0';
    rest = strrchr(line, ')'); /* the second field is the program's name: it may hold blanks */
    if (!rest || clock_gettime(CLOCK_BOOTTIME, &up) ||
        sscanf(rest,
               ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &ticks) != 1)
        return now;
    return now - (double)up.tv_sec - (double)up.tv_nsec / 1e9 +
           (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

static void read_start(void *arg, struct metrics_out *out)
{
    metrics_emit(out, NULL, 0, *(const double *)arg);
}

static void read_resident(void *arg, struct metrics_out *out)
{
    FILE *f = fopen("/proc/self/statm", "re");
    long pages;

    (void)arg;
    if (f && fscanf(f, "%*d %ld", &pages) == 1)
        metrics_emit(out, NULL, 0, (double)pages * (double)sysconf(_SC_PAGESIZE));
    if (f)
        (void)fclose(f); /* it was only read */
}

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static void read_cpu(void *arg, struct metrics_out *out)
{
    struct rusage used;

    (void)arg;
    if (getrusage(RUSAGE_SELF, &used) == 0)
        metrics_emit(out, NULL, 0, seconds(used.ru_utime) + seconds(used.ru_stime));
}

static void read_fds(void *arg, struct metrics_out *out)
{
    DIR *dir = opendir("/proc/self/fd");
    const struct dirent *entry;
    int n = -1; /* the descriptor of dir itself does not count */

    (void)arg;
    if (!dir)
        return;
    while ((entry = readdir(dir)))
        n += entry->d_name[0] != '.';
    (void)closedir(dir); /* it was only read */
    metrics_emit(out, NULL, 0, n);
}

static void read_max_fds(void *arg, struct metrics_out *out)
{
    struct rlimit limit;

    (void)arg;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        metrics_emit(out, NULL, 0, (double)limit.rlim_cur);
}

static void read_log_lines(void *arg, struct metrics_out *out)
{
    static const char *const levels[] = {"error", "warn", "info", "debug"};

    (void)arg;
    for (int i = LOG_ERROR; i <= LOG_DEBUG; i++)
        metrics_emit(out, &(struct metric_label){"level", levels[i]}, 1, (double)log_count(i));
}

static void read_build(void *arg, struct metrics_out *out)
{
    (void)arg;
    metrics_emit(out, &(struct metric_label){"version", MUSTER_VERSION}, 1, 1);
}

int metrics_watch_process(struct metrics *m)
{
    static const struct {
        int type;
        const char *name, *help;
        metrics_read_fn fn;
    } rows[] = {
        {MUSTER_GAUGE, "process_resident_memory_bytes", "Resident memory size in bytes.",
         read_resident},
        {MUSTER_COUNTER, "process_cpu_seconds_total", "User and system CPU time spent in seconds.",
         read_cpu},
        {MUSTER_GAUGE, "process_open_fds", "Number of open file descriptors.", read_fds},
        {MUSTER_GAUGE, "process_max_fds", "Limit of open file descriptors.", read_max_fds},
        {MUSTER_GAUGE, "process_start_time_seconds", "Start time since the Unix epoch in seconds.",
         read_start},
        {MUSTER_COUNTER, "muster_log_lines_total", "Log lines by level, those held back included.",
         read_log_lines},
        {MUSTER_GAUGE, "muster_build_info", "1, with the version as a label.", read_build},
    };
    static double started; /* read once: if it moved with the clock it would look like a restart */
    int err = 0;

    started = start_time();
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !err; i++) {
        struct metric_spec spec = {
            .type = rows[i].type, .name = rows[i].name, .help = rows[i].help};

        err = metrics_watch(m, &spec, rows[i].fn, &started);
    }
    return err;
}
