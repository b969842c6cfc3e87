/* Bodies of the bench table; see body.h. */
#include "body.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { N_COLUMNS = 7, TENANT = 0, ID = 1 };
enum form { RAW, QUOTED, STAMP };

static const struct {
    const char *key; /* `"name":`, with the comma that stands before */
    enum form form;
} columns[N_COLUMNS] = {{"\"tenant_id\":", QUOTED}, {",\"id\":", RAW},          {",\"user_id\":", RAW},   {",\"name\":", QUOTED},
                        {",\"amount\":", QUOTED},   {",\"note\":", QUOTED}, {",\"updated_at\":", STAMP}};

struct cell {
    const char *data;
    size_t len;
};

static char *put(char *to, const char *s, size_t len)
{
    memcpy(to, s, len);
    return to + len;
}

#define PUT(to, lit) put((to), (lit), sizeof(lit) - 1)

static char *puts_to(char *to, const char *s)
{
    return put(to, s, strlen(s));
}

void body_begin(struct body *b, const uint8_t *begin)
{
    static const int64_t epoch_us = INT64_C(946684800000000); /* 2000-01-01 in Unix microseconds */
    uint64_t lsn = get_u64(begin + 1);
    char time[CLOCK_RFC3339_SIZE];

    clock_rfc3339(((int64_t)get_u64(begin + 9) + epoch_us) * 1000, time);
    (void)snprintf(b->lsn, sizeof b->lsn, "%X/%X", (unsigned)(lsn >> 32), (unsigned)lsn);
    b->txn_len = (size_t)snprintf(b->txn, sizeof b->txn, ",\"lsn\":\"%s\",\"commit_time\":\"%s\",\"xid\":%" PRIu32 ",", b->lsn, time,
                                  get_u32(begin + 17));
    b->ordinal = 0;
}

static void split(const uint8_t *insert, struct cell cells[N_COLUMNS])
{
    const uint8_t *p = insert + 8; /* I, relation, N, number of columns */

    for (int i = 0; i < N_COLUMNS; i++) {
        cells[i] = (struct cell){(const char *)p + 5, get_u32(p + 1)};
        p += 5 + cells[i].len;
    }
}

/* 2026-01-31 23:59:59.1234+00 becomes 2026-01-31T23:59:59.123400Z. */
static char *put_stamp(char *to, struct cell cell)
{
    enum { FULL = 26, ZONE = 3 };

    memcpy(to, "0000-00-00T00:00:00.000000Z", FULL + 1);
    memcpy(to, cell.data, cell.len - ZONE);
    to[10] = 'T';
    return to + FULL + 1;
}

static char *put_cell(char *to, enum form form, struct cell cell)
{
    if (form == RAW)
        return put(to, cell.data, cell.len);
    *to++ = '"';
    to = form == STAMP ? put_stamp(to, cell) : put(to, cell.data, cell.len);
    *to++ = '"';
    return to;
}

/* `{"tenant_id":"t1","id":7` */
static char *put_first(char *to, const struct cell *cells, int n)
{
    *to++ = '{';
    for (int i = 0; i < n; i++)
        to = put_cell(puts_to(to, columns[i].key), columns[i].form, cells[i]);
    *to++ = '}';
    return to;
}

static uint64_t next_seq(struct body *b, struct cell tenant)
{
    int i = tenant.data[0] == 't' ? atoi(tenant.data + 1) % BODY_TENANTS : BODY_TENANTS;

    return ++b->seqs[i];
}

static void put_envelope(struct body *b, const struct cell *cells)
{
    char *to = b->subject;

    to = put(PUT(to, "mst._in."), cells[TENANT].data, cells[TENANT].len);
    to = puts_to(PUT(puts_to(PUT(to, ".cdc."), b->source), ".public."), b->table);
    *PUT(to, ".insert._") = '\0';
    to = put(PUT(b->key, "[\""), cells[TENANT].data, cells[TENANT].len);
    to = put(PUT(to, "\","), cells[ID].data, cells[ID].len);
    *PUT(to, "]") = '\0';
    (void)snprintf(b->position, sizeof b->position, "%s/%" PRIu32 "/0", b->lsn, b->ordinal++);
    (void)snprintf(b->seq, sizeof b->seq, "%" PRIu64, next_seq(b, cells[TENANT]));
}

void body_insert(struct body *b, const uint8_t *insert)
{
    struct cell cells[N_COLUMNS];
    char *to = b->text;

    split(insert, cells);
    put_envelope(b, cells);
    to = PUT(puts_to(PUT(to, "{\"schema\":\"public\",\"table\":\""), b->table), "\",\"op\":\"insert\"");
    to = PUT(put(to, b->txn, b->txn_len), "\"key\":");
    to = PUT(put_first(to, cells, 2), ",\"new\":");
    to = PUT(put_first(to, cells, N_COLUMNS), ",\"old\":null,\"unchanged\":[],\"omitted\":[]}");
    b->len = (size_t)(to - b->text);
}
