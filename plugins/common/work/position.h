/*
 * common/work/position.h - where the events of a service are: what was told up to there can be read in the database.
 */
#ifndef MUSTER_COMMON_WORK_POSITION_H
#define MUSTER_COMMON_WORK_POSITION_H

#include "common/work/work.h"

/* epoch and seq as the events carry them; 0 and 0 where none is kept. code: 0 or MUSTER_E*. [lane] */
typedef void (*position_fn)(void *arg, int code, uint64_t epoch, uint64_t seq);

/* 0: fn runs exactly once. */
int position_read(struct work *w, const struct muster_tenant *tenant, position_fn fn, void *arg);

#endif
