/*
 * core/instances.h - all instances of the plugins that the configuration names: loading, start, drain and end. Private to core/.
 *
 * Owns     The list and the instances (core/instance.h) in it.
 * Threads  The main thread, where not said otherwise; the list is fixed once instances_load() has returned.
 */
#ifndef MUSTER_CORE_INSTANCES_H
#define MUSTER_CORE_INSTANCES_H

#include <stddef.h>
#include <stdint.h>

struct broker;
struct instance;
struct instances;

int instances_new(struct broker *broker, struct instances **ret_instances);
/* Fails for a plugin that is required; what went wrong has been told. */
int instances_load(struct instances *is);
int instances_start(struct instances *is);
void instances_drain(struct instances *is, int64_t deadline_ns);
/* Each may take that long. MUSTER_ETIME: one hangs, which has been told. */
int instances_end(struct instances *is, int64_t each_ns);
/* Free each instance, while the links are still there; and the list, once nobody is told any more. Both accept NULL. */
void instances_clear(struct instances *is);
void instances_free(struct instances *is);

/* Any thread, until instances_free(). */
struct instance *const *instances_list(const struct instances *is, size_t *ret_n);

#endif
