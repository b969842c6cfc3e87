/*
 * cli/session.h - a command's connection to NATS, with the credentials of the configuration.
 *
 * Shape    One bus (bus/bus.h) and one lane for its completions. The library behind the bus is one
 *          a process: a session is closed before the next is opened.
 * Errors   CLI_DONE or CLI_FAILED with the sentence in why; nothing is printed.
 * Threads  The owner's, but for on_link and the completions of the lane; both have ended when
 *          session_close() returns.
 * Memory   session_close() accepts NULL. The configuration is borrowed until then.
 */
#ifndef MUSTER_CLI_SESSION_H
#define MUSTER_CLI_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "bus/bus.h"

struct config;
struct session;

enum { SESSION_WHY_SIZE = 512 };
enum { SESSION_BROKER, SESSION_SYSTEM }; /* whose credentials */

struct session_options {
    const struct config *config;
    const char *name; /* of the command; the server shows it among its connections */
    int who;          /* SESSION_... */
    const char *answers; /* of struct bus_options, borrowed until session_close(); NULL: none */
    void (*on_link)(void *arg, bool up,
                    const char *reason); /* of BUS_LIVE, on its thread; may be NULL */
    void *arg;
};

/* Begin to connect. */
int session_open(const struct session_options *options, struct session **ret_session,
                 char why[SESSION_WHY_SIZE]);
/* Wait until connected, or until the first attempt has failed, or for timeout_ns. */
int session_wait(struct session *s, int64_t timeout_ns, char why[SESSION_WHY_SIZE]);
struct bus *session_bus(const struct session *s);
struct lane *session_lane(const struct session *s);
void session_close(struct session *s);

#endif
