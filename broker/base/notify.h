/*
 * base/notify.h - tells the service manager how the broker is: systemd's notification protocol,
 * spoken over its socket without libsystemd.
 *
 * Errors   Every call returns true when the message was sent and also when nobody asked
 *          (NOTIFY_SOCKET is not set), false with errno when the socket could not be reached; the
 *          caller says so once.
 * Threads  Any, as long as nobody changes the environment meanwhile.
 */
#ifndef MUSTER_BASE_NOTIFY_H
#define MUSTER_BASE_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

bool notify_ready(void);
/* A reload begins; notify_ready() ends it. Sends the monotonic time that Type=notify-reload wants.
 * */
bool notify_reloading(void);
bool notify_stopping(void);
/* One line for `systemctl status`; line breaks become blanks; cut at 512 bytes or where it is not
 * UTF-8. */
bool notify_status(const char *text);
/* The sign of life; due at least once in notify_watchdog_ns(). */
bool notify_watchdog(void);
/* The period after which the manager gives the broker up, from WATCHDOG_USEC; 0: it does not watch
 * this process. */
int64_t notify_watchdog_ns(void);

#endif
