/*
 * core/guard.h - which streams let agents forge: those that capture what agents publish and
 * acknowledge it, because the acknowledgement goes to a reply subject of the agent's choice with
 * the server's rights (INTERFACE 2.1). Any thread.
 */
#ifndef MUSTER_CORE_GUARD_H
#define MUSTER_CORE_GUARD_H

#include <stdbool.h>
#include <stddef.h>

struct js_listed;

/* True when the stream must not be; why gets the sentence. */
bool guard_refuses(const char *root, const struct js_listed *stream, char *why, size_t size);

#endif
