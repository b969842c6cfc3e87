/* The arithmetic of times against the C library's calendar: every found time fits, and no earlier one does. */
#include "times.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int failed;

#define CHECK(condition, ...)                                                                                                         \
    do {                                                                                                                              \
        if (!(condition)) {                                                                                                           \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                                           \
            fprintf(stderr, __VA_ARGS__);                                                                                             \
            fputc('\n', stderr);                                                                                                      \
            failed = 1;                                                                                                               \
        }                                                                                                                             \
    } while (0)

static int64_t at(const char *text)
{
    struct tm tm = {0};

    if (!strptime(text, "%Y-%m-%d %H:%M:%S", &tm))
        abort();
    return timegm(&tm);
}

static void check_next(const char *expression, const char *after, const char *expected)
{
    char why[TIMES_WHY_SIZE] = "", got[32];
    struct times t;
    time_t next;
    struct tm tm;

    if (!times_parse(expression, &t, why)) {
        CHECK(0, "%s: %s", expression, why);
        return;
    }
    next = (time_t)times_next(&t, at(after));
    strftime(got, sizeof got, "%Y-%m-%d %H:%M:%S", gmtime_r(&next, &tm));
    CHECK(strcmp(got, expected) == 0, "%s after %s: %s, expected %s", expression, after, got, expected);
}

static void test_next(void)
{
    check_next("* * * * *", "2026-01-01 00:00:00", "2026-01-01 00:01:00");
    check_next("* * * * *", "2026-01-01 00:00:59", "2026-01-01 00:01:00");
    check_next("*/15 * * * *", "2026-01-01 00:14:59", "2026-01-01 00:15:00");
    check_next("5/20 * * * *", "2026-01-01 00:25:00", "2026-01-01 00:45:00");
    check_next("0 0 29 2 *", "2026-01-01 00:00:00", "2028-02-29 00:00:00");
    check_next("0 0 29 2 *", "2096-03-01 00:00:00", "2104-02-29 00:00:00");
    check_next("30 6 * * mon-fri", "2026-01-02 06:30:00", "2026-01-05 06:30:00"); /* a Friday */
    check_next("0 0 * * 7", "2026-01-01 00:00:00", "2026-01-04 00:00:00");
    check_next("0 0 13 * fri", "2026-01-03 00:00:00", "2026-01-09 00:00:00"); /* either is enough */
    check_next("0 0 */2 * fri", "2026-01-03 00:00:00", "2026-01-09 00:00:00"); /* an asterisk with a step restricts nothing by itself */
    check_next("59 23 31 dec *", "2026-12-31 23:59:00", "2027-12-31 23:59:00");
    check_next("0 12 1,15 jan,Jul *", "2026-01-15 12:00:00", "2026-07-01 12:00:00");
    check_next("@monthly", "2026-02-01 00:00:00", "2026-03-01 00:00:00");
}

static void test_refused(void)
{
    static const char *const wrong[] = {"",           "* * * *",       "* * * * * *", "60 * * * *",  "* 24 * * *",  "* * 0 * *",
                                        "* * 32 * *", "* * * 13 *",    "* * * * 8",   "5-1 * * * *", "*/0 * * * *", "1,,2 * * * *",
                                        "1- * * * *", "a * * * *",     "* * * foo *", "1, * * * *",  "@never",      "0 0 30 2 *",
                                        "0 0 31 4,6,9,11 *", "12345 * * * *", "* * * * mon-", "1/ * * * *"};
    char why[TIMES_WHY_SIZE];
    struct times t;

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(!times_parse(wrong[i], &t, why) && why[0], "\"%s\" was accepted", wrong[i]);
}

static bool fits(const struct times *t, time_t when)
{
    struct tm tm;

    gmtime_r(&when, &tm);
    bool day = t->days >> tm.tm_mday & 1, weekday = t->weekdays >> tm.tm_wday & 1;

    return (t->minutes >> tm.tm_min & 1) && (t->hours >> tm.tm_hour & 1) && (t->months >> (tm.tm_mon + 1) & 1) &&
           (t->any_day || t->any_weekday ? day && weekday : day || weekday);
}

/* Random expressions, random times, the plain search minute by minute. */
static void test_against_the_calendar(void)
{
    uint64_t seed = 1;

    for (int i = 0; i < 300; i++) {
        char text[64], why[TIMES_WHY_SIZE];
        struct times t;
        unsigned int r[6];

        for (int k = 0; k < 6; k++)
            r[k] = (unsigned int)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33);
        snprintf(text, sizeof text, r[5] % 2 ? "%u %u/7 %u-%u * %u" : "%u %u %u-%u */2 *", r[0] % 60, r[1] % 24, r[2] % 14 + 1, r[3] % 14 + 15,
                 r[4] % 8);
        if (!times_parse(text, &t, why)) {
            CHECK(0, "%s: %s", text, why);
            continue;
        }
        int64_t after = r[1] % 4000000000u, expected = after / 60 * 60 + 60, next = times_next(&t, after);

        while (!fits(&t, (time_t)expected))
            expected += 60;
        CHECK(next == expected, "%s after %lld: %lld, expected %lld", text, (long long)after, (long long)next, (long long)expected);
    }
}

int main(void)
{
    test_next();
    test_refused();
    test_against_the_calendar();
    return failed;
}
