/*
 * tasks/words.h - sets of words that do not change: capabilities, labels, names of agents. Any thread.
 *
 * A label is one word, "key\x1fvalue". NULL is the empty set.
 */
#ifndef MUSTER_TASKS_WORDS_H
#define MUSTER_TASKS_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct words {
    uint32_t n;
    const char *at[]; /* sorted; the bytes stand behind */
};

#define WORDS_LABEL "\x1f"

/* One block for free(). False: no memory. */
bool words_make(uint32_t n, const char *const *words, struct words **ret_words);
bool words_has(const struct words *set, const char *word);
bool words_within(const struct words *part, const struct words *whole);

#endif
