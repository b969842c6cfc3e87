/*
 * base/crypto.h - OpenSSL in this process, which several libraries share.
 *
 * Threads  Before any other.
 */
#ifndef MUSTER_BASE_CRYPTO_H
#define MUSTER_BASE_CRYPTO_H

/* OpenSSL is not taken down at the end of the process. First of all in main(): libnats takes down a part of it too, and whoever comes second
 * frees it again. */
void crypto_keep(void);

#endif
