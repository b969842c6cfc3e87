/* The filter of a watch, and the change it is held against: whatever comes, nothing is read beyond its end, a refusal has a reason, and a
 * filter says of a row the same each time. The first line is the filter, the rest the body. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "fanout/filter.h"

static const struct filter_column columns[] = {
    {"i", "int8", CLASS_INT, true},       {"n", "numeric", CLASS_NUMERIC, true},     {"f", "float8", CLASS_FLOAT, true}, {"b", "bool", CLASS_BOOL, true},
    {"t", "text", CLASS_TEXT, true},      {"c", "bpchar", CLASS_PADDED, true},       {"u", "uuid", CLASS_UUID, true},    {"z", "timestamptz", CLASS_TIMESTAMPTZ, true},
    {"s", "timestamp", CLASS_TIMESTAMP, true}, {"d", "date", CLASS_DATE, true},      {"h", "time", CLASS_TIME, true},    {"e", "mood", CLASS_LABEL, true},
    {"j", "jsonb", CLASS_OPAQUE, true},
};
enum { N = sizeof columns / sizeof *columns };

static void hold(const struct filter *f, struct span body)
{
    struct row row = {0};

    if (row_read(&row, body)) {
        int is = filter_test(f, &row, ROW_NEW), was = filter_test(f, &row, ROW_OLD);

        ASSERT(filter_test(f, &row, ROW_NEW) == is && filter_test(f, &row, ROW_OLD) == was);
    }
    row_done(&row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size + 1); /* of the exact size, so that a byte too far is seen */
    const char *line = size ? memchr(data, '\n', size) : NULL;
    size_t n = line ? (size_t)(line - (const char *)data) : size;
    char why[FILTER_WHY_SIZE];
    struct filter *f;

    if (!copy)
        return 0;
    memcpy(copy, data, size);
    f = filter_new((struct span){copy, n}, columns, N, n % 2 ? "t" : NULL, (struct span){"ann", 3}, why);
    ASSERT(f || why[0]);
    if (f && n < size) {
        char *body = malloc(size - n - 1 ? size - n - 1 : 1);

        if (body) {
            memcpy(body, copy + n + 1, size - n - 1);
            hold(f, (struct span){body, size - n - 1});
        }
        free(body);
    }
    filter_free(f);
    free(copy);
    return 0;
}
