/*
 * The subject parser on any bytes, and patterns against each other. The input is two texts with a
 * newline between them.
 *   - what parses is a literal, and matches the pattern that has a wildcard for each of its tokens
 *   - a reply that is accepted lies in the box of that tenant and agent
 *   - a subject that two patterns match makes them overlap, and overlap is symmetric
 */
#include <string.h>

#include "base/assert.h"
#include "wire/subject.h"

enum { MAX_INPUT = 2200 };

static void check_parse(const char *s)
{
    struct subject parsed;

    if (subject_parse("mst", s, strlen(s), &parsed))
        return;
    ASSERT(subject_is_literal(s, strlen(s)));
    ASSERT(parsed.tenant.len > 0 && subject_match("mst.>", s) && subject_match(s, s));
    ASSERT(parsed.kind == SUBJECT_IN || parsed.tenant.s == s + 4);
}

static void check_reply(const char *s)
{
    if (!subject_reply_is_own(s, "mst", "acme", "a1"))
        return;
    ASSERT(subject_match("mst.acme.box.a1.>", s) || strcmp(s, "mst.acme.to.a1._muster.reply") == 0);
    ASSERT(!strpbrk(s, "*> \t\r\n"));
}

static void check_pair(const char *a, const char *b)
{
    bool pattern = subject_is_pattern(a, strlen(a));

    ASSERT(subject_overlap(a, b) == subject_overlap(b, a) || !pattern ||
           !subject_is_pattern(b, strlen(b)));
    if (!pattern || !subject_is_literal(b, strlen(b)))
        return;
    ASSERT(subject_match(a, b) ==
           subject_overlap(a, b)); /* a literal is the pattern of itself only */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char input[MAX_INPUT + 1];
    char *newline;

    if (size > MAX_INPUT)
        return 0;
    memcpy(input, data, size);
    input[size] = '\0';
    newline = strchr(input, '\n');
    if (newline)
        *newline = '\0';
    check_parse(input);
    check_reply(input);
    if (newline) {
        check_pair(input, newline + 1);
        check_pair(newline + 1, input);
    }
    return 0;
}
