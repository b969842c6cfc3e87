/*
 * core/host.h - makes the struct muster_host of an instance. Private to core/.
 */
#ifndef MUSTER_CORE_HOST_H
#define MUSTER_CORE_HOST_H

#include <stdint.h>

struct instance;

void host_init(struct instance *in, uint32_t lane, uint32_t n_lanes);

#endif
