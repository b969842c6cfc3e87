/* Points in time; see moment.h. */
#include "fanout/moment.h"

enum { YEAR_MAX_DIGITS = 7 };
static const int64_t second_us = 1000000;

/* Read between least and most digits. */
static bool number(struct span *s, size_t least, size_t most, int64_t *ret)
{
    size_t n = 0;
    int64_t v = 0;

    for (; n < s->len && n < most && s->s[n] >= '0' && s->s[n] <= '9'; n++)
        v = v * 10 + (s->s[n] - '0');
    if (n < least)
        return false;
    *s = (struct span){s->s + n, s->len - n};
    *ret = v;
    return true;
}

static bool sign(struct span *s, char c)
{
    if (!s->len || s->s[0] != c)
        return false;
    *s = (struct span){s->s + 1, s->len - 1};
    return true;
}

static bool infinite(struct span s, int64_t *ret)
{
    if (SPAN_IS(s, "infinity"))
        *ret = INT64_MAX;
    else if (SPAN_IS(s, "-infinity"))
        *ret = INT64_MIN;
    else
        return false;
    return true;
}

static bool before_christ(struct span *s)
{
    if (s->len < 3 || memcmp(s->s + s->len - 3, " BC", 3) != 0)
        return false;
    s->len -= 3;
    return true;
}

/* Days from 1970-01-01 in the calendar that PostgreSQL uses for all times. */
static int64_t days(int64_t year, int64_t month, int64_t day)
{
    int64_t y = year - (month <= 2), era = (y >= 0 ? y : y - 399) / 400, in_era = y - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

    return era * 146097 + in_era * 365 + in_era / 4 - in_era / 100 + of_year - 719468;
}

static bool is_day(int64_t year, int64_t month, int64_t day)
{
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

    return month >= 1 && month <= 12 && day >= 1 && day <= lengths[month - 1] + (month == 2 && leap);
}

static bool date(struct span *s, bool bc, int64_t *ret_days)
{
    int64_t year, month, day;

    if (!number(s, 4, YEAR_MAX_DIGITS, &year) || !sign(s, '-') || !number(s, 2, 2, &month) || !sign(s, '-') || !number(s, 2, 2, &day))
        return false;
    if (bc)
        year = 1 - year;
    if (!is_day(year, month, day))
        return false;
    *ret_days = days(year, month, day);
    return true;
}

static bool fraction(struct span *s, int64_t *ret_us)
{
    size_t before = s->len;
    int64_t v;

    *ret_us = 0;
    if (!sign(s, '.'))
        return true;
    if (!number(s, 1, 6, &v))
        return false;
    for (size_t n = before - s->len - 1; n < 6; n++)
        v *= 10;
    *ret_us = v;
    return true;
}

static bool time_of_day(struct span *s, int64_t *ret_us)
{
    int64_t hour, minute, second = 0, us = 0;

    if (!number(s, 2, 2, &hour) || !sign(s, ':') || !number(s, 2, 2, &minute))
        return false;
    if (sign(s, ':') && (!number(s, 2, 2, &second) || !fraction(s, &us)))
        return false;
    if (hour > 24 || minute > 59 || second > 59 || (hour == 24 && (minute || second || us)))
        return false;
    *ret_us = ((hour * 60 + minute) * 60 + second) * second_us + us;
    return true;
}

static bool zone(struct span *s, int64_t *ret_us)
{
    int64_t hour, minute = 0, second = 0;
    bool minus;

    *ret_us = 0;
    if (sign(s, 'Z'))
        return true;
    minus = sign(s, '-');
    if ((!minus && !sign(s, '+')) || !number(s, 2, 2, &hour))
        return false;
    if (sign(s, ':') && !number(s, 2, 2, &minute))
        return false;
    if (sign(s, ':') && !number(s, 2, 2, &second))
        return false;
    *ret_us = ((hour * 60 + minute) * 60 + second) * (minus ? -second_us : second_us);
    return hour <= 15 && minute <= 59 && second <= 59;
}

bool moment_date(struct span s, int64_t *ret_days)
{
    if (infinite(s, ret_days))
        return true;
    return date(&s, before_christ(&s), ret_days) && !s.len;
}

bool moment_of_day(struct span s, int64_t *ret_us)
{
    return time_of_day(&s, ret_us) && !s.len;
}

bool moment_timestamp(struct span s, bool zoned, int64_t *ret_us)
{
    int64_t n, us, off = 0;
    bool bc;

    if (infinite(s, ret_us))
        return true;
    bc = before_christ(&s);
    if (!date(&s, bc, &n) || (!sign(&s, 'T') && !sign(&s, ' ')) || !time_of_day(&s, &us))
        return false;
    if ((zoned && !zone(&s, &off)) || s.len)
        return false;
    return !__builtin_mul_overflow(n, 86400 * second_us, &n) && !__builtin_add_overflow(n, us - off, ret_us);
}
