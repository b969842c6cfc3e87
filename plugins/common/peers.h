/*
 * common/peers.h - what a plugin says of a stream for whose replicas the NATS cluster has too few servers: muster.stream's open() gave
 * MUSTER_EAGAIN. `muster doctor` has the same code.
 */
#ifndef MUSTER_PLUGINS_COMMON_PEERS_H
#define MUSTER_PLUGINS_COMMON_PEERS_H

#define PEERS_FEW "peers_few"
/* Of the stream's name and its replicas, a long long. */
#define PEERS_FEW_TEXT                                                                                                             \
    "the stream %s with %lld replicas is refused: too few servers of the NATS cluster can have a copy; `muster doctor` says which are missing: " \
    "start them, or lower `replicas`. It is tried again"

#endif
