/*
 * The small readers of plugins/common/work and plugins/tasks: outcomes that are cut without being read, refs at the end of reply subjects, sets of words as
 * a row of the database has them. The first byte says which one; the rest is what it reads.
 */
#include <stdlib.h>
#include <string.h>

#include "../unit/wire_same.h"
#include "base/assert.h"
#include "common/work/notice.h"
#include "common/work/outcome.h"
#include "tasks/router_parts.h"
#include "tasks/words.h"

static struct muster_value *json(const char *text, size_t len)
{
    struct muster_value *doc = NULL;
    struct wire_error err;

    return value_decode(MUSTER_JSON, (struct muster_bytes){text, len}, &doc, &err) == 0 ? doc : NULL;
}

/* Of a whole object that begins with ok, the parts are what a reader of all of it finds. */
static void cut(const char *text)
{
    struct muster_value *whole = json(text, strlen(text)), *value;
    struct buf more = {0}, wrapped = {0};
    const char *ok = NULL, *key = "";
    size_t len = 0;
    bool is = outcome_ok(text, &ok, &len, &more);

    ASSERT(!is || (ok >= text && ok + len < text + strlen(text) && more.data[0] == '{'));
    if (whole && value_type(whole) == MUSTER_MAP && strncmp(text, "{\"ok\": ", 7) == 0) {
        ASSERT(is);
        buf_printf(&wrapped, "{\"ok\":%.*s}", (int)len, ok);
        value = json(wrapped.data, wrapped.len);
        ASSERT(value && same_tree(value_get(value, "ok"), value_key(whole, 0, &key, NULL)));
        value_free(value);
        value = json(more.data, more.len);
        ASSERT(value && value_count(value) == value_count(whole) - 1);
        value_free(value);
    }
    value_free(whole);
    buf_done(&wrapped);
    buf_done(&more);
}

static void come_back(const char *subject)
{
    struct buf id = {0}, again = {0}, read = {0};
    uint64_t epoch, same;

    if (notice_read_ref(subject, &id, &epoch)) {
        ASSERT(id.len && strlen(id.data) == id.len);
        buf_putc(&again, '.');
        notice_ref(&again, id.data, epoch);
        ASSERT(!buf_failed(&again) && notice_read_ref(again.data, &read, &same));
        ASSERT(same == epoch && strcmp(read.data, id.data) == 0);
    }
    buf_done(&id);
    buf_done(&again);
    buf_done(&read);
}

static bool is_one(const char *word, const char *const *words, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(words[i], word) == 0)
            return true;
    return false;
}

/* Two lists with a line between them. */
static void compare(char *text)
{
    static const char *some[WORDS_MAX], *others[WORDS_MAX];
    char *line = strchr(text, '\n');
    uint32_t n, n_others;
    struct words *part, *whole;
    bool within = true;

    if (line)
        *line++ = '\0';
    n = words_split(text, some);
    n_others = words_split(line, others);
    ASSERT(n <= WORDS_MAX && n_others <= WORDS_MAX);
    if (!words_make(n, some, &part))
        return;
    if (words_make(n_others, others, &whole)) {
        for (uint32_t i = 0; i < n && i < 64; i++) {
            ASSERT(words_has(part, some[i]));
            ASSERT(words_has(whole, some[i]) == is_one(some[i], others, n_others));
        }
        for (uint32_t i = 0; i < n; i++)
            within = within && is_one(some[i], others, n_others);
        ASSERT(words_within(part, whole) == within);
        ASSERT(words_within(part, part) && words_within(NULL, whole));
        free(whole);
    }
    free(part);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = size ? malloc(size) : NULL; /* of the exact size, so that a byte too far is seen */

    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    switch (data[0] % 3) {
    case 0: cut(text); break;
    case 1: come_back(text); break;
    default: compare(text);
    }
    free(text);
    return 0;
}
