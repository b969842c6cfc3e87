/*
 * fanout/emit.h - pieces of a body, put together by hand where parts of it are copied as they stand. Nothing is checked.
 * The number of entries or elements is told in front; JSON needs it not. Threads: none, one owner of the buffer.
 */
#ifndef MUSTER_FANOUT_EMIT_H
#define MUSTER_FANOUT_EMIT_H

#include <muster/plugin.h>
#include <stdbool.h>

#include "base/buf.h"
#include "fanout/scan.h"

void emit_map(struct buf *b, uint32_t encoding, size_t n);
void emit_map_end(struct buf *b, uint32_t encoding);
void emit_list(struct buf *b, uint32_t encoding, size_t n); /* the caller puts the commas of JSON */
void emit_list_end(struct buf *b, uint32_t encoding);
/* A key of a map, with what stands in front of and behind it. */
void emit_key(struct buf *b, uint32_t encoding, const char *key, bool first);
/* What is not UTF-8 is mended. */
void emit_text(struct buf *b, uint32_t encoding, const char *s);
void emit_number(struct buf *b, uint32_t encoding, uint64_t v);
/* {"base64": …} in JSON. */
void emit_bytes(struct buf *b, uint32_t encoding, struct span body);

#endif
