/* Sets of words; see words.h. */
#include "tasks/words.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

bool words_make(uint32_t n, const char *const *words, struct words **ret_words)
{
    struct words *set;
    size_t size = sizeof *set + n * sizeof(char *);
    char *bytes;

    *ret_words = NULL;
    if (!n)
        return true;
    for (uint32_t i = 0; i < n; i++)
        size += strlen(words[i]) + 1;
    set = malloc(size);
    if (!set)
        return false;
    bytes = (char *)&set->at[n];
    for (uint32_t i = 0; i < n; i++) {
        size_t len = strlen(words[i]) + 1;

        memcpy(bytes, words[i], len);
        set->at[i] = bytes;
        bytes += len;
    }
    set->n = n;
    qsort(set->at, n, sizeof *set->at, compare);
    *ret_words = set;
    return true;
}

bool words_has(const struct words *set, const char *word)
{
    return set && bsearch(&word, set->at, set->n, sizeof *set->at, compare);
}

bool words_within(const struct words *part, const struct words *whole)
{
    uint32_t k = 0;

    for (uint32_t i = 0; part && i < part->n; i++) {
        while (whole && k < whole->n && strcmp(whole->at[k], part->at[i]) < 0)
            k++;
        if (!whole || k == whole->n || strcmp(whole->at[k], part->at[i]) != 0)
            return false;
    }
    return true;
}
