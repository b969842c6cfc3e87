/*
 * bench/connect.h - a connection to NATS, tried again: libnats before 3.9 leaves out a signature that begins with a NUL byte, so that
 * one login in 256 with good credentials is refused (its change #705).
 */
#ifndef MUSTER_BENCH_CONNECT_H
#define MUSTER_BENCH_CONNECT_H

#include <nats/nats.h>

static inline natsStatus bench_connect(natsConnection **ret_nc, natsOptions *opts)
{
    natsStatus s = NATS_OK;

    for (int i = 0; i < 3; i++) {
        s = natsConnection_Connect(ret_nc, opts);
        if (s == NATS_OK)
            break;
    }
    return s;
}

#endif
