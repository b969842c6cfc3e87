/*
 * core/links.h - the broker's links to NATS: the bus, its logins, and who is told when a link comes or goes. Private to core/.
 *
 * Owns     The bus, the passwords read for it, and the health of bulk and live.
 * Threads  The bus calls on threads of the NATS library; [lane] the core lane; [main] the thread that starts and ends the broker;
 *          [any] any thread.
 * Lock     One, so that what is told last is how it is: over what is told to health and to the instances, whose lanes are pushed to
 *          while it is held.
 */
#ifndef MUSTER_CORE_LINKS_H
#define MUSTER_CORE_LINKS_H

#include <stdbool.h>

struct broker;
struct bus;
struct instance;
struct links;

/* [main] */
int links_new(struct broker *broker, struct links **ret_links);
int links_open(struct links *l);
/* Tell the instances and health nothing more: the instances are being ended. */
void links_silence(struct links *l);
void links_close(struct links *l); /* the bus; accepts NULL, as the next one does */
void links_free(struct links *l);

struct bus *links_bus(const struct links *l); /* NULL before links_open() [any] */
/* Bulk and live are there: what plugins hear of as NATS. [any] */
bool links_are_up(const struct links *l);
/* An outbox that has been four fifths full is not half free again. [any] */
bool links_are_pressed(const struct links *l);
/* Call tell() for each instance, until links_silence(). [any] */
void links_tell(struct links *l, void (*tell)(struct instance *in));
/* Once all that the broker listens to has reached the server, registry_heard() follows. Fails when the link is away. [any] */
int links_tell_when_heard(struct links *l);

#endif
