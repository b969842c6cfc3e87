/* Names of channels; see history.h. Any thread. */
#include <stdio.h>
#include <string.h>

#include "base/name.h"
#include "fanout/history.h"

enum { SHARDS = 16, MSG_SUBJECT_MAX = 1000, MAIL_SUBJECT_MAX = 10000 };

/* FNV-1a of the tenant's name: the shard of presence that is its. */
static unsigned int shard_of(const char *tenant)
{
    uint32_t hash = 2166136261u;

    for (; *tenant; tenant++)
        hash = (hash ^ (unsigned char)*tenant) * 16777619u;
    return hash % SHARDS;
}

static void both(struct spec *s, const char *fmt, const char *word)
{
    (void)snprintf(s->filter, sizeof s->filter, fmt, word);
    (void)snprintf(s->hears, sizeof s->hears, fmt, word);
}

static bool of_agents(struct spec *s, const char *fmt, const char *word)
{
    s->own = true;
    s->subject_max = MSG_SUBJECT_MAX;
    (void)snprintf(s->stream, sizeof s->stream, "MSG");
    both(s, fmt, word);
    return true;
}

static bool of_inbox(struct spec *s, const char *agent)
{
    s->mail = true;
    s->subject_max = MAIL_SUBJECT_MAX;
    (void)snprintf(s->stream, sizeof s->stream, "MAIL");
    both(s, "msg.%s", agent);
    return true;
}

static bool of_presence(struct spec *s, const char *tenant)
{
    unsigned int shard = shard_of(tenant);

    s->counted = s->presence = true;
    (void)snprintf(s->stream, sizeof s->stream, "PRES_%u", shard);
    (void)snprintf(s->filter, sizeof s->filter, "pres.%u.>", shard);
    (void)snprintf(s->hears, sizeof s->hears, "evt.presence.>");
    return true;
}

static bool of_events(struct spec *s, const char *service, const char *tenant)
{
    if (!name_is_public(service, strlen(service)))
        return false;
    if (strcmp(service, "presence") == 0)
        return of_presence(s, tenant);
    s->counted = true;
    (void)snprintf(s->stream, sizeof s->stream, "EVT");
    both(s, "evt.%s.>", service);
    return true;
}

/* A key token: a name, or '~' and base32. */
static bool is_token(const char *s, size_t len)
{
    return len > 1 && s[0] == '~' ? name_is_legal(s + 1, len - 1) : name_is_legal(s, len);
}

/* "main.public.orders" */
static bool of_changes(struct spec *s, const char *rest)
{
    const char *schema = strchr(rest, '.'), *table = schema ? strchr(schema + 1, '.') : NULL;

    if (!table || !name_is_legal(rest, (size_t)(schema - rest)) || !is_token(schema + 1, (size_t)(table - schema - 1)) ||
        !is_token(table + 1, strlen(table + 1)))
        return false;
    s->counted = true;
    (void)snprintf(s->stream, sizeof s->stream, "CDC_%.*s", (int)(schema - rest), rest);
    both(s, "cdc.%s.>", rest);
    return true;
}

bool spec_parse(const char *channel, const char *agent, const char *tenant, struct spec *out)
{
    *out = (struct spec){0};
    if (strlen(channel) > SPEC_SIZE - 16)
        return false;
    if (strcmp(channel, "all") == 0)
        return of_agents(out, "%s.>", "all");
    if (strcmp(channel, "to") == 0)
        return of_agents(out, "to.%s.>", agent);
    if (strncmp(channel, "grp.", 4) == 0)
        return name_is_public(channel + 4, strlen(channel + 4)) && of_agents(out, "grp.%s.>", channel + 4);
    if (strcmp(channel, "inbox") == 0 || strcmp(channel, "dead") == 0)
        return of_inbox(out, agent);
    if (strncmp(channel, "evt.", 4) == 0)
        return of_events(out, channel + 4, tenant);
    return strncmp(channel, "cdc.", 4) == 0 && of_changes(out, channel + 4);
}

void spec_heard(const struct spec *s, const char *subject, char out[SPEC_SIZE])
{
    const char *rest = s->presence ? strchr(subject, '.') : NULL;

    rest = rest ? strchr(rest + 1, '.') : NULL;
    if (rest)
        (void)snprintf(out, SPEC_SIZE, "evt.presence%s", rest);
    else
        (void)snprintf(out, SPEC_SIZE, "%s", subject);
}
