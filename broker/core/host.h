/*
 * core/host.h - makes the struct muster_host of an instance; and the calls of it that a child has in common with the broker.
 */
#ifndef MUSTER_CORE_HOST_H
#define MUSTER_CORE_HOST_H

#include <muster/plugin.h>
#include <stddef.h>
#include <stdint.h>

struct instance;

struct host_service {
    const char *id;
    const void *table;
    const char *capability; /* that the descriptor must list; NULL: none */
};

void host_init(struct instance *in, uint32_t lane, uint32_t n_lanes);

/* Members of struct muster_host; service() over a list. */
void host_log(const struct muster_host *host, int level, const char *fmt, ...) MUSTER_PRINTF(3, 4);
int host_fail(const struct muster_host *host, int code, const char *fmt, ...) MUSTER_PRINTF(3, 4);
int host_post(const struct muster_host *host, void (*fn)(void *arg), void *arg);
int host_find_service(const struct muster_host *host, const struct host_service *list, size_t n, const char *id,
                      const void **ret_table);

#endif
