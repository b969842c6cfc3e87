/*
 * base/certificate.h - when the certificates of a PEM file end. Reads the file; any thread.
 */
#ifndef MUSTER_BASE_CERTIFICATE_H
#define MUSTER_BASE_CERTIFICATE_H

#include <stdint.h>

/* Before this much is left nobody is warned. */
#define CERTIFICATE_WARN_NS (INT64_C(14) * 86400 * 1000000000)

enum { CERTIFICATE_WHY_SIZE = 256 };

/* A chain ends with the first of its certificates; a file of those to be trusted, in which old and new ones stand beside each other,
 * with the last. */
enum { CERTIFICATE_CHAIN, CERTIFICATE_TRUST };

/* *ret_ends_ns: on the wall clock. MUSTER_EINVAL: it cannot be read, or there is no certificate in it; why says which. */
int certificate_ends(const char *path, int kind, int64_t *ret_ends_ns, char why[CERTIFICATE_WHY_SIZE]);

/* What is to be said of a certificate that ends then, "ends in 3 days" for instance. */
void certificate_say(int64_t ends_ns, int64_t now_ns, char out[CERTIFICATE_WHY_SIZE]);

#endif
