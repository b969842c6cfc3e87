/* Which streams may not be; see guard.h. */
#include "core/guard.h"

#include <stdio.h>
#include <string.h>

#include "bus/js.h"
#include "wire/subject.h"

enum { MAX_PATTERN = 256 };

/* What agents may publish (INTERFACE 2), for any tenant; no tenant is called "_in". */
static bool captures_agents(const char *root, const char *subject)
{
    static const char *const kinds[] = {"rpc", "all", "to", "grp"};
    char pattern[MAX_PATTERN];
    int n = snprintf(pattern, sizeof pattern, "%s._in.", root);

    if (strncmp(subject, pattern, (size_t)n) == 0)
        return false;

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        (void)snprintf(pattern, sizeof pattern, "%s.*.%s.>", root, kinds[i]);
        if (subject_overlap(pattern, subject))
            return true;
    }
    return false;
}

bool guard_refuses(const char *root, const struct js_listed *stream, char *why, size_t size)
{
    for (size_t i = 0; !stream->no_ack && i < stream->n_subjects; i++) {
        if (!captures_agents(root, stream->subjects[i]))
            continue;
        (void)snprintf(why, size,
                       "stream %s captures %s, which agents publish, and acknowledges: any agent "
                       "could purge streams and forge messages "
                       "through it; set no_ack on it or remove it",
                       stream->name, stream->subjects[i]);
        return true;
    }
    return false;
}
