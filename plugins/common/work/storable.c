/* What can be kept as jsonb; see storable.h. */
#include "common/work/storable.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "wire/writer.h"

enum { PLACES = 64 };                                        /* before or behind the point */
static const double largest = 1e64, smallest = 1e-64;

struct look {
    unsigned int deepest; /* of STORABLE_LEVELS */
    bool long_number;
};

/* 0.000 is, 0e-9999 is not. */
static bool is_short_zero(const struct muster_value *v)
{
    struct muster_writer w;
    struct buf text = {0};
    bool yes;

    writer_init(&w, MUSTER_JSON, &text);
    writer_map(&w, 1);
    writer_text(&w, "");
    writer_value(&w, v);
    yes = !buf_failed(&text) && text.len <= PLACES && !strpbrk(text.data, "eE");
    buf_done(&text);
    return yes;
}

static bool is_short(const struct muster_value *v)
{
    double size = fabs(value_float(v));

    return size > 0 ? size < largest && size > smallest : is_short_zero(v);
}

static void look_at(const struct muster_value *v, unsigned int level, struct look *found)
{
    int type = value_type(v);
    const char *key;

    if (type == MUSTER_FLOAT)
        found->long_number |= !is_short(v);
    if (type != MUSTER_MAP && type != MUSTER_ARRAY)
        return;
    if (level > found->deepest)
        found->deepest = level;
    for (size_t i = 0; i < value_count(v); i++)
        look_at(type == MUSTER_MAP ? value_key(v, i, &key, NULL) : value_at(v, i), level + 1, found);
}

static bool is_well(const struct muster_value *v, unsigned int level, char why[STORABLE_WHY_SIZE])
{
    struct look found = {0};

    look_at(v, level, &found);
    if (found.deepest > STORABLE_LEVELS)
        (void)snprintf(why, STORABLE_WHY_SIZE, "%u levels of lists and maps came, at most %d were expected", found.deepest, STORABLE_LEVELS);
    else if (found.long_number)
        (void)snprintf(why, STORABLE_WHY_SIZE, "a number of more than %d places came, fewer were expected", PLACES);
    else
        return true;
    return false;
}

static void name_field(char field[STORABLE_FIELD_SIZE], const char *before, const char *key)
{
    (void)snprintf(field, STORABLE_FIELD_SIZE, "%s%.64s", before, key);
}

static bool map_is_well(const struct muster_value *map, unsigned int level, const char *before, char field[STORABLE_FIELD_SIZE],
                        char why[STORABLE_WHY_SIZE]);

/* Of a list of maps the map's field is named. */
static bool list_is_well(const struct muster_value *list, const char *key, char field[STORABLE_FIELD_SIZE], char why[STORABLE_WHY_SIZE])
{
    char before[STORABLE_FIELD_SIZE / 2];

    for (size_t i = 0; i < value_count(list); i++) {
        const struct muster_value *v = value_at(list, i);

        (void)snprintf(before, sizeof before, "%.32s[%zu].", key, i);
        if (value_type(v) == MUSTER_MAP ? !map_is_well(v, 3, before, field, why) : !is_well(v, 3, why)) {
            if (value_type(v) != MUSTER_MAP)
                name_field(field, "", key);
            return false;
        }
    }
    return true;
}

static bool map_is_well(const struct muster_value *map, unsigned int level, const char *before, char field[STORABLE_FIELD_SIZE],
                        char why[STORABLE_WHY_SIZE])
{
    for (size_t i = 0; i < value_count(map); i++) {
        const char *key;
        const struct muster_value *v = value_key(map, i, &key, NULL);
        bool named = level == 1 && value_type(v) == MUSTER_ARRAY;

        if (named ? list_is_well(v, key, field, why) : is_well(v, level + 1, why))
            continue;
        if (!named)
            name_field(field, before, key);
        return false;
    }
    return true;
}

bool storable(const struct muster_value *body, char field[STORABLE_FIELD_SIZE], char why[STORABLE_WHY_SIZE])
{
    return map_is_well(body, 1, "", field, why);
}
