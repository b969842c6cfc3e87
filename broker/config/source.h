/*
 * config/source.h - the bytes of a configuration: reading the file, and the characters that may stand in it.
 */
#ifndef MUSTER_CONFIG_SOURCE_H
#define MUSTER_CONFIG_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "config/report.h"

/* Read the tree's file, at most CONFIG_MAX_BYTES. */
int source_read(const struct config_scope *s, struct buf *ret_text);

/* Where a text stops being fit to be read, and why. */
struct source_fault {
    uint32_t line, column; /* from 1; a column is a character */
    const char *why;
};
/* True when data is UTF-8 without tabs, control characters and unusual line ends; otherwise *ret_fault says
 * where not. */
bool source_check(const char *data, size_t len, struct source_fault *ret_fault);
/* Decode the character at s, which is valid UTF-8. Returns its length in bytes. */
size_t source_char(const char *s, uint32_t *ret_code);

#endif
