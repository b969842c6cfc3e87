/* Arguments, a bare slot reader and the report; see common.h. */
#include "common.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"

void fail(const char *fmt, ...)
{
    va_list ap;

    (void)fputs(program_invocation_short_name, stderr);
    (void)fputs(": ", stderr);
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputc('\n', stderr);
    exit(1);
}

void args_parse(struct args *a, int argc, char **argv)
{
    const struct {
        const char *name;
        const char **text; /* or */
        uint64_t *number;
    } known[] = {{"--dsn", &a->dsn, NULL},       {"--slot", &a->slot, NULL},     {"--publication", &a->publication, NULL},
                 {"--url", &a->url, NULL},       {"--creds", &a->creds, NULL},   {"--source", &a->source, NULL},
                 {"--plugin", &a->plugin, NULL}, {"--table", &a->table, NULL},   {"--rate", NULL, &a->rate},
                 {"--count", NULL, &a->count},   {"--subject", &a->subject, NULL}, {"--box", &a->box, NULL},
                 {"--window", NULL, &a->window}, {"--body", &a->body, NULL}};
    const size_t n = sizeof known / sizeof *known;

    for (int i = 1; i < argc; i++) {
        size_t k = 0;

        if (strcmp(argv[i], "--live") == 0) {
            a->live = true;
            continue;
        }
        if (strcmp(argv[i], "--lenient") == 0) {
            a->lenient = true;
            continue;
        }
        while (k < n && strcmp(known[k].name, argv[i]) != 0)
            k++;
        if (k == n || ++i == argc)
            fail("%s: unknown, or without its value", argv[i - (k < n)]);
        if (known[k].text)
            *known[k].text = argv[i];
        else
            *known[k].number = strtoull(argv[i], NULL, 10);
    }
}

uint16_t get_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)get_u16(p) << 16 | get_u16(p + 2);
}

uint64_t get_u64(const uint8_t *p)
{
    return (uint64_t)get_u32(p) << 32 | get_u32(p + 4);
}

/* ---- the slot -------------------------------------------------------------------------------------------------------------- */

void slot_open(struct slot *s, const struct args *a)
{
    /* The settings are the broker's, so that the server writes the same texts. */
    const char *names[] = {"dbname", "replication", "options", NULL};
    const char *values[] = {a->dsn, "database",
                            "-c datestyle=ISO -c timezone=UTC -c intervalstyle=iso_8601 -c extra_float_digits=3 -c bytea_output=hex",
                            NULL};
    char text[256];
    PGresult *r;

    *s = (struct slot){.conn = PQconnectdbParams(names, values, 1)};
    if (PQstatus(s->conn) != CONNECTION_OK)
        fail("%s", PQerrorMessage(s->conn));
    (void)snprintf(text, sizeof text, "START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', publication_names '%s')", a->slot,
                   a->publication);
    r = PQexec(s->conn, text);
    if (PQresultStatus(r) != PGRES_COPY_BOTH)
        fail("%s", PQerrorMessage(s->conn));
    PQclear(r);
}

/* Say that we live, and confirm nothing: the slot is a copy that is dropped afterwards. */
static void answer_keepalive(struct slot *s)
{
    char status[34] = {'r'};

    if (PQputCopyData(s->conn, status, sizeof status) != 1 || PQflush(s->conn) != 0)
        fail("%s", PQerrorMessage(s->conn));
}

void slot_next(struct slot *s)
{
    for (;;) {
        int n;

        PQfreemem(s->frame);
        s->frame = NULL;
        n = PQgetCopyData(s->conn, &s->frame, 0);
        if (n < 25 && !(n == 18 && s->frame[0] == 'k'))
            fail("the copy ended: %s", PQerrorMessage(s->conn));
        if (s->frame[0] == 'w') {
            s->data = (const uint8_t *)s->frame + 25;
            s->len = (size_t)n - 25;
            return;
        }
        if (s->frame[17])
            answer_keepalive(s);
    }
}

void slot_close(struct slot *s)
{
    PQfreemem(s->frame);
    PQfinish(s->conn);
}

bool is_marker(const struct slot *s)
{
    enum { FIRST_VALUE = 13 }; /* I, relation, N, number of columns, t, length */

    return s->data[0] == 'I' && s->len > FIRST_VALUE + 6 && memcmp(s->data + FIRST_VALUE, "marker", 6) == 0;
}

/* ---- the report ------------------------------------------------------------------------------------------------------------- */

uint64_t process_cpu_us(int pid)
{
    unsigned long user = 0, kernel = 0;
    char path[64], text[1024] = "";
    FILE *f;
    char *at;

    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    f = fopen(path, "r");
    if (!f)
        return 0;
    (void)!fread(text, 1, sizeof text - 1, f); /* empty: nothing is found below */
    (void)fclose(f);
    at = strrchr(text, ')'); /* the name before it may hold anything */
    if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) != 2)
        return 0;
    return (uint64_t)(user + kernel) * 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

static uint64_t own_cpu_us(void)
{
    struct rusage u;

    (void)getrusage(RUSAGE_SELF, &u); /* cannot fail with these arguments */
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

void report(uint64_t rows, int64_t end_ns, int sender)
{
    (void)printf("rows=%" PRIu64 " end_ns=%" PRId64 " cpu_us=%" PRIu64 " sender_us=%" PRIu64 "\n", rows, end_ns, own_cpu_us(),
                 process_cpu_us(sender));
    (void)fflush(stdout);
    while (getchar() != EOF)
        ;
}
