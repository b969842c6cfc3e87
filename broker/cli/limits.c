/* The limits of a tenant; see limits.h. */
#include "cli/limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct limit_key object_key = {.name = "<service>.<name>", .max = LIMITS_MAX_COUNT};

static const struct limit_key *find_key(const char *name, size_t len)
{
    int which = limit_find(name, len);

    if (which >= 0)
        return &limit_keys[which];
    return limit_is_object(name, len) ? &object_key : NULL;
}

/* Read digits; *s is then what follows them. False: no digit, or more than an int64_t holds. */
static bool parse_digits(const char **s, int64_t *ret_value)
{
    const char *start = *s;
    int64_t value = 0;

    for (; **s >= '0' && **s <= '9'; ++*s)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, **s - '0', &value))
            return false;
    if (*s == start)
        return false;
    *ret_value = value;
    return true;
}

/* The factor of a unit, 0 when there is no such unit. */
static int64_t unit_factor(const char *unit)
{
    static const char *const units[] = {"KiB", "MiB", "GiB"};

    if (*unit == '\0')
        return 1;
    for (int i = 0; i < 3; i++)
        if (strcasecmp(unit, units[i]) == 0)
            return INT64_C(1) << (10 * (i + 1));
    return 0;
}

static bool parse_value(const char *text, const struct limit_key *key, int64_t *ret_value)
{
    int64_t value, factor;

    if (!parse_digits(&text, &value))
        return false;
    factor = unit_factor(text);
    if (factor == 0 || (factor > 1 && !key->bytes) || __builtin_mul_overflow(value, factor, &value))
        return false;
    if (value < key->min || value > key->max)
        return false;
    *ret_value = value;
    return true;
}

static void say_keys(const char *text, char *why, size_t size)
{
    int used = snprintf(why, size, "%.80s came, KEY=VALUE was expected with one of the keys", text);

    for (size_t i = 0; i < TENANT_N_LIMITS && used > 0 && (size_t)used < size; i++)
        used +=
            snprintf(why + used, size - (size_t)used, "%s %s", i ? "," : "", limit_keys[i].name);
    if (used > 0 && (size_t)used < size)
        (void)snprintf(why + used, size - (size_t)used, ", or <service>.<name> of a service's count");
}

bool limit_parse(const char *text, struct limit *ret_limit, char *why, size_t why_size)
{
    const char *value = strchr(text, '=');
    size_t len = value ? (size_t)(value - text) : 0;
    const struct limit_key *key = value ? find_key(text, len) : NULL;
    struct limit limit = {.is_object = key == &object_key};

    if (!key) {
        say_keys(text, why, why_size);
        return false;
    }
    memcpy(limit.name, text, len); /* a key is shorter */
    value++;
    limit.none = *value == '\0' || strcmp(value, "none") == 0;
    if (!limit.none && !parse_value(value, key, &limit.value)) {
        snprintf(why, why_size,
                 "%s: %.80s came, a whole number from %" PRId64 " to %" PRId64
                 "%s, or none, was expected",
                 limit.name, value, key->min, key->max,
                 key->bytes ? " (also with KiB, MiB or GiB)" : "");
        return false;
    }
    *ret_limit = limit;
    return true;
}
