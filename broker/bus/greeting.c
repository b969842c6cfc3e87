/* The first line of a NATS server; see greeting.h. */
#include "bus/greeting.h"

#include <cjson/cJSON.h>
#include <muster/plugin.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/probe.h"

enum { GREETING_MAX = 64 << 10 };
static const char begin[] = "INFO ";
static const size_t begin_len = sizeof begin - 1;

/* True when it is there and fits. */
static bool take_text(const cJSON *doc, const char *key, char *out, size_t size)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(doc, key));

    return text && *text && snprintf(out, size, "%s", text) < (int)size;
}

static bool read_members(const cJSON *doc, struct greeting *out)
{
    *out = (struct greeting){.jetstream = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(doc, "jetstream")),
                             .nonce = cJSON_IsString(cJSON_GetObjectItemCaseSensitive(doc, "nonce"))};
    return take_text(doc, "server_id", out->server, sizeof out->server) &&
           take_text(doc, "version", out->version, sizeof out->version) && bus_version_read(out->version, &out->number);
}

int greeting_read(const char *line, size_t len, struct greeting *ret_greeting)
{
    cJSON *doc = len > begin_len && memcmp(line, begin, begin_len) == 0 ? cJSON_ParseWithLength(line + begin_len, len - begin_len) : NULL;
    bool good = read_members(doc, ret_greeting);

    cJSON_Delete(doc);
    return good ? 0 : MUSTER_EINVAL;
}

int greeting_ask(const char *url, int timeout_ms, struct greeting *ret_greeting)
{
    struct probe p = {.one_line = true, .timeout_ms = timeout_ms, .max = GREETING_MAX};
    char why[PROBE_WHY_SIZE];
    struct buf answer = {0};
    int err = MUSTER_ELINK;

    if (!probe_parse(&p, url, "4222"))
        return MUSTER_EINVAL;
    if (probe_ask(&p, &answer, why))
        err = answer.len ? greeting_read(answer.data, answer.len, ret_greeting) : MUSTER_EINVAL;
    buf_done(&answer);
    return err;
}

bool bus_version_read(const char *text, struct bus_version *ret_version)
{
    return sscanf(text, "%d.%d.%d", &ret_version->major, &ret_version->minor, &ret_version->patch) == 3 && ret_version->major >= 0 &&
           ret_version->minor >= 0 && ret_version->patch >= 0;
}

int bus_version_compare(const struct bus_version *a, const struct bus_version *b)
{
    if (a->major != b->major)
        return a->major < b->major ? -1 : 1;
    if (a->minor != b->minor)
        return a->minor < b->minor ? -1 : 1;
    return (a->patch > b->patch) - (a->patch < b->patch);
}
