/*
 * config/scalar.h - the written forms of numbers: int, float, duration, bytes; pure functions.
 *
 * Strict on purpose: no underscores, no sign '+', no hexadecimal, no leading 0 (octal to some readers),
 * one unit, no blanks. A number too large for its type is held at the type's end and *ret_over is true, so
 * that the caller can name its own bound.
 */
#ifndef MUSTER_CONFIG_SCALAR_H
#define MUSTER_CONFIG_SCALAR_H

#include <stdbool.h>
#include <stdint.h>

bool scalar_int(const char *text, int64_t *ret_value, bool *ret_over);
bool scalar_float(const char *text, double *ret_value);
/* 250ms, 5s, 2m, 1h, 7d, in nanoseconds. */
bool scalar_duration(const char *text, int64_t *ret_ns, bool *ret_over);
/* 64KiB, 8MiB, 1GiB or a plain number. */
bool scalar_bytes(const char *text, int64_t *ret_bytes, bool *ret_over);

/* The same forms written, with the largest unit that fits without a rest. Return out. */
enum { SCALAR_TEXT_SIZE = 40 };
const char *scalar_put_int(int64_t value, char out[SCALAR_TEXT_SIZE]);
const char *scalar_put_float(double value, char out[SCALAR_TEXT_SIZE]);
const char *scalar_put_duration(int64_t ns, char out[SCALAR_TEXT_SIZE]);
const char *scalar_put_bytes(int64_t bytes, char out[SCALAR_TEXT_SIZE]);

#endif
