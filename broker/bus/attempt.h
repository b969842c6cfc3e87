/*
 * bus/attempt.h - somebody's connection with which things are tried that a server should refuse: what `muster doctor` sees of the wall.
 *
 * Shape    One step at a time: each call waits for the server's word. The library must be open (bus_open()), and the connection closed
 *          before it is.
 * Errors   MUSTER_EACCES: refused, which is what most are tried for. MUSTER_ELINK: the connection is gone. MUSTER_ETIME: no answer.
 * Threads  One.
 */
#ifndef MUSTER_BUS_ATTEMPT_H
#define MUSTER_BUS_ATTEMPT_H

#include "base/buf.h"
#include "bus/bus.h"

enum { ATTEMPT_SIG_LEN = 64 };

/* A user by JWT; sign() signs the server's challenge with the user's key. Both are borrowed until attempt_close(). */
struct attempt_login {
    const char *jwt;
    int (*sign)(const void *arg, const void *data, size_t len, uint8_t ret_sig[ATTEMPT_SIG_LEN]);
    const void *arg;
};

struct attempt;
/* Connect; of the options the servers, the name and the certificates are used. MUSTER_EACCES: the login is refused. */
int attempt_open(const struct bus_options *options, const struct attempt_login *login, struct attempt **ret_attempt, char why[BUS_WHY_SIZE]);
void attempt_close(struct attempt *a); /* accepts NULL */

/* 0: let through. */
int attempt_publish(struct attempt *a, const struct bus_out *out);
int attempt_subscribe(struct attempt *a, const char *subject, const char *queue);
/* Ask and append the answer, which comes to the subject out->reply. */
int attempt_ask(struct attempt *a, const struct bus_out *out, int timeout_ms, struct buf *answer);

#endif
