/* Time and identifiers made of it; see clock.h. */
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/assert.h"

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;

    ASSERT(clock_gettime(id, &ts) == 0);
    return (int64_t)ts.tv_sec * CLOCK_S + ts.tv_nsec;
}

int64_t clock_now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

int64_t clock_boot_ns(void)
{
    return read_clock(CLOCK_BOOTTIME);
}

int64_t clock_wall_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

/* Write v's digits so that they end before `end`; the zeros in front stand there. By hand: every transaction has a time, and
 * snprintf() took a fifth of what a row costs. */
static void put_digits(char *end, int v)
{
    for (; v; v /= 10)
        *--end = (char)('0' + v % 10);
}

/* Rounded down, before 1970 as well: / and % of C round towards zero, which the corrections undo. */
void clock_rfc3339(int64_t wall_ns, char out[CLOCK_RFC3339_SIZE])
{
    int64_t us = wall_ns / 1000 - (wall_ns % 1000 < 0);
    int64_t frac = us % 1000000;
    time_t s = (time_t)(us / 1000000 - (frac < 0));
    struct tm tm;

    if (frac < 0)
        frac += 1000000;
    (void)gmtime_r(&s, &tm); /* fails only for years that an int64 of nanoseconds cannot reach */
    memcpy(out, "0000-00-00T00:00:00.000000Z", CLOCK_RFC3339_SIZE);
    put_digits(out + 4, tm.tm_year + 1900);
    put_digits(out + 7, tm.tm_mon + 1);
    put_digits(out + 10, tm.tm_mday);
    put_digits(out + 13, tm.tm_hour);
    put_digits(out + 16, tm.tm_min);
    put_digits(out + 19, tm.tm_sec);
    put_digits(out + 26, (int)frac);
}

uint64_t clock_random(void)
{
    uint64_t bits;

    ASSERT(getrandom(&bits, sizeof bits, 0) == (ssize_t)sizeof bits);
    return bits;
}

int64_t clock_parse_rfc3339(const char *s)
{
    struct tm tm = {0};
    const char *rest = strptime(s, "%Y-%m-%dT%H:%M:%S", &tm);
    int64_t ns = 0, scale = CLOCK_S / 10, seconds;

    if (!rest)
        return 0;
    seconds = (int64_t)timegm(&tm);
    if (*rest == '.')
        for (rest++; *rest >= '0' && *rest <= '9' && scale; rest++, scale /= 10)
            ns += (*rest - '0') * scale;
    return seconds > 0 && seconds < INT64_MAX / CLOCK_S ? seconds * CLOCK_S + ns : 0;
}

/* RFC 9562: 48 bits of milliseconds, version and variant, the rest random. Ids of one millisecond have no order among
 * them. */
void clock_uuid7(char out[CLOCK_UUID_SIZE])
{
    uint64_t ms = (uint64_t)(clock_wall_ns() / CLOCK_MS);
    uint8_t b[16];

    ASSERT(getrandom(b, sizeof b, 0) == (ssize_t)sizeof b);
    for (int i = 0; i < 6; i++)
        b[i] = (uint8_t)(ms >> (40 - 8 * i));
    b[6] = (uint8_t)(0x70 | (b[6] & 0x0f));
    b[8] = (uint8_t)(0x80 | (b[8] & 0x3f));
    (void)snprintf(out, CLOCK_UUID_SIZE, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
                   b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}
