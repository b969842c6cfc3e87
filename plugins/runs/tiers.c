/* The ladder of escalations: how long each tier of humans has, from the configuration's list of durations to an array of intervals. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "runs/runs.h"

static const int64_t tier_min_ns = CLOCK_S, tier_max_ns = 30 * INT64_C(86400) * CLOCK_S;

static int64_t unit_of(const char *text)
{
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = {{"ms", CLOCK_MS}, {"s", CLOCK_S}, {"m", 60 * CLOCK_S}, {"h", 3600 * CLOCK_S}, {"d", 86400 * CLOCK_S}};

    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(text, units[i].name) == 0)
            return units[i].ns;
    return 0;
}

/* A duration as the options of the configuration are written; 0: it is none, or out of its bounds. */
static int64_t tier_ns(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    int64_t unit = unit_of(text + digits), n;

    if (digits == 0 || digits > 12 || *text == '0' || !unit)
        return 0;
    n = strtoll(text, NULL, 10);
    return n < (tier_min_ns + unit - 1) / unit || n > tier_max_ns / unit ? 0 : n * unit;
}

const char *tiers_write(const struct muster_list *list, char text[TIERS_SIZE])
{
    size_t len = 0;

    for (size_t i = 0; i < list->n; i++) {
        int64_t ns = tier_ns(list->items[i]);

        if (!ns)
            return list->items[i];
        len += (size_t)snprintf(text + len, TIERS_SIZE - len, "%c%lld ms", i ? ',' : '{', (long long)(ns / CLOCK_MS));
    }
    (void)snprintf(text + len, TIERS_SIZE - len, "%s", list->n ? "}" : "{}");
    return NULL;
}
