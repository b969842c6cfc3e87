/* What is in a received message; see bus.h. A struct bus_msg is the library's message under a name of ours. */
#include <nats/nats.h>
#include <stdlib.h>
#include <string.h>

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

const char *bus_msg_header(const struct bus_msg *msg, const char *name)
{
    const char *value = NULL;

    return natsMsgHeader_Get(nats(msg), name, &value) == NATS_OK ? value : NULL;
}

uint32_t bus_msg_headers(const struct bus_msg *msg, struct muster_header *out, uint32_t n)
{
    const char **keys = NULL;
    int n_keys = 0;
    uint32_t i;

    if (natsMsgHeader_Keys(nats(msg), &keys, &n_keys) != NATS_OK)
        return 0;
    for (i = 0; i < (uint32_t)n_keys && i < n; i++)
        out[i] = (struct muster_header){keys[i], bus_msg_header(msg, keys[i])};
    free((void *)keys);
    return i;
}

/* A key of several values is one header each. */
static size_t header_size(const struct bus_msg *msg, const char *key)
{
    const char **values = NULL;
    size_t size = 0;
    int n = 0;

    if (natsMsgHeader_Values(nats(msg), key, &values, &n) != NATS_OK)
        return 0;
    for (int i = 0; i < n; i++)
        size += strlen(key) + strlen(values[i]);
    free((void *)values);
    return size;
}

size_t bus_msg_size(const struct bus_msg *msg)
{
    const char **keys = NULL, *reply = bus_msg_reply(msg);
    size_t size = strlen(bus_msg_subject(msg)) + (reply ? strlen(reply) : 0) + bus_msg_data(msg).len;
    int n = 0;

    if (natsMsgHeader_Keys(nats(msg), &keys, &n) != NATS_OK)
        return size;
    for (int i = 0; i < n; i++)
        size += header_size(msg, keys[i]);
    free((void *)keys);
    return size;
}

void bus_msg_free(struct bus_msg *msg)
{
    natsMsg_Destroy(nats(msg));
}
