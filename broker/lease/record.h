/*
 * lease/record.h - how a lease's record is written into its bucket: JSON, for people and for contenders of other versions. Any thread.
 */
#ifndef MUSTER_LEASE_RECORD_H
#define MUSTER_LEASE_RECORD_H

#include <muster/plugin.h>

#include "base/buf.h"
#include "lease/lease.h"

#define LEASE_RECORD_HELD "\"held\":true" /* what the record of every lease that is held has in it */

/* {"epoch":12,"held":true,"ttl_ms":15000,"broker":"b1","holder":"…","at":[{"server":"N…","client":12},…]}; broker says who it is, for people only. */
void lease_record_write(const struct lease_record *record, const char *broker, struct buf *out);
/* Read what stands in the bucket; revision is left alone. MUSTER_EINVAL: it is no record. */
int lease_record_read(struct muster_bytes data, struct lease_record *record);

#endif
