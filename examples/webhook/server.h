/*
 * webhook/server.h - an HTTP server for the tests: a process that answers POST requests as it is told and keeps what it heard in memory
 * that both see. A process, because the test host counts threads and descriptors.
 */
#ifndef WEBHOOK_SERVER_H
#define WEBHOOK_SERVER_H

#include <stdbool.h>
#include <stddef.h>

enum { SERVER_HANG = -1, SERVER_CLOSE = -2 }; /* instead of a status: answer never, or cut the connection */

struct server_request {
    char id[64], timestamp[24], signature[128], body[2048];
    size_t len;
};

struct server;

/* Gives the status of the n-th request, from 0, and may set a header ("Retry-After: 3"). Runs in the server's process. */
typedef int (*server_answer_fn)(size_t n, const char **ret_header);

/* answer NULL: what server_says() has set. Ends the test program when it cannot be started. */
struct server *server_start(server_answer_fn answer);
void server_says(struct server *s, int status);
int server_port(const struct server *s);
size_t server_n(struct server *s);
/* A copy of the n-th request; false: there is none. */
bool server_request(struct server *s, size_t n, struct server_request *ret);
/* How many requests were open at once. */
size_t server_most(struct server *s);
void server_stop(struct server *s);

#endif
