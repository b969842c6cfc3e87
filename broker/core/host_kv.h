/*
 * core/host_kv.h - the two parts of muster.kv/1: the calls (host_kv.c), and who clears away what they leave (host_kv_sweep.c). Lane only.
 * Private to core/.
 */
#ifndef MUSTER_CORE_HOST_KV_H
#define MUSTER_CORE_HOST_KV_H

#include "bus/js.h"
#include "core/instance.h"

enum { KV_SUBJECT_SIZE = 400 };

struct kv_bucket {
    char stream[96]; /* "KV_muster_cdc" */
    char prefix[96]; /* "$KV.muster_cdc." */
};
/* tenants: the bucket of what belongs to them. */
void host_kv_bucket(const struct instance *in, bool tenants, struct kv_bucket *out);
/* When the entry expires, by wall clocks; 0: never. */
int64_t host_kv_expires(const struct js_msg *msg);
/* True for what a delete has left. */
bool host_kv_is_marker(const struct js_msg *msg);

/* This instance has just written what is rubbish some day. */
void host_kv_swept_later(struct instance *in, bool tenants);

#endif
