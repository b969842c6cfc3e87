/*
 * bus/tls.h - the certificates of the configuration, as the library reads them; private to bus/.
 */
#ifndef MUSTER_BUS_TLS_H
#define MUSTER_BUS_TLS_H

#include <nats/nats.h>

#include "bus/bus.h"

/* Read the files into opts. On failure *ret_key is the configuration's key of the one that cannot be used. */
natsStatus tls_load(natsOptions *opts, const struct bus_options *o, const char **ret_key);

#endif
