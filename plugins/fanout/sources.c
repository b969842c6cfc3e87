/* Which stream and which channel a pattern of subjects is of; see watch.h. */
#include <stdio.h>
#include <string.h>

#include "fanout/watch.h"

uint32_t shard_of_name(const char *tenant)
{
    uint32_t hash = 2166136261u;

    for (; *tenant; tenant++)
        hash = (hash ^ (unsigned char)*tenant) * 16777619u;
    return hash % WATCH_SHARDS;
}

/* The length of the first n tokens; 0: there are not more of them than n. */
static size_t tokens(const char *subject, int n)
{
    const char *p = subject;

    while (n-- > 0) {
        p = strchr(p, '.');
        if (!p)
            return 0;
        p++;
    }
    return (size_t)(p - subject) - 1;
}

static bool is_literal(const char *s, size_t len)
{
    return len && !memchr(s, '*', len) && !memchr(s, '>', len);
}

static int channel_tokens(const char *subject)
{
    if (strncmp(subject, "evt.", 4) == 0)
        return 2;
    return strncmp(subject, "cdc.", 4) == 0 ? 4 : 0;
}

size_t channel_of(const char *subject)
{
    int n = channel_tokens(subject);

    return n ? tokens(subject, n) : 0;
}

bool pattern_matches(const char *pattern, const char *subject)
{
    for (;;) {
        size_t p = strcspn(pattern, "."), s = strcspn(subject, ".");

        if (p == 1 && *pattern == '>')
            return s > 0;
        if (!s || !p || !((p == 1 && *pattern == '*') || (p == s && memcmp(pattern, subject, p) == 0)))
            return false;
        if (!pattern[p] || !subject[s])
            return !pattern[p] && !subject[s];
        pattern += p + 1;
        subject += s + 1;
    }
}

static void set_channel(const char *pattern, struct source *s)
{
    size_t len = channel_of(pattern);

    if (is_literal(pattern, len) && len < sizeof s->channel)
        (void)snprintf(s->channel, sizeof s->channel, "%.*s", (int)len, pattern);
}

static bool of_events(const char *pattern, uint32_t shard, struct source *s, const char **ret_why)
{
    const char *service = pattern + 4;
    size_t len = strcspn(service, ".");
    bool any = !is_literal(service, len), presence = len == 8 && memcmp(service, "presence", 8) == 0;
    char name[16];

    if (len == 1 && *service == '_') {
        *ret_why = "evt.<service> (head notices are stored nowhere, and heard by a subscription alone)";
        return false;
    }
    (void)snprintf(name, sizeof name, "PRES_%u", shard);
    set_channel(pattern, s);
    (void)snprintf(s->streams[0], sizeof s->streams[0], "%s", presence ? name : "EVT");
    if (any)
        (void)snprintf(s->streams[1], sizeof s->streams[1], "%s", name);
    return true;
}

static bool of_changes(const char *pattern, struct source *s, const char **ret_why)
{
    const char *source = pattern + 4;
    size_t len = strcspn(source, ".");

    if (!is_literal(source, len) || len > 64) {
        *ret_why = "cdc.<source>, with the name of the source (main)";
        return false;
    }
    set_channel(pattern, s);
    (void)snprintf(s->streams[0], sizeof s->streams[0], "CDC_%.*s", (int)len, source);
    return true;
}

bool source_of(const char *pattern, uint32_t presence_shard, struct source *ret, const char **ret_why)
{
    size_t kind = strcspn(pattern, ".");

    *ret = (struct source){.of_tenant = false};
    if (!pattern[kind]) {
        *ret_why = "a subject such as evt.task.>";
        return false;
    }
    if (kind == 3 && memcmp(pattern, "evt", 3) == 0)
        return of_events(pattern, presence_shard, ret, ret_why);
    if (kind == 3 && memcmp(pattern, "cdc", 3) == 0)
        return of_changes(pattern, ret, ret_why);
    ret->by_stream = true;
    if (kind == 3 && memcmp(pattern, "msg", 3) == 0) {
        (void)snprintf(ret->streams[0], sizeof ret->streams[0], "MAIL");
        return true;
    }
    ret->of_tenant = true;
    (void)snprintf(ret->streams[0], sizeof ret->streams[0], "MSG");
    if ((kind == 3 && (memcmp(pattern, "all", 3) == 0 || memcmp(pattern, "grp", 3) == 0)) || (kind == 2 && memcmp(pattern, "to", 2) == 0))
        return true;
    *ret_why = "one of evt, cdc, all, to, grp and msg";
    return false;
}
