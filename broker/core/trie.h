/*
 * core/trie.h - patterns of subjects ('*' one token, '>' the rest) to values. Private to core/.
 *
 * Threads  None: the owner locks. Memory: keys are copied, values borrowed. A pattern may have several values.
 */
#ifndef MUSTER_CORE_TRIE_H
#define MUSTER_CORE_TRIE_H

#include <stddef.h>

struct trie;

struct trie *trie_new(void);
void trie_free(struct trie *t);
/* MUSTER_EINVAL: an empty token, or '>' before the end. MUSTER_ENOMEM. */
int trie_add(struct trie *t, const char *pattern, void *value);
void trie_remove(struct trie *t, const char *pattern, void *value);
/* Write the values of every pattern that matches the literal subject, at most max; returns their number. Exact tokens come
 * before '*', '*' before '>'. */
size_t trie_match(const struct trie *t, const char *subject, void **out, size_t max);

#endif
