/*
 * core/dispatch.h - from a subject to the plugin's function: subscriptions, requests and answers.
 *
 * Shape    One subscription R.*.rpc.*.> in the queue group "muster" takes the requests of all services; a trie of patterns finds
 *          whose a request is. Every other subscription is NATS's own. On the library's thread a message is checked, charged to its
 *          tenant and put on the inbox (core/inbox.h) of its instance; nothing else happens there. What comes of a tenant that is
 *          not known, or under a name that is not, waits until the database has been asked (core/arrivals.h), and goes on from the core
 *          lane. Who may send, and ask for what, tells core/admission.h.
 * Answers  A request has a handle until it is answered, once. Answers go only to the sender's own box (INTERFACE 2): any other
 *          reply subject could reach another tenant, a stream or JetStream's API.
 * Threads  Taking runs on threads of the NATS library; answering on any; subscribing on the instance's lane.
 */
#ifndef MUSTER_CORE_DISPATCH_H
#define MUSTER_CORE_DISPATCH_H

#include <muster/plugin.h>

#include "core/inbox.h"

struct broker;
struct credentials;
struct dispatch;

int dispatch_new(struct broker *broker, struct dispatch **ret_dispatch);
/* Begin and end what it does on the core lane; there. After the registry has been closed, nothing waits for a tenant any more. */
int dispatch_open(struct dispatch *d);
void dispatch_close(struct dispatch *d);
/* Take requests from now on. */
int dispatch_start(struct dispatch *d);
/* Take no more; answers still go out. */
void dispatch_stop(struct dispatch *d);
void dispatch_free(struct dispatch *d);
/* The names that are known here. */
struct credentials *dispatch_credentials(struct dispatch *d);
/* Requests that were taken and not yet answered. */
size_t dispatch_open_requests(struct dispatch *d);

int dispatch_subscribe(struct dispatch *d, struct instance *in, const struct muster_subscription *sub, uint64_t *ret_id);
void dispatch_unsubscribe(struct dispatch *d, struct instance *in, uint64_t id);
/* Forget every subscription of an instance that ends; its lane still runs. */
void dispatch_forget(struct dispatch *d, struct instance *in);
/* Count a message that is given up, in muster_refused_total. */
void dispatch_count_refused(struct dispatch *d, const char *reason);
/* Call the plugin with a message, and answer for it where it did not. arg: the instance. On its lane; takes the delivery. */
void dispatch_deliver(void *arg, struct delivery *delivery);

/* Answer a request with a body in its own encoding. MUSTER_ENOTFOUND: there is no such request, or it was answered. MUSTER_EINVAL: the
 * body is larger than any may be; the request is still open. */
int dispatch_reply(struct dispatch *d, uint64_t request, struct muster_bytes payload);
/* As bus->reply_error(), with ERROR_*. */
int dispatch_reply_error(struct dispatch *d, uint64_t request, int code, const char *field, const char *message);
/* Keep what the request of a delivery is about until it is answered. */
void dispatch_note_object(struct delivery *delivery);
/* Answer for a delivery that no function will see, where somebody waits. */
void dispatch_refuse(struct delivery *delivery, int code, const char *message);
void dispatch_refuse_field(struct delivery *delivery, int code, const char *field, const char *message);
/* The plugin is through with a message and nobody has answered: `internal`, or nothing where every broker has heard it, because another
 * one's plugin answers. */
void dispatch_unanswered(struct delivery *delivery);

#endif
