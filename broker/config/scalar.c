/*
 * Numbers and their units, both ways; see scalar.h.
 *
 * What scalar_put_…() writes, the reader of the same type takes back to the same number; --print-config
 * relies on it.
 */
#include "config/scalar.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct unit {
    const char *name;
    int64_t factor;
};

/* Rising; a form without a unit is legal where the table has "". */
static const struct unit time_units[] = {
    {"ms", 1000000LL},      {"s", 1000000000LL},     {"m", 60000000000LL},
    {"h", 3600000000000LL}, {"d", 86400000000000LL},
};
static const struct unit byte_units[] = {
    {"", 1}, {"KiB", 1LL << 10}, {"MiB", 1LL << 20}, {"GiB", 1LL << 30}};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static size_t n_digits(const char *s)
{
    return strspn(s, "0123456789");
}

/* Decimal digits without a leading 0. Returns their number, 0 when they are not that. */
static size_t read_digits(const char *s, int64_t *ret_value, bool *ret_over)
{
    size_t n = n_digits(s);
    int64_t value = 0;
    bool over = false;

    if (n == 0 || (n > 1 && s[0] == '0'))
        return 0;
    for (size_t i = 0; i < n && !over; i++)
        over =
            __builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, s[i] - '0', &value);
    *ret_value = over ? INT64_MAX : value;
    *ret_over = over;
    return n;
}

bool scalar_int(const char *text, int64_t *ret_value, bool *ret_over)
{
    bool negative = text[0] == '-', over;
    int64_t value;
    size_t n = read_digits(text + negative, &value, &over);

    if (n == 0 || text[negative + n])
        return false;
    *ret_value = !negative ? value : over ? INT64_MIN : -value;
    *ret_over = over;
    return true;
}

/* -?digits[.digits][e[+-]digits] */
static bool is_float(const char *s)
{
    size_t n;

    s += *s == '-';
    n = n_digits(s);
    if (n == 0 || (n > 1 && s[0] == '0'))
        return false;
    s += n;
    if (*s == '.') {
        n = n_digits(s + 1);
        if (n == 0)
            return false;
        s += n + 1;
    }
    if (*s == 'e' || *s == 'E') {
        s += 1 + (s[1] == '-' || s[1] == '+');
        n = n_digits(s);
        if (n == 0)
            return false;
        s += n;
    }
    return *s == '\0';
}

/* strtod() reads a point as a point because no part of the broker calls setlocale(). */
bool scalar_float(const char *text, double *ret_value)
{
    double value;

    if (!is_float(text))
        return false;
    value = strtod(text, NULL);
    if (!isfinite(value))
        return false;
    *ret_value = value;
    return true;
}

/* One number and one unit of the table, nothing between and nothing behind them. */
static bool read_scaled(const char *text, const struct unit *units, size_t n_units, int64_t *ret_value,
                        bool *ret_over)
{
    int64_t value;
    bool over;
    size_t n = read_digits(text, &value, &over);

    for (size_t i = 0; n && i < n_units; i++) {
        if (strcmp(text + n, units[i].name) != 0)
            continue;
        over = __builtin_mul_overflow(value, units[i].factor, &value) || over;
        *ret_value = over ? INT64_MAX : value;
        *ret_over = over;
        return true;
    }
    return false;
}

bool scalar_duration(const char *text, int64_t *ret_ns, bool *ret_over)
{
    return read_scaled(text, time_units, COUNT(time_units), ret_ns, ret_over);
}

bool scalar_bytes(const char *text, int64_t *ret_bytes, bool *ret_over)
{
    return read_scaled(text, byte_units, COUNT(byte_units), ret_bytes, ret_over);
}

const char *scalar_put_int(int64_t value, char out[SCALAR_TEXT_SIZE])
{
    snprintf(out, SCALAR_TEXT_SIZE, "%" PRId64, value);
    return out;
}

/* As few digits as give the same number back. */
const char *scalar_put_float(double value, char out[SCALAR_TEXT_SIZE])
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(out, SCALAR_TEXT_SIZE, "%.*g", digits, value);
        if (strtod(out, NULL) == value) /* exact on purpose: it must read back as the same number */
            break;
    }
    return out;
}

/* The largest unit that leaves no rest; the first of the table takes everything. */
static const char *put_scaled(int64_t value, const struct unit *units, size_t n_units, char *out)
{
    size_t i = n_units - 1;

    while (i > 0 && value % units[i].factor != 0)
        i--;
    snprintf(out, SCALAR_TEXT_SIZE, "%" PRId64 "%s", value / units[i].factor, units[i].name);
    return out;
}

const char *scalar_put_duration(int64_t ns, char out[SCALAR_TEXT_SIZE])
{
    if (ns % time_units[0].factor != 0) { /* cannot be written in a file, but a bound may be 1 ns */
        snprintf(out, SCALAR_TEXT_SIZE, "%" PRId64 "ns", ns);
        return out;
    }
    return put_scaled(ns, time_units, ns ? COUNT(time_units) : 2, out); /* 0 is said in seconds */
}

const char *scalar_put_bytes(int64_t bytes, char out[SCALAR_TEXT_SIZE])
{
    return put_scaled(bytes, byte_units, bytes ? COUNT(byte_units) : 1, out); /* 0 needs no unit */
}
