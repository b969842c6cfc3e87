/*
 * base/clock.h - monotonic and wall time in nanoseconds, RFC 3339, UUIDv7. Any thread.
 */
#ifndef MUSTER_BASE_CLOCK_H
#define MUSTER_BASE_CLOCK_H

#include <stdint.h>

#define CLOCK_MS INT64_C(1000000)
#define CLOCK_S INT64_C(1000000000)

int64_t clock_now_ns(void);  /* monotonic: for every timeout and interval */
int64_t clock_boot_ns(void); /* monotonic, and goes on while the machine sleeps: for what others count on meanwhile */
int64_t clock_wall_ns(void); /* since 1970-01-01 UTC: for what people read */

#define CLOCK_RFC3339_SIZE 28
/* Write wall_ns as 2026-01-31T23:59:59.123456Z (UTC, microseconds). Years 0000 to 9999. */
void clock_rfc3339(int64_t wall_ns, char out[CLOCK_RFC3339_SIZE]);

/* Read "2026-01-31T23:59:59.123456789Z": wall nanoseconds, 0 when it is no such time or none that they can hold. */
int64_t clock_parse_rfc3339(const char *s);

#define CLOCK_UUID_SIZE 37
/* 64 bits that nobody can guess. */
uint64_t clock_random(void);
/* Write a UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits. */
void clock_uuid7(char out[CLOCK_UUID_SIZE]);

#endif
