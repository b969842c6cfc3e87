/*
 * bench/common.h - what the programs of tests/bench share: their arguments, the bare way to read a slot, and the report.
 *
 * Shape    A program reads its slot up to the marker, prints one line "rows=N end_ns=T cpu_us=C sender_us=S", and waits for the end
 *          of its standard input, so that whoever started it can look at servers and processes meanwhile. T is wall time.
 * Marker   A row of a tenant called "marker", the first column of its table.
 * Errors   These are programs of one way: fail() says what went wrong and ends with status 1.
 */
#ifndef MUSTER_BENCH_COMMON_H
#define MUSTER_BENCH_COMMON_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct args {
    const char *dsn, *slot, *publication; /* PostgreSQL */
    const char *url, *creds;              /* NATS */
    const char *source;                   /* third token of the subjects: R._in.T.cdc.<source>. */
    const char *plugin;                   /* path of cdc.so */
    const char *table;
    uint64_t rate, count; /* transactions a second (0: as fast as it goes), and in all */
    const char *subject, *box; /* of asker and bare_echo: what is published or heard, and where answers come to */
    const char *body;          /* of asker; NULL: 200 bytes of its own */
    uint64_t window;           /* requests under way at a time */
    bool lenient;              /* of asker: what is refused is no fault, and no request waits for others */
    bool live;                 /* every message is sent at once, and there is no marker */
};

/* Parse --name value pairs; a name that is not known ends the program. */
void args_parse(struct args *a, int argc, char **argv);
void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

struct slot {
    PGconn *conn;
    char *frame;         /* libpq's */
    const uint8_t *data; /* the pgoutput message in it */
    size_t len;
};

void slot_open(struct slot *s, const struct args *a);
/* Wait for the next pgoutput message; keepalives are answered, and nothing is ever confirmed. */
void slot_next(struct slot *s);
void slot_close(struct slot *s);

uint16_t get_u16(const uint8_t *p);
uint32_t get_u32(const uint8_t *p);
uint64_t get_u64(const uint8_t *p);

/* True for an insert of the marker's row: one comparison at a place that only depends on the protocol. */
bool is_marker(const struct slot *s);

/* Microseconds of CPU that the process has used; 0 when it is gone. */
uint64_t process_cpu_us(int pid);
/* Print the line, then wait for the end of standard input. sender: process id of the walsender. */
void report(uint64_t rows, int64_t end_ns, int sender);

#endif
