/* Cron expressions; see times.h. */
#include "times.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { DAY_S = 86400, MINUTE_S = 60, NEVER = -1 };
enum { SEARCH_DAYS = 8 * 366 + 1 }; /* 29 February is eight years away at most, around 2100 */

struct field {
    const char *name;
    const char *const *words; /* of the numbers from low on; NULL: none */
    int low, high;
};

static const char *const month_words[] = {"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", NULL};
static const char *const day_words[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat", NULL};

/* ---- text ---- */

static bool read_number(const char **at, const struct field *f, int *ret)
{
    int n = 0, digits = 0;

    for (int i = 0; f->words && f->words[i]; i++)
        if (strncasecmp(*at, f->words[i], 3) == 0) {
            *at += 3;
            *ret = f->low + i;
            return true;
        }
    for (; **at >= '0' && **at <= '9' && digits < 4; (*at)++, digits++)
        n = n * 10 + (**at - '0');
    *ret = n;
    return digits > 0;
}

/* "*", "5", "1-5", each with "/2" behind it. */
static bool read_range(const char **at, const struct field *f, uint64_t *bits)
{
    const struct field plain = {.low = 0};
    int from = f->low, to = f->high, step = 1;
    bool one = **at != '*';

    if (!one)
        (*at)++;
    else if (!read_number(at, f, &from))
        return false;
    if (one)
        to = from;
    if (one && **at == '-') {
        (*at)++;
        one = false;
        if (!read_number(at, f, &to))
            return false;
    }
    if (**at == '/') {
        (*at)++;
        to = one ? f->high : to;
        if (!read_number(at, &plain, &step))
            return false;
    }
    if (from < f->low || to > f->high || from > to || step < 1)
        return false;
    for (int i = from; i <= to; i += step)
        *bits |= UINT64_C(1) << i;
    return true;
}

static bool read_field(const char *text, const struct field *f, uint64_t *ret_bits)
{
    const char *at = text;

    *ret_bits = 0;
    while (read_range(&at, f, ret_bits)) {
        if (*at == '\0')
            return true;
        if (*at++ != ',')
            return false;
    }
    return false;
}

/* Cut text into its words. False: it has more or fewer than n. */
static bool split(char *text, char *words[], int n)
{
    char *rest = NULL;
    int i = 0;

    for (char *word = strtok_r(text, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest)) {
        if (i == n)
            return false;
        words[i++] = word;
    }
    return i == n;
}

static const char *expand(const char *text)
{
    static const char *const names[][2] = {{"@hourly", "0 * * * *"},   {"@daily", "0 0 * * *"},   {"@weekly", "0 0 * * 0"},
                                           {"@monthly", "0 0 1 * *"}, {"@yearly", "0 0 1 1 *"}};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i][0]) == 0)
            return names[i][1];
    return text;
}

bool times_parse(const char *text, struct times *ret, char why[TIMES_WHY_SIZE])
{
    static const struct field fields[] = {{"minute", NULL, 0, 59},
                                          {"hour", NULL, 0, 23},
                                          {"day", NULL, 1, 31},
                                          {"month", month_words, 1, 12},
                                          {"weekday", day_words, 0, 7}};
    uint64_t bits[5];
    char copy[128], *words[5];

    if (snprintf(copy, sizeof copy, "%s", expand(text)) >= (int)sizeof copy || !split(copy, words, 5)) {
        (void)snprintf(why, TIMES_WHY_SIZE, "\"%.60s\" came, \"minute hour day month weekday\" was expected", text);
        return false;
    }
    for (int i = 0; i < 5; i++)
        if (!read_field(words[i], &fields[i], &bits[i])) {
            (void)snprintf(why, TIMES_WHY_SIZE, "%s \"%.40s\" came, %d to %d, *, lists, ranges or steps of these were expected",
                           fields[i].name, words[i], fields[i].low, fields[i].high);
            return false;
        }
    bits[4] |= bits[4] >> 7; /* 7 is Sunday too */
    *ret = (struct times){.minutes = bits[0], .hours = bits[1], .days = bits[2], .months = bits[3], .weekdays = bits[4],
                          .any_day = words[2][0] == '*', .any_weekday = words[4][0] == '*'};
    if (times_next(ret, 0) == NEVER) {
        (void)snprintf(why, TIMES_WHY_SIZE, "\"%.60s\" never comes", text);
        return false;
    }
    return true;
}

/* ---- the calendar ---- */

struct date {
    int month, day, weekday;
};

/* Of a day since 1970, proleptic Gregorian: years are counted from March on, so that the day that is not always there comes last. */
static struct date date_of(int64_t day)
{
    int64_t shifted = day + 719468; /* since 0000-03-01 */
    int64_t of_era = shifted % 146097;        /* 400 years, which repeat */
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * of_year + 2) / 153;

    return (struct date){.month = (int)(month < 10 ? month + 3 : month - 9),
                         .day = (int)(of_year - (153 * month + 2) / 5 + 1),
                         .weekday = (int)((day + 4) % 7)};
}

static bool has(uint64_t bits, int64_t i)
{
    return bits >> i & 1;
}

static bool is_day(const struct times *t, int64_t day)
{
    struct date d = date_of(day);
    bool by_day = has(t->days, d.day), by_weekday = has(t->weekdays, d.weekday);

    if (!has(t->months, d.month))
        return false;
    if (t->any_day || t->any_weekday)
        return by_day && by_weekday;
    return by_day || by_weekday;
}

/* The first minute of the day from `minute` on; NEVER. */
static int64_t next_minute(const struct times *t, int64_t minute)
{
    for (; minute < DAY_S / MINUTE_S; minute++)
        if (has(t->hours, minute / 60) && has(t->minutes, minute % 60))
            return minute;
    return NEVER;
}

int64_t times_next(const struct times *t, int64_t after_s)
{
    int64_t at = after_s < 0 ? 0 : after_s / MINUTE_S + 1, day, minute;

    if (t->every_s > 0)
        return (after_s / t->every_s + 1) * t->every_s;
    day = at / (DAY_S / MINUTE_S);
    minute = at % (DAY_S / MINUTE_S);
    for (int64_t last = day + SEARCH_DAYS; day <= last; day++, minute = 0) {
        int64_t found = is_day(t, day) ? next_minute(t, minute) : NEVER;

        if (found != NEVER)
            return day * DAY_S + found * MINUTE_S;
    }
    return NEVER;
}
