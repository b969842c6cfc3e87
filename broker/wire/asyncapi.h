/*
 * wire/asyncapi.h - definitions of bodies as an AsyncAPI 3.0 document, in YAML.
 *
 * The document describes the broker's side: it receives requests and answers them, and it sends events and other messages. Types of
 * one service are told apart from another's by its name. Any thread.
 */
#ifndef MUSTER_WIRE_ASYNCAPI_H
#define MUSTER_WIRE_ASYNCAPI_H

#include <stddef.h>

#include "base/buf.h"
#include "wire/schema.h"

/* comment: the first line. schema_core() has to be named like any other, or references to its types lead nowhere. */
void asyncapi_put(struct buf *out, const struct schema *const *schemas, size_t n, const char *comment);

#endif
