/* What is in a received message; see bus.h. A struct bus_msg is the library's message under a name of ours. */
#include <nats/nats.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "bus/bus.h"

static natsMsg *nats(const struct bus_msg *msg)
{
    return (natsMsg *)msg;
}

const char *bus_msg_subject(const struct bus_msg *msg)
{
    return natsMsg_GetSubject(nats(msg));
}

const char *bus_msg_reply(const struct bus_msg *msg)
{
    const char *reply = natsMsg_GetReply(nats(msg));

    return reply && *reply ? reply : NULL;
}

struct muster_bytes bus_msg_data(const struct bus_msg *msg)
{
    return (struct muster_bytes){natsMsg_GetData(nats(msg)),
                                 (size_t)natsMsg_GetDataLength(nats(msg))};
}

/* The header block as it came, "NATS/1.0" and all. The library keeps a received message in one piece: subject, reply subject, headers
 * and data, each with a NUL; it gives no other way to the length of the headers than to take them apart, which costs the square of
 * their number. */
static struct muster_bytes header_block(const struct bus_msg *msg)
{
    const char *reply = bus_msg_reply(msg), *before = reply ? reply : bus_msg_subject(msg), *data = natsMsg_GetData(nats(msg));
    const char *from = before + strlen(before) + 1;

    return data && from < data ? (struct muster_bytes){from, (size_t)(data - from) - 1} : (struct muster_bytes){0};
}

bool bus_msg_headers_fit(const struct bus_msg *msg)
{
    struct muster_bytes block = header_block(msg);
    const char *at = block.data, *end = at + block.len;
    int lines = 0;

    if (!block.len)
        return true;
    if (block.len > BUS_MAX_HEADER_BYTES || strncmp(at, "NATS/1.0", 8) != 0)
        return false;
    while (lines <= BUS_MAX_HEADERS + 2 && (at = memchr(at, '\n', (size_t)(end - at)))) {
        at++;
        lines++;
    }
    return lines <= BUS_MAX_HEADERS + 2; /* the first and the empty one are none */
}

const char *bus_msg_header(const struct bus_msg *msg, const char *name)
{
    const char *value = NULL;

    return bus_msg_headers_fit(msg) && natsMsgHeader_Get(nats(msg), name, &value) == NATS_OK ? value : NULL;
}

uint32_t bus_msg_headers(const struct bus_msg *msg, struct muster_header *out, uint32_t n)
{
    const char **keys = NULL;
    int n_keys = 0;
    uint32_t i;

    if (!header_block(msg).len || !bus_msg_headers_fit(msg) || natsMsgHeader_Keys(nats(msg), &keys, &n_keys) != NATS_OK)
        return 0;
    for (i = 0; i < (uint32_t)n_keys && i < n; i++)
        out[i] = (struct muster_header){keys[i], bus_msg_header(msg, keys[i])};
    free((void *)keys);
    return i;
}

static bool is_among(const struct muster_header *list, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0)
            return true;
    return false;
}

/* "Name: value", up to its end. False: it is not of that form. */
static bool cut(char *line, char *end, struct muster_header *ret)
{
    char *colon = memchr(line, ':', (size_t)(end - line)), *value;

    if (!colon || colon == line)
        return false;
    value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == '\r' || end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *colon = *end = '\0';
    *ret = (struct muster_header){line, value};
    return true;
}

/* A status in the first line, and a value that goes on in a second line, are left to the library. */
static bool is_plain(const char *at, size_t len)
{
    const char *end = at + len;

    if (len < 12 || strncmp(at, "NATS/1.0\r\n", 10) != 0)
        return false;
    while ((at = memchr(at, '\n', (size_t)(end - at))) && ++at < end)
        if (*at == ' ' || *at == '\t')
            return false;
    return true;
}

uint32_t bus_msg_take_headers(struct bus_msg *msg, struct muster_header *out, uint32_t n)
{
    struct muster_bytes block = header_block(msg);
    char *at = (char *)block.data, *end = at + block.len;
    uint32_t found = 0;

    if (!is_plain(block.data, block.len) || !bus_msg_headers_fit(msg))
        return bus_msg_headers(msg, out, n);
    for (at += 10; at < end && found < n; found += !is_among(out, found, out[found].name)) {
        char *newline = memchr(at, '\n', (size_t)(end - at));

        if (!newline || !cut(at, newline, &out[found]))
            break;
        at = newline + 1;
    }
    return found;
}

size_t bus_msg_size(const struct bus_msg *msg)
{
    const char *reply = bus_msg_reply(msg);

    return strlen(bus_msg_subject(msg)) + (reply ? strlen(reply) : 0) + header_block(msg).len + bus_msg_data(msg).len;
}

enum { GATHERED_MAX = 128, GATHERED_BYTES = 1 << 16 };

static _Thread_local struct {
    natsMsg *msgs[GATHERED_MAX];
    int n;
    size_t n_bytes;
    bool on;
} gathered;

/* Some are left on a thread that has had little to do since: they go with it. */
static pthread_key_t end_key;
static pthread_once_t end_once = PTHREAD_ONCE_INIT;

static void destroy_gathered(void)
{
    for (int i = 0; i < gathered.n; i++)
        natsMsg_Destroy(gathered.msgs[i]);
    gathered.n = 0;
    gathered.n_bytes = 0;
}

static void on_end(void *arg)
{
    (void)arg;
    bus_msgs_flush();
}

static void make_end_key(void)
{
    ASSERT(pthread_key_create(&end_key, on_end) == 0);
}

void bus_msgs_gather(void)
{
    if (gathered.on)
        return;
    gathered.on = true;
    ASSERT(pthread_once(&end_once, make_end_key) == 0 && pthread_setspecific(end_key, &gathered) == 0);
}

void bus_msgs_flush(void)
{
    destroy_gathered();
    gathered.on = false;
}

void bus_msg_free(struct bus_msg *msg)
{
    if (!gathered.on || !msg) {
        natsMsg_Destroy(nats(msg));
        return;
    }
    gathered.n_bytes += bus_msg_data(msg).len;
    gathered.msgs[gathered.n++] = nats(msg);
    if (gathered.n == GATHERED_MAX || gathered.n_bytes > GATHERED_BYTES)
        destroy_gathered();
}
