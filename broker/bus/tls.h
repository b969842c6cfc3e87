/*
 * bus/tls.h - the certificates of the configuration, as the library reads them; private to bus/.
 */
#ifndef MUSTER_BUS_TLS_H
#define MUSTER_BUS_TLS_H

#include <nats/nats.h>

#include "base/stamp.h"
#include "bus/bus.h"

/* Which state of the files the options were made of. */
struct tls_stamps {
    struct stamp ca, cert, key;
};
struct tls_stamps tls_stamps(const struct bus_options *options);

/* Read the files into opts. On failure *ret_key is the configuration's key of the one that cannot be used. */
natsStatus tls_load(natsOptions *opts, const struct bus_options *o, const char **ret_key);

#endif
