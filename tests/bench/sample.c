/* How long things took; see crowd.h. */
#include <stdio.h>
#include <stdlib.h>

#include "crowd.h"

static int64_t *samples;
static size_t n_samples, samples_cap;

void sample(int64_t ns)
{
    if (n_samples == samples_cap) {
        samples_cap = samples_cap ? 2 * samples_cap : 4096;
        samples = realloc(samples, samples_cap * sizeof *samples);
        if (!samples)
            die("memory");
    }
    samples[n_samples++] = ns;
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

void samples_print(void)
{
    qsort(samples, n_samples, sizeof *samples, by_time);
    printf(", \"n\": %zu", n_samples);
    if (n_samples)
        printf(", \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"max_ms\": %.2f", (double)samples[n_samples / 2] / 1e6,
               (double)samples[n_samples * 99 / 100] / 1e6, (double)samples[n_samples - 1] / 1e6);
    n_samples = 0;
}
