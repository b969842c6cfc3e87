/*
 * cron/times.h - when something is due: a cron expression of five fields in UTC, or every so often.
 *
 * Text     "minute hour day month weekday": numbers, names (jan, mon), an asterisk for all, lists 1,2, ranges 1-5, and steps 1-30/2, also of
 *          all; weekday 0 and 7 are Sunday. Where day and weekday are both restricted either is enough, as with cron(8). @hourly, @daily,
 *          @weekly, @monthly and @yearly stand for what they say.
 * Units    Seconds since 1970-01-01 UTC.
 * Threads  None: no state.
 */
#ifndef CRON_TIMES_H
#define CRON_TIMES_H

#include <stdbool.h>
#include <stdint.h>

struct times {
    int64_t every_s; /* > 0: at its multiples; the rest is not used */
    uint64_t minutes, hours, days, months, weekdays; /* a bit each */
    bool any_day, any_weekday;
};

enum { TIMES_WHY_SIZE = 160 };

/* False: why says what is wrong, also that no such time ever comes. */
bool times_parse(const char *text, struct times *ret, char why[TIMES_WHY_SIZE]);
/* The first time after after_s. */
int64_t times_next(const struct times *t, int64_t after_s);

#endif
