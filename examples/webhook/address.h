/*
 * webhook/address.h - where a request may go: not into the operator's own network by a name that resolves into it.
 */
#ifndef WEBHOOK_ADDRESS_H
#define WEBHOOK_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

/* False for loopback, private, link-local, shared, documentation, multicast and reserved addresses, and for all that is no IP. */
bool address_is_public(const struct sockaddr *address);

#endif
