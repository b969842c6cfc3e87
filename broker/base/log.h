/*
 * base/log.h - the broker's log: one line an event on stderr, text or JSON.
 *
 * Threads  Any. A line is written with one write(2), so lines of threads never mix.
 * Text     What is not UTF-8 becomes U+FFFD; in the text form control characters become blanks.
 * Rate     Each call site (area and format string) may write 20 lines in ten seconds; what is over
 *          is counted and told by the next line of that site that passes ("suppressed": n). Errors
 *          count too: a fault that repeats must not hide the others.
 * Secrets  Never pass one. URLs go through log_url() first.
 */
#ifndef MUSTER_BASE_LOG_H
#define MUSTER_BASE_LOG_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

enum { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG }; /* as MUSTER_LOG_* in plugin.h */

/* Set form and level. Before it: text, info. Call at start or on reload. */
void log_setup(bool json, int level);
/* Hand lines to fn instead of stderr, after the limit: where another process writes them. Text is UTF-8, on several lines where it was.
 * fn may be called on any thread; NULL: stderr again. Not while others log. */
typedef void (*log_sink_fn)(void *arg, int level, const char *area, const char *text, unsigned int held);
void log_to(log_sink_fn fn, void *arg);
/* True when a line of this level would be written; to skip costly arguments. */
bool log_wants(int level);
/* Write a line. area names who speaks ("bus", "cdc.main"); it may not be NULL. level is one of the
 * above, asserted: check a plugin's before passing it on. */
void log_line(int level, const char *area, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void log_vline(int level, const char *area, const char *fmt, va_list ap);
/* Write a line of level info that is never held back: a record that has to be there. Whoever writes it bounds them. */
void log_record(const char *area, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* How many lines of this level were written or held back since the start; for the metrics. */
uint64_t log_count(int level);
/* Copy url to out without user information and query ("nats://u:p@h" gives "nats://h"); of libpq's
 * "key=value" form nothing is shown. Returns out. */
const char *log_url(const char *url, char *out, unsigned long size);

#define log_error(area, ...) log_line(LOG_ERROR, area, __VA_ARGS__)
#define log_warn(area, ...) log_line(LOG_WARN, area, __VA_ARGS__)
#define log_info(area, ...) log_line(LOG_INFO, area, __VA_ARGS__)
#define log_debug(area, ...) log_line(LOG_DEBUG, area, __VA_ARGS__)

#endif
