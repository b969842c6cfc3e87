/*
 * fanout/moment.h - points in time as PostgreSQL and RFC 3339 write them, in microseconds since 1970; dates, which
 * go far beyond what that can count, in days. "infinity" and "-infinity" are INT64_MAX and INT64_MIN. No state; any thread.
 */
#ifndef MUSTER_FANOUT_MOMENT_H
#define MUSTER_FANOUT_MOMENT_H

#include "fanout/scan.h"

/* A date, a T or a blank, and a time of day; with a zone (Z, +02, +02:00) or without one, as `zoned` says; " BC" may follow. */
bool moment_timestamp(struct span s, bool zoned, int64_t *ret_us);
bool moment_date(struct span s, int64_t *ret_days);
/* hh:mm[:ss[.ffffff]], from midnight to 24:00:00. */
bool moment_of_day(struct span s, int64_t *ret_us);

#endif
