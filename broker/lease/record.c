/* The record of a lease as JSON; see record.h. */
#include "lease/record.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "wire/value.h"

void lease_record_write(const struct lease_record *record, const char *broker, struct buf *out)
{
    buf_printf(out, "{\"epoch\":%llu,%s,\"ttl_ms\":%lld,\"broker\":", (unsigned long long)record->epoch,
               record->held ? LEASE_RECORD_HELD : "\"held\":false", (long long)(record->ttl_ns / CLOCK_MS));
    buf_put_json(out, broker, strlen(broker));
    buf_puts(out, ",\"holder\":");
    buf_put_json(out, record->holder, strlen(record->holder));
    buf_puts(out, ",\"at\":[");
    for (int i = 0; i < LEASE_N_AT; i++) {
        buf_puts(out, i ? ",{\"server\":" : "{\"server\":");
        buf_put_json(out, record->at[i].server, strlen(record->at[i].server));
        buf_printf(out, ",\"client\":%llu}", (unsigned long long)record->at[i].client);
    }
    buf_puts(out, "]}");
}

/* Brokers before 0.5 do not say it, and their leases just take longer. */
static void take_at(const struct muster_value *doc, struct lease_at *out)
{
    const struct muster_value *server = doc ? value_get(doc, "server") : NULL, *client = doc ? value_get(doc, "client") : NULL;
    const char *name = server ? value_str(server, NULL) : NULL;

    *out = (struct lease_at){0};
    if (!name || !*name || strlen(name) >= LEASE_SERVER_SIZE || !client || value_int(client) <= 0)
        return;
    (void)snprintf(out->server, sizeof out->server, "%s", name);
    out->client = (uint64_t)value_int(client);
}

static int take(const struct muster_value *doc, struct lease_record *record)
{
    const struct muster_value *epoch = value_get(doc, "epoch"), *held = value_get(doc, "held"), *ttl = value_get(doc, "ttl_ms"),
                              *name = value_get(doc, "holder"), *at = value_get(doc, "at");
    const char *holder = name ? value_str(name, NULL) : NULL;
    int64_t ttl_ms = ttl ? value_int(ttl) : 0;

    if (!epoch || value_int(epoch) <= 0 || !held || value_type(held) != MUSTER_BOOL || !holder || strlen(holder) >= LEASE_HOLDER_SIZE ||
        ttl_ms <= 0 || ttl_ms > INT64_MAX / CLOCK_MS / 4)
        return MUSTER_EINVAL;
    record->epoch = (uint64_t)value_int(epoch);
    record->held = value_int(held) != 0;
    record->ttl_ns = ttl_ms * CLOCK_MS;
    (void)snprintf(record->holder, sizeof record->holder, "%s", holder);
    for (uint32_t i = 0; i < LEASE_N_AT; i++)
        take_at(at ? value_at(at, i) : NULL, &record->at[i]);
    return 0;
}

int lease_record_read(struct muster_bytes data, struct lease_record *record)
{
    struct muster_value *doc;
    struct wire_error why;
    int err = value_decode(MUSTER_JSON, data, &doc, &why);

    if (err)
        return err == MUSTER_ENOMEM ? err : MUSTER_EINVAL;
    err = take(doc, record);
    value_free(doc);
    return err;
}
