/*
 * core/streams.h - the streams of INTERFACE 2.1 that no plugin owns: AUDIT, MSG_<T>; and the guard over all.
 *
 * Guard    A stream that captures what agents publish must have no_ack: otherwise an agent's reply subject makes the stream's
 *          acknowledgement a message of the account, with which it can purge streams and forge. Such a stream ends the broker at its start,
 *          by name; later it makes it not ready.
 * Threads  All on the core lane. Checked when NATS comes up, when tenants change, and once a minute; after a check that failed 1 s later, then
 *          2, 4, …
 */
#ifndef MUSTER_CORE_STREAMS_H
#define MUSTER_CORE_STREAMS_H

#include <stdbool.h>

struct broker;
struct streams;

/* on_danger gets the sentence that ends the broker. */
int streams_new(struct broker *broker, void (*on_danger)(void *arg, const char *why), void *arg, struct streams **ret_streams);
/* Check now and from time to time. */
void streams_start(struct streams *streams);
/* Check now, as soon as a check that is under way has ended. */
void streams_check(struct streams *streams);
/* After streams_start(). Begin nothing more; what is under way ends. */
void streams_close(struct streams *s);
void streams_free(struct streams *streams);

#endif
